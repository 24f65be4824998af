#include "py_pool.h"
#include <stdbool.h>
#include <stddef.h>
#include <structmember.h>
#include "pool.h"
#include "py_site.h"

// `concurrent.futures.thread._WorkItem` is exchanged for a subclass whose __init__ and run are C functions: they call the
// original ones, and add no frame to a traceback or a stack. Each item refers to a task, which goes when it does.
typedef struct taskobject {
    PyObject_HEAD
    tt_task task;
} taskobject;

static PyTypeObject *task_type;
static PyObject *stock_item, *stock_init, *stock_run;   // the class, and its functions
static PyObject *our_item;
static Py_ssize_t task_offset;                          // in items of ours: a PyObject *, NULL if its time is not taken
static bool watching;
static struct { PyObject *prefix, *max_workers, *submit, *future, *state, *cancelled, *module, *item; } words;

// -- executors -----------------------------------------------------------------------------------------------------------

// Told by their addresses, until a weak reference says that one is gone. They are never kept alive.
typedef struct known { struct known *next; const void *address; PyObject *reference; tt_executor *executor; } known;
static known *executors[256];

static known **bucket_of(const void *address)
{
    uintptr_t bits = (uintptr_t)address;
    return &executors[(bits >> 4 ^ bits >> 12) % (sizeof executors / sizeof *executors)];
}

static PyObject *forget(PyObject *address, PyObject *Py_UNUSED(reference))
{
    void *executor = PyLong_AsVoidPtr(address);
    for (known **at = bucket_of(executor); *at; at = &(*at)->next) {
        known *gone = *at;
        if (gone->address != executor) continue;
        *at = gone->next;
        tt_executor_unref(gone->executor);
        Py_DECREF(gone->reference);
        PyMem_Free(gone);
        break;
    }
    Py_RETURN_NONE;
}

static bool refers_to(PyObject *reference, const PyObject *object)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *now = NULL;
    if (PyWeakref_GetRef(reference, &now) < 0) PyErr_Clear();
    Py_XDECREF(now);   // not the last one: the caller has one
    return now == object;
#else
    return PyWeakref_GET_OBJECT(reference) == object;
#endif
}

static PyObject *watch_end(PyObject *executor)
{
    static PyMethodDef method = {"forget", forget, METH_O, NULL};
    PyObject *address = PyLong_FromVoidPtr(executor), *callback = address ? PyCFunction_New(&method, address) : NULL;
    PyObject *reference = callback ? PyWeakref_NewRef(executor, callback) : NULL;
    Py_XDECREF(callback);
    Py_XDECREF(address);
    return reference;
}

static tt_executor *new_executor(PyObject *executor)
{
    tt_executor *result = NULL;
    PyObject *prefix = tt_py_own_attribute(executor, words.prefix);
    PyObject *workers = tt_py_own_attribute(executor, words.max_workers);
    if (prefix && PyUnicode_Check(prefix)) {
        long limit = workers && PyLong_Check(workers) ? PyLong_AsLong(workers) : 0;
        Py_ssize_t length = 0;
        const char *text = PyUnicode_AsUTF8AndSize(prefix, &length);
        if (!text) text = "";   // lone surrogates; it goes to `(other)`
        result = tt_executor_new(text, length < UINT32_MAX ? (uint32_t)length : UINT32_MAX, limit > 0 ? (uint32_t)limit : 0);
    }
    Py_XDECREF(prefix);
    Py_XDECREF(workers);
    PyErr_Clear();
    return result;
}

