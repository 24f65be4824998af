#include "contended.h"
#include "segment.h"

// A chain of free records, linked by their `waiters`.
static uint32_t first_free;

static uint32_t take(void)
{
    tt_section *s = &tt_the_segment.sections[TT_CONTENDED];
    uint32_t index = first_free;
    if (index && index < s->used) {
        first_free = tt_the_segment.contended[index].waiters;
        return index;
    }
    first_free = 0;   // after a fork the section starts over
    index = tt_segment_reserve(TT_CONTENDED);
    if (index) tt_segment_publish(TT_CONTENDED);
    return index;
}

void tt_contended_update(tt_lock *l)
{
    tt_queue *q = l->queue;
    bool wanted = q->recorded && l->site >= TT_SITE_OTHER && tt_the_segment.base;
    if (!q->contended) {
        if (!wanted || !(q->contended = take())) return;
        tt_the_segment.contended[q->contended].site = l->site;
        tt_the_segment.contended[q->contended].type = tt_the_segment.sites[l->site].type;
    }
    tt_contended *c = &tt_the_segment.contended[q->contended];
    if (!wanted) {
        __atomic_store_n(&c->lock, 0, __ATOMIC_RELEASE);
        *c = (tt_contended){.waiters = first_free};
        first_free = q->contended;
        q->contended = 0;
        return;
    }
    tt_contended_show_owner(l);
    c->waiters = q->recorded;
    __atomic_store_n(&c->lock, (q->first ? q->first : q->granted)->wait.lock, __ATOMIC_RELEASE);
}
