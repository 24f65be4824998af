"""
What is new in the capture of this very process: single waits and thread starts, read in place, without a copy.

A `Live` knows how far it has read. A look that finds nothing new costs two numbers; what names and stacks mean is
worked out once.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from tracedthread import layout
from tracedthread._core import Core, Unavailable
from tracedthread.capture import MAX_STACK_DEPTH, CaptureError, Frame, text
from tracedthread.layout import Layout, Record, Section
from tracedthread.ticks import Clock

__all__ = ["NOBODY", "Live", "LiveEvent", "LiveStart", "Place", "Who"]

_U64 = struct.Struct("<Q")
_USED_OFFSET = layout.SECTION.offsets()[Section._fields.index("used")]
_TOLD_KINDS = layout.CONTENTION_KINDS | layout.RESOURCE_KINDS


class Place(NamedTuple):
    """
    A lock's name, where such locks are created, and `lock` or `rlock`.

    `created` has no function for `(other)`: locks whose place found no room.
    """

    name: str
    created: Frame
    type: str


class Who(NamedTuple):
    """
    A thread.

    Args:
        ident: As `threading.get_ident`; 0: not known, or its record has been used again since.
    """

    ident: int
    name: str


NOBODY = Who(0, "")


class LiveEvent(NamedTuple):
    """
    A wait that is over. Stacks are innermost first, and empty if nobody looked.

    Args:
        kind, outcome: As in `layout.KINDS` and `layout.OUTCOMES`.
        start_ns, end_ns: Unix time.
        own_gil_s: The last part of it, during which only the GIL was missing.
        holder: Who released the lock last, or, after a timeout, had it. Of a permit or of room: who gave it.
        holder_stack: Where the holder was when the wait began.
        context, holder_context: Numbers of what was noted for them (`_types.take_contexts`); 0: nothing.
    """

    lock: Place
    kind: str
    outcome: str
    start_ns: int
    end_ns: int
    own_gil_s: float
    waiter: Who
    stack: tuple[Frame, ...]
    holder: Who
    release_stack: tuple[Frame, ...]
    holder_stack: tuple[Frame, ...]
    context: int
    holder_context: int

    @property
    def wait_s(self) -> float:
        """How long it was."""
        return (self.end_ns - self.start_ns) * 1e-9


class LiveStart(NamedTuple):
    """
    A thread was started (only while the audit trail is kept).

    Args:
        function: Qualified name of what it runs.
        stack: Where it was started, innermost first.
        context: Number of what was noted for the thread that started it; 0: nothing.
    """

    time_ns: int
    thread: Who
    function: str
    parent: Who
    stack: tuple[Frame, ...]
    context: int


class Live:
    """
    Reads on from where the capture is now.

    In a forked child, whose capture is another one at the same address, make a new one.

    Attributes:
        missed_events, missed_starts: Overwritten before they were read, of whatever kind.

    Raises:
        Unavailable: This process has no capture.
        CaptureError: The native code is older than this package.
    """

    def __init__(self, core: Core) -> None:
        if not core.is_open:
            raise Unavailable("there is no capture")
        self._core = core
        # Never unmapped, and never moved.
        self._view = memoryview(core.ffi.buffer(core.lib.tt_capture_base(), core.lib.tt_capture_size())).toreadonly()
        self._sections: dict[int, Section] = {}
        self._used_at: dict[int, int] = {}
        header = self._header()
        for index in range(header.section_count):
            at = header.header_size + index * layout.SECTION.size
            section = layout.SECTION.read(self._view, at)
            self._sections[section.id] = section
            self._used_at[section.id] = at + _USED_OFFSET
        for section_id, of in ((layout.EVENTS, layout.EVENT), (layout.STARTS, layout.START)):
            if self._sections[section_id].record_size < of.size:
                raise CaptureError(f"the native code knows a shorter {of.name}: install it again")
        self._clock = Clock(header)
        self._read_to = {section_id: self._used(section_id) for section_id in (layout.EVENTS, layout.STARTS)}
        self.missed_events = self.missed_starts = 0
        self._frames: dict[int, Frame] = {}
        self._stacks: dict[int, tuple[Frame, ...]] = {0: ()}
        self._places: dict[int, Place] = {}

    @property
    def unread_events(self) -> int:
        """How many there are that have not been read, of whatever kind."""
        return self._used(layout.EVENTS) - self._read_to[layout.EVENTS]

    def new_events(self) -> list[LiveEvent]:
        """
        Waits for locks, permits and room that have ended since the last call and passed the event threshold.

        Idle waiting is no event here. Oldest first.
        """
        events: list[LiveEvent] = []
        if not self.unread_events:
            return events
        self._synchronise()
        known: dict[tuple[int, int], Who] = {}
        unix_ns, stack, who = self._clock.unix_ns, self._stack, self._who
        records, missed = self._new(layout.EVENTS, layout.EVENT)
        for record in records:
            kind = layout.KINDS[record.kind]
            if kind not in _TOLD_KINDS:
                continue
            start_ns = unix_ns(record.start_ticks)
            event = LiveEvent(
                self._place(record.site),
                kind,
                layout.OUTCOMES[record.outcome],
                start_ns,
                max(start_ns, unix_ns(record.end_ticks)),
                self._clock.seconds(record.own_gil_ticks),
                who(record.thread, record.thread_generation, known),
                stack(record.stack),
                who(record.holder, record.holder_generation, known),
                stack(record.release_stack),
                stack(record.holder_stack),
                record.context,
                record.holder_context,
            )
            events.append(event)
        self.missed_events += missed
        return events

    def new_starts(self) -> list[LiveStart]:
        """Threads started since the last call, oldest first."""
        starts: list[LiveStart] = []
        if self._used(layout.STARTS) == self._read_to[layout.STARTS]:
            return starts
        self._synchronise()
        records, missed = self._new(layout.STARTS, layout.START)
        for record in records:
            start = LiveStart(
                self._clock.unix_ns(record.ticks),
                Who(record.ident, text(record.label)),
                self._string(record.function),
                Who(record.parent_ident, text(record.parent_label)),
                self._stack(record.stack),
                record.context,
            )
            starts.append(start)
        self.missed_starts += missed
        return starts

    def _header(self) -> layout.Header:
        return layout.HEADER.read(self._view)

    def _synchronise(self) -> None:
        self._core.types.anchor_capture()
        self._clock.advance(self._header())

    def _used(self, section_id: int) -> int:
        used: int = _U64.unpack_from(self._view, self._used_at[section_id])[0]
        return used

    def _new(self, section_id: int, of: Layout[Record]) -> tuple[list[Record], int]:
        """The records of a ring that have not been read yet, and how many of them are overwritten already."""
        section = self._sections[section_id]
        begin, used = self._read_to[section_id], self._used(section_id)
        self._read_to[section_id] = used
        records = []
        for index in range(max(begin, used - section.capacity), used):
            record = of.read(self._view, section.offset + index % section.capacity * section.record_size)
            if record[0] == index + 1:  # its sequence
                records.append(record)
        return records, used - begin - len(records)

    def _who(self, index: int, generation: int, known: dict[tuple[int, int], Who]) -> Who:
        """The thread of a record, if it still is; names may change, so they are `known` for one look only."""
        who = known.get((index, generation))
        if who is None:
            section = self._sections[layout.THREADS]
            record = layout.THREAD.read(self._view, section.offset + index * section.record_size)
            is_same = index > 0 and record.generation == generation
            who = known[index, generation] = Who(record.ident, text(record.label)) if is_same else NOBODY
        return who

    def _place(self, index: int) -> Place:
        place = self._places.get(index)
        if place is None:
            section = self._sections[layout.SITES]
            record = layout.SITE.read(self._view, section.offset + index * section.record_size)
            created = Frame(self._string(record.function), self._string(record.file), record.line)
            place = Place(self._string(record.name), created, layout.LOCK_TYPES[record.type])
            self._places[index] = place
        return place

    def _stack(self, reference: int) -> tuple[Frame, ...]:
        stack = self._stacks.get(reference)
        if stack is None:
            offset = self._sections[layout.STACKS].offset
            frames: list[Frame] = []
            node = reference
            while node and len(frames) < MAX_STACK_DEPTH:
                record = layout.STACK.read(self._view, offset + node * layout.STACK.size)
                frames.append(self._frame(record.frame))
                node = record.caller
            stack = self._stacks[reference] = tuple(frames)
        return stack

    def _frame(self, reference: int) -> Frame:
        frame = self._frames.get(reference)
        if frame is None:
            offset = self._sections[layout.FRAMES].offset
            record = layout.FRAME.read(self._view, offset + reference * layout.FRAME.size)
            function = self._string(record.function) or "(unknown)"
            frame = self._frames[reference] = Frame(function, self._string(record.file), record.line)
        return frame

    def _string(self, reference: int) -> str:
        start = self._sections[layout.STRINGS].offset + reference
        length = int.from_bytes(self._view[start : start + 4], "little")
        return str(self._view[start + 4 : start + 4 + length], "utf-8", "replace")
