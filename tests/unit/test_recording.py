"""
What is recorded is what was done, exactly: counts a site, the kind of every wait, the names of locks, nothing lost in silence.

Nothing here depends on how fast the machine is: times are only compared with what must have passed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tracedthread

ROOT = Path(__file__).resolve().parents[2]
FULL = os.environ.get("TRACEDTHREAD_STRESS") == "full"
pytestmark = pytest.mark.timeout(1200 if FULL else 120)
LONG_S = 10.0 if FULL else 0.2
QUALNAMES = sys.version_info >= (3, 11)  # before, code objects do not know theirs


class Recorded:
    """A recording as its JSON, and ways to find things in it."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}

    def locks(self, name: str) -> list[dict[str, Any]]:
        return [row for row in self.data["locks"] if row["name"] == name or row["name"].endswith("." + name)]

    def lock(self, name: str) -> dict[str, Any]:
        (row,) = self.locks(name)
        return row

    def made_in(self, function: str) -> list[dict[str, Any]]:
        """Locks made while recording by a function of that name; locks that only lived on are rows too."""
        return [row for row in self.data["locks"] if row["created"]["function"].split(".")[-1] == function]

    def rows(self, section: str, function: str) -> list[dict[str, Any]]:
        """Waits with a function of that name in their stack."""
        return [
            row for row in self.data[section] if any(function in frame.split()[0].split(".") for frame in row["stack"])
        ]

    def counts(self, name: str) -> tuple[int, int, int, int]:
        row = self.lock(name)
        return row["acquisitions"], row["contended"], row["timeouts"], row["failed_tries"]


@contextlib.contextmanager
def recorded() -> Iterator[Recorded]:
    result = Recorded()
    with tracedthread.record() as rec:
        yield result
    assert rec.profile is not None
    result.data = json.loads(json.dumps(rec.profile.to_dict()))


