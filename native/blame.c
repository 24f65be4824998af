#include "blame.h"
#include "clock.h"
#include "intern.h"
#include "segment.h"

// Recording was stopped or started meanwhile. The waits in progress are counted up to the last change before that, for
// so long they are charged; those who wait now are no longer in the ledger.
static void start_over(tt_lock *l, uint64_t session)
{
    tt_queue *q = l->queue;
    tt_ledger_blame(l, q->owner_stack, q->counted);   // also of a hold whose waiters have all given up
    if (q->counted) {
        if (q->granted) tt_ledger_exit(l, q->granted, q->until);
        tt_waiter *w = q->first;
        if (w) do {
            tt_ledger_exit(l, w, q->until);
            w = w->next;
        } while (w != q->first);
    }
    q->session = session;
    q->live = q->total = 0;
    q->blamed = false;
}

uint64_t tt_ledger_charge(tt_lock *l)
{
    tt_queue *q = l->queue;
    uint64_t session = tt_session_start, now = tt_ticks(), from = q->until;
    if (__builtin_expect(session != q->session, 0)) start_over(l, session);
    if (__builtin_expect((int64_t)(now - from) < 0, 0)) now = from;   // a lagging processor's counter
    q->until = now;
    uint64_t n = q->counted;
    if (n == 0) return now;
    if (l->word & TT_HELD && !q->granted) {
        q->live += n * (now - from);
        return now;
    }
    tt_waiter *next = q->granted ? q->granted : q->first;
    uint64_t awake = atomic_load_explicit(&next->woken, memory_order_relaxed);   // a stamp alone, it orders nothing
    if (awake == 0 || awake > now) awake = now;
    if (awake < from) awake = from;
    q->awake = awake;
    tt_site_stats *s = &tt_the_segment.stats[l->site];
    s->handoff_ticks += n * (awake - from);
    s->gil_ticks += (n - next->counted) * (now - awake);
    if (next->counted) next->wait.own_gil += now - awake;
    return now;
}

void tt_ledger_enter(tt_lock *l, tt_waiter *w, uint64_t now)
{
    w->since = now;
    w->counted = w->recorded && l->site >= TT_SITE_OTHER && l->queue->session != UINT64_MAX;
    w->wait.in_ledger |= w->counted;
    l->queue->counted += w->counted;
}

void tt_ledger_exit(tt_lock *l, tt_waiter *w, uint64_t now)
{
    if (!w->counted) return;
    w->counted = false;
    w->wait.ticks += now - w->since;
    l->queue->counted--;
}

void tt_ledger_passed_over(tt_lock *l, tt_waiter *w)
{
    if (!w->wait.in_ledger) return;
    tt_the_segment.stats[l->site].gil_ticks += w->wait.own_gil;
    w->wait.own_gil = 0;
}

void tt_ledger_jumped(tt_lock *l, tt_waiter *w, uint64_t now)
{
    tt_ledger_passed_over(l, l->queue->first);
    if (!w->counted) return;
    uint64_t woken = atomic_load_explicit(&w->woken, memory_order_relaxed), awake = l->queue->awake;
    uint64_t own = tt_elapsed(woken > awake ? woken : awake, now);
    tt_the_segment.stats[l->site].gil_ticks -= own;   // as one of the others it has been charged there
    w->wait.own_gil += own;
}

// Whose hold it is. Row 0 has what is nobody's that is known, so that the rows add up to the cells.
static tt_thread_record *owner_of_hold(const tt_queue *q)
{
    tt_thread_record *r = &tt_the_segment.threads[q->owner_record];
    return r->generation == q->owner_generation ? r : &tt_the_segment.threads[0];
}

void tt_ledger_blame(tt_lock *l, uint32_t stack, uint32_t waiters)
{
    tt_queue *q = l->queue;
    if (q->live == 0 && waiters == 0) return;
    tt_blame_cell *cell = tt_intern_blame(l->site, stack);
    q->total += q->live;
    cell->blame_ticks += q->live;
    owner_of_hold(q)->blamed_ticks += q->live;
    cell->waiters += waiters;
    cell->holds += !q->blamed;
    if (q->total > cell->max_ticks) cell->max_ticks = q->total;
    q->live = 0;
    q->blamed = true;
}
