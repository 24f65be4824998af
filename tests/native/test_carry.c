// The table of carried values, and which release's value a waiter gets. One thread: waiters join a queue without sleeping.
#define _GNU_SOURCE
#include "carry.h"
#include <string.h>
#include <unistd.h>
#include "check.h"
#include "clock.h"
#include "intern.h"
#include "record.h"
#include "segment.h"
#include "thread.h"

static char values[4 * TT_CARRY_CAPACITY];   // their addresses are the values
static tt_carried taken[TT_CARRY_CAPACITY];

static uint32_t add(int i)
{
    bool added;
    return tt_carry_add(&values[i], &added);
}

static size_t take(void)
{
    uint64_t lost;
    return tt_carry_take(taken, false, &lost);
}

static uint64_t empty(void)
{
    uint64_t lost;
    tt_carry_take(taken, true, &lost);
    return lost;
}

static void a_value_is_given_out_twice(void)
{
    bool added;
    uint32_t one = tt_carry_add(&values[1], &added);
    CHECK(one != 0 && added);
    CHECK(tt_carry_add(&values[1], &added) == one && !added);
    CHECK(add(2) != one);
    CHECK(take() == 2 && taken[0].value == &values[1] && taken[0].number == one && !taken[0].taken);
    uint32_t again = tt_carry_add(&values[1], &added);
    CHECK(again != one && added);   // a number of its own: the first one may be gone before this
    CHECK(take() == 3 && taken[0].taken && taken[1].taken && !taken[2].taken && taken[2].number == again);
    CHECK(take() == 1 && taken[0].number == again && taken[0].taken);
    CHECK(take() == 0);
    CHECK(empty() == 0);
}

static void what_is_told_late_is_given_out_twice_from_then_on(void)
{
    uint32_t early = add(1), late = add(2);
    CHECK(take() == 2);
    CHECK(tt_carry_keep(late) == late);
    CHECK(take() == 2 && taken[0].number == early && taken[0].taken && taken[1].number == late && !taken[1].taken);
    CHECK(take() == 1 && taken[0].number == late && taken[0].taken);
    CHECK(tt_carry_keep(late) == 0 && tt_carry_keep(early) == 0 && tt_carry_keep(12345678) == 0);
    CHECK(empty() == 3);
}

static void what_has_no_room_is_counted(void)
{
    for (int i = 0; i < TT_CARRY_FRESH; i++) CHECK(add(i) != 0);
    for (int i = TT_CARRY_FRESH; i < 2 * TT_CARRY_FRESH; i++) CHECK(add(i) == 0);
    for (int i = 0; i < TT_CARRY_FRESH; i++) CHECK(add(i) != 0);   // these are there
    uint64_t lost;
    CHECK(tt_carry_take(taken, false, &lost) == TT_CARRY_FRESH && lost == TT_CARRY_FRESH);
    for (int i = 0; i < TT_CARRY_FRESH; i++) CHECK(tt_carry_keep(taken[i].number) != 0);
    for (int i = 0; i < TT_CARRY_FRESH; i++) CHECK(add(i) != 0);
    CHECK(tt_carry_take(taken, false, &lost) == TT_CARRY_CAPACITY && lost == 0);
    for (int i = 0; i < TT_CARRY_CAPACITY; i++) CHECK(tt_carry_keep(taken[i].number) != 0);
    CHECK(add(1) == 0);
    CHECK(empty() == 1);
    CHECK(take() == 0);
}

static void numbers_start_over_without_zero(void)
{
    tt_carry_newest = UINT32_MAX - 500;
    uint32_t numbers[TT_CARRY_FRESH];
    for (int i = 0; i < TT_CARRY_FRESH; i++) {
        numbers[i] = add(i);
        CHECK(numbers[i] != 0);
    }
    CHECK(numbers[0] == UINT32_MAX - 499 && numbers[TT_CARRY_FRESH - 1] == TT_CARRY_FRESH - 500);
    CHECK(take() == TT_CARRY_FRESH);
    for (int i = 0; i < TT_CARRY_FRESH; i++) CHECK(tt_carry_keep(numbers[i]) == numbers[i]);
    CHECK(tt_carry_keep(numbers[TT_CARRY_FRESH - 1] + 1) == 0 && tt_carry_keep(numbers[0] - 1) == 0);
    CHECK(empty() == 2);
}

static void a_forked_child_lets_go_of_what_its_parent_had(void)
{
    uint32_t number = add(1);
    add(2);
    tt_fork_epoch++;   // as the fork handler does
    CHECK(tt_carry_keep(number) == 0);
    CHECK(add(3) != 0);
    tt_fork_epoch++;   // a child's child
    CHECK(add(4) != 0);
    CHECK(take() == 1 && taken[0].value == &values[4]);
    CHECK(tt_carry_inherited(taken) == 1 && taken[0].value == &values[3]);
    CHECK(tt_carry_inherited(taken) == 2 && taken[1].value == &values[2]);
    CHECK(tt_carry_inherited(taken) == 0);
    empty();
}

