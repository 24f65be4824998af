#include "py_carry.h"
#include "carry.h"
#include "py_thread.h"
#include "segment.h"

static PyObject *carried;   // the ContextVar
static PyObject *unset;     // its default; NULL: it has none

// The value in a thread, borrowed from its context.
//
// Not by PyContextVar_Get: up to 3.11 that can be called while the collector runs inside of ContextVar.reset(), would then
// remember a value that is on its way out, and the program's own get() would find it. These look into the context alone.
// They compare variables by identity, run no Python code and, as asked here, raise nothing.
static PyObject *value_in(PyThreadState *ts)
{
    PyObject *context = ts->context;
    if (!context || PySequence_Contains(context, carried) <= 0) return unset;
    PyObject *value = PyObject_GetItem(context, carried);
    Py_XDECREF(value);   // the context has it
    return value;
}

static uint32_t note(PyThreadState *ts)
{
    PyObject *value = value_in(ts);
    if (!value) return 0;
    bool added;
    uint32_t number = tt_carry_add(value, &added);
    if (added) Py_INCREF(value);
    return number;
}

static uint32_t note_current(void)
{
    PyThreadState *ts = PyThreadState_GetUnchecked();
    if (!ts) return 0;
    PyObject *type, *value, *traceback;   // of what a signal handler has raised
    PyErr_Fetch(&type, &value, &traceback);
    uint32_t number = note(ts);
    PyErr_Restore(type, value, traceback);
    return number;
}

void tt_py_carry_note_holder(tt_wait *w)
{
    w->holder_context = 0;
    if (!tt_carry_note || !tt_kind_has_holder(w->kind) || !tt_wait_is_slow(w->start, w->end)) return;
    if (w->holder == 0 || tt_the_segment.threads[w->holder].generation != w->holder_generation) return;
    PyThreadState *ts = tt_py_thread_state(w->holder);
    if (ts) w->holder_context = note(ts);
}

// The value where it was never set: a new reference, or NULL; -1 and an exception on failure.
static int default_of(PyObject *var, PyObject **value)
{
    PyObject *empty = PyContext_New();
    int r = empty ? PyContext_Enter(empty) : -1;
    if (r == 0) {
        r = PyContextVar_Get(var, NULL, value);
        if (PyContext_Exit(empty) < 0) r = -1;
    }
    Py_XDECREF(empty);
    return r;
}

PyObject *tt_py_carry_context(PyObject *Py_UNUSED(module), PyObject *var)
{
    PyObject *value = NULL;
    if (var != Py_None && !PyContextVar_CheckExact(var))
        return PyErr_Format(PyExc_TypeError, "var must be a ContextVar or None, not %.100s", Py_TYPE(var)->tp_name);
    if (var != Py_None && default_of(var, &value) < 0) {
        Py_XDECREF(value);
        return NULL;
    }
    PyObject *old_var = carried, *old_value = unset;
    tt_carry_note = var == Py_None ? NULL : note_current;
    carried = var == Py_None ? NULL : Py_NewRef(var);
    unset = value;
    Py_XDECREF(old_var);
    Py_XDECREF(old_value);
    Py_RETURN_NONE;
}

static void let_go(const tt_carried *values, size_t count)
{
    for (size_t i = 0; i < count; i++) Py_DECREF((PyObject *)values[i].value);
}

static PyObject *dict_of(const tt_carried *values, size_t count)
{
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict && i < count; i++) {
        PyObject *number = PyLong_FromUnsignedLong(values[i].number);
        if (!number || PyDict_SetItem(dict, number, values[i].value) < 0) Py_CLEAR(dict);
        Py_XDECREF(number);
    }
    return dict;
}

PyObject *tt_py_take_contexts(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    tt_carried *values = PyMem_Malloc(TT_CARRY_CAPACITY * sizeof *values);
    if (!values) return PyErr_NoMemory();
    uint64_t lost;
    size_t count = tt_carry_take(values, !tt_carry_note, &lost);
    for (size_t i = 0; i < count; i++)
        if (!values[i].taken) Py_INCREF((PyObject *)values[i].value);   // the table has it, too; now all are ours
    PyObject *dict = dict_of(values, count);
    let_go(values, count);
    while ((count = tt_carry_inherited(values))) let_go(values, count);
    PyMem_Free(values);
    return dict ? Py_BuildValue("(NK)", dict, (unsigned long long)lost) : NULL;
}
