// Deadlocks, noticed by the threads that are in them.
//
// A thread whose wait has no timeout looks at the chain before it once the wait is old (5 s, and then ever more rarely). The
// last thread to join a cycle finds it complete, so that one look in each wait would do. What was found is said only if it
// is the same a moment later, and once per cycle: as a note in the capture, and as one line on stderr. Nothing of the
// program is called or waited for.
//
// All need the interpreter lock but tt_deadlock_say, which must be called without it.
#ifndef TT_DEADLOCK_H
#define TT_DEADLOCK_H
#include <stdbool.h>
#include "abi.h"

enum { TT_DEADLOCK_LINE = 1024 };   // bytes of the line, NUL included

// The looks of one wait.
typedef struct tt_deadlock_watch {
    int64_t next_ns;     // when to look, CLOCK_MONOTONIC; -1: never
    int64_t pause_ns;    // before the look after that
    uint64_t suspect;    // the cycle that the last look has found; 0: none
} tt_deadlock_watch;

// For a wait without a timeout that begins now.
tt_deadlock_watch tt_deadlock_watch_begin(void);
// The calling thread still waits, and it is time for a look. Puts the next one off. True if a deadlock was found that has
// not been said; it is in the capture now, and `line` is for tt_deadlock_say.
bool tt_deadlock_look(tt_deadlock_watch *watch, char line[TT_DEADLOCK_LINE]);
// Writes the line to stderr, past Python's buffers, unless it cannot take it at once.
void tt_deadlock_say(const char *line);

// The deadlock that this thread (a tt_thread_record) is part of, as a number that stays the same while nothing in it moves.
// 0: none, or it only waits behind one.
uint64_t tt_deadlock_of(uint32_t thread);
#endif
