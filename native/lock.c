#define _GNU_SOURCE
#include "lock.h"
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include "blame.h"
#include "carry.h"
#include "clock.h"
#include "contended.h"
#include "record.h"
#include "segment.h"
#include "thread.h"

// A waiter passed over for this long is handed the lock. CPython 3.13's PyMutex is fair after the same time.
#define FAIR_NS 1000000u
// For so long a waiter that was passed over leaves those alone who take the lock again and again, which at each release
// would have to wake it.
#define GIVE_WAY_NS 20000u

static void *spare_waiters, *spare_queues;   // freed ones; the first word of each points to the next

static void *take_spare(void **spare, size_t size)
{
    void *memory = *spare;
    if (!memory) return calloc(1, size);
    memcpy(spare, memory, sizeof *spare);
    memset(memory, 0, size);
    return memory;
}

static void put_spare(void **spare, void *memory)
{
    memcpy(memory, spare, sizeof *spare);
    *spare = memory;
}

tt_waiter *tt_waiter_new(void) { return take_spare(&spare_waiters, sizeof(tt_waiter)); }
void tt_waiter_free(tt_waiter *w) { put_spare(&spare_waiters, w); }

static inline uint32_t epoch_bits(void) { return tt_fork_epoch << TT_EPOCH_SHIFT; }

static void drop_queue(tt_lock *l)
{
    tt_queue *q = l->queue;
    l->owner = q->entered ? q->owner | TT_ENTERED : q->owner;
    tt_lock_set_word(l, l->word & (q->granted ? 0 : TT_HELD));   // in a forked child: nobody has run with it
    put_spare(&spare_queues, q);
}

// `inline` for the callers in here.
inline bool tt_lock_queued(tt_lock *l)
{
    if (!(l->word & TT_QUEUED)) return false;
    if (__builtin_expect(l->word >> TT_EPOCH_SHIFT == epoch_bits() >> TT_EPOCH_SHIFT, 1)) return true;
    drop_queue(l);   // that of a process we are forked from, in our copy of its memory
    return false;
}

inline bool tt_lock_held(tt_lock *l)
{
    tt_lock_queued(l);
    return l->word & TT_HELD;
}

bool tt_lock_occupied(tt_lock *l) { return tt_lock_held(l) && !(tt_lock_queued(l) && l->queue->granted); }

uintptr_t tt_lock_thread(tt_lock *l)
{
    if (!tt_lock_held(l)) return 0;
    return tt_lock_queued(l) ? l->queue->owner : l->owner & ~(uintptr_t)TT_ENTERED;
}

uint32_t tt_lock_owner(tt_lock *l)
{
    uintptr_t thread = tt_lock_thread(l);
    uint32_t record = thread ? tt_thread_of_ident(thread) : 0;
    // A thread that has ended with the lock in its hands leaves its ident to a later one.
    return record && tt_the_segment.threads[record].run_ticks <= l->held_since ? record : 0;
}

inline bool tt_lock_release_is_news(tt_lock *l) { return tt_lock_queued(l) && l->queue->recorded; }

// The queue is done with when nobody is in it; unless the hold that made them give up lasts, and has to be counted once.
static void queue_changed(tt_lock *l)
{
    tt_queue *q = l->queue;
    tt_contended_update(l);
    if (q->first || q->granted || (tt_lock_held(l) && (q->live || q->blamed))) return;
    drop_queue(l);
}

static uint32_t generation_of(uint32_t record) { return record ? tt_the_segment.threads[record].generation : 0; }

// A hold begins, of the calling thread, which `entered` a `with` statement; it has been its own since `since`.
static void own(tt_lock *l, uint64_t since, bool entered)
{
    tt_queue *q = l->queue;
    tt_lock_set_word(l, l->word | TT_HELD);
    q->owner = tt_self();
    q->entered = entered;
    q->total = 0;
    q->blamed = false;
    q->owner_stack = 0;
    q->owner_record = q->contended ? tt_thread_current_index() : 0;
    q->owner_generation = generation_of(q->owner_record);
    tt_hold_begin(l, since);
}

