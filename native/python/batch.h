#ifndef PF_PYTHON_BATCH_H
#define PF_PYTHON_BATCH_H

#include <Python.h>

/* Adds the type `Batch` to the module. 0, or -1 with an exception. */
int pf_batch_add_types(PyObject *module);

#endif
