// The ledger: that it closes to the tick whatever happens, and that it blames whom a simulation from the test's own stamps
// blames.
#define _GNU_SOURCE
#include "blame.h"
#include <sched.h>
#include <string.h>
#include <unistd.h>
#include "check.h"
#include "clock.h"
#include "intern.h"
#include "record.h"
#include "segment.h"
#include "thread.h"

enum { MAX_THREADS = 16, MAX_MARKS = 200000 };

// What the threads do, stamped by the test before and after each step, all under the mutex.
enum what { ARRIVES, OBTAINS, LEAVES, RELEASES };
typedef struct mark { uint64_t before, after; enum what what; int thread; } mark;
static mark marks[MAX_MARKS];
static int mark_count;

static tt_lock lock;
static int thread_count, rounds;
static bool pausing;                          // stop and start recording in the middle
static uint32_t records[MAX_THREADS];
static uint32_t stacks[MAX_THREADS];          // stands for where each thread releases

static void mark_step(enum what what, int thread, uint64_t before)
{
    CHECK(mark_count < MAX_MARKS);
    marks[mark_count++] = (mark){before, tt_ticks(), what, thread};
}

static uint32_t stack_of_owner(const tt_lock *l)
{
    uint32_t owner = tt_lock_owner((tt_lock *)l);
    for (int i = 0; i < thread_count; i++)
        if (records[i] == owner) return stacks[i];
    return 0;
}

static void pause_us(unsigned us)
{
    drop_gil();
    if (us) usleep(us);
    else sched_yield();
    take_gil();
}

// As tt_py_acquire_slow does it: with a deadline, and a signal now and then whose handler takes its time or raises.
static bool acquire(int me, int64_t timeout_ns, unsigned *seed)
{
    uint64_t before = tt_ticks();
    if (tt_lock_try_fast(&lock, 0, tt_clock_is_tsc()) || tt_lock_try(&lock)) {
        mark_step(OBTAINS, me, before);
        return true;
    }
    tt_waiter *w = tt_waiter_new();
    w->recorded = tt_recording_get();
    w->wait.site = lock.site;
    w->wait.lock = (uintptr_t)&lock;
    CHECK(tt_lock_enqueue(&lock, w));
    mark_step(ARRIVES, me, before);
    int64_t now = (int64_t)tt_clock_monotonic_ns(), deadline = timeout_ns < 0 ? -1 : now + timeout_ns;
    enum tt_outcome outcome = TT_TIMEOUT;
    for (;;) {
        bool signalled = rand_r(seed) % 16 == 0;
        drop_gil();
        tt_status status = tt_waiter_sleep(w, signalled ? now + rand_r(seed) % 2000000 : deadline, me % 2 ? &lock : NULL);
        take_gil();
        before = tt_ticks();
        if (tt_lock_claim(&lock, w)) {
            mark_step(OBTAINS, me, before);
            outcome = TT_ACQUIRED;
            break;
        }
        if (status == TT_OK) continue;
        bool was_first = lock.queue->first == w;
        uint32_t stack = stack_of_owner(&lock);
        tt_lock_leave(&lock, w);
        mark_step(LEAVES, me, before);
        bool raises = rand_r(seed) % 4 == 0;
        if (!signalled || raises) {
            outcome = signalled ? TT_INTERRUPTED : TT_TIMEOUT;
            tt_lock_settle(&lock, stack, 1);
            break;
        }
        if (rand_r(seed) % 2) tt_lock_settle(&lock, stack, 0);
        pause_us(rand_r(seed) % 1000);
        before = tt_ticks();
        if (tt_lock_try(&lock)) {
            mark_step(OBTAINS, me, before);
            w->wait.end = tt_ticks();
            outcome = TT_ACQUIRED;
            break;
        }
        CHECK(tt_lock_rejoin(&lock, w, was_first));
        mark_step(ARRIVES, me, before);
    }
    w->wait.outcome = outcome;
    if (w->recorded) tt_wait_record(&w->wait);
    tt_waiter_free(w);
    return outcome == TT_ACQUIRED;
}

static void release(int me)
{
    uint64_t before = tt_ticks();
    CHECK(tt_lock_held(&lock));
    tt_lock_release(&lock, stacks[me]);
    mark_step(RELEASES, me, before);
}

