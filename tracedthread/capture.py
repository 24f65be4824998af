"""
The reader of captures, in pure Python: a capture opens on a machine without the native extension.

Nothing in a capture is trusted: what does not add up raises `CaptureError` with one line that says what is wrong.

A capture may be written while it is read. Sections are therefore copied once, those that refer to others first, each
with a fresh `used`: a record is published after what it refers to, so every reference that was copied can be followed.

The file is read with pread, never mapped: a file that shrinks under a mapping kills its reader with SIGBUS, while a
short read is an error like any other. Only what is used is read, so the copy costs a few milliseconds.
"""

from __future__ import annotations

import json
import os
import stat
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from tracedthread import layout
from tracedthread.layout import Layout, Record, Records, Section

T = TypeVar("T")

# The size of the largest capture that is recorded to (`_settings.MAX_CAPTURE_BYTES`; 8 MiB by default). The limit keeps
# a corrupt or hostile file from filling the memory.
MAX_BYTES = 1 << 30
# As deep as the native code walks, and as long as the names that it keeps. A file that was made to unfold to much more
# than its size is cut there.
MAX_STACK_DEPTH = 64
MAX_TEXT = 1024
MAX_SECTIONS = 4096
#: States of processes that never said that they end, and that are not known to run.
CUT_OFF = frozenset({"killed", "unknown"})
# Closer together, the two anchors say less about the clock than the calibration at the start.
MIN_SLOPE_NS = 10_000_000

_KNOWN_SIZES = {
    layout.STRINGS: 1,
    layout.FRAMES: layout.FRAME.first_size,
    layout.STACKS: layout.STACK.first_size,
    layout.SITES: layout.SITE.first_size,
    layout.STATS: layout.SITE_STATS.first_size,
    layout.CELLS: layout.CELL.first_size,
    layout.THREADS: layout.THREAD.first_size,
    layout.EVENTS: layout.EVENT.first_size,
    layout.NOTES: 1,
    layout.BLAME: layout.BLAME_CELL.first_size,
    layout.STARTS: layout.START.first_size,
    layout.CONTENDED: layout.CONTENDED_LOCK.first_size,
    layout.POOLS: layout.POOL.first_size,
}
# Records of these are overwritten.
_READ_TWICE = (*layout.RINGS, layout.THREADS, layout.CONTENDED)
# What refers comes before what it refers to. Stats before sites: a site without stats is new, stats without a site are
# nobody's.
_READ_ORDER = (
    layout.NOTES,
    layout.EVENTS,
    layout.STARTS,
    layout.CONTENDED,
    layout.THREADS,
    layout.CELLS,
    layout.BLAME,
    layout.POOLS,
    layout.STATS,
    layout.SITES,
    layout.STACKS,
    layout.FRAMES,
    layout.STRINGS,
)


class _once(Generic[T]):
    """functools.cached_property without its lock: up to 3.11 that is a lock of the process that is being recorded."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute, self.name = compute, compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, instance: object, owner: type | None = None) -> T:
        value = instance.__dict__[self.name] = self.compute(instance)
        return value


class CaptureError(Exception):
    """The capture cannot be read. The message is one line."""


class Frame(NamedTuple):
    """A place in the code: qualified name, co_filename, line (0 = unknown)."""

    function: str
    path: str
    line: int

    @property
    def file(self) -> str:
        """The file's name without its folders."""
        return self.path.replace("\\", "/").rsplit("/", 1)[-1]

    def __str__(self) -> str:
        return f"{self.function} {self.file}:{self.line}"


