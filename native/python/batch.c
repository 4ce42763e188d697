/* `with client.batch():`, which a real-time program enters in each of its rounds. In C for its
 * cost, and because no signal handler runs in the middle of it: what a handler raises, wherever it
 * comes, ends the batch and lets go of the lock. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <stdbool.h>

#include "client/client_api.h"
#include "python/batch.h"

/* The batches of a client, of which one is open at a time: made to `Batch` in Python. */
struct batch {
    PyObject ob_base;
    PyObject *handle;         /* keeps what `client` points to */
    PyObject *lock;           /* the thread's that is in a block */
    struct pf_client *client; /* NULL: closed, or this is a forked child */
    unsigned long owner;      /* that thread; 0: none */
};

/* One `with` block. */
struct block {
    PyObject ob_base;
    struct batch *batch;
    bool entered;
};

static PyTypeObject *block_type;

static PyObject *batch_shut(PyObject *self, PyObject *unused) {
    struct batch *batch = (struct batch *)self;
    (void)unused;
    batch->client = NULL;
    Py_CLEAR(batch->handle);
    Py_RETURN_NONE;
}

static void batch_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    Py_CLEAR(((struct batch *)self)->handle);
    Py_CLEAR(((struct batch *)self)->lock);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *batch_open(PyObject *self, PyObject *args) {
    struct batch *batch = (struct batch *)self;
    PyObject *handle;
    PyObject *lock;
    unsigned long long address;
    if (!PyArg_ParseTuple(args, "OKO", &handle, &address, &lock)) {
        return NULL;
    }
    Py_CLEAR(batch->handle);
    Py_CLEAR(batch->lock);
    Py_INCREF(handle);
    Py_INCREF(lock);
    batch->handle = handle;
    batch->lock = lock;
    batch->client = (struct pf_client *)(uintptr_t)address;
    Py_RETURN_NONE;
}

static PyObject *batch_block(PyObject *self, PyObject *unused) {
    struct block *block = (struct block *)PyType_GenericAlloc(block_type, 0);
    (void)unused;
    if (block) {
        Py_INCREF(self);
        block->batch = (struct batch *)self;
    }
    return (PyObject *)block;
}

static int unlock(struct batch *batch) {
    PyObject *done = PyObject_CallMethod(batch->lock, "release", NULL);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* Ends what block_enter has begun. What the core says; -EPIPE: the client was closed. */
static int end_batch(struct block *block, int submit) {
    struct batch *batch = block->batch;
    struct pf_client *client = batch->client;
    int result = -EPIPE;
    if (client) {
        PyObject *handle = batch->handle;
        Py_INCREF(handle);
        PyThreadState *state = PyEval_SaveThread();
        result = pf_batch_end(client, submit);
        PyEval_RestoreThread(state);
        Py_DECREF(handle);
    }
    block->entered = false;
    batch->owner = 0;
    return result;
}

static PyObject *block_enter(PyObject *self, PyObject *unused) {
    struct block *block = (struct block *)self;
    struct batch *batch = block->batch;
    (void)unused;
    if (batch->owner == PyThread_get_thread_ident()) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this thread is in a batch() block already: leave that one first");
        return NULL;
    }
    PyObject *locked = PyObject_CallMethod(batch->lock, "acquire", NULL);
    if (!locked) {
        return NULL; /* by a signal handler, while it waited */
    }
    Py_DECREF(locked);
    int result = batch->client ? pf_batch_begin(batch->client) : -EPIPE;
    if (result == 0) {
        block->entered = true;
        batch->owner = PyThread_get_thread_ident();
        Py_RETURN_NONE;
    }
    return unlock(batch) == 0 ? PyObject_CallMethod((PyObject *)batch, "_fail", "i", result) : NULL;
}

static PyObject *block_exit(PyObject *self, PyObject *args) {
    struct block *block = (struct block *)self;
    struct batch *batch = block->batch;
    PyObject *kind;
    PyObject *error;
    PyObject *trace;
    if (!PyArg_ParseTuple(args, "OOO", &kind, &error, &trace)) {
        return NULL;
    }
    if (block->entered) {
        bool submit = kind == Py_None;
        int result = end_batch(block, submit);
        if (unlock(batch) != 0) {
            return NULL;
        }
        if (submit && result < 0) {
            return PyObject_CallMethod((PyObject *)batch, "_fail", "i", result);
        }
    }
    Py_RETURN_NONE;
}

/* One that was entered and is forgotten ends here. */
static void block_dealloc(PyObject *self) {
    struct block *block = (struct block *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (block->entered) {
        PyObject *kind;
        PyObject *error;
        PyObject *trace;
        PyErr_Fetch(&kind, &error, &trace);
        (void)end_batch(block, 0);
        if (unlock(block->batch) != 0) {
            PyErr_WriteUnraisable(NULL);
        }
        PyErr_Restore(kind, error, trace);
    }
    Py_CLEAR(block->batch);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMethodDef batch_methods[] = {
    {"_open", batch_open, METH_VARARGS, NULL},
    {"_shut", batch_shut, METH_NOARGS, NULL},
    {"block", batch_block, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot batch_slots[] = {
    {Py_tp_dealloc, batch_dealloc},
    {Py_tp_methods, batch_methods},
    {0, NULL},
};

static PyType_Spec batch_spec = {
    .name = "pifus._core._lane.Batch",
    .basicsize = sizeof(struct batch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = batch_slots,
};

static PyMethodDef block_methods[] = {
    {"__enter__", block_enter, METH_NOARGS, NULL},
    {"__exit__", block_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot block_slots[] = {
    {Py_tp_dealloc, block_dealloc},
    {Py_tp_methods, block_methods},
    {0, NULL},
};

static PyType_Spec block_spec = {
    .name = "pifus._core._lane.Block",
    .basicsize = sizeof(struct block),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = block_slots,
};

int pf_batch_add_types(PyObject *module) {
    PyObject *batch = PyType_FromSpec(&batch_spec);
    PyObject *block = PyType_FromSpec(&block_spec);
    block_type = (PyTypeObject *)block; /* for as long as the process lives */
    int result = batch && block ? PyModule_AddObjectRef(module, "Batch", batch) : -1;
    Py_XDECREF(batch);
    return result;
}