static void *work(void *argument)
{
    int me = (int)(uintptr_t)argument % MAX_THREADS;
    unsigned seed = (unsigned)(uintptr_t)argument;
    take_gil();
    records[me] = tt_thread_current_index();
    for (int i = 0; i < rounds; i++) {
        int64_t timeout = rand_r(&seed) % 3 == 0 ? rand_r(&seed) % 5000000 : -1;
        if (acquire(me, timeout, &seed)) {
            if (rand_r(&seed) % 2) pause_us(rand_r(&seed) % 2000);
            release(me);
            if (rand_r(&seed) % 4) continue;   // barges ahead of who was woken
        }
        pause_us(rand_r(&seed) % 2000);
        if (pausing && rand_r(&seed) % 8 == 0) tt_recording_set(!tt_recording_get());
    }
    drop_gil();
    return NULL;
}

static uint64_t blame_sum(uint32_t site)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < tt_the_segment.sections[TT_BLAME].used; i++)
        if (tt_the_segment.blame[i].site == site) sum += tt_the_segment.blame[i].blame_ticks;
    return sum;
}

// Every hold that was counted has ended, timed or not.
static void check_holds(uint32_t site)
{
    const tt_site_stats *s = &tt_the_segment.stats[site];
    uint64_t timed = s->pending_hold != 0;
    for (int i = 0; i < TT_HISTOGRAM_BUCKETS; i++) timed += s->hold_histogram[i];
    CHECK(s->acquisitions == timed + s->holds_untimed && (pausing || s->holds_untimed == 0));
}

static void check_closed(uint32_t site)
{
    const tt_site_stats *s = &tt_the_segment.stats[site];
    CHECK(blame_sum(site) + s->gil_ticks + s->handoff_ticks == s->wait_ticks - s->own_gil_ticks);
    CHECK(s->gil_ticks < 1ull << 62 && s->own_gil_ticks <= s->wait_ticks);
}

// Who waited because of whom, by the marks alone. The true moment of a step lies between its two stamps: `slack` is how
// much the sums may be off for that.
static void check_truth(uint32_t site)
{
    uint64_t blame[MAX_THREADS] = {0}, ownerless = 0, slack = 0, wait = 0;
    bool waits[MAX_THREADS] = {false};
    int owner = -1, n = 0;
    for (int i = 0; i < mark_count; i++) {
        const mark *m = &marks[i];
        slack += (m->after - m->before) * (uint64_t)(n + 1);
        if (i > 0) {
            uint64_t spent = (uint64_t)n * tt_elapsed(marks[i - 1].after, m->after);
            wait += spent;
            if (owner >= 0) blame[owner] += spent;
            else ownerless += spent;
        }
        if (m->what == ARRIVES) {
            waits[m->thread] = true;
            n++;
        }
        else if (m->what == RELEASES) {
            CHECK(owner == m->thread);
            owner = -1;
        }
        else {
            n -= waits[m->thread];
            waits[m->thread] = false;
            if (m->what == OBTAINS) {
                CHECK(owner == -1);
                owner = m->thread;
            }
        }
    }
    CHECK(n == 0 && owner == -1);
    const tt_site_stats *s = &tt_the_segment.stats[site];
    printf("  %llu waits, %.1f ms, stamps sure to %.3f %%\n", (unsigned long long)s->contended, (double)tt_ticks_to_ns(wait) * 1e-6,
           100.0 * (double)slack / (double)wait);
    CHECK(s->wait_ticks <= wait + slack && wait <= s->wait_ticks + slack);
    uint64_t without_owner = s->gil_ticks + s->handoff_ticks + s->own_gil_ticks;
    CHECK(without_owner <= ownerless + slack && ownerless <= without_owner + slack);
    for (int i = 0; i < thread_count; i++) {
        uint64_t charged = 0;
        for (uint64_t c = 1; c < tt_the_segment.sections[TT_BLAME].used; c++)
            if (tt_the_segment.blame[c].site == site && tt_the_segment.blame[c].stack == stacks[i])
                charged = tt_the_segment.blame[c].blame_ticks;
        CHECK(charged <= blame[i] + slack && blame[i] <= charged + slack);
    }
}

static uint32_t new_site(void)
{
    static uint32_t line;
    tt_site site = {.name = tt_intern_text("lock", 4), .line = ++line};
    uint32_t id = tt_intern_site(&site);
    CHECK(id >= TT_SITE_FIRST);
    return id;
}

