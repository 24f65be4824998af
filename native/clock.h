// The clock of holds and waits, and the histogram that times fall into.
//
// Ticks come from the TSC where the kernel itself keeps time with it (clocksource "tsc": constant rate, synchronous
// between processors), else from CLOCK_MONOTONIC in nanoseconds.
#ifndef TT_CLOCK_H
#define TT_CLOCK_H
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif
#include "capture.h"

typedef struct tt_clock {
    uint64_t ns_per_tick;         // fixed point 32.32
    double ns_per_tick_double;    // the same
    bool tsc;
} tt_clock;
#pragma GCC visibility push(hidden)   // -fvisibility speaks of definitions: without this, one more instruction an access
extern tt_clock tt_the_clock;
#pragma GCC visibility pop

// Chooses the source and measures its rate. Called once, before anything is timed; takes up to 2 ms.
void tt_clock_init(void);
// Reads the three clocks at one moment (the tightest of a few tries).
tt_anchor tt_clock_anchor(void);
__attribute__((cold)) uint64_t tt_clock_monotonic_ns(void);   // keeps the fast paths' registers free of it

// Whether tt_ticks() is tt_tsc().
static inline bool tt_clock_is_tsc(void)
{
#if defined(__x86_64__)
    return __builtin_expect(tt_the_clock.tsc, 1);
#else
    return false;
#endif
}

static inline uint64_t tt_tsc(void)
{
#if defined(__x86_64__)
    return __rdtsc();
#else
    return 0;
#endif
}

static inline uint64_t tt_ticks(void) { return tt_clock_is_tsc() ? tt_tsc() : tt_clock_monotonic_ns(); }

// Ticks from `start` to `end`; zero when a processor's counter lags and the difference is negative.
static inline uint64_t tt_elapsed(uint64_t start, uint64_t end)
{
    uint64_t ticks = end - start;
    return __builtin_expect(ticks >> 63, 0) ? 0 : ticks;
}

static inline uint64_t tt_ticks_to_ns(uint64_t ticks)
{
    return (uint64_t)(((unsigned __int128)ticks * tt_the_clock.ns_per_tick) >> 32);
}
// Of less than 2^63 ticks: the conversion of a signed number is one instruction.
static inline double tt_ticks_to_ns_double(uint64_t ticks) { return (double)(int64_t)ticks * tt_the_clock.ns_per_tick_double; }

// Buckets of one ns up to 8 ns, then eight an octave, so that an edge is at most 12.5 % above the one before and every
// power of two is an edge: bucket b >= 8 starts at (8 + b % 8) << (b / 8 - 1). The last holds all from 15 * 2^36 ns.
// Source: the layout of HdrHistogram (http://hdrhistogram.org) with three significant bits.
static inline uint32_t tt_histogram_bucket(double ns)
{
    uint64_t bits;
    memcpy(&bits, &ns, sizeof bits);
    uint32_t bucket = (uint32_t)(bits >> 49) - (1023 + 2) * 8;   // the exponent, biased by 1023, and three bits of the fraction
    if (__builtin_expect(bucket - 8 < TT_HISTOGRAM_BUCKETS - 8, 1)) return bucket;
    return ns < 8 ? (uint32_t)ns : TT_HISTOGRAM_BUCKETS - 1;
}
#endif