def start(function: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def until_waiting(name: str, waiters: int = 1) -> None:
    """Until so many threads are registered as waiters of the locks of that name."""
    deadline = time.monotonic() + 30
    while sum(row.stats.waiters for row in tracedthread.snapshot().locks if row.name.endswith(name)) < waiters:
        assert time.monotonic() < deadline
        time.sleep(0.001)


# ---- counts ---------------------------------------------------------------------------------------------------------


def test_every_acquisition_of_a_lock_is_counted_once() -> None:
    with recorded() as rec:
        counted = threading.Lock()
        for _ in range(100):
            with counted:
                pass
        for _ in range(50):
            counted.acquire()
            counted.release()
        for arguments in ((), (True,), (False,), (True, -1), (True, 1), (1, 0)):
            assert counted.acquire(*arguments)
            counted.release()
        assert counted.acquire_lock()
        counted.release_lock()
        assert counted.__enter__() is True
        counted.__exit__(None, None, None)
        for bad in ((True, -5), (False, 1), (True, None), (1, 2, 3)):
            with pytest.raises((ValueError, TypeError)):
                counted.acquire(*bad)
        with pytest.raises(RuntimeError):
            counted.release()
    assert rec.counts("counted") == (158, 0, 0, 0)
    assert rec.lock("counted")["instances"] == 1
    assert rec.lock("counted")["type"] == "lock"
    assert rec.lock("counted")["wait_s"] == 0


def test_failed_tries_and_timeouts_are_counted_apart() -> None:
    with recorded() as rec:
        tried = threading.Lock()
        tried.acquire()
        for _ in range(7):
            assert not tried.acquire(False)
        for _ in range(4):
            assert not tried.acquire(timeout=0)
        for _ in range(3):
            assert not tried.acquire(timeout=0.01)
        tried.release()
    assert rec.counts("tried") == (1, 3, 3, 11)
    row = rec.lock("tried")
    assert row["wait_s"] >= 0.03
    assert row["wait_max_s"] >= 0.01
    assert row["hold_s"] >= 0.03
    assert [(wait["kind"], wait["count"], wait["timeouts"]) for wait in row["waits"]] == [("lock", 3, 3)]


def test_an_rlock_counts_its_outermost_acquisitions() -> None:
    with recorded() as rec:
        nested = threading.RLock()
        for _ in range(25):
            with nested, nested:
                assert nested.acquire()
                assert nested.acquire(False)
                assert nested.acquire(timeout=1)
                for _ in range(3):
                    nested.release()
        nested.acquire()
        nested.acquire()
        state = nested._release_save()  # type: ignore[attr-defined]
        nested._acquire_restore(state)  # type: ignore[attr-defined]
        nested.release()
        nested.release()
    assert rec.counts("nested") == (27, 0, 0, 0)
    assert rec.lock("nested")["type"] == "rlock"


def test_the_hold_of_an_rlock_is_the_outermost() -> None:
    with recorded() as rec:
        held = threading.RLock()
        for _ in range(2):
            with held:
                with held:
                    time.sleep(0.01)
                time.sleep(0.02)
    row = rec.lock("held")
    assert row["hold_s"] >= 0.06
    assert row["hold_max_s"] >= 0.03
    assert row["hold_max_s"] < row["hold_s"]


def test_failed_tries_of_an_rlock_by_another_thread() -> None:
    with recorded() as rec:
        foreign = threading.RLock()

        def others() -> None:
            assert not foreign.acquire(False)
            assert not foreign.acquire(timeout=0.005)

        with foreign:
            start(others).join()
    assert rec.counts("foreign") == (1, 1, 1, 1)
    assert [wait["kind"] for wait in rec.lock("foreign")["waits"]] == ["rlock"]


def test_each_place_has_its_own_row_and_one_place_has_one() -> None:
    with recorded() as rec:
        one = threading.Lock()
        two = threading.Lock()
        many = []
        for _ in range(10):
            looped = threading.Lock()
            many.append(looped)
        for lock, times in ((one, 3), (two, 5), *((each, 2) for each in many)):
            for _ in range(times):
                with lock:
                    pass
    assert rec.counts("one")[0] == 3
    assert rec.counts("two")[0] == 5
    assert rec.counts("looped")[0] == 20
    assert rec.lock("looped")["instances"] == 10
    lines = [rec.lock(name)["created"]["line"] for name in ("one", "two", "looped")]
    assert [line - lines[0] for line in lines] == [0, 1, 4]
    assert rec.lock("one")["created"]["file"] == Path(__file__).name


def test_a_release_by_another_thread_ends_the_hold() -> None:
    with recorded() as rec:
        passed_on = threading.Lock()
        for _ in range(5):
            passed_on.acquire()
            start(passed_on.release).join()
    assert rec.counts("passed_on") == (5, 0, 0, 0)


def test_locks_that_die_or_are_reset_held_are_counted_as_acquired() -> None:
    with recorded() as rec:
        for _ in range(30):
            dropped = threading.Lock()
            dropped.acquire()
        reset = threading.Lock()
        for _ in range(4):
            reset.acquire()
            reset._at_fork_reinit()  # type: ignore[attr-defined]
    assert rec.counts("dropped")[0] == 30
    assert rec.lock("dropped")["instances"] == 30
    assert rec.counts("reset")[0] == 4


def test_counts_of_many_threads_are_exact() -> None:
    rounds, threads = (1_000_000 if FULL else 20_000), 8
    with recorded() as rec:
        busy = threading.Lock()
        deep = threading.RLock()
        done = [0, 0, 0]

        def work(seed: int) -> None:
            choose = random.Random(seed)
            took = nested = failed = 0
            for _ in range(rounds):
                action = choose.randrange(4)
                if action == 0:
                    if busy.acquire(False):
                        took += 1
                        busy.release()
                    else:
                        failed += 1
                elif action == 1:
                    with deep, deep:
                        nested += 1
                else:
                    with busy:
                        took += 1
            with guard:
                for i, n in enumerate((took, nested, failed)):
                    done[i] += n

        guard = threading.Lock()
        running = [start(lambda seed=seed: work(seed)) for seed in range(threads)]  # type: ignore[misc]
        for thread in running:
            thread.join()
    took, nested, failed = done
    assert rec.counts("busy")[0] == took
    assert rec.counts("busy")[3] == failed
    assert rec.counts("deep")[0] == nested
    assert took + nested + failed == rounds * threads
    for name in ("busy", "deep"):
        row = rec.lock(name)
        assert row["contended"] == sum(wait["count"] for wait in row["waits"])
        assert row["wait_s"] == pytest.approx(sum(wait["wait_s"] for wait in row["waits"]), rel=1e-6, abs=1e-6)
        assert row["own_gil_s"] <= row["wait_s"]
        assert row["waiting"] == 0


# ---- contention -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lock", "rlock"])
def test_a_wait_for_a_held_lock_is_contention(kind: str) -> None:
    with recorded() as rec:
        make: Callable[[], Any] = {"lock": threading.Lock, "rlock": threading.RLock}[kind]
        contended = make()

        def waiter() -> None:
            deeper(contended)

        contended.acquire()
        thread = threading.Thread(target=waiter, name="the waiter")
        thread.start()
        until_waiting("contended")
        time.sleep(0.05)
        contended.release()
        thread.join()
    row = rec.lock("contended")
    assert rec.counts("contended") == (2, 1, 0, 0)
    assert row["wait_s"] >= 0.05
    assert row["wait_max_s"] == row["wait_s"]
    assert row["hold_max_s"] >= 0.05
    assert row["own_gil_s"] <= row["wait_s"]
    (wait,) = row["waits"]
    assert (wait["kind"], wait["count"]) == (kind, 1)
    assert wait["wait_s"] == row["wait_s"]
    assert wait["function"] == "deeper"
    assert wait["line"] == deeper.__code__.co_firstlineno + 1
    assert [frame.split()[0].split(".")[-1] for frame in wait["stack"]] == ["deeper", "waiter"]
    (thread_row,) = [row for row in rec.data["threads"] if row["name"] == "the waiter"]
    assert thread_row["wait_s"] >= 0.05
    assert thread_row["idle_s"] == 0
    assert thread_row["function"].endswith("waiter")
    assert rec.data["totals"]["wait_s"] >= 0.05


def deeper(lock: Any) -> None:
    with lock:
        pass


def test_waits_are_kept_apart_by_stack() -> None:
    with recorded() as rec:
        apart = threading.Lock()
        apart.acquire()

        def first() -> None:
            apart.acquire(timeout=0.002)

        def second() -> None:
            apart.acquire(timeout=0.002)

        for _ in range(3):
            first()
        for _ in range(2):
            second()
        first()
    found = {(wait["stack"][0].split()[0].split(".")[-1], wait["count"]) for wait in rec.lock("apart")["waits"]}
    assert found == {("first", 3), ("first", 1), ("second", 2)}  # the last call of first() is on another line


def test_an_interrupted_wait_is_contention_and_no_timeout() -> None:
    class Alarm(Exception): ...

    def ring(*args: Any) -> None:
        raise Alarm

    old = signal.signal(signal.SIGALRM, ring)
    try:
        with recorded() as rec:
            interrupted = threading.Lock()
            interrupted.acquire()
            for _ in range(3):
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                with pytest.raises(Alarm):
                    interrupted.acquire()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert rec.counts("interrupted") == (1, 3, 0, 0)
    assert rec.lock("interrupted")["interrupted"] == 3


def test_a_wait_in_progress_shows_as_a_waiter() -> None:
    with recorded() as rec:
        awaited = threading.Lock()
        awaited.acquire()
        threads = [start(lambda: deeper(awaited)) for _ in range(3)]
        until_waiting("awaited", 3)
        awaited.release()
        for thread in threads:
            thread.join()
    assert rec.lock("awaited")["waiting"] == 0
    assert rec.counts("awaited")[:2] == (4, 3)


# ---- idle waiting and resources -------------------------------------------------------------------------------------


def wait_condition() -> None:
    idle = threading.Condition()
    with idle:
        assert not idle.wait(0.03)


def wait_condition_of_a_lock() -> None:
    idle = threading.Condition(threading.Lock())
    with idle:
        assert not idle.wait(0.03)


def wait_condition_for() -> None:
    idle = threading.Condition()
    with idle:
        assert not idle.wait_for(lambda: False, 0.03)


def wait_event() -> None:
    assert not threading.Event().wait(0.03)


def wait_queue() -> None:
    with pytest.raises(queue.Empty):
        queue.Queue[int]().get(timeout=0.03)


def wait_priority_queue() -> None:
    with pytest.raises(queue.Empty):
        queue.PriorityQueue[int]().get(True, 0.03)


def wait_future() -> None:
    with pytest.raises(FutureTimeout):
        Future[int]().result(timeout=0.03)


def wait_future_exception() -> None:
    with pytest.raises(FutureTimeout):
        Future[int]().exception(timeout=0.03)


def wait_barrier() -> None:
    with pytest.raises(threading.BrokenBarrierError):
        threading.Barrier(2).wait(0.03)


def wait_semaphore() -> None:
    assert not threading.Semaphore(0).acquire(timeout=0.03)


def wait_bounded_semaphore() -> None:
    semaphore = threading.BoundedSemaphore(1)
    assert semaphore.acquire()
    assert not semaphore.acquire(timeout=0.03)


def wait_full_queue() -> None:
    full: queue.Queue[int] = queue.Queue(1)
    full.put(1)
    with pytest.raises(queue.Full):
        full.put(2, timeout=0.03)


KINDS = [
    ("idle", "condition", wait_condition),
    ("idle", "condition", wait_condition_of_a_lock),
    ("idle", "condition", wait_condition_for),
    ("idle", "event", wait_event),
    ("idle", "queue.get", wait_queue),
    ("idle", "queue.get", wait_priority_queue),
    ("idle", "future", wait_future),
    ("idle", "future", wait_future_exception),
    ("idle", "barrier", wait_barrier),
    ("resources", "semaphore", wait_semaphore),
    ("resources", "semaphore", wait_bounded_semaphore),
    ("resources", "queue.put", wait_full_queue),
]


@pytest.mark.parametrize(("section", "kind", "function"), KINDS, ids=[case[2].__name__ for case in KINDS])
def test_waiting_for_work_is_no_contention(section: str, kind: str, function: Callable[[], None]) -> None:
    with recorded() as rec:
        function()
    other = "resources" if section == "idle" else "idle"
    assert rec.rows(other, function.__name__) == []
    rows = rec.rows(section, function.__name__)
    assert {row["kind"] for row in rows} == {kind}
    assert sum(row["wait_s"] for row in rows) >= 0.03
    assert all(row["count"] >= 1 for row in rows)
    (row,) = rows
    assert row["file"] == ("_base.py" if kind == "future" else Path(__file__).name)
    assert rec.data["totals"]["idle_s" if section == "idle" else "resource_s"] >= 0.03
    locks = [lock for lock in rec.data["locks"] if lock["created"]["file"] == "_base.py"]
    if kind != "future":
        locks = rec.made_in(function.__name__)
    assert locks
    for lock in locks:
        assert (lock["contended"], lock["failed_tries"], lock["wait_s"]) == (0, 0, 0), lock
        # The locks that Condition.wait() makes to wait for would have no acquisitions that are not waits.
        assert (lock["acquisitions"] > 0, lock["instances"]) == (True, 1), lock
    assert rec.data["totals"]["contended"] == 0


def test_threads_that_are_blocked_for_long_are_idle_all_the_time() -> None:
    spans: dict[str, float] = {}
    with tracedthread.record() as rec:
        jobs, done, idle = queue.Queue[int](), threading.Event(), threading.Condition()
        answer, end = Future[int](), threading.Event()
        last = threading.Thread(target=end.wait)

        def in_condition() -> None:
            with idle:
                idle.wait()

        calls: dict[str, Callable[[], object]] = {
            "queue.get": jobs.get,
            "event": done.wait,
            "condition": in_condition,
            "future": answer.result,
            "join": last.join,
        }

        def waits_long(kind: str) -> None:
            before = time.monotonic()
            calls[kind]()
            spans[kind] = time.monotonic() - before

        last.start()
        threads = [threading.Thread(target=waits_long, args=(kind,), name=f"long: {kind}") for kind in calls]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 30
        while sum(wait.thread.startswith("long: ") for wait in tracedthread.snapshot().waiting) < len(calls):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(LONG_S)
        jobs.put(1)
        done.set()
        with idle:
            idle.notify()
        answer.set_result(1)
        end.set()
        for thread in (*threads, last):
            thread.join()
    assert rec.profile is not None
    rows = [
        row for row in rec.profile.idle if any(frame.function.split(".")[-1] == "waits_long" for frame in row.stack)
    ]
    assert {(row.kind, row.count) for row in rows} == {(kind, 1) for kind in calls}
    for kind, span in spans.items():
        (one,) = [row for row in rec.profile.threads if row.name == f"long: {kind}"]
        assert [row.wait_ticks for row in rows if row.kind == kind] == [one.idle_ticks]
        assert LONG_S <= one.idle_s <= 1.001 * span  # of another clock
        # Only a mutex that the one who wakes them still has can come in between.
        assert one.wait_s <= 1.001 * span - one.idle_s


def test_conditions_probe_without_failing() -> None:
    with recorded() as rec:
        probed = threading.Condition(threading.Lock())
        for _ in range(20):
            with probed:
                probed.notify()
                probed.wait(0.0001)
                probed.notify_all()
    (lock,) = [row for row in rec.data["locks"] if "probed" in row["name"]]
    assert lock["failed_tries"] == 0
    assert lock["acquisitions"] == 40
    assert lock["contended"] == 0


def test_a_notified_waiter_is_idle_until_it_is_notified() -> None:
    with recorded() as rec:
        signalled = threading.Condition()
        box: list[int] = []

        def consumer() -> None:
            with signalled:
                ready.set()
                while not box:
                    signalled.wait()

        ready = threading.Event()
        thread = start(consumer)
        ready.wait()
        time.sleep(0.05)
        with signalled:
            box.append(1)
            signalled.notify()
            time.sleep(0.05)  # the waiter wakes up and must wait for this: contention
        thread.join()
    (idle,) = rec.rows("idle", "consumer")
    assert idle["kind"] == "condition"
    assert "signalled" in idle["lock"]
    assert idle["wait_s"] >= 0.04
    (lock,) = [row for row in rec.data["locks"] if "signalled" in row["name"]]
    assert {wait["kind"] for wait in lock["waits"]} <= {"rlock"}
    for wait in lock["waits"]:
        assert wait["function"].endswith(("consumer", "test_a_notified_waiter_is_idle_until_it_is_notified"))


def test_a_queue_between_threads_is_idle_work_and_no_lost_item() -> None:
    with recorded() as rec:
        jobs: queue.Queue[int | None] = queue.Queue(4)
        results: queue.Queue[int] = queue.Queue()

        def worker() -> None:
            while (job := jobs.get()) is not None:
                results.put(job * 2)

        threads = [start(worker) for _ in range(3)]
        for n in range(2000):
            jobs.put(n)
        for _ in threads:
            jobs.put(None)
        for thread in threads:
            thread.join()
        assert sorted(results.get_nowait() for _ in range(2000)) == [2 * n for n in range(2000)]
    assert {row["kind"] for row in rec.rows("idle", "worker")} <= {"queue.get"}
    assert {row["kind"] for row in rec.data["resources"]} <= {"queue.put"}
    (lock,) = [row for row in rec.data["locks"] if "jobs" in row["name"]]
    waits = sum(row["count"] for row in rec.data["idle"] + rec.data["resources"] if "jobs" in row["lock"])
    # Once per put and get, and once more after every wait on its conditions.
    assert lock["acquisitions"] == 2003 * 2 + waits


# ---- names ----------------------------------------------------------------------------------------------------------

NAMES = """\
import queue
import threading
from threading import Lock as Mutex

MODULE = threading.Lock()
FIRST = SECOND = threading.Lock()
MANY = [threading.Lock(), threading.RLock()]
renamed = Mutex()


class Base:
    shared = threading.Lock()

    def __init__(self):
        self.inherited = threading.Lock()


class Cache(Base):
    def __init__(self):
        super().__init__()
        self._lock = threading.Lock()
        self._rlock = threading.RLock()
        self.condition = threading.Condition()
        self.of_lock = threading.Condition(threading.Lock())
        self.queue = queue.Queue()
        self.event = threading.Event()
        self.semaphore = threading.Semaphore()
        self.barrier = threading.Barrier(1)
        self.left = self.right = threading.Lock()
        self.listed = [threading.Lock()]
        self.table = {"a": threading.Lock()}
        self.chosen = threading.Lock() if self.table else None
        self.long = (
            threading.Lock(
            )
        )
        self.typed: threading.Lock = threading.Lock()
        self.child = self
        self.child.grandchild = threading.Lock()
        self.made = make()

    @classmethod
    def of_class(cls):
        cls.late = threading.Lock()
        local_of_class = threading.Lock()
        return local_of_class

    @property
    def lazily(self):
        self.lazy = threading.Lock()
        return self.lazy


def make():
    return threading.Lock()


def local():
    found = threading.Lock()
    return found


def cell():
    shared_cell = threading.Lock()
    return lambda: shared_cell


def late():
    global LATE
    LATE = threading.Lock()
    return LATE


def default(lock=threading.Lock()):
    return lock


def outer():
    def inner():
        within = threading.Lock()
        return within
    return inner()


def unpacked():
    one, two = threading.Lock(), threading.Lock()
    with one:
        pass
    for _ in range(2):
        with two:
            pass
    return one, two


def passed():
    return len([threading.Lock()])


use = (Cache(), Cache.of_class(), local(), cell(), late(), default(), outer(), unpacked(), passed(), Cache().lazily)
"""


def line_of(text: str) -> int:
    (number,) = [n for n, line in enumerate(NAMES.splitlines(), 1) if text in line]
    return number


def import_from(path: Path, source: str) -> ModuleType:
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    with recorded() as rec:
        import_from(tmp_path_factory.mktemp("names") / "shop.py", NAMES)
    return rec


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("MODULE = ", "shop.MODULE"),
        ("FIRST = ", "shop.FIRST"),
        ("renamed = ", "shop.renamed"),
        ("    shared = ", "Base.shared"),
        ("self.inherited = ", "Base.inherited"),
        ("self._lock = ", "Cache._lock"),
        ("self._rlock = ", "Cache._rlock"),
        ("self.condition = ", "Cache.condition"),
        ("self.of_lock = ", "Cache.of_lock"),
        ("self.left = ", "Cache.left"),
        ("self.typed: ", "Cache.typed"),
        ("self.child.grandchild = ", "Cache.grandchild"),
        ("cls.late = ", "Cache.late"),
        ("local_of_class = ", "Cache.of_class.local_of_class"),
        ("self.lazy = ", "Cache.lazy"),
        ("found = ", "local.found"),
        ("shared_cell = ", "cell.shared_cell"),
        ("LATE = ", "shop.LATE"),
        ("within = ", "inner.within"),
    ],
)
def test_locks_are_named_after_what_they_are_stored_in(named: Recorded, source: str, name: str) -> None:
    rows = [row for row in named.data["locks"] if row["created"]["line"] == line_of(source)]
    assert [row["name"] for row in rows] == [name]
    assert rows[0]["created"]["file"] == "shop.py"