// Of the executor whose submit() is running; NULL without an exception if there is none that we understand.
static tt_executor *submitting(void)
{
    tt_pyframe *frame = tt_pyframe_current();
    PyCodeObject *code = frame ? tt_pyframe_code(frame) : NULL;
    PyObject *self = code && code->co_name == words.submit && code->co_argcount > 0 ? tt_pyframe_first_local(frame) : NULL;
    if (!self) return NULL;
    known **bucket = bucket_of(self), *found = *bucket;
    while (found && found->address != self) found = found->next;
    if (found && refers_to(found->reference, self)) return found->executor;
    if (found) {   // of one that has gone without a word, as when its reference was made by a finalizer
        PyObject *address = PyLong_FromVoidPtr(self), *gone = address ? forget(address, NULL) : NULL;
        Py_XDECREF(gone);
        Py_XDECREF(address);
        PyErr_Clear();
        if (!gone) return NULL;
    }
    known *one = PyMem_Malloc(sizeof *one);
    PyObject *reference = one ? watch_end(self) : NULL;
    tt_executor *executor = reference ? new_executor(self) : NULL;
    PyErr_Clear();
    if (!executor) {
        Py_XDECREF(reference);
        PyMem_Free(one);
        return NULL;
    }
    *one = (known){.next = *bucket, .address = self, .reference = reference, .executor = executor};
    return (*bucket = one)->executor;
}

// -- tasks ---------------------------------------------------------------------------------------------------------------

static void task_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    tt_task_drop(&((taskobject *)self)->task);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *new_task(void)
{
    if (tt_recorded_from == UINT32_MAX || !tt_the_segment.base) return NULL;
    tt_executor *executor = submitting();
    tt_task task;
    if (!executor || !tt_task_submit(&task, executor)) return NULL;
    taskobject *self = PyObject_New(taskobject, task_type);
    if (self)
        self->task = task;
    else
        tt_task_drop(&task);
    PyErr_Clear();
    return (PyObject *)self;
}

static inline PyObject **task_slot(PyObject *item) { return (PyObject **)((char *)item + task_offset); }

// function(self, *args, **kwargs)
static PyObject *call(PyObject *function, PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *few[8];
    Py_ssize_t total = nargs + (kwnames ? PyTuple_GET_SIZE(kwnames) : 0);
    PyObject **all = total < 8 ? few : PyMem_Malloc((size_t)(total + 1) * sizeof *all);
    if (!all) return PyErr_NoMemory();
    all[0] = self;
    for (Py_ssize_t i = 0; i < total; i++) all[i + 1] = args[i];
    PyObject *result = PyObject_Vectorcall(function, all, (size_t)nargs + 1, kwnames);
    if (all != few) PyMem_Free(all);
    return result;
}

static PyObject *item_init(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *result = call(stock_init, self, args, nargs, kwnames);
    if (result && watching && !*task_slot(self)) *task_slot(self) = new_task();
    return result;
}

// Whoever takes such an item from the queue does nothing with it.
static bool is_cancelled(PyObject *item)
{
    PyObject *future = PyObject_GetAttr(item, words.future);
    PyObject *state = future ? PyObject_GetAttr(future, words.state) : NULL;
    bool cancelled = state && PyUnicode_CheckExact(state) && PyUnicode_Compare(state, words.cancelled) == 0;
    Py_XDECREF(state);
    Py_XDECREF(future);
    PyErr_Clear();
    return cancelled;
}

static PyObject *item_run(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    taskobject *task = (taskobject *)*task_slot(self);
    if (!task || is_cancelled(self)) return call(stock_run, self, args, nargs, kwnames);
    Py_INCREF(task);
    tt_task_begin(&task->task);
    PyObject *result = call(stock_run, self, args, nargs, kwnames);
    tt_task_end(&task->task);
    Py_DECREF(task);
    return result;
}

// -- the exchange --------------------------------------------------------------------------------------------------------

static int add_method(PyObject *type, PyMethodDef *method)
{
    PyObject *descriptor = PyDescr_NewMethod((PyTypeObject *)type, method);
    int r = descriptor ? PyObject_SetAttrString(type, method->ml_name, descriptor) : -1;
    Py_XDECREF(descriptor);
    return r;
}

