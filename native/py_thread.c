#include "py_thread.h"
#include <stdbool.h>
#include <string.h>
#include "py_site.h"
#include "segment.h"
#include "thread.h"

// What the new thread calls in the place of the caller's function. It passes for that function wherever CPython shows it
// (audit events, "Exception ignored in thread started by ..."), and being C it adds no frame.
typedef struct taskobject {
    PyObject_HEAD
    PyObject *function;
    uint32_t record, epoch;   // epoch: the process it is a record of
    bool begun;
} taskobject;

static PyTypeObject *task_type;
static PyObject *stock_start, *stock_start_joinable;   // the interpreter's own

static void task_dealloc(taskobject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (!self->begun && self->epoch == tt_fork_epoch) tt_thread_retract(self->record);
    Py_XDECREF(self->function);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *task_repr(taskobject *self) { return PyObject_Repr(self->function); }
static Py_hash_t task_hash(taskobject *self) { return PyObject_Hash(self->function); }

// An audit hook that looks at the function's name finds it.
static PyObject *task_getattr(taskobject *self, PyObject *name) { return PyObject_GetAttr(self->function, name); }

static PyObject *task_compare(taskobject *self, PyObject *other, int op)
{
    if (Py_IS_TYPE(other, task_type)) other = ((taskobject *)other)->function;
    return PyObject_RichCompare(self->function, other, op);
}

static PyObject *task_call(taskobject *self, PyObject *args, PyObject *kwargs)
{
    self->begun = true;
    tt_thread_begin(self->record);
    PyObject *result = PyObject_Call(self->function, args, kwargs);
    if (!result) {
        if (PyErr_ExceptionMatches(PyExc_SystemExit))
            PyErr_Clear();
        else
            tt_pyerr_in_thread(self->function);
    }
    else
        Py_DECREF(result);
    tt_thread_end();
    Py_RETURN_NONE;
}

// Name and function of a thread that will run `function`: of a threading.Thread, its own and its target's.
static uint32_t announce(PyObject *function)
{
    uint32_t name = 0, target_name = 0;
    PyObject *thread = PyMethod_Check(function) ? PyMethod_GET_SELF(function) : NULL;
    PyObject *its_name = thread ? tt_py_own_attribute(thread, "_name") : NULL;
    if (its_name) {
        PyObject *target = tt_py_own_attribute(thread, "_target");
        name = tt_py_text(its_name);
        if (target && target != Py_None) target_name = tt_py_function_name(target);
        Py_XDECREF(target);
        Py_DECREF(its_name);
    }
    return tt_thread_announce(name, target_name ? target_name : tt_py_function_name(function));
}

static PyObject *task_new(PyObject *function)
{
    taskobject *self = PyObject_New(taskobject, task_type);
    if (!self) return NULL;
    self->function = Py_NewRef(function);
    self->begun = false;
    self->epoch = tt_fork_epoch;
    self->record = tt_recorded_from != UINT32_MAX ? announce(function) : 0;
    return (PyObject *)self;
}

// start_new_thread(function, args[, kwargs]). What is not a valid call goes to the stock function as it is, for its error.
static PyObject *start_new_thread(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_ssize_t nargs = PyTuple_GET_SIZE(args);
    bool valid = nargs >= 2 && nargs <= 3 && PyCallable_Check(PyTuple_GET_ITEM(args, 0));
    if (!valid) return PyObject_Call(stock_start, args, NULL);
    PyObject *task = task_new(PyTuple_GET_ITEM(args, 0));
    if (!task) return NULL;
    PyObject *call[3] = {task, PyTuple_GET_ITEM(args, 1), nargs > 2 ? PyTuple_GET_ITEM(args, 2) : NULL};
    PyObject *ident = PyObject_Vectorcall(stock_start, call, (size_t)nargs, NULL);
    Py_DECREF(task);
    return ident;
}

#if PY_VERSION_HEX >= 0x030D0000
// start_joinable_thread(function, handle=None, daemon=True)
static PyObject *start_joinable_thread(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    PyObject *positional = NULL, *keywords = NULL, *task = NULL, *handle = NULL;
    PyObject *function = PyTuple_GET_SIZE(args) ? PyTuple_GET_ITEM(args, 0) : NULL;
    if (!function && kwargs) function = PyDict_GetItemString(kwargs, "function");   // borrowed
    if (!function || !PyCallable_Check(function)) return PyObject_Call(stock_start_joinable, args, kwargs);
    if (!(task = task_new(function))) return NULL;
    if (PyTuple_GET_SIZE(args)) {
        if (!(positional = PyTuple_New(PyTuple_GET_SIZE(args)))) goto done;
        PyTuple_SET_ITEM(positional, 0, Py_NewRef(task));
        for (Py_ssize_t i = 1; i < PyTuple_GET_SIZE(args); i++)
            PyTuple_SET_ITEM(positional, i, Py_NewRef(PyTuple_GET_ITEM(args, i)));
        keywords = Py_XNewRef(kwargs);
    }
    else {
        positional = Py_NewRef(args);
        if (!(keywords = PyDict_Copy(kwargs)) || PyDict_SetItemString(keywords, "function", task) < 0) goto done;
    }
    handle = PyObject_Call(stock_start_joinable, positional, keywords);
done:
    Py_DECREF(task);
    Py_XDECREF(positional);
    Py_XDECREF(keywords);
    return handle;
}
#endif

PyObject *tt_py_thread_adopt(PyObject *Py_UNUSED(module), PyObject *name)
{
    if (!PyUnicode_Check(name)) return PyErr_Format(PyExc_TypeError, "name must be a str, not %.100s", Py_TYPE(name)->tp_name);
    if (tt_the_segment.base && tt_thread_current_index()) tt_thread_current()->name = tt_py_text(name);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"start_new_thread", start_new_thread, METH_VARARGS, NULL},
    {"start_new", start_new_thread, METH_VARARGS, NULL},
#if PY_VERSION_HEX >= 0x030D0000
    {"start_joinable_thread", (PyCFunction)(void (*)(void))start_joinable_thread, METH_VARARGS | METH_KEYWORDS, NULL},
#endif
    {NULL, NULL, 0, NULL},
};

