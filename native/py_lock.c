#include "py_lock.h"
#include <stddef.h>
#include <string.h>
#include <structmember.h>
#include "py_site.h"
#include "py_thread.h"
#include "py_wait.h"
#include "record.h"

// Neither type is tracked by the garbage collector: a lock refers to nothing but its type.
typedef struct lockobject {
    PyObject_HEAD
    tt_lock lock;
    PyObject *weakrefs;
} lockobject;

typedef struct rlockobject {
    PyObject_HEAD
    tt_lock lock;
    PyObject *weakrefs;
    unsigned long owner;    // thread ident; 0 while free
    unsigned long count;    // of acquire() less release() by the owner
} rlockobject;

static PyTypeObject *lock_type, *rlock_type;   // of the main interpreter, the only one we serve

uint32_t tt_py_lock_site(PyObject *object)
{
    if (Py_IS_TYPE(object, lock_type)) return ((lockobject *)object)->lock.site;
    if (PyObject_TypeCheck(object, rlock_type)) return ((rlockobject *)object)->lock.site;
    return TT_SITE_UNRECORDED;
}

static inline void start(tt_lock *l, enum tt_lock_type type)
{
    l->site = tt_py_site(type);
    if (l->site >= TT_SITE_OTHER) tt_the_segment.stats[l->site].created++;
}

static inline void end(tt_lock *l)
{
    if (__builtin_expect(l->word != 0, 0)) tt_lock_dispose(l);
    if (l->site >= TT_SITE_OTHER) tt_the_segment.stats[l->site].destroyed++;
}

// -- lock ------------------------------------------------------------------------------------------------------------

PyObject *tt_py_lock_of_site(uint32_t site)
{
    lockobject *self = PyObject_New(lockobject, lock_type);
    if (!self) return NULL;
    self->lock = (tt_lock){.site = site};
    self->weakrefs = NULL;
    return (PyObject *)self;
}

void tt_py_lock_set_free(PyObject *lock)
{
    tt_lock *l = &((lockobject *)lock)->lock;
    if (tt_lock_held(l)) tt_lock_release(l, 0);
}

static PyObject *lock_create(PyTypeObject *type)
{
    lockobject *self = PyObject_New(lockobject, type);
    if (!self) return NULL;
    self->lock = (tt_lock){0};
    self->weakrefs = NULL;
    start(&self->lock, TT_LOCK);
    return (PyObject *)self;
}

// Refuses arguments of a type's call as the stock type does.
static int no_arguments(const char *name, Py_ssize_t nargs, Py_ssize_t nkeywords)
{
    if (nkeywords == 0 && nargs == 0) return 0;
#if PY_VERSION_HEX >= 0x030F0000
    const char *which = nargs ? "positional" : "keyword";
    PyErr_Format(PyExc_TypeError, "%s() takes no %s arguments", name, which);
#else
    if (nkeywords)
        PyErr_Format(PyExc_TypeError, "%s() takes no keyword arguments", name);
    else
        PyErr_Format(PyExc_TypeError, "%s expected 0 arguments, got %zd", name, nargs);
#endif
    return -1;
}

static PyObject *lock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (no_arguments("lock", PyTuple_GET_SIZE(args), kwargs ? PyDict_GET_SIZE(kwargs) : 0) < 0) return NULL;
    return lock_create(type);
}

// Spares `lock()` the tuple that tp_new would need.
static PyObject *lock_vectorcall(PyObject *type, PyObject *const *Py_UNUSED(args), size_t nargsf, PyObject *kwnames)
{
    if (no_arguments("lock", PyVectorcall_NARGS(nargsf), kwnames ? PyTuple_GET_SIZE(kwnames) : 0) < 0) return NULL;
    return lock_create((PyTypeObject *)type);
}

static void lock_dealloc(lockobject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->weakrefs) PyObject_ClearWeakRefs((PyObject *)self);
    end(&self->lock);
    PyObject_Free(self);
    Py_DECREF(type);
}

#define SLOW static __attribute__((noinline))
// At the start of a cache line: elsewhere a `with` costs up to 4 % more, as chance and the code around have it.
#define HOT static __attribute__((aligned(64)))

static inline PyObject *truth(int result) { return result < 0 ? NULL : Py_NewRef(result ? Py_True : Py_False); }

