// Executors and their tasks: the counters add up at every moment, whatever becomes of a task. One thread, as all is done
// under the interpreter lock.
#define _GNU_SOURCE
#include "pool.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "check.h"
#include "clock.h"
#include "segment.h"

static tt_pool *pool_of(const tt_executor *e) { return &tt_the_segment.pools[e->pool]; }

static tt_executor *executor(const char *name, uint32_t limit)
{
    return tt_executor_new(name, (uint32_t)strlen(name), limit);
}

static uint64_t timed(const tt_pool *p)
{
    uint64_t sum = 0;
    for (int i = 0; i < TT_HISTOGRAM_BUCKETS; i++) sum += p->queue_histogram[i];
    return sum;
}

static void names_that_are_numbers_are_one(void)
{
    tt_executor *a = executor("ThreadPoolExecutor-1", 2), *b = executor("ThreadPoolExecutor-23", 3);
    tt_executor *c = executor("quotes-1", 1), *d = executor("quotes-2", 1), *e = executor("ThreadPoolExecutor-", 1);
    CHECK(a->pool == b->pool && c->pool != d->pool && e->pool != a->pool);
    CHECK(pool_of(a)->limit == 5 && pool_of(a)->executors == 2);
    tt_executor_unref(a);
    CHECK(pool_of(b)->limit == 3 && pool_of(b)->limit_max == 5 && pool_of(b)->executors == 2);
    tt_executor_unref(b);
    tt_executor_unref(c);
    tt_executor_unref(d);
    tt_executor_unref(e);
}

static void a_task_outlives_its_executor(void)
{
    tt_executor *e = executor("outlived", 1);
    tt_pool *p = pool_of(e);
    tt_task task;
    CHECK(tt_task_submit(&task, e));
    tt_executor_unref(e);
    CHECK(p->limit == 1 && p->queued == 1);
    tt_task_begin(&task);
    tt_task_end(&task);
    tt_task_drop(&task);
    CHECK(p->limit == 0 && p->queued == 0 && p->busy == 0 && p->ended == 1 && p->dropped == 0);
}

static void full_is_when_all_are_busy(void)
{
    tt_executor *e = executor("full", 2);
    tt_pool *p = pool_of(e);
    tt_task task[2];
    for (int i = 0; i < 2; i++) CHECK(tt_task_submit(&task[i], e));
    tt_task_begin(&task[0]);
    usleep(2000);
    tt_task_end(&task[0]);
    CHECK(p->full_ticks == 0);
    tt_task_drop(&task[0]);
    CHECK(tt_task_submit(&task[0], e));
    tt_task_begin(&task[0]);
    tt_task_begin(&task[1]);
    usleep(2000);
    tt_task_end(&task[1]);
    uint64_t full = p->full_ticks;
    CHECK(tt_ticks_to_ns(full) >= 2000000);
    usleep(2000);
    tt_task_end(&task[0]);
    CHECK(p->full_ticks == full && p->busy_ticks > full);
    for (int i = 0; i < 2; i++) tt_task_drop(&task[i]);
    tt_executor_unref(e);
}

static void whatever_becomes_of_tasks_the_counters_add_up(void)
{
    enum { TASKS = 64, STEPS = 20000 };
    static tt_task tasks[TASKS];
    static enum { NONE, QUEUED, BUSY, OVER } state[TASKS];
    tt_executor *e = executor("any", 5);
    tt_pool *p = pool_of(e);
    srand(7);
    for (int step = 0; step < STEPS; step++) {
        int i = rand() % TASKS;
        if (rand() % 500 == 0) tt_recording_set(!tt_recording_get());
        if (state[i] == NONE)
            state[i] = tt_task_submit(&tasks[i], e) ? QUEUED : NONE;
        else if (state[i] == QUEUED && rand() % 3) {
            tt_task_begin(&tasks[i]);
            state[i] = BUSY;
        } else if (state[i] == BUSY) {
            tt_task_end(&tasks[i]);
            state[i] = OVER;
        } else {
            tt_task_drop(&tasks[i]);
            state[i] = NONE;
        }
        uint64_t queued = 0, busy = 0;
        for (int j = 0; j < TASKS; j++) queued += state[j] == QUEUED, busy += state[j] == BUSY;
        CHECK(p->queued == queued && p->busy == busy && e->busy == busy);
        CHECK(p->submitted == queued + p->dropped + busy + p->ended);
        CHECK(timed(p) + p->untimed == busy + p->ended);
    }
    tt_recording_set(true);
    for (int i = 0; i < TASKS; i++) {
        if (state[i] == BUSY) tt_task_end(&tasks[i]);
        if (state[i] != NONE) tt_task_drop(&tasks[i]);
    }
    CHECK(p->untimed > 0 && p->dropped > 0 && timed(p) > 0);
    tt_executor_unref(e);
    CHECK(p->limit == 0);
}

static void a_child_counts_from_zero(void)
{
    tt_executor *e = executor("forked", 3);
    tt_task busy, queued, fresh;
    CHECK(tt_task_submit(&busy, e) && tt_task_submit(&queued, e));
    tt_task_begin(&busy);
    pid_t pid = fork();
    if (pid == 0) {
        tt_task_end(&busy);
        tt_task_begin(&queued);
        tt_task_end(&queued);
        CHECK(tt_the_segment.sections[TT_POOLS].used == 1);
        CHECK(tt_task_submit(&fresh, e));
        tt_pool *p = pool_of(e);
        CHECK(p->submitted == 1 && p->queued == 1 && p->busy == 0 && p->limit == 3 && p->ended == 0);
        tt_task_drop(&busy);
        tt_task_drop(&queued);
        tt_task_drop(&fresh);
        tt_executor_unref(e);
        CHECK(p->limit == 0 && p->dropped == 1 && p->queued == 0);
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    tt_task_end(&busy);
    tt_task_drop(&busy);
    tt_task_drop(&queued);
    CHECK(pool_of(e)->ended == 1 && pool_of(e)->dropped == 1);
    tt_executor_unref(e);
}

static void what_finds_no_room_is_counted_elsewhere(void)
{
    tt_section *section = &tt_the_segment.sections[TT_POOLS];
    char name[32];
    for (uint64_t i = section->used; i < section->capacity; i++) {
        snprintf(name, sizeof name, "pool %llu", (unsigned long long)i);
        tt_executor_unref(executor(name, 1));
    }
    CHECK(section->used == section->capacity && section->lost == 0);
    uint64_t strings = tt_the_segment.sections[TT_STRINGS].used;
    tt_executor *e = executor("one too many", 4), *again = executor(name, 1);
    CHECK(tt_the_segment.sections[TT_STRINGS].used == strings && again->pool == section->used - 1);
    tt_executor_unref(again);
    CHECK(e->pool == 0 && section->lost == 1 && tt_the_segment.pools[0].limit == 4);
    tt_task task;
    CHECK(tt_task_submit(&task, e));
    tt_task_drop(&task);
    tt_executor_unref(e);
    CHECK(tt_the_segment.pools[0].submitted == 1 && tt_the_segment.pools[0].dropped == 1);
}

int main(void)
{
    tt_sizes sizes = {.pools = 16};
    CHECK(tt_capture_open(NULL, 0, &sizes, "test", "none") == 0 && tt_capture_move() == 0);
    tt_recording_set(true);
    names_that_are_numbers_are_one();
    a_task_outlives_its_executor();
    full_is_when_all_are_busy();
    whatever_becomes_of_tasks_the_counters_add_up();
    a_child_counts_from_zero();
    what_finds_no_room_is_counted_elsewhere();
    puts("ok");
    return 0;
}
