"""
The threads of a profile, who started them, and which of them wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tracedthread import layout
from tracedthread.capture import Capture, Frame, text
from tracedthread.rows import NOWHERE, OTHER, StartRow, ThreadRow, Waiting


def read_threads(capture: Capture) -> Iterable[ThreadRow]:
    """The threads of a capture, and `(other)`."""
    first, end = capture.header.first_ticks, capture.end_ticks
    records = list(capture.threads())
    reused = sum(record.generation for record in records)
    for index, record in enumerate(records):
        counted = record.wait_ticks or record.idle_ticks or record.resource_ticks or record.blamed_ticks
        if not (counted or reused if index == 0 else counted or record.state != layout.THREAD_FREE):
            continue
        began = record.run_ticks or record.start_ticks
        parent = records[record.parent] if 0 < record.parent < len(records) else None
        is_parent = parent is not None and parent.generation == record.parent_generation
        yield ThreadRow(
            ident=record.ident,
            native_id=record.native_id,
            name=thread_name(capture, record) if index else OTHER,
            function=capture.string(record.function) if index else OTHER,
            alive=index > 0 and record.end_ticks == 0 and capture.state == "running",
            start_ticks=record.start_ticks,
            end_ticks=record.end_ticks,
            started_ticks=max(0, record.start_ticks - first) if index else 0,
            latency_ticks=max(0, record.run_ticks - record.start_ticks) if record.run_ticks else 0,
            lifetime_ticks=max(0, (record.end_ticks or end) - began) if index else 0,
            cpu_ns=record.cpu_ns,
            wait_ticks=record.wait_ticks,
            idle_ticks=record.idle_ticks,
            resource_ticks=record.resource_ticks,
            own_gil_ticks=record.own_gil_ticks,
            tick_s=capture.tick_s,
            wait_count=record.wait_count,
            threads=1 if index else reused,
            parent=thread_name(capture, parent) if parent is not None and is_parent else "",
            stack=capture.stack(record.stack),
            blamed_ticks=record.blamed_ticks,
        )


def read_waiting(capture: Capture) -> tuple[Waiting, ...]:
    """
    Waits that are not over, the longest first.

    Raises:
        CaptureError: The capture is damaged.
    """
    sites = capture.sites()
    found = []
    for _, record in sorted(capture.waiting(), key=lambda pair: (pair[1].wait_since, pair[0])):
        kind = layout.KINDS[record.wait_kind]
        lock, created = "", NOWHERE
        if kind == "join" or record.wait_site >= len(sites):
            pass
        elif record.wait_site == layout.SITE_OTHER:
            lock = OTHER
        else:
            site = sites[record.wait_site]
            lock = capture.string(site.name)
            created = Frame(capture.string(site.function), capture.string(site.file), site.line)
        # The last sign of life of a process that was cut off is older than its end.
        is_known = not capture.is_cut_off
        found.append(
            Waiting(
                thread=thread_name(capture, record) or f"thread {record.native_id}",
                ident=record.ident,
                kind=kind,
                lock=lock,
                created=created,
                elapsed_ticks=max(0, capture.end_ticks - record.wait_since) if is_known else None,
                stack=capture.stack(record.wait_stack),
                tick_s=capture.tick_s,
            )
        )
    return tuple(found)


def thread_name(capture: Capture, record: layout.ThreadRecord) -> str:
    """The thread's name; in captures of the first layout it is an interned string."""
    return text(record.label) or capture.string(record.name)


def read_starts(capture: Capture) -> tuple[StartRow, ...]:
    """The audit trail, oldest first."""
    return tuple(
        StartRow(
            at_ticks=max(0, record.ticks - capture.header.first_ticks),
            ident=record.ident,
            name=text(record.label),
            function=capture.string(record.function),
            parent=text(record.parent_label),
            parent_ident=record.parent_ident,
            parent_native_id=record.parent_native_id,
            stack=capture.stack(record.stack),
            tick_s=capture.tick_s,
        )
        for record in capture.starts()
    )


def threads_since(after: Iterable[ThreadRow], before: Iterable[ThreadRow], elapsed: int) -> Iterable[ThreadRow]:
    """
    What threads did between two moments of one recording.

    Args:
        elapsed: Ticks from the start of the profile to the first of them.
    """
    known = {row.key: row for row in before}
    rows = list(after)
    # Whose record was used again meanwhile: what it had summed up before is now in `(other)`.
    gone = [known[key] for key in known.keys() - {row.key for row in rows} if not known[key].is_other]
    for row in rows:
        old = known.get(row.key)
        if row.is_other:
            for earlier in [*([old] if old else []), *(replace(one, threads=0) for one in gone)]:
                row = row.less(earlier)
            if row.threads or row.wait_ticks or row.idle_ticks or row.resource_ticks or row.blamed_ticks:
                yield row
        elif old is None:
            yield replace(row, started_ticks=max(0, row.started_ticks - elapsed))
        elif old.end_ticks == 0:
            lifetime_ticks = max(0, row.lifetime_ticks - old.lifetime_ticks)
            yield replace(row.less(old), threads=1, started_ticks=0, latency_ticks=0, lifetime_ticks=lifetime_ticks)


def starts_since(starts: Iterable[StartRow], elapsed: int) -> tuple[StartRow, ...]:
    """The part of the audit trail from `elapsed` ticks on."""
    return tuple(replace(row, at_ticks=row.at_ticks - elapsed) for row in starts if row.at_ticks >= elapsed)
