"""
How a capture is laid out: native/capture.h in Python. A test compares every size, offset and constant with it.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar, cast

from tracedthread.histogram import BUCKETS

MAGIC = b"\x93TTC\r\n\x1a\n"
ABI = 1

STRINGS, FRAMES, STACKS, SITES, STATS, CELLS, THREADS, EVENTS, NOTES, BLAME, STARTS, CONTENDED, TOTALS, POOLS = range(
    14
)
SECTION_NAMES = (
    "strings",
    "frames",
    "stacks",
    "sites",
    "stats",
    "cells",
    "threads",
    "events",
    "notes",
    "blame",
    "starts",
    "contended",
    "totals",
    "pools",
)
SITE_UNRECORDED, SITE_WAITER, SITE_OTHER, SITE_FIRST = range(4)
LOCK_TYPES = ("lock", "rlock")
KINDS = (
    "lock",
    "rlock",
    "condition",
    "event",
    "semaphore",
    "queue.get",
    "queue.put",
    "barrier",
    "future",
    "join",
    "pool",
)
CONTENTION_KINDS = frozenset({"lock", "rlock"})
RESOURCE_KINDS = frozenset({"semaphore", "queue.put", "pool"})
STATE_RUNNING, STATE_EXITED = 1, 2
THREAD_FREE, THREAD_STARTING, THREAD_RUNNING, THREAD_ENDED = range(4)
OUTCOMES = ("acquired", "timeout", "interrupted")
# `used` counts all that were ever written; the newest remain.
RINGS = (EVENTS, STARTS)
RING_NAMES = tuple(SECTION_NAMES[section_id] for section_id in RINGS)


def pending_ticks(pending_hold: int) -> int:
    """How long the hold was that `tt_site_stats.pending_hold`, which is not 0, stands for; its top bit says 0."""
    return pending_hold >> 1 if pending_hold < 1 << 63 else 0


class Section(NamedTuple):
    """One entry of the section table (tt_section)."""

    offset: int
    capacity: int
    used: int
    lost: int
    record_size: int
    id: int


class Header(NamedTuple):
    """The header (tt_header), its anchors spread out."""

    magic: bytes
    abi: int
    header_size: int
    size: int
    section_count: int
    pid: int
    process_start: int
    state: int
    clock_source: int
    ns_per_tick: int
    first_ticks: int
    first_monotonic_ns: int
    first_wall_ns: int
    last_ticks: int
    last_monotonic_ns: int
    last_wall_ns: int
    paused_ticks: int
    generation: int
    recording: int
    program: bytes
    python: bytes
    pid_space: int


def dropped_records(sections: Iterable[Section]) -> dict[str, int]:
    """Records that found no room, by section; of rings, those that newer ones have overwritten."""
    # Sites and stats grow together, and there is always room for the totals.
    return {
        SECTION_NAMES[one.id]: max(0, one.used - one.capacity) if one.id in RINGS else one.lost
        for one in sections
        if one.id < len(SECTION_NAMES) and one.id not in (STATS, TOTALS)
    }


class FrameRecord(NamedTuple):
    """tt_frame."""

    file: int
    function: int
    line: int
    reserved: int


class StackRecord(NamedTuple):
    """tt_stack."""

    caller: int
    frame: int


class SiteRecord(NamedTuple):
    """tt_site."""

    name: int
    file: int
    function: int
    line: int
    type: int
    stack: int
    fingerprint: int


class StatsRecord(NamedTuple):
    """tt_site_stats; the histograms are left as bytes, most are empty."""

    created: int
    destroyed: int
    acquisitions: int
    contended: int
    timeouts: int
    interrupted: int
    failed_tries: int
    hold_ticks: int
    hold_max_ticks: int
    wait_ticks: int
    wait_max_ticks: int
    own_gil_ticks: int
    gil_ticks: int
    handoff_ticks: int
    waiters: int
    pending_hold: int
    hold_histogram: bytes
    wait_histogram: bytes
    holds_untimed: int
    reserved: bytes


class CellRecord(NamedTuple):
    """tt_wait_cell."""

    site: int
    stack: int
    kind: int
    reserved: int
    waits: int  # `count`, which tuples have already
    wait_ticks: int
    own_gil_ticks: int
    max_ticks: int
    timeouts: int
    interrupted: int
    waker: int
    reserved2: int


class BlameRecord(NamedTuple):
    """tt_blame_cell."""

    site: int
    stack: int
    holds: int
    blame_ticks: int
    max_ticks: int
    waiters: int


class ThreadRecord(NamedTuple):
    """tt_thread_record."""

    ident: int
    start_ticks: int
    run_ticks: int
    end_ticks: int
    cpu_ns: int
    wait_ticks: int
    idle_ticks: int
    resource_ticks: int
    own_gil_ticks: int
    native_id: int
    name: int
    function: int
    state: int
    wait_count: int
    generation: int
    parent: int
    parent_generation: int
    stack: int
    wait_since: int
    wait_lock: int
    wait_site: int
    wait_stack: int
    wait_kind: int
    wait_timed: int
    label: bytes
    blamed_ticks: int


class EventRecord(NamedTuple):
    """tt_event."""

    sequence: int
    start_ticks: int
    end_ticks: int
    own_gil_ticks: int
    site: int
    stack: int
    thread: int
    kind: int
    outcome: int
    lock: int
    thread_generation: int
    holder: int
    holder_generation: int
    release_stack: int
    holder_stack: int
    reserved: int
    context: int
    holder_context: int


class StartRecord(NamedTuple):
    """tt_start."""

    sequence: int
    ticks: int
    ident: int
    parent_ident: int
    thread: int
    generation: int
    parent: int
    parent_generation: int
    parent_native_id: int
    function: int
    stack: int
    reserved: int
    label: bytes
    parent_label: bytes
    context: int
    reserved2: int


class ContendedRecord(NamedTuple):
    """tt_contended."""

    lock: int
    held_since: int
    site: int
    type: int
    owner: int
    owner_generation: int
    owner_stack: int
    release_stack: int
    waiters: int
    entered: int


class TotalsRecord(NamedTuple):
    """tt_totals; the histogram is left as bytes."""

    started: int
    start_ticks: int
    begun: int
    ended: int
    start_histogram: bytes
    deadlocks: int = 0


class PoolRecord(NamedTuple):
    """tt_pool; the histogram is left as bytes."""

    name: int
    executors: int
    limit: int
    queued: int
    busy: int
    submitted: int
    ended: int
    dropped: int
    untimed: int
    limit_max: int
    queue_ticks: int
    queue_max_ticks: int
    busy_ticks: int
    full_ticks: int
    queue_histogram: bytes


Record = TypeVar("Record", bound=NamedTuple)


class Layout(Generic[Record]):
    """
    How one kind of record lies in the capture: little-endian, one format per field, without gaps.

    Args:
        record: The class of its records.
        since: Formats of the fields that were added after the first version. An older capture has shorter records, and
            those fields read as zero.
    """

    def __init__(self, name: str, record: type[Record], formats: str, since: str = "") -> None:
        self.name = name
        self.fields = record._fields
        self.make = record._make
        self.formats = [*formats.split(), *since.split()]
        self.struct = struct.Struct("<" + "".join(self.formats))
        self.size = self.struct.size
        self.first_size = struct.calcsize("<" + formats)

    def offsets(self) -> list[int]:
        """The offset of every field, in bytes, in the order of the record's fields."""
        return [struct.calcsize("<" + "".join(self.formats[:index])) for index in range(len(self.formats))]

    def iterate(self, data: bytes, stride: int) -> Iterator[Record]:
        """
        The records in `data`, `stride` bytes apart, at least `first_size`.

        What a newer writer put behind the known fields is skipped.
        """
        if stride < self.size:
            return self._iterate_older(data, stride)
        layout = struct.Struct(f"<{''.join(self.formats)}{stride - self.size}x")
        return map(self.make, layout.iter_unpack(data))

    def _iterate_older(self, data: bytes, stride: int) -> Iterator[Record]:
        known = self.formats[: sum(offset < stride for offset in self.offsets())]
        if struct.calcsize("<" + "".join(known)) > stride:  # the last one is there in part
            known.pop()
        missing = [b"" if form.endswith("s") else 0 for form in self.formats[len(known) :]]
        layout = struct.Struct(f"<{''.join(known)}{stride - struct.calcsize('<' + ''.join(known))}x")
        return (self.make((*fields, *missing)) for fields in layout.iter_unpack(data))

    def read(self, data: bytes | memoryview, offset: int = 0) -> Record:
        """The record at `offset`."""
        return self.make(self.struct.unpack_from(data, offset))


