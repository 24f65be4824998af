// The extension module tracedthread._types: the types and functions that the drop-in _thread is made of.
//
// It lies in the same shared object as the cffi module tracedthread._native and is loaded from there a second time.
#include "py_compat.h"
#include <stdbool.h>
#include "py_capture.h"
#include "py_carry.h"
#include "py_handle.h"
#include "py_lock.h"
#include "py_name.h"
#include "py_pool.h"
#include "py_sentinel.h"
#include "py_site.h"
#include "py_stats.h"
#include "py_still.h"
#include "py_thread.h"

PyDoc_STRVAR(print_exception_doc,
"print_exception($module, exception, /)\n--\n\n"
"Report an exception as the interpreter does one that nobody caught: sys.last_* and sys.excepthook.");

static PyObject *print_exception(PyObject *Py_UNUSED(module), PyObject *exception)
{
    if (!PyExceptionInstance_Check(exception)) return PyErr_Format(PyExc_TypeError, "exception expected");
    PyErr_SetRaisedException(Py_NewRef(exception));
    PyErr_PrintEx(1);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(configure_doc,
"configure($module, /, *, hidden_files, wrapper_files, roles, opcodes)\n--\n\n"
"Tell how to read frames: files to pass over, roles of functions by (file, qualified name), and opcode.opmap.");

PyDoc_STRVAR(adopt_thread_doc,
"adopt_thread($module, name, /)\n--\n\n"
"Give the calling thread a record in the capture under this name; the main thread without one is MainThread.");

PyDoc_STRVAR(refresh_threads_doc,
"refresh_threads($module, active, /)\n--\n\n"
"Bring names (of threading._active) and processor times of living threads up to date in the capture.");

PyDoc_STRVAR(handles_in_use_doc,
"handles_in_use($module, /)\n--\n\n"
"How many of our thread handles are yet to be started, or have a thread that the end of the process waits for.");

PyDoc_STRVAR(carry_context_doc,
"carry_context($module, var, /)\n--\n\n"
"From now on events name the value that this ContextVar had in the waiter and in the holder; None: no longer.");

PyDoc_STRVAR(take_contexts_doc,
"take_contexts($module, /)\n--\n\n"
"The values that events name, by number, and how many were lost since the last call. A value is given out by two calls,\n"
"so that a call after reading events has all that these name; after carry_context(None) by one.");

static PyObject *handles_in_use(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(tt_handles_in_use());
}

static PyMethodDef methods[] = {
    {"configure", (PyCFunction)(void (*)(void))tt_py_site_configure, METH_VARARGS | METH_KEYWORDS, configure_doc},
    {"print_exception", print_exception, METH_O, print_exception_doc},
    {"adopt_thread", tt_py_thread_adopt, METH_O, adopt_thread_doc},
    {"refresh_threads", tt_py_threads_refresh, METH_O, refresh_threads_doc},
    {"handles_in_use", handles_in_use, METH_NOARGS, handles_in_use_doc},
    {"carry_context", tt_py_carry_context, METH_O, carry_context_doc},
    {"take_contexts", tt_py_take_contexts, METH_NOARGS, take_contexts_doc},
    {NULL, NULL, 0, NULL},
};

// Our static variables refer to objects of one interpreter. Its first module is kept in its dict: who imports the module
// again (sys.modules was emptied) gets the same types, for by then the _thread that we would take for stock may be ours;
// and an interpreter that was started after the first one ended gets none.
static const char marker[] = "tracedthread._types";
static bool in_use;

static PyObject *first_module(void)
{
    PyObject *dict = PyInterpreterState_GetDict(PyInterpreterState_Get());
    PyObject *first = dict ? PyDict_GetItemString(dict, marker) : NULL;
    if (!first && in_use) PyErr_SetString(PyExc_ImportError, "an earlier interpreter of this process has used it");
    return first;
}

static int remember(PyObject *module)
{
    in_use = true;
    return PyDict_SetItemString(PyInterpreterState_GetDict(PyInterpreterState_Get()), marker, module);
}

static bool layout_is_known(void)
{
    PyObject *stock = PyImport_ImportModule("_thread");
    PyObject *count = stock ? PyObject_CallMethod(stock, "_count", NULL) : NULL;
    bool known = count && tt_pythread_layout_is_known(PyInterpreterState_Get(), PyLong_AsLong(count));
    Py_XDECREF(count);
    Py_XDECREF(stock);
    PyErr_Clear();
    return known;
}

static int exec(PyObject *module)
{
#ifdef Py_GIL_DISABLED
    PyErr_SetString(PyExc_ImportError, "free-threaded builds are not supported");
    return -1;
#endif
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        // _core.py knows it by this name.
        PyObject *text = PyUnicode_FromString("only the main interpreter is recorded"), *name = PyUnicode_FromString("subinterpreter");
        if (text && name) PyErr_SetImportError(text, name, NULL);
        Py_XDECREF(text);
        Py_XDECREF(name);
        return -1;
    }
    if (tt_thread_ident() != PyThread_get_thread_ident()) {
        PyErr_SetString(PyExc_ImportError, "this C library's thread identifiers are not supported");
        return -1;
    }
    if (!layout_is_known()) {
        PyErr_SetString(PyExc_ImportError, "this build of CPython lays out its thread states in another way");
        return -1;
    }
    PyObject *first = first_module();   // borrowed
    if (first) return PyDict_Merge(PyModule_GetDict(module), PyModule_GetDict(first), 0);
    if (PyErr_Occurred() || tt_py_site_init() < 0 || tt_py_name_init() < 0) return -1;
    PyObject *stock = PyImport_ImportModule("_thread");
    if (!stock) return -1;
    int r = tt_py_lock_add(module, stock);
    if (r == 0) r = tt_py_thread_add(module, stock);
    if (r == 0) r = tt_py_handle_add(module, stock);
    if (r == 0) r = tt_py_sentinel_add(module, stock);
    if (r == 0) r = tt_py_stats_add(module);
    if (r == 0) r = tt_py_capture_add(module);
    if (r == 0) r = tt_py_pool_add(module);
    if (r == 0) r = tt_py_still_add(module);
    Py_DECREF(stock);
    return r < 0 ? -1 : remember(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "tracedthread._types", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__types(void);
PyMODINIT_FUNC PyInit__types(void) { return PyModuleDef_Init(&definition); }
