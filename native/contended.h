// Records of the locks that somebody waits for now, for readers of a process that hangs.
// All need the interpreter lock.
#ifndef TT_CONTENDED_H
#define TT_CONTENDED_H
#include "lock.h"
#include "segment.h"

// Brings the record of `l`, which has a queue, up to date: makes it when a recorded wait has begun, frees it when none is
// left.
void tt_contended_update(tt_lock *l);

// The same when nothing has changed but who has `l`: all that a thread pays for, which takes it again and again.
static inline void tt_contended_show_owner(const tt_lock *l)
{
    const tt_queue *q = l->queue;
    if (!q->contended) return;
    tt_contended *c = &tt_the_segment.contended[q->contended];
    c->held_since = q->owner ? l->held_since : 0;
    c->owner = q->owner_record;
    c->owner_generation = q->owner_generation;
    c->owner_stack = q->owner_stack;
    c->release_stack = q->release_stack;
    c->entered = q->owner && q->entered;
}
#endif
