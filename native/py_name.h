// The names of threads, as threading.Thread has them, and of what they run.
#ifndef TT_PY_NAME_H
#define TT_PY_NAME_H
#include "py_compat.h"
#include <stdbool.h>
#include "capture.h"

typedef struct tt_py_name {
    uint32_t function;   // string of the capture: qualified name
    char label[sizeof((tt_thread_record *)0)->label];   // "" if it has none
} tt_py_name;

int tt_py_name_init(void);
// Of a thread that will call `function`: of a threading.Thread its own, and its target's.
tt_py_name tt_py_name_of(PyObject *function);
// False if `thread` is no threading.Thread that we can read.
bool tt_py_name_of_thread(PyObject *thread, tt_py_name *name);

// Around `function` in its thread: its record follows when the program changes the name.
void tt_py_name_enter(PyObject *function);
void tt_py_name_leave(void);
// Looks whether the calling thread's name has changed: about 20 ns.
void tt_py_name_follow(void);
// The calling thread gets `name` (str), unless it is a Thread's, whose own name counts.
void tt_py_name_set(PyObject *name);
#endif
