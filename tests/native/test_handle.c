// The handle by many joiners: each thread is joined once and waited for by all, whoever lets go of it first, and in a fork's child.
#define _GNU_SOURCE
#include "handle.h"
#include "segment.h"
#include <sched.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "abi.h"
#include "check.h"

enum { JOINERS = 12 };
static long rounds;

static int64_t deadline_in(int64_t ns)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec + ns;
}

// -- what py_handle.c and py_thread.c do -----------------------------------------------------------------------------

typedef struct job {
    tt_handle *handle;
    bool *finish;   // under the interpreter lock: runs until it is true; NULL: ends at once
} job;

// As `run` of py_thread.c.
static void *run(void *memory)
{
    job j = *(job *)memory;
    free(memory);
    take_gil();
    while (j.finish && !*j.finish) {
        drop_gil();
        sched_yield();
        take_gil();
    }
    drop_gil();
    tt_handle_exit(j.handle);
    return NULL;
}

// As start_joinable_thread, with the interpreter lock.
static void start(tt_handle *h, bool *finish)
{
    job *j = malloc(sizeof *j);
    pthread_t thread;
    CHECK(j && h->state == TT_HANDLE_NOT_STARTED);
    h->state = TT_HANDLE_STARTING;
    *j = (job){tt_handle_ref(h), finish};
    CHECK(pthread_create(&thread, NULL, run, j) == 0);
    tt_handle_started(h, (uint64_t)thread, thread);
}

static tt_handle *started(bool *finish)
{
    tt_handle *h = tt_handle_new();
    CHECK(h);
    start(h, finish);
    return h;
}

// As `join` of py_handle.c, with the interpreter lock. False: timed out.
static bool join(tt_handle *h, int64_t timeout_ns)
{
    int64_t deadline = timeout_ns < 0 ? -1 : deadline_in(timeout_ns);
    while (!tt_handle_exiting(h)) {
        drop_gil();
        tt_status status = tt_handle_sleep(h, deadline);
        take_gil();
        if (status == TT_TIMED_OUT) return false;
    }
    while (h->state != TT_HANDLE_DONE) {
        if (tt_handle_join_begin(h)) {
            drop_gil();
            int error = tt_handle_join_thread(h);
            take_gil();
            tt_handle_join_end(h, error);
            CHECK(error == 0);
        }
        else if (h->joining) {
            drop_gil();
            tt_handle_join_wait(h);
            take_gil();
        }
    }
    return true;
}

// -- tests -----------------------------------------------------------------------------------------------------------

static void test_a_handle_goes_from_not_started_to_done(void)
{
    bool finish = false;
    take_gil();
    tt_handle *h = tt_handle_new();
    CHECK(h->state == TT_HANDLE_NOT_STARTED && h->ident == 0 && !tt_handle_exiting(h) && tt_handles_in_use() == 1);
    start(h, &finish);
    CHECK(h->state == TT_HANDLE_RUNNING && h->ident && h->has_thread && !tt_handle_exiting(h));
    CHECK(tt_handles_in_use() == 0);   // shutdown does not wait for it
    tt_handle_await(h, true);
    CHECK(tt_handles_in_use() == 1);
    CHECK(!join(h, 1000000) && h->state == TT_HANDLE_RUNNING && h->has_thread);   // a timeout changes nothing
    CHECK(!join(h, 0));
    finish = true;
    CHECK(join(h, -1) && h->state == TT_HANDLE_DONE && !h->has_thread && tt_handle_exiting(h) && tt_handles_in_use() == 0);
    CHECK(join(h, -1) && join(h, 0));   // again and again
    CHECK(!tt_handle_join_begin(h));
    tt_handle_unref(h);
    drop_gil();
}

static void test_a_start_that_failed_is_done_and_has_no_thread(void)
{
    take_gil();
    tt_handle *h = tt_handle_new();
    h->state = TT_HANDLE_STARTING;
    tt_handle_await(h, true);
    tt_handle_await(h, false);
    tt_handle_failed(h);
    CHECK(h->state == TT_HANDLE_DONE && tt_handle_exiting(h) && join(h, -1) && !tt_handle_awaited(0) && tt_handles_in_use() == 0);
    tt_handle_unref(h);
    drop_gil();
}

static long came_back, timed_out;

typedef struct joiner {
    tt_handle *handle;
    unsigned seed;
} joiner;

static void *join_it(void *argument)
{
    joiner *j = argument;
    take_gil();
    for (;;) {
        unsigned dice = (unsigned)rand_r(&j->seed);
        if (join(j->handle, dice % 3 ? -1 : (int64_t)(dice % 300000))) break;
        timed_out++;
    }
    CHECK(j->handle->state == TT_HANDLE_DONE);
    came_back++;
    tt_handle_unref(j->handle);
    drop_gil();
    return NULL;
}

