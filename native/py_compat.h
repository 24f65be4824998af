// What differs between CPython 3.10 and 3.15: walking frames, and a few names. Include it before anything of Python.
//
// Frames are read from the interpreter's own structures, not through PyThreadState_GetFrame: that makes a frame object
// of every frame it passes (40 ns each, paid again when the function returns), and on 3.11 its allocation can run the
// garbage collector, and so anybody's __del__, inside acquire().
#ifndef TT_PY_COMPAT_H
#define TT_PY_COMPAT_H
#define PY_SSIZE_T_CLEAN
#define Py_BUILD_CORE 1
#include <Python.h>
#include <stdbool.h>
#if PY_VERSION_HEX < 0x030A0000 || PY_VERSION_HEX >= 0x03100000
#error "tracedthread knows CPython 3.10 to 3.15"
#endif
#include "internal/pycore_ceval.h"
#include "internal/pycore_interp.h"
#include "internal/pycore_pylifecycle.h"
#include "internal/pycore_pystate.h"
#if PY_VERSION_HEX >= 0x030D0000
#include "internal/pycore_pythread.h"
#include "internal/pycore_signal.h"
#include "internal/pycore_time.h"
#endif
#if PY_VERSION_HEX < 0x030B0000
#include <frameobject.h>
typedef PyFrameObject tt_pyframe;
#else
#include "internal/pycore_frame.h"
#if PY_VERSION_HEX >= 0x030E0000
#include "internal/pycore_interpframe.h"
#endif
typedef struct _PyInterpreterFrame tt_pyframe;
#endif

