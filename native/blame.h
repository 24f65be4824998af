// The closed ledger: what all waiting for a lock is due to. Paid for on contended paths only.
//
// While n threads wait, every tick adds n to exactly one of four sums; at each change (a waiter comes or goes, the lock
// changes hands) the stretch since the last change is charged, to what the lock's state was meanwhile:
//   blame     held, and the holder has come to run since it took it: the holder, at the stack of its release
//   handoff   free, or handed over, and whose turn it is still sleeps
//   own_gil   the same, it is awake and waits for the GIL: its own share, if it gets the lock
//   gil       the same: the share of the others; and its own, when another thread takes the lock first
// A waiter stands in the ledger from its arrival until it has lock and GIL or gives up, by the same stamps that its wait is
// counted with. So for the locks of a site, to the tick:
//   blame + gil + handoff = wait - own_gil      once nobody waits; until then the left side is ahead of the right one
// What a signal handler takes in the middle of a wait is no waiting: the waiter is out of the ledger, and of `wait`.
//
// All need the interpreter lock, and a queue.
#ifndef TT_BLAME_H
#define TT_BLAME_H
#include "lock.h"

// Charges the time since the last change. Returns the present, which is never before an earlier one of this queue.
uint64_t tt_ledger_charge(tt_lock *l);
// `w` begins or ceases to wait, `now` as tt_ledger_charge returned it.
void tt_ledger_enter(tt_lock *l, tt_waiter *w, uint64_t now);
void tt_ledger_exit(tt_lock *l, tt_waiter *w, uint64_t now);
// `w`, whose turn it seemed to be, did not get the lock: it is one of the others.
void tt_ledger_passed_over(tt_lock *l, tt_waiter *w);
// `w` got the lock although it was not its turn.
void tt_ledger_jumped(tt_lock *l, tt_waiter *w, uint64_t now);
// Puts what the present hold is charged with into a cell: `stack` is where it was released, or where the holder is now.
// `waiters` more have suffered from it.
void tt_ledger_blame(tt_lock *l, uint32_t stack, uint32_t waiters);
#endif