@dataclass(frozen=True)
class Records(Generic[Record]):
    """
    Records of one kind as they lie in the capture. Each is made when it is looked at, for there can be a million.

    Args:
        stride: Bytes from one to the next, as for `Layout.iterate`; a multiple of 8.
    """

    layout: Layout[Record]
    data: bytes
    stride: int

    def __len__(self) -> int:
        return len(self.data) // self.stride

    def __iter__(self) -> Iterator[Record]:
        return self.layout.iterate(self.data, self.stride)

    def __getitem__(self, index: int) -> Record:
        return next(iter(self.pick([range(len(self))[index]])))

    def pick(self, indices: Iterable[int]) -> Records[Record]:
        """The records with these numbers, in this order."""
        data, stride = self.data, self.stride
        picked = b"".join([data[index * stride : (index + 1) * stride] for index in indices])
        return Records(self.layout, picked, stride)

    def rotated(self, first: int) -> Records[Record]:
        """All records, with this one first and those before it last."""
        at = first * self.stride
        return Records(self.layout, self.data[at:] + self.data[:at], self.stride)

    def column(self, field: str) -> array[int]:
        """One number of every record, many times faster than making the records."""
        index = self.layout.fields.index(field)
        offset, form = self.layout.offsets()[index], self.layout.formats[index]
        size = struct.calcsize("<" + form)
        if offset + size > self.stride:  # an older capture
            return array(form, bytes(len(self) * size))
        numbers = memoryview(self.data).cast(cast(Literal["H"], form))  # or another one of H, I and Q
        column = array(form, numbers[offset // size :: self.stride // size].tobytes())
        if sys.byteorder == "big":
            column.byteswap()
        return column


_HISTOGRAM = f"{8 * BUCKETS}s"
HEADER = Layout("tt_header", Header, "8s I I Q I I Q I I Q Q Q Q Q Q Q Q I I 128s 56s Q")
SECTION = Layout("tt_section", Section, "Q Q Q Q I I")
FRAME = Layout("tt_frame", FrameRecord, "I I I I")
STACK = Layout("tt_stack", StackRecord, "I I")
SITE = Layout("tt_site", SiteRecord, "I I I I I I", "Q")
SITE_STATS = Layout("tt_site_stats", StatsRecord, f"{'Q ' * 16}{_HISTOGRAM} {_HISTOGRAM}", "Q 56s")
CELL = Layout("tt_wait_cell", CellRecord, "I I I I Q Q Q Q Q Q", "I I")
BLAME_CELL = Layout("tt_blame_cell", BlameRecord, "I I Q Q Q Q")
THREAD = Layout("tt_thread_record", ThreadRecord, "Q Q Q Q Q Q Q Q Q I I I I", "Q I I I I Q Q I I I I 64s Q")
EVENT = Layout("tt_event", EventRecord, "Q Q Q Q I I I H H Q I I", "I I I I I I")
START = Layout("tt_start", StartRecord, "Q Q Q Q I I I I I I I I 64s 64s", "I I")
CONTENDED_LOCK = Layout("tt_contended", ContendedRecord, "Q Q I I I I I I I I")
TOTALS_RECORD = Layout("tt_totals", TotalsRecord, f"Q Q Q Q {_HISTOGRAM}", "Q")
POOL = Layout("tt_pool", PoolRecord, f"I I {'Q ' * 12}{_HISTOGRAM}")
