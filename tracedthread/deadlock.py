"""
Who waits for whom in a copy of a capture, and the cycles among them.

A thread waits for one thing at a time, so that every waiting thread has at most one thread before it.

Not every cycle is a deadlock. A plain lock may be released by a thread that does not own it, and programs use it as a
signal: a thread that waits for a lock that it took itself may be stuck for ever, or wait to be told something. A cycle
is called a deadlock only when nobody can end it, see `Cycle.is_deadlock`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tracedthread import layout
from tracedthread.capture import Capture, Frame, text


class ThreadRef(NamedTuple):
    """A thread. Records of threads are used again: `slot` and `generation` together tell it from all others."""

    slot: int
    generation: int
    ident: int
    native_id: int
    name: str
    ended: bool


@dataclass(frozen=True)
class LockRef:
    """
    A lock that somebody waits for.

    Args:
        address: Of the lock object.
        owner: Who has it; None: nobody, or not known.
        held_since: In ticks; 0: not known.
        entered: Its owner took it by a `with` statement, so that nobody else will release it.
        before_fork: It was taken before this process was forked, by a thread that this process does not have.
        owner_stack: Where the owner was when a waiter last looked; empty: nobody did.
        release_stack: Where it was last released while somebody waited.
    """

    address: int
    name: str
    type: str
    created: Frame
    owner: ThreadRef | None
    held_since: int
    held_s: float
    entered: bool
    before_fork: bool
    owner_stack: tuple[Frame, ...]
    release_stack: tuple[Frame, ...]

    @property
    def only_owner_releases(self) -> bool:
        """Whether no other thread can, or is going to, release it."""
        return self.entered or self.type == "rlock"


@dataclass(frozen=True)
class BlockedThread:
    """
    A thread that waits.

    Args:
        kind: One of layout.KINDS.
        what: The name of what it waits for, as far as there is one.
        since: In ticks.
        timed: The wait has a timeout.
        lock: For kinds `lock` and `rlock`; None when the capture had no room for it.
        joins: For kind `join`.
    """

    thread: ThreadRef
    kind: str
    what: str
    since: int
    waited_s: float
    timed: bool
    stack: tuple[Frame, ...]
    lock: LockRef | None = None
    joins: ThreadRef | None = None

    @property
    def blocker(self) -> ThreadRef | None:
        """The thread that has to do something first."""
        blocker = self.joins if self.lock is None else self.lock.owner
        return None if blocker is None or blocker.ended else blocker

    @property
    def key(self) -> Hashable:
        """The same as long as this wait lasts and its lock is in the same hands."""
        lock = self.lock
        return self.thread[:2], self.since, self.blocker and self.blocker[:2], lock and (lock.address, lock.held_since)


@dataclass(frozen=True)
class Cycle:
    """
    Threads each of which waits for the next one, and the last one for the first.

    Args:
        waits: In that order, the longest wait first.
        alone: No other thread could do anything about it: all of them wait as well, for ever.
    """

    waits: tuple[BlockedThread, ...]
    alone: bool = False

    @property
    def is_deadlock(self) -> bool:
        """
        Whether nobody can end it.

        Where no thread but its owner releases a lock, that is certain. Two threads or more that each hold a lock that
        another one wants are taken for a deadlock as well: locks used as signals do not end up so. But a thread that
        waits for a plain lock it took itself, or that joins another which does, can be released by whoever still runs.
        """
        if any(wait.timed for wait in self.waits):
            return False
        locks = [wait.lock for wait in self.waits if wait.lock is not None]
        all_locks = len(locks) == len(self.waits) > 1
        return self.alone or all_locks or all(lock.only_owner_releases for lock in locks)

    @property
    def key(self) -> Hashable:
        """The same as long as nothing in the cycle has moved."""
        return frozenset(wait.key for wait in self.waits)


def waits(capture: Capture) -> list[BlockedThread]:
    """
    Every thread that waits, the longest wait first.

    Raises:
        CaptureError: The capture is damaged.
    """
    return _Reader(capture).waits()


def cycles(blocked: Iterable[BlockedThread], *, alone: bool = False) -> list[Cycle]:
    """
    The cycles, the longest wait first.

    Args:
        alone: No thread but these can do anything; see `nobody_else`.
    """
    waiting = {wait.thread[:2]: wait for wait in blocked}
    result = []
    seen: set[tuple[int, int]] = set()
    for start in waiting:
        path: dict[tuple[int, int], BlockedThread] = {}
        key: tuple[int, int] | None = start
        while key is not None and key in waiting and key not in seen:
            seen.add(key)
            path[key] = waiting[key]
            blocker = waiting[key].blocker
            key = None if blocker is None else blocker[:2]
        if key in path:
            order = list(path)
            members = [path[member] for member in order[order.index(key) :]]
            first = min(range(len(members)), key=lambda index: members[index].since)
            result.append(Cycle(tuple(members[first:] + members[:first]), alone))
    return sorted(result, key=lambda cycle: cycle.waits[0].since)


def nobody_else(capture: Capture, blocked: Iterable[BlockedThread], *, threads: int, handled_signals: bool) -> bool:
    """
    Whether every thread of the process waits without a timeout, so that none is left to release a lock.

    Args:
        threads: How many the process has, recorded or not.
        handled_signals: It has handlers for signals, which could.
    """
    waiting = sum(not wait.timed for wait in blocked)
    return not handled_signals and waiting == threads == live_threads(capture)


def live_threads(capture: Capture) -> int:
    """How many threads of the capture have started and not ended."""
    started = (layout.THREAD_STARTING, layout.THREAD_RUNNING)
    return sum(record.state in started for index, record in enumerate(capture.threads()) if index)


def confirmed(first: Iterable[Cycle], second: Iterable[Cycle]) -> list[Cycle]:
    """Those of the second copy in which nothing has moved since the first: no wait ended, no lock changed hands."""
    known = {cycle.key for cycle in first}
    return [cycle for cycle in second if cycle.key in known]


class _Reader:
    """The capture's records as values."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.sites = capture.sites()
        self.records = list(capture.threads())
        self.by_ident = {
            record.ident: index
            for index, record in enumerate(self.records)
            if index and record.ident and record.state in (layout.THREAD_STARTING, layout.THREAD_RUNNING)
        }
        self.locks = {record.lock: record for record in capture.contended()}

    def waits(self) -> list[BlockedThread]:
        found = [self._wait(index, record) for index, record in self.capture.waiting()]
        return sorted(found, key=lambda wait: (wait.since, wait.thread.slot))

    def _wait(self, index: int, record: layout.ThreadRecord) -> BlockedThread:
        kind = layout.KINDS[record.wait_kind]
        lock = joins = None
        if kind in layout.CONTENTION_KINDS:
            lock = self._lock(record)
        elif kind == "join" and record.wait_lock in self.by_ident:
            joins = self._thread(self.by_ident[record.wait_lock])
        return BlockedThread(
            thread=self._thread(index),
            kind=kind,
            what=joins.name if joins is not None else self._site_name(record.wait_site),
            since=record.wait_since,
            waited_s=self._since_s(record.wait_since),
            timed=bool(record.wait_timed),
            stack=self.capture.stack(record.wait_stack),
            lock=lock,
            joins=joins,
        )

    def _lock(self, wait: layout.ThreadRecord) -> LockRef:
        record = self.locks.get(wait.wait_lock)
        site = self._site(wait.wait_site)
        owner = self._owner(record) if record is not None else None
        held_since = record.held_since if record is not None else 0
        header = self.capture.header
        return LockRef(
            address=wait.wait_lock,
            name=self._site_name(wait.wait_site),
            type=layout.LOCK_TYPES[site.type],
            created=Frame(self.capture.string(site.function), self.capture.string(site.file), site.line),
            owner=owner,
            held_since=held_since,
            held_s=self._since_s(held_since) if held_since else 0.0,
            entered=record is not None and record.entered == 1,
            before_fork=owner is None and header.generation > 0 and 0 < held_since < header.first_ticks,
            owner_stack=self.capture.stack(record.owner_stack) if record is not None else (),
            release_stack=self.capture.stack(record.release_stack) if record is not None else (),
        )

    def _owner(self, record: layout.ContendedRecord) -> ThreadRef | None:
        if record.owner == 0 or record.owner >= len(self.records):
            return None
        owner = self.records[record.owner]
        # A thread that we have started cannot own what was taken before: it has the ident of one that is gone.
        impostor = owner.run_ticks and record.held_since < owner.start_ticks
        if owner.generation != record.owner_generation or impostor:
            return ThreadRef(record.owner, record.owner_generation, 0, 0, "a thread", ended=True)
        return self._thread(record.owner)

    def _thread(self, index: int) -> ThreadRef:
        record = self.records[index]
        return ThreadRef(
            slot=index,
            generation=record.generation,
            ident=record.ident,
            native_id=record.native_id,
            name=text(record.label) or self.capture.string(record.function) or f"thread {record.native_id}",
            ended=record.state not in (layout.THREAD_STARTING, layout.THREAD_RUNNING),
        )

    def _site(self, index: int) -> layout.SiteRecord:
        return self.sites[index] if index < len(self.sites) else layout.SiteRecord(0, 0, 0, 0, 0, 0, 0)

    def _site_name(self, index: int) -> str:
        return self.capture.string(self._site(index).name) if index >= layout.SITE_OTHER else ""

    def _since_s(self, ticks: int) -> float:
        return max(0.0, round((self.capture.read_ticks - ticks) * self.capture.tick_s, 9))
