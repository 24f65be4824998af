"""
What starting costs: `tracedthread run` against `python`, `import tracedthread`, a thread's start and join, its bill.

    python benchmarks/bench_start.py [--rounds 21] [--no-gate]

Programs are started in turns, by the wall clock; what is reported is the median over the rounds of the difference.
Threads are started and joined in turns in one process, stock ones by a second copy of `threading` (see bench_lock.py).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BUDGET_MS = 40.0
BUDGET_THREAD = 1.1
BUDGET_STATS_NS = 100.0
THREADS = 200
THREADS_BUSY = 15  # each waits for the GIL's switch interval, 5 ms, more than once


def run_ms(*command: str, directory: str) -> float:
    """How long a Python program takes."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, cwd=directory, stderr=subprocess.DEVNULL)
    return (time.perf_counter() - begin) * 1e3


def programs(rounds: int) -> dict[str, list[float]]:
    """ms of each way to start, by rounds."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "empty.py").write_text("")
        Path(directory, "threaded.py").write_text("import threading, queue, logging\n")
        ways = {
            "python empty.py": ["empty.py"],
            "tracedthread run empty.py": ["-m", "tracedthread", "run", "empty.py"],
            "tracedthread run -o FILE empty.py": ["-m", "tracedthread", "run", "-o", "%p.ttc", "empty.py"],
            "python threaded.py": ["threaded.py"],
            "tracedthread run threaded.py": ["-m", "tracedthread", "run", "threaded.py"],
            "python -c pass": ["-c", "pass"],
            "import tracedthread": ["-c", "import tracedthread"],
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(rounds + 1):
            for name, command in ways.items():
                took = run_ms(*command, directory=directory)
                if round_:  # the first one fills the caches
                    times[name].append(took)
        return times


def start_and_join(threading: Any, n: int) -> float:
    """µs a thread."""
    begin = time.perf_counter()
    for _ in range(n):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
    return (time.perf_counter() - begin) / n * 1e6


def threads(rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """µs a thread, stock and ours, by rounds: with nothing else to do, and beside a thread that computes. Patches."""
    from bench_lock import sides

    both = sides()
    result: dict[str, tuple[list[float], list[float]]] = {}
    for what, n in (("alone", THREADS), ("beside a busy thread", THREADS_BUSY)):
        times: tuple[list[float], list[float]] = ([], [])
        stop: list[None] = []

        def spin(stop: list[None] = stop) -> None:
            while not stop:
                pass

        busy = both[0].threading.Thread(target=spin)
        if n == THREADS_BUSY:
            busy.start()
        for round_ in range(rounds):
            for side in (0, 1) if round_ % 2 else (1, 0):
                times[side].append(start_and_join(both[side].threading, n))
        stop.append(None)
        if n == THREADS_BUSY:
            busy.join()
        result[what] = times
    return result


def stats_ns(rounds: int) -> float:
    """ns of a call of current_thread_stats() in a recorded thread."""
    from timeit import repeat

    import tracedthread

    n = 100_000
    names = {"ask": tracedthread.current_thread_stats}
    calls, nothing = (repeat(what, repeat=rounds, number=n, globals=names) for what in ("ask()", "pass"))
    return (statistics.median(calls) - statistics.median(nothing)) / n * 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21, help="turns of each (default: %(default)s)")
    parser.add_argument("--no-gate", action="store_true", help="exit 0 whatever comes out")
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, {options.rounds} rounds, load {os.getloadavg()[0]:.1f}\n")
    times = programs(options.rounds)
    print(f"{'ms':36} {'median':>7} {'least':>7} {'added':>7}  budget")
    missed = False
    base = ""
    for name, values in times.items():
        line = f"{name:36} {statistics.median(values):7.1f} {min(values):7.1f}"
        if name.startswith("python"):
            base = name
            print(line)
            continue
        added = statistics.median(b - a for a, b in zip(times[base], values))
        missed |= added > BUDGET_MS
        print(f"{line} {added:7.1f}  <= {BUDGET_MS:.0f} {'ok' if added <= BUDGET_MS else 'MISSED'}", flush=True)
    print()
    for what, (stock, ours) in threads(options.rounds).items():
        ratio = statistics.median(b / a for a, b in zip(stock, ours))
        missed |= ratio > BUDGET_THREAD
        medians = f"stock {statistics.median(stock):.1f} µs, ours {statistics.median(ours):.1f} µs, ratio {ratio:.2f}"
        verdict = "ok" if ratio <= BUDGET_THREAD else "MISSED"
        print(f"Thread start + join, {what}: {medians}  <= {BUDGET_THREAD} {verdict}", flush=True)
    ns = stats_ns(options.rounds)
    missed |= ns > BUDGET_STATS_NS
    verdict = "ok" if ns <= BUDGET_STATS_NS else "MISSED"
    print(f"current_thread_stats(): {ns:.0f} ns  <= {BUDGET_STATS_NS:.0f} {verdict}")
    return 1 if missed and not options.no_gate else 0


if __name__ == "__main__":
    sys.exit(main())
