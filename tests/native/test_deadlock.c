// Deadlocks, on records made by hand.
#define _GNU_SOURCE
#include <string.h>
#include <unistd.h>
#include "check.h"
#include "clock.h"
#include "deadlock.h"
#include "intern.h"
#include "lock.h"
#include "thread.h"

static uint32_t me;   // this thread's record

static uint32_t new_thread(const char *label)
{
    uint32_t index = tt_thread_announce(0, 0, label);
    tt_thread_record *r = &tt_the_segment.threads[index];
    CHECK(index);
    r->state = TT_THREAD_RUNNING;
    r->ident = 1000 + index;
    r->native_id = 100 + index;
    return index;
}

static tt_contended *new_lock(uint64_t address, uint32_t owner, enum tt_lock_type type, const char *name)
{
    uint32_t index = tt_segment_reserve(TT_CONTENDED);
    CHECK(index);
    tt_site site = {.name = tt_intern_text(name, (uint32_t)strlen(name)), .file = tt_intern_text("/srv/app.py", 11),
                    .line = (uint32_t)address, .type = type};
    tt_the_segment.contended[index] = (tt_contended){
        .lock = address, .owner = owner, .type = type, .held_since = 5, .site = tt_intern_site(&site),
        .owner_generation = tt_the_segment.threads[owner].generation};
    tt_segment_publish(TT_CONTENDED);
    return &tt_the_segment.contended[index];
}

static void wait_for(uint32_t thread, enum tt_kind kind, uint64_t what)
{
    static uint64_t now = 100;
    tt_thread_record *r = &tt_the_segment.threads[thread];
    r->wait_since = ++now;
    r->wait_kind = kind;
    r->wait_lock = what;
    r->wait_timed = 0;
}

static void start_over(void)
{
    tt_the_segment.sections[TT_CONTENDED].used = 1;
    tt_the_segment.sections[TT_THREADS].used = 2;
    tt_thread_record *r = &tt_the_segment.threads[me];
    r->wait_since = 0;
    snprintf(r->label, sizeof r->label, "me");
}

// `me` has A and waits for B, which another thread has that waits for A.
static uint32_t ab_ba(tt_contended **a, tt_contended **b)
{
    start_over();
    uint32_t other = new_thread("other");
    *a = new_lock(0xA, me, TT_LOCK, "A");
    *b = new_lock(0xB, other, TT_LOCK, "B");
    wait_for(me, TT_KIND_LOCK, 0xB);
    wait_for(other, TT_KIND_LOCK, 0xA);
    return other;
}

static void test_two_threads_that_want_each_other_s_lock(void)
{
    tt_contended *a, *b;
    uint32_t other = ab_ba(&a, &b);
    uint64_t number = tt_deadlock_of(me);
    CHECK(number && tt_deadlock_of(other) == number);
    uint32_t behind = new_thread("behind");
    wait_for(behind, TT_KIND_LOCK, 0xA);
    CHECK(tt_deadlock_of(behind) == 0 && tt_deadlock_of(me) == number);
    CHECK(tt_deadlock_of(0) == 0);
    a->held_since++;
    CHECK(tt_deadlock_of(me) != number);
}

static void test_what_breaks_a_cycle(void)
{
    tt_contended *a, *b;
    uint32_t other = ab_ba(&a, &b);
    tt_thread_record *r = &tt_the_segment.threads[other];
    r->wait_timed = 1;
    CHECK(!tt_deadlock_of(me));
    r->wait_timed = 0;
    r->wait_since = 0;
    CHECK(!tt_deadlock_of(me));
    r->wait_since = 7;
    r->wait_kind = TT_KIND_CONDITION;
    CHECK(!tt_deadlock_of(me));
    r->wait_kind = TT_KIND_RLOCK;
    CHECK(tt_deadlock_of(me));
    r->state = TT_THREAD_ENDED;
    CHECK(!tt_deadlock_of(me));
    r->state = TT_THREAD_RUNNING;
    r->generation++;
    CHECK(!tt_deadlock_of(me));
    b->owner_generation++;
    CHECK(tt_deadlock_of(me));
    a->owner = 0;
    CHECK(!tt_deadlock_of(me));
    a->owner = me;
    a->lock = 0;
    CHECK(!tt_deadlock_of(me));
}

