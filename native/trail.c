#define _GNU_SOURCE
#include "trail.h"
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "carry.h"
#include "clock.h"
#include "segment.h"
#include "thread.h"

static bool kept;

void tt_trail_set(int on) { kept = on != 0; }

static void copy_label(char *to, const char *from)
{
    memset(to, 0, sizeof((tt_start *)0)->label);
    memcpy(to, from, strnlen(from, sizeof((tt_start *)0)->label - 1));
}

void tt_trail_add(uint32_t thread, uint64_t ident, uint32_t function, uint32_t stack, const char *label)
{
    if (!kept || !tt_the_segment.base) return;
    tt_section *section = &tt_the_segment.sections[TT_STARTS];
    uint64_t sequence = section->used + 1;
    tt_start *s = &tt_the_segment.starts[section->used % section->capacity];
    const tt_thread_record *parent = tt_thread_current();
    tt_ring_begin(&s->sequence);
    s->ticks = tt_ticks();
    s->ident = ident;
    s->parent_ident = (uint64_t)pthread_self();
    s->thread = thread;
    s->generation = thread ? tt_the_segment.threads[thread].generation : 0;
    s->parent = tt_thread_current_index();
    s->parent_generation = parent->generation;
    s->parent_native_id = (uint32_t)syscall(SYS_gettid);
    s->function = function;
    s->stack = stack;
    s->context = tt_carry_note ? tt_carry_note() : 0;
    copy_label(s->label, label);
    copy_label(s->parent_label, parent->label);
    tt_ring_end(&s->sequence, sequence);
    tt_segment_publish(TT_STARTS);
}
