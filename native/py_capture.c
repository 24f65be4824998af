#include "py_capture.h"
#include "segment.h"

PyDoc_STRVAR(set_recording_doc,
"set_recording($module, on, /)\n--\n\n"
"Start or stop counting. Holds in progress are not timed, and of waits what somebody was blamed for is counted.");

static PyObject *set_recording(PyObject *Py_UNUSED(module), PyObject *on)
{
    int is_on = PyObject_IsTrue(on);
    if (is_on < 0) return NULL;
    tt_recording_set(is_on);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(move_capture_doc,
"move_capture($module, /)\n--\n\n"
"Begin, or in a forked child go on, in what tt_capture_open has mapped. False if that fails: see tt_capture_error.");

static PyObject *move_capture(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(tt_capture_move() == 0);
}

PyDoc_STRVAR(anchor_capture_doc,
"anchor_capture($module, /)\n--\n\n"
"Note what time it is on all clocks.");

static PyObject *anchor_capture(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    tt_capture_anchor();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(note_capture_doc,
"note_capture($module, text, /)\n--\n\n"
"Add a note: bytes, JSON in utf-8. False if there is no room for it, which is counted.");

static PyObject *note_capture(PyObject *Py_UNUSED(module), PyObject *text)
{
    if (!PyBytes_Check(text)) return PyErr_Format(PyExc_TypeError, "bytes expected");
    if (PyBytes_GET_SIZE(text) > UINT32_MAX) return PyErr_Format(PyExc_ValueError, "too long");
    return PyBool_FromLong(tt_capture_note(PyBytes_AS_STRING(text), (uint32_t)PyBytes_GET_SIZE(text)) == 0);
}

PyDoc_STRVAR(finish_capture_doc,
"finish_capture($module, /)\n--\n\n"
"Mark the capture as ended in an orderly way.");

static PyObject *finish_capture(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    tt_capture_finish();
    Py_RETURN_NONE;
}

int tt_py_capture_add(PyObject *module)
{
    static PyMethodDef methods[] = {
        {"set_recording", set_recording, METH_O, set_recording_doc},
        {"move_capture", move_capture, METH_NOARGS, move_capture_doc},
        {"anchor_capture", anchor_capture, METH_NOARGS, anchor_capture_doc},
        {"note_capture", note_capture, METH_O, note_capture_doc},
        {"finish_capture", finish_capture, METH_NOARGS, finish_capture_doc},
        {NULL, NULL, 0, NULL},
    };
    return PyModule_AddFunctions(module, methods);
}
