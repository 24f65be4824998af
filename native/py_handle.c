#include "py_handle.h"
#if PY_VERSION_HEX < 0x030D0000

int tt_py_handle_add(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(stock)) { return 0; }

#else
#include "handle.h"
#include "py_name.h"
#include "py_site.h"
#include "py_thread.h"
#include "py_wait.h"
#include "record.h"

typedef struct handleobject {
    PyObject_HEAD
    tt_handle *handle;
} handleobject;

static PyTypeObject *handle_type;
static PyObject *stock_type, *stock_start_joinable, *stock_shutdown;   // the interpreter's own

// -- joining ---------------------------------------------------------------------------------------------------------

static int check_started(tt_handle *h)
{
    if (h->state >= TT_HANDLE_RUNNING) return 0;
    PyErr_SetString(PyExc_RuntimeError, "thread not started");
    return -1;
}

// What would never end. -1 and an exception.
static int check_joinable(tt_handle *h)
{
    if (tt_handle_exiting(h)) return 0;   // its ident may be another thread's by now
    if (h->ident == tt_thread_ident()) {
        PyErr_SetString(PyExc_RuntimeError, "Cannot join current thread");
        return -1;
    }
#if PY_VERSION_HEX >= 0x030E0000
    if (Py_IsFinalizing()) {
        PyErr_SetString(PyExc_PythonFinalizationError, "cannot join thread at interpreter shutdown");
        return -1;
    }
#endif
    return 0;
}

// Sleeps until the thread exits. `shown`: what other processes see of it, or NULL. `woken`: ticks, when it had.
static enum tt_outcome sleep_until_exit(tt_handle *h, int64_t deadline_ns, const tt_wait *shown, uint64_t *woken)
{
    uint32_t epoch = tt_fork_epoch;
    bool watched = deadline_ns < 0 && shown;
    tt_deadlock_watch watch = watched ? tt_deadlock_watch_begin() : (tt_deadlock_watch){.next_ns = -1};
    while (!tt_handle_exiting(h)) {
        PyThreadState *ts = PyEval_SaveThread();
        tt_status status = tt_handle_sleep(h, watched ? watch.next_ns : deadline_ns);
        if (status == TT_TIMED_OUT && watched && tt_process_ending) status = tt_handle_sleep(h, -1);   // see wait()
        *woken = tt_ticks();
        PyEval_RestoreThread(ts);
        if (status == TT_TIMED_OUT && !watched) return TT_TIMEOUT;
        if (status == TT_TIMED_OUT) tt_py_deadlock_look(&watch);
        if (status != TT_INTR && !tt_pysignal_pending()) continue;
        if (shown && epoch == tt_fork_epoch) tt_wait_hide();
        if (Py_MakePendingCalls() < 0) return TT_INTERRUPTED;
        if (shown && epoch == tt_fork_epoch) tt_wait_show(shown);   // a handler may have waited itself
    }
    return TT_ACQUIRED;
}

// As sleep_until_exit, on record as waiting for a thread.
static enum tt_outcome wait_until_exit(tt_handle *h, int64_t timeout_ns)
{
    if (tt_handle_exiting(h)) return TT_ACQUIRED;
    if (timeout_ns == 0) return TT_TIMEOUT;
    int64_t deadline_ns = tt_py_deadline(timeout_ns);
    uint64_t woken = tt_ticks();
    if (tt_recorded_from == UINT32_MAX) return sleep_until_exit(h, deadline_ns, NULL, &woken);
    tt_py_name_follow();
    uint32_t epoch = tt_fork_epoch;
    tt_wait wait = {.start = woken, .lock = h->ident, .stack = tt_py_stack(), .kind = TT_KIND_JOIN, .timed = timeout_ns >= 0};
    tt_wait_show(&wait);
    wait.outcome = sleep_until_exit(h, deadline_ns, &wait, &woken);
    wait.end = tt_ticks();
    wait.own_gil = wait.outcome == TT_ACQUIRED ? tt_elapsed(woken, wait.end) : 0;
    if (epoch == tt_fork_epoch) tt_wait_record(&wait);
    return wait.outcome;
}

