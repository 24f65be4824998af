"""
Reads what a capture has counted so far, for metrics: sums by lock, time by blamed function, waits for resources, starts
of threads.

That is done often, in the recorded process itself and under its GIL. So nothing else is read: no events, no threads, of
the stacks one frame. What does not change is read once: records of sites and blame cells are never moved.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable

from tracedthread import layout
from tracedthread._core import Core, Unavailable
from tracedthread.capture import MAX_BYTES, CaptureError
from tracedthread.histogram import BUCKETS, index_of
from tracedthread.layout import Section
from tracedthread.rows import OTHER
from tracedthread.tally import LockTally, PoolTally, ResourceTally, Tally, add_to

#: Gives exactly (offset, length) bytes of a capture, or raises CaptureError or OSError.
Read = Callable[[int, int], "bytes | memoryview"]

_HEAD = struct.Struct("<16Q")
_HISTOGRAM_BYTES = 8 * BUCKETS
_CELL_HEAD = struct.Struct("<I4xB7xQQ")  # site, kind, count, wait_ticks
_KIND_AT = 8
_RESOURCES = re.compile(b"[%s]" % re.escape(bytes(map(layout.KINDS.index, layout.RESOURCE_KINDS))))


def read_own(core: Core) -> Read:
    """
    Reads the process's own capture in place; in a forked child, the child's, which lies in the place of its parent's.

    Raises:
        Unavailable: There is none.
    """
    if not core.is_open:
        raise Unavailable("there is no capture")
    memory = memoryview(core.ffi.buffer(core.lib.tt_capture_base(), core.lib.tt_capture_size()))
    return lambda offset, length: memory[offset : offset + length]


def read_descriptor(fd: int, start: int = 0) -> Read:
    """Reads the capture that begins at `start` of an open file, never mapping it."""

    def read(offset: int, length: int) -> bytes:
        data = os.pread(fd, length, start + offset)
        while len(data) < length:
            part = os.pread(fd, length - len(data), start + offset + len(data))
            if not part:
                raise CaptureError(f"truncated while it was read, at byte {offset + len(data)}")
            data += part
        return data

    return read


class Tallier:
    """
    Reads one capture again and again.

    Args:
        in_place: It is the calling process's own, so that no record changes within one call into C; those that are
            as they were last time are not looked at again.
    """

    def __init__(self, read: Read, *, in_place: bool = False) -> None:
        self._read = read
        self._in_place = in_place
        self._forget(None)

    def _forget(self, identity: tuple[int, ...] | None) -> None:
        self.identity = identity
        self._sections: dict[int, Section] = {}
        self._locks: dict[int, tuple[str, str]] = {}
        self._blamed: dict[int, tuple[str, str]] = {0: (OTHER, OTHER)}
        self._known: dict[int, tuple[bytes, LockTally]] = {}

    def tally(self) -> Tally:
        """
        What is counted now.

        Raises:
            CaptureError: It is no capture, or a damaged one.
            OSError: It cannot be read.
        """
        header = layout.HEADER.read(self._read(0, layout.HEADER.size))
        if header.magic != layout.MAGIC or header.abi != layout.ABI or header.ns_per_tick == 0:
            raise CaptureError("not a capture that this tracedthread reads")
        identity = header.pid, header.process_start, header.first_ticks
        if identity != self.identity:  # a forked child's, in the place of its parent's
            self._forget(identity)
        self._sections = self._read_table(header)
        totals = self._read_totals()
        return Tally(
            locks=self._read_locks(header.ns_per_tick),
            blame=self._read_blame(header.ns_per_tick),
            resources=self._read_resources(header.ns_per_tick),
            started=totals.started,
            start_time=totals.start_ticks * header.ns_per_tick,
            start_histogram=_words(totals.start_histogram),
            threads=max(0, totals.begun - totals.ended),
            deadlocks=totals.deadlocks,
            dropped=layout.dropped_records(self._sections.values()),
            start_ns=header.first_wall_ns,
            pools=self._read_pools(header.ns_per_tick),
        )

    def _read_table(self, header: layout.Header) -> dict[int, Section]:
        size = header.section_count * layout.SECTION.size
        if not layout.HEADER.size <= header.header_size <= header.header_size + size <= header.size:
            raise CaptureError("corrupt header")
        found = {}
        for section in layout.SECTION.iterate(bytes(self._read(header.header_size, size)), layout.SECTION.size):
            end = section.offset + section.capacity * section.record_size
            used = min(section.used, section.capacity) * section.record_size
            if end > header.size or used > MAX_BYTES:
                raise CaptureError("corrupt section table")
            found[section.id] = section
        return found

    def _records(self, section_id: int, least: int) -> tuple[bytes | memoryview, int, int]:
        """The bytes of a section's records, how many there are, and how far they lie apart."""
        section = self._sections.get(section_id)
        if section is None:
            return b"", 0, least
        if section.record_size < least or section.record_size % 8:
            raise CaptureError("corrupt section table")
        count = min(section.used, section.capacity)
        return self._read(section.offset, count * section.record_size), count, section.record_size

    def _section(self, section_id: int) -> Section:
        try:
            return self._sections[section_id]
        except KeyError:
            raise CaptureError(f"corrupt section table: no {layout.SECTION_NAMES[section_id]}") from None

    def _record(self, section_id: int, of: layout.Layout[layout.Record], index: int) -> layout.Record:
        section = self._section(section_id)
        if index >= min(section.used, section.capacity) or section.record_size < of.first_size:
            raise CaptureError(f"corrupt {layout.SECTION_NAMES[section_id]}: no record {index}")
        data = self._read(section.offset + index * section.record_size, section.record_size)
        return next(of.iterate(bytes(data), section.record_size))

    def _string(self, reference: int) -> str:
        section = self._section(layout.STRINGS)
        room = min(section.used, section.capacity) - reference - 4
        length = int.from_bytes(self._read(section.offset + reference, 4), "little") if room >= 0 else 0
        if not 0 <= length <= room:
            raise CaptureError(f"corrupt strings: reference {reference}")
        return bytes(self._read(section.offset + reference + 4, length)).decode("utf-8", "replace")

    def _read_locks(self, ns_per_tick: int) -> dict[tuple[str, str], LockTally]:
        data, count, stride = self._records(layout.STATS, layout.SITE_STATS.first_size)
        sites = self._sections.get(layout.SITES)
        locks: dict[tuple[str, str], LockTally] = {}
        for index in range(layout.SITE_OTHER, min(count, sites.used if sites else 0)):
            at = index * stride
            head = bytes(data[at : at + _HEAD.size])
            known = self._known.get(index)
            if known is not None and known[0] == head:
                lock = known[1]
            elif not any(head):
                continue
            else:
                # All of it at once: when the GIL changes hands, what is counted at the beginning and at the end would
                # not fit together, and the next look would find fewer in a bucket.
                record = bytes(data[at : at + stride])
                lock = _lock_tally(record, ns_per_tick)
                if self._in_place:
                    self._known[index] = record[: _HEAD.size], lock
            key = self._locks.get(index) or self._name_lock(index)
            add_to(locks, key, lock)
        return locks

    def _name_lock(self, index: int) -> tuple[str, str]:
        site = self._record(layout.SITES, layout.SITE, index)
        if site.type >= len(layout.LOCK_TYPES):
            raise CaptureError(f"corrupt sites: {index} is of type {site.type}")
        name = OTHER if index == layout.SITE_OTHER else self._string(site.name)
        key = self._locks[index] = name, layout.LOCK_TYPES[site.type]
        return key

    def _read_blame(self, ns_per_tick: int) -> dict[tuple[str, str], int]:
        data, _, stride = self._records(layout.BLAME, layout.BLAME_CELL.first_size)
        # The third word of each: blame_ticks.
        charged = memoryview(data).cast("Q")[2 :: stride // 8].tolist() if data else []
        blame: dict[tuple[str, str], int] = {}
        for index, ticks in enumerate(charged):
            if ticks:
                key = self._blamed.get(index) or self._name_blamed(index)
                blame[key] = blame.get(key, 0) + ticks * ns_per_tick
        return blame

    def _name_blamed(self, index: int) -> tuple[str, str]:
        cell = self._record(layout.BLAME, layout.BLAME_CELL, index)
        name, _ = self._locks.get(cell.site) or self._name_lock(cell.site)
        function = OTHER
        if cell.stack:
            stack = self._record(layout.STACKS, layout.STACK, cell.stack)
            frame = self._record(layout.FRAMES, layout.FRAME, stack.frame)
            function = self._string(frame.function) or "(unknown)"
        key = self._blamed[index] = name, function
        return key

    def _read_resources(self, ns_per_tick: int) -> dict[tuple[str, str], ResourceTally]:
        data, _, stride = self._records(layout.CELLS, layout.CELL.first_size)
        data = bytes(data)  # at once, so that counts and times are of one moment
        resources: dict[tuple[str, str], ResourceTally] = {}
        for found in _RESOURCES.finditer(data[_KIND_AT::stride]):
            at = found.start() * stride
            site, kind, count, ticks = _CELL_HEAD.unpack_from(data, at)
            if count:
                name = (self._locks.get(site) or self._name_lock(site))[0] if site else OTHER
                add_to(resources, (name, layout.KINDS[kind]), ResourceTally(count, ticks * ns_per_tick))
        return resources

    def _read_pools(self, ns_per_tick: int) -> dict[str, PoolTally]:
        data, count, stride = self._records(layout.POOLS, layout.POOL.first_size)
        pools: dict[str, PoolTally] = {}
        for index in range(count):
            # One call into C, as for locks.
            record = layout.POOL.read(bytes(data[index * stride : (index + 1) * stride]))
            if record.submitted:
                queue, histogram = record.queue_ticks * ns_per_tick, _words(record.queue_histogram)
                name = self._string(record.name) if index else OTHER
                pools[name] = PoolTally(queue, histogram, record.queued, record.busy, record.limit)
        return pools

    def _read_totals(self) -> layout.TotalsRecord:
        data, count, stride = self._records(layout.TOTALS, layout.TOTALS_RECORD.first_size)
        if not count:  # of an older version
            return layout.TotalsRecord(0, 0, 0, 0, b"")
        return next(layout.TOTALS_RECORD.iterate(bytes(data), stride))


def _words(histogram: bytes | memoryview) -> int:
    words = int.from_bytes(histogram, "little")
    if words.bit_length() > 64 * BUCKETS - 8:  # so that sums of many still fit
        raise CaptureError("corrupt histogram")
    return words


def _lock_tally(record: bytes, ns_per_tick: int) -> LockTally:
    """One site's counters, with its newest hold, which native code counts only when the next one ends."""
    _, _, acquisitions, contended, timeouts, _, _, hold, _, wait, *rest = _HEAD.unpack_from(record)
    _, own_gil, gil, handoff, waiters, pending = rest
    holds = waits = 0
    if acquisitions:
        holds = _words(record[_HEAD.size : _HEAD.size + _HISTOGRAM_BYTES])
    if contended:
        waits = _words(record[_HEAD.size + _HISTOGRAM_BYTES : _HEAD.size + 2 * _HISTOGRAM_BYTES])
    if pending:
        ticks = layout.pending_ticks(pending)
        hold += ticks
        holds += 1 << 64 * index_of(ticks * ns_per_tick >> 32)
    return LockTally(
        acquisitions,
        contended,
        timeouts,
        hold * ns_per_tick,
        wait * ns_per_tick,
        (own_gil + gil) * ns_per_tick,
        handoff * ns_per_tick,
        holds,
        waits,
        waiters,
    )
