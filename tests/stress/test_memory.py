"""Locks are small, and nothing leaks."""

from __future__ import annotations

import pytest
from abuse import LIMIT_S, run

pytestmark = pytest.mark.timeout(LIMIT_S + 60)

RESIDENT = """
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
"""


@pytest.mark.parametrize("make", ["threading.Lock", "threading.RLock"])
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_a_lock_takes_no_more_than_128_bytes(make: str, used: bool) -> None:
    run(
        RESIDENT
        + f"""
def one(n):
    for i in range(n):
        keep[i] = made = {make}()
        if {used}:
            with made:
                pass
keep = [None] * 300_000
one(1000)
gc.collect()
before = resident()
one(len(keep))
per_lock = (resident() - before) / len(keep)
assert per_lock <= 128, per_lock
"""
    )


# name -> (what is done, how often by default, and with FULL)
CYCLES = {
    "lock": ("x = threading.Lock(); x.acquire(); x.release()", 1_000_000, 10_000_000),
    "rlock": ("x = threading.RLock(); x.acquire(); x.acquire(); x.release(); x.release()", 500_000, 10_000_000),
    "dropped held": ("x = threading.Lock(); x.acquire()", 500_000, 10_000_000),
    "with": ("with held: pass", 1_000_000, 10_000_000),
    "weak references": ("x = threading.Lock(); r = weakref.ref(x, seen)", 300_000, 3_000_000),
    "timeouts": ("taken.acquire(timeout=1e-9)", 20_000, 1_000_000),
    "failed tries": ("taken.acquire(False)", 500_000, 10_000_000),
    "bad calls": ("refused(x)", 100_000, 1_000_000),
    "conditions": ("c = threading.Condition(); c.acquire(); c.wait(1e-9); c.release()", 10_000, 500_000),
    "queues": ("q = queue.Queue(); q.put(1); q.get()", 50_000, 1_000_000),
    "events": ("e = threading.Event(); e.wait(1e-9)", 10_000, 500_000),
    "threads": ("t = threading.Thread(target=with_lock); t.start(); t.join()", 3_000, 200_000),
    "bare threads": ("_thread.start_new_thread(done.release, ()); done.acquire()", 3_000, 200_000),
    "failed starts": ("not_started(x)", 100_000, 1_000_000),
    "new code": (
        "exec('def f():\\n x = threading.Lock()\\n with x: taken.acquire(timeout=1e-9)\\nf()')",
        4_000,
        200_000,
    ),
    "subclasses": ("x = type('R', (_thread.RLock,), {})(); x.acquire(); x.release()", 5_000, 200_000),
    "unraisable": ("_thread.start_new_thread(fails, ()); done.acquire()", 2_000, 100_000),
    "pauses": ("tracedthread.pause(); tracedthread.resume()", 20_000, 500_000),
    "snapshots": ("tracedthread.snapshot()", 60, 5_000),
    "patches": ("tracedthread.unpatch(); tracedthread.patch()", 50, 3_000),
}

CYCLE = (
    RESIDENT
    + """
held = threading.Lock()
taken = threading.Lock()
taken.acquire()
done = threading.Lock()
done.acquire()
x = threading.RLock()
seen = [].count
sys.unraisablehook = lambda args: None
def with_lock():
    with held:
        pass
def fails():
    done.release()
    raise ValueError
def refused(x):
    for bad in ((True, -5), (False, 1), (None, None, None), ("a", "b")):
        try:
            taken.acquire(*bad)
        except (TypeError, ValueError):
            pass
    try:
        x.release()
    except RuntimeError:
        pass
def not_started(x):
    for bad in ((fails, []), (1, ()), (fails, (), None)):
        try:
            _thread.start_new_thread(*bad)
        except TypeError:
            pass
def cycle(n):
    for _ in range(n):
        WHAT
def settle():
    while len(os.listdir("/proc/self/task")) > 2:      # faulthandler's is one
        time.sleep(0.001)
    gc.collect()
warm = max(TIMES // 10, 5)
cycle(warm)
settle()
blocks, before = sys.getallocatedblocks(), resident()
cycle(TIMES)
settle()
grown, kept = resident() - before, sys.getallocatedblocks() - blocks
assert kept < 200 + TIMES // 500, f"{kept} objects were kept"
assert grown < ALLOWED + (1 << 20), f"{grown} bytes"
"""
)


@pytest.mark.parametrize("name", CYCLES)
def test_nothing_leaks(name: str) -> None:
    what, times, full = CYCLES[name]
    # What is kept on purpose: a thread's row.
    allowed = "144 * TIMES" if "thread" in name or name == "unraisable" else "0"
    program = CYCLE.replace("WHAT", what).replace("ALLOWED", allowed)
    run(program.replace("TIMES", f"({full} if FULL else {times})"))
