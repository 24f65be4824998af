// The program's strings as utf-8.
#ifndef TT_PY_TEXT_H
#define TT_PY_TEXT_H
#include <Python.h>

// Writes at most `room` bytes, whole characters, and returns how many. Makes no object and raises nothing: stacks are read
// of other threads, which must not go on meanwhile, and on 3.10 and 3.11 making an exception can collect garbage. A lone
// surrogate, which os.fsdecode makes of an undecodable byte of a file name, becomes `\udcff`.
size_t tt_py_utf8(char *to, size_t room, PyObject *text);
#endif
