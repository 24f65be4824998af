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

void tt_unpark(_Atomic uint32_t *signal, uint32_t value)
{
    if (atomic_exchange_explicit(signal, value, memory_order_acq_rel) == 0)   // pairs with the acquire in tt_park
        syscall(SYS_futex, signal, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void tt_unpark_all(_Atomic uint32_t *signal)
{
    atomic_store_explicit(signal, 1, memory_order_release);   // pairs with the acquire in tt_park
    syscall(SYS_futex, signal, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}
