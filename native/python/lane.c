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
#include <time.h>

#include "client/client_api.h"
#include "python/batch.h"
#include "shm/atomics.h"

/* What is copied without letting go of any lock. */
#define SMALL_BYTES 4096
/* 100 years. */
#define FOREVER_NS INT64_C(3153600000000000000)

/* ---- a completion ---- */

struct done {
    PyObject ob_base;
    PyObject *sock;
    PyObject *data; /* what was received; or NULL */
    bool rest;      /* something is left to do for it, in Python */
    struct pf_done done;
};

/* What a completion is to Python: made of `Done`. */
static PyTypeObject *completion_type;
/* One wait in the core lasts at most so long: see set_slice. */
static int64_t slice_ns;

static int done_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(((struct done *)self)->sock);
    Py_VISIT(((struct done *)self)->data);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int done_clear(PyObject *self) {
    Py_CLEAR(((struct done *)self)->sock);
    Py_CLEAR(((struct done *)self)->data);
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
    {"_data", T_OBJECT_EX, offsetof(struct done, data), 0, NULL},
    {"_rest", T_BOOL, offsetof(struct done, rest), READONLY, NULL},
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

/* ---- a socket ---- */

struct lane {
    PyObject ob_base;
    PyObject *handle;         /* keeps what `client` points to */
    struct pf_client *client; /* NULL: the socket is closed */
    uint32_t slot;
    bool takes; /* completions are taken by `_wait`, `_take` and `_poll` */
    bool stream;
    bool leases; /* a receive was submitted whose bytes stay in the ring */
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
    int stream;
    if (!PyArg_ParseTuple(args, "OKIpp", &handle, &address, &slot, &takes, &stream)) {
        return NULL;
    }
    (void)lane_clear(lane);
    Py_INCREF(handle);
    lane->handle = handle;
    lane->slot = slot;
    lane->takes = takes;
    lane->stream = stream;
    lane->client = (struct pf_client *)(uintptr_t)address;
    Py_RETURN_NONE;
}

static PyObject *lane_shut(PyObject *self, PyObject *unused) {
    (void)unused;
    (void)lane_clear((struct lane *)self);
    Py_RETURN_NONE;
}

/* ---- submitting ---- */

/* What is submitted: a NOP, a receive of so many bytes, or a write of these. */
struct submission {
    int opcode;
    uint32_t length;
    const char *bytes;
};

static int64_t submit_now(struct pf_client *client, uint32_t slot, const struct submission *what) {
    if (what->opcode == PF_OP_WRITE) {
        return pf_write(client, slot, what->bytes, what->length, PF_DELIVER_QUEUE);
    }
    return pf_submit(client, slot, what->opcode, 0, 0, 0, what->length, NULL, PF_DELIVER_QUEUE);
}

/* The number of the operation, or -errno. */
static PyObject *submit(struct lane *lane, const struct submission *what) {
    struct pf_client *client = lane->client;
    int64_t op;
    if (!client) {
        return PyLong_FromLong(-EBADF);
    }
    if (pf_load_relaxed(&pf_client_public(client)->sleeping)) {
        PyObject *handle = keep(lane);
        uint32_t slot = lane->slot;
        PyThreadState *state = PyEval_SaveThread();
        op = submit_now(client, slot, what); /* it may ring */
        PyEval_RestoreThread(state);
        Py_DECREF(handle);
    } else {
        op = submit_now(client, lane->slot, what);
    }
    return PyLong_FromLongLong(op);
}

static PyObject *lane_nop(PyObject *self, PyObject *unused) {
    struct submission nop = {.opcode = PF_OP_NOP};
    (void)unused;
    return submit((struct lane *)self, &nop);
}

/* 0: it has to be done the long way, as of a write. */
static PyObject *lane_recv(PyObject *self, PyObject *limit) {
    if (!PyLong_Check(limit)) {
        return PyLong_FromLong(0);
    }
    int overflow;
    long long most = PyLong_AsLongLongAndOverflow(limit, &overflow);
    if (most <= 0 || most > UINT32_MAX) {
        return PyLong_FromLong(0);
    }
    struct submission receive = {.opcode = PF_OP_RECV, .length = (uint32_t)most};
    return submit((struct lane *)self, &receive);
}

static PyObject *lane_write(PyObject *self, PyObject *data) {
    Py_ssize_t size = PyBytes_CheckExact(data) ? PyBytes_Size(data) : 0;
    if (size <= 0 || size > SMALL_BYTES) {
        return PyLong_FromLong(0);
    }
    struct submission write = {
        .opcode = PF_OP_WRITE, .length = (uint32_t)size, .bytes = PyBytes_AsString(data)};
    return submit((struct lane *)self, &write);
}

/* ---- taking ---- */

/* Takes so many received bytes, SMALL_BYTES at most. NULL without an exception: it has to be done
 * the long way. */
static PyObject *read_small(struct lane *lane, long wanted) {
    if (!lane->client || wanted <= 0 || wanted > SMALL_BYTES) {
        return NULL;
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
        return NULL;
    }
    if (got < wanted) {
        PyObject *fewer = PyBytes_FromStringAndSize(room, (Py_ssize_t)got);
        Py_DECREF(bytes);
        return fewer;
    }
    return bytes;
}

static PyObject *lane_read(PyObject *self, PyObject *count) {
    long wanted = PyLong_AsLong(count);
    if (wanted == -1 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *bytes = read_small((struct lane *)self, wanted);
    if (!bytes && !PyErr_Occurred()) {
        Py_RETURN_NONE;
    }
    return bytes;
}

/* Does for a completion what Python would have to do: a receive gets its bytes. The interpreter's
 * lock is held from the look at `leases` to the end, so no lease of another thread comes between,
 * and each byte goes to one receive. */
static void finish(struct lane *lane, struct done *done) {
    int opcode = done->done.opcode;
    int32_t result = done->done.result;
    done->rest = opcode == PF_OP_ACCEPT || opcode == PF_OP_CLOSE || opcode == PF_OP_RECV;
    if (opcode != PF_OP_RECV || lane->leases || (result >= 0 && !lane->stream)) {
        return;
    }
    if (result > 0) {
        done->data = read_small(lane, result);
    } else if (result == 0) {
        done->data = PyBytes_FromStringAndSize(NULL, 0);
    }
    PyErr_Clear(); /* no memory: Python tries again */
    done->rest = result >= 0 && !done->data;
}

static PyObject *completion(struct lane *lane, const struct pf_done *done) {
    struct done *self = (struct done *)PyType_GenericAlloc(completion_type, 0);
    if (self) {
        Py_INCREF((PyObject *)lane);
        self->sock = (PyObject *)lane;
        self->done = *done;
        finish(lane, self);
    }
    return (PyObject *)self;
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
    return got == 1 ? completion(lane, &done) : PyLong_FromLong(got);
}

/* As pf_wait, for a slice at most; before it sleeps it lets go of the interpreter's lock. */
static int wait_slice(struct lane *lane, int64_t timeout_ns, struct pf_done *done) {
    PyObject *handle = keep(lane);
    struct pf_client *client = lane->client;
    uint32_t slot = lane->slot;
    PyThreadState *state = PyEval_SaveThread();
    int got = pf_wait_on(client, slot, timeout_ns < slice_ns ? timeout_ns : slice_ns, done);
    PyEval_RestoreThread(state);
    Py_DECREF(handle);
    return got;
}

/* When a wait has to end that begins now and lasts so long. */
static int64_t end_of(int64_t timeout_ns) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec + timeout_ns;
}

/* Goes on with a wait until a time of CLOCK_MONOTONIC. The completion, or what `_wait` says. */
static PyObject *wait_until(struct lane *lane, int64_t end_ns) {
    struct pf_done done;
    if (!lane->client || !lane->takes) {
        return PyLong_FromLong(-EBADF);
    }
    int64_t left = end_ns - end_of(0);
    int got = wait_slice(lane, left > 0 ? left : 0, &done);
    if (got == 1) {
        return completion(lane, &done);
    }
    bool goes_on = got == -EINTR || (got == 0 && left > slice_ns);
    return PyLong_FromLongLong(goes_on ? end_ns : got);
}

static PyObject *lane_take(PyObject *self, PyObject *end) {
    long long end_ns = PyLong_AsLongLong(end);
    if (end_ns == -1 && PyErr_Occurred()) {
        return NULL;
    }
    return wait_until((struct lane *)self, end_ns);
}

/* A time-out in seconds, rounded up, or -1: see what Python says about it. */
static int64_t timeout_of(PyObject *timeout) {
    if (timeout == Py_None) {
        return FOREVER_NS;
    }
    if (!PyFloat_Check(timeout) && !PyLong_Check(timeout)) {
        return -1;
    }
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred()) {
        PyErr_Clear();
        return -1;
    }
    if (!(seconds >= 0)) {
        return -1;
    }
    if (seconds >= 3e9) {
        return FOREVER_NS;
    }
    double nanoseconds = seconds * 1e9;
    int64_t whole = (int64_t)nanoseconds;
    return whole + ((double)whole < nanoseconds);
}

