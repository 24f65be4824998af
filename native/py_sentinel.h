// _thread._set_sentinel() up to 3.12: the lock that is free once its thread has ended, for Thread.join to wait on.
#ifndef TT_PY_SENTINEL_H
#define TT_PY_SENTINEL_H
#include "py_compat.h"

// Adds _set_sentinel to `module`, or nothing from 3.13 on. -1 and an exception on failure.
int tt_py_sentinel_add(PyObject *module, PyObject *stock);
#endif
