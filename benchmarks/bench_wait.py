"""
What recording adds to a contended wait: processor time of the waiter, 20 frames deep, and of who it waits for.

    python benchmarks/bench_wait.py [--rounds 301] [--frames 20] [--carry] [--no-gate]

Method. The same code runs while recording and while paused (`tracedthread.pause()`: nothing is counted), in turns; what
is reported is the median over the rounds of the difference, in processor time of the thread itself
(CLOCK_THREAD_CPUTIME_ID). Sleeping and waking up cost 10 to 20 µs and vary by more than recording costs, so the turns
are short and many, and

- waiter: waits that time out at once (1 ns), with no second thread. All that recording does in a wait is done: taking
  the stack, finding its cell, stamps, counters.
- holder: acquires and releases while another thread waits for the lock. The waiter has been woken but gets no GIL, for
  the switch interval is long, so each release finds it queued and no switch gets in between.
- handover: what the two add up to when threads really hand over, by way of a check (no budget, for it is mostly noise):
  one thread waits for our lock and answers by a stock one, the other releases ours and waits for the answer.

With --carry every wait is an event, and the difference is between events that say what waiter and holder carried (a
context variable's value, see native/carry.h) and events that do not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import tracedthread

BUDGETS_NS: dict[str, int | None] = {"waiter": 2000, "holder": 100, "handover, both": None}
Allocate = Callable[[], Any]


def deep(frames: int, function: Any, *args: Any) -> Any:
    """Call from under so many frames."""
    return function(*args) if frames <= 1 else deep(frames - 1, function, *args)


def time_out(lock: Any, waits: int) -> float:
    """ns of a wait for a held lock that times out at once."""
    acquire = lock.acquire
    begin = time.thread_time_ns()
    for _ in range(waits):
        acquire(True, 1e-9)
    return (time.thread_time_ns() - begin) / waits


def hold(lock: Any, holds: int) -> float:
    """ns of an acquire and a release, of a lock that another thread waits for."""
    acquire, release = lock.acquire, lock.release
    begin = time.thread_time_ns()
    for _ in range(holds):
        release()
        acquire()
    return (time.thread_time_ns() - begin) / holds


def hold_while_waited_for(make: Allocate, holds: int) -> float:
    """As `hold`, with a thread that waits for the lock, and ends when it gets it."""
    lock, ended = make(), tracedthread.originals.allocate_lock()
    lock.acquire()
    ended.acquire()

    def wait() -> None:
        lock.acquire()
        ended.release()

    tracedthread.originals.start_new_thread(wait, ())
    time.sleep(0.002)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)
    try:
        return hold(lock, holds)
    finally:
        sys.setswitchinterval(interval)
        lock.release()
        ended.acquire()


def hand_over(make: Allocate, frames: int, waits: int) -> float:
    """ns of both threads together, a handover."""
    stock = tracedthread.originals.allocate_lock
    lock, answer, ended = make(), stock(), stock()
    for each in (lock, answer, ended):
        each.acquire()
    spent = [0, 0]

    def waiter() -> None:
        begin = time.thread_time_ns()
        for _ in range(waits):
            lock.acquire()
            answer.release()
        spent[0] = time.thread_time_ns() - begin

    def run() -> None:
        deep(frames - 1, waiter)
        ended.release()

    tracedthread.originals.start_new_thread(run, ())
    time.sleep(0.002)
    begin = time.thread_time_ns()
    for _ in range(waits):
        lock.release()
        answer.acquire()
    spent[1] = time.thread_time_ns() - begin
    ended.acquire()
    return sum(spent) / waits


def turn_recording(on: bool) -> None:
    """Record, or not."""
    (tracedthread.resume if on else tracedthread.pause)()


def turn_carrying() -> Callable[[bool], None]:
    """What has events carry a context, or not."""
    from tracedthread import _core

    var: ContextVar[object] = ContextVar("var")
    var.set(object())
    types = _core.load().types

    def turn(on: bool) -> None:
        types.carry_context(var if on else None)
        types.take_contexts()

    return turn


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=301, help="turns of each kind (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=20, help="depth of the waiter's stack (default: %(default)s)")
    parser.add_argument("--carry", action="store_true", help="the cost of carrying a context")
    parser.add_argument("--no-gate", action="store_true", help="exit 0 whatever comes out")
    options = parser.parse_args()
    if not tracedthread.patch(event_threshold_ms=0 if options.carry else None):
        return 1
    import _thread

    turn = turn_carrying() if options.carry else turn_recording

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # a handover costs the same every time
    make: Allocate = _thread.allocate_lock
    held = make()
    held.acquire()
    waits, holds, handovers = 300, 2000, 200
    cases: dict[str, Callable[[], float]] = {
        "waiter": lambda: deep(options.frames - 1, time_out, held, waits),
        "holder": lambda: hold_while_waited_for(make, holds),
        "handover, both": lambda: hand_over(make, options.frames, handovers),
    }
    before = tracedthread.snapshot().totals
    recorded: dict[str, list[float]] = {name: [] for name in cases}
    paused: dict[str, list[float]] = {name: [] for name in cases}
    for round_ in range(options.rounds):
        for on in (True, False) if round_ % 2 else (False, True):
            turn(on)
            for name, case in cases.items():
                (recorded if on else paused)[name].append(case())
    turn(True)
    profile = tracedthread.snapshot()
    counted = profile.totals.contended - before.contended
    expected = options.rounds * (waits + 1 + handovers) * (2 if options.carry else 1)
    depth = max((len(wait.stack) for row in profile.locks for wait in row.waits), default=0)
    load = os.getloadavg()[0]
    print(f"Python {sys.version.split()[0]}, {options.rounds} rounds, stacks of {depth} frames, load {load:.1f}")
    print(f"waits counted: {counted}, done while recording: {expected}\n")
    without, together = ("without", "carrying") if options.carry else ("paused", "recorded")
    print(f"{'ns of processor time':24} {without:>8} {together:>9} {'added':>7} {'+-':>5}  {'budget':>7}")
    missed = counted < 0.99 * expected
    budgets = dict.fromkeys(BUDGETS_NS) if options.carry else BUDGETS_NS
    for name, budget in budgets.items():
        added = [b - a for a, b in zip(paused[name], recorded[name])]
        median = statistics.median(added)
        low, _, high = statistics.quantiles(added, n=4)
        error = 1.25 * (high - low) / 1.35 / len(added) ** 0.5  # standard error of a median, from the quartiles
        good = budget is None or median <= budget
        missed |= not good
        limit, verdict = ("", "") if budget is None else (f"<= {budget}", "ok" if good else "MISSED")
        print(
            f"{name:24} {statistics.median(paused[name]):8.0f} {statistics.median(recorded[name]):9.0f} {median:7.0f}"
            f" {error:5.0f}  {limit:>7} {verdict}"
        )
    return 1 if missed and not options.no_gate else 0


if __name__ == "__main__":
    sys.exit(main())
