// Records of threads in the capture: who waits, who runs what, from when to when.
//
// All need the interpreter lock, but for the end of a thread that we have not started: its C library notices it.
#ifndef TT_THREAD_H
#define TT_THREAD_H
#include <stdint.h>
#include "capture.h"

// Makes room for what is known of `capacity` threads beside the capture. -1: no memory.
int tt_threads_init(uint64_t capacity);

// A record for a thread that the calling one is about to start: its index, or 0 when there is no room (row 0 then adds up
// all such threads). `function`: string of the capture; `stack`: where it is started; `label`: its name, utf-8.
uint32_t tt_thread_announce(uint32_t function, uint32_t stack, const char *label);
// The start failed: the record is as if it had never been.
void tt_thread_retract(uint32_t record);
// The calling thread is the one announced, and begins. `asked`: when it was announced, ticks; `state`: its PyThreadState, see
// tt_thread_state.
void tt_thread_begin(uint32_t record, uint64_t asked, void *state);
// It ends. From here on nobody may look at its PyThreadState.
void tt_thread_end(void);

// The calling thread's record, made now if it has none (a thread not started by us).
tt_thread_record *tt_thread_current(void);
uint32_t tt_thread_current_index(void);
// The same, NULL if it has none.
const tt_thread_record *tt_thread_known(void);
// The record of the living thread `ident`; 0: not known.
uint32_t tt_thread_of_ident(uint64_t ident);

// The PyThreadState of a living thread whose end we shall be told of; NULL for others.
void *tt_thread_state(uint32_t record);
// Says that the calling thread's PyThreadState lives as long as the interpreter does (the main thread).
void tt_thread_adopt_state(void *state);

// Gives a record its thread's name, utf-8.
void tt_thread_rename(uint32_t record, const char *label);
// Brings the processor times of living threads up to date.
void tt_threads_sample(void);

// For a fork's child: what the calling thread is, and starting over with it as the only one.
tt_thread_record tt_thread_current_record(void);
void tt_threads_restart(const tt_thread_record *self);
#endif
