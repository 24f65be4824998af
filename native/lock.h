// The lock: a word, who has it and since when, and who waits for it. Knows nothing of Python.
//
// Every function needs the interpreter lock, the GIL (plain-C tests: one mutex in its place), but tt_waiter_sleep, which
// must be called without it. So the fast paths are plain loads and stores, and queue and ledger need no lock of their own.
//   QUEUED HELD
//     0     0    free
//     0     1    held, nobody waits
//     1     1    held, somebody waits (or the hold has been blamed already, see tt_queue)
//     1     0    free, its first waiter has been woken; whoever holds the GIL may take it
// While QUEUED the bits above hold the fork epoch of the queue: in a forked child the waiters are gone, and the queue is void.
#ifndef TT_LOCK_H
#define TT_LOCK_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "capture.h"
#include "park.h"
#if !defined(__x86_64__) || !defined(__GLIBC__)
#include <pthread.h>
#endif

enum { TT_HELD = 1, TT_QUEUED = 2, TT_EPOCH_SHIFT = 2 };
enum { TT_ENTERED = 1 };   // in `owner`, beside the thread: it was taken by a `with` statement

typedef struct tt_waiter tt_waiter;
typedef struct tt_queue tt_queue;

typedef struct tt_lock {
    uint32_t word;         // read with the interpreter lock, but by the waiter that has just been woken; see tt_lock_set_word
    uint32_t site;         // tt_site_id
    uint64_t held_since;   // ticks; 0: this hold is not timed
    union {
        uintptr_t owner;   // unless QUEUED: the thread that took it; void while the lock is free
        tt_queue *queue;   // while QUEUED; void in another process
    };
} tt_lock;

// The account of one wait.
typedef struct tt_wait {
    uint64_t start, end;   // ticks
    uint64_t own_gil;      // ticks: the lock was free for this waiter, the GIL was not
    uint64_t lock;         // the lock object's address
    uint64_t ticks;        // of a wait in the ledger: how long it stood there
    uint32_t site, stack;
    uint32_t holder, holder_generation;   // as in tt_event
    uint32_t release_stack, holder_stack;
    uint32_t holder_context;              // a number of carry.h
    enum tt_kind kind;
    enum tt_outcome outcome;
    bool in_ledger;        // else it lasted from `start` to `end`
    bool timed;            // it has a timeout
} tt_wait;

enum tt_signal { TT_SLEEP = 0, TT_LOOK = 1, TT_GRANTED = 2 };   // LOOK: the lock has been released

// One thread's wait. Kept in memory of its own, for a thread that dies at exit never leaves the queue.
struct tt_waiter {
    // The fields that its thread touches without the interpreter lock; it also reads `wait.start`.
    _Atomic uint32_t signal;   // of enum tt_signal
    _Atomic bool passed_over;  // was woken and found the lock taken again
    _Atomic uint64_t woken;    // ticks: when its sleep ended; 0: it sleeps
    bool recorded;         // its wait will be: set by the caller
    bool ended;            // handed the lock, and before it came to run another thread released that
    bool counted;          // as a waiter of the ledger
    tt_waiter *next, *previous;
    uintptr_t thread;
    uint64_t since;        // ticks: when it joined the queue
    uint64_t granted;      // ticks: when the lock was handed to it, HELD being its own since then; 0: it was not
    tt_wait wait;
};

// What is known of a lock while somebody waits for it. It outlives its waiters while the hold lasts that made them give
// up, so that this hold is counted once.
struct tt_queue {
    tt_waiter *first;      // a ring; NULL: nobody
    tt_waiter *granted;    // has been handed the lock and has not come to run yet; not in the ring
    uintptr_t owner;       // 0: nobody
    bool entered;          // `owner` took it by a `with` statement
    uint64_t free_since;   // ticks: the last release
    uint32_t recorded;     // waiters whose wait is recorded
    uint32_t contended;    // tt_contended; 0: none
    uint32_t owner_record, owner_generation, owner_stack;   // as in tt_contended
    uint32_t releaser, releaser_generation, release_stack;  // of the last release; 0: none
    uint32_t release_context;   // what its thread carried (carry.h); 0: nothing, or nobody had waited long enough to ask
    // The ledger: see blame.h.
    uint64_t session;      // tt_session_start when `counted` began to count
    uint64_t until;        // ticks: all waiting before is charged
    uint64_t awake;        // ticks: from here to `until` the next owner only waited for the GIL
    uint64_t live;         // ticks charged to the present hold and not yet in a cell
    uint64_t total;        // ticks of the present hold
    uint32_t counted;      // waiters in the ledger
    bool blamed;           // the present hold is in a cell
};

