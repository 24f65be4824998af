// The lock: a word, who waits for it, and since when it is held. Knows nothing of Python.
//
// Every function needs the interpreter lock, the GIL (plain-C tests: one mutex in its place), but tt_waiter_sleep, which
// must be called without it. So the fast paths are plain loads and stores, and queue and ledger need no lock of their own.
//   QUEUED HELD
//     0     0    free
//     0     1    held, nobody waits
//     1     1    held, somebody waits
//     1     0    free, its first waiter has been woken; whoever holds the GIL may take it
// While QUEUED the bits above hold the fork epoch of the queue: in a forked child the waiters are gone, and the queue is void.
#ifndef TT_LOCK_H
#define TT_LOCK_H
#include <stdbool.h>
#include <stdint.h>
#include "park.h"

enum { TT_HELD = 1, TT_QUEUED = 2, TT_EPOCH_SHIFT = 2 };

typedef struct tt_waiter tt_waiter;

typedef struct tt_lock {
    uint32_t word;
    uint32_t site;         // tt_site_id
    uint64_t held_since;   // ticks; 0: this hold is not timed
    tt_waiter *first;      // of the queue; void unless QUEUED in this process
} tt_lock;

// One thread's wait. Kept in memory of its own, for a thread that dies at exit never leaves the queue.
struct tt_waiter {
    _Atomic uint32_t signal;   // 1: woken. The only field touched without the interpreter lock (by park.c), with `woken`
    bool notified;             // woken since it last looked
    bool granted;              // the lock was handed to it: HELD is its own
    bool passed_over;          // was woken and found the lock taken again
    tt_waiter *next, *previous;
    uint64_t arrived;      // ticks
    uint64_t free_since;   // ticks: the lock's last release
    uint64_t woken;        // ticks: when sleep ended
};

// Takes `l` if it is free and nobody waits.
static inline bool tt_lock_try_fast(tt_lock *l)
{
    if (__builtin_expect(l->word != 0, 0)) return false;
    l->word = TT_HELD;
    return true;
}

// Takes `l` if it is free, ahead of those who wait.
bool tt_lock_try(tt_lock *l);

void tt_lock_release_slow(tt_lock *l);
// Frees `l`, which is held. Its first waiter is woken, or, when it was passed over and has waited long, given the lock.
static inline void tt_lock_release(tt_lock *l)
{
    if (__builtin_expect(l->word == TT_HELD, 1))
        l->word = 0;
    else
        tt_lock_release_slow(l);
}

static inline bool tt_lock_held(const tt_lock *l) { return l->word & TT_HELD; }
// Whether anybody waits, in this process.
bool tt_lock_queued(tt_lock *l);

// A waiter to use until tt_waiter_free. NULL: no memory.
tt_waiter *tt_waiter_new(void);
void tt_waiter_free(tt_waiter *w);

// Joins the queue as the last.
void tt_lock_enqueue(tt_lock *l, tt_waiter *w);
// Sleeps until woken; see tt_park. Call it WITHOUT the interpreter lock.
tt_status tt_waiter_sleep(tt_waiter *w, int64_t deadline_ns);
// Takes `l` for `w` if it is free or was handed to `w`, and leaves the queue; else makes `w` ready to sleep again.
bool tt_lock_claim(tt_lock *l, tt_waiter *w);
// Leaves the queue without the lock. A wake-up that `w` has consumed goes to the next.
void tt_lock_leave(tt_lock *l, tt_waiter *w);

// Makes `l` free whatever it was; its waiters, if they are of this process, are woken in turn.
void tt_lock_reset(tt_lock *l);
#endif
