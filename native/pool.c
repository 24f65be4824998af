#define _GNU_SOURCE
#include "pool.h"
#include <stdlib.h>
#include <string.h>
#include "clock.h"
#include "intern.h"
#include "segment.h"

static inline tt_pool *pool_of(const tt_executor *e) { return &tt_the_segment.pools[e->pool]; }

// Executors without a name of their own are called after their class and counted through; there can be any number of them.
static uint32_t without_number(const char *prefix, uint32_t length)
{
    static const char class[] = "PoolExecutor-";
    uint32_t end = length, tail = sizeof class - 1;
    while (end > 0 && prefix[end - 1] >= '0' && prefix[end - 1] <= '9') end--;
    bool is_number = end < length && end > tail && memcmp(prefix + end - tail, class, tail) == 0;
    return is_number ? end - 1 : length;
}

static bool is_named(const tt_pool *pool, const char *name, uint32_t length)
{
    uint32_t its;
    const char *text = tt_the_segment.strings + pool->name;
    memcpy(&its, text, sizeof its);
    return its == length && memcmp(text + sizeof its, name, length) == 0;
}

// The string, or 0 when there is no room for a pool of this name: then it takes none among the strings either.
static uint32_t name_of(const char *prefix, uint32_t length)
{
    const tt_section *s = &tt_the_segment.sections[TT_POOLS];
    if (s->used < s->capacity) return tt_intern_text(prefix, length);
    for (uint32_t i = 1; i < s->used; i++)
        if (is_named(&tt_the_segment.pools[i], prefix, length)) return tt_the_segment.pools[i].name;
    tt_segment_reserve(TT_POOLS);   // counts what is lost
    return 0;
}

// There are few, and an executor asks once.
static uint32_t find_pool(uint32_t name)
{
    uint32_t used = (uint32_t)tt_the_segment.sections[TT_POOLS].used;
    for (uint32_t i = 1; i < used; i++)
        if (tt_the_segment.pools[i].name == name) return i;
    uint32_t i = name ? tt_segment_reserve(TT_POOLS) : 0;
    if (i == 0) return 0;   // `(other)`
    tt_the_segment.pools[i].name = name;
    tt_segment_publish(TT_POOLS);
    return i;
}

static void enter(tt_executor *e)
{
    e->epoch = tt_fork_epoch;
    e->busy = 0;
    e->pool = find_pool(e->name);
    pool_of(e)->executors++;
    pool_of(e)->limit += e->limit;
    if (pool_of(e)->limit > pool_of(e)->limit_max) pool_of(e)->limit_max = pool_of(e)->limit;
}

tt_executor *tt_executor_new(const char *prefix, uint32_t length, uint32_t limit)
{
    tt_executor *e = malloc(sizeof *e);
    if (!e) return NULL;
    *e = (tt_executor){.users = 1, .limit = limit, .name = name_of(prefix, without_number(prefix, length))};
    enter(e);
    return e;
}

void tt_executor_unref(tt_executor *e)
{
    if (--e->users) return;
    if (e->epoch == tt_fork_epoch) pool_of(e)->limit -= e->limit;
    free(e);
}

bool tt_task_submit(tt_task *task, tt_executor *e)
{
    if (tt_recorded_from == UINT32_MAX) return false;
    if (e->epoch != tt_fork_epoch) enter(e);
    *task = (tt_task){.executor = tt_executor_ref(e), .epoch = tt_fork_epoch, .since = tt_ticks()};
    pool_of(e)->submitted++;
    pool_of(e)->queued++;
    return true;
}

void tt_task_begin(tt_task *task)
{
    if (task->epoch != tt_fork_epoch || task->begun) return;
    tt_executor *e = task->executor;
    tt_pool *pool = pool_of(e);
    uint64_t now = tt_ticks(), waited = tt_elapsed(task->since, now);
    pool->queued--;
    pool->busy++;
    if (++e->busy == e->limit) e->full_since = now;
    if (task->since >= tt_session_start) {
        pool->queue_ticks += waited;
        if (waited > pool->queue_max_ticks) pool->queue_max_ticks = waited;
        pool->queue_histogram[tt_histogram_bucket(tt_ticks_to_ns(waited))]++;
    } else
        pool->untimed++;   // recording was off in between
    task->begun = true;
    task->since = now;
}

void tt_task_end(tt_task *task)
{
    if (task->epoch != tt_fork_epoch || !task->begun) return;
    tt_executor *e = task->executor;
    tt_pool *pool = pool_of(e);
    uint64_t now = tt_ticks();
    pool->busy--;
    pool->ended++;
    pool->busy_ticks += tt_elapsed(task->since, now);
    if (e->busy-- == e->limit) pool->full_ticks += tt_elapsed(e->full_since, now);
}

void tt_task_drop(tt_task *task)
{
    if (task->epoch == tt_fork_epoch && !task->begun) {
        pool_of(task->executor)->queued--;
        pool_of(task->executor)->dropped++;
    }
    tt_executor_unref(task->executor);
}
