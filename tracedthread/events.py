"""
The events of a profile: single waits that were longer than a threshold. The newest remain, so these are not all.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import cache
from typing import NamedTuple

from tracedthread import layout
from tracedthread.capture import Capture, Frame, text
from tracedthread.rows import OTHER, seconds


class EventRow(NamedTuple):
    """
    One slow wait; a tuple, because there can be a million.

    Times are in ticks from the start of the profile; a wait that began before that starts below zero.

    Args:
        sequence: Its number among all events of the recording.
        thread: Key of the waiter's ThreadRow; None if it has none, or its record has been used again since.
        thread_name: The waiter's; empty if that is not known any more.
        lock: Name of the lock, as in LockRow.
        lock_id: Address of the lock object, to tell instances apart.
        kind: As in `layout.KINDS`.
        outcome: As in `layout.OUTCOMES`.
        own_gil_ticks: The last part of the wait: the lock was obtained, the GIL not.
        stack: The waiter's, innermost first.
        holder: Who released the lock last, or, after a timeout, had it: key of its ThreadRow, or None.
        holder_name: Its name; empty if it is not known.
        release_stack: Where it released; empty if it did not.
        holder_stack: Where it was when the wait began; empty if nobody looked.
    """

    sequence: int
    thread: Hashable | None
    thread_name: str
    lock: str
    lock_id: int
    kind: str
    outcome: str
    start_ticks: int
    end_ticks: int
    own_gil_ticks: int
    stack: tuple[Frame, ...]
    holder: Hashable | None
    holder_name: str
    release_stack: tuple[Frame, ...]
    holder_stack: tuple[Frame, ...]
    tick_s: float

    @property
    def wait_s(self) -> float:
        """How long it was."""
        return seconds(self.end_ticks - self.start_ticks, self.tick_s)

    @property
    def own_gil_s(self) -> float:
        """The last part of it, during which only the GIL was missing."""
        return seconds(self.own_gil_ticks, self.tick_s)


def read_events(capture: Capture) -> tuple[EventRow, ...]:
    """
    The events that remain, oldest first.

    Raises:
        CaptureError: The capture is damaged.
    """
    first, tick_s = capture.header.first_ticks, capture.tick_s
    threads = list(capture.threads())
    locks = [OTHER if index == layout.SITE_OTHER else capture.string(s.name) for index, s in enumerate(capture.sites())]

    @cache
    def who(index: int, generation: int) -> tuple[Hashable | None, str]:
        if not 0 < index < len(threads) or threads[index].generation != generation:
            return None, ""
        record = threads[index]
        name = text(record.label) or capture.string(record.name)
        return (record.ident, record.native_id, record.start_ticks), name

    stack = cache(capture.stack)
    rows = []
    for record in capture.events():
        thread, thread_name = who(record.thread, record.thread_generation)
        holder, holder_name = who(record.holder, record.holder_generation)
        # In the order of the fields: naming them takes twice as long, and there can be a million.
        row = EventRow(
            record.sequence,
            thread,
            thread_name if record.thread else OTHER,
            locks[record.site] if locks else "",
            record.lock,
            layout.KINDS[record.kind],
            layout.OUTCOMES[record.outcome],
            record.start_ticks - first,
            record.end_ticks - first,
            record.own_gil_ticks,
            stack(record.stack),
            holder,
            holder_name,
            stack(record.release_stack),
            stack(record.holder_stack),
            tick_s,
        )
        rows.append(row)
    return tuple(rows)


def events_since(after: Iterable[EventRow], before: Iterable[EventRow], elapsed_ticks: int) -> tuple[EventRow, ...]:
    """What came after `before`, in the time of a profile that starts `elapsed_ticks` later."""
    known = {row.sequence for row in before}
    return tuple(
        row._replace(start_ticks=row.start_ticks - elapsed_ticks, end_ticks=row.end_ticks - elapsed_ticks)
        for row in after
        if row.sequence not in known
    )
