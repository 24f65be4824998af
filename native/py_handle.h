// _thread._ThreadHandle and the functions that make and wait for handles (3.13 and up): one family, replaced together.
#ifndef TT_PY_HANDLE_H
#define TT_PY_HANDLE_H
#include "py_compat.h"

// Adds _ThreadHandle, start_joinable_thread, _make_thread_handle and _shutdown to `module`, or nothing up to 3.12. -1 and
// an exception on failure.
int tt_py_handle_add(PyObject *module, PyObject *stock);
#endif