static void run(unsigned seed)
{
    pthread_t threads[MAX_THREADS];
    thread_count = 2 + (int)(seed % (MAX_THREADS - 1));
    pausing = seed % 3 == 0;
    mark_count = 0;
    take_gil();
    lock = (tt_lock){.site = new_site()};
    tt_recording_set(1);
    drop_gil();
    for (int i = 0; i < thread_count; i++)
        CHECK(pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)(seed * MAX_THREADS + (unsigned)i)) == 0);
    for (int i = 0; i < thread_count; i++) pthread_join(threads[i], NULL);
    tt_recording_set(1);
    CHECK(lock.word == 0 && tt_the_segment.stats[lock.site].waiters == 0);
    check_closed(lock.site);
    check_holds(lock.site);
    if (!pausing) check_truth(lock.site);
    for (uint64_t i = 1; i < tt_the_segment.sections[TT_CONTENDED].used; i++) CHECK(tt_the_segment.contended[i].lock == 0);
}

// -- one step at a time ----------------------------------------------------------------------------------------------

// Steps of waiters that are no threads: a sleep ends at once, for they have been woken or are late.
static tt_waiter *arrive(void)
{
    tt_waiter *w = tt_waiter_new();
    w->recorded = true;
    w->wait.site = lock.site;
    w->wait.lock = (uintptr_t)&lock;
    CHECK(tt_lock_enqueue(&lock, w));
    return w;
}

static void depart(tt_waiter *w, enum tt_outcome outcome)
{
    w->wait.outcome = outcome;
    tt_wait_record(&w->wait);
    tt_waiter_free(w);
}

static int waiting, obtained;   // under the mutex

static void *wait_once(void *argument)
{
    bool let_go = argument != NULL;
    take_gil();
    tt_waiter *w = arrive();
    waiting++;
    do {
        drop_gil();
        tt_waiter_sleep(w, -1, NULL);
        take_gil();
    } while (!tt_lock_claim(&lock, w));
    waiting--;
    obtained++;
    w->wait.outcome = TT_ACQUIRED;
    tt_wait_record(&w->wait);
    bool mine = !w->ended;
    tt_waiter_free(w);
    if (let_go && mine) tt_lock_release(&lock, stacks[0]);
    drop_gil();
    return NULL;
}

static void await(const int *count, int value)
{
    for (;;) {
        take_gil();
        bool reached = *count == value;
        drop_gil();
        if (reached) return;
        usleep(50);
    }
}

static void begin(pthread_t *threads, int count)
{
    take_gil();
    waiting = obtained = 0;
    lock = (tt_lock){.site = new_site()};
    CHECK(tt_lock_try(&lock));
    drop_gil();
    for (int i = 0; i < count; i++) {
        CHECK(pthread_create(&threads[i], NULL, wait_once, &lock) == 0);
        await(&waiting, i + 1);
    }
}

// While the woken one waits for the GIL, so does the other, because of it.
static void test_the_others_wait_for_the_owners_gil(void)
{
    pthread_t threads[2];
    begin(threads, 2);
    take_gil();
    tt_lock_release(&lock, stacks[0]);
    uint64_t blame = blame_sum(lock.site), released = tt_ticks();
    usleep(30000);
    uint64_t kept = tt_elapsed(released, tt_ticks());
    drop_gil();
    await(&obtained, 2);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    const tt_site_stats *s = &tt_the_segment.stats[lock.site];
    check_closed(lock.site);
    CHECK(blame > 0 && s->own_gil_ticks >= s->gil_ticks);   // the second one's own comes after the first one's hold
    CHECK(s->gil_ticks > 0 && s->gil_ticks + s->handoff_ticks >= kept);
}

// Whoever is awake and takes the free lock, though it was not woken for it, has its own GIL wait; of the others it is `gil`.
static void test_late_waiter_takes_the_lock_before_the_woken_one(void)
{
    lock = (tt_lock){.site = new_site()};
    CHECK(tt_lock_try(&lock));
    tt_waiter *first = arrive(), *second = arrive();
    CHECK(tt_waiter_sleep(second, 1, NULL) == TT_TIMED_OUT);
    tt_lock_release(&lock, stacks[0]);
    CHECK(tt_waiter_sleep(first, -1, NULL) == TT_OK);
    uint64_t awake = tt_ticks();
    usleep(2000);
    uint64_t spent = tt_elapsed(awake, tt_ticks());
    CHECK(tt_lock_claim(&lock, second) && !tt_lock_claim(&lock, first));
    CHECK(second->wait.own_gil >= spent && first->wait.own_gil == 0);
    CHECK(tt_the_segment.stats[lock.site].gil_ticks >= spent);
    depart(second, TT_ACQUIRED);
    tt_lock_release(&lock, stacks[0]);
    CHECK(tt_lock_claim(&lock, first));
    depart(first, TT_ACQUIRED);
    tt_lock_release(&lock, stacks[0]);
    CHECK(lock.word == 0);
    check_closed(lock.site);
}

