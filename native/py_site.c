#include "py_site.h"
#include <string.h>
#include "intern.h"
#include "lock.h"
#include "py_code.h"
#include "py_lock.h"
#include "py_pool.h"
#include "py_stack.h"
#include "py_text.h"
#include "segment.h"

enum { SITE_CACHE = 1024 };

// A direct-mapped cache by code and offset; what it forgets is found again through the capture's own records.
static struct { uint32_t code, offset, type, site; uint64_t inner; } site_cache[SITE_CACHE];

static PyObject *lock_key, *wrapped_key;

int tt_py_site_init(void)
{
    Py_XSETREF(lock_key, PyUnicode_InternFromString("_lock"));
    Py_XSETREF(wrapped_key, PyUnicode_InternFromString("__wrapped__"));
    if (!lock_key || !wrapped_key) return -1;
    if (tt_fork_watch() < 0) {
        PyErr_NoMemory();
        return -1;
    }
    return tt_py_code_init();
}

PyObject *tt_py_site_configure(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"hidden_files", "wrapper_files", "roles", "opcodes", NULL};
    PyObject *hidden_files, *wrapper_files, *roles, *opcodes;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$O!O!O!O!:configure", names, &PyTuple_Type, &hidden_files, &PyTuple_Type,
                                     &wrapper_files, &PyDict_Type, &roles, &PyDict_Type, &opcodes))
        return NULL;
    if (tt_py_store_configure(opcodes) < 0) return NULL;
    if (tt_py_code_configure(hidden_files, wrapper_files, roles) < 0) return NULL;
    Py_RETURN_NONE;
}

uint32_t tt_py_text(PyObject *text)
{
    char utf8[TT_TEXT_MAX];
    return text && PyUnicode_Check(text) ? tt_intern_text(utf8, (uint32_t)tt_py_utf8(utf8, sizeof utf8, text)) : 0;
}

// `inner` is the outermost of the hidden frames between the creating function and the lock, or NULL.
static uint32_t meet_site(tt_pyframe *frame, tt_py_code *known, tt_pyframe *inner, enum tt_lock_type type)
{
    PyCodeObject *code = tt_pyframe_code(frame);
    int offset = tt_pyframe_offset(frame), line = PyCode_Addr2Line(code, offset);
    tt_site site = {.file = known->file, .function = known->function, .line = line > 0 ? (uint32_t)line : 0, .type = type};
    uint32_t member = 0;
    site.name = tt_py_store_name(code, offset, known, site.line, &member);
    const tt_py_code *inside = inner ? tt_py_code_of(inner) : NULL;
    if (inside) {   // q = Queue(): the lock is q.mutex
        tt_py_store_name(tt_pyframe_code(inner), tt_pyframe_offset(inner), inside, 0, &member);
        if (member) {
            char name[600];
            uint32_t outer_length, member_length;
            const char *outer = tt_the_segment.strings + site.name, *last = tt_the_segment.strings + member;
            memcpy(&outer_length, outer, 4);
            memcpy(&member_length, last, 4);
            int n = snprintf(name, sizeof name, "%.*s.%.*s", (int)outer_length, outer + 4, (int)member_length, last + 4);
            site.name = tt_intern_text(name, (uint32_t)(n < (int)sizeof name ? n : (int)sizeof name - 1));
        }
    }
    site.stack = tt_py_stack_of(frame);
    uint32_t id = tt_intern_site(&site);
    if (known->role == TT_ROLE_POOL_MAKER) tt_py_pools_meet();   // last: it makes a class, and that can run Python code
    return id;
}

uint32_t tt_py_site(enum tt_lock_type type)
{
    if (!tt_the_segment.base) return TT_SITE_UNRECORDED;
    tt_pyframe *frame = tt_pyframe_current(), *inner = NULL;
    tt_py_code *known = NULL;
    uint64_t path = 0;   // which way through the hidden frames
    for (; frame; inner = frame, frame = tt_pyframe_caller(frame)) {
        known = tt_py_code_of(frame);
        if (!known) return TT_SITE_OTHER;
        if (known->role == TT_ROLE_WAITER_MAKER && !inner) return TT_SITE_WAITER;
        if (!known->hidden || !known->maker) break;   // what threading makes for itself is its own
        path = (path ^ ((uint64_t)known->id << 32 | (uint32_t)tt_pyframe_offset(frame))) * 0x9e3779b97f4a7c15u;
    }
    if (!frame) return TT_SITE_OTHER;   // created by C code alone
    uint32_t offset = (uint32_t)tt_pyframe_offset(frame);
    if (known->last_site && known->last_offset == offset && known->last_type == type && known->last_inner == path)
        return known->last_site;
    uint32_t i = (uint32_t)((known->id * 31 + offset / 2 + (uint32_t)(path >> 32)) * 2 + type) % SITE_CACHE;
    if (site_cache[i].code != known->id || site_cache[i].offset != offset || site_cache[i].type != type
        || site_cache[i].inner != path) {
        site_cache[i].site = meet_site(frame, known, inner, type);
        site_cache[i].code = known->id;
        site_cache[i].offset = offset;
        site_cache[i].type = type;
        site_cache[i].inner = path;
    }
    known->last_offset = offset;
    known->last_type = type;
    known->last_inner = path;
    return known->last_site = site_cache[i].site;
}