static inline bool try_lock(tt_lock *l, bool entered)
{
    if (tt_lock_held(l)) return false;
    if (!tt_lock_queued(l)) {
        tt_lock_set_word(l, TT_HELD);
        l->owner = tt_self() | (entered ? TT_ENTERED : 0);
        tt_hold_begin(l, l->site < tt_recorded_from ? 0 : tt_ticks());
        return true;
    }
    uint64_t now = tt_ledger_charge(l);
    tt_ledger_passed_over(l, l->queue->first);
    own(l, now, entered);
    tt_contended_show_owner(l);
    return true;
}

bool tt_lock_try(tt_lock *l) { return try_lock(l, false); }
bool tt_lock_enter(tt_lock *l) { return try_lock(l, true); }

void tt_lock_set_entered(tt_lock *l)
{
    if (!tt_lock_held(l) || tt_lock_thread(l) != tt_self()) return;   // it was handed to us, and others have released it
    if (!tt_lock_queued(l)) {
        l->owner |= TT_ENTERED;
        return;
    }
    l->queue->entered = true;
    tt_contended_show_owner(l);
}

static bool make_queue(tt_lock *l)
{
    tt_queue *q = take_spare(&spare_queues, sizeof *q);
    if (!q) return false;
    if (tt_lock_held(l)) {
        q->owner = l->owner & ~(uintptr_t)TT_ENTERED;
        q->entered = l->owner & TT_ENTERED;
    }
    q->session = tt_session_start;
    l->queue = q;
    tt_lock_set_word(l, (l->word & TT_HELD) | TT_QUEUED | epoch_bits());
    return true;
}

static void link_last(tt_queue *q, tt_waiter *w)
{
    if (q->first) {   // whose `previous` is the last
        w->next = q->first;
        w->previous = q->first->previous;
        w->previous->next = w->next->previous = w;
    }
    else
        w->next = w->previous = q->first = w;
}

static void unlink_waiter(tt_queue *q, tt_waiter *w)
{
    if (w->next == w)
        q->first = NULL;
    else {
        w->previous->next = w->next;
        w->next->previous = w->previous;
        if (q->first == w) q->first = w->next;
    }
}

void tt_lock_identify_owner(tt_lock *l)
{
    tt_queue *q = l->queue;
    if (!q->owner || q->owner_record) return;
    q->owner_record = tt_lock_owner(l);
    q->owner_generation = generation_of(q->owner_record);
    tt_contended_show_owner(l);
}

// To be woken from now on. Returns what it was told before.
static uint32_t sleep_again(tt_waiter *w)
{
    atomic_store_explicit(&w->woken, 0, memory_order_relaxed);
    return atomic_exchange_explicit(&w->signal, TT_SLEEP, memory_order_acq_rel);
}

bool tt_lock_rejoin(tt_lock *l, tt_waiter *w, bool as_first)
{
    if (!tt_lock_queued(l) && !make_queue(l)) return false;
    tt_queue *q = l->queue;
    sleep_again(w);
    w->thread = tt_self();
    uint64_t now = tt_ledger_charge(l);
    if (!w->wait.start) w->wait.start = now;
    tt_ledger_enter(l, w, now);
    link_last(q, w);
    if (as_first) q->first = w;   // the queue is a ring: the last becomes the first
    if (w->recorded) {
        q->recorded++;
        tt_lock_identify_owner(l);
        if (w->wait.holder_stack) q->owner_stack = w->wait.holder_stack;
        tt_contended_update(l);
    }
    return true;
}

bool tt_lock_enqueue(tt_lock *l, tt_waiter *w) { return tt_lock_rejoin(l, w, false); }

