// What threads carry, as Python has it: the value of one context variable. Nothing here runs Python code or lets go of the
// last reference to anything, but carry_context and take_contexts.
#ifndef TT_PY_CARRY_H
#define TT_PY_CARRY_H
#include "py_compat.h"
#include "record.h"

// `w` leaves without the lock: notes what its holder carries now, as far as that can be seen and `w` is going to be an event.
void tt_py_carry_note_holder(tt_wait *w);

// carry_context(var), take_contexts(): see tracedthread/_types.pyi.
PyObject *tt_py_carry_context(PyObject *module, PyObject *var);
PyObject *tt_py_take_contexts(PyObject *module, PyObject *ignored);
#endif