// The site of a lock, or of the one that another tool's keeps in a slot: to read that runs no code.
static uint32_t site_within(PyObject *lock)
{
    PyObject *slot = _PyType_Lookup(Py_TYPE(lock), wrapped_key);
    if (!slot || !Py_IS_TYPE(slot, &PyMemberDescr_Type)) return tt_py_lock_site(lock);
    PyObject *wrapped = Py_TYPE(slot)->tp_descr_get(slot, lock, (PyObject *)Py_TYPE(lock));
    if (!wrapped) PyErr_Clear();
    uint32_t site = wrapped ? tt_py_lock_site(wrapped) : TT_SITE_OTHER;
    Py_XDECREF(wrapped);
    return site;
}

// The site of the lock of the Condition whose wait() is `frame`.
static uint32_t condition_site(tt_pyframe *frame)
{
    // Anybody may wait for such a lock (a __del__, a module's body); only in Condition.wait is the first local a Condition.
    const tt_py_code *known = tt_py_code_of(frame);
    bool in_wait = known && known->role == TT_ROLE_WAITER_MAKER && tt_pyframe_code(frame)->co_argcount > 0;
    PyObject *condition = in_wait ? tt_pyframe_first_local(frame) : NULL;
    PyObject *lock = condition ? tt_py_own_attribute(condition, lock_key) : NULL;
    uint32_t site = lock ? site_within(lock) : TT_SITE_OTHER;
    Py_XDECREF(lock);
    return site >= TT_SITE_OTHER ? site : TT_SITE_OTHER;
}

tt_py_wait_place tt_py_wait_site(uint32_t site, enum tt_lock_type type)
{
    tt_pyframe *frame = tt_pyframe_current();
    tt_py_wait_place place = {site, tt_py_stack_of(frame), type == TT_RLOCK ? TT_KIND_RLOCK : TT_KIND_LOCK};
    if (site != TT_SITE_WAITER) return place;
    place.kind = TT_KIND_CONDITION;
    place.site = frame ? condition_site(frame) : TT_SITE_OTHER;
    for (; frame; frame = tt_pyframe_caller(frame)) {   // the outermost that says what it waits for knows best
        const tt_py_code *known = tt_py_code_of(frame);
        if (!known || (known->role == TT_ROLE_NONE && !known->hidden)) break;
        if (known->role >= 0) place.kind = (enum tt_kind)known->role;
    }
    if (place.kind == TT_KIND_JOIN) place.site = TT_SITE_UNRECORDED;   // the lock that says that a thread has ended
    return place;
}

bool tt_py_is_probe(void)
{
    const tt_py_code *known = NULL;
    for (tt_pyframe *frame = tt_pyframe_current(); frame; frame = tt_pyframe_caller(frame)) {
        known = tt_py_code_of(frame);
        if (!known || !known->wrapper) break;
    }
    return known && known->role == TT_ROLE_PROBE;
}

PyObject *tt_py_own_attribute(PyObject *object, PyObject *name)
{
    PyTypeObject *type = Py_TYPE(object);
    if (type->tp_getattro != PyObject_GenericGetAttr || _PyType_Lookup(type, name)) return NULL;
    PyObject *value = PyObject_GenericGetAttr(object, name);
    if (!value) PyErr_Clear();
    return value;
}

uint32_t tt_py_function_name(PyObject *callable)
{
    if (PyMethod_Check(callable)) callable = PyMethod_GET_FUNCTION(callable);
    if (PyFunction_Check(callable)) return tt_py_text(((PyFunctionObject *)callable)->func_qualname);
    if (PyCFunction_Check(callable)) {
        const char *name = ((PyCFunctionObject *)callable)->m_ml->ml_name;
        return tt_intern_text(name, (uint32_t)strlen(name));
    }
    const char *name = (PyType_Check(callable) ? (PyTypeObject *)callable : Py_TYPE(callable))->tp_name;
    return tt_intern_text(name, (uint32_t)strlen(name));
}