// pthread_join may be called once only: a second call is a crash, or under TSan a report.
static void test_many_joiners_of_one_thread_all_come_back(void)
{
    for (long round = 0; round < rounds; round++) {
        bool finish = round % 2;
        pthread_t threads[JOINERS];
        joiner joiners[JOINERS];
        came_back = 0;
        take_gil();
        tt_handle *h = started(&finish);
        for (unsigned i = 0; i < JOINERS; i++) joiners[i] = (joiner){tt_handle_ref(h), i * 977 + (unsigned)round};
        tt_handle_unref(h);   // the last of the joiners frees it
        drop_gil();
        for (int i = 0; i < JOINERS; i++) CHECK(pthread_create(&threads[i], NULL, join_it, &joiners[i]) == 0);
        take_gil();
        finish = true;
        drop_gil();
        for (int i = 0; i < JOINERS; i++) pthread_join(threads[i], NULL);
        CHECK(came_back == JOINERS && tt_handles_in_use() == 0);
    }
    printf("%ld rounds, %ld timeouts\n", rounds, timed_out);
}

static int os_threads(void)
{
    char line[256];
    int n = 0;
    FILE *file = fopen("/proc/self/status", "r");
    CHECK(file);
    while (fgets(line, sizeof line, file)) sscanf(line, "Threads: %d", &n);
    fclose(file);
    return n;
}

// More threads than an address space of their unjoined stacks would hold, with a handle let go of before, while or after they end.
static void test_who_lets_go_last_detaches_the_thread(void)
{
    int before = os_threads();
    for (long i = 0; i < rounds * 4; i++) {
        take_gil();
        tt_handle *h = started(NULL);
        if (i % 2) drop_gil();
        if (i % 4 == 3)
            while (!tt_handle_exiting(h)) sched_yield();
        tt_handle_unref(h);
        if (!(i % 2)) drop_gil();
    }
    while (os_threads() > before) sched_yield();
    CHECK(tt_handles_in_use() == 0 && !tt_handle_awaited(0));
}

static void *set_done(void *argument)
{
    tt_handle *h = argument;
    take_gil();
    while (h->joining) {
        drop_gil();
        tt_handle_join_wait(h);
        take_gil();
    }
    if (h->state != TT_HANDLE_DONE) CHECK(tt_handle_set_done(h) == 0);
    CHECK(h->state == TT_HANDLE_DONE);
    tt_handle_unref(h);
    drop_gil();
    return NULL;
}

static void test_set_done_frees_those_who_join(void)
{
    int before = os_threads();
    for (long round = 0; round < rounds; round++) {
        bool finish = round % 3 == 0;
        pthread_t threads[4];
        joiner joiners[3];
        came_back = 0;
        take_gil();
        tt_handle *h = started(&finish);
        for (unsigned i = 0; i < 3; i++) joiners[i] = (joiner){tt_handle_ref(h), i + (unsigned)round};
        tt_handle_ref(h);
        drop_gil();
        for (int i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, join_it, &joiners[i]) == 0);
        CHECK(pthread_create(&threads[3], NULL, set_done, h) == 0);
        for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);   // though the thread may go on
        CHECK(came_back == 3 && h->state == TT_HANDLE_DONE && !h->has_thread);
        take_gil();
        finish = true;
        drop_gil();
        while (os_threads() > before) sched_yield();   // it reads `finish`
        tt_handle_unref(h);
    }
    // What it stands for was not started through it.
    take_gil();
    tt_handle *h = tt_handle_new();
    tt_handle_adopt(h, 4711);
    CHECK(h->ident == 4711 && h->state == TT_HANDLE_RUNNING && tt_handles_in_use() == 0 && !join(h, 100000));
    CHECK(tt_handle_set_done(h) == 0 && h->state == TT_HANDLE_DONE && join(h, -1));
    tt_handle_unref(h);
    drop_gil();
}

static void test_awaited_are_those_that_shutdown_waits_for(void)
{
    bool finish = false;
    take_gil();
    CHECK(!tt_handle_awaited(0));
    tt_handle *h[5];
    for (int i = 0; i < 5; i++) {
        h[i] = tt_handle_new();
        tt_handle_await(h[i], i % 2);   // before it can end
        start(h[i], &finish);
    }
    drop_gil();
    tt_handle *found = tt_handle_awaited(h[1]->ident);
    CHECK(found == h[3]);   // not that of the thread that asks
    tt_handle_unref(found);
    found = tt_handle_awaited(0);
    CHECK(found == h[1] || found == h[3]);
    tt_handle_unref(found);
    take_gil();
    tt_handle_await(h[3], false);
    CHECK(!tt_handle_awaited(h[1]->ident));
    tt_handle_await(h[3], true);
    finish = true;
    for (tt_handle *next; (next = tt_handle_awaited(0));) {   // as _shutdown
        CHECK(join(next, -1));
        tt_handle_unref(next);
    }
    for (int i = 0; i < 5; i++) {
        CHECK(join(h[i], -1));
        tt_handle_unref(h[i]);
    }
    drop_gil();
}

