"""
What recording costs and sees here, found out in a fresh interpreter: `python -m tracedthread._probe` prints it as JSON.

The two sides take turns, each round in the other order, so that a busy machine slows both; medians are compared. Each
side runs code of its own, so that neither spoils what the interpreter has specialised for the other's types.
"""

from __future__ import annotations

import gc
import os
import sys
import time

from tracedthread import _core, _settings
from tracedthread._original import originals
from tracedthread.patch import patch, uncovered

TYPE_CHECKING = False  # what is imported before patching is not covered, and would be reported
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Timed = Callable[[int], int]  # does so many operations; gives nanoseconds

ROUNDS = 9
ROUND_NS = 3_000_000
UNROLLED = 8

#: Name -> what is prepared, and what is timed.
OPERATIONS = {
    "with lock": ("lock = Lock()", "with lock: pass"),
    "with rlock": ("lock = RLock()", "with lock: pass"),
    "Lock()": ("", "Lock()"),
}


def main() -> None:
    """Print what was found."""
    stock = _side(originals.allocate_lock, originals.RLock, originals.start_new_thread)
    switch = _settings.disabled_by()
    patched = switch is None and patch()
    import json

    found: dict[str, Any] = {"switch": switch, "patched": patched, "python": _python()}
    if patched:
        import _thread

        core = _core.load()
        found["clock"] = "tsc" if core.lib.tt_clock_kind() else "clock_gettime"
        found["ns_per_tick"] = core.lib.tt_clock_ns_per_tick()
        found["clocksource"] = _clocksource()
        found["uncovered"] = list(uncovered())
        ours = _side(_thread.allocate_lock, _thread.RLock, _thread.start_new_thread)
        found["cost"] = _measure(stock, ours)
    print(json.dumps(found))


def _python() -> dict[str, Any]:
    import sysconfig

    gil_disabled = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    return {
        "version": ".".join(map(str, sys.version_info[:3])),
        "implementation": sys.implementation.name,
        "machine": os.uname().machine,
        "free_threaded": gil_disabled,
        "debug": hasattr(sys, "gettotalrefcount"),
        "executable": sys.executable,
    }


def _clocksource() -> str:
    try:
        with open("/sys/devices/system/clocksource/clocksource0/current_clocksource") as file:
            return file.read().strip()
    except OSError:
        return ""


def _side(lock: Any, rlock: Any, start: Any) -> dict[str, Timed]:
    names = {"Lock": lock, "RLock": rlock, "clock": time.thread_time_ns}
    return {name: _loop(*operation, names) for name, operation in OPERATIONS.items()} | {"thread": _starts(start)}


def _loop(setup: str, operation: str, names: dict[str, Any]) -> Timed:
    body = "\n        ".join([operation] * UNROLLED)
    source = f"""
{setup}
def run(n):
    begin = clock()
    for _ in range(n // {UNROLLED}):
        {body}
    return clock() - begin
"""
    space = dict(names)
    exec(source, space)
    run: Timed = space["run"]
    return run


def _starts(start: Any) -> Timed:
    """From the call that starts a thread to the moment that it has run."""

    def run(n: int) -> int:
        begin = time.perf_counter_ns()
        for _ in range(n):
            done = originals.allocate_lock()
            done.acquire()
            start(done.release, ())
            done.acquire()
        return time.perf_counter_ns() - begin

    return run


def _measure(stock: dict[str, Timed], ours: dict[str, Timed]) -> dict[str, dict[str, float]]:
    import statistics

    result = {}
    gc.disable()
    for name, run in stock.items():
        least = UNROLLED * 20
        # For a first round, which is not counted, and to learn how many fill one.
        once_ns = max(1, min(run(least), ours[name](least))) / least
        number = max(least, int(ROUND_NS / once_ns) // UNROLLED * UNROLLED)
        rounds: tuple[list[float], list[float]] = ([], [])
        for index in range(ROUNDS):
            for side in (0, 1) if index % 2 else (1, 0):
                rounds[side].append((ours[name] if side else run)(number) / number)
        stock_ns, ours_ns = map(statistics.median, rounds)
        result[name] = {"stock_ns": stock_ns, "ours_ns": ours_ns, "ratio": ours_ns / stock_ns, "rounds": ROUNDS}
    gc.enable()
    return result


if __name__ == "__main__":
    main()
