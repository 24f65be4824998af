// What threads carry: values of one context variable, which events name by number. Knows nothing of Python: a value is an
// address, and stays good while it is in the table.
//
// Where locks are taken and released, values only come into the table. They go out of it by tt_carry_take and
// tt_carry_inherited, which are asked where destructors may run.
//
// All need the interpreter lock.
#ifndef TT_CARRY_H
#define TT_CARRY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TT_CARRY_FRESH = 1024,                    // values between two takes
    TT_CARRY_CAPACITY = 2 * TT_CARRY_FRESH    // with those that the second take will give out
};

typedef struct tt_carried {
    void *value;
    uint32_t number;   // never 0
    bool taken;        // it has been given out once
} tt_carried;

// Notes what the calling thread carries: its number; 0: nothing, or there was no room. NULL: nobody wants to know.
extern uint32_t (*tt_carry_note)(void);
// The last number that was given.
extern uint32_t tt_carry_newest;

// Notes `value`. `added`: it was not in the table, which keeps it from now on. 0: no room, which is counted as lost.
// A number stands for its value until both are out of the table; noted again after a take, a value gets another number.
uint32_t tt_carry_add(void *value, bool *added);
// What was noted as `number` is now told in an event: it will be given out twice from now on. Returns `number`, or 0 when
// it has gone out of the table already, which is counted as lost.
uint32_t tt_carry_keep(uint32_t number);

// Copies the table to `to`, room for TT_CARRY_CAPACITY; how many. Those marked `taken` have been given out before, and go
// out of the table now; if `all`, the others, too. `lost`: since the last call.
size_t tt_carry_take(tt_carried *to, bool all, uint64_t *lost);
// In a forked child: what the parent had in its table, for the child to let go of. 0: there is no more.
size_t tt_carry_inherited(tt_carried *to);
#endif