// `w` ceases to wait.
static void leave(tt_lock *l, tt_waiter *w, uint64_t now)
{
    tt_ledger_exit(l, w, now);
    l->queue->recorded -= w->recorded;
    w->wait.end = now;
}

// It has been released to `w`.
static void note_releaser(tt_queue *q, tt_waiter *w)
{
    w->wait.holder = q->releaser;
    w->wait.holder_generation = q->releaser_generation;
    w->wait.release_stack = q->release_stack;
    w->wait.holder_context = q->release_context;
}

static bool deserves_it(const tt_waiter *w, uint64_t now)
{
    bool passed_over = atomic_load_explicit(&w->passed_over, memory_order_relaxed);
    return passed_over && !tt_process_ending && tt_ticks_to_ns(tt_elapsed(w->wait.start, now)) >= FAIR_NS;
}

// What the calling thread, which releases the lock, carries, should the wait of `w` become an event that wants to know.
static uint32_t context_for(const tt_waiter *w, uint64_t now)
{
    bool wanted = w && w->recorded && tt_kind_has_holder(w->wait.kind) && tt_wait_is_slow(w->wait.start, now);
    return wanted ? tt_carry_note() : 0;
}

// Ends a hold of `l`, which has a queue.
static void release_queued(tt_lock *l, uint32_t stack, bool may_hand_over)
{
    tt_queue *q = l->queue;
    uint64_t now = tt_ledger_charge(l);
    tt_hold_end(l, now);
    // A thread without a record gets one now, unless it is past its end: that has no stack any more.
    q->releaser = q->recorded && (stack || tt_thread_known()) ? tt_thread_current_index() : 0;
    q->releaser_generation = generation_of(q->releaser);
    if (!q->owner_record && q->owner == tt_self()) {
        q->owner_record = q->releaser;
        q->owner_generation = q->releaser_generation;
    }
    tt_ledger_blame(l, stack, q->granted ? 0 : q->counted);
    q->free_since = now;
    q->release_stack = stack;
    q->release_context = tt_carry_note && q->releaser ? context_for(q->granted ? q->granted : q->first, now) : 0;
    bool ended = q->granted;
    if (ended) {   // another thread releases what `granted` has not come to know it has
        q->granted->ended = true;
        note_releaser(q, q->granted);
        leave(l, q->granted, now);
        q->granted = NULL;
    }
    q->owner = q->owner_record = q->owner_generation = q->owner_stack = 0;
    tt_waiter *w = q->first;
    if (w && may_hand_over && deserves_it(w, now)) {
        unlink_waiter(q, w);
        w->granted = now;
        q->granted = w;   // HELD stays
        l->held_since = 0;
    }
    else
        tt_lock_set_word(l, l->word & ~(uint32_t)TT_HELD);
    if (w) tt_unpark(&w->signal, q->granted ? TT_GRANTED : TT_LOOK);
    if (w && !q->granted && !ended)   // they wait on
        tt_contended_show_owner(l);
    else
        queue_changed(l);
}

void tt_lock_release(tt_lock *l, uint32_t stack)
{
    if (tt_lock_queued(l)) {
        release_queued(l, stack, true);
        return;
    }
    tt_hold_end(l, l->held_since > tt_session_start ? tt_ticks() : 0);
    tt_lock_set_word(l, 0);
}

static bool taken(const tt_lock *l) { return __atomic_load_n(&l->word, __ATOMIC_RELAXED) & TT_HELD; }

// Asked each time: it may change, and is soon told, as against GIVE_WAY_NS.
static bool has_one_processor(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) != 0 || CPU_COUNT(&set) == 1;
}

