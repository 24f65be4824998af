#include "lock.h"
#include <stdlib.h>
#include "clock.h"
#include "segment.h"

// A waiter passed over for this long is handed the lock. CPython 3.13's PyMutex is fair after the same time.
#define FAIR_NS 1000000u

static tt_waiter *spare;   // freed waiters

tt_waiter *tt_waiter_new(void)
{
    tt_waiter *w = spare;
    if (w)
        spare = w->next;
    else
        w = malloc(sizeof *w);
    return w;
}

void tt_waiter_free(tt_waiter *w)
{
    w->next = spare;
    spare = w;
}

static inline uint32_t epoch_bits(void) { return tt_fork_epoch << TT_EPOCH_SHIFT; }

bool tt_lock_queued(tt_lock *l)
{
    if (!(l->word & TT_QUEUED)) return false;
    if (l->word >> TT_EPOCH_SHIFT == epoch_bits() >> TT_EPOCH_SHIFT) return true;
    l->word &= TT_HELD;   // the queue of a process we are forked from
    return false;
}

bool tt_lock_try(tt_lock *l)
{
    if (l->word & TT_HELD) return false;
    if (tt_lock_queued(l)) l->word |= TT_HELD;
    else l->word = TT_HELD;
    return true;
}

void tt_lock_enqueue(tt_lock *l, tt_waiter *w)
{
    bool queued = tt_lock_queued(l);
    atomic_store_explicit(&w->signal, 0, memory_order_relaxed);
    w->notified = w->granted = w->passed_over = false;
    w->arrived = w->free_since = w->woken = tt_ticks();
    if (queued) {   // `first->previous` is the last
        w->next = l->first;
        w->previous = l->first->previous;
        w->previous->next = w->next->previous = w;
        return;
    }
    w->next = w->previous = l->first = w;
    l->word = (l->word & TT_HELD) | TT_QUEUED | epoch_bits();
}

static void unlink_waiter(tt_lock *l, tt_waiter *w)
{
    if (w->next == w) {
        l->first = NULL;
        l->word &= TT_HELD;
        return;
    }
    w->previous->next = w->next;
    w->next->previous = w->previous;
    if (l->first == w) l->first = w->next;
}

static void notify(tt_waiter *w)
{
    if (w->notified) return;
    w->notified = true;
    tt_unpark(&w->signal);
}

void tt_lock_release_slow(tt_lock *l)
{
    if (!tt_lock_queued(l)) {
        l->word = 0;
        return;
    }
    tt_waiter *w = l->first;
    w->free_since = tt_ticks();
    if (w->passed_over && !tt_process_ending && tt_ticks_to_ns(tt_elapsed(w->arrived, w->free_since)) >= FAIR_NS) {
        unlink_waiter(l, w);
        w->granted = true;   // HELD stays
        l->held_since = 0;
    }
    else
        l->word &= ~(uint32_t)TT_HELD;
    notify(w);
}

tt_status tt_waiter_sleep(tt_waiter *w, int64_t deadline_ns)
{
    tt_status status = tt_park(&w->signal, deadline_ns);
    w->woken = tt_ticks();
    return status;
}

bool tt_lock_claim(tt_lock *l, tt_waiter *w)
{
    if (w->granted) return true;
    if (!(l->word & TT_HELD)) {
        unlink_waiter(l, w);
        l->word |= TT_HELD;
        return true;
    }
    if (w->notified) {
        w->notified = false;
        w->passed_over = true;
        atomic_store_explicit(&w->signal, 0, memory_order_relaxed);
    }
    return false;
}

void tt_lock_leave(tt_lock *l, tt_waiter *w)
{
    if (w->granted) {
        tt_lock_release(l);
        return;
    }
    bool free = !(l->word & TT_HELD);
    unlink_waiter(l, w);
    if (free && l->first && l->word & TT_QUEUED) notify(l->first);
}

void tt_lock_reset(tt_lock *l)
{
    l->held_since = 0;
    if (!tt_lock_queued(l)) {
        l->word = 0;
        return;
    }
    l->word &= ~(uint32_t)TT_HELD;
    notify(l->first);
}