SLOW PyObject *lock_acquire_slow(lockobject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (!nargs && !kwnames && tt_lock_try_fast(&self->lock, 0, false)) Py_RETURN_TRUE;
    int64_t timeout_ns;
    if (tt_py_parse_acquire("acquire", args, nargs, kwnames, &timeout_ns) < 0) return NULL;
    return truth(tt_py_acquire_slow((PyObject *)self, &self->lock, TT_LOCK, timeout_ns, true));
}

HOT PyObject *lock_acquire(lockobject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (!nargs && !kwnames && tt_lock_try_fast(&self->lock, 0, true)) Py_RETURN_TRUE;
    return lock_acquire_slow(self, args, nargs, kwnames);
}

SLOW PyObject *lock_enter_slow(lockobject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    bool plain = !nargs && !kwnames;
    if (plain && (tt_lock_try_fast(&self->lock, TT_ENTERED, false) || tt_lock_enter(&self->lock))) Py_RETURN_TRUE;
    PyObject *obtained = lock_acquire_slow(self, args, nargs, kwnames);
    if (obtained == Py_True) tt_lock_set_entered(&self->lock);
    return obtained;
}

HOT PyObject *lock_enter(lockobject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (!nargs && !kwnames && tt_lock_try_fast(&self->lock, TT_ENTERED, true)) Py_RETURN_TRUE;
    return lock_enter_slow(self, args, nargs, kwnames);
}

// The obsolete alias. Only from 3.15 on do its errors speak of it by its name.
static PyObject *lock_acquire_lock(lockobject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t timeout_ns;
    const char *name = PY_VERSION_HEX >= 0x030F0000 ? "acquire_lock" : "acquire";
    if (tt_py_parse_acquire(name, args, nargs, kwnames, &timeout_ns) < 0) return NULL;
    return truth(tt_py_acquire_slow((PyObject *)self, &self->lock, TT_LOCK, timeout_ns, true));
}

SLOW PyObject *lock_release_slow(lockobject *self)
{
    if (tt_lock_release_fast(&self->lock, false)) Py_RETURN_NONE;
    uint32_t stack = tt_py_release_stack(&self->lock);
    if (!tt_lock_held(&self->lock)) {
        PyErr_SetString(PyExc_RuntimeError, "release unlocked lock");
        return NULL;
    }
    tt_lock_release(&self->lock, stack);
    Py_RETURN_NONE;
}

HOT PyObject *lock_release(lockobject *self, PyObject *Py_UNUSED(ignored))
{
    if (tt_lock_release_fast(&self->lock, true)) Py_RETURN_NONE;
    return lock_release_slow(self);
}

HOT PyObject *lock_exit(lockobject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return lock_release(self, NULL);
}

static PyObject *lock_locked(lockobject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(tt_lock_held(&self->lock));
}

static PyObject *lock_at_fork_reinit(lockobject *self, PyObject *Py_UNUSED(ignored))
{
    tt_lock_reset(&self->lock);
    Py_RETURN_NONE;
}

static PyObject *lock_repr(lockobject *self)
{
    return PyUnicode_FromFormat("<%s %s object at %p>", tt_lock_held(&self->lock) ? "locked" : "unlocked",
                                Py_TYPE(self)->tp_name, self);
}

static PyObject *allocate_lock(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) { return lock_create(lock_type); }

// -- RLock -----------------------------------------------------------------------------------------------------------

// 3.14 asks for the owner alone. That differs only after an _acquire_restore() with a count of 0.
static inline bool rlock_owned(const rlockobject *self)
{
    return self->owner == tt_thread_ident() && (self->count > 0 || PY_VERSION_HEX >= 0x030E0000);
}

static PyObject *rlock_create(PyTypeObject *type)
{
    rlockobject *self = (rlockobject *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    start(&self->lock, TT_RLOCK);
    return (PyObject *)self;
}

static PyObject *rlock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
#if PY_VERSION_HEX >= 0x030F0000
    bool has_init = type->tp_init != rlock_type->tp_init;   // a subclass with an __init__ that takes them
    if (!has_init && no_arguments("RLock", PyTuple_GET_SIZE(args), kwargs ? PyDict_GET_SIZE(kwargs) : 0) < 0) return NULL;
#else
    (void)args, (void)kwargs;   // swallowed, as by the stock type
#endif
    return rlock_create(type);
}

static void rlock_dealloc(rlockobject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->weakrefs) PyObject_ClearWeakRefs((PyObject *)self);
    end(&self->lock);
    type->tp_free(self);
    Py_DECREF(type);
}

