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

// `l` was just obtained.
static inline void tt_hold_begin(tt_lock *l)
{
    if (__builtin_expect(l->site < tt_recorded_from, 0)) {
        l->held_since = 0;
        return;
    }
    l->held_since = tt_ticks();   // first: reading the counter overlaps with what follows, not with what came before
    tt_the_segment.stats[l->site].acquisitions++;
}

// The odd case of tt_hold_count: no hold was pending, or one that a lagging processor's counter made negative.
void tt_hold_count_odd(tt_site_stats *s, uint64_t pending);

// Counts the hold before this one, and keeps this one pending; readers add it. The counter of a hold that has just ended
// is still on its way out of the processor, and waiting for it would cost more than all the rest (5 of 14 ns on 3.15).
static inline void tt_hold_count(tt_lock *l)
{
    uint64_t now = tt_ticks();
    tt_site_stats *s = &tt_the_segment.stats[l->site];
    uint64_t pending = s->pending_hold, ticks = pending >> 1;
    s->pending_hold = (now - l->held_since) * 2 + 1;
    if (__builtin_expect((int64_t)pending <= 0, 0)) {
        tt_hold_count_odd(s, pending);
        return;
    }
    s->hold_ticks += ticks;
    if (__builtin_expect(ticks > s->hold_max_ticks, 0)) s->hold_max_ticks = ticks;
    s->hold_histogram[tt_histogram_bucket(tt_ticks_to_ns(ticks))]++;
}

// A hold of `l` is over, and nobody can or will say how long it was. Counted if its beginning was.
void tt_hold_end_untimed(const tt_lock *l);

// `l` is about to be released. A hold in whose course recording was stopped or started is not timed.
static inline void tt_hold_end(tt_lock *l)
{
    if (__builtin_expect(l->held_since > tt_session_start, 1))
        tt_hold_count(l);
    else if (l->held_since)
        tt_hold_end_untimed(l);
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