// Who was woken and waited for the GIL, and then found the lock taken, waited because of the others' GIL.
static void test_gil_wait_of_a_waiter_passed_over_is_not_its_own(void)
{
    lock = (tt_lock){.site = new_site()};
    CHECK(tt_lock_try(&lock));
    tt_waiter *w = arrive();
    tt_lock_release(&lock, stacks[0]);
    CHECK(tt_waiter_sleep(w, -1, NULL) == TT_OK);
    uint64_t awake = tt_ticks();
    usleep(2000);
    uint64_t spent = tt_elapsed(awake, tt_ticks());
    CHECK(tt_lock_try(&lock) && !tt_lock_claim(&lock, w));
    CHECK(tt_the_segment.stats[lock.site].gil_ticks >= spent && w->wait.own_gil == 0);
    tt_lock_release(&lock, stacks[0]);
    CHECK(tt_lock_claim(&lock, w));
    depart(w, TT_ACQUIRED);
    tt_lock_release(&lock, stacks[0]);
    check_closed(lock.site);
}

// The same of one that was woken and leaves, for a signal's handler.
static void test_gil_wait_of_a_waiter_that_leaves_is_not_its_own(void)
{
    lock = (tt_lock){.site = new_site()};
    CHECK(tt_lock_try(&lock));
    tt_waiter *w = arrive();
    tt_lock_release(&lock, stacks[0]);
    CHECK(tt_waiter_sleep(w, -1, NULL) == TT_OK);
    usleep(1000);
    tt_lock_leave(&lock, w);
    CHECK(lock.word == 0 && w->wait.own_gil == 0);
    depart(w, TT_INTERRUPTED);
    check_closed(lock.site);
}

// Of a wait in progress when recording stops, that is counted which others have been blamed for already.
static void test_pause_in_the_middle_of_a_wait(void)
{
    lock = (tt_lock){.site = new_site()};
    CHECK(tt_lock_try(&lock));
    tt_waiter *w = arrive();
    usleep(1000);
    tt_lock_release(&lock, stacks[0]);
    CHECK(tt_lock_try(&lock));
    uint64_t charged = blame_sum(lock.site);
    CHECK(charged > 0);
    tt_recording_set(0);
    usleep(1000);
    tt_recording_set(1);
    tt_lock_release(&lock, stacks[0]);
    CHECK(tt_waiter_sleep(w, -1, NULL) == TT_OK && tt_lock_claim(&lock, w));
    depart(w, TT_ACQUIRED);
    tt_lock_release(&lock, stacks[0]);
    CHECK(blame_sum(lock.site) == charged && tt_the_segment.stats[lock.site].contended == 1);
    check_closed(lock.site);
}

// The one who waited has gone, and the hold has yet to be charged for it when recording stops.
static void test_pause_after_the_last_waiter_has_gone(void)
{
    lock = (tt_lock){.site = new_site()};
    CHECK(tt_lock_try(&lock));
    tt_waiter *w = arrive();
    usleep(1000);
    tt_lock_leave(&lock, w);
    depart(w, TT_TIMEOUT);
    tt_recording_set(0);
    tt_recording_set(1);
    tt_lock_release(&lock, stacks[0]);
    CHECK(lock.word == 0 && blame_sum(lock.site) > 0);
    check_closed(lock.site);
}

// What one endless hold makes others wait can be seen while it lasts, and is not charged again when it ends.
static void test_timeouts_are_blamed_on_the_live_holder(void)
{
    lock = (tt_lock){.site = new_site()};
    CHECK(tt_lock_try(&lock));
    for (int i = 0; i < 5; i++) {
        tt_waiter *w = arrive();
        usleep(2000);
        tt_lock_leave(&lock, w);
        tt_lock_settle(&lock, stacks[1], 1);
        depart(w, TT_TIMEOUT);
        check_closed(lock.site);
        const tt_blame_cell *cell = tt_intern_blame(lock.site, stacks[1]);
        CHECK(cell->holds == 1 && cell->waiters == (uint64_t)i + 1 && cell->max_ticks == cell->blame_ticks);
    }
    tt_lock_release(&lock, stacks[0]);
    CHECK(lock.word == 0);
    check_closed(lock.site);
    CHECK(tt_the_segment.stats[lock.site].timeouts == 5 && tt_intern_blame(lock.site, stacks[0])->blame_ticks == 0);
}

