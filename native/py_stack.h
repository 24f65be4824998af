// Stacks of Python functions as ids of the capture. None of this runs Python code, but on 3.11, where meeting a function
// for the first time can collect garbage.
#ifndef TT_PY_STACK_H
#define TT_PY_STACK_H
#include "py_compat.h"
#include <stdint.h>

// From `frame` outwards, without hidden frames; 0: no stack, or no room.
uint32_t tt_py_stack_of(tt_pyframe *frame);
// Of the current thread.
uint32_t tt_py_stack(void);
// Where the thread of a record, or of none, is now, who holds a lock; if that cannot be seen, one frame that says so.
uint32_t tt_py_stack_of_holder(uint32_t record);
#endif
