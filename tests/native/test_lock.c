// The lock by many threads: exclusion, exact counts, no lost wake-up, fairness, fork.
#define _GNU_SOURCE
#include "lock.h"
#include <sched.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "check.h"
#include "intern.h"
#include "record.h"

enum { THREADS = 8 };
static long operations;   // of all threads together
static tt_lock lock;
static long inside, done, gave_up, handed_on;

static int64_t deadline_in(int64_t ns) { return (int64_t)tt_clock_monotonic_ns() + ns; }

// As tt_py_acquire_slow, with the mutex for the GIL. False: timed out.
static bool acquire(tt_lock *l, int64_t timeout_ns, bool leave_when_woken)
{
    if (tt_lock_try_fast(l, 0, tt_clock_is_tsc()) || tt_lock_try(l)) return true;
    tt_waiter *w = tt_waiter_new();
    CHECK(w);
    w->recorded = true;
    CHECK(tt_lock_enqueue(l, w));
    int64_t deadline = timeout_ns < 0 ? -1 : deadline_in(timeout_ns);
    bool obtained = false;
    tt_the_segment.stats[l->site].waiters++;
    for (;;) {
        drop_gil();
        tt_status status = tt_waiter_sleep(w, deadline, l);
        take_gil();
        // A signal handler that raises makes a waiter leave although it was woken: it must pass the wake-up on.
        if (leave_when_woken) break;
        if ((obtained = tt_lock_claim(l, w)) || status == TT_TIMED_OUT) break;
    }
    if (!obtained) {
        handed_on += w->granted != 0;   // it had the lock for a moment
        tt_lock_leave(l, w);
    }
    w->wait.site = l->site;
    w->wait.outcome = obtained ? TT_ACQUIRED : TT_TIMEOUT;
    tt_wait_record(&w->wait);
    tt_the_segment.stats[l->site].waiters--;
    tt_waiter_free(w);
    return obtained;
}

static void release(tt_lock *l)
{
    if (!tt_lock_release_fast(l, tt_clock_is_tsc())) tt_lock_release(l, 0);
}

static uint64_t sum(const uint64_t *histogram)
{
    uint64_t n = 0;
    for (int i = 0; i < TT_HISTOGRAM_BUCKETS; i++) n += histogram[i];
    return n;
}

// Holds that were counted as acquisitions and have not ended.
static uint64_t unended(uint32_t site)
{
    const tt_site_stats *s = &tt_the_segment.stats[site];
    return s->acquisitions - sum(s->hold_histogram) - (s->pending_hold != 0) - s->holds_untimed;
}

static void *work(void *argument)
{
    unsigned seed = (unsigned)(uintptr_t)argument;
    take_gil();
    for (long i = 0; i < operations / THREADS; i++) {
        unsigned dice = (unsigned)rand_r(&seed);
        bool obtained = acquire(&lock, dice % 16 == 0 ? (int64_t)(dice % 50000) : -1, dice % 64 == 1);
        if (!obtained) {
            gave_up++;
            continue;
        }
        CHECK(inside++ == 0);
        if (dice % 64 == 0) {   // I/O in the critical section
            drop_gil();
            sched_yield();
            take_gil();
        }
        CHECK(--inside == 0);
        done++;
        release(&lock);
        if (dice % 128 == 2) {   // the switch interval
            drop_gil();
            take_gil();
        }
    }
    drop_gil();
    return NULL;
}

