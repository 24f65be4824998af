#define _GNU_SOURCE
#include "park.h"
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

tt_status tt_park(_Atomic uint32_t *signal, int64_t deadline_ns)
{
    struct timespec deadline = {deadline_ns / 1000000000, deadline_ns % 1000000000};
    while (atomic_load_explicit(signal, memory_order_acquire) == 0) {   // pairs with the release in tt_unpark
        // FUTEX_WAIT_BITSET, for it takes the absolute time on CLOCK_MONOTONIC.
        long r = syscall(SYS_futex, signal, FUTEX_WAIT_BITSET_PRIVATE, 0, deadline_ns < 0 ? NULL : &deadline, NULL,
                         FUTEX_BITSET_MATCH_ANY);
        if (r == 0 || errno == EAGAIN) continue;
        if (errno == EINTR) return TT_INTR;
        if (errno == ETIMEDOUT) return TT_TIMED_OUT;
        // No futex to be had (a seccomp filter): better slow than wrong.
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (deadline_ns >= 0 && now.tv_sec * 1000000000 + now.tv_nsec >= deadline_ns) return TT_TIMED_OUT;
        sched_yield();
    }
    return TT_OK;
}

static void wake(_Atomic uint32_t *signal, int sleepers)
{
    syscall(SYS_futex, signal, FUTEX_WAKE_PRIVATE, sleepers, NULL, NULL, 0);
}

// The releases in these two pair with the acquire in tt_park.
void tt_unpark(_Atomic uint32_t *signal, uint32_t value)
{
    if (atomic_exchange_explicit(signal, value, memory_order_acq_rel) == 0) wake(signal, 1);
}

void tt_unpark_all(_Atomic uint32_t *signal)
{
    atomic_store_explicit(signal, 1, memory_order_release);
    wake(signal, INT_MAX);
}