// Joins the thread, which exits, with the operating system; once for all who ask. Also needs no handle that is running.
static int join_thread(tt_handle *h)
{
    while (h->state != TT_HANDLE_DONE) {
        if (tt_handle_join_begin(h)) {
            int error;
            Py_BEGIN_ALLOW_THREADS
            error = tt_handle_join_thread(h);
            Py_END_ALLOW_THREADS
            tt_handle_join_end(h, error);
            if (error) {
                PyErr_SetString(PyExc_RuntimeError, "Failed joining thread");
                return -1;
            }
        }
        else if (h->joining) {
            Py_BEGIN_ALLOW_THREADS
            tt_handle_join_wait(h);
            Py_END_ALLOW_THREADS
        }
    }
    return 0;
}

static int join(tt_handle *h, int64_t timeout_ns)
{
    if (check_started(h) < 0 || check_joinable(h) < 0) return -1;
    switch (wait_until_exit(h, timeout_ns)) {
    case TT_ACQUIRED: return join_thread(h);
    case TT_TIMEOUT: return 0;
    default: return -1;
    }
}

// -- the type --------------------------------------------------------------------------------------------------------

static handleobject *handle_create(PyTypeObject *type)
{
    handleobject *self = PyObject_New(handleobject, type);
    if (!self) return NULL;
    if (!(self->handle = tt_handle_new())) {
        Py_DECREF(self);
        PyErr_NoMemory();
        return NULL;
    }
    return self;
}

static PyObject *handle_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    return (PyObject *)handle_create(type);
}

static void handle_dealloc(handleobject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->handle) tt_handle_unref(self->handle);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *handle_repr(handleobject *self)
{
    return PyUnicode_FromFormat("<%s object: ident=%llu>", Py_TYPE(self)->tp_name, (unsigned long long)self->handle->ident);
}

static PyObject *handle_ident(handleobject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(self->handle->ident);
}