static void test_exclusion_and_exact_counts(void)
{
    pthread_t threads[THREADS];
    take_gil();
    tt_site_stats before = tt_the_segment.stats[lock.site];
    drop_gil();
    for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, work, (void *)(i + 1)) == 0);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    const tt_site_stats *s = &tt_the_segment.stats[lock.site];
    CHECK(lock.word == 0);
    CHECK(done + gave_up == operations / THREADS * THREADS);
    CHECK(s->acquisitions - before.acquisitions == (uint64_t)(done + handed_on));
    CHECK(sum(s->hold_histogram) + (s->pending_hold != 0) == s->acquisitions);
    CHECK(s->timeouts - before.timeouts == (uint64_t)gave_up);
    CHECK(sum(s->wait_histogram) == s->contended);
    CHECK(s->waiters == 0);
    uint64_t cells = 0, ticks = 0;
    for (uint64_t i = 0; i < tt_the_segment.sections[TT_CELLS].used; i++) {
        cells += tt_the_segment.cells[i].count;
        ticks += tt_the_segment.cells[i].wait_ticks;
    }
    CHECK(cells == s->contended && ticks == s->wait_ticks);
    printf("%ld acquired, %ld gave up, %llu waits\n", done, gave_up, (unsigned long long)s->contended);
}

static void *want_once(void *argument)
{
    take_gil();
    CHECK(acquire(argument, -1, false));
    done++;
    release(argument);
    drop_gil();
    return NULL;
}

static void wait_for_waiters(const tt_lock *l, int count)
{
    for (;;) {
        take_gil();
        int n = 0;
        if (l->word & TT_QUEUED && l->queue->first) {
            const tt_waiter *w = l->queue->first;
            do n++, w = w->next;
            while (w != l->queue->first);
        }
        drop_gil();
        if (n == count) return;
        sched_yield();
    }
}

// Takes `l` and lets that many threads wait for it.
static void hold_against(tt_lock *l, pthread_t *threads, int count)
{
    done = 0;
    take_gil();
    CHECK(tt_lock_try(l));
    drop_gil();
    for (int i = 0; i < count; i++) CHECK(pthread_create(&threads[i], NULL, want_once, l) == 0);
    wait_for_waiters(l, count);
}

// A holder that releases and at once takes the lock again, again and again, must let the waiter in.
static void test_passed_over_waiter_is_handed_the_lock(void)
{
    tt_lock l = {.site = lock.site};
    pthread_t thread;
    hold_against(&l, &thread, 1);
    for (long rounds = 0; done == 0; rounds++) {
        take_gil();
        release(&l);
        while (!acquire(&l, 0, false)) {}   // barges ahead, or waits for the one it was handed to
        drop_gil();
        usleep(100);
    }
    take_gil();
    release(&l);
    drop_gil();
    pthread_join(thread, NULL);
    CHECK(l.word == 0);
}

struct sleeper { tt_lock *lock; tt_waiter *waiter; };

static void *sleep_until_woken(void *argument)
{
    struct sleeper *s = argument;
    CHECK(tt_waiter_sleep(s->waiter, -1, s->lock) == TT_OK);
    return NULL;
}

// Woken when the lock is taken again already, it sleeps on. We have the interpreter lock all the time.
static void test_passed_over_waiter_sleeps_on_without_the_gil(void)
{
    tt_lock l = {.site = lock.site};
    pthread_t thread;
    take_gil();
    CHECK(acquire(&l, 0, false));
    tt_waiter *w = tt_waiter_new();
    CHECK(w && tt_lock_enqueue(&l, w));
    release(&l);
    CHECK(acquire(&l, 0, false) && w->signal == TT_LOOK && !w->passed_over);
    struct sleeper sleeper = {&l, w};
    CHECK(pthread_create(&thread, NULL, sleep_until_woken, &sleeper) == 0);
    while (w->signal != TT_SLEEP) CHECK(w->woken == 0);
    CHECK(w->passed_over);
    usleep(1000);
    CHECK(w->woken == 0);
    release(&l);
    pthread_join(thread, NULL);
    CHECK(w->woken != 0 && tt_lock_claim(&l, w));
    tt_waiter_free(w);
    release(&l);
    CHECK(l.word == 0);
    drop_gil();
}

static void test_reset_of_a_held_lock_wakes_its_waiters(void)
{
    tt_lock l = {.site = lock.site};
    pthread_t threads[3];
    hold_against(&l, threads, 3);
    take_gil();
    tt_lock_reset(&l);
    drop_gil();
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    CHECK(done == 3 && l.word == 0);
}

