// Giving each string, frame, stack, site, wait cell and blame cell of the capture one id.
//
// The records themselves are the keys; the hash tables over them are private memory, so a fork's child keeps its own copy.
// All need the interpreter lock. An id of 0 (TT_SITE_OTHER for sites) means that there was no room.
#ifndef TT_INTERN_H
#define TT_INTERN_H
#include <stdbool.h>
#include "segment.h"

// Bytes of a text that are kept: a longer name is generated, and its beginning tells enough.
enum { TT_TEXT_MAX = 1024 };

// FNV-1a, RFC 9923, begun with TT_FNV1A.
#define TT_FNV1A 0xcbf29ce484222325u
static inline uint64_t tt_fnv1a(uint64_t hash, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) hash = (hash ^ (uint8_t)text[i]) * 0x100000001b3u;
    return hash;
}

// Makes the tables for sections of these capacities. -1: no memory.
int tt_intern_init(const tt_section *sections);
// Forgets the ids of records that count (cells), after a clone that started them at zero.
void tt_intern_forget_counters(void);

uint32_t tt_intern_text(const char *text, uint32_t length);
uint32_t tt_intern_frame(uint32_t file, uint32_t function, uint32_t line);
// `frames` innermost first.
uint32_t tt_intern_stack(const uint32_t *frames, uint32_t depth);
// A site is what it is by all its fields but `stack`, which is that of its first lock, and `fingerprint`, which is filled in.
uint32_t tt_intern_site(const tt_site *site);
tt_wait_cell *tt_intern_cell(uint32_t site, uint32_t stack, enum tt_kind kind);
tt_blame_cell *tt_intern_blame(uint32_t site, uint32_t stack);
#endif
