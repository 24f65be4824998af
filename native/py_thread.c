#include "py_thread.h"
#include <stdlib.h>
#include <unistd.h>
#include "clock.h"
#include "py_name.h"
#include "py_site.h"
#include "segment.h"
#include "thread.h"
#include "trail.h"

enum { UNRECORDED = UINT32_MAX };   // a thread started while nothing is recorded: it may get a record later

// What a new thread needs to know. Freed where there may be no interpreter lock to be had: plain malloc.
typedef struct boot {
    PyThreadState *state;
    PyObject *function, *args, *kwargs;
    tt_handle *handle;        // NULL up to 3.12
    uint32_t record, epoch;   // epoch: the process it is a record of
    uint64_t asked;           // ticks
} boot;

static PyObject *stock_start;   // the interpreter's own
#if PY_VERSION_HEX >= 0x030E0000
static PyObject *stock_set_name;
#endif

static void drop_references(boot *b)
{
    Py_DECREF(b->function);
    Py_DECREF(b->args);
    Py_XDECREF(b->kwargs);
}

// The new thread. Source: thread_run in CPython's Modules/_threadmodule.c.
static void run(void *memory)
{
    boot b = *(boot *)memory;
    free(memory);
    // The interpreter is going down: the thread state may be freed, and the references are leaked, for they cannot be
    // dropped without the interpreter lock, which is not to be had any more.
    if (!tt_pythread_must_exit()) {
        tt_pythread_state_bind(b.state);
        PyEval_AcquireThread(b.state);
        tt_pythread_count(b.state->interp, 1);
        if (b.record != UNRECORDED && b.epoch == tt_fork_epoch) tt_thread_begin(b.record, b.asked, b.state);
        tt_py_name_enter(b.function);
        PyObject *result = PyObject_Call(b.function, b.args, b.kwargs);
        if (result)
            Py_DECREF(result);
        else if (PyErr_ExceptionMatches(PyExc_SystemExit))
            PyErr_Clear();
        else
            tt_pyerr_in_thread(b.function);
        tt_py_name_leave();
        drop_references(&b);
        tt_pythread_count(b.state->interp, -1);
        PyThreadState_Clear(b.state);
        tt_thread_end();   // after the last Python code of the thread: the destructors of its threading.local objects
        PyThreadState_DeleteCurrent();
    }
    if (b.handle) tt_handle_exit(b.handle);
}

// -1: the system has no thread for us. Once there is one, `b` is its own.
static int create(boot *b, tt_handle *handle, uint64_t *ident)
{
#if PY_VERSION_HEX < 0x030D0000
    (void)handle;
    unsigned long id = PyThread_start_new_thread(run, b);
    *ident = id;
    return id == PYTHREAD_INVALID_THREAD_ID ? -1 : 0;
#else
    PyThread_ident_t id;
    PyThread_handle_t thread;
    if (PyThread_start_joinable_thread(run, b, &id, &thread) != 0) return -1;
    *ident = id;
    tt_handle_started(handle, id, (pthread_t)thread);   // the new thread gets no further without the interpreter lock
    return 0;
#endif
}

uint64_t tt_py_thread_start(PyObject *function, PyObject *args, PyObject *kwargs, tt_handle *handle, bool daemon)
{
    PyInterpreterState *interp = PyInterpreterState_Get();
    bool recorded = tt_recorded_from != UINT32_MAX;
    tt_py_name name = {0};
    uint32_t stack = 0;
    if (recorded) {   // first, for looking up a name in the __dict__ of a strange object may run its code
        name = tt_py_name_of(function);
        stack = tt_py_stack();
    }
    if (tt_pythread_refuse_at_exit(interp) < 0) return 0;
    boot *b = malloc(sizeof *b);
    PyThreadState *state = b ? tt_pythread_state_new(interp, daemon) : NULL;
    if (!state) {
        free(b);
        if (!PyErr_Occurred()) PyErr_NoMemory();
        return 0;
    }
    *b = (boot){.state = state, .function = Py_NewRef(function), .args = Py_NewRef(args), .kwargs = Py_XNewRef(kwargs),
                .handle = handle ? tt_handle_ref(handle) : NULL, .record = UNRECORDED, .epoch = tt_fork_epoch};
    if (recorded) {
        b->asked = tt_ticks();
        b->record = tt_thread_announce(name.function, stack, name.label);
    }
    uint32_t record = b->record;
    uint64_t ident = 0;
    if (create(b, handle, &ident) < 0) {
        if (recorded) tt_thread_retract(record);
        PyThreadState_Clear(state);
        PyThreadState_Delete(state);
        drop_references(b);
        if (handle) tt_handle_unref(handle);
        free(b);
        PyErr_SetString(PyExc_RuntimeError, "can't start new thread");
        return 0;
    }
    if (recorded) tt_trail_add(record, ident, name.function, stack, name.label);
    return ident;
}

PyThreadState *tt_py_thread_state(uint32_t record)
{
    if (record == 0) return NULL;
    if (record == tt_thread_current_index()) return PyThreadState_Get();
    return tt_pythread_must_exit() ? NULL : tt_thread_state(record);   // at exit daemons' states are freed without a word
}