/* The completion. Or 0: there was none in time; -errno; more: a slice, or a signal, has ended, and
 * the wait goes on until then (`_take`). None: the time-out is no plain number of seconds. */
static PyObject *lane_wait(PyObject *self, PyObject *timeout) {
    struct lane *lane = (struct lane *)self;
    struct pf_done done;
    int64_t timeout_ns = timeout_of(timeout);
    if (timeout_ns < 0) {
        Py_RETURN_NONE;
    }
    if (!lane->client || !lane->takes) {
        return PyLong_FromLong(-EBADF);
    }
    int got = timeout_ns ? pf_glance(lane->client, lane->slot, &done) : 0;
    if (got == 1) {
        return completion(lane, &done);
    }
    return got ? PyLong_FromLong(got) : wait_until(lane, end_of(timeout_ns));
}

static PyMethodDef lane_methods[] = {
    {"_open", lane_open, METH_VARARGS, NULL}, {"_shut", lane_shut, METH_NOARGS, NULL},
    {"_nop", lane_nop, METH_NOARGS, NULL},    {"_recv", lane_recv, METH_O, NULL},
    {"_write", lane_write, METH_O, NULL},     {"_poll", lane_poll, METH_NOARGS, NULL},
    {"_wait", lane_wait, METH_O, NULL},       {"_take", lane_take, METH_O, NULL},
    {"_read", lane_read, METH_O, NULL},       {NULL, NULL, 0, NULL},
};

static PyMemberDef lane_members[] = {
    {"_leases", T_BOOL, offsetof(struct lane, leases), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot lane_slots[] = {
    {Py_tp_dealloc, lane_dealloc},
    {Py_tp_members, lane_members},
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

static PyObject *set_slice(PyObject *module, PyObject *nanoseconds) {
    long long length = PyLong_AsLongLong(nanoseconds);
    (void)module;
    if (length == -1 && PyErr_Occurred()) {
        return NULL;
    }
    slice_ns = length;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"set_completion", set_completion, METH_O, NULL},
    {"set_slice", set_slice, METH_O, NULL},
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
        PyModule_AddObjectRef(module, "Lane", lane) < 0 || pf_batch_add_types(module) < 0) {
        Py_CLEAR(module);
    }
    Py_XDECREF(done);
    Py_XDECREF(lane);
    return module;
}
