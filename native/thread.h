// Records of threads in the capture: who waits, who runs what, from when to when.
// All need the interpreter lock.
#ifndef TT_THREAD_H
#define TT_THREAD_H
#include "capture.h"

// A record for a thread about to start: its index, or 0 when there is no room (row 0 then adds up all such threads).
uint32_t tt_thread_announce(uint32_t name, uint32_t function);
// The start failed: the record is as if it had never been.
void tt_thread_retract(uint32_t record);
// The calling thread is the one announced, and begins or ends.
void tt_thread_begin(uint32_t record);
void tt_thread_end(void);

// The calling thread's record, made now if it has none (a thread not started by us).
tt_thread_record *tt_thread_current(void);
uint32_t tt_thread_current_index(void);

// For a fork's child: what the calling thread is, and starting over with it as the only one.
tt_thread_record tt_thread_current_record(void);
void tt_threads_restart(const tt_thread_record *self);
#endif
