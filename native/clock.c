#define _GNU_SOURCE
#include "clock.h"
#include <stdio.h>
#include <string.h>
#include "abi.h"

#define CALIBRATION_NS 2000000u   // two reads 2 ms apart know the rate to about 3e-5; later anchors make it finer

tt_clock tt_the_clock = {.ns_per_tick = (uint64_t)1 << 32, .ns_per_tick_double = 1, .tsc = false};

static uint64_t read_clock_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t tt_clock_monotonic_ns(void) { return read_clock_ns(CLOCK_MONOTONIC); }

tt_anchor tt_clock_anchor(void)
{
    tt_anchor best = {0, 0, 0};
    uint64_t best_gap = UINT64_MAX;
    for (int i = 0; i < 5; i++) {
        uint64_t before = tt_ticks();
        uint64_t monotonic_ns = tt_clock_monotonic_ns();
        uint64_t wall_ns = read_clock_ns(CLOCK_REALTIME);
        uint64_t gap = tt_elapsed(before, tt_ticks());
        if (gap < best_gap) {
            best_gap = gap;
            best = (tt_anchor){before + gap / 2, monotonic_ns, wall_ns};
        }
    }
    return best;
}

static bool kernel_uses_tsc(void)
{
#if defined(__x86_64__)
    char source[16] = "";
    FILE *file = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");
    if (!file) return false;
    bool tsc = fgets(source, sizeof source, file) && strcmp(source, "tsc\n") == 0;
    fclose(file);
    return tsc;
#else
    return false;
#endif
}

void tt_clock_init(void)
{
    static bool done;
    if (done) return;
    done = true;
    tt_the_clock.tsc = kernel_uses_tsc();
    if (!tt_the_clock.tsc) return;
    tt_anchor first = tt_clock_anchor(), last;
    do {
        last = tt_clock_anchor();
    } while (last.monotonic_ns - first.monotonic_ns < CALIBRATION_NS);
    uint64_t ticks = tt_elapsed(first.ticks, last.ticks);
    if (ticks < CALIBRATION_NS / 100) {   // no counter is that slow: it stands still or jumps
        tt_the_clock.tsc = false;
        return;
    }
    tt_the_clock.ns_per_tick = (uint64_t)(((unsigned __int128)(last.monotonic_ns - first.monotonic_ns) << 32) / ticks);
    tt_the_clock.ns_per_tick_double = (double)tt_the_clock.ns_per_tick / 4294967296.0;
}

uint64_t tt_clock_ticks(void) { return tt_ticks(); }
double tt_clock_ns_per_tick(void) { return tt_the_clock.ns_per_tick_double; }
uint32_t tt_clock_kind(void) { return tt_the_clock.tsc ? TT_CLOCK_TSC : TT_CLOCK_MONOTONIC; }
uint32_t tt_histogram_index(uint64_t ns) { return tt_histogram_bucket((double)ns); }