static void test_rings_of_any_length_up_to_the_limit(void)
{
    for (uint32_t length = 2; length <= 70; length++) {
        start_over();
        uint32_t threads[70] = {me};
        for (uint32_t i = 1; i < length; i++) threads[i] = new_thread("ring");
        for (uint32_t i = 0; i < length; i++) {
            new_lock(0x100 + i, threads[i], TT_LOCK, "ring");
            wait_for(threads[i], TT_KIND_LOCK, 0x100 + (i + 1) % length);
        }
        uint64_t number = tt_deadlock_of(me);
        CHECK((number != 0) == (length < 64));
        for (uint32_t i = 0; i < length; i++) CHECK(tt_deadlock_of(threads[i]) == number);
    }
}

static void test_a_lock_of_one_s_own(void)
{
    start_over();
    tt_contended *lock = new_lock(0xA, me, TT_LOCK, "A");
    wait_for(me, TT_KIND_LOCK, 0xA);
    CHECK(!tt_deadlock_of(me));   // it may be a signal that another thread will give
    lock->entered = 1;
    CHECK(tt_deadlock_of(me));
}

static void test_joins(void)
{
    start_over();
    uint32_t other = new_thread("joined");
    tt_contended *lock = new_lock(0xA, me, TT_LOCK, "A");
    wait_for(me, TT_KIND_JOIN, tt_the_segment.threads[other].ident);
    CHECK(!tt_deadlock_of(me));
    wait_for(other, TT_KIND_LOCK, 0xA);
    CHECK(!tt_deadlock_of(me));   // `me` may have taken it for somebody else to release
    lock->entered = 1;
    CHECK(tt_deadlock_of(me) && tt_deadlock_of(other) == tt_deadlock_of(me));
    lock->entered = 0;
    lock->type = TT_RLOCK;
    CHECK(tt_deadlock_of(me));
    wait_for(other, TT_KIND_JOIN, tt_the_segment.threads[me].ident);
    CHECK(tt_deadlock_of(me));
    wait_for(other, TT_KIND_JOIN, 77);
    CHECK(!tt_deadlock_of(me));
}

static const tt_contended *contended_now(tt_lock *l, tt_waiter *w)
{
    *w = (tt_waiter){.recorded = true, .wait = {.lock = 0xC0, .site = TT_SITE_OTHER}};
    CHECK(tt_lock_enqueue(l, w));
    const tt_contended *c = &tt_the_segment.contended[l->queue->contended];
    CHECK(c->lock == 0xC0);
    return c;
}

static void test_who_took_a_lock_by_a_with_statement_is_known_as_long_as_it_has_it(void)
{
    start_over();
    tt_lock l = {.site = TT_SITE_OTHER};
    tt_waiter w;
    CHECK(tt_lock_enter(&l));
    for (int again = 0; again < 2; again++) {
        const tt_contended *c = contended_now(&l, &w);
        CHECK(c->entered && c->owner == me && tt_lock_thread(&l) == tt_self());
        tt_lock_leave(&l, &w);
        CHECK(tt_lock_thread(&l) == tt_self());
    }
    tt_lock_release(&l, 0);
    CHECK(tt_lock_try(&l));
    const tt_contended *c = contended_now(&l, &w);
    CHECK(!c->entered);
    tt_lock_set_entered(&l);
    CHECK(c->entered);
    tt_lock_release(&l, 0);
    CHECK(!c->entered && tt_lock_try(&l) && !c->entered);
    tt_lock_leave(&l, &w);
    tt_lock_release(&l, 0);
    CHECK(tt_lock_try(&l));
    tt_lock_set_entered(&l);
    CHECK(tt_lock_thread(&l) == tt_self() && contended_now(&l, &w)->entered);
    tt_lock_leave(&l, &w);
}

static uint32_t notes_since(uint64_t start, const char *text)
{
    uint32_t found = 0;
    uint64_t end = tt_the_segment.sections[TT_NOTES].used;
    for (uint64_t at = start; at < end;) {
        uint32_t length;
        memcpy(&length, tt_the_segment.notes + at, sizeof length);
        found += memmem(tt_the_segment.notes + at + 4, length, text, strlen(text)) != NULL;
        at += (4 + length + 3) / 4 * 4;
    }
    return found;
}

