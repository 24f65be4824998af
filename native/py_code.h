// What we know of a code object, kept in its co_extra and gone with it: no references are held, no id is used twice.
#ifndef TT_PY_CODE_H
#define TT_PY_CODE_H
#include "py_compat.h"
#include <stdbool.h>
#include <stdint.h>

enum { TT_ROLE_NONE = -128, TT_ROLE_WAITER_MAKER = -1, TT_ROLE_PROBE = -2, TT_ROLE_POOL_MAKER = -3 };   // else a tt_kind

typedef struct tt_py_code {
    uint32_t id;               // never used again
    uint32_t file, function;   // strings of the capture
    int16_t role;
    bool hidden;               // a frame of threading, queue or the like
    bool maker;                // makes the object its caller asked for: an __init__, or threading.RLock
    bool wrapper;              // hidden: puts locks of its own around others', and does what its caller does
    uint32_t last_offset, last_type, last_site;   // the newest lock created here; 0: none
    uint64_t last_inner;
} tt_py_code;

// Counts code objects that are gone and calls of configure: what was known of an address in bytecode is void.
extern uint64_t tt_py_code_era;

int tt_py_code_init(void);
// Files whose frames are hidden, and those of wrappers (tuples of str), and roles by (file, qualified name). A
// file `*/queue.py` is any whose path ends with what follows the star. -1 and an exception on failure.
int tt_py_code_configure(PyObject *hidden_files, PyObject *wrapper_files, PyObject *roles);

// What we know of the frame's code; NULL without an exception when out of memory.
tt_py_code *tt_py_code_of(tt_pyframe *frame);
// The name of the function, as `co_qualname` gives it on 3.11 and up. A new reference, or NULL without an exception.
PyObject *tt_py_code_qualname(PyCodeObject *code, tt_pyframe *frame);

// The name of the variable or attribute that takes what the call at `offset` returns: a string of the capture such as
// "PriceCache._lock", or "cache.py:41" when the bytecode does not tell. `member` gets the bare attribute name, or 0.
uint32_t tt_py_store_name(PyCodeObject *code, int offset, const tt_py_code *known, uint32_t line, uint32_t *member);
// opcode.opmap
int tt_py_store_configure(PyObject *opcodes);
#endif