// Takes it for this thread, `count` times. As tt_py_acquire_slow.
static int rlock_take(rlockobject *self, int64_t timeout_ns, bool interruptible, unsigned long count)
{
    int r = tt_py_acquire_slow((PyObject *)self, &self->lock, TT_RLOCK, timeout_ns, interruptible);
    if (r <= 0) return r;
    self->owner = tt_thread_ident();
    self->count = count;
    return 1;
}

static inline bool rlock_take_fast(rlockobject *self, bool tsc)
{
    if (!tt_lock_try_fast(&self->lock, 0, tsc)) return false;
    self->owner = tt_thread_ident();
    self->count = 1;
    return true;
}

SLOW PyObject *rlock_acquire_slow(rlockobject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (!nargs && !kwnames && rlock_take_fast(self, false)) Py_RETURN_TRUE;
    int64_t timeout_ns;
    if (tt_py_parse_acquire("acquire", args, nargs, kwnames, &timeout_ns) < 0) return NULL;
    if (!rlock_owned(self)) return truth(rlock_take(self, timeout_ns, true, 1));
    if (self->count + 1 == 0 && PY_VERSION_HEX < 0x030E0000) {
        PyErr_SetString(PyExc_OverflowError, "Internal lock count overflowed");
        return NULL;
    }
    self->count++;
    Py_RETURN_TRUE;
}

HOT PyObject *rlock_acquire(rlockobject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (!nargs && !kwnames && rlock_take_fast(self, true)) Py_RETURN_TRUE;
    return rlock_acquire_slow(self, args, nargs, kwnames);
}

static void rlock_free(rlockobject *self, uint32_t stack)
{
    self->owner = 0;
    self->count = 0;
    tt_lock_release(&self->lock, stack);
}

static inline bool rlock_free_fast(rlockobject *self, bool tsc)
{
    bool outermost = __builtin_expect(self->count == 1 && self->owner == tt_thread_ident(), 1);
    if (!outermost || !tt_lock_release_fast(&self->lock, tsc)) return false;
    self->owner = 0;
    self->count = 0;
    return true;
}

SLOW PyObject *rlock_release_slow(rlockobject *self)
{
    if (rlock_free_fast(self, false)) Py_RETURN_NONE;
    uint32_t stack = tt_py_release_stack(&self->lock);
    if (!rlock_owned(self)) {
        PyErr_SetString(PyExc_RuntimeError, "cannot release un-acquired lock");
        return NULL;
    }
    if (self->count == 1)
        rlock_free(self, stack);
    else
        self->count--;
    Py_RETURN_NONE;
}

HOT PyObject *rlock_release(rlockobject *self, PyObject *Py_UNUSED(ignored))
{
    if (rlock_free_fast(self, true)) Py_RETURN_NONE;
    return rlock_release_slow(self);
}

static PyObject *rlock_exit(rlockobject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return rlock_release(self, NULL);
}

static PyObject *rlock_locked(rlockobject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(tt_lock_held(&self->lock));
}

static PyObject *rlock_is_owned(rlockobject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(rlock_owned(self));
}

static PyObject *rlock_recursion_count(rlockobject *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(self->owner == tt_thread_ident() ? self->count : 0);
}

static PyObject *rlock_release_save(rlockobject *self, PyObject *Py_UNUSED(ignored))
{
    uint32_t stack = tt_py_release_stack(&self->lock);
    bool allowed = PY_VERSION_HEX >= 0x030E0000 ? rlock_owned(self) : self->count > 0;   // before 3.14 by any thread
    if (!allowed) {
        PyErr_SetString(PyExc_RuntimeError, "cannot release un-acquired lock");
        return NULL;
    }
    PyObject *saved = Py_BuildValue(PY_VERSION_HEX >= 0x030E0000 ? "nk" : "kk", self->count, self->owner);
    if (saved) rlock_free(self, stack);
    return saved;
}

static PyObject *rlock_restore(rlockobject *self, unsigned long count, unsigned long owner)
{
    if (PY_VERSION_HEX >= 0x030E0000 && rlock_owned(self))   // before 3.14 its thread waits for itself
        self->count = count;
    else if (rlock_take(self, -1, false, count) < 0)
        return NULL;
    self->owner = owner;
    Py_RETURN_NONE;
}

