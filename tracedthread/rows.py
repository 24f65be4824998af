"""
The rows of a profile: frozen values that can be added (rows of one place) and subtracted (two moments of one program).

Times are kept in clock ticks, so that sums and differences are exact; `tick_s` turns them into seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tracedthread.capture import Frame
from tracedthread.histogram import EMPTY, Histogram

OTHER = "(other)"
NOWHERE = Frame(OTHER, "", 0)
#: What stands for a function that is not known: its frame found no room, or the hold is not over.
NOBODY = frozenset({"(unknown)", "(still held)"})

_SUMS = (
    "created",
    "destroyed",
    "acquisitions",
    "contended",
    "timeouts",
    "interrupted",
    "failed_tries",
    "hold_ticks",
    "wait_ticks",
    "own_gil_ticks",
    "gil_ticks",
    "handoff_ticks",
    "holds_untimed",
)


def seconds(ticks: float, tick_s: float) -> float:
    """Ticks as seconds, to the nanosecond."""
    return round(ticks * tick_s, 9)


def max_since(after: int, before: int, bound: float) -> int:
    """
    The maximum of what came after a moment.

    Args:
        after: The maximum of everything.
        before: The maximum up to that moment.
        bound: What came after the moment is known not to exceed this.
    """
    return after if after > before else int(min(after, bound))


def fingerprint(lock_type: str, name: str, created: Frame) -> str:
    """
    What tells a lock from others in every run and version of a program, for captures that do not say it themselves.

    Without the line, which every edit above it moves, and without the folder, which depends on the machine.
    """
    identity = "\0".join((lock_type, name, created.function, created.file))
    return hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Stats:
    """
    Everything counted about the locks of one site. The fields are those of tt_site_stats.

    Args:
        holds_untimed: Of the acquisitions, those whose hold is over and in no histogram: recording was paused in the
            middle of it, or the lock was dropped or reset while it was held.
        waiters, unended: Waits, and holds of the acquisitions, in progress when the counters were read.
        hold_max_is_bound, wait_max_is_bound: The maximum is one that none exceeds, as a longer one came before.
    """

    created: int = 0
    destroyed: int = 0
    acquisitions: int = 0
    contended: int = 0
    timeouts: int = 0
    interrupted: int = 0
    failed_tries: int = 0
    hold_ticks: int = 0
    hold_max_ticks: int = 0
    wait_ticks: int = 0
    wait_max_ticks: int = 0
    own_gil_ticks: int = 0
    gil_ticks: int = 0
    handoff_ticks: int = 0
    holds_untimed: int = 0
    waiters: int = 0
    unended: int = 0
    hold: Histogram = EMPTY
    wait: Histogram = EMPTY
    hold_max_is_bound: bool = False
    wait_max_is_bound: bool = False

    @property
    def attempts(self) -> int:
        """Acquisitions, and waits that ended without one. Tries that did not wait are not among them."""
        return max(self.acquisitions + self.gave_up, self.contended)

    @property
    def gave_up(self) -> int:
        """Waits that ended without an acquisition."""
        return self.timeouts + self.interrupted

    def __bool__(self) -> bool:
        return bool(self.created or self.acquisitions or self.contended or self.failed_tries or self.waiters)

    def __add__(self, other: Stats) -> Stats:
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMS}
        return Stats(
            **sums,
            hold_max_ticks=max(self.hold_max_ticks, other.hold_max_ticks),
            wait_max_ticks=max(self.wait_max_ticks, other.wait_max_ticks),
            waiters=self.waiters + other.waiters,
            unended=self.unended + other.unended,
            hold=self.hold + other.hold,
            wait=self.wait + other.wait,
            hold_max_is_bound=max(self, other, key=lambda one: one.hold_max_ticks).hold_max_is_bound,
            wait_max_is_bound=max(self, other, key=lambda one: one.wait_max_ticks).wait_max_is_bound,
        )

    def since(self, before: Stats, bucket_tick_s: float) -> Stats:
        """
        What was counted after `before`; `bucket_tick_s` is as in Process.

        Counts, sums and histograms are exact. A maximum is exact if it grew, or is of one alone; else it may be
        too high, by at most 12.5 %. `created` counts every lock that existed at some time since then.
        What is in progress is so at the end, whenever it began.
        """
        sums = {name: max(0, getattr(self, name) - getattr(before, name)) for name in _SUMS}
        sums["created"] = max(0, self.created - before.destroyed)
        hold, wait = self.hold - before.hold, self.wait - before.wait
        hold_bound = hold.bound_ticks(sums["hold_ticks"], bucket_tick_s)
        wait_bound = wait.bound_ticks(sums["wait_ticks"], bucket_tick_s)
        return Stats(
            **sums,
            hold_max_ticks=max_since(self.hold_max_ticks, before.hold_max_ticks, hold_bound),
            wait_max_ticks=max_since(self.wait_max_ticks, before.wait_max_ticks, wait_bound),
            waiters=self.waiters,
            unended=self.unended,
            hold=hold,
            wait=wait,
            # Of one alone, the sum is the maximum.
            hold_max_is_bound=sum(hold.counts) > 1 and self.hold_max_ticks <= before.hold_max_ticks,
            wait_max_is_bound=sum(wait.counts) > 1 and self.wait_max_ticks <= before.wait_max_ticks,
        )


@dataclass(frozen=True)
class WaitRow:
    """
    Waits of one kind from one stack.

    Args:
        kind: As in `layout.KINDS`.
        lock: Name of the lock; of the Condition's own lock for waits on a condition; empty if not known.
        stack: The waiter's, innermost first.
        waker: Where the newest of these waits was ended, as in `worker app.py:12`; empty if that is not known.
    """

    kind: str
    lock: str
    stack: tuple[Frame, ...]
    count: int
    wait_ticks: int
    own_gil_ticks: int
    max_ticks: int
    timeouts: int
    interrupted: int
    tick_s: float
    waker: str = ""

    @property
    def key(self) -> Hashable:
        """Rows with the same key are one."""
        return self.kind, self.lock, self.stack

    @property
    def frame(self) -> Frame:
        """Where the wait was."""
        return self.stack[0] if self.stack else NOWHERE

    @property
    def wait_s(self) -> float:
        """All the waits together."""
        return seconds(self.wait_ticks, self.tick_s)

    @property
    def own_gil_s(self) -> float:
        """The part during which the lock was free for the waiter, but the GIL was not."""
        return seconds(self.own_gil_ticks, self.tick_s)

    @property
    def max_s(self) -> float:
        """The longest one."""
        return seconds(self.max_ticks, self.tick_s)

    def __add__(self, other: WaitRow) -> WaitRow:
        return self.plus([other])

    def plus(self, others: Sequence[WaitRow]) -> WaitRow:
        """All of them in one, with the stack of this one."""
        rows = [self, *others]
        return replace(
            self,
            count=sum(row.count for row in rows),
            wait_ticks=sum(row.wait_ticks for row in rows),
            own_gil_ticks=sum(row.own_gil_ticks for row in rows),
            max_ticks=max(row.max_ticks for row in rows),
            timeouts=sum(row.timeouts for row in rows),
            interrupted=sum(row.interrupted for row in rows),
            waker=next((row.waker for row in rows if row.waker), ""),
        )

    def since(self, before: WaitRow) -> WaitRow:
        """What was counted after `before`; a maximum that did not grow is bounded by the time waited since then."""
        wait_ticks = max(0, self.wait_ticks - before.wait_ticks)
        return replace(
            self,
            count=max(0, self.count - before.count),
            wait_ticks=wait_ticks,
            own_gil_ticks=max(0, self.own_gil_ticks - before.own_gil_ticks),
            max_ticks=max_since(self.max_ticks, before.max_ticks, wait_ticks),
            timeouts=max(0, self.timeouts - before.timeouts),
            interrupted=max(0, self.interrupted - before.interrupted),
        )

    def to_dict(self) -> dict[str, Any]:
        """A row of `waits`, `idle` or `resources`."""
        return {
            "kind": self.kind,
            "function": self.frame.function,
            "file": self.frame.file,
            "path": self.frame.path,
            "line": self.frame.line,
            "lock": self.lock,
            "count": self.count,
            "wait_s": self.wait_s,
            "own_gil_s": self.own_gil_s,
            "max_s": self.max_s,
            "timeouts": self.timeouts,
            "stack": [str(frame) for frame in self.stack],
        }


@dataclass(frozen=True)
class BlameRow:
    """
    Holds that made others wait, by where they were released.

    Args:
        lock: Name of the lock.
        stack: The holder's when it released, innermost first; empty for holds that no longer fitted their section.
        holds: Those that made somebody wait. Not known, and 0, without a stack.
        blame_ticks: The waiting they caused, summed over the waiters.
        max_ticks: Caused by one hold.
        waiters: Threads that waited when such a hold ended, and waits that had given up before, summed over the holds.
            Not known, and 0, without a stack.
    """

    lock: str
    stack: tuple[Frame, ...]
    holds: int
    blame_ticks: int
    max_ticks: int
    waiters: int
    tick_s: float

    @property
    def key(self) -> Hashable:
        """Rows with the same key are one."""
        return self.lock, self.stack

    @property
    def is_somebody(self) -> bool:
        """Whether it is known which function released the lock."""
        return bool(self.stack) and self.frame.function not in NOBODY

    @property
    def frame(self) -> Frame:
        """Where the lock was released."""
        return self.stack[0] if self.stack else NOWHERE

    @property
    def blame_s(self) -> float:
        """The waiting that these holds caused."""
        return seconds(self.blame_ticks, self.tick_s)

    @property
    def max_s(self) -> float:
        """The waiting that one of them caused, the worst."""
        return seconds(self.max_ticks, self.tick_s)

    def __add__(self, other: BlameRow) -> BlameRow:
        return self.plus([other])

    def plus(self, others: Sequence[BlameRow]) -> BlameRow:
        """All of them in one, with the stack of this one."""
        rows = [self, *others]
        return replace(
            self,
            holds=sum(row.holds for row in rows),
            blame_ticks=sum(row.blame_ticks for row in rows),
            max_ticks=max(row.max_ticks for row in rows),
            waiters=sum(row.waiters for row in rows),
        )

    def since(self, before: BlameRow) -> BlameRow:
        """What was charged after `before`; a maximum that did not grow is bounded by what was charged since then."""
        blame_ticks = max(0, self.blame_ticks - before.blame_ticks)
        return replace(
            self,
            holds=max(0, self.holds - before.holds),
            blame_ticks=blame_ticks,
            max_ticks=max_since(self.max_ticks, before.max_ticks, blame_ticks),
            waiters=max(0, self.waiters - before.waiters),
        )

    def to_dict(self) -> dict[str, Any]:
        """A row of `blame`."""
        return {
            "function": self.frame.function,
            "file": self.frame.file,
            "path": self.frame.path,
            "line": self.frame.line,
            "count": self.holds,
            "blame_s": self.blame_s,
            "max_s": self.max_s,
            "waiters": self.waiters,
            "stack": [str(frame) for frame in self.stack],
        }


@dataclass(frozen=True)
class LockRow:
    """
    The locks created at one place under one name.

    Args:
        name: As in `PriceCache._lock`, or `(other)`.
        type: `lock` or `rlock`.
        created: The function and the line that create them.
        waits: Who waited for them, worst first. Waits that no longer fitted their section are one `(other)` row.
        blame: Whose holds made them wait, worst first, with an `(other)` row likewise.
        fingerprint: The same for the same lock of another run or version: 16 hexadecimal digits.
    """

    name: str
    type: str
    created: Frame
    stats: Stats
    waits: tuple[WaitRow, ...]
    tick_s: float
    blame: tuple[BlameRow, ...] = ()
    fingerprint: str = ""

    @property
    def key(self) -> Hashable:
        """Rows with the same key are one."""
        return self.name, self.type, self.created

    @property
    def wait_s(self) -> float:
        """Time that threads waited for these locks."""
        return seconds(self.stats.wait_ticks, self.tick_s)

    @property
    def wait_max_s(self) -> float:
        """The longest wait."""
        return seconds(self.stats.wait_max_ticks, self.tick_s)

    @property
    def own_gil_s(self) -> float:
        """The part of `wait_s` during which the lock was free for the waiter, but the GIL was not."""
        return seconds(self.stats.own_gil_ticks, self.tick_s)

    @property
    def blame_s(self) -> float:
        """The part of `wait_s` that holds caused."""
        return seconds(sum(row.blame_ticks for row in self.blame), self.tick_s)

    @property
    def gil_s(self) -> float:
        """The part of `wait_s` during which the owner had the lock, but waited for the GIL to go on."""
        return seconds(self.stats.gil_ticks, self.tick_s)

    @property
    def handoff_s(self) -> float:
        """The part of `wait_s` during which nobody had the lock."""
        return seconds(self.stats.handoff_ticks, self.tick_s)

    @property
    def hold_s(self) -> float:
        """Time that these locks were held."""
        return seconds(self.stats.hold_ticks, self.tick_s)

    @property
    def hold_max_s(self) -> float:
        """The longest hold."""
        return seconds(self.stats.hold_max_ticks, self.tick_s)

    def wait_quantile_s(self, fraction: float) -> float:
        """The wait that `fraction` of the waits do not exceed, off by at most 12.5 %."""
        return round(self.stats.wait.quantile_ns(fraction, self.wait_max_s * 1e9) * 1e-9, 9)

    def hold_quantile_s(self, fraction: float) -> float:
        """The hold that `fraction` of the holds do not exceed, off by at most 12.5 %."""
        return round(self.stats.hold.quantile_ns(fraction, self.hold_max_s * 1e9) * 1e-9, 9)

    def to_dict(self) -> dict[str, Any]:
        """A row of `locks`."""
        stats = self.stats
        return {
            "name": self.name,
            "type": self.type,
            "fingerprint": self.fingerprint,
            "created": {
                "file": self.created.file,
                "path": self.created.path,
                "line": self.created.line,
                "function": self.created.function,
            },
            "instances": stats.created,
            "acquisitions": stats.acquisitions,
            "contended": stats.contended,
            "timeouts": stats.timeouts,
            "interrupted": stats.interrupted,
            "failed_tries": stats.failed_tries,
            "waiting": stats.waiters,
            "wait_s": self.wait_s,
            "wait_max_s": self.wait_max_s,
            "wait_p50_s": self.wait_quantile_s(0.5),
            "wait_p99_s": self.wait_quantile_s(0.99),
            "own_gil_s": self.own_gil_s,
            "hold_s": self.hold_s,
            "hold_max_s": self.hold_max_s,
            "hold_p50_s": self.hold_quantile_s(0.5),
            "hold_p99_s": self.hold_quantile_s(0.99),
            "blame_s": self.blame_s,
            "gil_s": self.gil_s,
            "handoff_s": self.handoff_s,
            "waits": [wait.to_dict() for wait in self.waits],
            "blame": [row.to_dict() for row in self.blame],
        }


@dataclass(frozen=True)
class ThreadRow:
    """
    One thread, or `(other)`: those that found no slot, and those whose slot was needed for a later thread.

    Args:
        threads: How many threads the row stands for: 1, or those of `(other)` that had a slot once.
        parent: Name of the thread that started it; empty if that is not known.
        stack: Where it was started, innermost first; empty if that is not known.
        started_ticks: From the start of the profile to the thread's start.
        latency_ticks: From the call that started it to its first instruction; 0 if that is not known.
        lifetime_ticks: How long it has run.
        cpu_ns: Processor time, up to its end or to the moment when its process last looked; 0 if it never did.
        wait_count: Waits for locks.
        blamed_ticks: What others waited because of its holds. Of `(other)` also what is nobody's that is known.
    """

    ident: int
    native_id: int
    name: str
    function: str
    alive: bool
    start_ticks: int
    end_ticks: int
    started_ticks: int
    latency_ticks: int
    lifetime_ticks: int
    cpu_ns: int
    wait_ticks: int
    idle_ticks: int
    resource_ticks: int
    own_gil_ticks: int
    tick_s: float
    wait_count: int = 0
    threads: int = 1
    parent: str = ""
    stack: tuple[Frame, ...] = ()
    blamed_ticks: int = 0

    @property
    def key(self) -> Hashable:
        """Rows with the same key are one."""
        return self.ident, self.native_id, self.start_ticks

    @property
    def is_other(self) -> bool:
        """Whether it is the row `(other)`."""
        return not self.ident

    @property
    def created(self) -> Frame:
        """Where it was started."""
        return self.stack[0] if self.stack else NOWHERE

    @property
    def wait_s(self) -> float:
        """Contention."""
        return seconds(self.wait_ticks, self.tick_s)

    @property
    def idle_s(self) -> float:
        """Waiting for work."""
        return seconds(self.idle_ticks, self.tick_s)

    @property
    def resource_s(self) -> float:
        """Waiting for a permit or for room."""
        return seconds(self.resource_ticks, self.tick_s)

    @property
    def own_gil_s(self) -> float:
        """Waiting for the GIL with the lock already obtained."""
        return seconds(self.own_gil_ticks, self.tick_s)

    @property
    def blocked_others_s(self) -> float:
        """What others waited because it held a lock, summed over them."""
        return seconds(self.blamed_ticks, self.tick_s)

    @property
    def latency_s(self) -> float:
        """From the call that started it to its first instruction."""
        return seconds(self.latency_ticks, self.tick_s)

    @property
    def lifetime_s(self) -> float:
        """How long it has run."""
        return seconds(self.lifetime_ticks, self.tick_s)

    @property
    def cpu_s(self) -> float:
        """Processor time."""
        return round(self.cpu_ns * 1e-9, 9)

    def less(self, other: ThreadRow) -> ThreadRow:
        """Its sums without those of `other`."""
        return replace(
            self,
            threads=max(0, self.threads - other.threads),
            wait_count=max(0, self.wait_count - other.wait_count),
            cpu_ns=max(0, self.cpu_ns - other.cpu_ns),
            wait_ticks=max(0, self.wait_ticks - other.wait_ticks),
            idle_ticks=max(0, self.idle_ticks - other.idle_ticks),
            resource_ticks=max(0, self.resource_ticks - other.resource_ticks),
            own_gil_ticks=max(0, self.own_gil_ticks - other.own_gil_ticks),
            blamed_ticks=max(0, self.blamed_ticks - other.blamed_ticks),
        )

    def to_dict(self) -> dict[str, Any]:
        """A row of `threads`."""
        return {
            "ident": self.ident,
            "native_id": self.native_id,
            "name": self.name,
            "function": self.function,
            "threads": self.threads,
            "alive": self.alive,
            "parent": self.parent,
            "created": {
                "file": self.created.file,
                "path": self.created.path,
                "line": self.created.line,
                "function": self.created.function,
            }
            if self.stack
            else None,
            "started_s": seconds(self.started_ticks, self.tick_s),
            "start_latency_s": self.latency_s,
            "lifetime_s": self.lifetime_s,
            "cpu_s": self.cpu_s,
            "waits": self.wait_count,
            "wait_s": self.wait_s,
            "idle_s": self.idle_s,
            "resource_s": self.resource_s,
            "own_gil_s": self.own_gil_s,
            "blocked_others_s": self.blocked_others_s,
        }


@dataclass(frozen=True)
class StartRow:
    """
    A line of the audit trail: a thread was started.

    Args:
        at_ticks: From the start of the profile.
        ident: Of the new thread.
        name: Of the new thread, when it was started.
        function: What it runs.
        stack: Where it was started, innermost first.
    """

    at_ticks: int
    ident: int
    name: str
    function: str
    parent: str
    parent_ident: int
    parent_native_id: int
    stack: tuple[Frame, ...]
    tick_s: float

    @property
    def at_s(self) -> float:
        """Since the start of the profile."""
        return seconds(self.at_ticks, self.tick_s)

    @property
    def frame(self) -> Frame:
        """Where it was started."""
        return self.stack[0] if self.stack else NOWHERE

    def to_dict(self) -> dict[str, Any]:
        """A row of `starts`."""
        return {
            "at_s": self.at_s,
            "ident": self.ident,
            "name": self.name,
            "runs": self.function,
            "parent": self.parent,
            "parent_ident": self.parent_ident,
            "parent_native_id": self.parent_native_id,
            "function": self.frame.function,
            "file": self.frame.file,
            "path": self.frame.path,
            "line": self.frame.line,
            "stack": [str(frame) for frame in self.stack],
        }


@dataclass(frozen=True)
class Deadlock:
    """
    A deadlock that the program's threads have noticed themselves.

    Args:
        length: Of the cycle, in threads.
        steps: Who waits for which lock (or, with an empty `created`, for whose end) of whom; of a long cycle not all.
    """

    length: int
    steps: tuple[tuple[str, str, str, str], ...]  # thread, lock, created, holder

    def __str__(self) -> str:
        parts = [
            f"`{thread}` waits for `{lock}` ({created}), held by `{holder}`"
            if created
            else f"`{thread}` waits for `{holder}` to end"
            for thread, lock, created, holder in self.steps
        ]
        more = [f"and so on, {self.length} threads in all"] if self.length > len(self.steps) else []
        return "; ".join(parts + more)

    def to_dict(self) -> dict[str, Any]:
        """A row of `deadlocks`."""
        names = ("thread", "lock", "created", "held_by")
        return {"length": self.length, "threads": [dict(zip(names, step)) for step in self.steps]}


@dataclass(frozen=True)
class Waiting:
    """
    A wait that was not over when the recording was read.

    Args:
        thread: Its name.
        ident: Of the thread.
        kind: As in `layout.KINDS`.
        lock, created: As in LockRow; of a join empty.
        elapsed_ticks: Up to then. None if that is not known, as of a process that was cut off.
        stack: Where it stands, innermost first.
    """

    thread: str
    ident: int
    kind: str
    lock: str
    created: Frame
    elapsed_ticks: int | None
    stack: tuple[Frame, ...]
    tick_s: float

    @property
    def key(self) -> Hashable:
        """A thread has one wait at a time."""
        return self.ident, self.thread

    @property
    def elapsed_s(self) -> float | None:
        """How long so far, if that is known."""
        return None if self.elapsed_ticks is None else seconds(self.elapsed_ticks, self.tick_s)


@dataclass(frozen=True)
class Uncovered:
    """Locks that are not recorded."""

    what: str
    count: int
    where: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """A row of `uncovered`."""
        return {"what": self.what, "count": self.count, "where": list(self.where)}