// -- with locks ------------------------------------------------------------------------------------------------------

static int now_carried;   // by the thread that this one plays
static uint32_t asked;

static uint32_t note(void)
{
    asked++;
    return add(now_carried);
}

static tt_waiter *waiter(tt_lock *l, enum tt_kind kind)
{
    tt_waiter *w = tt_waiter_new();
    w->recorded = true;
    w->wait.kind = kind;
    w->wait.site = l->site;
    CHECK(tt_lock_enqueue(l, w));
    return w;
}

static void release_by(tt_lock *l, int who)
{
    now_carried = who;
    tt_lock_release(l, 1);
}

static int value_of(uint32_t number)
{
    for (size_t i = take(); i-- > 0;)
        if (taken[i].number == number) {
            tt_carry_keep(number);
            return (int)((char *)taken[i].value - values);
        }
    return 0;
}

static void a_waiter_gets_the_value_of_the_release_that_it_ended_by(void)
{
    tt_lock l = {.site = TT_SITE_OTHER};
    CHECK(tt_lock_try(&l));
    tt_waiter *a = waiter(&l, TT_KIND_LOCK), *b = waiter(&l, TT_KIND_RLOCK);
    release_by(&l, 11);
    CHECK(tt_lock_try(&l));   // somebody else is quicker
    CHECK(!tt_lock_claim(&l, a));
    release_by(&l, 12);
    CHECK(tt_lock_claim(&l, a) && value_of(a->wait.holder_context) == 12);
    release_by(&l, 13);
    CHECK(tt_lock_claim(&l, b) && value_of(b->wait.holder_context) == 13);
    tt_lock_release(&l, 0);
    tt_waiter_free(a);
    tt_waiter_free(b);
}

static void a_lock_handed_over_and_released_by_another_thread(void)
{
    tt_lock l = {.site = TT_SITE_OTHER};
    CHECK(tt_lock_try(&l));
    tt_waiter *a = waiter(&l, TT_KIND_LOCK);
    release_by(&l, 21);
    CHECK(tt_lock_try(&l) && !tt_lock_claim(&l, a));
    usleep(2000);   // it has been passed over for long: it is handed the lock
    release_by(&l, 22);
    CHECK(a->granted && tt_lock_held(&l));
    release_by(&l, 23);   // before it has come to run
    CHECK(a->ended && tt_lock_claim(&l, a) && value_of(a->wait.holder_context) == 23);
    CHECK(!tt_lock_held(&l));
    tt_waiter_free(a);
}

static void nobody_asks_when_nobody_will_tell(void)
{
    tt_event_threshold_set(1000000000000u);
    tt_lock l = {.site = TT_SITE_OTHER};
    CHECK(tt_lock_try(&l));
    tt_waiter *a = waiter(&l, TT_KIND_LOCK), *b = waiter(&l, TT_KIND_LOCK);
    tt_event_threshold_set(0);
    release_by(&l, 31);
    CHECK(tt_lock_claim(&l, a) && value_of(a->wait.holder_context) == 31);
    tt_event_threshold_set(1000000000000u);
    uint32_t before = asked;
    release_by(&l, 32);
    CHECK(tt_lock_claim(&l, b) && b->wait.holder_context == 0 && asked == before);   // not 31
    tt_event_threshold_set(0);
    for (enum tt_kind kind = 0; kind < TT_KINDS; kind++) {
        if (tt_kind_has_holder(kind)) continue;
        a = waiter(&l, kind);
        release_by(&l, 33);
        CHECK(tt_lock_claim(&l, a) && a->wait.holder_context == 0);
    }
    CHECK(asked == before);
}

int main(void)
{
    take_gil();
    a_value_is_given_out_twice();
    what_is_told_late_is_given_out_twice_from_then_on();
    what_has_no_room_is_counted();
    numbers_start_over_without_zero();
    a_forked_child_lets_go_of_what_its_parent_had();
    CHECK(tt_capture_open(NULL, 0, NULL, "test_carry", "") == 0 && tt_capture_move() == 0);
    tt_recording_set(1);
    tt_event_threshold_set(0);
    tt_carry_note = note;
    a_waiter_gets_the_value_of_the_release_that_it_ended_by();
    a_lock_handed_over_and_released_by_another_thread();
    nobody_asks_when_nobody_will_tell();
    puts("ok");
    return 0;
}