// start_new_thread(function, args[, kwargs]). What is not a valid call goes to the stock function as it is, for its error.
static PyObject *start_new_thread(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_ssize_t count = PyTuple_GET_SIZE(arguments);
    PyObject *function = count > 0 ? PyTuple_GET_ITEM(arguments, 0) : NULL;
    PyObject *args = count > 1 ? PyTuple_GET_ITEM(arguments, 1) : NULL;
    PyObject *kwargs = count > 2 ? PyTuple_GET_ITEM(arguments, 2) : NULL;
    bool valid = (count == 2 || (count == 3 && PyDict_Check(kwargs))) && PyCallable_Check(function) && PyTuple_Check(args);
    if (!valid) return PyObject_Call(stock_start, arguments, NULL);
    if (PySys_Audit("_thread.start_new_thread", "OOO", function, args, kwargs ? kwargs : Py_None) < 0) return NULL;
    tt_handle *handle = NULL;
#if PY_VERSION_HEX >= 0x030D0000
    if (!(handle = tt_handle_new())) return PyErr_NoMemory();
#endif
    uint64_t ident = tt_py_thread_start(function, args, kwargs, handle, true);
    if (handle) tt_handle_unref(handle);   // detaches it
    return ident ? PyLong_FromUnsignedLongLong(ident) : NULL;
}

#if PY_VERSION_HEX >= 0x030E0000
// set_name(name): the operating system's name of the calling thread, and that of its record unless a Thread has another.
static PyObject *set_name(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *result = PyObject_Vectorcall(stock_set_name, args, (size_t)nargs, kwnames);
    if (result) tt_py_name_set(nargs ? args[0] : args[nargs]);   // its only argument
    return result;
}
#endif

PyObject *tt_py_thread_adopt(PyObject *Py_UNUSED(module), PyObject *name)
{
    const char *label = PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    if (!label) {
        if (!PyErr_Occurred()) PyErr_Format(PyExc_TypeError, "name must be a str, not %.100s", Py_TYPE(name)->tp_name);
        return NULL;
    }
    if (tt_the_segment.base) {
        // Where Python is embedded, its main thread need not be the process's.
        bool is_main = _PyOS_IsMainThread();
        tt_thread_rename(tt_thread_current_index(), !label[0] && is_main ? "MainThread" : label);
        // The first of all thread states goes when the interpreter does. Others may go without a word.
        PyThreadState *state = PyThreadState_Get();
        if (is_main && !PyThreadState_Next(state)) tt_thread_adopt_state(state);
    }
    Py_RETURN_NONE;
}

PyObject *tt_py_threads_refresh(PyObject *Py_UNUSED(module), PyObject *active)
{
    PyObject *ident, *thread;
    if (!PyDict_Check(active)) return PyErr_Format(PyExc_TypeError, "active must be a dict");
    for (Py_ssize_t at = 0; PyDict_Next(active, &at, &ident, &thread);) {
        tt_py_name name;
        uint64_t id = PyLong_Check(ident) ? PyLong_AsUnsignedLongLongMask(ident) : 0;
        uint32_t record = tt_thread_of_ident(id);
        if (record && tt_py_name_of_thread(thread, &name)) tt_thread_rename(record, name.label);
    }
    PyErr_Clear();
    tt_threads_sample();
    Py_RETURN_NONE;
}

int tt_py_add_function(PyObject *module, PyObject *stock, PyMethodDef *method)
{
    PyObject *original = PyObject_GetAttrString(stock, method->ml_name), *function = NULL;
    PyObject *module_name = PyUnicode_FromString("_thread");
    int r = -1;
    if (original && module_name) {
        if (PyCFunction_Check(original)) method->ml_doc = ((PyCFunctionObject *)original)->m_ml->ml_doc;
        function = PyCFunction_NewEx(method, module, module_name);
        if (function) r = PyModule_AddObjectRef(module, method->ml_name, function);
    }
    Py_XDECREF(original);
    Py_XDECREF(module_name);
    Py_XDECREF(function);
    return r;
}

static PyMethodDef methods[] = {
    {"start_new_thread", start_new_thread, METH_VARARGS, NULL},
    {"start_new", start_new_thread, METH_VARARGS, NULL},
#if PY_VERSION_HEX >= 0x030E0000
    {"set_name", (PyCFunction)(void (*)(void))set_name, METH_FASTCALL | METH_KEYWORDS, NULL},
#endif
};

int tt_py_thread_add(PyObject *module, PyObject *stock)
{
    Py_XSETREF(stock_start, PyObject_GetAttrString(stock, "start_new_thread"));
    if (!stock_start) return -1;
#if PY_VERSION_HEX >= 0x030E0000
    Py_XSETREF(stock_set_name, PyObject_GetAttrString(stock, "set_name"));
    if (!stock_set_name) return -1;
#endif
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (tt_py_add_function(module, stock, &methods[i]) < 0) return -1;
    return 0;
}
