#include "py_still.h"
#include <stdbool.h>
#include <stdint.h>
#include "clock.h"

// What a fork calls is C: the interpreter prints and drops what a signal handler raises in a hook, and skips the rest of it.
// For the same reason a signal that comes while a fork waits is handled there: left alone, it would be in the next hook that
// is Python code, such as logging's. What its handler raises is kept, and raised where os.fork() has returned to.

enum { PATIENCE_NS = 100000000 };

typedef struct stillobject {
    PyObject_HEAD
    PyThread_type_lock lock;         // held during a round, and while threads fork
    bool has_round;
    uint32_t forks;                  // threads that fork at this moment
    unsigned long ident;             // of the thread that has the rounds
    uint64_t rounds, impatient_at;   // nobody waits a second time for the same round
} stillobject;

static PyTypeObject *still_type;
static stillobject *watched;                                         // owned
static _Thread_local struct { stillobject *still; int forks; } held; // by a thread that forks, whose hooks may fork again; owned
static _Thread_local struct { PyObject *exception; tt_pyframe *frame; } kept;   // raised for the caller of os.fork()

// -- what a signal handler has raised ------------------------------------------------------------------------------------

static void keep_exception(void)
{
    Py_XSETREF(kept.exception, PyErr_GetRaisedException());
    kept.frame = tt_pyframe_current();
}

static void raise_exception(void)
{
    PyObject *exception = kept.exception;
    kept.exception = NULL;
    PyErr_SetRaisedException(exception);
}

// A pending call, of the main thread, as all handlers are.
static int raise_kept(void *ignored)
{
    if (!kept.exception) return 0;
    tt_pyframe *now = tt_pyframe_current(), *frame = now;
    while (frame && frame != kept.frame) frame = tt_pyframe_caller(frame);
    bool is_in_hook = frame && frame != now;   // called by the fork, directly or not
    if (is_in_hook && Py_AddPendingCall(raise_kept, ignored) == 0) return 0;
    raise_exception();
    return -1;
}

// -- rounds --------------------------------------------------------------------------------------------------------------

static PyObject *still_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    stillobject *self = (stillobject *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->impatient_at = UINT64_MAX;
    self->lock = PyThread_allocate_lock();
    if (self->lock) return (PyObject *)self;
    Py_DECREF(self);
    return PyErr_NoMemory();
}

static void still_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (((stillobject *)self)->lock) PyThread_free_lock(((stillobject *)self)->lock);
    type->tp_free(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(enter_doc,
"__enter__($self, /)\n--\n\n"
"Begin a round: wait for a fork that is under way.");

static PyObject *still_enter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    stillobject *self = (stillobject *)op;
    self->ident = PyThread_get_thread_ident();
    Py_BEGIN_ALLOW_THREADS
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    Py_END_ALLOW_THREADS
    self->rounds++;
    self->has_round = true;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(exit_doc,
"__exit__($self, kind, value, traceback, /)\n--\n\n"
"End a round.");

static PyObject *still_exit(PyObject *op, PyObject *Py_UNUSED(args))
{
    stillobject *self = (stillobject *)op;
    if (!self->has_round) return PyErr_Format(PyExc_RuntimeError, "there is no round");
    self->has_round = false;
    PyThread_release_lock(self->lock);
    Py_RETURN_NONE;
}

// -- forks ---------------------------------------------------------------------------------------------------------------

PyDoc_STRVAR(watch_forks_doc,
"watch_forks($module, still, /)\n--\n\n"
"From now on forks wait until this Still has no round, up to 0.1 s; None: for nothing.");

static PyObject *watch_forks(PyObject *Py_UNUSED(module), PyObject *still)
{
    if (still != Py_None && !Py_IS_TYPE(still, still_type)) return PyErr_Format(PyExc_TypeError, "a Still or None expected");
    stillobject *before = watched;
    watched = still == Py_None ? NULL : (stillobject *)Py_NewRef(still);
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

// Until no round is under way, or another thread forks; false if that takes too long, or a signal handler raised.
static bool wait_for_round(stillobject *s)
{
    uint64_t end = tt_clock_monotonic_ns() + PATIENCE_NS;
    for (uint64_t now; !s->forks && (now = tt_clock_monotonic_ns()) < end;) {
        PyLockStatus status;
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(s->lock, (PY_TIMEOUT_T)((end - now + 999) / 1000), 1);
        Py_END_ALLOW_THREADS
        if (status == PY_LOCK_ACQUIRED) return true;
        if (status == PY_LOCK_INTR && PyErr_CheckSignals() < 0) {
            keep_exception();
            return false;
        }
    }
    if (!s->forks) s->impatient_at = s->rounds;
    return false;
}

PyDoc_STRVAR(before_fork_doc,
"before_fork($module, /)\n--\n\n"
"Wait until no round is under way, and let none begin.");

static PyObject *before_fork(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    if (held.still) {
        held.forks++;
        Py_RETURN_NONE;
    }
    stillobject *s = watched;
    if (!s || s->ident == PyThread_get_thread_ident()) Py_RETURN_NONE;
    Py_INCREF(s);
    bool got = s->forks || PyThread_acquire_lock(s->lock, NOWAIT_LOCK);
    if (!got && s->impatient_at != s->rounds) got = wait_for_round(s) || s->forks;
    if (!got) {
        Py_DECREF(s);
        Py_RETURN_NONE;
    }
    s->forks++;
    held.still = s;
    held.forks = 1;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(after_fork_doc,
"after_fork($module, /)\n--\n\n"
"In the parent, undo before_fork.");

static PyObject *after_fork(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    if (held.still && --held.forks == 0) {
        stillobject *s = held.still;
        held.still = NULL;
        if (--s->forks == 0) PyThread_release_lock(s->lock);
        Py_DECREF(s);
    }
    if (kept.exception && !held.still && Py_AddPendingCall(raise_kept, NULL) < 0) {
        raise_exception();
        return NULL;   // is printed
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(after_fork_in_child_doc,
"after_fork_in_child($module, /)\n--\n\n"
"In a child, forget about the parent's Still, whose lock is as it is.");

static PyObject *after_fork_in_child(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    watched = held.still = NULL;   // never given back: freeing a lock that somebody has is not for us to try
    held.forks = 0;
    Py_CLEAR(kept.exception);      // the signal was the parent's
    Py_RETURN_NONE;
}

int tt_py_still_add(PyObject *module)
{
    static PyMethodDef methods[] = {
        {"__enter__", still_enter, METH_NOARGS, enter_doc},
        {"__exit__", still_exit, METH_VARARGS, exit_doc},
        {NULL, NULL, 0, NULL},
    };
    static PyType_Slot slots[] = {{Py_tp_new, still_new}, {Py_tp_dealloc, still_dealloc}, {Py_tp_methods, methods}, {0, NULL}};
    static PyType_Spec spec = {"tracedthread._types.Still", sizeof(stillobject), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};
    static PyMethodDef functions[] = {
        {"watch_forks", watch_forks, METH_O, watch_forks_doc},
        {"before_fork", before_fork, METH_NOARGS, before_fork_doc},
        {"after_fork", after_fork, METH_NOARGS, after_fork_doc},
        {"after_fork_in_child", after_fork_in_child, METH_NOARGS, after_fork_in_child_doc},
        {NULL, NULL, 0, NULL},
    };
    Py_XSETREF(still_type, (PyTypeObject *)PyType_FromSpec(&spec));
    if (!still_type || PyModule_AddObjectRef(module, "Still", (PyObject *)still_type) < 0) return -1;
    return PyModule_AddFunctions(module, functions);
}
