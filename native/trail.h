// The audit trail in the capture: who started which thread, from where and when. Off until it is asked for (abi.h).
#ifndef TT_TRAIL_H
#define TT_TRAIL_H
#include <stdint.h>

// The calling thread has started the thread `ident`, whose record is `thread` (0: it has none). `label`: its name, utf-8.
// Needs the interpreter lock.
void tt_trail_add(uint32_t thread, uint64_t ident, uint32_t function, uint32_t stack, const char *label);
#endif
