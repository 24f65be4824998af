"""
Holds as far as slow waits tell of them: who had a lock while somebody waited for it, and whom its release woke.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from tracedthread.capture import Frame
from tracedthread.events import EventRow
from tracedthread.layout import CONTENTION_KINDS


@dataclass
class Hold:
    """
    One hold of one lock, as long as it is known. Times as in EventRow.

    Args:
        thread: Key of the holder's ThreadRow.
        is_exact: The start is known, because the holder had waited itself and the next waiter waited already, so that
            it is this hold; should the holder have given the lock back and taken it again before that one could, it
            is shown as one hold. Else it began at this time or before, unless another thread, of which there is no
            event, had the lock in between.
        release_stack: Where it ended; empty if it is not known to have ended.
        woken: The waits that its release ended, by their place in the events.
    """

    thread: Hashable
    thread_name: str
    lock: str
    lock_id: int
    start_ticks: int
    end_ticks: int
    is_exact: bool
    release_stack: tuple[Frame, ...] = ()
    holder_stack: tuple[Frame, ...] = ()
    woken: list[int] = field(default_factory=list)


def obtained_ticks(event: EventRow) -> int:
    """When the waiter had the lock; from then on only the GIL was missing."""
    return event.end_ticks - event.own_gil_ticks


def holds(events: Iterable[EventRow]) -> list[Hold]:
    """
    The holds that made the waiters of `events` wait, by lock and time.

    Only what the holder's last release ended, or what it had at a timeout, is known. A wait can be longer than that, so
    a hold starts no earlier than the hold before it ended.
    """
    by_lock: dict[int, list[tuple[int, EventRow]]] = {}
    for index, event in enumerate(events):
        if event.kind in CONTENTION_KINDS:
            by_lock.setdefault(event.lock_id, []).append((index, event))
    result = []
    for of_lock in by_lock.values():
        of_lock.sort(key=lambda pair: obtained_ticks(pair[1]))
        result += _holds_of_one_lock(of_lock)
    return result


def _holds_of_one_lock(events: list[tuple[int, EventRow]]) -> list[Hold]:
    result: list[Hold] = []
    owner: Hashable | None = None  # the last one that is known to have obtained it
    free_from = -(1 << 63)  # when that was, and so the end of the hold before
    for index, event in events:
        end = obtained_ticks(event)
        if event.holder is not None:
            is_exact = event.holder == owner and event.start_ticks <= free_from
            hold = Hold(
                thread=event.holder,
                thread_name=event.holder_name,
                lock=event.lock,
                lock_id=event.lock_id,
                start_ticks=free_from if is_exact else max(event.start_ticks, free_from),
                end_ticks=end,
                is_exact=is_exact,
                release_stack=event.release_stack,
                holder_stack=event.holder_stack,
            )
            last = result[-1] if result else None
            if last and not last.release_stack and last.thread == hold.thread and hold.start_ticks <= last.end_ticks:
                # Others gave up waiting for it, one after the other: still the same hold.
                hold.start_ticks, hold.is_exact = last.start_ticks, last.is_exact
                hold.holder_stack = last.holder_stack or hold.holder_stack
                result.pop()
            if event.outcome == "acquired":
                hold.woken.append(index)
            result.append(hold)
        if event.outcome == "acquired":
            owner, free_from = event.thread, end
    return result