#if PY_VERSION_HEX >= 0x030F0000
#define PARSE_STATE PyArg_Parse
#define RESTORE_FLAGS METH_O
#else
#define PARSE_STATE PyArg_ParseTuple
#define RESTORE_FLAGS METH_VARARGS
#endif
static PyObject *rlock_acquire_restore(rlockobject *self, PyObject *args)
{
    unsigned long owner, count;
    const char *format = PY_VERSION_HEX >= 0x030E0000 ? "(nk):_acquire_restore" : "(kk):_acquire_restore";
    if (!PARSE_STATE(args, format, &count, &owner)) return NULL;
    return rlock_restore(self, count, owner);
}

static PyObject *rlock_at_fork_reinit(rlockobject *self, PyObject *Py_UNUSED(ignored))
{
    self->owner = 0;
    self->count = 0;
    tt_lock_reset(&self->lock);
    Py_RETURN_NONE;
}

static PyObject *rlock_repr(rlockobject *self)
{
#if PY_VERSION_HEX < 0x030D0000
    const char *format = "<%s %s object owner=%ld count=%lu at %p>";
#else
    const char *format = "<%s %s object owner=%lu count=%lu at %p>";
#endif
    bool locked = PY_VERSION_HEX >= 0x030E0000 ? tt_lock_held(&self->lock) : self->count > 0;
    return PyUnicode_FromFormat(format, locked ? "locked" : "unlocked",
                                Py_TYPE(self)->tp_name, self->owner, self->count, self);
}

// -- making the types ------------------------------------------------------------------------------------------------

#if PY_VERSION_HEX >= 0x030F0000
// 3.15 has no arguments for __enter__, and exactly three for __exit__.
HOT PyObject *lock_enter0(lockobject *self, PyObject *Py_UNUSED(ignored)) { return lock_enter(self, NULL, 0, NULL); }
HOT PyObject *rlock_enter0(rlockobject *self, PyObject *Py_UNUSED(ignored)) { return rlock_acquire(self, NULL, 0, NULL); }
#define ENTER(type) {"__enter__", (PyCFunction)type##_enter0, METH_NOARGS, NULL}
static int check_exit(Py_ssize_t nargs)
{
    if (nargs == 3) return 0;
    PyErr_Format(PyExc_TypeError, "__exit__ expected 3 arguments, got %zd", nargs);
    return -1;
}
HOT PyObject *lock_exit3(lockobject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return check_exit(nargs) < 0 ? NULL : lock_exit(self, args, nargs);
}
HOT PyObject *rlock_exit3(rlockobject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return check_exit(nargs) < 0 ? NULL : rlock_exit(self, args, nargs);
}
#define EXIT(type) {"__exit__", (PyCFunction)(void (*)(void))type##_exit3, METH_FASTCALL, NULL}
#else
#define ENTER(type) {"__enter__", (PyCFunction)(void (*)(void))type##_enter, METH_FASTCALL | METH_KEYWORDS, NULL}
#define rlock_enter rlock_acquire
#define EXIT(type) {"__exit__", (PyCFunction)(void (*)(void))type##_exit, METH_FASTCALL, NULL}
#endif
#define ACQUIRE(name, type) {name, (PyCFunction)(void (*)(void))type##_acquire, METH_FASTCALL | METH_KEYWORDS, NULL}