@pytest.mark.parametrize("attribute", ["queue", "event", "semaphore", "barrier"])
def test_locks_inside_of_threading_and_queue_are_named_after_their_owner(named: Recorded, attribute: str) -> None:
    rows = [row for row in named.data["locks"] if row["created"]["line"] == line_of(f"self.{attribute} = ")]
    assert rows
    for row in rows:
        assert row["name"] == f"Cache.{attribute}" or row["name"].startswith(f"Cache.{attribute}.")


@pytest.mark.parametrize(
    "source", ["MANY = [", "self.listed = ", 'self.table = {"a"', "return threading.Lock()", "return len("]
)
def test_locks_that_are_stored_nowhere_are_named_after_their_place(named: Recorded, source: str) -> None:
    line = line_of(source)
    rows = [row for row in named.data["locks"] if row["created"]["line"] == line]
    assert rows
    assert {row["name"] for row in rows} == {f"shop.py:{line}"}


def test_a_name_never_lies(named: Recorded) -> None:
    """Whatever a lock is called: a variable of that name is assigned in the statement that makes it."""
    lines = NAMES.splitlines()
    for row in named.data["locks"]:
        if row["created"]["file"] != "shop.py":
            continue
        name, line = row["name"].split("."), row["created"]["line"]
        if row["name"] == f"shop.py:{line}":
            continue
        assert any(part in " ".join(lines[line - 2 : line]) for part in name), row
    right = {"unpacked.one": 1, "unpacked.two": 2}
    for row in [row for row in named.data["locks"] if row["created"]["line"] == line_of("one, two = ")]:
        assert right.get(row["name"], row["acquisitions"]) == row["acquisitions"]


