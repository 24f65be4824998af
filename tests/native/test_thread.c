// Records of threads: each thread's life is in one, used again when there are no others, and the sum of all rows is what was done.
#define _GNU_SOURCE
#include "thread.h"
#include <sched.h>
#include <semaphore.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "check.h"
#include "intern.h"
#include "record.h"
#include "segment.h"
#include "trail.h"

enum { RECORDS = 16, LIVING = 24 };
static long threads_in_all;

static tt_thread_record *record_of(uint32_t index) { return &tt_the_segment.threads[index]; }
static const tt_section *section(void) { return &tt_the_segment.sections[TT_THREADS]; }

static void waited(uint64_t ticks, enum tt_kind kind)
{
    uint64_t start = tt_session_start + 1;
    tt_wait_record(&(tt_wait){.start = start, .end = start + ticks, .own_gil = ticks / 2, .site = TT_SITE_OTHER, .kind = kind});
}

typedef struct sums {
    uint64_t wait, idle, resource, own_gil, count, generations;
} sums;

static sums all_rows(void)
{
    sums s = {0};
    for (uint64_t i = 0; i < section()->used; i++) {
        const tt_thread_record *r = record_of((uint32_t)i);
        s.wait += r->wait_ticks;
        s.idle += r->idle_ticks;
        s.resource += r->resource_ticks;
        s.own_gil += r->own_gil_ticks;
        s.count += r->wait_count;
        s.generations += r->generation;
    }
    return s;
}

// -- what py_thread.c does -------------------------------------------------------------------------------------------

typedef struct job {
    uint32_t record;
    void (*function)(void *);
    void *argument;
} job;

static void *run(void *memory)
{
    job j = *(job *)memory;
    free(memory);
    take_gil();
    tt_thread_begin(j.record, tt_ticks(), (void *)0x1234);
    if (j.function) j.function(j.argument);
    tt_thread_end();
    drop_gil();
    return NULL;
}

static long started_in_all;

static const tt_totals *totals(void) { return tt_the_segment.totals; }
static long begun_and_not_ended(void) { return (long)(totals()->begun - totals()->ended); }

// With the interpreter lock.
static pthread_t start(uint32_t record, void (*function)(void *), void *argument)
{
    pthread_t thread;
    job *j = malloc(sizeof *j);
    CHECK(j);
    *j = (job){record, function, argument};
    CHECK(pthread_create(&thread, NULL, run, j) == 0);
    started_in_all++;
    return thread;
}

static void finish(pthread_t thread)
{
    drop_gil();
    CHECK(pthread_join(thread, NULL) == 0);
    take_gil();
}

// -- tests, each with the interpreter lock -----------------------------------------------------------------------------

static uint32_t main_record;

static void test_the_first_contact_of_a_thread_makes_its_record(void)
{
    CHECK(!tt_thread_known());
    main_record = tt_thread_current_index();
    CHECK(main_record == 1 && tt_thread_current_index() == 1 && tt_thread_known() == record_of(1));
    const tt_thread_record *r = record_of(1);
    CHECK(r->state == TT_THREAD_RUNNING && r->ident == (uint64_t)pthread_self() && r->native_id == (uint32_t)getpid());
    CHECK(r->start_ticks && !r->run_ticks && !r->end_ticks && !r->parent && !r->generation);
    CHECK(tt_thread_of_ident(r->ident) == 1 && tt_thread_of_ident(12345) == 0 && !tt_thread_state(1));
    tt_thread_adopt_state(&main_record);
    CHECK(tt_thread_state(1) == &main_record && !tt_thread_state(0));
}

static void look_at_itself(void *argument)
{
    uint32_t index = *(uint32_t *)argument;
    tt_thread_record *r = record_of(index);
    CHECK(tt_thread_current_index() == index && tt_thread_current() == r && r->state == TT_THREAD_RUNNING);
    CHECK(r->run_ticks >= r->start_ticks && !r->end_ticks && r->ident == (uint64_t)pthread_self() && r->native_id);
    CHECK(tt_thread_state(index) == (void *)0x1234 && tt_thread_of_ident(r->ident) == index);
    waited(10, TT_KIND_LOCK);
    waited(20, TT_KIND_JOIN);
    waited(40, TT_KIND_SEMAPHORE);
}

static void test_the_life_of_a_thread_is_in_its_record(void)
{
    uint32_t index = tt_thread_announce(7 * 4, 3, "worker");
    tt_thread_record *r = record_of(index);
    CHECK(index == 2 && r->state == TT_THREAD_STARTING && r->function == 28 && r->stack == 3 && !strcmp(r->label, "worker"));
    CHECK(r->parent == main_record && r->start_ticks && !r->run_ticks && !r->ident && !tt_thread_state(index));
    uint64_t before = r->start_ticks;
    finish(start(index, look_at_itself, &index));
    CHECK(r->state == TT_THREAD_ENDED && r->start_ticks == before && r->end_ticks >= r->run_ticks && r->cpu_ns > 0);
    CHECK(r->wait_ticks == 10 && r->idle_ticks == 20 && r->resource_ticks == 40 && r->own_gil_ticks == 35 && r->wait_count == 1);
    CHECK(!tt_thread_state(index) && tt_thread_of_ident(r->ident) == 0 && !r->generation);
}

