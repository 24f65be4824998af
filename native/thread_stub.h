// STUB, until the commit "native: threads" is merged, which declares these in thread.h.
#ifndef TT_THREAD_STUB_H
#define TT_THREAD_STUB_H
#include "segment.h"
#include "thread.h"

static inline uint32_t tt_thread_of_ident(uint64_t ident)
{
    if (!tt_the_segment.base || !ident) return 0;
    for (uint32_t i = 1; i < tt_the_segment.sections[TT_THREADS].used; i++)
        if (tt_the_segment.threads[i].ident == ident && tt_the_segment.threads[i].state == TT_THREAD_RUNNING) return i;
    return 0;
}

static inline void *tt_thread_state(uint32_t record)
{
    (void)record;
    return 0;
}
#endif