class Capture:
    """
    A copy of a capture, checked as it is read.

    Iterating checks references as well, so `CaptureError` can come from every method.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        """
        Args:
            read: Gives exactly (offset, length) bytes of the capture, or raises CaptureError.
            size: Bytes there really are.
        """
        if size == 0:
            raise CaptureError("not a capture: it is empty")
        if read(0, min(size, len(layout.MAGIC))) != layout.MAGIC[:size]:
            raise CaptureError("not a capture")
        if size < layout.HEADER.size:
            raise CaptureError(f"truncated: {size} bytes, the header alone has {layout.HEADER.size}")
        self.header = header = layout.HEADER.read(read(0, layout.HEADER.size))
        if header.abi != layout.ABI:
            raise CaptureError(f"the capture has ABI {header.abi}, this tracedthread reads ABI {layout.ABI}")
        if header.size > size:
            raise CaptureError(f"truncated: {size} of {header.size} bytes")
        if not layout.HEADER.size <= header.header_size <= header.size:
            raise CaptureError(f"corrupt header: header_size {header.header_size}")
        table_size = header.section_count * layout.SECTION.size
        if header.section_count > MAX_SECTIONS or header.header_size + table_size > header.size:
            raise CaptureError(f"corrupt header: {header.section_count} sections")
        if header.state not in (layout.STATE_RUNNING, layout.STATE_EXITED):
            raise CaptureError(f"corrupt header: state {header.state}")
        if header.ns_per_tick == 0:
            raise CaptureError("corrupt header: the clock does not advance (ns_per_tick is 0)")
        self._strings: dict[int, str] = {0: ""}
        self._string_bytes = 0
        self._frames = {0: Frame("(unknown)", "", 0)}
        self._stacks: dict[int, tuple[Frame, ...]] = {0: ()}
        self.sections = self._read_table(read(header.header_size, table_size))
        self._data: dict[int, bytes] = dict.fromkeys(_KNOWN_SIZES, b"")
        self._again: dict[int, bytes] = {}
        self._read_sections(read)
        self._read_monotonic_ns = time.monotonic_ns()
        stacks = self._records(layout.STACKS, layout.STACK)
        self._callers, self._frame_of = stacks.column("caller"), stacks.column("frame")
        self._check_stacks()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Capture:
        """
        Read the capture at `path`.

        Raises:
            OSError: The file cannot be opened or read.
            CaptureError: It is not a capture, or a damaged one.
        """
        # Without O_NONBLOCK, opening a named pipe would wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return cls.from_descriptor(fd)
        finally:
            os.close(fd)

    @classmethod
    def from_descriptor(cls, fd: int) -> Capture:
        """
        Read the capture in an open file, which stays open.

        Raises:
            OSError: It cannot be read.
            CaptureError: It is not a capture, or a damaged one.
        """
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise CaptureError("not a capture: it is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise CaptureError("not a capture: it is not a regular file")
        return cls.from_range(fd, 0, status.st_size)

    @classmethod
    def from_range(cls, fd: int, start: int, size: int) -> Capture:
        """
        Read the capture in `size` bytes of an open file, from `start` on: of /proc/PID/mem, where it is mapped.

        Raises:
            OSError: It cannot be read.
            CaptureError: It is not a capture, or a damaged one.
        """

        def read(offset: int, length: int) -> bytes:
            parts = []
            while length > 0:
                part = os.pread(fd, length, start + offset)
                if not part:
                    raise CaptureError(f"truncated while it was read, at byte {offset}")
                parts.append(part)
                offset += len(part)
                length -= len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)

        return cls(read, size)

    @classmethod
    def from_buffer(cls, buffer: bytes | bytearray | memoryview) -> Capture:
        """
        Read the capture in `buffer`.

        Raises:
            CaptureError: It is not a capture, or a damaged one.
        """
        with memoryview(buffer) as view, view.cast("B") as octets:
            return cls(lambda offset, length: bytes(octets[offset : offset + length]), len(octets))

    def _read_table(self, table: bytes) -> dict[int, Section]:
        """The known sections by id, each checked against the size of the capture."""
        sections: dict[int, Section] = {}
        for section in layout.SECTION.iterate(table, layout.SECTION.size):
            known_size = _KNOWN_SIZES.get(section.id)
            if known_size is None:
                continue  # written by a newer version, which knows what to do with it
            name = layout.SECTION_NAMES[section.id]
            if section.id in sections:
                raise CaptureError(f"corrupt section table: {name} twice")
            if (
                section.record_size < known_size
                or (known_size == 1 and section.record_size != 1)
                or section.record_size % min(known_size, 8)  # as C aligns them
            ):
                raise CaptureError(f"corrupt section table: {name} of {section.record_size} bytes a record")
            end = section.offset + section.capacity * section.record_size
            if section.offset < self.header.header_size + len(table) or end > self.header.size:
                raise CaptureError(f"corrupt section table: {name} lies outside of the capture")
            if section.id not in layout.RINGS and section.used > section.capacity:
                raise CaptureError(f"corrupt section table: {name} uses {section.used} of {section.capacity}")
            sections[section.id] = section
        return sections

    def _read_sections(self, read: Callable[[int, int], bytes]) -> None:
        table_offset, table_size = self.header.header_size, self.header.section_count * layout.SECTION.size
        total = 0
        for section_id in _READ_ORDER:
            fresh = self._read_table(read(table_offset, table_size))
            if section_id not in fresh:
                continue
            section = self.sections[section_id] = fresh[section_id]
            used = min(section.used, section.capacity)
            if section_id == layout.STATS and layout.SITES in fresh:
                used = min(fresh[layout.SITES].used, section.capacity)  # the same index
            length = used * section.record_size
            total += length
            if total > MAX_BYTES:
                raise CaptureError(f"too large: more than {MAX_BYTES >> 20} MiB in use")
            data = self._data[section_id] = read(section.offset, length)
            # A record that is being overwritten looks different the second time.
            if section_id in _READ_TWICE and (again := read(section.offset, length)) != data:
                self._again[section_id] = again

    def _check_stacks(self) -> None:
        """Callers come before their callees, so following them ends."""
        frames = self.count(layout.FRAMES)
        for index, (caller, frame) in enumerate(zip(self._callers, self._frame_of)):
            if caller >= index and (caller or index):
                raise CaptureError(f"corrupt stacks: {index} is called by {caller}")
            if frame >= frames and frame:
                raise CaptureError(f"corrupt stacks: {index} refers to frame {frame} of {frames}")

    def _records(self, section_id: int, layout: Layout[Record]) -> Records[Record]:
        section = self.sections.get(section_id)
        return Records(layout, self._data[section_id], section.record_size if section else layout.size)

    def count(self, section_id: int) -> int:
        """How many records of a section were copied."""
        data = self._data[section_id]
        return len(data) // self.sections[section_id].record_size if data else 0

    def string(self, reference: int) -> str:
        """The string at `reference`; invalid utf-8 is replaced."""
        known = self._strings.get(reference)
        if known is not None:
            return known
        data = self._data[layout.STRINGS]
        start = reference + 4
        if reference % 4 or start > len(data):
            raise CaptureError(f"corrupt strings: reference {reference} of {len(data)}")
        length = int.from_bytes(data[reference:start], "little")
        if start + length > len(data):
            raise CaptureError(f"corrupt strings: {length} bytes at {reference} of {len(data)}")
        # Strings do not overlap. If they did, a small file could unfold to any size.
        self._string_bytes += 4 + length
        if self._string_bytes > len(data):
            raise CaptureError("corrupt strings: they overlap")
        length = min(length, MAX_TEXT)
        text = self._strings[reference] = data[start : start + length].decode("utf-8", "replace")
        return text

    def stack(self, reference: int) -> tuple[Frame, ...]:
        """The call stack at `reference`, innermost first."""
        known = self._stacks.get(reference)
        if known is not None:
            return known
        if reference >= self.count(layout.STACKS):
            raise CaptureError(f"corrupt stacks: reference {reference} of {self.count(layout.STACKS)}")
        # Most stacks that end in a function have their callers in common with others that end there.
        caller = self._callers[reference]
        callers = self._stacks.get(caller)
        if callers is None:
            callers = self._stacks[caller] = tuple(self._walk(caller))
        known = self._stacks[reference] = (self._frame(self._frame_of[reference]), *callers)[:MAX_STACK_DEPTH]
        return known

    def _walk(self, node: int) -> Iterator[Frame]:
        for _ in range(MAX_STACK_DEPTH):
            if node == 0:
                break
            yield self._frame(self._frame_of[node])
            node = self._callers[node]

    def _frame(self, reference: int) -> Frame:
        known = self._frames.get(reference)
        if known is None:
            record = layout.FRAME.read(self._data[layout.FRAMES], reference * self.sections[layout.FRAMES].record_size)
            known = Frame(self.string(record.function) or "(unknown)", self.string(record.file), record.line)
            self._frames[reference] = known
        return known

    def sites(self) -> list[layout.SiteRecord]:
        """Every site, by index."""
        result = list(self._records(layout.SITES, layout.SITE))
        for index, record in enumerate(result):
            if record.type >= len(layout.LOCK_TYPES):
                raise CaptureError(f"corrupt sites: {index} is of type {record.type}")
        return result

    def stats(self) -> Iterable[layout.StatsRecord]:
        """The counters of every site, by index."""
        return self._records(layout.STATS, layout.SITE_STATS)

    def cells(self) -> Iterator[layout.CellRecord]:
        """Every wait cell; the first ones, whose kinds are their indices, are the `(other)` cells, one a kind."""
        sites = self.count(layout.SITES)
        for index, record in enumerate(self._records(layout.CELLS, layout.CELL)):
            if record.site >= sites and record.site:
                raise CaptureError(f"corrupt cells: {index} refers to site {record.site} of {sites}")
            if record.kind >= len(layout.KINDS):
                raise CaptureError(f"corrupt cells: {index} is of kind {record.kind}")
            yield record

    def threads(self) -> Iterator[layout.ThreadRecord]:
        """Every thread record; the first one stands for the threads that have none."""
        stacks = max(1, self.count(layout.STACKS))
        torn = self._torn(layout.THREADS)
        for index, record in enumerate(self._records(layout.THREADS, layout.THREAD)):
            if index in torn:
                size = self.sections[layout.THREADS].record_size
                again = Records(layout.THREAD, self._again[layout.THREADS], size)[index]
                if (again.generation, again.start_ticks) != (record.generation, record.start_ticks):
                    # It is being used again at this moment, and nobody's for now.
                    record = again._replace(state=layout.THREAD_FREE, wait_ticks=0, idle_ticks=0, resource_ticks=0)
            if record.state > layout.THREAD_ENDED:
                raise CaptureError(f"corrupt threads: {index} is in state {record.state}")
            if record.stack >= stacks:
                raise CaptureError(f"corrupt threads: {index} refers to stack {record.stack} of {stacks}")
            yield record

    def waiting(self) -> Iterator[tuple[int, layout.ThreadRecord]]:
        """
        Index and record of every thread that waits, without torn ones.

        A thread that waits does not write to its record, so a torn one does not.
        """
        sites, stacks = max(1, self.count(layout.SITES)), max(1, self.count(layout.STACKS))
        torn = self._torn(layout.THREADS)
        for index, record in enumerate(self.threads()):
            if not (index and record.wait_since and record.state == layout.THREAD_RUNNING) or index in torn:
                continue
            if record.wait_site >= sites or record.wait_stack >= stacks:
                raise CaptureError(f"corrupt threads: {index} refers to what is not there")
            if record.wait_kind >= len(layout.KINDS):
                raise CaptureError(f"corrupt threads: {index} is in a wait of kind {record.wait_kind}")
            yield index, record

    def pools(self) -> Iterable[layout.PoolRecord]:
        """Every thread pool; the first one is `(other)`. None in a capture of an older version."""
        return self._records(layout.POOLS, layout.POOL) if layout.POOLS in self.sections else ()

    def contended(self) -> Iterator[layout.ContendedRecord]:
        """Every lock that somebody waits for, without torn records."""
        counts = (max(1, self.count(of)) for of in (layout.SITES, layout.THREADS, layout.STACKS))
        sites, threads, stacks = counts
        torn = self._torn(layout.CONTENDED)
        for index, record in enumerate(self._records(layout.CONTENDED, layout.CONTENDED_LOCK)):
            if index == 0 or record.lock == 0 or index in torn:
                continue
            stack = max(record.owner_stack, record.release_stack)
            if record.site >= sites or record.owner >= threads or stack >= stacks:
                raise CaptureError(f"corrupt contended: {index} refers to what is not there")
            if record.type >= len(layout.LOCK_TYPES):
                raise CaptureError(f"corrupt contended: {index} is of type {record.type}")
            yield record

    def events(self) -> Records[layout.EventRecord]:
        """The events that remain, oldest first, without torn ones."""
        events = self._ring(layout.EVENTS, layout.EVENT)
        limits = {
            "site": self.count(layout.SITES),
            **dict.fromkeys(("thread", "holder"), self.count(layout.THREADS)),
            **dict.fromkeys(("stack", "release_stack", "holder_stack"), self.count(layout.STACKS)),
            "kind": len(layout.KINDS),
            "outcome": len(layout.OUTCOMES),
        }
        for field, limit in limits.items():
            if (most := max(events.column(field), default=0)) >= max(1, limit):
                raise CaptureError(f"corrupt events: {field} {most} of {limit}")
        return events

    def starts(self) -> Records[layout.StartRecord]:
        """The thread starts of the audit trail that remain, oldest first, without torn ones."""
        starts = self._ring(layout.STARTS, layout.START)
        stacks = self.count(layout.STACKS)
        if (most := max(starts.column("stack"), default=0)) >= max(1, stacks):
            raise CaptureError(f"corrupt starts: stack {most} of {stacks}")
        return starts

    def blame(self) -> Iterator[layout.BlameRecord]:
        """Every blame cell; the first one is the `(other)` cell."""
        sites, stacks = max(1, self.count(layout.SITES)), max(1, self.count(layout.STACKS))
        for index, record in enumerate(self._records(layout.BLAME, layout.BLAME_CELL)):
            if record.site >= sites or record.stack >= stacks:
                raise CaptureError(f"corrupt blame: {index} refers to what is not there")
            yield record

    def _ring(self, section_id: int, of: Layout[Record]) -> Records[Record]:
        """All that are whole, in the order of their `sequence`, which tells the place of each."""
        records, torn = self._records(section_id, of), self._torn(section_id)
        count = len(records)
        if not count:
            return records
        capacity, used = self.sections[section_id].capacity, self.sections[section_id].used
        sequences = records.column("sequence")
        oldest = used % count if used > capacity else 0
        # Unless something was written meanwhile, they are all here; to see that at once matters for a million.
        if not torn and sequences[oldest:] + sequences[:oldest] == array("Q", range(used - count + 1, used + 1)):
            return records.rotated(oldest)
        whole = [
            slot
            for slot, sequence in enumerate(sequences)
            if sequence and (sequence - 1) % capacity == slot and slot not in torn
        ]
        whole.sort(key=sequences.__getitem__)
        return records.pick(whole)

    def _torn(self, section_id: int) -> set[int]:
        """Records that were overwritten while they were copied."""
        if section_id not in self._again:
            return set()
        first, second, size = self._data[section_id], self._again[section_id], self.sections[section_id].record_size
        return {at // size for at in range(0, len(first), size) if first[at : at + size] != second[at : at + size]}

    def notes(self) -> Sequence[dict[str, object]]:
        """What was noted: JSON objects. Malformed ones are passed over."""
        return self._notes

    @_once
    def _notes(self) -> list[dict[str, object]]:
        data, result = self._data[layout.NOTES], []
        at = 0
        while at + 4 <= len(data):
            length = int.from_bytes(data[at : at + 4], "little")
            if not length:  # nobody writes an empty one
                break
            text = data[at + 4 : at + 4 + length]
            at += 4 + (length + 3) // 4 * 4
            try:
                note = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(note, dict):
                result.append(note)
        return result

    @property
    def lost(self) -> dict[str, int]:
        """Records that found no room, by section; of events and starts, those that newer ones have overwritten."""
        none = dict.fromkeys((name for name in layout.SECTION_NAMES if name not in ("stats", "totals")), 0)
        return none | layout.dropped_records(self.sections.values())

    @property
    def program(self) -> str:
        """The program's name."""
        return text(self.header.program)

    @property
    def python(self) -> str:
        """The interpreter's version."""
        return text(self.header.python)

    @_once
    def state(self) -> str:
        """
        `running`, `exited`, `killed` or `unknown`.

        `killed`: it never said that it ends, and there is no such process any more. `unknown`: it never did, and
        whether it runs cannot be told here: its number is one of another machine or container, or of before a reboot.
        """
        if self.header.state == layout.STATE_EXITED:
            return "exited"
        if self.header.pid_space not in (0, _pid_space()):
            return "unknown"
        return "running" if _is_alive(self.header.pid, self.header.process_start) else "killed"

    @property
    def is_cut_off(self) -> bool:
        """Whether it never said that it ends: then it lasted at least until its newest time stamp."""
        return self.state in CUT_OFF

    @property
    def may_run(self) -> bool:
        """Whether another copy may tell more."""
        return self.state in ("running", "unknown")

    def of_running(self) -> Capture:
        """The same, of a process that is known to run, wherever its number is from."""
        if self.header.state != layout.STATE_EXITED:
            self.__dict__["state"] = "running"
        return self

    @_once
    def tick_s(self) -> float:
        """
        Seconds a tick: the slope between the two anchors, if they lie apart far enough and are not absurd.

        The calibration at the start is short, so the slope is the better value as soon as there is one.
        """
        header = self.header
        calibrated = header.ns_per_tick / 2**32
        elapsed_ns = header.last_monotonic_ns - header.first_monotonic_ns
        elapsed_ticks = header.last_ticks - header.first_ticks
        if elapsed_ns >= MIN_SLOPE_NS and elapsed_ticks > 0:
            slope = elapsed_ns / elapsed_ticks
            if 0.8 < slope / calibrated < 1.25:
                return slope * 1e-9
        return calibrated * 1e-9

    @_once
    def read_ticks(self) -> int:
        """When this copy was made, if the process runs on this machine."""
        now_ns = self._read_monotonic_ns - self.header.first_monotonic_ns
        return self.header.first_ticks + int(now_ns * 1e-9 / self.tick_s)

    @_once
    def end_ticks(self) -> int:
        """
        When the recording ended: of a running process now; of one that was cut off the newest time stamp.

        Such a process may have lived on without writing any, so that this is the earliest it can have ended.
        """
        header = self.header
        end = max(header.first_ticks, header.last_ticks)
        if self.state == "running":
            end = max(end, self.read_ticks)
        elif self.is_cut_off:
            end = max(end, *self._stamps())
        return end

    def _stamps(self) -> Iterator[int]:
        yield 0
        for thread in self.threads():
            yield max(thread.start_ticks, thread.run_ticks, thread.end_ticks, thread.wait_since)
        yield from (lock.held_since for lock in self.contended())
        yield from self.starts().column("ticks")
        yield from self.events().column("end_ticks")


def text(field: bytes) -> str:
    """A NUL-terminated field; invalid utf-8 is replaced."""
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")


def _pid_space() -> int:
    """What native/segment.c hashes to tell whose process numbers are whose; -1 if that cannot be known."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            data = file.read() + os.readlink(b"/proc/self/ns/pid")
    except OSError:
        return -1
    value = 14695981039346656037
    for byte in data:
        value = (value ^ byte) * 1099511628211 & (1 << 64) - 1
    return value


def _is_alive(pid: int, start: int) -> bool:
    """Whether the process `pid` that started at `start` (field 22 of its stat) runs on this machine."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, field 2, is in parentheses and may hold anything, also parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return not os.path.exists("/proc/self/stat")  # without /proc nobody knows
    except OSError:
        return True
    # A zombie has ended, only its parent has not looked yet.
    return len(fields) > 19 and fields[19] == b"%d" % start and fields[0] not in (b"Z", b"X")