static int make_task_type(void)
{
    static PyType_Slot slots[] = {{Py_tp_dealloc, task_dealloc}, {Py_tp_repr, task_repr}, {Py_tp_hash, task_hash},
                                  {Py_tp_richcompare, task_compare}, {Py_tp_getattro, task_getattr}, {Py_tp_call, task_call}, {0, NULL}};
    static PyType_Spec spec = {"tracedthread._types.task", sizeof(taskobject), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
    Py_XSETREF(task_type, (PyTypeObject *)PyType_FromSpec(&spec));
    return task_type ? 0 : -1;
}

int tt_py_thread_add(PyObject *module, PyObject *stock)
{
    PyObject *module_name = PyUnicode_FromString("_thread");
    int r = module_name ? make_task_type() : -1;
    for (PyMethodDef *m = methods; r == 0 && m->ml_name; m++) {
        PyObject *original = PyObject_GetAttrString(stock, m->ml_name), *function = NULL;
        r = -1;
        if (original) {
            if (PyCFunction_Check(original)) m->ml_doc = ((PyCFunctionObject *)original)->m_ml->ml_doc;
            Py_XSETREF(*(strcmp(m->ml_name, "start_joinable_thread") ? &stock_start : &stock_start_joinable), Py_NewRef(original));
            function = PyCFunction_NewEx(m, module, module_name);
            if (function) r = PyModule_AddObjectRef(module, m->ml_name, function);
        }
        Py_XDECREF(original);
        Py_XDECREF(function);
    }
    Py_XDECREF(module_name);
    return r;
}