static bool stop;

// Makes and drops handles, some with threads, as fast as can be.
static void *churn(void *argument)
{
    unsigned seed = (unsigned)(uintptr_t)argument;
    tt_handle *kept[16] = {0};
    for (;;) {
        take_gil();
        bool last = stop;
        unsigned at = (unsigned)rand_r(&seed) % 16;
        if (kept[at]) tt_handle_unref(kept[at]);
        kept[at] = last ? NULL : tt_handle_new();
        if (kept[at] && at < 2) {
            tt_handle_await(kept[at], at);
            start(kept[at], NULL);
        }
        drop_gil();
        usleep(at * 4);   // the others want the lock, too
        if (!last) continue;
        for (int i = 0; i < 16; i++)
            if (kept[i]) tt_handle_unref(kept[i]);
        return NULL;
    }
}

// Without the lock, as _ThreadHandle's dealloc may not hold it long: handles go and come at every moment of the fork.
static void *churn_unlocked(void *argument)
{
    (void)argument;
    for (bool last = false; !last; usleep(10)) {
        tt_handle *some[8];
        for (int i = 0; i < 8; i++) some[i] = tt_handle_new();
        for (int i = 0; i < 8; i++) tt_handle_unref(some[i * 5 % 8]);
        last = __atomic_load_n(&stop, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void in_child(tt_handle *running, tt_handle *unstarted, tt_handle *own)
{
    alarm(30);
    if (running->state != TT_HANDLE_DONE || !tt_handle_exiting(running) || running->has_thread || running->awaited) _exit(1);
    if (unstarted->state != TT_HANDLE_NOT_STARTED || tt_handle_exiting(unstarted)) _exit(2);
    if (own->state != TT_HANDLE_RUNNING || tt_handle_exiting(own)) _exit(3);
    if (tt_handle_awaited((uint64_t)pthread_self())) _exit(4);
    if (!join(running, -1)) _exit(5);   // at once: there is nobody to wait for
#ifdef __SANITIZE_ADDRESS__
    _exit(0);   // its allocator's locks do not survive a fork with threads
#endif
    tt_handle_unref(running);
    tt_handle *fresh[20];
    for (int i = 0; i < 20; i++)
        if (!(fresh[i] = tt_handle_new())) _exit(6);
    for (int i = 0; i < 20; i++) tt_handle_unref(fresh[i * 3 % 20]);
    tt_handle_unref(unstarted);
    _exit(0);
}

static void test_in_a_forks_child_all_other_threads_are_done(void)
{
    pthread_t threads[4];
    stop = false;
    for (uintptr_t i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)) == 0);
    for (int i = 2; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, churn_unlocked, NULL) == 0);
    for (long round = 0; round < rounds / 4 + 5; round++) {
        bool finish = false;
        take_gil();
        tt_handle *running = tt_handle_new(), *unstarted = tt_handle_new(), *own = tt_handle_new();
        tt_handle_await(running, true);
        start(running, &finish);
        tt_handle_await(unstarted, true);
        tt_handle_await(unstarted, false);
        tt_handle_adopt(own, (uint64_t)pthread_self());
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) in_child(running, unstarted, own);
        finish = true;
        CHECK(join(running, -1));   // the parent's threads go on
        tt_handle_unref(running);
        tt_handle_unref(unstarted);
        tt_handle_unref(own);
        drop_gil();
        int status;
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    take_gil();
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    drop_gil();
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
}

int main(int argc, char **argv)
{
    alarm(300);
    rounds = argc > 1 ? atol(argv[1]) : 1000;
    CHECK(tt_capture_open(NULL, 0, NULL, "test_handle", "0") == 0 && tt_capture_move() == 0);   // which watches for forks
    test_a_handle_goes_from_not_started_to_done();
    test_a_start_that_failed_is_done_and_has_no_thread();
    test_many_joiners_of_one_thread_all_come_back();
    test_who_lets_go_last_detaches_the_thread();
    test_set_done_frees_those_who_join();
    test_awaited_are_those_that_shutdown_waits_for();
    test_in_a_forks_child_all_other_threads_are_done();
    puts("ok");
    return 0;
}
