"""
Threads that wait, made up: `blocked(1, lock(10, 2))` is thread t1, which waits for lock L10 of thread t2.
"""

from __future__ import annotations

from tracedthread.capture import Frame
from tracedthread.deadlock import BlockedThread, LockRef, ThreadRef

NOWHERE = Frame("(unknown)", "", 0)


def thread(number: int, *, ended: bool = False) -> ThreadRef:
    return ThreadRef(number, 0, 1000 + number, 100 + number, f"t{number}", ended)


def lock(address: int, owner: int | None, *, kind: str = "lock", entered: bool = False, since: int = 5) -> LockRef:
    return LockRef(
        address=address,
        name=f"L{address}",
        type=kind,
        created=NOWHERE,
        owner=None if owner is None else thread(owner),
        held_since=since,
        held_s=1.0,
        entered=entered,
        before_fork=False,
        owner_stack=(),
        release_stack=(),
    )


def blocked(number: int, by: LockRef | None = None, *, joins: int | None = None, timed: bool = False) -> BlockedThread:
    """Thread `number` waits; the higher its number, the later it began to."""
    kind = "join" if joins is not None else "event" if by is None else by.type
    return BlockedThread(
        thread=thread(number),
        kind=kind,
        what="",
        since=number,
        waited_s=100_000.0 - number,
        timed=timed,
        stack=(),
        lock=by,
        joins=None if joins is None else thread(joins),
    )
