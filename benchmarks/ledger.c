// What one contended update of the ledger costs: a waiter comes, a waiter goes, the lock is held. Built by bench_ledger.py.
#define _GNU_SOURCE
#include <stdio.h>
#include "abi.h"
#include "blame.h"
#include "check.h"
#include "clock.h"
#include "intern.h"
#include "segment.h"

enum { UPDATES = 200000, ROUNDS = 15 };

static double per_update(uint64_t ticks) { return tt_clock_ns_per_tick() * (double)ticks / UPDATES; }

int main(void)
{
    CHECK(tt_capture_open(NULL, 0, NULL, "ledger", "3.0") == 0 && tt_capture_move() == 0);
    take_gil();
    tt_recording_set(1);
    tt_lock lock = {.site = TT_SITE_OTHER};
    CHECK(tt_lock_try(&lock));
    tt_waiter *first = tt_waiter_new(), *w = tt_waiter_new();
    CHECK(first && w);
    first->recorded = w->recorded = true;
    CHECK(tt_lock_enqueue(&lock, first));
    for (int round = 0; round < ROUNDS; round++) {   // both in turn, so that a slow stretch hits both
        uint64_t begin = tt_ticks();
        for (int i = 0; i < UPDATES; i++) __asm__ volatile("" : : "r"(tt_ticks()));
        uint64_t clock = tt_ticks() - begin;
        begin = tt_ticks();
        for (int i = 0; i < UPDATES; i += 2) {
            tt_ledger_enter(&lock, w, tt_ledger_charge(&lock));
            tt_ledger_exit(&lock, w, tt_ledger_charge(&lock));
        }
        printf("%.2f %.2f\n", per_update(clock), per_update(tt_ticks() - begin));
    }
    return 0;
}
