#include "py_wait.h"
#include "clock.h"
#include "py_carry.h"
#include "py_name.h"
#include "py_site.h"
#include "py_stack.h"

int64_t tt_py_deadline(int64_t timeout_ns)
{
    if (timeout_ns < 0) return -1;
    int64_t now = (int64_t)tt_clock_monotonic_ns();
    return timeout_ns < INT64_MAX - now ? now + timeout_ns : INT64_MAX;
}

#if PY_VERSION_HEX >= 0x030F0000
// Only the finalizing thread still runs; nobody is left to release the lock.
static bool would_hang_at_exit(void)
{
    if (!Py_IsFinalizing()) return false;
    PyErr_SetString(PyExc_PythonFinalizationError, "cannot acquire lock at interpreter finalization");
    return true;
}
#else
static bool would_hang_at_exit(void) { return false; }
#endif

// What the holder of `l`, which keeps others waiting, does now. 0: nobody has come to run with it, or it is not recorded.
static uint32_t look_at_holder(tt_lock *l)
{
    if (l->site < tt_recorded_from || !tt_lock_occupied(l)) return 0;   // of a waiter lock it would be ourselves
    return tt_py_stack_of_holder(tt_lock_owner(l));
}

// A signal handler may want this lock itself, take long, raise or fork: it must not find us in the queue. Returns 1 when
// the lock is obtained, 0 when we are back in our place, -1 when a handler raised.
static int run_handlers(tt_lock *l, tt_waiter *w)
{
    uint32_t epoch = tt_fork_epoch, stack = w->recorded ? look_at_holder(l) : 0;
    if (tt_lock_claim(l, w)) return 1;   // should looking have run Python code, as raising did on 3.11
    bool was_first = l->queue->first == w;
    tt_lock_leave(l, w);
    if (w->recorded) tt_py_carry_note_holder(&w->wait);
    if (stack) tt_lock_settle(l, stack, 0);
    if (w->recorded) tt_wait_hide();
    if (Py_MakePendingCalls() < 0) return -1;
    if (epoch != tt_fork_epoch) w->recorded = false;   // a child has counters of its own
    if (tt_lock_try(l)) {
        w->wait.end = tt_ticks();
        return 1;
    }
    if (w->recorded) tt_wait_show(&w->wait);   // a handler may have waited itself
    if (tt_lock_rejoin(l, w, was_first)) return 0;
    PyErr_NoMemory();
    return -1;
}

void tt_py_deadlock_look(tt_deadlock_watch *watch)
{
    char line[TT_DEADLOCK_LINE];
    tt_capture_anchor();   // a sign of life: should this process be killed, its recording lasts at least until now
    if (!tt_deadlock_look(watch, line)) return;
    PyThreadState *ts = PyEval_SaveThread();
    tt_deadlock_say(line);
    PyEval_RestoreThread(ts);
}

// Sleeps and wakes until the wait is decided.
static enum tt_outcome wait(tt_lock *l, tt_waiter *w, int64_t deadline_ns, bool interruptible)
{
    bool watched = deadline_ns < 0 && w->recorded && tt_kind_is_contention(w->wait.kind);
    tt_deadlock_watch watch = watched ? tt_deadlock_watch_begin() : (tt_deadlock_watch){.next_ns = -1};
    for (;;) {
        // Signals are the main thread's: one that comes while it looks at the lock would have to wait for the next release.
        const tt_lock *looked_at = _PyOS_IsMainThread() ? NULL : l;
        // If this thread dies here at exit (3.10 to 3.13), `w` stays in the queue; its memory is never given back.
        PyThreadState *ts = PyEval_SaveThread();
        tt_status status = tt_waiter_sleep(w, watched ? watch.next_ns : deadline_ns, looked_at);
        // At exit it would die for no more than a look.
        if (status == TT_TIMED_OUT && watched && tt_process_ending) status = tt_waiter_sleep(w, -1, looked_at);
        PyEval_RestoreThread(ts);
        if (tt_lock_claim(l, w)) return TT_ACQUIRED;
        if (status == TT_TIMED_OUT && !watched) break;
        if (status == TT_TIMED_OUT) {
            tt_lock_identify_owner(l);
            tt_py_deadlock_look(&watch);
        }
        // A signal that came while we wanted the GIL has interrupted no sleep.
        int r = interruptible && (status == TT_INTR || tt_pysignal_pending()) ? run_handlers(l, w) : 0;
        if (r) return r > 0 ? TT_ACQUIRED : TT_INTERRUPTED;
    }
    uint32_t stack = w->recorded ? look_at_holder(l) : 0;
    if (tt_lock_claim(l, w)) return TT_ACQUIRED;   // see run_handlers
    tt_lock_leave(l, w);
    if (w->recorded) tt_py_carry_note_holder(&w->wait);
    if (stack) tt_lock_settle(l, stack, 1);
    return TT_TIMEOUT;
}

