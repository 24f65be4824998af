"""
What recorded locks cost, as a ratio to the interpreter's own in the same process.

    python benchmarks/bench_lock.py [--rounds 15] [--ms 20] [--only SUBSTRING] [--no-gate]

Everything is recorded (`tracedthread.patch()`, the capture is a memfd). The two sides take turns, each round in the
other order; the ratio is the median over the rounds of ours / stock. One-threaded cases are timed by the thread's
processor time, which a busy neighbour does not count into. "Paused" is with recording off: what recording adds to that
is two readings of the clock and the counting. Exit status 1 if a budget is exceeded.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import platform
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import tracedthread

UNROLLED = 8
Timed = Callable[[int], int]  # does so many operations; gives ns


class Budget(NamedTuple):
    """The limit of a ratio: of times at most, of throughputs at least."""

    limit: float
    at_least: bool = False

    def holds(self, ratio: float) -> bool:
        return ratio >= self.limit if self.at_least else ratio <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:.2f}"


def budgets() -> dict[str, Budget | None]:
    """The limits for this interpreter; None: no limit, shown for comparison."""
    index = {14: 1, 15: 2}.get(sys.version_info[1], 0)
    table = {
        "with lock": (0.85, 0.95, 1.2),
        "with rlock": (0.85, 0.95, 1.2),
        "acquire + release": (0.90, 1.2, 1.3),
        "Lock()": (1.4, 1.4, 1.4),
        "Queue put + get": (1.0, 1.0, 1.1),
        "with Condition": (1.0, 1.0, 1.1),
    }
    result: dict[str, Budget | None] = {name: Budget(limits[index]) for name, limits in table.items()}
    result["with lock, paused"] = None
    result["2 threads, Python"] = Budget((1.2, 1.0, 0.85)[index], at_least=True)
    result["2 threads, GIL dropped"] = Budget((1.0, 1.0, 0.85)[index], at_least=True)
    return result


def second_copy(name: str, needs: dict[str, ModuleType]) -> ModuleType:
    """Import a module again, beside the one in sys.modules; what it imports comes from `needs` first."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    saved = {key: sys.modules.get(key) for key in needs}
    sys.modules.update(needs)
    try:
        spec.loader.exec_module(module)
    finally:
        for key, old in saved.items():
            if old is None:
                del sys.modules[key]
            else:
                sys.modules[key] = old
    return module


def sides() -> tuple[SimpleNamespace, SimpleNamespace]:
    """Stock and ours: Lock, RLock, threading, queue, start. Patches."""
    # Before patching, and out of sys.modules: patch() leaves these copies alone.
    stock_threading = second_copy("threading", {})
    stock_queue = second_copy("queue", {"threading": stock_threading})
    import queue
    import threading

    if not tracedthread.patch():
        raise SystemExit("bench_lock: cannot patch")
    originals = tracedthread.originals
    stock = SimpleNamespace(
        Lock=getattr(originals, "lock", originals.allocate_lock),
        RLock=originals.RLock,
        threading=stock_threading,
        queue=stock_queue,
        start=originals.start_new_thread,
    )
    import _thread

    ours = SimpleNamespace(
        Lock=threading.Lock, RLock=_thread.RLock, threading=threading, queue=queue, start=_thread.start_new_thread
    )
    assert type(stock.queue.Queue().mutex) is type(stock.Lock()) is originals.LockType
    assert type(stock.threading.Condition()._lock) is originals.RLock
    assert type(ours.queue.Queue().mutex) is type(ours.Lock()) is _thread.LockType is not originals.LockType
    assert type(ours.threading.Condition()._lock) is _thread.RLock is not originals.RLock
    return stock, ours


def loop(setup: str, operation: str) -> Callable[[SimpleNamespace], Timed]:
    """
    A timed loop over an operation, from source: each side runs code of its own, so that neither spoils what the
    interpreter has specialised for the other's types.
    """
    source = f"""
def make(side):
    {setup}
    def run(n):
        begin = clock()
        for _ in repeat(None, n):
            {f"{chr(10)}            ".join([operation] * UNROLLED)}
        return clock() - begin
    return run
"""

    def build(side: SimpleNamespace) -> Timed:
        from itertools import repeat

        space: dict[str, Any] = {"clock": time.thread_time_ns, "repeat": repeat}
        exec(compile(source, f"<{operation}>", "exec"), space)
        made: Timed = space["make"](side)
        return made

    return build


LOOPS = {
    "with lock": loop("x = side.Lock()", "with x: pass"),
    "with lock, paused": loop("x = side.Lock()", "with x: pass"),
    "with rlock": loop("x = side.RLock()", "with x: pass"),
    "acquire + release": loop("x = side.Lock()", "x.acquire(); x.release()"),
    "Lock()": loop("make = side.Lock", "x = make()"),
    "Queue put + get": loop("q = side.queue.Queue()", "q.put(1); q.get()"),
    "with Condition": loop("x = side.threading.Condition()", "with x: pass"),
}


def compare_loops(stock: Timed, ours: Timed, rounds: int, ms: float) -> tuple[float, float, list[float]]:
    """ns an operation of stock and of ours, and the ratios of the rounds."""
    n = 16
    while stock(n) < ms * 1e6 / 4:
        n *= 2
    n = max(1, round(n * ms * 1e6 / min(stock(n), stock(n))))
    ours(n)
    times: tuple[list[int], list[int]] = ([], [])
    for round_ in range(rounds):
        for side in (0, 1) if round_ % 2 else (1, 0):
            times[side].append((stock, ours)[side](n))
    per_op = [statistics.median(side) / n / UNROLLED for side in times]
    return per_op[0], per_op[1], [b / a for a, b in zip(*times)]


