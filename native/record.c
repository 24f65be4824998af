#include "record.h"
#include "carry.h"
#include "intern.h"
#include "thread.h"

#define ANCHOR_NS 1000000000u   // the least time between two readings of all clocks

static uint64_t event_threshold_ns = 1000000;

void tt_event_threshold_set(uint64_t ns) { event_threshold_ns = ns; }
uint64_t tt_event_threshold_get(void) { return event_threshold_ns; }

bool tt_wait_is_slow(uint64_t start, uint64_t end) { return tt_ticks_to_ns(tt_elapsed(start, end)) >= event_threshold_ns; }

void tt_hold_begin(tt_lock *l, uint64_t now)
{
    bool recorded = l->site >= tt_recorded_from;
    l->held_since = recorded ? now : 0;
    if (recorded) tt_the_segment.stats[l->site].acquisitions++;
}

void tt_hold_end(tt_lock *l, uint64_t now)
{
    if (l->held_since <= tt_session_start) {
        if (l->held_since) tt_hold_end_untimed(l);
        return;
    }
    tt_site_stats *s = &tt_the_segment.stats[l->site];
    uint64_t held = now - l->held_since;
    if (tt_hold_count(s, held)) return;
    if (s->pending_hold) s->hold_histogram[0]++;   // negative, by a processor whose counter lags
    s->pending_hold = held * 2 + 1;
}

void tt_hold_end_untimed(const tt_lock *l)
{
    // What is older than the capture was counted in that of a process we are forked from.
    if (l->site < TT_SITE_OTHER || l->held_since <= tt_the_segment.header->first.ticks) return;
    tt_the_segment.stats[l->site].holds_untimed++;
}

void tt_hold_missed(const tt_lock *l)
{
    if (l->site < tt_recorded_from) return;
    tt_the_segment.stats[l->site].acquisitions++;
    tt_the_segment.stats[l->site].holds_untimed++;
}

static void count_contention(const tt_wait *w, uint64_t ticks, uint64_t ns)
{
    tt_site_stats *s = &tt_the_segment.stats[w->site];
    s->contended++;
    s->wait_ticks += ticks;
    s->own_gil_ticks += w->own_gil;
    if (ticks > s->wait_max_ticks) s->wait_max_ticks = ticks;
    s->wait_histogram[tt_histogram_bucket(ns)]++;
    s->timeouts += w->outcome == TT_TIMEOUT;
    s->interrupted += w->outcome == TT_INTERRUPTED;
}

static void count_thread(const tt_wait *w, uint64_t ticks)
{
    tt_thread_record *t = tt_thread_current();
    if (tt_kind_is_contention(w->kind))
        t->wait_ticks += ticks;
    else if (tt_kind_is_resource(w->kind))
        t->resource_ticks += ticks;
    else
        t->idle_ticks += ticks;
    t->wait_count += tt_kind_is_contention(w->kind);
    t->own_gil_ticks += w->own_gil;
}

static void write_event(const tt_wait *w)
{
    tt_section *s = &tt_the_segment.sections[TT_EVENTS];
    uint64_t index = s->used;
    tt_event *e = &tt_the_segment.events[index % s->capacity];
    tt_ring_begin(&e->sequence);
    e->start_ticks = w->start;
    e->end_ticks = w->end;
    e->own_gil_ticks = w->own_gil;
    e->site = w->site;
    e->stack = w->stack;
    e->thread = tt_thread_current_index();
    e->thread_generation = tt_the_segment.threads[e->thread].generation;
    e->kind = (uint16_t)w->kind;
    e->outcome = (uint16_t)w->outcome;
    e->lock = w->lock;
    e->holder = w->holder;
    e->holder_generation = w->holder_generation;
    e->release_stack = w->release_stack;
    e->holder_stack = w->holder_stack;
    e->context = tt_carry_note ? tt_carry_note() : 0;
    e->holder_context = w->holder_context ? tt_carry_keep(w->holder_context) : 0;
    tt_ring_end(&e->sequence, index + 1);
    tt_segment_publish(TT_EVENTS);
}

void tt_wait_show(const tt_wait *w)
{
    uint32_t index = tt_thread_current_index();
    if (index == 0) return;   // the row of many
    tt_thread_record *t = &tt_the_segment.threads[index];
    t->wait_lock = w->lock;
    t->wait_site = w->site;
    t->wait_stack = w->stack;
    t->wait_kind = w->kind;
    t->wait_timed = w->timed;
    __atomic_store_n(&t->wait_since, w->start, __ATOMIC_RELEASE);   // last, for readers in other processes
}

void tt_wait_hide(void) { __atomic_store_n(&tt_thread_current()->wait_since, 0, __ATOMIC_RELAXED); }

void tt_wait_record(const tt_wait *w)
{
    __atomic_store_n(&tt_thread_current()->wait_since, 0, __ATOMIC_RELAXED);
    if (w->start <= tt_session_start && w->ticks == 0) return;
    uint64_t ticks = w->in_ledger ? w->ticks : tt_elapsed(w->start, w->end), ns = tt_ticks_to_ns(ticks);
    if (tt_kind_is_contention(w->kind)) count_contention(w, ticks, ns);
    tt_wait_cell *cell = tt_intern_cell(w->site, w->stack, w->kind);
    cell->count++;
    cell->wait_ticks += ticks;
    cell->own_gil_ticks += w->own_gil;
    if (ticks > cell->max_ticks) cell->max_ticks = ticks;
    cell->timeouts += w->outcome == TT_TIMEOUT;
    cell->interrupted += w->outcome == TT_INTERRUPTED;
    if (w->outcome == TT_ACQUIRED) cell->waker = w->release_stack;
    count_thread(w, ticks);
    if (ns >= event_threshold_ns) {
        write_event(w);
        // So that the times of a killed process can be told to the nanosecond.
        if (tt_ticks_to_ns(tt_elapsed(tt_the_segment.header->last.ticks, w->end)) >= ANCHOR_NS) tt_capture_anchor();
    }
}