int tt_py_acquire_slow(PyObject *self, tt_lock *l, enum tt_lock_type type, int64_t timeout_ns, bool interruptible)
{
    bool recorded = l->site >= TT_SITE_WAITER && tt_recorded_from != UINT32_MAX;
    if (tt_lock_try(l)) return 1;
    if (timeout_ns == 0) {
        if (l->site >= tt_recorded_from && !tt_py_is_probe()) tt_the_segment.stats[l->site].failed_tries++;
        return 0;
    }
    if (would_hang_at_exit()) return -1;
    tt_py_wait_place place = {0, 0, TT_KIND_LOCK};
    uint32_t holder_stack = 0;
    if (recorded) {
        tt_py_name_follow();
        place = tt_py_wait_site(l->site, type);
        holder_stack = look_at_holder(l);
    }
    tt_waiter *w = tt_waiter_new();
    if (!w) {
        PyErr_NoMemory();
        return -1;
    }
    if (tt_lock_try(l)) {   // should what we looked at have run Python code, and that released it
        tt_waiter_free(w);
        return 1;
    }
    w->recorded = recorded;
    bool joins = place.kind == TT_KIND_JOIN && l->site == TT_SITE_WAITER;   // up to 3.12: the lock that its thread holds
    w->wait = (tt_wait){.lock = joins ? tt_lock_thread(l) : (uint64_t)(uintptr_t)self, .site = place.site,
                        .stack = place.stack, .kind = place.kind, .holder_stack = holder_stack, .timed = timeout_ns >= 0};
    if (!tt_lock_enqueue(l, w)) {
        tt_waiter_free(w);
        PyErr_NoMemory();
        return -1;
    }
    if (recorded) tt_wait_show(&w->wait);
    uint32_t epoch = tt_fork_epoch;
    bool counted = recorded && tt_kind_is_contention(place.kind);
    if (counted) tt_the_segment.stats[place.site].waiters++;
    enum tt_outcome outcome = wait(l, w, tt_py_deadline(timeout_ns), interruptible);
    if (recorded && epoch == tt_fork_epoch) {   // a child forked by a signal handler has counters of its own
        if (counted) tt_the_segment.stats[place.site].waiters--;
        w->wait.outcome = outcome;
        tt_wait_record(&w->wait);
    }
    tt_waiter_free(w);
    return outcome == TT_ACQUIRED ? 1 : outcome == TT_TIMEOUT ? 0 : -1;
}

uint32_t tt_py_release_stack(tt_lock *l) { return tt_lock_release_is_news(l) ? tt_py_stack() : 0; }

#if PY_VERSION_HEX >= 0x030D0000
#define NEGATIVE_TIMEOUT "timeout value must be a non-negative number"
#else
#define NEGATIVE_TIMEOUT "timeout value must be positive"
#endif

static int parse_timeout(int blocking, PyObject *timeout, int64_t *timeout_ns)
{
    const int64_t unset = -1000000000;
    int64_t ns = unset;
    if (timeout && _PyTime_FromSecondsObject(&ns, timeout, _PyTime_ROUND_TIMEOUT) < 0) return -1;
    if (!blocking && ns != unset) {
        PyErr_SetString(PyExc_ValueError, "can't specify a timeout for a non-blocking call");
        return -1;
    }
    if (ns < 0 && ns != unset) {
        PyErr_SetString(PyExc_ValueError, NEGATIVE_TIMEOUT);
        return -1;
    }
    if (ns > 0 && (ns - 1) / 1000 + 1 > PY_TIMEOUT_MAX) {   // PY_TIMEOUT_MAX is in microseconds, rounded up
        PyErr_SetString(PyExc_OverflowError, "timeout value is too large");
        return -1;
    }
    *timeout_ns = !blocking ? 0 : ns == unset ? -1 : ns;
    return 0;
}

int tt_py_parse_acquire(const char *name, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, int64_t *timeout_ns)
{
    *timeout_ns = -1;
    if (nargs == 0 && !kwnames) return 0;
    if (nargs == 1 && !kwnames && PyBool_Check(args[0])) {
        if (args[0] == Py_False) *timeout_ns = 0;
        return 0;
    }
    // All else is as rare as it is version-dependent: the interpreter's own parser tells what is wrong with it.
    static char *names[] = {"blocking", "timeout", NULL};
    int blocking = 1, result = -1;
    PyObject *timeout = NULL, *keywords = NULL;
    PyObject *positional = PyTuple_New(nargs);
    if (!positional) return -1;
    for (Py_ssize_t i = 0; i < nargs; i++) PyTuple_SET_ITEM(positional, i, Py_NewRef(args[i]));
    if (kwnames) {
        if (!(keywords = PyDict_New())) goto done;
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++)
            if (PyDict_SetItem(keywords, PyTuple_GET_ITEM(kwnames, i), args[nargs + i]) < 0) goto done;
    }
    char format[32];
    snprintf(format, sizeof format, PY_VERSION_HEX < 0x030C0000 ? "|iO:%s" : "|pO:%s", name);
    if (!PyArg_ParseTupleAndKeywords(positional, keywords, format, names, &blocking, &timeout)) goto done;
    result = parse_timeout(blocking, timeout, timeout_ns);
done:
    Py_DECREF(positional);
    Py_XDECREF(keywords);
    return result;
}