// In the stock types' order. Those that this interpreter's type lacks are left out.
static PyMethodDef lock_methods[] = {
    {"acquire_lock", (PyCFunction)(void (*)(void))lock_acquire_lock, METH_FASTCALL | METH_KEYWORDS, NULL},
    ACQUIRE("acquire", lock),
    {"release_lock", (PyCFunction)lock_release, METH_NOARGS, NULL},
    {"release", (PyCFunction)lock_release, METH_NOARGS, NULL},
    {"locked_lock", (PyCFunction)lock_locked, METH_NOARGS, NULL},
    {"locked", (PyCFunction)lock_locked, METH_NOARGS, NULL},
    ENTER(lock),
    EXIT(lock),
    {"_at_fork_reinit", (PyCFunction)lock_at_fork_reinit, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef rlock_methods[] = {
    ACQUIRE("acquire", rlock),
    {"release", (PyCFunction)rlock_release, METH_NOARGS, NULL},
    {"locked", (PyCFunction)rlock_locked, METH_NOARGS, NULL},
    {"_is_owned", (PyCFunction)rlock_is_owned, METH_NOARGS, NULL},
    {"_acquire_restore", (PyCFunction)rlock_acquire_restore, RESTORE_FLAGS, NULL},
    {"_release_save", (PyCFunction)rlock_release_save, METH_NOARGS, NULL},
    {"_recursion_count", (PyCFunction)rlock_recursion_count, METH_NOARGS, NULL},
    ENTER(rlock),
    EXIT(rlock),
    {"_at_fork_reinit", (PyCFunction)rlock_at_fork_reinit, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef lock_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(lockobject, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyMemberDef rlock_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(rlockobject, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

// Keeps of `methods` what the stock type has, under its docstrings (which begin with the text signature). The docstrings
// are static memory of the interpreter.
static void like_stock(PyMethodDef *methods, PyTypeObject *stock)
{
    PyMethodDef *to = methods;
    for (PyMethodDef *from = methods; from->ml_name; from++) {
        PyObject *descriptor = PyDict_GetItemString(stock->tp_dict, from->ml_name);
        if (!descriptor || !Py_IS_TYPE(descriptor, &PyMethodDescr_Type)) continue;
        *to = *from;
        to->ml_doc = ((PyMethodDescrObject *)descriptor)->d_method->ml_doc;
        to++;
    }
    *to = (PyMethodDef){NULL, NULL, 0, NULL};
}

static PyTypeObject *stock_type(PyObject *stock, const char *name)
{
    PyObject *type = PyObject_GetAttrString(stock, name);
    if (type && !PyType_Check(type)) Py_CLEAR(type);
    return (PyTypeObject *)type;
}

static PyTypeObject *make_type(PyType_Spec *spec, PyMethodDef *methods, PyTypeObject *stock)
{
    like_stock(methods, stock);
    for (PyType_Slot *slot = spec->slots; slot->slot; slot++)
        if (slot->slot == Py_tp_doc) slot->pfunc = (void *)stock->tp_doc;
    return (PyTypeObject *)PyType_FromSpec(spec);
}

static PyTypeObject *make_lock_type(PyTypeObject *stock)
{
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, lock_dealloc}, {Py_tp_repr, lock_repr},       {Py_tp_methods, lock_methods},
        {Py_tp_members, lock_members}, {Py_tp_doc, NULL},             {Py_tp_new, lock_new}, {0, NULL}};
    static PyType_Spec spec = {"_thread.lock", sizeof(lockobject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};
#if PY_VERSION_HEX < 0x030D0000
    // Up to 3.12 locks come from allocate_lock() alone.
    spec.flags |= Py_TPFLAGS_DISALLOW_INSTANTIATION;
    slots[sizeof slots / sizeof *slots - 2] = (PyType_Slot){0, NULL};
#endif
    PyTypeObject *type = make_type(&spec, lock_methods, stock);
#if PY_VERSION_HEX >= 0x030D0000
    if (type) type->tp_vectorcall = lock_vectorcall;
#else
    (void)lock_new, (void)lock_vectorcall;
#endif
    return type;
}

static PyTypeObject *make_rlock_type(PyTypeObject *stock)
{
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, rlock_dealloc}, {Py_tp_repr, rlock_repr}, {Py_tp_methods, rlock_methods}, {Py_tp_members, rlock_members},
        {Py_tp_doc, NULL}, {Py_tp_new, rlock_new}, {Py_tp_alloc, PyType_GenericAlloc}, {0, NULL}};
    static PyType_Spec spec = {"_thread.RLock", sizeof(rlockobject), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE, slots};
    return make_type(&spec, rlock_methods, stock);
}

static PyMethodDef factories[] = {{"allocate_lock", allocate_lock, METH_NOARGS, NULL}, {"allocate", allocate_lock, METH_NOARGS, NULL}};

int tt_py_lock_add(PyObject *module, PyObject *stock)
{
    PyTypeObject *stock_lock = stock_type(stock, "LockType"), *stock_rlock = stock_type(stock, "RLock");
    int r = -1;
    if (!stock_lock || !stock_rlock) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ImportError, "_thread.LockType or RLock is no type");
        goto done;
    }
    Py_XSETREF(lock_type, make_lock_type(stock_lock));
    Py_XSETREF(rlock_type, make_rlock_type(stock_rlock));
    if (!lock_type || !rlock_type) goto done;
    if (PyModule_AddObjectRef(module, "lock", (PyObject *)lock_type) < 0) goto done;
    if (PyModule_AddObjectRef(module, "RLock", (PyObject *)rlock_type) < 0) goto done;
    for (size_t i = 0; i < sizeof factories / sizeof *factories; i++)
        if (tt_py_add_function(module, stock, &factories[i]) < 0) goto done;
    r = 0;
done:
    Py_XDECREF(stock_lock);
    Py_XDECREF(stock_rlock);
    return r;
}
