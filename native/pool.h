// Thread pools: how long tasks wait for a worker, and how many workers are busy.
//
// All need the interpreter lock. What was counted before a fork is the parent's: its tasks count nothing in the child.
#ifndef TT_POOL_H
#define TT_POOL_H
#include <stdbool.h>
#include <stdint.h>

// One executor. Lives as long as it, and its tasks, do.
typedef struct tt_executor {
    uint32_t users, epoch;
    uint32_t pool;         // tt_pool, in this epoch
    uint32_t name;         // string of the capture
    uint32_t limit, busy;  // workers
    uint64_t full_since;   // ticks: when the last of them became busy
} tt_executor;

typedef struct tt_task {
    tt_executor *executor;
    uint32_t epoch;
    bool begun;
    uint64_t since;   // ticks: submitted, then begun
} tt_task;

// An executor of at most `limit` workers whose threads' names begin with `prefix`; the executor's class and a number stand for
// one that was given no prefix. NULL: no memory.
tt_executor *tt_executor_new(const char *prefix, uint32_t length, uint32_t limit);
static inline tt_executor *tt_executor_ref(tt_executor *e)
{
    e->users++;
    return e;
}
void tt_executor_unref(tt_executor *e);

// `task` waits for a worker of `e` from now on. False, and nothing to be done about it, while nothing is recorded.
bool tt_task_submit(tt_task *task, tt_executor *e);
// A worker begins it; ends it.
void tt_task_begin(tt_task *task);
void tt_task_end(tt_task *task);
// It goes, and lets go of the executor. One that never began was cancelled, or its executor was shut down.
void tt_task_drop(tt_task *task);
#endif
