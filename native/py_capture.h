// What Python tells the recording to do. Not through cffi, which drops the GIL: nobody may count anything while what is
// counted, and where to, changes.
#ifndef TT_PY_CAPTURE_H
#define TT_PY_CAPTURE_H
#include "py_compat.h"

// Adds set_recording, move_capture, anchor_capture, note_capture and finish_capture to `module`. -1 and an exception on
// failure.
int tt_py_capture_add(PyObject *module);
#endif