def test_the_place_of_a_call_over_many_lines_is_the_calls(named: Recorded) -> None:
    (row,) = [row for row in named.data["locks"] if row["name"] == "Cache.long"]
    assert line_of("self.long = (") <= row["created"]["line"] <= line_of("self.long = (") + 2


def test_places_have_qualified_names(named: Recorded) -> None:
    functions = {row["name"]: row["created"]["function"] for row in named.data["locks"]}
    assert functions["Cache._lock"] == "Cache.__init__"
    assert functions["shop.MODULE"] == "<module>"
    assert functions["local.found"] == "local"
    assert functions["inner.within"] == ("outer.<locals>.inner" if QUALNAMES else "inner")


# ---- pausing --------------------------------------------------------------------------------------------------------


def test_nothing_is_counted_while_paused() -> None:
    with recorded() as rec:
        before = threading.Lock()

        def use(lock: Any, times: int) -> None:
            for _ in range(times):
                with lock:
                    assert not lock.acquire(False)
                    assert not lock.acquire(timeout=0.0001)

        use(before, 3)
        tracedthread.pause()
        meanwhile = threading.Lock()
        use(before, 100)
        use(meanwhile, 100)
        assert tracedthread.is_patched()
        tracedthread.pause()
        tracedthread.resume()
        use(before, 4)
        use(meanwhile, 5)
        tracedthread.resume()
        after = threading.Lock()
        use(after, 6)
    assert rec.counts("before") == (7, 7, 7, 7)
    assert rec.counts("meanwhile") == (5, 5, 5, 5)
    assert rec.counts("after") == (6, 6, 6, 6)