static PyObject *handle_join(handleobject *self, PyObject *args)
{
    PyObject *timeout = Py_None;
    if (!PyArg_ParseTuple(args, "|O:join", &timeout)) return NULL;
    int64_t timeout_ns = -1;
    if (timeout != Py_None && _PyTime_FromSecondsObject(&timeout_ns, timeout, _PyTime_ROUND_TIMEOUT) < 0) return NULL;
    Py_INCREF(self);   // a signal handler may drop the last reference
    int r = join(self->handle, timeout_ns);
    Py_DECREF(self);
    if (r < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *handle_is_done(handleobject *self, PyObject *Py_UNUSED(ignored))
{
    if (!tt_handle_exiting(self->handle)) Py_RETURN_FALSE;
    if (join_thread(self->handle) < 0) return NULL;
    Py_RETURN_TRUE;
}

static PyObject *handle_set_done(handleobject *self, PyObject *Py_UNUSED(ignored))
{
    tt_handle *h = self->handle;
    if (check_started(h) < 0) return NULL;
    while (h->joining) {
        Py_BEGIN_ALLOW_THREADS
        tt_handle_join_wait(h);
        Py_END_ALLOW_THREADS
    }
    if (h->state != TT_HANDLE_DONE && tt_handle_set_done(h) < 0) {
        PyErr_SetString(PyExc_RuntimeError, "failed detaching handle");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyTypeObject *make_type(void)
{
    static PyMethodDef methods[] = {{"join", (PyCFunction)handle_join, METH_VARARGS, NULL},
                                    {"_set_done", (PyCFunction)handle_set_done, METH_NOARGS, NULL},
                                    {"is_done", (PyCFunction)handle_is_done, METH_NOARGS, NULL},
                                    {NULL, NULL, 0, NULL}};
    static PyGetSetDef getset[] = {{"ident", (getter)handle_ident, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
    static PyType_Slot slots[] = {{Py_tp_dealloc, handle_dealloc}, {Py_tp_repr, handle_repr}, {Py_tp_methods, methods},
                                  {Py_tp_getset, getset}, {Py_tp_new, handle_new}, {0, NULL}};
    static PyType_Spec spec = {"_thread._ThreadHandle", sizeof(handleobject), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};
    return (PyTypeObject *)PyType_FromSpec(&spec);
}

// -- functions -------------------------------------------------------------------------------------------------------

// Marks the handle as started, so that nobody else starts it meanwhile, and starts it.
static int start(tt_handle *h, PyObject *function, bool daemon)
{
    if (tt_pythread_refuse_at_exit(PyInterpreterState_Get()) < 0) return -1;
    if (h->state != TT_HANDLE_NOT_STARTED) {
        PyErr_SetString(PyExc_RuntimeError, "thread already started");
        return -1;
    }
    PyObject *no_arguments = PyTuple_New(0);
    if (!no_arguments) return -1;
    h->state = TT_HANDLE_STARTING;
    if (!daemon) tt_handle_await(h, true);   // before it can end
    uint64_t ident = tt_py_thread_start(function, no_arguments, NULL, h, daemon);
    Py_DECREF(no_arguments);
    if (ident) return 0;
    tt_handle_await(h, false);
    tt_handle_failed(h);
    return -1;
}

// start_joinable_thread(function, handle=None, daemon=True)
static PyObject *start_joinable_thread(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"function", "handle", "daemon", NULL};
    PyObject *function, *handle = Py_None;
    int daemon = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|Op:start_joinable_thread", names, &function, &handle, &daemon)) return NULL;
    // That of a Thread made before we came: the interpreter's own start knows what to do with it.
    if (Py_IS_TYPE(handle, (PyTypeObject *)stock_type)) return PyObject_Call(stock_start_joinable, args, kwargs);
    if (!PyCallable_Check(function)) {
        PyErr_SetString(PyExc_TypeError, "thread function must be callable");
        return NULL;
    }
    if (handle != Py_None && !Py_IS_TYPE(handle, handle_type)) {
        PyErr_SetString(PyExc_TypeError, "'handle' must be a _ThreadHandle");
        return NULL;
    }
    if (PySys_Audit("_thread.start_joinable_thread", "OiO", function, daemon, handle) < 0) return NULL;
    PyObject *result = handle == Py_None ? (PyObject *)handle_create(handle_type) : Py_NewRef(handle);
    if (result && start(((handleobject *)result)->handle, function, daemon) < 0) Py_CLEAR(result);
    return result;
}

static PyObject *make_thread_handle(PyObject *Py_UNUSED(module), PyObject *ident)
{
    if (!PyLong_Check(ident)) {
        PyErr_SetString(PyExc_TypeError, "ident must be an integer");
        return NULL;
    }
    unsigned long long value = PyLong_AsUnsignedLongLong(ident);
    if (PyErr_Occurred()) return NULL;
    handleobject *self = handle_create(handle_type);
    if (self) tt_handle_adopt(self->handle, value);
    return (PyObject *)self;
}

// Waits for all threads that are no daemons, ours and those that the interpreter's own start has started: each may start
// another of either sort.
static PyObject *shutdown(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    for (;;) {
        for (tt_handle *h; (h = tt_handle_awaited(tt_thread_ident()));) {
            int r = join(h, -1);
            tt_handle_unref(h);
            if (r < 0) {
#if PY_VERSION_HEX >= 0x030F0000
                return NULL;
#elif PY_VERSION_HEX >= 0x030E0000
                PyErr_FormatUnraisable("Exception ignored while joining a thread in _thread._shutdown()");
#else
                PyErr_WriteUnraisable(NULL);
#endif
                Py_RETURN_NONE;
            }
        }
        PyObject *result = PyObject_CallNoArgs(stock_shutdown);
        tt_handle *left = result ? tt_handle_awaited(tt_thread_ident()) : NULL;
        if (!left) return result;
        tt_handle_unref(left);
        Py_DECREF(result);
    }
}

static PyMethodDef functions[] = {
    {"start_joinable_thread", (PyCFunction)(void (*)(void))start_joinable_thread, METH_VARARGS | METH_KEYWORDS, NULL},
    {"_make_thread_handle", make_thread_handle, METH_O, NULL},
    {"_shutdown", shutdown, METH_NOARGS, NULL},
};

int tt_py_handle_add(PyObject *module, PyObject *stock)
{
    Py_XSETREF(stock_type, PyObject_GetAttrString(stock, "_ThreadHandle"));
    Py_XSETREF(stock_start_joinable, PyObject_GetAttrString(stock, "start_joinable_thread"));
    Py_XSETREF(stock_shutdown, PyObject_GetAttrString(stock, "_shutdown"));
    Py_XSETREF(handle_type, make_type());
    if (!stock_type || !stock_start_joinable || !stock_shutdown || !handle_type) return -1;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (tt_py_add_function(module, stock, &functions[i]) < 0) return -1;
    return PyModule_AddObjectRef(module, "_ThreadHandle", (PyObject *)handle_type);
}
#endif
