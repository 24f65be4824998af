// Tasks of concurrent.futures.ThreadPoolExecutor, told when they are submitted and run.
#ifndef TT_PY_POOL_H
#define TT_PY_POOL_H
#include "py_compat.h"

// Adds watch_pools to `module`. -1 and an exception on failure.
int tt_py_pool_add(PyObject *module);

// An executor is being made: if tasks are to be watched, they are from here on. Leaves no exception.
void tt_py_pools_meet(void);
#endif