def test_holds_and_waits_over_a_pause_are_not_counted() -> None:
    with recorded() as rec:
        held = threading.Lock()
        taken = threading.Lock()
        held.acquire()
        taken.acquire()
        tracedthread.pause()
        time.sleep(0.03)
        held.release()
        held.acquire()
        tracedthread.resume()
        held.release()
        taken.release()
        assert held.acquire(False)
        held.release()
    assert rec.lock("held")["hold_s"] < 0.03
    assert rec.lock("taken")["hold_s"] == 0
    assert rec.counts("held")[0] == 2
    assert rec.data["process"]["paused_s"] >= 0.03


def test_no_hold_is_in_progress_once_all_locks_are_released() -> None:
    with tracedthread.record() as rec:
        over_pause = threading.Lock()
        recursive = threading.RLock()
        reset, reset_recursive = threading.Lock(), threading.RLock()
        for lock in (over_pause, recursive, reset, reset_recursive):
            lock.acquire()
        dropped, dropped_recursive = threading.Lock(), threading.RLock()
        dropped.acquire()
        dropped_recursive.acquire()
        open_now = tracedthread.snapshot()
        del dropped, dropped_recursive
        reset._at_fork_reinit()  # type: ignore[attr-defined]
        reset_recursive._at_fork_reinit()  # type: ignore[attr-defined]
        tracedthread.pause()
        over_pause.release()
        tracedthread.resume()
        recursive.release()
        for lock in (over_pause, recursive, reset, reset_recursive):
            with lock:
                pass
    here = {row.created.function for row in rec.profile.locks if row.created.function.endswith("are_released")}
    (function,) = here
    before = [row.stats for row in open_now.locks if row.created.function == function]
    after = [row.stats for row in rec.profile.locks if row.created.function == function]
    assert [(stats.acquisitions, stats.holds_untimed, stats.unended) for stats in before] == [(1, 0, 1)] * 6
    assert sum(stats.acquisitions for stats in after) == 10
    assert sum(stats.holds_untimed for stats in after) == 6
    assert [stats.unended for stats in after] == [0] * 6
    assert sum(sum(stats.hold.counts) for stats in after) == 4