// Who the calling thread is: pthread_self().
static inline uintptr_t tt_self(void)
{
#if defined(__x86_64__) && defined(__GLIBC__)
    return (uintptr_t)__builtin_thread_pointer();
#else
    return (uintptr_t)pthread_self();
#endif
}

// All that changes `word`, for one thread may read it without the interpreter lock.
static inline void tt_lock_set_word(tt_lock *l, uint32_t word) { __atomic_store_n(&l->word, word, __ATOMIC_RELAXED); }

// Taking and releasing count the hold as well. The fast paths are in record.h.

// Takes `l` if it is free, ahead of those who wait; the second for a `with` statement.
bool tt_lock_try(tt_lock *l);
bool tt_lock_enter(tt_lock *l);
// Says so of a lock that the calling thread has just taken.
void tt_lock_set_entered(tt_lock *l);

// Frees `l`, which is held. Its first waiter is woken, or, when it was passed over and has waited long, given the lock.
// `stack` is where, and needed only if tt_lock_release_is_news.
void tt_lock_release(tt_lock *l, uint32_t stack);
// Whether somebody's recorded wait may end by a release of `l`.
bool tt_lock_release_is_news(tt_lock *l);

// Whether anybody has it. Not if it was handed to a thread that a fork has left behind before it came to run.
bool tt_lock_held(tt_lock *l);
// Whether it is held, and by a thread that has come to run since.
bool tt_lock_occupied(tt_lock *l);
// Whether anybody waits, in this process.
bool tt_lock_queued(tt_lock *l);
// The thread that has `l`, by its record; 0: nobody, or one that has not come to run yet, or not known.
uint32_t tt_lock_owner(tt_lock *l);
// Its pthread_self(), which may be that of a thread that has ended with the lock in its hands, or of a later one's.
uintptr_t tt_lock_thread(tt_lock *l);
// Looks again who has `l`, which has a queue, if that was not known: a thread that we have not started has no record before
// its own first wait.
void tt_lock_identify_owner(tt_lock *l);

// A waiter to use until tt_waiter_free, with an empty account. NULL: no memory.
tt_waiter *tt_waiter_new(void);
void tt_waiter_free(tt_waiter *w);

// Joins the queue as the last. False: no memory. Fills in `w->wait.start` if it is 0.
bool tt_lock_enqueue(tt_lock *l, tt_waiter *w);
// The same after a leave, as the first if it was that.
bool tt_lock_rejoin(tt_lock *l, tt_waiter *w, bool as_first);
// Sleeps until woken; see tt_park. Call it WITHOUT the interpreter lock. With `l`, the lock that `w` waits for, it sleeps on
// if that is taken again by then: one waiter fewer who wants the GIL in vain. NULL: it does not look.
tt_status tt_waiter_sleep(tt_waiter *w, int64_t deadline_ns, const tt_lock *l);
// Takes `l` for `w` if it is free or was handed to `w`, and leaves the queue; else makes `w` ready to sleep again.
bool tt_lock_claim(tt_lock *l, tt_waiter *w);
// Leaves the queue without the lock. A wake-up that `w` has consumed goes to the next.
void tt_lock_leave(tt_lock *l, tt_waiter *w);
// Charges what the present hold has made others wait so far, so that it can be seen while the hold lasts. `stack`: where
// the holder is now. `gave_up`: how many waiters have just left for good.
void tt_lock_settle(tt_lock *l, uint32_t stack, uint32_t gave_up);

// Makes `l` free whatever it was; its waiters, if they are of this process, are woken in turn.
void tt_lock_reset(tt_lock *l);
// `l` is about to be deallocated, held or free. Nobody waits.
void tt_lock_dispose(tt_lock *l);
#endif