static void test_it_is_said_once_and_only_when_it_is_the_same_again(void)
{
    tt_contended *a, *b;
    ab_ba(&a, &b);
    char line[TT_DEADLOCK_LINE] = "";
    uint64_t start = tt_the_segment.sections[TT_NOTES].used;
    tt_deadlock_watch watch = tt_deadlock_watch_begin(), second = watch;
    CHECK(watch.next_ns > (int64_t)tt_clock_monotonic_ns() + 4000000000);
    CHECK(!tt_deadlock_look(&watch, line) && watch.suspect);
    CHECK(watch.next_ns < (int64_t)tt_clock_monotonic_ns() + 1000000000);
    wait_for(me, TT_KIND_LOCK, 0xB);   // it got on in the meantime
    CHECK(!tt_deadlock_look(&watch, line) && line[0] == 0);
    CHECK(notes_since(start, "deadlock") == 0);
    CHECK(tt_deadlock_look(&watch, line));
    CHECK(strcmp(line, "tracedthread: deadlock: me waits for B (app.py:11) held by other, which waits for A (app.py:10) "
                       "held by me\n") == 0);
    CHECK(notes_since(start, "{\"deadlock\": {\"length\": 2, \"threads\": [{\"thread\": \"me\", \"ident\": ") == 1);
    CHECK(!tt_deadlock_look(&watch, line) && !tt_deadlock_look(&watch, line));
    CHECK(!tt_deadlock_look(&second, line) && !tt_deadlock_look(&second, line));   // as another thread of the cycle would
    CHECK(notes_since(start, "deadlock") == 1);
}

static void test_looks_become_rare(void)
{
    start_over();
    char line[TT_DEADLOCK_LINE];
    tt_deadlock_watch watch = tt_deadlock_watch_begin();
    for (int64_t pause = 5; pause < 1000; pause *= 2) {
        CHECK(!tt_deadlock_look(&watch, line));
        int64_t ahead = watch.next_ns - (int64_t)tt_clock_monotonic_ns();
        CHECK(ahead <= pause * 1000000000 && ahead > (pause - 3) * 1000000000);
    }
    tt_deadlock_watch_set(0, -1);
    CHECK(tt_deadlock_watch_begin().next_ns == -1);
    tt_deadlock_watch_set(5000000000u, -1);
}

static void test_names_cannot_break_the_line_or_the_note(void)
{
    tt_contended *a, *b;
    char line[TT_DEADLOCK_LINE] = "";
    uint32_t other = ab_ba(&a, &b);
    tt_thread_rename(other, "\"\\\n\x7F\xC3\xA4xxx");
    tt_deadlock_watch watch = tt_deadlock_watch_begin();
    uint64_t start = tt_the_segment.sections[TT_NOTES].used;
    CHECK(!tt_deadlock_look(&watch, line) && tt_deadlock_look(&watch, line));
    CHECK(strstr(line, "held by \"\\??\xC3\xA4xxx") && strstr(line, "xxx, which") && strchr(line, '\n') == line + strlen(line) - 1);
    CHECK(notes_since(start, "\"held_by\": \"\\\"\\\\\\u000a\\u007f\xC3\xA4xxx") == 1);
}

static void test_the_line_goes_where_it_can(void)
{
    int ends[2];
    char text[64] = "";
    CHECK(pipe(ends) == 0);
    tt_deadlock_say("nobody asked\n");
    tt_deadlock_watch_set(5000000000u, ends[1]);
    tt_deadlock_say("hello\n");
    CHECK(read(ends[0], text, sizeof text) == 6 && strcmp(text, "hello\n") == 0);
    char fill[4096] = {0};
    for (int i = 0; i < 16; i++) CHECK(write(ends[1], fill, sizeof fill) == sizeof fill);
    tt_deadlock_say("would block\n");
    close(ends[0]);
    tt_deadlock_say("nobody reads\n");   // SIGPIPE would end this test
    close(ends[1]);
    tt_deadlock_say("closed\n");
    tt_deadlock_watch_set(5000000000u, -1);
}

int main(void)
{
    alarm(60);
    CHECK(tt_deadlock_watch_begin().next_ns == -1 && tt_deadlock_of(0) == 0);   // no capture yet
    CHECK(tt_capture_open(NULL, 0, NULL, "test_deadlock", "0") == 0 && tt_capture_move() == 0);
    tt_recording_set(1);
    me = tt_thread_current_index();
    CHECK(me == 1);
    test_two_threads_that_want_each_other_s_lock();
    test_what_breaks_a_cycle();
    test_rings_of_any_length_up_to_the_limit();
    test_a_lock_of_one_s_own();
    test_joins();
    test_who_took_a_lock_by_a_with_statement_is_known_as_long_as_it_has_it();
    test_it_is_said_once_and_only_when_it_is_the_same_again();
    test_looks_become_rare();
    test_names_cannot_break_the_line_or_the_note();
    test_the_line_goes_where_it_can();
    puts("ok");
    return 0;
}