def test_a_wait_over_a_pause_is_not_counted_and_its_waiter_is_not_forgotten() -> None:
    with recorded() as rec:
        paused_over = threading.Lock()
        paused_over.acquire()
        thread = start(lambda: deeper(paused_over))
        until_waiting("paused_over")
        tracedthread.pause()
        time.sleep(0.03)
        tracedthread.resume()
        paused_over.release()
        thread.join()
        with paused_over:
            pass
    row = rec.lock("paused_over")
    assert (row["contended"], row["wait_s"], row["waiting"]) == (0, 0, 0)


def test_locks_outlive_recordings_and_count_in_the_next() -> None:
    with recorded() as first:
        durable = threading.Lock()
        with durable:
            pass
    for _ in range(50):
        with durable:
            pass
    with recorded() as second:
        for _ in range(3):
            with durable:
                pass
    assert first.counts("durable")[0] == 1
    assert second.counts("durable")[0] == 3


# ---- distributions --------------------------------------------------------------------------------------------------


def test_percentiles_are_in_order_and_bounded() -> None:
    with recorded() as rec:
        spread = threading.Lock()
        for n in range(200):
            with spread:
                if n % 20 == 0:
                    time.sleep(0.005)
            if n % 10 == 0:
                spread.acquire()
                spread.acquire(timeout=0.002 if n else 0.02)
                spread.release()
    row = rec.lock("spread")
    for what, least in (("hold", 0.005), ("wait", 0.02)):
        p50, p99, largest = (row[f"{what}_{key}_s"] for key in ("p50", "p99", "max"))
        assert 0 < p50 <= p99 <= largest * 1.001
        assert largest >= least
    assert row["wait_p50_s"] >= 0.002 / 1.125
    assert row["hold_p99_s"] >= 0.005 / 1.125
    assert row["wait_s"] >= 0.02 + 19 * 0.002
    assert row["hold_s"] >= row["wait_s"]


# ---- what does not fit ----------------------------------------------------------------------------------------------


