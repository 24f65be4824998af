// tracedthread.ThreadStats: what one thread has waited so far.
#ifndef TT_PY_STATS_H
#define TT_PY_STATS_H
#include "py_compat.h"

// Adds ThreadStats and current_thread_stats to `module`. -1 and an exception on failure.
int tt_py_stats_add(PyObject *module);
#endif