// In the child of a fork the parent's waiters are gone, and the lock is as good as new.
static void test_queue_is_void_after_fork(void)
{
    tt_lock l = {.site = lock.site};
    pthread_t thread;
    hold_against(&l, &thread, 1);
    take_gil();
    uint64_t parents = tt_the_segment.stats[l.site].acquisitions;
    pid_t pid = fork();
    if (pid == 0) {
        bool good = tt_the_segment.stats[l.site].acquisitions == 0 && tt_the_segment.header->pid == (uint32_t)getpid();
        good = good && tt_lock_held(&l) && !tt_lock_try(&l);
        tt_lock_release(&l, 0);
        good = good && l.word == 0 && tt_lock_try(&l);
        good = good && tt_the_segment.stats[l.site].acquisitions == 1;
        _exit(good ? 0 : 1);
    }
    drop_gil();
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(tt_the_segment.stats[l.site].acquisitions == parents);
    take_gil();
    tt_lock_release(&l, 0);
    drop_gil();
    pthread_join(thread, NULL);
}

// However a hold ends that was counted as an acquisition, it is in the histogram or counted as untimed, once.
static void test_every_hold_ends_timed_or_untimed(void)
{
    tt_lock l = {.site = lock.site};
    tt_site_stats *s = &tt_the_segment.stats[l.site];
    uint64_t acquisitions = s->acquisitions, untimed = s->holds_untimed, before = unended(l.site);
    CHECK(acquire(&l, 0, false) && unended(l.site) == before + 1);
    release(&l);
    CHECK(unended(l.site) == before && s->holds_untimed == untimed);

    acquire(&l, 0, false);
    tt_recording_set(0);   // recorded when it begins, but not when it ends
    CHECK(unended(l.site) == before + 1);
    release(&l);
    CHECK(unended(l.site) == before && s->holds_untimed == untimed + 1);
    acquire(&l, 0, false);   // never
    release(&l);
    acquire(&l, 0, false);   // when it ends, but not when it begins
    tt_recording_set(1);
    release(&l);
    CHECK(s->acquisitions == acquisitions + 2 && s->holds_untimed == untimed + 1);

    acquire(&l, 0, false);   // at both, but not in between
    tt_recording_set(0);
    tt_recording_set(1);
    release(&l);
    CHECK(unended(l.site) == before && s->holds_untimed == untimed + 2);

    acquire(&l, 0, false);
    tt_lock_reset(&l);
    tt_lock_reset(&l);   // a free one
    CHECK(unended(l.site) == before && s->holds_untimed == untimed + 3);

    acquire(&l, 0, false);
    tt_lock_dispose(&l);
    CHECK(unended(l.site) == before && s->holds_untimed == untimed + 4);

    l = (tt_lock){.site = TT_SITE_WAITER};   // not counted at all
    acquire(&l, 0, false);
    tt_lock_dispose(&l);
    CHECK(tt_the_segment.stats[TT_SITE_WAITER].holds_untimed == 0);
    CHECK(s->acquisitions == acquisitions + 5);
}

// A lock that is handed to a waiter is its own from then on; somebody else may release it before the waiter comes to run.
static void test_a_hold_that_another_thread_ends_before_it_is_noticed_is_untimed(void)
{
    tt_lock l = {.site = lock.site};
    tt_site_stats *s = &tt_the_segment.stats[l.site];
    uint64_t acquisitions = s->acquisitions, untimed = s->holds_untimed, before = unended(l.site);
    acquire(&l, 0, false);
    tt_waiter *w = tt_waiter_new();
    CHECK(w && tt_lock_enqueue(&l, w));
    usleep(2000);
    for (int i = 0; i < 2; i++) {   // passed over once, it is given the lock
        release(&l);
        if (i == 0) CHECK(acquire(&l, 0, false) && !tt_lock_claim(&l, w));
    }
    CHECK(w->granted && tt_lock_held(&l) && unended(l.site) == before);
    release(&l);
    CHECK(w->ended && tt_lock_claim(&l, w));
    tt_waiter_free(w);
    CHECK(s->acquisitions == acquisitions + 3 && s->holds_untimed == untimed + 1 && unended(l.site) == before);
    tt_recording_set(0);
    tt_hold_missed(&l);
    tt_recording_set(1);
    CHECK(s->acquisitions == acquisitions + 3 && s->holds_untimed == untimed + 1);
}