#if PY_VERSION_HEX < 0x030C0000
static inline PyObject *PyErr_GetRaisedException(void)
{
    PyObject *type, *exception, *traceback;
    PyErr_Fetch(&type, &exception, &traceback);
    PyErr_NormalizeException(&type, &exception, &traceback);
    if (traceback) PyException_SetTraceback(exception, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return exception;
}

static inline void PyErr_SetRaisedException(PyObject *exception)
{
    PyErr_Restore(Py_NewRef(PyExceptionInstance_Class(exception)), exception, PyException_GetTraceback(exception));
}

#define PyUnstable_Code_GetExtra _PyCode_GetExtra
#define PyUnstable_Code_SetExtra _PyCode_SetExtra
#define PyUnstable_Eval_RequestCodeExtraIndex _PyEval_RequestCodeExtraIndex
#endif

#if PY_VERSION_HEX < 0x030D0000
#define PyThreadState_GetUnchecked _PyThreadState_UncheckedGet
#endif

// PyThread_get_thread_ident() without its two calls. Module exec checks that they agree.
static inline unsigned long tt_thread_ident(void)
{
#if defined(__x86_64__) && defined(__GLIBC__)
    return (unsigned long)__builtin_thread_pointer();
#else
    return PyThread_get_thread_ident();
#endif
}

// Passes over frames that are no function's: marks of where C called the interpreter, the helper under `__init__`, and
// functions that have not begun yet.
static inline tt_pyframe *tt_pyframe_visible(tt_pyframe *f)
{
#if PY_VERSION_HEX >= 0x030B0000
    while (f && _PyFrame_IsIncomplete(f)) f = f->previous;
#endif
    return f;
}

// The innermost frame of a thread that does not run now, or is the current one.
static inline tt_pyframe *tt_pyframe_current_of(PyThreadState *ts)
{
#if PY_VERSION_HEX < 0x030B0000
    return ts->frame;
#elif PY_VERSION_HEX < 0x030D0000
    return tt_pyframe_visible(ts->cframe->current_frame);
#else
    return tt_pyframe_visible(ts->current_frame);
#endif
}

static inline tt_pyframe *tt_pyframe_current(void) { return tt_pyframe_current_of(PyThreadState_Get()); }

static inline tt_pyframe *tt_pyframe_caller(tt_pyframe *f)
{
#if PY_VERSION_HEX < 0x030B0000
    return f->f_back;
#else
    return tt_pyframe_visible(f->previous);
#endif
}

static inline PyCodeObject *tt_pyframe_code(tt_pyframe *f)
{
#if PY_VERSION_HEX < 0x030D0000
    return f->f_code;
#else
    return _PyFrame_GetCode(f);
#endif
}

// Byte offset of the instruction it executes.
static inline int tt_pyframe_offset(tt_pyframe *f)
{
#if PY_VERSION_HEX < 0x030B0000
    int index = f->f_lasti;
#else
    int index = _PyInterpreterFrame_LASTI(f);
#endif
    return index > 0 ? index * (int)sizeof(_Py_CODEUNIT) : 0;
}

// A number for the code object and the instruction together, no other's while the code object lives.
static inline uint64_t tt_pyframe_place(tt_pyframe *f)
{
#if PY_VERSION_HEX < 0x030B0000
    return (uint64_t)(uintptr_t)f->f_code + ((uint64_t)(uint32_t)f->f_lasti << 48) + ((uint64_t)(uint32_t)f->f_lasti << 1);
#elif PY_VERSION_HEX < 0x030D0000
    return (uint64_t)(uintptr_t)f->prev_instr;
#else
    return (uint64_t)(uintptr_t)f->instr_ptr;
#endif
}

// The first local variable (`self` in a method), borrowed; NULL when unset.
static inline PyObject *tt_pyframe_first_local(tt_pyframe *f)
{
#if PY_VERSION_HEX < 0x030B0000
    return f->f_localsplus[0];
#elif PY_VERSION_HEX < 0x030E0000
    return f->localsplus[0];
#else
    return PyStackRef_IsNull(f->localsplus[0]) ? NULL : PyStackRef_AsPyObjectBorrow(f->localsplus[0]);
#endif
}

// The name of a fast local, cell or free variable, borrowed.
static inline PyObject *tt_pycode_local_name(PyCodeObject *code, unsigned index, int is_deref)
{
#if PY_VERSION_HEX < 0x030B0000
    PyObject *names = code->co_varnames;
    if (is_deref) {
        names = code->co_cellvars;
        if (index >= (size_t)PyTuple_GET_SIZE(names)) {
            index -= (unsigned)PyTuple_GET_SIZE(names);
            names = code->co_freevars;
        }
    }
#else
    (void)is_deref;
    PyObject *names = code->co_localsplusnames;
#endif
    return index < (size_t)PyTuple_GET_SIZE(names) ? PyTuple_GET_ITEM(names, index) : NULL;
}

// The bytecode as compiled, without the interpreter's specialisations; a new reference.
static inline PyObject *tt_pycode_bytes(PyCodeObject *code)
{
#if PY_VERSION_HEX < 0x030B0000
    return Py_NewRef(code->co_code);
#else
    return PyCode_GetCode(code);
#endif
}

// Whether a signal waits for its Python handler, which the calling thread has to run: of the main thread.
static inline bool tt_pysignal_pending(void)
{
#if PY_VERSION_HEX < 0x030D0000
    return _Py_atomic_load_relaxed(&_PyRuntime.ceval.signals_pending) && _Py_IsMainThread();
#else
    return _Py_eval_breaker_bit_is_set(PyThreadState_Get(), _PY_SIGNALS_PENDING_BIT);
#endif
}

// -- starting threads: what CPython's own thread_run and its callers do, by version ----------------------------------

// The count of _thread._count().
static inline void tt_pythread_count(PyInterpreterState *interp, int change)
{
#if PY_VERSION_HEX < 0x030B0000
    interp->num_threads += change;
#else
    interp->threads.count += change;
#endif
}

// Whether the fields of PyInterpreterState and PyThreadState that we use lie where this extension was compiled to find
// them, to judge by what the interpreter's functions say.
static inline bool tt_pythread_layout_is_known(PyInterpreterState *interp, long count)
{
    PyThreadState *ts = PyThreadState_Get();
#if PY_VERSION_HEX < 0x030B0000
    bool known = interp->tstate_head == PyInterpreterState_ThreadHead(interp) && interp->num_threads == count
                 && interp->pythread_stacksize == PyThread_get_stacksize();
#else
    bool known = interp->threads.head == PyInterpreterState_ThreadHead(interp) && interp->threads.count == count
                 && interp->threads.stacksize == PyThread_get_stacksize()
                 && ts->native_thread_id == PyThread_get_thread_native_id();
#endif
#if PY_VERSION_HEX >= 0x030C0000
    known = known && ts->_status.bound && !ts->_status.unbound && !interp->finalizing && !_PyInterpreterState_GetFinalizing(interp);
#endif
    return known && ts->interp == interp && ts->thread_id == PyThread_get_thread_ident();
}

// The exception for a start that comes too late; -1 if it does.
static inline int tt_pythread_refuse_at_exit(PyInterpreterState *interp)
{
#if PY_VERSION_HEX >= 0x030D0000
    if (!_Py_IsInterpreterFinalizing(interp)) return 0;
    PyErr_SetString(PyExc_PythonFinalizationError, "can't create new thread at interpreter shutdown");
    return -1;
#elif PY_VERSION_HEX >= 0x030C0000
    // Up to 3.12.2 as soon as the main thread has ended, from 3.12.3 on (gh-113964) when all but daemons have. The running
    // version decides, not the one of the headers: a wheel is for all of them.
    if (Py_Version < 0x030C0300 ? !interp->finalizing : !_PyInterpreterState_GetFinalizing(interp)) return 0;
    PyErr_SetString(PyExc_RuntimeError, "can't create new thread at interpreter shutdown");
    return -1;
#else
    (void)interp;
    return 0;
#endif
}

// A thread state for a thread to come, which binds it to itself. NULL, perhaps without an exception: no memory.
static inline PyThreadState *tt_pythread_state_new(PyInterpreterState *interp, bool daemon)
{
    (void)daemon;
#if PY_VERSION_HEX < 0x030C0000
    return _PyThreadState_Prealloc(interp);
#elif PY_VERSION_HEX < 0x030D0000
    return _PyThreadState_New(interp);
#elif PY_VERSION_HEX < 0x030F0000
    return _PyThreadState_New(interp, _PyThreadState_WHENCE_THREADING);
#else
    return _PyThreadState_New(interp, daemon ? _PyThreadState_WHENCE_THREADING_DAEMON : _PyThreadState_WHENCE_THREADING);
#endif
}

// In the new thread, before anything else: whether the interpreter is going down, and `ts` may be gone.
static inline bool tt_pythread_must_exit(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

static inline void tt_pythread_state_bind(PyThreadState *ts)
{
#if PY_VERSION_HEX < 0x030B0000
    ts->thread_id = PyThread_get_thread_ident();
    _PyThreadState_Init(ts);
#elif PY_VERSION_HEX < 0x030C0000
    ts->thread_id = PyThread_get_thread_ident();
    ts->native_thread_id = PyThread_get_thread_native_id();
    _PyThreadState_SetCurrent(ts);
#elif PY_VERSION_HEX < 0x030D0000
    _PyThreadState_Bind(ts);
#else
    // _PyThreadState_Bind, which is not exported any more. PyEval_AcquireThread does the rest of it.
    ts->thread_id = PyThread_get_thread_ident();
    ts->native_thread_id = PyThread_get_thread_native_id();
    ts->_status.bound = 1;
#endif
}

// Reports the exception set, which `function` let out of a thread, as CPython's thread_run does.
static inline void tt_pyerr_in_thread(PyObject *function)
{
#if PY_VERSION_HEX < 0x030D0000
    _PyErr_WriteUnraisableMsg("in thread started by", function);
#else
    PyErr_FormatUnraisable("Exception ignored in thread started by %R", function);
#endif
}
#endif