// A subclass of `stock` of the same name, with room for a task that no Python code sees.
static PyObject *make_item(PyObject *stock, Py_ssize_t *offset)
{
    static PyMethodDef init = {"__init__", (PyCFunction)(void (*)(void))item_init, METH_FASTCALL | METH_KEYWORDS, NULL};
    static PyMethodDef run = {"run", (PyCFunction)(void (*)(void))item_run, METH_FASTCALL | METH_KEYWORDS, NULL};
    PyObject *module = PyObject_GetAttrString(stock, "__module__"), *name = PyObject_GetAttrString(stock, "__qualname__");
    PyObject *type = NULL, *member = NULL;
    if (module && name)
        type = PyObject_CallFunction((PyObject *)&PyType_Type, "O(O){sOsOs(s)}", name, stock, "__module__", module,
                                     "__qualname__", name, "__slots__", "_task");
    if (type) member = PyObject_GetAttrString(type, "_task");
    bool made = member && Py_IS_TYPE(member, &PyMemberDescr_Type) && PyObject_DelAttrString(type, "_task") == 0
                && add_method(type, &init) == 0 && add_method(type, &run) == 0;
    if (made) *offset = ((PyMemberDescrObject *)member)->d_member->offset;
    Py_XDECREF(member);
    Py_XDECREF(module);
    Py_XDECREF(name);
    if (made) return type;
    Py_XDECREF(type);
    return NULL;
}

static bool adopt(PyObject *stock)
{
    if (stock == stock_item) return true;
    if (stock_item) return false;   // of another copy of the module: items of ours know one original
    Py_ssize_t offset = 0;
    PyObject *its_init = PyObject_GetAttrString(stock, "__init__"), *its_run = PyObject_GetAttrString(stock, "run");
    PyObject *type = its_init && its_run ? make_item(stock, &offset) : NULL;
    if (!type || stock_item) {   // making a class can run Python code, as it may collect garbage
        Py_XDECREF(type);
        Py_XDECREF(its_init);
        Py_XDECREF(its_run);
        return stock == stock_item;
    }
    stock_item = Py_NewRef(stock);
    stock_init = its_init;
    stock_run = its_run;
    task_offset = offset;
    our_item = type;
    return true;
}

// The globals of concurrent.futures.thread, borrowed; NULL if it is not imported.
static PyObject *globals_of_module(void)
{
    PyObject *module = PyImport_GetModule(words.module);
    PyObject *globals = module && PyModule_Check(module) ? PyModule_GetDict(module) : NULL;
    Py_XDECREF(module);   // sys.modules keeps it
    return globals;
}

static void exchange(void)
{
    PyObject *globals = globals_of_module();
    PyObject *item = globals ? PyDict_GetItemWithError(globals, words.item) : NULL;
    Py_XINCREF(globals);
    Py_XINCREF(item);
    if (item && PyType_Check(item) && watching && item != our_item && adopt(item)) PyDict_SetItem(globals, words.item, our_item);
    if (item && item == our_item && !watching) PyDict_SetItem(globals, words.item, stock_item);
    Py_XDECREF(item);
    Py_XDECREF(globals);
    PyErr_Clear();
}

void tt_py_pools_meet(void)
{
    if (watching) exchange();
}

PyDoc_STRVAR(watch_pools_doc,
"watch_pools($module, on, /)\n--\n\n"
"Take the time of tasks that ThreadPoolExecutors are given from now on, also if there are none yet; or no longer.");

static PyObject *watch_pools(PyObject *Py_UNUSED(module), PyObject *on)
{
    int is_on = PyObject_IsTrue(on);
    if (is_on < 0) return NULL;
    watching = is_on;
    exchange();
    Py_RETURN_NONE;
}

int tt_py_pool_add(PyObject *module)
{
    static PyType_Slot slots[] = {{Py_tp_dealloc, task_dealloc}, {0, NULL}};
    static PyType_Spec spec = {"tracedthread._task", sizeof(taskobject), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
    static PyMethodDef functions[] = {{"watch_pools", watch_pools, METH_O, watch_pools_doc}, {NULL, NULL, 0, NULL}};
    static const struct { PyObject **to; const char *text; } names[] = {
        {&words.prefix, "_thread_name_prefix"}, {&words.max_workers, "_max_workers"}, {&words.submit, "submit"},
        {&words.future, "future"}, {&words.state, "_state"}, {&words.cancelled, "CANCELLED"},
        {&words.module, "concurrent.futures.thread"}, {&words.item, "_WorkItem"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        Py_XSETREF(*names[i].to, PyUnicode_InternFromString(names[i].text));
        if (!*names[i].to) return -1;
    }
    Py_XSETREF(task_type, (PyTypeObject *)PyType_FromSpec(&spec));
    return task_type ? PyModule_AddFunctions(module, functions) : -1;
}
