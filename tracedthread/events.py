"""
The events of a profile: single waits that were longer than a threshold. The newest remain, so these are not all.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, overload

from tracedthread import layout
from tracedthread.capture import Capture, Frame, text
from tracedthread.layout import Records
from tracedthread.rows import OTHER, seconds


class EventRow(NamedTuple):
    """
    One slow wait.

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


@dataclass(frozen=True)
class Events(Sequence[EventRow]):
    """
    The events of a profile, oldest first. Each is made when it is looked at, for there can be a million.

    Args:
        records: As they lie in the capture.
        first_ticks: When the profile begins.
        threads: Generation, key and name of every thread, by its number.
        locks: Names, by the number of the site.
        stacks: All that the records refer to.
    """

    records: Records[layout.EventRecord]
    first_ticks: int
    tick_s: float
    threads: Sequence[tuple[int, Hashable, str]]
    locks: Sequence[str]
    stacks: Mapping[int, tuple[Frame, ...]]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[EventRow]:
        return map(self._row, self.records)

    @overload
    def __getitem__(self, index: int) -> EventRow: ...
    @overload
    def __getitem__(self, index: slice) -> Events: ...
    def __getitem__(self, index: int | slice) -> EventRow | Events:
        if isinstance(index, slice):
            return self.pick(range(*index.indices(len(self))))
        return self._row(self.records[index])

    def pick(self, indices: Iterable[int]) -> Events:
        """The events with these places, in this order."""
        return replace(self, records=self.records.pick(indices))

    def since(self, before: Events, elapsed_ticks: int) -> Events:
        """What came after `before`, in the time of a profile that starts `elapsed_ticks` later."""
        known = set(before.records.column("sequence"))
        new = [at for at, sequence in enumerate(self.records.column("sequence")) if sequence not in known]
        return replace(self.pick(new), first_ticks=self.first_ticks + elapsed_ticks)

    def who(self, thread: int, generation: int) -> tuple[Hashable | None, str]:
        """Key and name of a thread; nobody's if its record has been used again since."""
        if 0 < thread < len(self.threads) and self.threads[thread][0] == generation:
            return self.threads[thread][1:]
        return None, "" if thread else OTHER

    def _row(self, record: layout.EventRecord) -> EventRow:
        thread, thread_name = self.who(record.thread, record.thread_generation)
        holder, holder_name = self.who(record.holder, record.holder_generation)
        return EventRow(
            sequence=record.sequence,
            thread=thread,
            thread_name=thread_name,
            lock=self.locks[record.site] if self.locks else "",
            lock_id=record.lock,
            kind=layout.KINDS[record.kind],
            outcome=layout.OUTCOMES[record.outcome],
            start_ticks=record.start_ticks - self.first_ticks,
            end_ticks=record.end_ticks - self.first_ticks,
            own_gil_ticks=record.own_gil_ticks,
            stack=self.stacks[record.stack],
            holder=holder,
            holder_name=holder_name if record.holder else "",
            release_stack=self.stacks[record.release_stack],
            holder_stack=self.stacks[record.holder_stack],
            tick_s=self.tick_s,
        )


NONE = Events(Records(layout.EVENT, b"", layout.EVENT.size), 0, 0.0, (), (), {})


def read_events(capture: Capture) -> Events:
    """
    The events that remain.

    Raises:
        CaptureError: The capture is damaged.
    """
    records = capture.events()
    referred: set[int] = set().union(*map(records.column, ("stack", "release_stack", "holder_stack")))
    return Events(
        records,
        capture.header.first_ticks,
        capture.tick_s,
        threads=[
            (
                record.generation,
                (record.ident, record.native_id, record.start_ticks),
                text(record.label) or capture.string(record.name),
            )
            for record in capture.threads()
        ],
        locks=[OTHER if n == layout.SITE_OTHER else capture.string(s.name) for n, s in enumerate(capture.sites())],
        stacks={stack: capture.stack(stack) for stack in referred},
    )