static void test_a_fast_release_leaves_the_odd_hold_before_it_to_the_other(void)
{
    tt_site site = {.name = tt_intern_text("odd", 3)};
    tt_lock l = {.site = tt_intern_site(&site)};
    const tt_site_stats *s = &tt_the_segment.stats[l.site];
    bool tsc = tt_clock_is_tsc();
    take_gil();
    for (int hold = 0; hold < 5; hold++) {
        CHECK(tt_lock_try(&l));
        if (hold == 1) l.held_since += (uint64_t)1 << 40;   // by a processor whose counter is ahead of this one's
        CHECK(!tt_lock_release_fast(&l, !tsc));
        bool usual = hold != 0 && hold != 2;
        uint64_t counted = sum(s->hold_histogram), zeros = s->hold_histogram[0];
        CHECK(tt_lock_release_fast(&l, tsc) == usual && (l.word == 0) == usual);
        if (!usual) {
            CHECK(sum(s->hold_histogram) == counted && l.word == TT_HELD);
            tt_lock_release(&l, 0);
        }
        CHECK(l.word == 0 && sum(s->hold_histogram) == (uint64_t)hold);
        if (hold == 2) CHECK(s->hold_histogram[0] == zeros + 1);
    }
    CHECK(s->acquisitions == 5 && s->pending_hold && s->hold_ticks < (uint64_t)1 << 39 && s->hold_max_ticks <= s->hold_ticks);
    drop_gil();
}

// A child's counters start at zero: the holds it is born with were counted by its parent.
static void test_a_hold_from_before_a_fork_is_none_of_the_child(void)
{
    tt_lock released = {.site = lock.site}, reset = released, dropped = released;
    take_gil();
    acquire(&released, 0, false);
    acquire(&reset, 0, false);
    acquire(&dropped, 0, false);
    pid_t pid = fork();
    if (pid == 0) {
        release(&released);
        tt_lock_reset(&reset);
        tt_lock_dispose(&dropped);
        const tt_site_stats *s = &tt_the_segment.stats[lock.site];
        bool good = s->acquisitions == 0 && s->holds_untimed == 0;
        acquire(&released, 0, false);
        tt_lock_dispose(&released);
        _exit(good && s->acquisitions == 1 && s->holds_untimed == 1 ? 0 : 1);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    uint64_t before = unended(lock.site);
    release(&released);
    tt_lock_reset(&reset);
    tt_lock_dispose(&dropped);
    CHECK(unended(lock.site) == before - 3);
    drop_gil();
}

int main(int argc, char **argv)
{
    alarm(300);
    operations = argc > 1 ? atol(argv[1]) : 1000000;
    tt_clock_init();
    if (argc > 2) tt_the_clock = (tt_clock){.ns_per_tick = (uint64_t)1 << 32, .ns_per_tick_double = 1};   // not the TSC
    CHECK(tt_capture_open(NULL, 0, NULL, "test_lock", "0") == 0 && tt_capture_move() == 0);
    tt_recording_set(1);
    tt_site site = {.name = tt_intern_text("lock", 4)};
    lock.site = tt_intern_site(&site);
    CHECK(lock.site == TT_SITE_FIRST);
    test_exclusion_and_exact_counts();
    test_every_hold_ends_timed_or_untimed();
    test_a_hold_that_another_thread_ends_before_it_is_noticed_is_untimed();
    test_a_hold_from_before_a_fork_is_none_of_the_child();
    test_a_fast_release_leaves_the_odd_hold_before_it_to_the_other();
    test_passed_over_waiter_is_handed_the_lock();
    test_passed_over_waiter_sleeps_on_without_the_gil();
    test_reset_of_a_held_lock_wakes_its_waiters();
    test_queue_is_void_after_fork();
    puts("ok");
    return 0;
}
