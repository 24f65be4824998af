"""
What a look into a running process finds: deadlocks, who waits for whom, and what else is worth a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tracedthread import layout
from tracedthread.capture import Capture, Frame
from tracedthread.deadlock import (
    BlockedThread,
    Cycle,
    LockRef,
    ThreadRef,
    confirmed,
    cycles,
    live_threads,
    nobody_else,
    waits,
)
from tracedthread.forest import Tree, forest
from tracedthread.procfs import Status

SCHEMA = "tracedthread.dump/1"
# Below this it is no news that all threads wait.
LONG_WAIT_S = 1.0


@dataclass(frozen=True)
class Dump:
    """
    One look into a process.

    Args:
        state: `running`, `stopped` (by a signal or a debugger) or `exiting` (the program has run its exit handlers).
        recording: False while it is paused or unpatched: waits since then are not seen.
        threads: Of the operating system.
        recorded_threads: Of those, the ones that the recording has met.
        deadlocks: Nobody can end them.
        suspects: Cycles that a thread which still runs, a signal handler or a timeout may end.
        trees: Who waits for whom.
        waits: Every thread that waits, the longest wait first.
        warnings: Plain sentences.
    """

    pid: int
    program: str
    python: str
    state: str
    recording: bool
    threads: int
    recorded_threads: int
    deadlocks: tuple[Cycle, ...]
    suspects: tuple[Cycle, ...]
    trees: tuple[Tree, ...]
    waits: tuple[BlockedThread, ...]
    warnings: tuple[str, ...]

    @classmethod
    def from_copies(cls, first: Capture, second: Capture, before: Status, status: Status) -> Dump:
        """
        What two copies, made one after the other, have in common: what moves in between is no deadlock.

        Args:
            before, status: The process, looked at before the first copy and after the second.
        Raises:
            CaptureError: The capture is damaged.
        """
        blocked = waits(second)
        # Who has been woken and has not come to run yet still looks as if it waited, but it does not sleep.
        alone = (
            before.asleep is not None
            and before.asleep == status.asleep
            and nobody_else(second, blocked, threads=status.threads, handled_signals=status.handled_signals)
        )
        found = confirmed(cycles(waits(first)), cycles(blocked, alone=alone))
        header = second.header
        exiting = "exiting" if header.state == layout.STATE_EXITED else "running"
        return cls(
            pid=status.pid,
            program=second.program,
            python=second.python,
            state="stopped" if status.is_stopped else exiting,
            recording=bool(header.recording),
            threads=status.threads,
            recorded_threads=live_threads(second),
            deadlocks=tuple(cycle for cycle in found if cycle.is_deadlock),
            suspects=tuple(cycle for cycle in found if not cycle.is_deadlock),
            trees=tuple(forest(blocked)),
            waits=tuple(blocked),
            warnings=tuple(_warnings(second, blocked, status)),
        )

    def to_dict(self) -> dict[str, Any]:
        """The dump as one JSON object, schema `tracedthread.dump/1`."""
        locks = [tree.lock for tree in self.trees] + [wait.lock for wait in self.waits]
        by_address = {lock.address: lock for lock in locks if lock is not None}
        return {
            "schema": SCHEMA,
            "process": {
                "pid": self.pid,
                "program": self.program,
                "python": self.python,
                "state": self.state,
                "recording": self.recording,
                "threads": self.threads,
                "recorded_threads": self.recorded_threads,
            },
            "deadlocks": [_cycle_dict(cycle) for cycle in self.deadlocks],
            "suspects": [_cycle_dict(cycle) for cycle in self.suspects],
            "locks": [_lock_dict(lock, self.waits) for lock in by_address.values()],
            "waits": [_wait_dict(wait) for wait in self.waits],
            "warnings": list(self.warnings),
        }


def _warnings(capture: Capture, blocked: list[BlockedThread], status: Status) -> Iterable[str]:
    if not capture.header.recording:
        yield "The recording is paused: waits that began since then are not seen."
    live = live_threads(capture)
    shortest = min((wait.waited_s for wait in blocked), default=0.0)
    if len(blocked) == live > 1 and shortest >= LONG_WAIT_S:
        others = "" if status.threads <= live else f" (the process has {status.threads - live} more, not recorded)"
        yield f"All {live} threads wait{others}: unless a signal or another process wakes one, nothing will happen."
    yield from _lost_locks(blocked)
    lost = capture.lost
    if lost["contended"]:
        yield f"{lost['contended']} times a lock that threads wait for found no room: its owner is not shown."
    if lost["threads"]:
        yield f"{lost['threads']} threads found no room: their waits are not shown."


def _lost_locks(blocked: Iterable[BlockedThread]) -> Iterable[str]:
    """Locks whose owner is gone."""
    said = set()
    for wait in blocked:
        lock = wait.lock
        if lock is None or lock.address in said:
            continue
        said.add(lock.address)
        name = lock_name(lock)
        if lock.owner is not None and lock.owner.ended:
            yield f"{name} is held by `{lock.owner.name}`, which has ended without releasing it."
        elif lock.before_fork:
            yield f"{name} was held when this process was forked, by a thread that only its parent has."
        elif lock.owner is None and lock.held_since:
            yield f"{name} is held by a thread that has ended, or that this recording has not met."


def lock_name(lock: LockRef) -> str:
    """`` `PriceCache._lock` (cache.py:41) ``."""
    place = f"{lock.created.file}:{lock.created.line}" if lock.created.line else ""
    if not lock.name:
        return f"the lock created at {place}" if place else f"a lock at {lock.address:#x}"
    return f"`{lock.name}` ({place})" if place else f"`{lock.name}`"


def _cycle_dict(cycle: Cycle) -> dict[str, Any]:
    return {"threads": [_wait_dict(wait) for wait in cycle.waits]}


def _wait_dict(wait: BlockedThread) -> dict[str, Any]:
    return {
        "thread": _thread_dict(wait.thread),
        "kind": wait.kind,
        "what": wait.what,
        "waited_s": wait.waited_s,
        "has_timeout": wait.timed,
        "lock": None if wait.lock is None else f"{wait.lock.address:#x}",
        "blocked_by": _thread_dict(wait.blocker),
        "stack": _stack(wait.stack),
    }


def _lock_dict(lock: LockRef, blocked: Iterable[BlockedThread]) -> dict[str, Any]:
    waiters = [wait.thread for wait in blocked if wait.lock is not None and wait.lock.address == lock.address]
    return {
        "address": f"{lock.address:#x}",
        "name": lock.name,
        "type": lock.type,
        "created": {"file": lock.created.file, "line": lock.created.line, "function": lock.created.function},
        "owner": _thread_dict(lock.owner),
        "held_s": lock.held_s if lock.held_since else None,
        "owner_stack": _stack(lock.owner_stack),
        "release_stack": _stack(lock.release_stack),
        "waiters": [_thread_dict(thread) for thread in waiters],
    }


def _thread_dict(thread: ThreadRef | None) -> dict[str, Any] | None:
    if thread is None:
        return None
    return {"name": thread.name, "ident": thread.ident, "native_id": thread.native_id, "ended": thread.ended}


def _stack(stack: tuple[Frame, ...]) -> list[str]:
    return [str(frame) for frame in stack]
