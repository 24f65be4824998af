// Starting threads: the interpreter's own start, with a C trampoline that keeps the thread's record.
#ifndef TT_PY_THREAD_H
#define TT_PY_THREAD_H
#include "py_compat.h"

// Adds start_new_thread, start_new and (3.13 and up) start_joinable_thread to `module`. -1 and an exception on failure.
int tt_py_thread_add(PyObject *module, PyObject *stock);
// adopt_thread(name): see tracedthread/_types.pyi.
PyObject *tt_py_thread_adopt(PyObject *module, PyObject *name);
#endif
