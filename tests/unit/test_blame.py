"""
Because of whom threads waited: known answers, against stamps of the test's own and a simulation from them.

How long a step took is always measured in the same run, so that a slow machine makes a test slow, not wrong.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import queue
import random
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import tracedthread
from tracedthread import _core, layout
from tracedthread.capture import Capture
from tracedthread.profile import Profile
from tracedthread.rows import LockRow

FULL = os.environ.get("TRACEDTHREAD_STRESS") == "full"
pytestmark = pytest.mark.timeout(1800 if FULL else 120)
HELPER = Path(__file__).resolve().parents[1] / "native" / "timed_call.c"
FLOOR_S = 0.010  # below, a share need not be within 1 %


@pytest.fixture(scope="session", autouse=True)
def helper(tmp_path_factory: pytest.TempPathFactory) -> None:
    library = tmp_path_factory.mktemp("helper") / "timed_call.so"
    include = sysconfig.get_paths()["include"]
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", f"-I{include}", str(HELPER), "-o", str(library)], check=True)
    Witness.timed_call = ctypes.PyDLL(str(library)).timed_call
    Witness.timed_call.argtypes = [ctypes.py_object, ctypes.POINTER(ctypes.c_longlong)]


class Step(NamedTuple):
    """Something that a thread did to a lock, and when (ns, CLOCK_MONOTONIC)."""

    at: int
    what: str  # arrives, obtains, leaves, releases
    thread: int
    holder: str  # the function it was done in


class Truth(NamedTuple):
    """Seconds, summed over those who waited."""

    wait_s: float
    own_s: float  # nobody had the lock: the share of who got it next
    others_s: float  # the share of the others
    blame_s: dict[str, float]  # somebody had it, by the holder's function


class Witness:
    """Does things to one lock and writes down when."""

    timed_call: Any = None

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.steps: list[Step] = []
        self.interruptible = False  # the main thread is inside of acquire

    def acquire(self, holder: str, timeout: float = -1) -> bool:
        stamps = (ctypes.c_longlong * 3)()
        me = threading.get_ident()
        try:
            self.interruptible = me == threading.main_thread().ident
            self.timed_call(functools.partial(self.lock.acquire, True, timeout), stamps)
            self.interruptible = False
        except InterruptedError:
            self.interruptible = False
        done = stamps[2] == 1  # perhaps the exception came right afterwards
        if stamps[0]:
            self.steps.append(Step(stamps[0], "arrives", me, holder))
            self.steps.append(Step(stamps[1], "obtains" if done else "leaves", me, holder))
        return done

    def release(self, holder: str) -> None:
        stamps = (ctypes.c_longlong * 3)()
        self.timed_call(self.lock.release, stamps)
        self.steps.append(Step(stamps[0], "releases", threading.get_ident(), holder))

    def truth(self) -> Truth:
        """What the ledger must say."""
        blame: dict[str, float] = defaultdict(float)
        wait = own = others = 0.0
        waiting, last, owner = 0, 0, ""
        released, ownerless = 0, 0.0  # when, and what has been waited since then
        arrived: dict[int, int] = {}
        for step in sorted(self.steps):
            spent = waiting * (step.at - last) * 1e-9
            last = step.at
            wait += spent
            if owner:
                blame[owner] += spent
            else:
                ownerless += spent
            if step.what == "arrives":
                waiting += 1
                arrived[step.thread] = step.at
            elif step.what == "releases":
                owner, released, ownerless = "", step.at, 0.0
            else:
                waiting -= 1
                if step.what == "obtains":
                    owner = step.holder
                    mine = (step.at - max(released, arrived[step.thread])) * 1e-9
                    own += mine
                    others += ownerless - mine
        assert waiting == 0
        return Truth(wait, own, others, dict(blame))


def near(value: float, truth: float, *, waiters: int = 1) -> bool:
    return abs(value - truth) <= max(0.01 * truth, FLOOR_S * waiters)


def row_of(profile: Profile | None, name: str) -> LockRow:
    assert profile is not None
    (row,) = [row for row in profile.locks if row.name.split(".")[-1] == name]
    return row


def check_closed(row: LockRow) -> None:
    """The identity, which holds to the tick."""
    stats = row.stats
    blamed = sum(blame.blame_ticks for blame in row.blame)
    assert blamed + stats.gil_ticks + stats.handoff_ticks == stats.wait_ticks - stats.own_gil_ticks


def blame_by(row: LockRow, functions: set[str]) -> dict[str, float]:
    """Blame by those of the functions that are in the holder's stack."""
    result: dict[str, float] = defaultdict(float)
    for blame in row.blame:
        (function,) = {frame.function.split(".")[-1] for frame in blame.stack} & functions
        result[function] += blame.blame_s
    return result


