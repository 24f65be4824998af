#define _GNU_SOURCE
#include "intern.h"
#include <stdlib.h>
#include <string.h>

// Open addressing, at most half full: twice as many slots as the section has records.
typedef struct slot { uint32_t hash, id; } slot;   // id 0: empty
typedef struct table { slot *slots; uint32_t mask; } table;
static table strings, frames, stacks, sites, cells, blame;
static uint32_t last_blame;   // looked up last: a hot lock is mostly released at one place

typedef bool same_fn(uint32_t id, const void *key);

// The slot that holds `key`, or the empty one where it belongs.
static inline slot *find(const table *t, uint32_t hash, same_fn *same, const void *key)
{
    for (uint32_t i = hash & t->mask;; i = (i + 1) & t->mask) {
        slot *s = &t->slots[i];
        if (s->id == 0 || (s->hash == hash && same(s->id, key))) return s;
    }
}

// Source: the 64-bit finalizer of MurmurHash3, github.com/aappleby/smhasher.
static inline uint32_t mix(uint64_t h)
{
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdu;
    h ^= h >> 33;
    h *= 0xc4ceb9fe1a85ec53u;
    return (uint32_t)(h ^ (h >> 33));
}

static inline uint32_t mix2(uint64_t a, uint64_t b) { return mix(a ^ ((uint64_t)mix(b) << 32 | mix(~b))); }

static int make(table *t, uint64_t records)
{
    uint32_t slots = 64;
    while (slots < 2 * records) slots *= 2;
    t->mask = slots - 1;
    free(t->slots);   // of an attempt that failed
    t->slots = calloc(slots, sizeof(slot));
    return t->slots ? 0 : -1;
}

int tt_intern_init(const tt_section *sections)
{
    // A string takes 8 bytes or more, and usually more than 16; when the table is full, add_string refuses.
    return make(&strings, sections[TT_STRINGS].capacity / 16) | make(&frames, sections[TT_FRAMES].capacity)
           | make(&stacks, sections[TT_STACKS].capacity) | make(&sites, sections[TT_SITES].capacity)
           | make(&cells, sections[TT_CELLS].capacity) | make(&blame, sections[TT_BLAME].capacity);
}

void tt_intern_forget_counters(void)
{
    memset(cells.slots, 0, ((size_t)cells.mask + 1) * sizeof(slot));
    memset(blame.slots, 0, ((size_t)blame.mask + 1) * sizeof(slot));
    last_blame = 0;
}

typedef struct text_key { const char *text; uint32_t length; } text_key;

static bool same_text(uint32_t id, const void *key)
{
    const text_key *k = key;
    const char *at = tt_the_segment.strings + id;
    uint32_t length;
    memcpy(&length, at, sizeof length);
    return length == k->length && memcmp(at + sizeof length, k->text, length) == 0;
}

uint32_t tt_intern_text(const char *text, uint32_t length)
{
    static uint32_t count;
    if (length == 0) return 0;
    if (length > TT_TEXT_MAX) length = TT_TEXT_MAX;
    uint32_t hash = 2166136261u;        // FNV-1a, RFC 9923
    for (uint32_t i = 0; i < length; i++) hash = (hash ^ (uint8_t)text[i]) * 16777619u;
    slot *s = find(&strings, hash, same_text, &(text_key){text, length});
    if (s->id == 0) {
        if (count >= strings.mask / 2) {
            tt_the_segment.sections[TT_STRINGS].lost++;
            return 0;
        }
        uint32_t id = tt_segment_add_text(TT_STRINGS, text, length);
        if (id == UINT32_MAX) return 0;
        *s = (slot){hash, id};
        count++;
    }
    return s->id;
}

static bool same_frame(uint32_t id, const void *key)
{
    return memcmp(&tt_the_segment.frames[id], key, sizeof(tt_frame)) == 0;
}

uint32_t tt_intern_frame(uint32_t file, uint32_t function, uint32_t line)
{
    tt_frame key = {file, function, line, 0};
    uint32_t hash = mix2((uint64_t)file << 32 | function, line);
    slot *s = find(&frames, hash, same_frame, &key);
    if (s->id == 0) {
        uint32_t id = tt_segment_reserve(TT_FRAMES);
        if (!id) return 0;
        tt_the_segment.frames[id] = key;
        tt_segment_publish(TT_FRAMES);
        *s = (slot){hash, id};
    }
    return s->id;
}

static bool same_stack(uint32_t id, const void *key)
{
    return memcmp(&tt_the_segment.stacks[id], key, sizeof(tt_stack)) == 0;
}

