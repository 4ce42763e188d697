/* The short way from Python into the client core, for what a real-time program does in each of its
 * rounds: submit, take the completion. Everything else goes by cffi, which costs a few times what
 * the core itself needs for such a call: it packs and unpacks arguments, lets go of the interpreter
 * lock and takes it again, whether or not the call can wait.
 *
 * Here the lock is kept over what lasts as long as that would: a submission to a stack that is
 * awake, and the first look for a completion (pf_glance). Nothing waits for the interpreter's lock
 * while it holds the core's, so the one may be waited for with the other. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>
#include <sys/stat.h>

#include "client/client_api.h"
#include "shm/atomics.h"

/* What is copied without letting go of any lock. */
#define SMALL_BYTES 4096

/* ---- a completion ---- */

struct done {
    PyObject ob_base;
    PyObject *sock;
    struct pf_done done;
};

/* What a completion is to Python: made of `Done`. */
static PyTypeObject *completion_type;

static int done_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(((struct done *)self)->sock);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int done_clear(PyObject *self) {
    Py_CLEAR(((struct done *)self)->sock);
    return 0;
}

static void done_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)done_clear(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *done_raw(PyObject *self, void *closure) {
    (void)closure;
    return PyBytes_FromStringAndSize((const char *)&((struct done *)self)->done,
                                     sizeof(struct pf_done));
}

static int done_set_raw(PyObject *self, PyObject *value, void *closure) {
    char *bytes;
    Py_ssize_t size;
    (void)closure;
    if (!value) {
        PyErr_SetString(PyExc_TypeError, "it cannot be deleted");
        return -1;
    }
    if (PyBytes_AsStringAndSize(value, &bytes, &size) < 0) {
        return -1;
    }
    if (size != sizeof(struct pf_done)) {
        PyErr_SetString(PyExc_ValueError, "not the bytes of a struct pf_done");
        return -1;
    }
    memcpy(&((struct done *)self)->done, bytes, sizeof(struct pf_done));
    return 0;
}

#define DONE_AT(field) ((Py_ssize_t)(offsetof(struct done, done) + offsetof(struct pf_done, field)))

static PyMemberDef done_members[] = {
    {"_sock", T_OBJECT_EX, offsetof(struct done, sock), 0, NULL},
    {"_op", T_ULONGLONG, DONE_AT(op_id), READONLY, NULL},
    {"_result", T_INT, DONE_AT(result), READONLY, NULL},
    {"_opcode", T_UBYTE, DONE_AT(opcode), READONLY, NULL},
    {"_flags", T_UBYTE, DONE_AT(flags), READONLY, NULL},
    {"_token", T_ULONGLONG, DONE_AT(token), READONLY, NULL},
    {"_submitted_ns", T_ULONGLONG, DONE_AT(submitted_ns), READONLY, NULL},
    {"_picked_ns", T_ULONGLONG, DONE_AT(picked_ns), READONLY, NULL},
    {"_completed_ns", T_ULONGLONG, DONE_AT(completed_ns), READONLY, NULL},
    {"_reaped_ns", T_ULONGLONG, DONE_AT(reaped_ns), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef done_fields[] = {
    {"_raw", done_raw, done_set_raw, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot done_slots[] = {
    {Py_tp_dealloc, done_dealloc}, {Py_tp_traverse, done_traverse}, {Py_tp_clear, done_clear},
    {Py_tp_members, done_members}, {Py_tp_getset, done_fields},     {0, NULL},
};

static PyType_Spec done_spec = {
    .name = "pifus._core._lane.Done",
    .basicsize = sizeof(struct done),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = done_slots,
};

static PyObject *completion(PyObject *sock, const struct pf_done *done) {
    struct done *self = (struct done *)PyType_GenericAlloc(completion_type, 0);
    if (self) {
        Py_INCREF(sock);
        self->sock = sock;
        self->done = *done;
    }
    return (PyObject *)self;
}

/* ---- a socket ---- */

struct lane {
    PyObject ob_base;
    PyObject *handle;         /* keeps what `client` points to */
    struct pf_client *client; /* NULL: the socket is closed */
    uint32_t slot;
    bool takes; /* completions are taken by `_take` and `_poll` */
};

/* For a call without the interpreter's lock, during which another thread may close the socket. */
static PyObject *keep(const struct lane *lane) {
    Py_INCREF(lane->handle);
    return lane->handle;
}

static int lane_clear(struct lane *lane) {
    lane->client = NULL;
    Py_CLEAR(lane->handle);
    return 0;
}

static void lane_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    (void)lane_clear((struct lane *)self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *lane_open(PyObject *self, PyObject *args) {
    struct lane *lane = (struct lane *)self;
    PyObject *handle;
    unsigned long long address;
    unsigned int slot;
    int takes;
    if (!PyArg_ParseTuple(args, "OKIp", &handle, &address, &slot, &takes)) {
        return NULL;
    }
    (void)lane_clear(lane);
    Py_INCREF(handle);
    lane->handle = handle;
    lane->slot = slot;
    lane->takes = takes;
    lane->client = (struct pf_client *)(uintptr_t)address;
    Py_RETURN_NONE;
}

static PyObject *lane_shut(PyObject *self, PyObject *unused) {
    (void)unused;
    (void)lane_clear((struct lane *)self);
    Py_RETURN_NONE;
}

static PyObject *lane_nop(PyObject *self, PyObject *unused) {
    struct lane *lane = (struct lane *)self;
    struct pf_client *client = lane->client;
    int64_t op;
    (void)unused;
    if (!client) {
        return PyLong_FromLong(-EBADF);
    }
    if (pf_load_relaxed(&pf_client_public(client)->sleeping)) {
        PyObject *handle = keep(lane);
        uint32_t slot = lane->slot;
        PyThreadState *state = PyEval_SaveThread();
        op = pf_nop(client, slot); /* it will ring */
        PyEval_RestoreThread(state);
        Py_DECREF(handle);
    } else {
        op = pf_nop(client, lane->slot);
    }
    return PyLong_FromLongLong(op);
}

/* The completion, or what pf_poll says. */
static PyObject *lane_poll(PyObject *self, PyObject *unused) {
    struct lane *lane = (struct lane *)self;
    struct pf_done done;
    (void)unused;
    if (!lane->client || !lane->takes) {
        return PyLong_FromLong(-EBADF);
    }
    int got = pf_poll(lane->client, lane->slot, &done);
    return got == 1 ? completion(self, &done) : PyLong_FromLong(got);
}

/* The completion, or what pf_wait says. */
static PyObject *lane_take(PyObject *self, PyObject *timeout) {
    struct lane *lane = (struct lane *)self;
    struct pf_client *client = lane->client;
    struct pf_done done;
    long long timeout_ns = PyLong_AsLongLong(timeout);
    if (timeout_ns == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (!client || !lane->takes) {
        return PyLong_FromLong(-EBADF);
    }
    int got = timeout_ns ? pf_glance(client, lane->slot, &done) : 0;
    if (got == 0) {
        PyObject *handle = keep(lane);
        uint32_t slot = lane->slot;
        PyThreadState *state = PyEval_SaveThread();
        got = pf_wait_on(client, slot, timeout_ns, &done);
        PyEval_RestoreThread(state);
        Py_DECREF(handle);
    }
    return got == 1 ? completion(self, &done) : PyLong_FromLong(got);
}

/* Takes so many received bytes, SMALL_BYTES at most; None: it has to be done the long way. */
static PyObject *lane_read(PyObject *self, PyObject *count) {
    struct lane *lane = (struct lane *)self;
    long wanted = PyLong_AsLong(count);
    if (wanted == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (!lane->client || wanted <= 0 || wanted > SMALL_BYTES) {
        Py_RETURN_NONE;
    }
    /* Made first: bytes that are taken and then find no memory would be lost. */
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, wanted);
    char *room = bytes ? PyBytes_AsString(bytes) : NULL;
    if (!room) {
        return NULL;
    }
    int64_t got = pf_rx_read(lane->client, lane->slot, room, (uint32_t)wanted, 0);
    if (got <= 0) {
        Py_DECREF(bytes);
        Py_RETURN_NONE;
    }
    if (got < wanted) {
        PyObject *fewer = PyBytes_FromStringAndSize(room, (Py_ssize_t)got);
        Py_DECREF(bytes);
        return fewer;
    }
    return bytes;
}

static PyMethodDef lane_methods[] = {
    {"_open", lane_open, METH_VARARGS, NULL},
    {"_shut", lane_shut, METH_NOARGS, NULL},
    {"_nop", lane_nop, METH_NOARGS, NULL},
    {"_poll", lane_poll, METH_NOARGS, NULL},
    {"_take", lane_take, METH_O, NULL},
    {"_read", lane_read, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lane_slots[] = {
    {Py_tp_dealloc, lane_dealloc},
    {Py_tp_methods, lane_methods},
    {0, NULL},
};

static PyType_Spec lane_spec = {
    .name = "pifus._core._lane.Lane",
    .basicsize = sizeof(struct lane),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = lane_slots,
};

/* ---- descriptors ---- */

/* (device, inode) of an open file: os.fstat makes a tuple of nineteen things, of which this is what
 * tells whether a number is still the same file. Asked for each socket that is made or closed. */
static PyObject *file_of(PyObject *module, PyObject *number) {
    struct stat status;
    long fd = PyLong_AsLong(number);
    (void)module;
    if (fd == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (fd < 0 || fd > INT_MAX || fstat((int)fd, &status) != 0) {
        errno = fd < 0 || fd > INT_MAX ? EBADF : errno;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return Py_BuildValue("KK", (unsigned long long)status.st_dev,
                         (unsigned long long)status.st_ino);
}

/* ---- the module ---- */

static PyObject *set_completion(PyObject *module, PyObject *type) {
    (void)module;
    PyObject *old = (PyObject *)completion_type;
    Py_INCREF(type);
    completion_type = (PyTypeObject *)type;
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"set_completion", set_completion, METH_O, NULL},
    {"file_of", file_of, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "pifus._core._lane",
                                        .m_size = -1, .m_methods = functions};

PyMODINIT_FUNC PyInit__lane(void) {
    PyObject *module = PyModule_Create(&definition);
    PyObject *done = PyType_FromSpec(&done_spec);
    PyObject *lane = PyType_FromSpec(&lane_spec);
    if (!module || !done || !lane || PyModule_AddObjectRef(module, "Done", done) < 0 ||
        PyModule_AddObjectRef(module, "Lane", lane) < 0) {
        Py_CLEAR(module);
    }
    Py_XDECREF(done);
    Py_XDECREF(lane);
    return module;
}
