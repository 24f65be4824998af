#define _GNU_SOURCE
#include "thread.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "clock.h"
#include "segment.h"

// Which record is the calling thread's, and whether it is among those that have begun. Void once tt_fork_epoch has moved on.
static _Thread_local struct { uint32_t epoch, index; bool counted; } self;
static uint32_t retracted;   // one record to use again, of a start that failed

static void **states;        // PyThreadState by record
static struct { uint64_t ident; uint32_t record; } recent[1024];   // what tt_thread_of_ident found, by a hash of ident

// Records of threads that have ended are used again when there are no others left. `hand` goes round over them.
static uint32_t hand = 1;
static _Atomic uint64_t ended;   // how many have ended, ever
static uint64_t searched_at;     // `ended` when a search found none: no use to search before it moves
static uint32_t touched;         // no record from here on has a state

static pthread_key_t at_end;     // its destructor tells of the end of threads that we have not started
static bool has_key;

static inline tt_thread_record *record_of(uint32_t index) { return &tt_the_segment.threads[index]; }

static inline uint32_t state_of(const tt_thread_record *r) { return __atomic_load_n(&r->state, __ATOMIC_ACQUIRE); }

static uint64_t cpu_ns(clockid_t clock)
{
    struct timespec cpu;
    return clock_gettime(clock, &cpu) == 0 ? (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec : 0;
}

// Needs no interpreter lock: nobody else touches the record of a thread that runs.
static void finish(uint32_t index)
{
    tt_thread_record *r = record_of(index);
    r->cpu_ns = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
    r->end_ticks = tt_ticks();
    r->wait_since = 0;
    __atomic_store_n(&r->state, TT_THREAD_ENDED, __ATOMIC_RELEASE);   // pairs with state_of: the record may be used again
    __atomic_fetch_add(&ended, 1, __ATOMIC_RELAXED);
}

static void count_begun(void)
{
    tt_the_segment.totals->begun++;
    self.counted = true;
}

// Threads end without the interpreter lock.
static void count_ended(void)
{
    if (self.counted) __atomic_fetch_add(&tt_the_segment.totals->ended, 1, __ATOMIC_RELAXED);
    self.counted = false;
}

static void ends_unseen(void *any)
{
    (void)any;
    if (self.epoch == tt_fork_epoch) {
        if (self.index) finish(self.index);
        count_ended();
    }
    self.epoch = self.index = 0;
}

int tt_threads_init(uint64_t capacity)
{
    if (!has_key) has_key = pthread_key_create(&at_end, ends_unseen) == 0;
    free(states);   // of an attempt that failed
    states = calloc(capacity, sizeof *states);
    return states && has_key ? 0 : -1;
}

// What a thread has summed up goes to row 0, so that totals stay exact.
static void take_up(const tt_thread_record *r)
{
    tt_thread_record *other = record_of(0);
    other->cpu_ns += r->cpu_ns;
    other->wait_ticks += r->wait_ticks;
    other->idle_ticks += r->idle_ticks;
    other->resource_ticks += r->resource_ticks;
    other->own_gil_ticks += r->own_gil_ticks;
    other->wait_count += r->wait_count;
    other->blamed_ticks += r->blamed_ticks;
}

// A record of a thread that has ended, or 0.
static uint32_t used_record(void)
{
    uint64_t now = __atomic_load_n(&ended, __ATOMIC_RELAXED);
    if (now == searched_at) return 0;
    uint32_t capacity = (uint32_t)tt_the_segment.sections[TT_THREADS].capacity;
    for (uint32_t i = 1; i < capacity; i++) {
        hand = hand + 1 < capacity ? hand + 1 : 1;
        if (state_of(record_of(hand)) == TT_THREAD_ENDED) return hand;
    }
    searched_at = now;
    return 0;
}

static uint32_t free_record(void)
{
    tt_section *section = &tt_the_segment.sections[TT_THREADS];
    uint32_t index = retracted;
    retracted = 0;
    if (index) return index;
    if (section->used < section->capacity) {
        index = tt_segment_reserve(TT_THREADS);
        tt_segment_publish(TT_THREADS);
        return index;
    }
    index = used_record();
    if (index)
        take_up(record_of(index));
    else
        section->lost++;
    return index;
}

void tt_thread_rename(uint32_t index, const char *label)
{
    if (index == 0) return;
    char *to = record_of(index)->label;
    size_t room = sizeof record_of(index)->label - 1, length = strnlen(label, room + 1);
    if (length > room)   // cut before a character, not inside
        for (length = room; length && ((unsigned char)label[length] & 0xc0) == 0x80;) length--;
    memcpy(to, label, length);
    memset(to + length, 0, room + 1 - length);
}

// Readers pass over a record that is FREE, and look twice.
static void start_record(uint32_t index, uint32_t function, uint32_t stack, const char *label)
{
    tt_thread_record *r = record_of(index);
    uint32_t generation = r->generation + (r->state == TT_THREAD_ENDED);
    uint32_t parent = self.epoch == tt_fork_epoch && self.index != index ? self.index : 0;
    __atomic_store_n(&r->state, TT_THREAD_FREE, __ATOMIC_RELEASE);
    *r = (tt_thread_record){
        .start_ticks = tt_ticks(), .function = function, .stack = stack, .generation = generation, .parent = parent,
        .parent_generation = parent ? record_of(parent)->generation : 0};
    tt_thread_rename(index, label);
    states[index] = NULL;
    __atomic_store_n(&r->state, TT_THREAD_STARTING, __ATOMIC_RELEASE);
}

uint32_t tt_thread_announce(uint32_t function, uint32_t stack, const char *label)
{
    if (!tt_the_segment.base) return 0;
    tt_thread_current_index();   // who starts it has a record, too
    uint32_t index = free_record();
    if (index) start_record(index, function, stack, label);
    return index;
}

void tt_thread_retract(uint32_t index)
{
    if (index == 0) {   // it found no room, and needs none
        if (tt_the_segment.base) tt_the_segment.sections[TT_THREADS].lost--;
        return;
    }
    record_of(index)->state = TT_THREAD_FREE;
    retracted = index;
}

static void set_state(uint32_t index, void *state)
{
    states[index] = state;
    if (index >= touched) touched = index + 1;
}

static inline uint32_t hash(uint64_t ident) { return (uint32_t)(ident >> 12 ^ ident >> 22) % 1024; }

static void identify(uint32_t index)
{
    tt_thread_record *r = record_of(index);
    r->ident = (uint64_t)pthread_self();
    r->native_id = (uint32_t)syscall(SYS_gettid);
    __atomic_store_n(&r->state, TT_THREAD_RUNNING, __ATOMIC_RELEASE);
    recent[hash(r->ident)].ident = r->ident;
    recent[hash(r->ident)].record = index;
}

void tt_thread_begin(uint32_t index, uint64_t asked, void *state)
{
    uint64_t now = tt_ticks();
    uint64_t latency = tt_elapsed(index ? record_of(index)->start_ticks : asked, now);
    tt_totals *totals = tt_the_segment.totals;
    totals->started++;
    totals->start_ticks += latency;
    totals->start_histogram[tt_histogram_bucket(tt_ticks_to_ns(latency))]++;
    self.epoch = tt_fork_epoch;
    self.index = index;
    count_begun();
    if (index == 0) return;
    record_of(index)->run_ticks = now;
    set_state(index, state);
    identify(index);
}

void tt_thread_end(void)
{
    if (self.epoch == tt_fork_epoch) {
        if (self.index) {
            states[self.index] = NULL;
            finish(self.index);
        }
        count_ended();
    }
    self.epoch = self.index = 0;   // a fork in a later destructor of this thread must not take over the record
}

uint32_t tt_thread_current_index(void)
{
    if (self.epoch != tt_fork_epoch) {
        uint32_t index = tt_the_segment.base ? free_record() : 0;
        if (index) {
            start_record(index, 0, 0, "");
            identify(index);
        }
        self.epoch = tt_fork_epoch;
        self.index = index;
        self.counted = false;   // what it was in a parent
        if (tt_the_segment.base) count_begun();
        pthread_setspecific(at_end, &self);   // any value but NULL
    }
    return self.index;
}

tt_thread_record *tt_thread_current(void) { return record_of(tt_thread_current_index()); }

const tt_thread_record *tt_thread_known(void)
{
    return tt_the_segment.base && self.epoch == tt_fork_epoch ? record_of(self.index) : NULL;
}

uint32_t tt_thread_of_ident(uint64_t ident)
{
    if (!tt_the_segment.base) return 0;
    uint32_t index = recent[hash(ident)].record;
    if (recent[hash(ident)].ident == ident) {
        if (index == 0) return 0;   // looked for in vain before; when it gets a record, that will be here
        if (record_of(index)->ident == ident && state_of(record_of(index)) == TT_THREAD_RUNNING) return index;
    }
    for (index = (uint32_t)tt_the_segment.sections[TT_THREADS].used - 1; index > 0; index--)
        if (record_of(index)->ident == ident && state_of(record_of(index)) == TT_THREAD_RUNNING) break;
    recent[hash(ident)].ident = ident;
    recent[hash(ident)].record = index;
    return index;
}

void *tt_thread_state(uint32_t index) { return index ? states[index] : NULL; }

void tt_thread_adopt_state(void *state)
{
    if (tt_the_segment.base && tt_thread_current_index()) set_state(self.index, state);
}

void tt_threads_sample(void)
{
    if (!tt_the_segment.base) return;
    for (uint32_t index = 1; index < tt_the_segment.sections[TT_THREADS].used; index++) {
        tt_thread_record *r = record_of(index);
        if (state_of(r) != TT_THREAD_RUNNING || !r->native_id) continue;
        // The kernel's id of a thread's clock (include/linux/posix-timers.h): 2 is CPUCLOCK_SCHED, 4 a thread's.
        uint64_t ns = cpu_ns((clockid_t)(~r->native_id << 3 | 2 | 4));
        // It may have ended meanwhile, and know better.
        if (ns && state_of(r) == TT_THREAD_RUNNING) r->cpu_ns = ns;
    }
}

tt_thread_record tt_thread_current_record(void)
{
    // Before a restart the epoch has moved on already, the record is still the thread's.
    return *record_of(self.index);
}

void tt_threads_restart(const tt_thread_record *was)
{
    void *state = states[self.index];
    memset(states, 0, touched * sizeof *states);   // no more than need be: pages that are written to are the child's own
    retracted = 0;
    hand = 1;
    ended = searched_at = 0;
    self.index = 0;
    self.epoch = tt_fork_epoch;
    uint32_t index = free_record();
    if (index) {
        start_record(index, was->function, was->stack, was->label);
        identify(index);
        set_state(index, state);
    }
    self.index = index;
    count_begun();
}