static uint32_t intern_node(uint32_t caller, uint32_t frame)
{
    tt_stack key = {caller, frame};
    uint32_t hash = mix((uint64_t)caller << 32 | frame);
    slot *s = find(&stacks, hash, same_stack, &key);
    if (s->id == 0) {
        uint32_t id = tt_segment_reserve(TT_STACKS);
        if (!id) return 0;
        tt_the_segment.stacks[id] = key;
        tt_segment_publish(TT_STACKS);
        *s = (slot){hash, id};
    }
    return s->id;
}

uint32_t tt_intern_stack(const uint32_t *innermost_first, uint32_t depth)
{
    uint32_t node = 0;
    while (depth > 0) {
        uint32_t inner = intern_node(node, innermost_first[--depth]);
        if (inner == 0) return 0;   // half a stack would name the wrong function
        node = inner;
    }
    return node;
}

static bool same_site(uint32_t id, const void *key)
{
    const tt_site *a = &tt_the_segment.sites[id], *b = key;
    return a->name == b->name && a->file == b->file && a->function == b->function && a->line == b->line && a->type == b->type;
}

// The length of a string of the capture, whose text is at `*text`.
static uint32_t text_of(uint32_t id, const char **text)
{
    uint32_t length;
    memcpy(&length, tt_the_segment.strings + id, sizeof length);
    *text = tt_the_segment.strings + id + sizeof length;
    return length;
}

// Over the text and, unless it is the last one, a zero byte.
static uint64_t hash_text(uint64_t hash, const char *text, uint32_t length, bool last)
{
    return tt_fnv1a(tt_fnv1a(hash, text, length), "", last ? 0 : 1);
}

// Of "lock" or "rlock", name, function and the file's base name: what stays the same when lines move and folders differ.
static uint64_t fingerprint(const tt_site *site)
{
    const char *type = site->type == TT_RLOCK ? "rlock" : "lock", *text;
    uint64_t hash = hash_text(TT_FNV1A, type, (uint32_t)strlen(type), false);
    uint32_t length = text_of(site->name, &text);
    hash = hash_text(hash, text, length, false);
    length = text_of(site->function, &text);
    hash = hash_text(hash, text, length, false);
    length = text_of(site->file, &text);
    const char *base = memrchr(text, '/', length);
    uint32_t skip = base ? (uint32_t)(base + 1 - text) : 0;
    return hash_text(hash, text + skip, length - skip, true);
}

uint32_t tt_intern_site(const tt_site *site)
{
    uint32_t hash = mix2((uint64_t)site->file << 32 | site->name, (uint64_t)site->line << 1 | site->type);
    slot *s = find(&sites, hash, same_site, site);
    if (s->id == 0) {
        uint32_t id = tt_segment_reserve(TT_SITES);
        if (!id) return TT_SITE_OTHER;
        tt_the_segment.sites[id] = *site;
        tt_the_segment.sites[id].fingerprint = fingerprint(site);
        tt_segment_publish(TT_STATS);   // its counters are zero and wait; a reader needs them as soon as it sees the site
        tt_segment_publish(TT_SITES);
        *s = (slot){hash, id};
    }
    return s->id;
}

static bool same_cell(uint32_t id, const void *key)
{
    const tt_wait_cell *a = &tt_the_segment.cells[id], *b = key;
    return a->stack == b->stack && a->site == b->site && a->kind == b->kind;
}

tt_wait_cell *tt_intern_cell(uint32_t site, uint32_t stack, enum tt_kind kind)
{
    tt_wait_cell key = {.site = site, .stack = stack, .kind = kind};
    uint32_t hash = mix2((uint64_t)site << 32 | stack, kind);
    slot *s = find(&cells, hash, same_cell, &key);
    if (s->id == 0) {
        uint32_t id = tt_segment_reserve(TT_CELLS);
        if (!id) return &tt_the_segment.cells[kind];   // `(other)`
        tt_the_segment.cells[id] = key;
        tt_segment_publish(TT_CELLS);
        *s = (slot){hash, id};
    }
    return &tt_the_segment.cells[s->id];
}

static bool same_blame(uint32_t id, const void *key)
{
    const tt_blame_cell *a = &tt_the_segment.blame[id], *b = key;
    return a->stack == b->stack && a->site == b->site;
}

tt_blame_cell *tt_intern_blame(uint32_t site, uint32_t stack)
{
    if (same_blame(last_blame, &(tt_blame_cell){.site = site, .stack = stack})) return &tt_the_segment.blame[last_blame];
    tt_blame_cell key = {.site = site, .stack = stack};
    slot *s = find(&blame, mix((uint64_t)site << 32 | stack), same_blame, &key);
    if (s->id == 0) {
        uint32_t id = tt_segment_reserve(TT_BLAME);
        if (!id) return &tt_the_segment.blame[0];   // `(other)`
        tt_the_segment.blame[id] = key;
        tt_segment_publish(TT_BLAME);
        *s = (slot){mix((uint64_t)site << 32 | stack), id};
    }
    last_blame = s->id;
    return &tt_the_segment.blame[last_blame];
}
