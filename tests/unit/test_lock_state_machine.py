"""
Any sequence of operations by three threads, on our locks and the stock ones in lockstep: same results, same state.

A thread may be in the middle of a blocking acquire while the others go on. `TRACEDTHREAD_TEST_MODULE=_thread` compares the
stock module with itself, `TRACEDTHREAD_STRESS=full` tries more sequences.
"""

from __future__ import annotations

import importlib
import os
import queue
import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import tracedthread
from tracedthread._original import originals as STOCK

OURS = importlib.import_module(os.environ.get("TRACEDTHREAD_TEST_MODULE", "tracedthread._thread"))
FULL = os.environ.get("TRACEDTHREAD_STRESS") == "full"
pytestmark = pytest.mark.timeout(1200 if FULL else 120)
ACTORS = st.integers(0, 2)
LOCKS = st.integers(0, 1)

Operation = Callable[[Any], Any]


class Actor:
    """A stock thread that does as it is told, first with our lock, then with the stock one."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[tuple[Operation, Any, Any] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.ident = STOCK.start_new_thread(self._run, ())

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            operation, ours, stock = order
            self._results.put((outcome(operation, ours), outcome(operation, stock)))

    def begin(self, operation: Operation, ours: Any, stock: Any) -> None:
        self._orders.put((operation, ours, stock))

    def end(self) -> Any:
        ours, stock = self._results.get(timeout=60)
        assert ours == stock
        return ours

    def do(self, operation: Operation, ours: Any, stock: Any) -> Any:
        self.begin(operation, ours, stock)
        return self.end()

    def stop(self) -> None:
        self._orders.put(None)


def outcome(operation: Operation, lock: Any) -> Any:
    try:
        result = operation(lock)
    except BaseException as exc:
        result = type(exc), str(exc)
    return result, re.sub("0x[0-9a-f]+", "", repr(lock))


def enter_and_exit(lock: Any) -> Any:
    # Never waits for ever: on a held lock, by timeout.
    if not lock.acquire(timeout=0.001):
        return False
    lock.release()
    with lock as entered:
        return entered, re.sub("0x[0-9a-f]+", "", repr(lock))


class Locks(RuleBasedStateMachine):
    """What both kinds of lock have in common."""

    make: ClassVar[str]

    @initialize()
    def create(self) -> None:
        self.actors = [Actor() for _ in range(3)]
        self.ours = [getattr(OURS, self.make)() for _ in range(2)]
        self.stock = [getattr(STOCK, self.make)() for _ in range(2)]
        self.depth = [0, 0]
        self.waiting: tuple[int, int] | None = (
            None  # (actor, lock): at most one, else who comes first is anybody's guess
        )

    def teardown(self) -> None:
        if not hasattr(self, "actors"):
            return
        while self.waiting is not None:
            self.let_go(self.waiting[1])
        for one in self.actors:
            one.stop()

    def let_go(self, lock: int) -> None:
        """Have the holder release it once."""
        raise NotImplementedError

    def free_actor(self, actor: int) -> Actor:
        if self.waiting is not None and self.waiting[0] == actor:
            actor = (actor + 1) % 3
        return self.actors[actor]

    def do(self, actor: int, lock: int, operation: Operation) -> Any:
        return self.free_actor(actor).do(operation, self.ours[lock], self.stock[lock])[0]

    def took(self, lock: int, result: Any) -> None:
        if result is True:
            self.depth[lock] += 1

    def gave(self, lock: int, result: Any, depth: int) -> None:
        if result is None:
            self.depth[lock] = depth
        if self.depth[lock] == 0 and self.waiting is not None and self.waiting[1] == lock:
            actor, self.waiting = self.waiting[0], None
            result, _ = self.actors[actor].end()
            assert result is True
            self.depth[lock] = 1

    @rule(actor=ACTORS, lock=LOCKS, blocking=st.sampled_from([False, 0]))
    def try_acquire(self, actor: int, lock: int, blocking: Any) -> None:
        self.took(lock, self.do(actor, lock, lambda x: x.acquire(blocking)))

    @rule(actor=ACTORS, lock=LOCKS, timeout=st.sampled_from([0, 1e-9, 0.0005, 0.002]))
    def acquire_with_timeout(self, actor: int, lock: int, timeout: float) -> None:
        self.took(lock, self.do(actor, lock, lambda x: x.acquire(timeout=timeout)))

    @rule(
        actor=ACTORS,
        lock=LOCKS,
        arguments=st.sampled_from([(True, -2), (False, 1), (True, None), (True, 1e100), (1, 2, 3)]),
    )
    def acquire_badly(self, actor: int, lock: int, arguments: tuple[Any, ...]) -> None:
        self.do(actor, lock, lambda x: x.acquire(*arguments))

    @precondition(lambda self: self.waiting is None)
    @rule(actor=ACTORS, lock=LOCKS, how=st.sampled_from(["acquire", "timeout", "enter"]))
    def acquire_blocking(self, actor: int, lock: int, how: str) -> None:
        operations: dict[str, Operation] = {
            "acquire": lambda x: x.acquire(),
            "timeout": lambda x: x.acquire(True, 55),
            "enter": lambda x: x.__enter__(),
        }
        if self.would_block(actor, lock):
            self.waiting = actor, lock
            self.actors[actor].begin(operations[how], self.ours[lock], self.stock[lock])
        else:
            self.took(lock, self.do(actor, lock, operations[how]))

    def would_block(self, actor: int, lock: int) -> bool:
        return self.depth[lock] > 0

    @rule(actor=ACTORS, lock=LOCKS)
    def with_statement(self, actor: int, lock: int) -> None:
        if self.waiting is None or self.waiting[1] != lock:
            self.do(actor, lock, enter_and_exit)

    @precondition(lambda self: self.waiting is None)
    @rule(actor=ACTORS, lock=LOCKS)
    def at_fork_reinit(self, actor: int, lock: int) -> None:
        self.do(actor, lock, lambda x: x._at_fork_reinit())
        self.depth[lock] = 0

    @rule(actor=ACTORS, lock=LOCKS)
    def look(self, actor: int, lock: int) -> None:
        self.do(actor, lock, lambda x: (x.locked() if hasattr(x, "locked") else None, bool(x), x == x))


class LockMachine(Locks):
    make = "allocate_lock"

    def let_go(self, lock: int) -> None:
        self.gave(lock, self.do(0, lock, lambda x: x.release()), 0)

    @rule(actor=ACTORS, lock=LOCKS, alias=st.booleans())
    def release(self, actor: int, lock: int, alias: bool) -> None:
        operation: Operation = (lambda x: x.release_lock()) if alias else (lambda x: x.release())
        self.gave(lock, self.do(actor, lock, operation), 0)

    @rule(actor=ACTORS, lock=LOCKS)
    def exit(self, actor: int, lock: int) -> None:
        self.gave(lock, self.do(actor, lock, lambda x: x.__exit__(None, None, None)), 0)

    @rule(actor=ACTORS, lock=LOCKS)
    def try_acquire_by_its_other_name(self, actor: int, lock: int) -> None:
        self.took(lock, self.do(actor, lock, lambda x: (x.locked_lock(), x.acquire_lock(False))[1]))


class RLockMachine(Locks):
    make = "RLock"

    @initialize()
    def no_owner(self) -> None:
        self.saved: list[Any] = [None, None]

    def let_go(self, lock: int) -> None:
        for actor in range(3):
            if self.do(actor, lock, lambda x: x._is_owned()):
                self.gave(lock, self.do(actor, lock, lambda x: x.release()), self.depth[lock] - 1)
                return

    def would_block(self, actor: int, lock: int) -> bool:
        return self.depth[lock] > 0 and not self.do(actor, lock, lambda x: x._is_owned())

    @rule(actor=ACTORS, lock=LOCKS)
    def release(self, actor: int, lock: int) -> None:
        self.gave(lock, self.do(actor, lock, lambda x: x.release()), self.depth[lock] - 1)

    @rule(actor=ACTORS, lock=LOCKS)
    def exit(self, actor: int, lock: int) -> None:
        self.gave(lock, self.do(actor, lock, lambda x: x.__exit__(None, None, None)), self.depth[lock] - 1)

    @rule(actor=ACTORS, lock=LOCKS)
    def ask_owner(self, actor: int, lock: int) -> None:
        self.do(
            actor, lock, lambda x: (x._is_owned(), x._recursion_count() if hasattr(x, "_recursion_count") else None)
        )

    @rule(actor=ACTORS, lock=LOCKS)
    def release_save(self, actor: int, lock: int) -> None:
        saved = self.do(actor, lock, lambda x: x._release_save())
        if isinstance(saved[0], int):
            self.saved[lock] = saved
            self.gave(lock, None, 0)

    @rule(actor=ACTORS, lock=LOCKS, count=st.integers(1, 3), own=st.booleans())
    def acquire_restore(self, actor: int, lock: int, count: int, own: bool) -> None:
        if self.depth[lock] > 0 or (self.waiting is not None and self.waiting[1] == lock):
            return
        state = self.saved[lock] if self.saved[lock] and not own else (count, self.free_actor(actor).ident)
        self.do(actor, lock, lambda x: x._acquire_restore(state))
        self.depth[lock] = state[0]

    @rule(actor=ACTORS, lock=LOCKS, times=st.integers(1, 5))
    def nest(self, actor: int, lock: int, times: int) -> None:
        for _ in range(times):
            self.took(lock, self.do(actor, lock, lambda x: x.acquire(False)))


@pytest.fixture(params=["plain", "recording"])
def recording(request: pytest.FixtureRequest) -> Iterator[None]:
    """Counting or not, the locks behave the same. Nothing but our own locks is recorded: these tests use stock ones."""
    if request.param == "plain":
        yield
        return
    with tracedthread.record():
        yield


@pytest.mark.parametrize("machine", [LockMachine, RLockMachine])
@pytest.mark.usefixtures("recording")
def test_any_sequence_gives_what_the_stock_lock_gives(machine: Any) -> None:
    case = machine.TestCase
    case.settings = settings(
        max_examples=1500 if FULL else 60,
        stateful_step_count=60 if FULL else 40,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    case().runTest()
