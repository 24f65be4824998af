// Starting threads: audit event, thread state, record. One idea with CPython's thread_run, in our own C.
#ifndef TT_PY_THREAD_H
#define TT_PY_THREAD_H
#include "py_compat.h"
#include "handle.h"

// Adds start_new_thread and start_new to `module`. -1 and an exception on failure.
int tt_py_thread_add(PyObject *module, PyObject *stock);

// Starts a thread that calls `function`, after the audit event. `handle`: who joins it, or NULL up to 3.12. The thread's
// ident, or 0 and an exception; then there is no thread, no record, and the handle is as it was.
uint64_t tt_py_thread_start(PyObject *function, PyObject *args, PyObject *kwargs, tt_handle *handle, bool daemon);

// The state of a living thread, by its record; NULL: it may be gone at any time, or there is no such thread.
PyThreadState *tt_py_thread_state(uint32_t record);

// `name` of `stock` under our C function: its docstring, and `_thread` for its module.
int tt_py_add_function(PyObject *module, PyObject *stock, PyMethodDef *method);

// adopt_thread(name), refresh_threads(active): see tracedthread/_types.pyi.
PyObject *tt_py_thread_adopt(PyObject *module, PyObject *name);
PyObject *tt_py_threads_refresh(PyObject *module, PyObject *active);
#endif