# Two threads contend. They meet at the start, and count what they do until told to stop.
CONTENDED = """
def make(lock, write, null):
    def python(stop, counts, index):
        n, total = 0, 0
        while not stop:
            with lock:
                total += n
                total ^= 1
            n += 1
        counts[index] = n
    def dropped(stop, counts, index):
        n = 0
        while not stop:
            with lock:
                write(null, b"x")
            n += 1
        counts[index] = n
    return python, dropped
"""


def throughput(side: SimpleNamespace, which: int, seconds: float, null: int, code: Any) -> float:
    """Sections a second of two threads."""
    space: dict[str, Any] = {}
    exec(code, space)
    work = space["make"](side.Lock(), os.write, null)[which]
    stop: list[int] = []
    counts = [-1, -1]
    begin = time.perf_counter()
    for index in (0, 1):
        side.start(work, (stop, counts, index))
    time.sleep(seconds)
    stop.append(1)
    while min(counts) < 0:
        time.sleep(0.0005)
    return sum(counts) / (time.perf_counter() - begin)


def compare_throughput(
    stock: SimpleNamespace, ours: SimpleNamespace, which: int, rounds: int, ms: float
) -> tuple[float, float, list[float]]:
    null = os.open(os.devnull, os.O_WRONLY)
    codes = [compile(CONTENDED, f"<{side}>", "exec") for side in ("stock", "ours")]
    rates: tuple[list[float], list[float]] = ([], [])
    for round_ in range(3 * rounds):
        for side in (0, 1) if round_ % 2 else (1, 0):
            rates[side].append(throughput((stock, ours)[side], which, ms * 2.5e-3, null, codes[side]))
    os.close(null)
    medians = [1e9 / statistics.median(side) for side in rates]
    return medians[0], medians[1], [b / a for a, b in zip(*rates)]


def build_line() -> str:
    """Which interpreter, how it was built, and what the clock is."""
    arguments = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    optimised = "--enable-optimizations" in arguments
    lto = "--with-lto" in arguments and "--with-lto=no" not in arguments
    build = " + ".join(name for name, on in (("PGO", optimised), ("LTO", lto)) if on)
    if not build and sys.base_prefix == "/usr" and Path("/etc/debian_version").exists():
        build = "optimised (Debian's packages run `make profile-opt`, which CONFIG_ARGS does not show)"
    build = build or "NOT an optimised build (no PGO, no LTO)"
    flags = str(sysconfig.get_config_var("PY_CFLAGS") or "")
    level = next((flag for flag in reversed(flags.split()) if flag.startswith("-O")), "-O?")
    from tracedthread import _core

    core = _core.loaded()
    kind = {0: "CLOCK_MONOTONIC", 1: "TSC"}[core.lib.tt_clock_kind()] if core else "none"
    try:
        kernel = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource").read_text().strip()
    except OSError:
        kernel = "unknown"
    load = f"{os.getloadavg()[0]:.1f}"
    return (
        f"Python {platform.python_version()} ({sys.executable}), {build}, {level}; {sys.version.split(chr(10))[-1]}\n"
        f"{cpu()}, {os.cpu_count()} CPUs, load {load}; holds timed by {kind}, kernel's clocksource {kernel}"
    )


def cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each side, at least 7 (default: %(default)s)")
    parser.add_argument("--ms", type=float, default=20, help="length of a turn; 2.5 times that for two threads")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="cases whose name has this in it")
    parser.add_argument("--no-gate", action="store_true", help="exit 0 whatever comes out")
    options = parser.parse_args()
    if options.rounds < 7:
        parser.error("--rounds must be at least 7")
    stock, ours = sides()
    print(build_line())
    print(f"median of {options.rounds} rounds; contended cases: ns a section by the wall clock, ratio of throughputs\n")
    print(f"{'':24} {'stock ns':>9} {'ours ns':>9} {'ratio':>7}  {'quartiles':11}  {'budget':8}")
    gc.collect()
    gc.disable()
    missed = 0
    for name, budget in budgets().items():
        if options.only not in name:
            continue
        if name in LOOPS:
            build = LOOPS[name]
            if budget is None:
                tracedthread.pause()
            a, b, ratios = compare_loops(build(stock), build(ours), options.rounds, options.ms)
            if budget is None:
                tracedthread.resume()
        else:
            a, b, ratios = compare_throughput(stock, ours, "dropped" in name, options.rounds, options.ms)
        ratio = statistics.median(ratios)
        low, _, high = statistics.quantiles(ratios, n=4)
        good = budget is None or budget.holds(round(ratio, 2))
        missed += not good
        verdict = f"{budget!s:8} {'ok' if good else 'MISSED'}" if budget else ""
        print(f"{name:24} {a:9.1f} {b:9.1f} {ratio:7.2f}  {low:.2f}-{high:.2f}    {verdict}", flush=True)
    profile = tracedthread.snapshot()
    print(f"\nrecorded: {profile.totals.acquisitions} acquisitions, {profile.totals.contended} waits")
    return 1 if missed and not options.no_gate else 0


if __name__ == "__main__":
    sys.exit(main())