def named(name: str) -> Callable[..., Any]:
    """A function of that name that calls what it is given."""
    space: dict[str, Any] = {}
    exec(f"def {name}(function, *args): return function(*args)", space)
    function: Callable[..., Any] = space[name]
    return function


def start(function: Callable[..., Any], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def until_waiting(name: str, waiters: int) -> None:
    until(lambda: sum(row.stats.waiters for row in tracedthread.snapshot().locks if row.name.endswith(name)) == waiters)


def live_capture() -> Capture:
    core = _core.loaded()
    assert core is not None
    buffer = core.ffi.buffer(core.lib.tt_capture_base(), core.lib.tt_capture_size())
    return Capture.from_buffer(bytes(buffer))


# ---- known answers ----------------------------------------------------------------------------------------------------


def test_the_culprit_is_blamed_and_the_innocent_are_not() -> None:
    with tracedthread.record() as rec:
        shared = threading.Lock()
        over = threading.Event()

        def slow_report() -> None:
            for _ in range(15):
                shared.acquire()
                time.sleep(0.12)
                shared.release()
                time.sleep(0.005)
            over.set()

        def fast_lookup() -> None:
            while not over.is_set():
                with shared:
                    pass
                time.sleep(0.001)

        threads = [start(slow_report), *(start(fast_lookup) for _ in range(3))]
        for thread in threads:
            thread.join()
    row = row_of(rec.profile, "shared")
    check_closed(row)
    worst = row.blame[0]
    assert worst.frame.function.endswith("slow_report")
    assert worst.frame.line == slow_report.__code__.co_firstlineno + 4  # where it releases
    assert worst.blame_s >= 0.99 * sum(blame.blame_s for blame in row.blame)
    assert worst.holds == 15
    assert worst.blame_s >= 3 * 15 * 0.12 * 0.9
    assert worst.max_s >= 0.3


def test_each_holder_of_a_chain_gets_its_own_share() -> None:
    seconds = {"first": 0.1, "second": 0.02, "third": 0.06, "fourth": 0.04, "fifth": 0.08}
    with tracedthread.record() as rec:
        chained = threading.Lock()
        witness = Witness(chained)
        released = threading.Event()

        def hold(name: str) -> None:
            released.wait()
            witness.acquire(name)
            time.sleep(seconds[name])
            witness.release(name)

        threads = [start(named(name), hold, name) for name in seconds]
        released.set()
        for thread in threads:
            thread.join()
    row = row_of(rec.profile, "chained")
    check_closed(row)
    truth = witness.truth()
    shares = blame_by(row, set(seconds))
    for name in seconds:
        assert near(shares[name], truth.blame_s.get(name, 0.0)), (name, shares[name], truth)
    assert near(row.wait_s, truth.wait_s)


@contextlib.contextmanager
def signals(handler: Callable[..., None]) -> Iterator[None]:
    """The main thread gets a signal every few milliseconds. (Timers are pytest's.)"""
    over: list[int] = []

    def send() -> None:
        while not over:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            time.sleep(0.003)

    old = signal.signal(signal.SIGUSR1, handler)
    sender = start(send)
    try:
        yield
    finally:
        over.append(1)
        sender.join()
        signal.signal(signal.SIGUSR1, old)


@pytest.mark.parametrize("seed", range(200 if FULL else 4))
def test_random_arrivals(seed: int) -> None:
    names = [f"thread_{i}" for i in range(2 + seed % 15)]
    chance = random.Random(seed)

    def ring(*_: object) -> None:
        if chance.random() < 0.2 and any(witness.interruptible for witness in witnesses):
            raise InterruptedError

    def work(name: str, seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(15):
            witness = dice.choice(witnesses)
            if witness.acquire(name, dice.choice((-1, -1, 0.002, 0.02))):
                time.sleep(dice.choice((0, 0.002, 0.004)))
                witness.release(name)
                if dice.random() < 0.5:
                    continue  # barges ahead
            time.sleep(dice.choice((0, 0.001, 0.005)))

    with tracedthread.record() as rec:
        one = threading.Lock()
        other = threading.RLock()
        witnesses = Witness(one), Witness(other)
        with signals(ring):
            threads = [start(named(name), work, name, seed * 100 + i) for i, name in enumerate(names)]
            named("main_thread")(work, "main_thread", seed)
            for thread in threads:
                thread.join()
    names.append("main_thread")
    assert rec.profile is not None
    print(f"{rec.profile.totals.contended} waits, {rec.profile.totals.interrupted} interrupted")
    for name, witness in zip(("one", "other"), witnesses):
        row = row_of(rec.profile, name)
        check_closed(row)
        truth = witness.truth()
        count = len(names)
        assert near(row.wait_s, truth.wait_s, waiters=count)
        without_owner = row.gil_s + row.handoff_s + row.own_gil_s
        assert near(without_owner, truth.own_s + truth.others_s, waiters=count), (row, truth)
        shares = blame_by(row, set(names))
        for holder in names:
            assert near(shares[holder], truth.blame_s.get(holder, 0.0), waiters=count), (holder, shares, truth)


@pytest.mark.parametrize("busy", [0, 1, 4, 8])
def test_the_share_of_the_gil(busy: int) -> None:
    """Threads that compute keep the GIL from whose turn it is, and by that all others from the lock."""
    stop: list[int] = []

    def compute() -> None:
        while not stop:
            sum(range(1000))

    with tracedthread.record() as rec:
        wanted = threading.Lock()
        witness = Witness(wanted)

        def use(name: str) -> None:
            for _ in range(6):
                witness.acquire(name)
                time.sleep(0.02)
                witness.release(name)
                time.sleep(0.001)

        names = ["user_0", "user_1", "user_2", "user_3"]
        workers = [start(compute) for _ in range(busy)]
        users = [start(named(name), use, name) for name in names]
        for thread in users:
            thread.join()
        stop.append(1)
        for thread in workers:
            thread.join()
    row = row_of(rec.profile, "wanted")
    check_closed(row)
    truth = witness.truth()
    assert near(row.wait_s, truth.wait_s, waiters=4)
    ownerless = truth.own_s + truth.others_s
    assert near(row.gil_s + row.handoff_s + row.own_gil_s, ownerless, waiters=4), (row.gil_s, truth)
    # `handoff` is taken from both sides: the time until the next owner woke up, which nobody can stamp from outside.
    for share, most in (row.own_gil_s, truth.own_s), (row.gil_s, truth.others_s):
        slack = max(FLOOR_S, 0.01 * most)
        assert most - row.handoff_s - slack <= share <= most + slack, (share, most, row.handoff_s)
    shares = blame_by(row, set(names))
    assert all(near(shares[name], truth.blame_s[name], waiters=4) for name in names), (shares, truth)
    if busy == 0:
        # Nobody has the GIL for long, so what is left is how long the machine takes to wake a thread.
        assert row.gil_s + row.handoff_s <= max(0.03 * row.wait_s, 1.01 * ownerless)
    print(f"busy {busy}: {row.wait_s=} {row.own_gil_s=} {row.gil_s=} {row.handoff_s=} {truth}")


def test_a_wait_for_the_gil_alone_is_the_waiters_own() -> None:
    usleep = ctypes.PyDLL(None).usleep  # keeps the GIL
    with tracedthread.record() as rec:
        handed = threading.Lock()
        witness = Witness(handed)
        witness.acquire("giver")
        thread = start(witness.acquire, "taker")
        until_waiting("handed", 1)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(10)
        witness.release("giver")
        usleep(50000)
        sys.setswitchinterval(interval)
        thread.join()
    row = row_of(rec.profile, "handed")
    check_closed(row)
    truth = witness.truth()
    assert truth.own_s >= 0.05
    assert abs(row.own_gil_s + row.handoff_s - truth.own_s) <= 0.002, (row.own_gil_s, row.handoff_s, truth)
    assert row.own_gil_s > row.handoff_s  # which is how long it took to wake up
    assert row.gil_s == 0


def test_timeouts_are_blamed_on_the_holder_that_lives() -> None:
    with tracedthread.record() as rec:
        endless = threading.Lock()
        done = threading.Event()
        held = threading.Event()

        def hold_endlessly() -> None:
            with endless:
                held.set()
                done.wait()

        def try_in_vain() -> None:
            for _ in range(30):
                assert not endless.acquire(timeout=0.02)

        holder = start(hold_endlessly)
        held.wait()
        for thread in [start(try_in_vain) for _ in range(10)]:
            thread.join()
        before_release = row_of(tracedthread.snapshot(), "endless")
        done.set()
        holder.join()
    after_release = row_of(rec.profile, "endless")
    for row in before_release, after_release:
        check_closed(row)
        assert row.stats.timeouts == row.stats.contended == 300
        assert 5.99 <= row.wait_s == pytest.approx(row.blame_s)
        assert sum(blame.waiters for blame in row.blame) == 300
        assert sum(blame.holds for blame in row.blame) == 1
        assert all("hold_endlessly" in [frame.function.split(".")[-1] for frame in blame.stack] for blame in row.blame)
    assert [row.blame_ticks for row in after_release.blame] == [row.blame_ticks for row in before_release.blame]


def test_whose_holds_made_others_wait() -> None:
    with tracedthread.record() as rec:
        blocking = threading.Lock()
        bills: dict[str, float] = {}

        def keep() -> None:
            bills["before"] = tracedthread.current_thread_stats().blocked_others_s  # as it started, whoever started it
            with tracedthread.bill() as bill:
                with blocking:
                    start(lambda: blocking.acquire(True, 0.05)).join()
                    threads = [start(lambda: blocking.acquire(True, 60) and blocking.release()) for _ in range(3)]
                    until_waiting("blocking", 3)
                    time.sleep(0.05)
                    bills["inside"] = bill.blocked_others_s
                for thread in threads:
                    thread.join()
            bills["keeper"] = bill.blocked_others_s
            bills["in all"] = tracedthread.current_thread_stats().blocked_others_s

        def look_on() -> None:
            with tracedthread.bill() as bill, blocking:
                pass
            bills["onlooker"] = bill.blocked_others_s

        for name in ("keep", "look_on"):
            thread = threading.Thread(target={"keep": keep, "look_on": look_on}[name], name=name)
            thread.start()
            thread.join()
    assert rec.profile is not None
    row = row_of(rec.profile, "blocking")
    blamed = {thread.name: thread.blamed_ticks for thread in rec.profile.threads}
    assert bills["onlooker"] == blamed["look_on"] == 0
    assert bills["inside"] >= 0.045  # who gave up is charged at once, the others when the hold ends
    assert bills["keeper"] >= bills["inside"] + 0.145
    # A bill uses the clock as calibrated at the start, and whole nanoseconds.
    ns_per_tick = Fraction(_core.load().lib.tt_clock_ns_per_tick())
    assert bills["in all"] == int(blamed["keep"] * ns_per_tick) * 1e-9
    assert bills["keeper"] == pytest.approx(bills["in all"] - bills["before"], abs=2e-9)
    of_lock = sum(cell.blame_ticks for cell in row.blame)
    assert of_lock >= blamed["keep"] >= 0.9 * of_lock
    in_cells = sum(cell.blame_ticks for lock in rec.profile.locks for cell in lock.blame)
    assert sum(thread.blamed_ticks for thread in rec.profile.threads) == in_cells


def test_the_ledger_closes_whatever_is_done_with_a_lock() -> None:
    with tracedthread.record() as rec:
        plain = threading.Lock()
        nested = threading.RLock()
        condition = threading.Condition(nested)
        foreign = threading.Lock()

        def work(seed: int) -> None:
            dice = random.Random(seed)
            for _ in range(60):
                choice = dice.randrange(5)
                if choice == 0 and plain.acquire(timeout=dice.choice((-1, 0.001))):
                    time.sleep(dice.choice((0, 0.001)))
                    plain.release()
                elif choice == 1:
                    with nested, nested:
                        time.sleep(dice.choice((0, 0.001)))
                elif choice == 2:
                    with condition:
                        condition.wait(0.001)
                elif choice == 3:
                    with condition:
                        condition.notify_all()
                elif choice == 4:
                    foreign.acquire(timeout=0.002)
                    time.sleep(0.001)
                    with contextlib.suppress(RuntimeError):  # perhaps another's
                        foreign.release()
                if dice.random() < 0.02:
                    tracedthread.pause()
                    time.sleep(0.002)
                    tracedthread.resume()

        for thread in [start(work, seed) for seed in range(8)]:
            thread.join()
    for name in "plain", "nested", "foreign":
        row = row_of(rec.profile, name)
        assert row.stats.contended
        check_closed(row)
    assert not any(record.lock for record in contended_records())


def test_a_forked_child_starts_a_ledger_of_its_own() -> None:
    with tracedthread.record():
        crossing = threading.Lock()
        crossing.acquire()
        thread = start(crossing.acquire)
        until_waiting("crossing", 1)
        pid = os.fork()
        if pid == 0:
            try:
                late = start(crossing.acquire)
                until_waiting("crossing", 1)
                time.sleep(0.02)
                crossing.release()
                late.join()
                row = row_of(tracedthread.snapshot(), "crossing")
                check_closed(row)
                assert row.stats.contended == 1
                assert row.blame_s >= 0.015
            except BaseException:
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        crossing.release()
        thread.join()


# ---- who it was, while and after ----------------------------------------------------------------------------------------


def contended_records() -> list[layout.ContendedRecord]:
    capture = live_capture()
    return list(capture._records(layout.CONTENDED, layout.CONTENDED_LOCK))


@contextlib.contextmanager
def held_and_waited_for(lock: Any, name: str) -> Iterator[None]:
    """A thread `keeper` holds the lock in `keep`, a thread `seeker` waits for it in `seek`."""
    held, done = threading.Event(), threading.Event()

    def keep() -> None:
        lock.acquire()
        held.set()
        done.wait()
        lock.release()

    def seek() -> None:
        lock.acquire()
        lock.release()

    threads = [threading.Thread(target=keep, name="keeper"), threading.Thread(target=seek, name="seeker")]
    threads[0].start()
    held.wait()
    threads[1].start()
    until_waiting(name, 1)
    time.sleep(0.01)  # longer than the threshold of events
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
def test_a_slow_wait_names_its_holder(make: Callable[[], Any]) -> None:
    with tracedthread.record() as rec:
        event_lock = {"lock": threading.Lock, "RLock": threading.RLock}["RLock" if "RLock" in str(make) else "lock"]()
        with held_and_waited_for(event_lock, "event_lock"):
            pass
    assert rec.profile is not None
    (event,) = [event for event in rec.profile.events if event.lock.endswith("event_lock")]
    assert event.holder_name == "keeper"
    assert event.release_stack[0].function.endswith("keep")
    assert event.holder_stack[0].function.endswith("keep")
    assert event.release_stack[0].line > event.holder_stack[0].line  # it was in done.wait()


def test_a_wait_in_progress_can_be_seen_from_outside() -> None:
    with tracedthread.record():
        stuck = threading.Lock()
        with held_and_waited_for(stuck, "stuck"):
            capture = live_capture()
            (lock,) = [record for record in contended_records() if record.lock]
            threads = list(capture.threads())
            (seeker,) = [record for record in threads if record.label.startswith(b"seeker") and record.wait_since]
            assert threads[lock.owner].label.rstrip(b"\0") == b"keeper"
            assert lock.owner_generation == threads[lock.owner].generation
            assert lock.waiters == 1
            assert lock.lock == seeker.wait_lock == id(stuck)
            assert lock.held_since < seeker.wait_since
            assert capture.stack(lock.owner_stack)[0].function.endswith("keep")
            assert capture.stack(seeker.wait_stack)[0].function.endswith("seek")
            assert layout.KINDS[seeker.wait_kind] == "lock"
            assert lock.site == seeker.wait_site
        assert not any(record.lock for record in contended_records())
        assert not any(record.wait_since for record in live_capture().threads() if record.label.startswith(b"see"))


def test_a_wait_for_a_resource_names_its_waker() -> None:
    with tracedthread.record() as rec:
        permits = threading.Semaphore(0)
        full: queue.Queue[int] = queue.Queue(1)
        full.put(1)

        def give_back() -> None:
            permits.release()

        def consume() -> None:
            full.get()

        threads = [start(permits.acquire), start(full.put, 2)]
        until(lambda: sum(record.wait_since > 0 for record in live_capture().threads()) >= 2)
        give_back()
        consume()
        for thread in threads:
            thread.join()
    assert rec.profile is not None
    wakers = {row.kind: row.waker for row in rec.profile.resources}
    assert "give_back" in wakers["semaphore"]
    assert "consume" in wakers["queue.put"]


def test_waiting_for_work_is_nobodys_fault() -> None:
    long_s = 10.0 if FULL else 0.3
    with tracedthread.record() as rec:
        work: queue.Queue[int] = queue.Queue()
        event = threading.Event()
        condition = threading.Condition()
        future: Future[int] = Future()

        def wait_for_condition() -> None:
            with condition:
                condition.wait()

        waits: dict[str, Callable[[], Any]] = {
            "queue.get": work.get,
            "event": event.wait,
            "condition": wait_for_condition,
            "future": future.result,
        }
        threads = [start(wait) for wait in waits.values()]
        until(lambda: sum(record.wait_since > 0 for record in live_capture().threads()) >= 4)
        time.sleep(long_s)
        work.put(1)
        event.set()
        with condition:
            condition.notify()
        future.set_result(1)
        for thread in threads:
            thread.join()
    assert rec.profile is not None
    idle = {row.kind: row.wait_s for row in rec.profile.idle if row.wait_s >= long_s}
    assert set(waits) <= set(idle)
    assert rec.profile.totals.wait_ticks * rec.profile.process.tick_s < 0.1 * long_s
    assert all(row.blame_s < 0.1 * long_s for row in rec.profile.locks)


def test_a_fingerprint_tells_type_name_function_and_file_apart() -> None:
    with tracedthread.record():
        fingered = threading.Lock()
        capture = live_capture()
        assert fingered
    (site,) = [site for site in capture.sites() if capture.string(site.name).endswith("fingered")]
    expected = 0xCBF29CE484222325
    function = capture.string(site.function)
    for byte in "\0".join(("lock", capture.string(site.name), function, Path(__file__).name)).encode():
        expected = (expected ^ byte) * 0x100000001B3 % 2**64
    assert site.fingerprint == expected
