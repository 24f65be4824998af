// Sleeping until another thread says so: the only place that knows the futex.
#ifndef TT_PARK_H
#define TT_PARK_H
#include <stdatomic.h>
#include <stdint.h>

typedef enum tt_status { TT_OK = 0, TT_TIMED_OUT = 1, TT_INTR = 2 } tt_status;

// Sleeps while `*signal` is 0. Returns TT_OK once it is not, TT_TIMED_OUT after `deadline_ns` (CLOCK_MONOTONIC; -1: never),
// TT_INTR when a signal handler ran. Needs no interpreter lock.
tt_status tt_park(_Atomic uint32_t *signal, int64_t deadline_ns);

// Sets `*signal` to `value`, which is not 0, and wakes its sleeper if it was 0.
void tt_unpark(_Atomic uint32_t *signal, uint32_t value);
// Sets `*signal` to 1 and wakes all its sleepers.
void tt_unpark_all(_Atomic uint32_t *signal);
#endif
