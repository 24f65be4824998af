// From Python frames to ids of the capture: where a lock is created, and where and why a thread waits.
#ifndef TT_PY_SITE_H
#define TT_PY_SITE_H
#include "py_compat.h"
#include <stdbool.h>
#include "capture.h"
#include "py_stack.h"
#include "segment.h"

// Makes ready for this interpreter. -1 and an exception on failure.
int tt_py_site_init(void);

// configure(*, hidden_files, wrapper_files, roles, opcodes): see tracedthread/_types.pyi.
PyObject *tt_py_site_configure(PyObject *module, PyObject *args, PyObject *kwargs);

// The site of a lock that the current frame creates.
uint32_t tt_py_site(enum tt_lock_type type);

typedef struct tt_py_wait_place {
    uint32_t site;    // whom the wait is charged to
    uint32_t stack;
    enum tt_kind kind;
} tt_py_wait_place;

// Where the current thread stands, and what a wait on a lock of `site` and `type` means there. Runs no Python code.
tt_py_wait_place tt_py_wait_site(uint32_t site, enum tt_lock_type type);

// Whether the current frame is a probe (Condition._is_owned), whose failed try is no news.
bool tt_py_is_probe(void);

// An attribute (`name`: an interned str) that lives in `object`'s own __dict__, a new reference; NULL without an exception if there is none or if
// looking would run Python code (but the __eq__ of a strange key in that dict).
PyObject *tt_py_own_attribute(PyObject *object, PyObject *name);

// Qualified name of what a thread runs, as a string id.
uint32_t tt_py_function_name(PyObject *callable);
uint32_t tt_py_text(PyObject *text);
#endif
