// Records of the locks that somebody waits for now, for readers of a process that hangs.
// All need the interpreter lock.
#ifndef TT_CONTENDED_H
#define TT_CONTENDED_H
#include "lock.h"

// Brings the record of `l`, which has a queue, up to date: makes it when a recorded wait has begun, frees it when none is
// left.
void tt_contended_update(tt_lock *l);
#endif
