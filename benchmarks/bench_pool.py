"""
What it costs to take the time of a thread pool's tasks: submit() and run() of one process, with and without, in turns.

    python benchmarks/bench_pool.py [--rounds N] [--no-gate]

A task does nothing and its result is awaited before the next one is submitted, so that both threads always do the same.
The budget is the ratio of a round trip's processor time; exit code 1 if it is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import tracedthread

BUDGET = 1.03
TASKS = 500


def round_trip(executor: ThreadPoolExecutor) -> float:
    """us of processor time, both threads, a task."""
    begin = time.process_time_ns()
    for _ in range(TASKS):
        executor.submit(int).result()
    return (time.process_time_ns() - begin) / TASKS / 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=101, help="turns of each kind (default: %(default)s)")
    parser.add_argument("--no-gate", action="store_true", help="exit 0 whatever comes out")
    options = parser.parse_args()
    if not tracedthread.patch():
        return 1
    from tracedthread import _core

    types = _core.load().types
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    spent: dict[bool, list[float]] = {False: [], True: []}
    with ThreadPoolExecutor(1, "bench") as executor:
        round_trip(executor)
        for number in range(options.rounds):
            for on in (True, False) if number % 2 else (False, True):
                types.watch_pools(on)
                spent[on].append(round_trip(executor))
        types.watch_pools(True)
    ratios = [on / off for off, on in zip(spent[False], spent[True])]
    ratio = statistics.median(ratios)
    low, _, high = statistics.quantiles(ratios, n=4)
    error = 1.25 * (high - low) / 1.35 / len(ratios) ** 0.5  # standard error of a median, from the quartiles
    print(f"Python {sys.version.split()[0]}, {options.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    print(f"us a task: {statistics.median(spent[False]):.2f} without, {statistics.median(spent[True]):.2f} with")
    print(f"ratio {ratio:.3f} +- {error:.3f}, budget <= {BUDGET} {'ok' if ratio <= BUDGET else 'MISSED'}")
    return 1 if ratio > BUDGET and not options.no_gate else 0


if __name__ == "__main__":
    sys.exit(main())