// A lock may be released by any thread, also before the one that it was handed to has come to run.
static void test_release_of_a_lock_handed_over(void)
{
    pthread_t threads[2];
    begin(threads, 2);
    take_gil();
    tt_lock_release(&lock, stacks[0]);
    CHECK(tt_lock_try(&lock));
    drop_gil();
    for (bool over = false; !over; usleep(1000)) {   // until the first has found the lock taken again
        take_gil();
        over = lock.queue->first->passed_over;
        drop_gil();
    }
    usleep(2000);
    take_gil();
    tt_lock_release(&lock, stacks[0]);
    CHECK(lock.queue->granted && tt_lock_held(&lock) && !tt_lock_owner(&lock) && !tt_lock_try(&lock));
    usleep(1000);
    tt_lock_release(&lock, stacks[1]);
    CHECK(!lock.queue->granted && !tt_lock_held(&lock));
    drop_gil();
    await(&obtained, 2);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    CHECK(lock.word == 0);
    check_closed(lock.site);
    CHECK(tt_intern_blame(lock.site, stacks[1])->blame_ticks == 0);
}

static void test_reset_charges_the_hold_it_ends(void)
{
    pthread_t threads[3];
    begin(threads, 3);
    usleep(1000);
    take_gil();
    tt_lock_reset(&lock);
    drop_gil();
    await(&obtained, 3);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    CHECK(lock.word == 0);
    check_closed(lock.site);
}

static void test_contended_record_follows_the_owner(void)
{
    pthread_t threads[2];
    const tt_contended *found = NULL;
    begin(threads, 2);
    take_gil();
    for (uint64_t i = 1; i < tt_the_segment.sections[TT_CONTENDED].used; i++)
        if (tt_the_segment.contended[i].lock == (uintptr_t)&lock) found = &tt_the_segment.contended[i];
    CHECK(found && found->waiters == 2 && found->site == lock.site && found->owner == tt_thread_current_index());
    tt_lock_release(&lock, stacks[0]);
    CHECK(found->owner == 0 && found->held_since == 0 && found->release_stack == stacks[0]);
    CHECK(tt_lock_try(&lock));
    CHECK(found->owner != 0 && found->owner == tt_thread_current_index() && found->held_since != 0);
    tt_lock_release(&lock, stacks[0]);
    drop_gil();
    await(&obtained, 2);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    CHECK(found->lock == 0);
}

int main(int argc, char **argv)
{
    alarm(300);
    unsigned seeds = argc > 1 ? (unsigned)atol(argv[1]) : 20, first = argc > 2 ? (unsigned)atol(argv[2]) : 1;
    rounds = argc > 3 ? atoi(argv[3]) : 20;
    const tt_sizes sizes = {.sites = 4096, .blame = 65536};
    CHECK(tt_capture_open(NULL, 0, &sizes, "test_blame", "0") == 0 && tt_capture_move() == 0);
    tt_recording_set(1);
    for (uint32_t i = 0; i < MAX_THREADS; i++) {
        uint32_t frame = tt_intern_frame(0, 0, i + 1);
        stacks[i] = tt_intern_stack(&frame, 1);
    }
    test_the_others_wait_for_the_owners_gil();
    take_gil();
    test_late_waiter_takes_the_lock_before_the_woken_one();
    test_gil_wait_of_a_waiter_passed_over_is_not_its_own();
    test_gil_wait_of_a_waiter_that_leaves_is_not_its_own();
    test_pause_in_the_middle_of_a_wait();
    test_pause_after_the_last_waiter_has_gone();
    test_timeouts_are_blamed_on_the_live_holder();
    drop_gil();
    test_release_of_a_lock_handed_over();
    test_reset_charges_the_hold_it_ends();
    test_contended_record_follows_the_owner();
    for (unsigned seed = first; seed < first + seeds; seed++) {
        printf("seed %u\n", seed);
        run(seed);
    }
    puts("ok");
    return 0;
}