static void test_a_start_that_failed_leaves_nothing(void)
{
    tt_trail_set(1);
    uint64_t used = section()->used, lost = section()->lost, starts = tt_the_segment.sections[TT_STARTS].used;
    sums before = all_rows();
    uint32_t first = tt_thread_announce(4, 1, "failed");
    tt_thread_retract(first);
    CHECK(record_of(first)->state == TT_THREAD_FREE && section()->used == used + 1 && section()->lost == lost);
    for (int i = 0; i < 100; i++) {
        CHECK(tt_thread_announce(4, 1, "failed") == first);   // not one record more
        tt_thread_retract(first);
    }
    CHECK(section()->used == used + 1 && record_of(first)->generation == 0);
    uint32_t next = tt_thread_announce(8, 2, "next");
    CHECK(next == first && !strcmp(record_of(next)->label, "next") && record_of(next)->function == 8 && !record_of(next)->generation);
    finish(start(next, NULL, NULL));
    sums after = all_rows();
    CHECK(memcmp(&before, &after, sizeof before) == 0 && tt_the_segment.sections[TT_STARTS].used == starts);
    tt_trail_set(0);
}

// Every prefix of a label that fits is whole characters, and the rest of the field is zero.
static void test_a_label_is_cut_before_a_character(void)
{
    static const char *const characters[] = {"x", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x90\x8d"};
    size_t room = sizeof record_of(0)->label;
    uint32_t index = tt_thread_announce(0, 0, "");
    for (size_t kind = 0; kind < 4; kind++)
        for (size_t shift = 0; shift < 5; shift++) {
            char label[400] = {0}, expected[400] = {0};
            size_t size = strlen(characters[kind]);
            memset(label, 'a', shift);
            for (size_t i = 0; i < 60; i++) strcat(label, characters[kind]);
            memcpy(expected, label, shift + (room - 1 - shift) / size * size);
            memset(record_of(index)->label, '#', room);
            tt_thread_rename(index, label);
            CHECK(memcmp(record_of(index)->label, expected, room) == 0);
        }
    char exact[64];
    memset(exact, 'b', 63);
    exact[63] = 0;
    tt_thread_rename(index, exact);
    CHECK(!strcmp(record_of(index)->label, exact));
    tt_thread_rename(index, "");
    for (size_t i = 0; i < room; i++) CHECK(record_of(index)->label[i] == 0);
    tt_thread_rename(0, "nobody");
    CHECK(record_of(0)->label[0] == 0);
    tt_thread_retract(index);
}

static sem_t contacted, go_on;

static void *foreign(void *any)
{
    take_gil();
    if (any) {
        waited(5, TT_KIND_RLOCK);
        *(uint32_t *)any = tt_thread_current_index();
    }
    drop_gil();
    sem_post(&contacted);
    sem_wait(&go_on);
    return NULL;   // without a word
}

static void test_the_end_of_a_thread_that_we_have_not_started_is_noticed(void)
{
    pthread_t threads[2];
    uint32_t index = 0;
    uint64_t used = section()->used;
    sem_init(&contacted, 0, 0);
    sem_init(&go_on, 0, 0);
    CHECK(pthread_create(&threads[0], NULL, foreign, &index) == 0);
    CHECK(pthread_create(&threads[1], NULL, foreign, NULL) == 0);   // never in contact
    drop_gil();
    sem_wait(&contacted);
    sem_wait(&contacted);
    take_gil();
    CHECK(index && section()->used <= used + 1);
    const tt_thread_record *r = record_of(index);
    CHECK(r->state == TT_THREAD_RUNNING && r->start_ticks && !r->run_ticks && !r->parent && !r->label[0]);
    CHECK(tt_thread_of_ident((uint64_t)threads[0]) == index && tt_thread_of_ident((uint64_t)threads[1]) == 0);
    CHECK(!tt_thread_state(index));
    sem_post(&go_on);
    sem_post(&go_on);
    finish(threads[0]);
    finish(threads[1]);
    CHECK(r->state == TT_THREAD_ENDED && r->end_ticks >= r->start_ticks && r->cpu_ns > 0 && r->wait_ticks == 5);
}

static void burn(void *argument)
{
    uint32_t index = *(uint32_t *)argument;
    tt_thread_record *r = record_of(index);
    for (uint64_t before = 0; before < 3; before++) {
        for (uint64_t was = r->cpu_ns; r->cpu_ns == was;) {   // grows while it runs
            for (volatile int i = 0; i < 10000; i++) {}
            tt_threads_sample();
        }
    }
}

static void test_the_processor_time_of_a_living_thread_is_sampled(void)
{
    uint32_t index = tt_thread_announce(0, 0, "busy");
    finish(start(index, burn, &index));
    uint64_t at_its_end = record_of(index)->cpu_ns;
    tt_threads_sample();
    CHECK(at_its_end > 0 && record_of(index)->cpu_ns == at_its_end);
}

static sem_t gates[LIVING];

static void stay(void *gate)
{
    drop_gil();
    sem_wait(gate);
    take_gil();
    waited(3, TT_KIND_LOCK);
}

// Three waits of `1` and a join of `2` each.
static void work(void *any)
{
    (void)any;
    for (int i = 0; i < 3; i++) waited(1, TT_KIND_LOCK);
    waited(2, TT_KIND_JOIN);
}

static void test_records_are_used_again_and_their_sums_are_kept(void)
{
    sums before = all_rows();
    uint64_t lost = section()->lost;
    pthread_t running[6] = {0};
    for (long i = 0; i < threads_in_all; i++) {
        uint32_t index = tt_thread_announce(0, 0, "one of many");
        CHECK(index && index != main_record);
        finish(start(index, work, NULL));
        if (i % 7 == 0) {   // some stay a while: records of living threads are never taken
            pthread_t *at = &running[i / 7 % 6];
            sem_t *gate = &gates[i / 7 % 6];
            if (*at) {
                sem_post(gate);
                finish(*at);
            }
            index = tt_thread_announce(0, 0, "stays");
            CHECK(index && record_of(index)->state == TT_THREAD_STARTING);
            *at = start(index, stay, gate);
        }
        CHECK(record_of(main_record)->state == TT_THREAD_RUNNING && section()->used <= RECORDS);
    }
    long stayed = 0;
    for (long i = 0; i < threads_in_all; i += 7) stayed++;
    for (int i = 0; i < 6; i++) {
        if (!running[i]) continue;
        sem_post(&gates[i]);
        finish(running[i]);
    }
    sums after = all_rows();
    CHECK(section()->lost == lost && section()->used == RECORDS);
    CHECK(after.wait - before.wait == (uint64_t)(threads_in_all * 3 + stayed * 3));
    CHECK(after.count - before.count == (uint64_t)(threads_in_all * 3 + stayed));
    CHECK(after.idle - before.idle == (uint64_t)(threads_in_all * 2) && after.resource == before.resource);
    // A generation for each that had its record taken; the others still have theirs.
    uint64_t there = 0;
    for (uint32_t i = 1; i < section()->used; i++) there += record_of(i)->state != TT_THREAD_FREE;
    CHECK(after.generations + there == (uint64_t)(threads_in_all + stayed) + 5);   // five of the tests before
    CHECK(record_of(0)->generation == 0);
    printf("%ld threads, %llu records used again\n", threads_in_all + stayed, (unsigned long long)after.generations);
}

static void test_when_all_records_are_taken_row_0_is_everybodys(void)
{
    pthread_t living[LIVING];
    uint32_t index[LIVING], found_none = 0;
    uint64_t lost = section()->lost;
    sums before = all_rows();
    for (int i = 0; i < LIVING; i++) {
        index[i] = tt_thread_announce(0, 0, "living");
        found_none += index[i] == 0;
        living[i] = start(index[i], stay, &gates[i]);
    }
    CHECK(found_none == LIVING - (RECORDS - 2) && section()->lost == lost + found_none);
    for (int i = 0; i < LIVING; i++)
        for (int j = 0; j < i; j++) CHECK(index[i] != index[j] || index[i] == 0);
    CHECK(tt_thread_announce(0, 0, "one more") == 0);   // nobody has ended meanwhile
    tt_thread_retract(0);                               // nor has it ever been
    CHECK(section()->lost == lost + found_none);
    uint64_t row_0 = record_of(0)->wait_ticks;
    for (int i = 0; i < LIVING; i++) sem_post(&gates[i]);
    for (int i = 0; i < LIVING; i++) finish(living[i]);
    sums after = all_rows();
    CHECK(after.wait - before.wait == LIVING * 3 && after.count - before.count == LIVING);
    CHECK(record_of(0)->wait_ticks - row_0 == found_none * 3);
    uint32_t again = tt_thread_announce(0, 0, "after");   // there is room again
    CHECK(again && record_of(again)->generation > 0 && record_of(again)->wait_ticks == 0);
    finish(start(again, NULL, NULL));
}

static void test_every_start_is_counted_with_or_without_a_record(void)
{
    uint64_t in_histogram = 0;
    for (int i = 0; i < TT_HISTOGRAM_BUCKETS; i++) in_histogram += totals()->start_histogram[i];
    CHECK(in_histogram == totals()->started && started_in_all == (long)totals()->started);
    CHECK(begun_and_not_ended() == 1 && totals()->begun > totals()->started && totals()->start_ticks);
}

static void test_the_trail_is_a_ring_and_off_until_asked_for(void)
{
    const tt_section *s = &tt_the_segment.sections[TT_STARTS];
    uint64_t before = s->used;
    tt_trail_add(1, 5, 4, 3, "unwanted");
    CHECK(s->used == before);
    tt_trail_set(1);
    char long_name[200];
    memset(long_name, 'n', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    tt_thread_rename(main_record, "its parent");
    uint64_t count = s->capacity * 2 + 5;
    for (uint64_t i = 0; i < count; i++) tt_trail_add(2, 1000 + i, 4, 3, long_name);
    CHECK(s->used == before + count && s->lost == 0);
    for (uint64_t i = 0; i < s->capacity; i++) {
        const tt_start *e = &tt_the_segment.starts[i];
        CHECK(e->sequence > s->used - s->capacity && e->sequence <= s->used && (e->sequence - 1) % s->capacity == i);
        CHECK(e->ident == 1000 + e->sequence - 1 - before && e->parent == main_record && e->parent_native_id == (uint32_t)getpid());
        CHECK(e->parent_ident == (uint64_t)pthread_self() && e->thread == 2 && e->generation == record_of(2)->generation);
        CHECK(e->function == 4 && e->stack == 3 && e->ticks && strlen(e->label) == 63 && !strcmp(e->parent_label, "its parent"));
    }
    tt_trail_set(0);
    tt_trail_add(1, 5, 4, 3, "unwanted");
    CHECK(s->used == before + count);
}

static bool good_child(void)
{
    if (begun_and_not_ended() != 1 || totals()->started) return false;   // it alone is there, and nothing is inherited
    const tt_thread_record *r = tt_thread_known();
    if (!r || tt_thread_current_index() != 1 || section()->used != 2 || section()->lost != 0) return false;
    if (r->state != TT_THREAD_RUNNING || r->native_id != (uint32_t)getpid() || strcmp(r->label, "its parent")) return false;
    if (r->generation || r->parent || r->wait_ticks || r->cpu_ns || tt_thread_state(1) != &main_record) return false;
    if (tt_thread_of_ident((uint64_t)pthread_self()) != 1 || record_of(0)->wait_ticks) return false;
    waited(9, TT_KIND_LOCK);
    if (r->wait_ticks != 9) return false;
    for (uint32_t i = 2; i < RECORDS; i++)   // all records are there
        if (tt_thread_announce(0, 0, "new") != i) return false;
    return tt_thread_announce(0, 0, "none") == 0;
}

static void test_a_forks_child_has_one_thread_and_the_parent_all_of_its_own(void)
{
    pthread_t living[5];
    for (int i = 0; i < 5; i++) living[i] = start(tt_thread_announce(0, 0, "lives on"), stay, &gates[i]);
    sums before = all_rows();
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) _exit(good_child() ? 0 : 1);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    sums after = all_rows();
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    for (int i = 0; i < 5; i++) sem_post(&gates[i]);
    for (int i = 0; i < 5; i++) finish(living[i]);
    CHECK(tt_thread_current_index() == main_record);
}

int main(int argc, char **argv)
{
    alarm(300);
    threads_in_all = argc > 1 ? atol(argv[1]) : 5000;
    const tt_sizes small = {.threads = RECORDS, .starts = 16};
    for (int i = 0; i < LIVING; i++) sem_init(&gates[i], 0, 0);
    take_gil();
    CHECK(tt_thread_announce(0, 0, "") == 0);   // no capture yet
    CHECK(tt_capture_open(NULL, 0, &small, "test_thread", "0") == 0 && tt_capture_move() == 0);
    tt_recording_set(1);
    test_the_first_contact_of_a_thread_makes_its_record();
    test_the_life_of_a_thread_is_in_its_record();
    test_a_start_that_failed_leaves_nothing();
    test_a_label_is_cut_before_a_character();
    test_the_end_of_a_thread_that_we_have_not_started_is_noticed();
    test_the_processor_time_of_a_living_thread_is_sampled();
    test_records_are_used_again_and_their_sums_are_kept();
    test_when_all_records_are_taken_row_0_is_everybodys();
    test_every_start_is_counted_with_or_without_a_record();
    test_the_trail_is_a_ring_and_off_until_asked_for();
    test_a_forks_child_has_one_thread_and_the_parent_all_of_its_own();
    drop_gil();
    puts("ok");
    return 0;
}
