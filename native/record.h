// Counting holds and waits into the capture. All need the interpreter lock.
#ifndef TT_RECORD_H
#define TT_RECORD_H
#include "clock.h"
#include "lock.h"
#include "segment.h"

static inline bool tt_kind_is_contention(enum tt_kind kind) { return kind == TT_KIND_LOCK || kind == TT_KIND_RLOCK; }
static inline bool tt_kind_is_resource(enum tt_kind kind)
{
    return kind == TT_KIND_SEMAPHORE || kind == TT_KIND_QUEUE_PUT || kind == TT_KIND_POOL;
}

// Of the others, waiting for work, nobody is the cause.
static inline bool tt_kind_has_holder(enum tt_kind kind) { return tt_kind_is_contention(kind) || tt_kind_is_resource(kind); }

// Whether a wait from `start` to `end` becomes an event.
bool tt_wait_is_slow(uint64_t start, uint64_t end);

// `l` was obtained, at `now`.
void tt_hold_begin(tt_lock *l, uint64_t now);
// `l` is about to be released, at `now`. A hold in whose course recording was stopped or started is not timed.
void tt_hold_end(tt_lock *l, uint64_t now);
// A hold of `l` is over, and nobody can or will say how long it was. Counted if its beginning was.
void tt_hold_end_untimed(const tt_lock *l);

// The fast paths, of a lock for which nobody waits. False, with nothing done: it is a case for tt_lock_try or tt_lock_release,
// or `tsc`, a constant, is not tt_clock_is_tsc(). With `tsc` they call nothing (on x86-64 with glibc), so a caller that leaves
// all else to a function of its own needs no frame: 2 % of a `with` on 3.15, which compiles extensions with frame pointers.

// Takes `l`; with `entered` TT_ENTERED for a `with` statement, at the end of which this thread is going to release it.
static inline bool tt_lock_try_fast(tt_lock *l, uintptr_t entered, bool tsc)
{
    if (__builtin_expect(l->word != 0, 0) || tt_clock_is_tsc() != tsc) return false;
    tt_lock_set_word(l, TT_HELD);
    l->owner = tt_self() | entered;
    if (__builtin_expect(l->site < tt_recorded_from, 0)) {
        l->held_since = 0;
        return true;
    }
    // First: reading the counter overlaps with what follows, not with what came before.
    l->held_since = tsc ? tt_tsc() : tt_clock_monotonic_ns();
    tt_the_segment.stats[l->site].acquisitions++;
    return true;
}

// A hold of `held` ticks becomes the pending one, which readers add, and the one that was pending is counted. For the clock
// reading of a hold that has just ended is still on its way out of the processor, and waiting for it would cost more than all
// the rest (5 of 14 ns on 3.15). False, with nothing done: none was pending, or one that a lagging processor's counter made
// negative.
static inline bool tt_hold_count(tt_site_stats *s, uint64_t held)
{
    uint64_t pending = s->pending_hold, ticks = pending >> 1;
    if (__builtin_expect((int64_t)pending <= 0, 0)) return false;
    s->pending_hold = held * 2 + 1;
    s->hold_ticks += ticks;
    if (__builtin_expect(ticks > s->hold_max_ticks, 0)) s->hold_max_ticks = ticks;
    s->hold_histogram[tt_histogram_bucket(tt_ticks_to_ns_double(ticks))]++;
    return true;
}

// Releases `l`.
static inline bool tt_lock_release_fast(tt_lock *l, bool tsc)
{
    if (__builtin_expect(l->word != TT_HELD, 0)) return false;
    if (__builtin_expect(l->held_since > tt_session_start, 1)) {
        if (tt_clock_is_tsc() != tsc) return false;
        uint64_t now = tsc ? tt_tsc() : tt_clock_monotonic_ns();
        if (!tt_hold_count(&tt_the_segment.stats[l->site], now - l->held_since)) return false;
    }
    else if (l->held_since)
        return false;
    tt_lock_set_word(l, 0);
    return true;
}

// `l` was obtained, and another thread released it before the caller, whose hold it was, came to run.
void tt_hold_missed(const tt_lock *l);

// The calling thread begins the wait `w`, or goes on with it: another process can see it from now on.
void tt_wait_show(const tt_wait *w);
// It runs something else meanwhile, which may well end what it waits for.
void tt_wait_hide(void);
// A wait is over, and seen no longer. One that began before recording did is not counted; of one in whose course recording
// was stopped, what the ledger has charged for is.
void tt_wait_record(const tt_wait *wait);
#endif
