// What forks wait for: that a thread of ours, which calls others' code, is between two rounds of it.
#ifndef TT_PY_STILL_H
#define TT_PY_STILL_H
#include "py_compat.h"

// Adds the type Still, and what os.register_at_fork calls. -1 and an exception on failure.
int tt_py_still_add(PyObject *module);
#endif