static inline void relax(void)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// By spinning: sched_yield takes milliseconds as soon as another program wants this processor, and all that time no release
// would wake us. A clock that steps back ends it.
static void give_way(const tt_waiter *w, int64_t deadline_ns)
{
    uint64_t begin = tt_ticks();
    if (tt_ticks_to_ns(tt_elapsed(w->wait.start, begin)) > FAIR_NS - GIVE_WAY_NS || has_one_processor()) return;
    if (deadline_ns >= 0 && (int64_t)tt_clock_monotonic_ns() > deadline_ns - (int64_t)GIVE_WAY_NS) return;
    do relax();
    while (tt_ticks_to_ns(tt_ticks() - begin) < GIVE_WAY_NS);
}

tt_status tt_waiter_sleep(tt_waiter *w, int64_t deadline_ns, const tt_lock *l)
{
    tt_status status;
    while ((status = tt_park(&w->signal, deadline_ns)) == TT_OK && l && taken(l)) {
        atomic_store_explicit(&w->passed_over, true, memory_order_relaxed);
        give_way(w, deadline_ns);
        // Of this exchange and that of a release one comes second, and sees what the other's thread did before: either we
        // see the lock free, or the release sees us asleep.
        if (!taken(l) || sleep_again(w) == TT_GRANTED || !taken(l)) break;
    }
    atomic_store_explicit(&w->woken, tt_ticks(), memory_order_relaxed);   // a stamp alone, it orders nothing
    return status;
}

bool tt_lock_claim(tt_lock *l, tt_waiter *w)
{
    if (w->ended) {   // another thread may have it by now
        tt_hold_missed(l);
        return true;
    }
    if (!w->granted && tt_lock_held(l)) {
        if (sleep_again(w)) atomic_store_explicit(&w->passed_over, true, memory_order_relaxed);
        return false;
    }
    tt_queue *q = l->queue;
    uint64_t now = tt_ledger_charge(l);
    if (w->granted)
        q->granted = NULL;
    else {
        if (q->first != w) tt_ledger_jumped(l, w, now);
        unlink_waiter(q, w);
    }
    if (!w->wait.in_ledger) {
        uint64_t woken = atomic_load_explicit(&w->woken, memory_order_relaxed);
        w->wait.own_gil = tt_elapsed(woken > q->free_since ? woken : q->free_since, now);
    }
    leave(l, w, now);
    note_releaser(q, w);
    own(l, w->granted ? w->granted : now, false);   // handed over, it has been ours since the release
    queue_changed(l);
    return true;
}

void tt_lock_leave(tt_lock *l, tt_waiter *w)
{
    if (w->ended) return;
    if (w->granted) {
        tt_lock_claim(l, w);
        tt_lock_release(l, 0);
        return;
    }
    tt_queue *q = l->queue;
    uint64_t now = tt_ledger_charge(l);
    bool held = tt_lock_held(l);
    tt_ledger_passed_over(l, w);
    unlink_waiter(q, w);
    leave(l, w, now);
    w->wait.holder = q->owner_record;
    w->wait.holder_generation = q->owner_generation;
    if (!held && q->first) tt_unpark(&q->first->signal, TT_LOOK);
    queue_changed(l);
}

void tt_lock_settle(tt_lock *l, uint32_t stack, uint32_t gave_up)
{
    if (!tt_lock_queued(l) || !tt_lock_held(l) || l->queue->granted) return;
    l->queue->owner_stack = stack;
    tt_ledger_blame(l, stack, gave_up);
    queue_changed(l);
}

void tt_lock_reset(tt_lock *l)
{
    if (tt_lock_held(l)) tt_hold_end_untimed(l);
    l->held_since = 0;
    if (!tt_lock_queued(l))
        tt_lock_set_word(l, 0);
    else if (tt_lock_held(l))
        release_queued(l, 0, false);
    else
        tt_unpark(&l->queue->first->signal, TT_LOOK);
}

void tt_lock_dispose(tt_lock *l)
{
    if (tt_lock_held(l)) tt_hold_end_untimed(l);
    if (!tt_lock_queued(l)) return;
    tt_ledger_blame(l, l->queue->owner_stack, 0);
    if (!l->queue->first && !l->queue->granted) drop_queue(l);
}
