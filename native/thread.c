#define _GNU_SOURCE
#include "thread.h"
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "clock.h"
#include "segment.h"

// Which record is the calling thread's. Void once tt_fork_epoch has moved on.
static _Thread_local struct { uint32_t epoch, index; } self;
static uint32_t retracted;   // one record to use again, of a start that failed

uint32_t tt_thread_announce(uint32_t name, uint32_t function)
{
    if (!tt_the_segment.base) return 0;
    uint32_t index = retracted;
    retracted = 0;
    if (index == 0) {
        index = tt_segment_reserve(TT_THREADS);
        if (index == 0) return 0;
        tt_segment_publish(TT_THREADS);
    }
    tt_the_segment.threads[index] = (tt_thread_record){
        .start_ticks = tt_ticks(), .name = name, .function = function, .state = TT_THREAD_STARTING};
    return index;
}

void tt_thread_retract(uint32_t index)
{
    if (index == 0) return;
    tt_the_segment.threads[index] = (tt_thread_record){.state = TT_THREAD_FREE};
    retracted = index;
}

static void identify(tt_thread_record *r)
{
    r->ident = (uint64_t)pthread_self();
    r->native_id = (uint32_t)syscall(SYS_gettid);
    r->state = TT_THREAD_RUNNING;
}

void tt_thread_begin(uint32_t index)
{
    self.epoch = tt_fork_epoch;
    self.index = index;
    if (index == 0) return;
    tt_the_segment.threads[index].run_ticks = tt_ticks();
    identify(&tt_the_segment.threads[index]);
}

void tt_thread_end(void)
{
    struct timespec cpu = {0, 0};
    if (self.epoch != tt_fork_epoch || self.index == 0) return;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    tt_thread_record *r = &tt_the_segment.threads[self.index];
    r->cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec;
    r->end_ticks = tt_ticks();
    r->state = TT_THREAD_ENDED;
    self.index = 0;
}

uint32_t tt_thread_current_index(void)
{
    if (self.epoch != tt_fork_epoch) {
        uint32_t index = tt_thread_announce(0, 0);
        self.epoch = tt_fork_epoch;
        self.index = index;
        if (index) identify(&tt_the_segment.threads[index]);
    }
    return self.index;
}

tt_thread_record *tt_thread_current(void) { return &tt_the_segment.threads[tt_thread_current_index()]; }

tt_thread_record tt_thread_current_record(void)
{
    // Before a restart the epoch has moved on already, the record is still the thread's.
    return tt_the_segment.threads[self.index];
}

void tt_threads_restart(const tt_thread_record *was)
{
    retracted = 0;
    self.index = tt_thread_announce(was->name, was->function);
    self.epoch = tt_fork_epoch;
    if (self.index) identify(&tt_the_segment.threads[self.index]);
}
