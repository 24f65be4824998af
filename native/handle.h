// What remains of a thread for those who join it: the part of _thread._ThreadHandle that knows nothing of Python.
//
//     NOT_STARTED -> STARTING -> RUNNING -> DONE          (STARTING -> DONE when the start fails)
//
// All fields but the atomic ones need the interpreter lock. A thread says that it ends (tt_handle_exit) when it can have
// that lock no more, so this is an atomic flag, which is also the futex of those who join.
#ifndef TT_HANDLE_H
#define TT_HANDLE_H
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include "park.h"

typedef enum tt_handle_state {
    TT_HANDLE_NOT_STARTED = 1, TT_HANDLE_STARTING = 2, TT_HANDLE_RUNNING = 3, TT_HANDLE_DONE = 4
} tt_handle_state;

typedef struct tt_handle {
    _Atomic uint32_t exiting;   // 1: the thread returns from its last function of ours, or never was one
    _Atomic uint32_t joined;    // 1: who called pthread_join is through
    _Atomic uint32_t references;
    tt_handle_state state;
    bool has_thread;            // `thread` has to be joined or detached
    bool joining;               // somebody is in pthread_join
    bool awaited;               // shutdown waits for it; under the registry's mutex
    uint64_t ident;             // 0 before the start
    pthread_t thread;
    struct tt_handle *next, *previous;   // of the registry
} tt_handle;

// One reference, NOT_STARTED. NULL: no memory.
tt_handle *tt_handle_new(void);
tt_handle *tt_handle_ref(tt_handle *h);
// The last one detaches a thread that nobody has joined. Needs no interpreter lock.
void tt_handle_unref(tt_handle *h);

// Whether shutdown waits for its thread.
void tt_handle_await(tt_handle *h, bool awaited);
// A handle that shutdown has to wait for, other than that of `ident`: a new reference. NULL: none is left.
tt_handle *tt_handle_awaited(uint64_t ident);
// How many handles have threads to come, or threads that shutdown has to wait for.
uint32_t tt_handles_in_use(void);

// The start has succeeded, or failed.
void tt_handle_started(tt_handle *h, uint64_t ident, pthread_t thread);
void tt_handle_failed(tt_handle *h);
// It stands for a thread that was not started through it.
void tt_handle_adopt(tt_handle *h, uint64_t ident);
// The calling thread, whose handle it is, is about to exit. Needs no interpreter lock.
void tt_handle_exit(tt_handle *h);

static inline bool tt_handle_exiting(tt_handle *h) { return atomic_load_explicit(&h->exiting, memory_order_acquire) != 0; }
// Sleeps until the thread exits; see tt_park. Call it WITHOUT the interpreter lock.
tt_status tt_handle_sleep(tt_handle *h, int64_t deadline_ns);

// pthread_join, once. Begin: true when the caller is to call tt_handle_join_thread WITHOUT the interpreter lock and then
// tt_handle_join_end with what it returned. False: the handle is DONE, or somebody else is at it: tt_handle_join_wait
// WITHOUT the interpreter lock, and look again.
bool tt_handle_join_begin(tt_handle *h);
int tt_handle_join_thread(tt_handle *h);
void tt_handle_join_end(tt_handle *h, int error);
void tt_handle_join_wait(tt_handle *h);
// DONE without waiting for the thread. -1: it cannot be detached.
int tt_handle_set_done(tt_handle *h);

// In a forked child, where only the calling thread lives on: all other threads are DONE.
void tt_handles_after_fork(void);
#endif
