// Waiting for a lock from Python: signals, the GIL, and the account of it.
#ifndef TT_PY_WAIT_H
#define TT_PY_WAIT_H
#include "py_compat.h"
#include "deadlock.h"
#include "record.h"

// Takes `l`, at once if it is free. `timeout_ns`: -1 for ever, 0 not at all. Signal handlers run meanwhile if
// `interruptible`. Returns 1 when obtained, 0 when not, -1 with the exception a handler raised.
int tt_py_acquire_slow(PyObject *self, tt_lock *l, enum tt_lock_type type, int64_t timeout_ns, bool interruptible);

// Where `l` is about to be released, if that is worth knowing; for tt_lock_release. Look at no state of `l` before: this
// can run Python code after all (3.11 collects garbage).
uint32_t tt_py_release_stack(tt_lock *l);

// When a wait that begins now ends, on CLOCK_MONOTONIC. -1: never.
int64_t tt_py_deadline(int64_t timeout_ns);
// It is time for a look: see deadlock.h. Lets go of the interpreter lock to say what was found.
void tt_py_deadlock_look(tt_deadlock_watch *watch);

// The arguments of acquire(blocking=True, timeout=-1), or of its alias `name`. -1 and the interpreter's own exception when
// they are wrong.
int tt_py_parse_acquire(const char *name, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, int64_t *timeout_ns);
#endif
