// The types `_thread.lock` and `_thread.RLock`.
#ifndef TT_PY_LOCK_H
#define TT_PY_LOCK_H
#include "py_compat.h"
#include "lock.h"

// Adds lock, RLock, allocate_lock and allocate to `module`, with the methods, docstrings and refusals of `stock`, the
// interpreter's own _thread. -1 and an exception on failure.
int tt_py_lock_add(PyObject *module, PyObject *stock);

// The site of one of our locks, TT_SITE_UNRECORDED for any other object.
uint32_t tt_py_lock_site(PyObject *object);

// A lock of this site, wherever it is made.
PyObject *tt_py_lock_of_site(uint32_t site);
// Makes `lock`, one of those, free.
void tt_py_lock_set_free(PyObject *lock);
#endif
