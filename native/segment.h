// The capture of this process: where its sections are mapped, and adding records to them.
//
// Everything here needs the interpreter lock (plain-C tests: one mutex in its place), but what abi.h declares.
// The mapping's address never changes: a forked child and a later file are moved over it.
#ifndef TT_SEGMENT_H
#define TT_SEGMENT_H
#include <stdbool.h>
#include "abi.h"
#include "capture.h"

typedef struct tt_segment {
    uint8_t *base;   // NULL before the first tt_capture_move
    uint64_t size;
    tt_header *header;
    tt_section *sections;
    char *strings;
    tt_frame *frames;
    tt_stack *stacks;
    tt_site *sites;
    tt_site_stats *stats;
    tt_wait_cell *cells;
    tt_thread_record *threads;
    tt_event *events;
    char *notes;
    tt_blame_cell *blame;
    tt_start *starts;
    tt_contended *contended;
    tt_totals *totals;
    tt_pool *pools;
} tt_segment;
#pragma GCC visibility push(hidden)   // see clock.h
extern tt_segment tt_the_segment;

// The lowest site that is recorded: TT_SITE_OTHER while recording, UINT32_MAX otherwise.
extern uint32_t tt_recorded_from;
// When counting last began, ticks; UINT64_MAX while it is off. What started before is not counted.
extern uint64_t tt_session_start;
// Set by tt_capture_finish. Threads may die from now on without a word: hand them nothing.
extern bool tt_process_ending;
// Counts forks: tells a child that waiters and threads it sees in memory are not its own.
extern uint32_t tt_fork_epoch;
#pragma GCC visibility pop
// Makes forks count, from the first lock on, whether or not there is a capture. -1: no memory.
int tt_fork_watch(void);

// Starts or stops counting. Locks work either way. Holds in progress at a change are not timed, and of waits only what
// somebody has been blamed for already is counted.
void tt_recording_set(bool on);
// Begins, or in a forked child goes on, in what tt_capture_open has mapped, if it has. -1: see tt_capture_error.
int tt_capture_move(void);
// Reads the three clocks into header.last.
void tt_capture_anchor(void);
// Adds a note (JSON, utf-8, `length` bytes). -1: the section is full (counted as lost), or there is none.
int tt_capture_note(const char *text, uint32_t length);
// Marks the capture as ended in an orderly way.
void tt_capture_finish(void);

// Room for one record of `section`: its index, or 0 when there is none left (counted as lost).
// The record becomes visible to readers with tt_segment_publish.
uint32_t tt_segment_reserve(enum tt_section_id section);
void tt_segment_publish(enum tt_section_id section);
// Around the writing of a ring's record: a reader copies it between two looks at its sequence, which must be the same.
static inline void tt_ring_begin(uint64_t *sequence)
{
    __atomic_store_n(sequence, 0, __ATOMIC_RELAXED);
#ifndef __SANITIZE_THREAD__   // TSan knows no fences, and in a test of one process nobody reads meanwhile
    __atomic_thread_fence(__ATOMIC_RELEASE);   // no later store becomes visible before that one
#endif
}
static inline void tt_ring_end(uint64_t *sequence, uint64_t value) { __atomic_store_n(sequence, value, __ATOMIC_RELEASE); }
// Adds {length, text} to TT_STRINGS or TT_NOTES. Its offset, or 0 when there is no room (counted as lost).
uint32_t tt_segment_add_text(enum tt_section_id section, const char *text, uint32_t length);
#endif
