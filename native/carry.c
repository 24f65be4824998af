#include "carry.h"
#include <stdlib.h>
#include <string.h>
#include "segment.h"

enum { SLOTS = 2 * TT_CARRY_FRESH };

// Each value is given out by two takes: an event that is written between the reading of events and a take names a value
// of this take, but is read only before the next one.
typedef struct table {
    struct table *older;          // the parent's
    uint32_t used, fresh;         // values, and those that came since the last take
    tt_carried values[TT_CARRY_CAPACITY];   // by number, ascending
    uint16_t slots[SLOTS];        // index + 1 of the values noted since the last take, by a hash of the address; 0: none
} table;

uint32_t (*tt_carry_note)(void);
uint32_t tt_carry_newest;

static table *present;            // NULL: nothing is noted
static table *inherited;
static uint64_t lost;
static uint32_t epoch;            // the process they are of

// A forked child's table is empty. The fork handler must not see to that: it may neither let go of values nor ask for memory.
static void enter_process(void)
{
    if (epoch == tt_fork_epoch) return;
    epoch = tt_fork_epoch;
    lost = 0;
    if (!present) return;
    present->older = inherited;
    inherited = present;
    present = NULL;
}

static uint16_t *slot_of(void *value)
{
    uint32_t i = (uint32_t)((uint64_t)(uintptr_t)value * 0x9e3779b97f4a7c15u >> 40) % SLOTS;
    while (present->slots[i] && present->values[present->slots[i] - 1].value != value) i = (i + 1) % SLOTS;
    return &present->slots[i];
}

uint32_t tt_carry_add(void *value, bool *added)
{
    *added = false;
    enter_process();
    if (!present && !(present = calloc(1, sizeof *present))) {
        lost++;
        return 0;
    }
    uint16_t *slot = slot_of(value);
    if (*slot) return present->values[*slot - 1].number;
    if (present->fresh == TT_CARRY_FRESH || present->used == TT_CARRY_CAPACITY) {
        lost++;
        return 0;
    }
    if (++tt_carry_newest == 0) tt_carry_newest = 1;
    present->values[present->used++] = (tt_carried){.value = value, .number = tt_carry_newest};
    present->fresh++;
    *slot = (uint16_t)present->used;
    *added = true;
    return tt_carry_newest;
}

static tt_carried *find(uint32_t number)
{
    if (!present) return NULL;
    uint32_t first = present->values[0].number, low = 0, high = present->used;
    while (low < high) {   // by distance, for numbers start over
        uint32_t middle = (low + high) / 2;
        if (present->values[middle].number - first < number - first)
            low = middle + 1;
        else
            high = middle;
    }
    return low < present->used && present->values[low].number == number ? &present->values[low] : NULL;
}

uint32_t tt_carry_keep(uint32_t number)
{
    enter_process();
    tt_carried *c = find(number);
    if (!c) {
        lost++;
        return 0;
    }
    c->taken = false;
    return number;
}

size_t tt_carry_take(tt_carried *to, bool all, uint64_t *lost_since)
{
    enter_process();
    *lost_since = lost;
    lost = 0;
    if (!present) return 0;
    size_t count = present->used;
    present->used = present->fresh = 0;
    memset(present->slots, 0, sizeof present->slots);
    for (size_t i = 0; i < count; i++) {
        to[i] = present->values[i];
        to[i].taken |= all;
        if (to[i].taken) continue;
        present->values[present->used] = to[i];
        present->values[present->used++].taken = true;
    }
    if (all) {
        free(present);
        present = NULL;
    }
    return count;
}

size_t tt_carry_inherited(tt_carried *to)
{
    enter_process();
    table *t = inherited;
    if (!t) return 0;
    size_t count = t->used;
    memcpy(to, t->values, count * sizeof *to);
    inherited = t->older;
    free(t);
    return count;
}