def run_program(program: str, **environment: str) -> dict[str, Any]:
    """Run in a fresh interpreter; gives the JSON object that it prints last."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(program)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_sites_that_do_not_fit_are_in_other_and_totals_are_exact() -> None:
    result = run_program("""
        import json, tracedthread
        assert tracedthread.patch(capture_bytes=196608)
        import threading
        keep, expected = [], tracedthread.snapshot().totals.acquisitions
        for n in range(3000):
            exec(compile("\\n" * n + "lock = threading.Lock()", "<many>", "exec"))
            keep.append(lock)
            for _ in range(n % 5):
                with lock: pass
            expected += n % 5
            if n % 7 == 0:
                with lock:
                    assert not lock.acquire(False)
                    assert not lock.acquire(timeout=1e-6)
        print(json.dumps({"expected": expected + 429, **tracedthread.snapshot().to_dict()}))
    """)
    assert result["totals"]["acquisitions"] == result["expected"]
    assert sum(row["acquisitions"] for row in result["locks"]) == result["expected"]
    assert sum(row["failed_tries"] for row in result["locks"]) == 429
    assert sum(row["timeouts"] for row in result["locks"]) == 429
    assert sum(row["instances"] for row in result["locks"]) >= 3000
    (other,) = [row for row in result["locks"] if row["name"] == "(other)"]
    assert other["instances"] > 1000
    assert result["totals"]["lost"]["sites"] > 0


def test_stacks_and_cells_that_do_not_fit_are_in_other_and_totals_are_exact() -> None:
    result = run_program("""
        import json, sys, tracedthread
        assert tracedthread.patch(capture_bytes=196608)
        import threading
        mine = threading.Lock()
        mine.acquire()
        idle = threading.Condition()
        space = {"mine": mine, "idle": idle}
        for n in range(3000):
            exec(compile("\\n" * n + "def wait(): mine.acquire(timeout=1e-7)", "<many>", "exec"), space)
            space["wait"]()
        for n in range(300):
            exec(compile("\\n" * n + "def wait():\\n with idle: idle.wait(1e-7)", "<idle>", "exec"), space)
            space["wait"]()
        print(json.dumps(tracedthread.snapshot().to_dict()))
    """)
    (lock,) = [row for row in result["locks"] if row["name"].endswith(".mine")]
    assert (lock["contended"], lock["timeouts"]) == (3000, 3000)
    assert sum(wait["count"] for wait in lock["waits"]) == 3000
    assert sum(wait["wait_s"] for wait in lock["waits"]) == pytest.approx(lock["wait_s"], rel=1e-6)
    assert sum(row["count"] for row in result["idle"]) == 300
    lost = result["totals"]["lost"]
    assert lost["cells"] + lost["stacks"] + lost["frames"] > 0


def test_threads_that_do_not_fit_are_counted() -> None:
    """All alive at once: there is no record to use again."""
    result = run_program("""
        import json, tracedthread
        assert tracedthread.patch(capture_bytes=196608)
        import threading, time
        mine = threading.Lock()
        go = threading.Event()
        mine.acquire()
        def wait():
            mine.acquire(timeout=1e-6)
            go.wait()
        threads = [threading.Thread(target=wait) for _ in range(300)]
        for thread in threads: thread.start()
        go.set()
        for thread in threads: thread.join()
        print(json.dumps(tracedthread.snapshot().to_dict()))
    """)
    (lock,) = [row for row in result["locks"] if row["name"].endswith(".mine")]
    assert lock["timeouts"] == 300
    assert result["totals"]["lost"]["threads"] > 0
    waited = sum(row["wait_s"] for row in result["threads"])
    assert waited == pytest.approx(result["totals"]["wait_s"], abs=1e-6)
    assert sum(row["waits"] for row in result["threads"]) == result["totals"]["contended"]
    assert any(row["name"] == "(other)" for row in result["threads"])


def test_record_of_an_ended_thread_is_used_again_and_sums_stay() -> None:
    result = run_program("""
        import json, tracedthread
        assert tracedthread.patch(capture_bytes=196608)
        import threading, time
        mine = threading.Lock()
        mine.acquire()
        before = tracedthread.snapshot()
        middle = None
        for n in range(400):
            thread = threading.Thread(target=lambda: mine.acquire(timeout=1e-6))
            thread.start()
            thread.join()
            if n == 250:
                middle = tracedthread.snapshot()
        from tracedthread.profile import subtract
        after = tracedthread.snapshot()
        print(json.dumps([profile.to_dict() for profile in (after, subtract(after, middle))]))
    """)
    for profile, started in zip(result, (400, 149)):
        (lock,) = [row for row in profile["locks"] if row["name"].endswith(".mine")]
        assert lock["timeouts"] == started
        assert profile["totals"]["lost"]["threads"] == 0
        assert sum(row["waits"] for row in profile["threads"]) == profile["totals"]["contended"]
        assert sum(row["wait_s"] for row in profile["threads"]) == pytest.approx(profile["totals"]["wait_s"], abs=1e-6)
    (other,) = [row for row in result[0]["threads"] if row["name"] == "(other)"]
    assert sum(row["threads"] for row in result[0]["threads"]) == 401  # and the main thread
    assert other["threads"] > 100


def test_code_made_by_exec_over_and_over_takes_no_room() -> None:
    result = run_program("""
        import json, tracedthread
        assert tracedthread.patch()
        import threading
        for n in range(20000):
            space = {"threading": threading}
            exec("def make():\\n lock = threading.Lock()\\n with lock:\\n  lock.acquire(timeout=1e-9)\\nmake()", space)
        print(json.dumps(tracedthread.snapshot().to_dict()))
    """)
    (lock,) = [row for row in result["locks"] if row["name"] == "make.lock"]
    assert (lock["instances"], lock["acquisitions"], lock["timeouts"]) == (20000, 20000, 20000)
    assert set(result["totals"]["lost"].values()) == {0}


def test_files_made_by_exec_over_and_over_are_not_lost_in_silence() -> None:
    result = run_program("""
        import json, tracedthread
        assert tracedthread.patch(capture_bytes=262144)
        import threading
        before = tracedthread.snapshot()
        for n in range(20000):
            exec(compile("lock = threading.Lock()\\nwith lock: lock.acquire(timeout=1e-9)", f"<generated {n}>", "exec"))
        print(json.dumps({"before": before.totals.acquisitions, **tracedthread.snapshot().to_dict()}))
    """)
    assert result["totals"]["acquisitions"] == 20000 + result["before"]
    assert result["totals"]["timeouts"] == 20000
    assert sum(row["acquisitions"] for row in result["locks"]) == 20000 + result["before"]
    assert result["totals"]["lost"]["sites"] + result["totals"]["lost"]["strings"] > 0


def test_a_forked_child_has_neither_its_parents_deadlocks_nor_its_losses() -> None:
    result = run_program("""
        import json, os, time, tracedthread, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a deadlock is said there
        assert tracedthread.patch(capture_bytes=192 << 10, deadlock_after_s=0.05)
        import threading
        tracedthread._core.loaded().note("something", 1, ["kept"])
        exec("locks = []\\n" + "locks.append(threading.Lock())\\n" * 60)  # more sites than there is room for
        first, second = threading.Lock(), threading.Lock()
        def take(one, other):
            with one:
                time.sleep(0.05)
                other.acquire()
        for pair in ((first, second), (second, first)):
            threading.Thread(target=take, args=pair, daemon=True).start()
        while not tracedthread.snapshot().deadlocks:
            time.sleep(0.01)
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, json.dumps(tracedthread.snapshot().to_dict()).encode())
            os._exit(0)
        os.close(write)
        child = json.loads(open(read).read())
        os.wait()
        print(json.dumps({"child": child, "parent": tracedthread.snapshot().to_dict()}), flush=True)
        os._exit(0)
    """)
    parent, child = result["parent"], result["child"]
    assert parent["deadlocks"]
    assert parent["totals"]["lost"]["sites"] > 20
    assert not child["deadlocks"]
    assert sum(child["totals"]["lost"].values()) <= 2  # locks that `threading` makes anew after a fork
    assert child["uncovered"] == parent["uncovered"] != []


def test_a_forked_child_counts_its_own_from_zero() -> None:
    result = run_program("""
        import json, os, tracedthread
        assert tracedthread.patch()
        import threading
        inherited = threading.Lock()
        for _ in range(10):
            with inherited: pass
        read, write = os.pipe()
        if os.fork() == 0:
            for _ in range(3):
                with inherited: pass
            own = threading.Lock()
            with own: own.acquire(timeout=1e-6)
            os.write(write, json.dumps(tracedthread.snapshot().to_dict()).encode())
            os._exit(0)
        os.close(write)
        with inherited: pass
        child = json.loads(open(read).read())
        os.wait()
        print(json.dumps({"child": child, "parent": tracedthread.snapshot().to_dict()}))
    """)
    counts = {
        who: {
            row["name"].split(".")[-1]: row["acquisitions"]
            for row in result[who]["locks"]
            if row["created"]["file"] == "<string>"
        }
        for who in ("child", "parent")
    }
    assert counts == {"child": {"inherited": 3, "own": 1}, "parent": {"inherited": 11}}
    assert result["child"]["process"]["pid"] != result["parent"]["process"]["pid"]
    assert result["child"]["totals"]["timeouts"] == 1


def test_waits_and_locks_without_any_python_frame() -> None:
    import _thread

    with recorded() as rec:
        frameless = threading.Lock()
        frameless.acquire()
        before = set(os.listdir("/proc/self/task"))
        for _ in range(20):
            _thread.start_new_thread(frameless.acquire, (True, 0.002))
            _thread.start_new_thread(threading.Lock, ())
            _thread.start_new_thread(threading.RLock, ())
        while not set(os.listdir("/proc/self/task")) <= before:
            time.sleep(0.001)
    assert rec.counts("frameless") == (1, 20, 20, 0)
    (wait,) = rec.lock("frameless")["waits"]
    assert (wait["count"], wait["stack"]) == (20, [])
    assert wait["wait_s"] >= 0.04


LONG = "x" * 100_000


@pytest.mark.parametrize(
    "name",
    [
        "é",
        "日本語" * 100,
        "日本語" * 1000,
        "\ud800",
        "caf\udce9.py",
        "\x7f\x80\u07ff\u0800\uffff\U00010000\U0010ffff",
        "a\0b",
        "",
        "  ",
        "\n\r\t",
        LONG,
        "\U0001f600" * 130,
        "(other)",
        "</script>",
        "%s%n",
    ],
)
def test_names_of_any_kind(name: str, tmp_path: Path) -> None:
    """Of threads, files, functions and attributes; what is cut is cut between characters, and it all goes through JSON."""
    with recorded() as rec:
        thread = threading.Thread(target=int, name=name)
        thread.start()
        thread.join()
        space: dict[str, Any] = {"threading": threading}
        code = compile(
            "def f():\n lock = threading.Lock()\n lock.acquire()\n lock.acquire(timeout=1e-6)\nf()", "<any>", "exec"
        )
        (inner,) = [const for const in code.co_consts if hasattr(const, "co_code")]
        changes: dict[str, Any] = {"co_name": name, "co_filename": name.replace("\0", "-")}
        if QUALNAMES:
            changes["co_qualname"] = name
        renamed = inner.replace(**changes)
        exec(code.replace(co_consts=tuple(renamed if const is inner else const for const in code.co_consts)), space)
    rec_text = json.dumps(rec.data)
    rec_text.encode()
    assert rec.data["totals"]["timeouts"] == 1
    (row,) = [row for row in rec.data["locks"] if row["timeouts"] == 1]
    assert (row["acquisitions"], row["contended"]) == (1, 1)
    assert sum(wait["count"] for wait in row["waits"]) == 1
    encoded = name.encode("utf-8", "backslashreplace")
    assert row["created"]["function"] == encoded[:1024].decode(errors="ignore")
    # A thread's record has room for so much, and ends its name with a null byte.
    kept = encoded.replace(b"\0", b"?")[:63].decode(errors="ignore")
    assert kept in {row["name"] for row in rec.data["threads"]} or name == ""


def test_threads_have_their_names_and_lives() -> None:
    with recorded() as rec:
        threads = [threading.Thread(target=time.sleep, args=(0.02,), name=f"sleeper {n}") for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = {row["name"]: row for row in rec.data["threads"] if row["name"].startswith("sleeper")}
    assert set(rows) == {"sleeper 0", "sleeper 1", "sleeper 2"}
    for row in rows.values():
        assert row["lifetime_s"] >= 0.02
        assert row["function"] == "sleep"
        assert row["start_latency_s"] >= 0
        assert row["cpu_s"] > 0
        assert row["native_id"] > 0
