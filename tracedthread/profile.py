"""
The model that every report and exporter sees: who waited, where, for how long.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol, TypeVar

from tracedthread import layout
from tracedthread.capture import CUT_OFF, Capture, Frame
from tracedthread.events import NONE, Events, read_events
from tracedthread.histogram import Histogram
from tracedthread.pools import PoolRow, pools_since, read_pools
from tracedthread.rows import (
    NOWHERE,
    OTHER,
    BlameRow,
    Deadlock,
    LockRow,
    StartRow,
    Stats,
    ThreadRow,
    Uncovered,
    Waiting,
    WaitRow,
    fingerprint,
    seconds,
)
from tracedthread.threads import read_starts, read_threads, read_waiting, starts_since, threads_since

SCHEMA = "tracedthread.report/1"

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LAST = datetime.max.replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class Process:
    """
    The recorded process.

    Args:
        program: Its name, without arguments.
        started_ns: When the recording began, since 1970-01-01 UTC.
        state: `running`, `exited`, `killed` or `unknown`, as of Capture.
        start_ticks: The same moment as `started_ns` on the capture's clock.
        bucket_tick_s: A tick as histograms count it: by the calibration at the start, which `tick_s` improves on.
    """

    pid: int
    program: str
    python: str
    started_ns: int
    state: str
    start_ticks: int
    duration_ticks: int
    paused_ticks: int
    tick_s: float
    bucket_tick_s: float

    @property
    def is_cut_off(self) -> bool:
        """Whether it may have gone on unseen: it was killed, or nobody here knows whether it still runs."""
        return self.state in CUT_OFF

    @property
    def duration_s(self) -> float:
        """How long was recorded, pauses included."""
        return seconds(self.duration_ticks, self.tick_s)

    @property
    def paused_s(self) -> float:
        """How much of that recording was paused, or undone."""
        return seconds(self.paused_ticks, self.tick_s)

    @property
    def recorded_s(self) -> float:
        """The rest."""
        return seconds(max(0, self.duration_ticks - self.paused_ticks), self.tick_s)

    @property
    def started(self) -> datetime:
        """When the recording began."""
        # A damaged capture can name any time, and its difference to another one a time beyond the calendar.
        return _EPOCH + min(timedelta(microseconds=min(self.started_ns // 1000, 1 << 62)), _LAST - _EPOCH)

    def to_dict(self) -> dict[str, Any]:
        """The object `process`."""
        return {
            "pid": self.pid,
            "program": self.program,
            "python": self.python,
            "started": self.started.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "duration_s": self.duration_s,
            "paused_s": self.paused_s,
            "state": self.state,
        }


@dataclass(frozen=True)
class Profile:
    """
    What a program's threads waited for. Every list is sorted, worst first.

    Args:
        locks: Every lock that was created or used, by place and name.
        idle: Waiting for work.
        resources: Waiting for a permit or for room.
        uncovered: Locks that are not recorded.
        deadlocks: Noticed by the program's threads, in this order.
        lost: Records that found no room, by section of the capture.
        full: Sections that had no room for something, be it before the profile. Not in the JSON report.
        events: The newest waits that were longer than a threshold, oldest first. Not in the JSON report: too many.
        starts: The audit trail, oldest first; empty unless it was asked for.
        waiting: Waits that are not over, the longest first. Not in the JSON report.
        pools: Thread pools that tasks were submitted to.
    """

    process: Process
    locks: tuple[LockRow, ...]
    idle: tuple[WaitRow, ...]
    resources: tuple[WaitRow, ...]
    threads: tuple[ThreadRow, ...]
    uncovered: tuple[Uncovered, ...]
    lost: Mapping[str, int]
    events: Events = NONE
    starts: tuple[StartRow, ...] = ()
    deadlocks: tuple[Deadlock, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    pools: tuple[PoolRow, ...] = ()
    full: frozenset[str] = frozenset()

    @classmethod
    def from_capture(cls, capture: Capture) -> Profile:
        """
        Read everything that a capture holds.

        Raises:
            CaptureError: The capture is damaged.
        """
        header, tick_s = capture.header, capture.tick_s
        locks, idle, resources = _read_rows(capture)
        return cls(
            process=Process(
                pid=header.pid,
                program=capture.program,
                python=capture.python,
                started_ns=header.first_wall_ns,
                state=capture.state,
                start_ticks=header.first_ticks,
                duration_ticks=capture.end_ticks - header.first_ticks,
                paused_ticks=_paused_ticks(capture),
                tick_s=tick_s,
                bucket_tick_s=header.ns_per_tick / 2**32 * 1e-9,
            ),
            locks=_sorted_locks(locks),
            idle=_sorted_waits(idle),
            resources=_sorted_waits(resources),
            threads=_sorted_threads(read_threads(capture)),
            starts=read_starts(capture),
            uncovered=tuple(_read_uncovered(capture)),
            deadlocks=tuple(_read_deadlocks(capture)),
            lost=capture.lost,
            events=read_events(capture),
            waiting=read_waiting(capture),
            pools=read_pools(capture),
            full=frozenset(name for name, number in capture.lost.items() if number),
        )

    @property
    def totals(self) -> Stats:
        """The sums over all locks; maxima and histograms as well."""
        result = Stats()
        for lock in self.locks:
            result += lock.stats
        return result

    @property
    def blame_s(self) -> float:
        """Time that threads waited because others held a lock."""
        return seconds(sum(row.blame_ticks for lock in self.locks for row in lock.blame), self.process.tick_s)

    @property
    def idle_s(self) -> float:
        """Time spent waiting for work."""
        return seconds(sum(row.wait_ticks for row in self.idle), self.process.tick_s)

    @property
    def resource_s(self) -> float:
        """Time spent waiting for a permit or for room."""
        return seconds(sum(row.wait_ticks for row in self.resources), self.process.tick_s)

    def knows_lifetime(self, row: ThreadRow) -> bool:
        """Whether a thread lived as long as its row says: where the process was cut off, it may have gone on unseen."""
        return not self.process.is_cut_off or row.end_ticks != 0 or row.is_other

    def to_totals(self) -> dict[str, Any]:
        """The object `totals`."""
        totals, tick_s = self.totals, self.process.tick_s
        return {
            "acquisitions": totals.acquisitions,
            "contended": totals.contended,
            "timeouts": totals.timeouts,
            "wait_s": seconds(totals.wait_ticks, tick_s),
            "own_gil_s": seconds(totals.own_gil_ticks, tick_s),
            "blame_s": self.blame_s,
            "gil_s": seconds(totals.gil_ticks, tick_s),
            "handoff_s": seconds(totals.handoff_ticks, tick_s),
            "hold_s": seconds(totals.hold_ticks, tick_s),
            "idle_s": self.idle_s,
            "resource_s": self.resource_s,
            "lost": dict(self.lost),
        }

    def to_dict(self) -> dict[str, Any]:
        """The report as one JSON object, schema `tracedthread.report/1`."""
        return {
            "schema": SCHEMA,
            "process": self.process.to_dict(),
            "totals": self.to_totals(),
            "locks": [row.to_dict() for row in self.locks],
            "idle": [row.to_dict() for row in self.idle],
            "resources": [{**row.to_dict(), "waker": row.waker} for row in self.resources],
            "pools": [row.to_dict() for row in self.pools],
            "threads": [row.to_dict() for row in self.threads],
            "starts": [row.to_dict() for row in self.starts],
            "uncovered": [row.to_dict() for row in self.uncovered],
            "deadlocks": [row.to_dict() for row in self.deadlocks],
        }


def subtract(after: Profile, before: Profile) -> Profile:
    """
    What happened between two profiles of one recording.

    Counts, sums and histograms are exact. Maxima that did not grow are bounded from above: those of locks to within
    12.5 %, those of a single stack by the time it waited.

    Raises:
        ValueError: The profiles are of different recordings.
    """
    if (after.process.pid, after.process.start_ticks) != (before.process.pid, before.process.start_ticks):
        raise ValueError("the profiles are of different recordings")
    tick_s, elapsed = after.process.tick_s, before.process.duration_ticks
    bucket_tick_s = after.process.bucket_tick_s
    return Profile(
        process=replace(
            after.process,
            started_ns=after.process.started_ns + round(elapsed * tick_s * 1e9),
            start_ticks=after.process.start_ticks + elapsed,
            duration_ticks=max(0, after.process.duration_ticks - elapsed),
            paused_ticks=max(0, after.process.paused_ticks - before.process.paused_ticks),
        ),
        locks=_sorted_locks(_subtract_locks(after.locks, before.locks, bucket_tick_s)),
        idle=_sorted_waits(_subtract_waits(after.idle, before.idle)),
        resources=_sorted_waits(_subtract_waits(after.resources, before.resources)),
        threads=_sorted_threads(threads_since(after.threads, before.threads, elapsed)),
        starts=starts_since(after.starts, elapsed),
        uncovered=after.uncovered,
        deadlocks=after.deadlocks[len(before.deadlocks) :],
        lost={name: max(0, count - before.lost.get(name, 0)) for name, count in after.lost.items()},
        events=after.events.since(before.events, elapsed),
        waiting=after.waiting,
        pools=pools_since(after.pools, before.pools, bucket_tick_s),
        full=after.full,
    )


def _paused_ticks(capture: Capture) -> int:
    """The pauses that are over, which the header has, and the one that goes on."""
    header = capture.header
    goes_on = 0 if header.recording else max(0, capture.end_ticks - header.last_ticks)
    return header.paused_ticks + goes_on


def _read_rows(capture: Capture) -> tuple[list[LockRow], list[WaitRow], list[WaitRow]]:
    """The locks, the idle waits and the waits for resources, unsorted."""
    tick_s = capture.tick_s
    sites = [_lock_row(capture, index, site) for index, site in enumerate(capture.sites())]
    contention: dict[int, list[WaitRow]] = {}
    idle: list[WaitRow] = []
    resources: list[WaitRow] = []
    has_other = False
    for index, cell in enumerate(capture.cells()):
        if cell.waits == 0:
            continue
        is_other = index < len(layout.KINDS) and index == cell.kind  # an older capture knows fewer kinds
        kind = layout.KINDS[index if is_other else cell.kind]
        row = WaitRow(
            kind=kind,
            lock=sites[cell.site].name if sites and not is_other else "",
            stack=capture.stack(cell.stack),
            count=cell.waits,
            wait_ticks=cell.wait_ticks,
            own_gil_ticks=cell.own_gil_ticks,
            max_ticks=cell.max_ticks,
            timeouts=cell.timeouts,
            interrupted=cell.interrupted,
            tick_s=tick_s,
            waker=_innermost(capture, cell.waker),
        )
        if kind not in layout.CONTENTION_KINDS:
            (resources if kind in layout.RESOURCE_KINDS else idle).append(row)
        elif is_other:
            has_other = True  # which locks these were for is what is missing of their sites' sums
        else:
            contention.setdefault(cell.site, []).append(row)
    blame, other_blame = _read_blame(capture, sites)
    rows = []
    for index, (lock, stats) in enumerate(zip(sites, capture.stats())):
        if index in (layout.SITE_UNRECORDED, layout.SITE_WAITER):
            continue
        used = replace(
            lock,
            stats=_stats(stats, capture.header.ns_per_tick),
            waits=tuple(contention.get(index, ())),
            blame=tuple(blame.get(index, ())),
        )
        if used.stats or used.waits or used.blame:
            rows.append(_with_other_waits(used) if has_other else used)
    return _merge_locks(_with_other_blame(rows, other_blame)), _merge_waits(idle), _merge_waits(resources)


def _innermost(capture: Capture, stack: int) -> str:
    return str(capture.stack(stack)[0]) if stack else ""


def _read_blame(capture: Capture, sites: list[LockRow]) -> tuple[dict[int, list[BlameRow]], layout.BlameRecord | None]:
    """The rows by site, and the `(other)` cell if anything is in it."""
    rows: dict[int, list[BlameRow]] = {}
    other = None
    for index, cell in enumerate(capture.blame()):
        if not cell.holds and not cell.blame_ticks:
            continue
        if index == 0:
            other = cell
            continue
        row = BlameRow(
            lock=sites[cell.site].name,
            stack=capture.stack(cell.stack),
            holds=cell.holds,
            blame_ticks=cell.blame_ticks,
            max_ticks=cell.max_ticks,
            waiters=cell.waiters,
            tick_s=capture.tick_s,
        )
        rows.setdefault(cell.site, []).append(row)
    return rows, other


def _with_other_blame(locks: list[LockRow], other: layout.BlameRecord | None) -> list[LockRow]:
    """
    Gives back to the locks what found no room: to each what its blame lacks of its sums, as far as the cell goes.

    What also lacks is the share of holds that are not over, so with waits in progress the cell may be spread wrongly.
    """
    left = other.blame_ticks if other else 0
    result = []
    for lock in locks:
        stats = lock.stats
        accounted = stats.own_gil_ticks + stats.gil_ticks + stats.handoff_ticks
        missing = stats.wait_ticks - accounted - sum(row.blame_ticks for row in lock.blame)
        if other and min(missing, left) > 0:
            ticks = min(missing, left)
            left -= ticks
            row = BlameRow(lock.name, (), 0, ticks, min(ticks, other.max_ticks), 0, lock.tick_s)
            lock = replace(lock, blame=(*lock.blame, row))
        result.append(lock)
    return result


def _stats(record: layout.StatsRecord, ns_per_tick: int) -> Stats:
    """One site's counters, with its newest hold, which native code counts only when the next one ends."""
    fields = record._asdict()
    pending = fields.pop("pending_hold")
    del fields["reserved"]
    hold = Histogram.from_bytes(fields.pop("hold_histogram"))
    wait = Histogram.from_bytes(fields.pop("wait_histogram"))
    if pending:
        ticks = layout.pending_ticks(pending)
        fields["hold_ticks"] += ticks
        fields["hold_max_ticks"] = max(fields["hold_max_ticks"], ticks)
        hold = hold.with_one(ticks * ns_per_tick >> 32)
    # A copy of another process's capture can have a hold's end and not its beginning.
    unended = max(0, record.acquisitions - record.holds_untimed - sum(hold.counts))
    return Stats(**fields, unended=unended, hold=hold, wait=wait)


def _lock_row(capture: Capture, index: int, site: layout.SiteRecord) -> LockRow:
    created = Frame(capture.string(site.function), capture.string(site.file), site.line)
    name = capture.string(site.name)
    if index < layout.SITE_FIRST:
        name, created = (OTHER, NOWHERE) if index == layout.SITE_OTHER else ("", created)
    lock_type = layout.LOCK_TYPES[site.type]
    mark = f"{site.fingerprint:016x}" if site.fingerprint else fingerprint(lock_type, name, created)
    return LockRow(name, lock_type, created, Stats(), (), capture.tick_s, fingerprint=mark)


def _with_other_waits(lock: LockRow) -> LockRow:
    """Adds what the lock's waits lack of its sums, which is in the `(other)` cells."""
    stats = lock.stats

    def missing(of_stats: str, of_waits: str) -> int:
        counted: int = getattr(stats, of_stats)
        have: int = sum(getattr(wait, of_waits) for wait in lock.waits)
        return max(0, counted - have)

    other = WaitRow(
        kind=lock.type,
        lock=lock.name,
        stack=(),
        count=missing("contended", "count"),
        wait_ticks=missing("wait_ticks", "wait_ticks"),
        own_gil_ticks=missing("own_gil_ticks", "own_gil_ticks"),
        max_ticks=min(stats.wait_max_ticks, missing("wait_ticks", "wait_ticks")),
        timeouts=missing("timeouts", "timeouts"),
        interrupted=missing("interrupted", "interrupted"),
        tick_s=lock.tick_s,
    )
    return replace(lock, waits=(*lock.waits, other)) if other.count else lock


def _read_deadlocks(capture: Capture) -> Iterable[Deadlock]:
    """The notes that native/deadlock.c writes."""
    for note in capture.notes():
        deadlock = note.get("deadlock")
        if not isinstance(deadlock, dict):
            continue
        length, threads = deadlock.get("length"), deadlock.get("threads")
        if not isinstance(length, int) or not isinstance(threads, list):
            continue
        steps = [
            tuple(_printable(str(step.get(key, ""))) for key in ("thread", "for", "created", "held_by"))
            for step in threads
            if isinstance(step, dict)
        ]
        yield Deadlock(int(length), tuple((thread, lock, made, holder) for thread, lock, made, holder in steps))


def _printable(text: str) -> str:
    # JSON can spell half of a surrogate pair, which no output can encode.
    return "".join(c if c.isprintable() else "?" for c in text.encode("utf-8", "replace").decode())


def _read_uncovered(capture: Capture) -> Iterable[Uncovered]:
    for note in capture.notes():
        what, count, where = note.get("what"), note.get("count"), note.get("where")
        if not isinstance(what, str) or not isinstance(count, int) or not isinstance(where, list):
            continue
        # JSON can spell half of a surrogate pair, which no output can encode.
        what, *names = (text.encode("utf-8", "replace").decode() for text in (what, *map(str, where)))
        yield Uncovered(what, int(count), tuple(names))


class _Keyed(Protocol):
    @property
    def key(self) -> Hashable: ...


_Row = TypeVar("_Row", bound=_Keyed)


def _merge(rows: Iterable[_Row], add: Callable[[_Row, _Row], _Row]) -> list[_Row]:
    merged: dict[Hashable, _Row] = {}
    for row in rows:
        key = row.key  # with a whole stack in it, it takes long to hash
        known = merged.setdefault(key, row)
        if known is not row:
            merged[key] = add(known, row)
    return list(merged.values())


def _merge_waits(rows: Iterable[WaitRow]) -> list[WaitRow]:
    return _merge(rows, WaitRow.__add__)


def _merge_locks(rows: Iterable[LockRow]) -> list[LockRow]:
    # A line that is run again from new code (a reloaded module, exec) is a new site, but the same place.
    merged = _merge(
        rows,
        lambda one, two: replace(
            one, stats=one.stats + two.stats, waits=one.waits + two.waits, blame=one.blame + two.blame
        ),
    )
    return [
        replace(
            row, waits=_sorted_waits(_merge_waits(row.waits)), blame=_sorted_blame(_merge(row.blame, BlameRow.__add__))
        )
        for row in merged
    ]


def _subtract_waits(after: Iterable[WaitRow], before: Iterable[WaitRow]) -> list[WaitRow]:
    known = {row.key: row for row in before}
    rows = [row.since(known[row.key]) if row.key in known else row for row in after]
    return [row for row in rows if row.count]


def _subtract_blame(after: Iterable[BlameRow], before: Iterable[BlameRow]) -> list[BlameRow]:
    known = {row.key: row for row in before}
    rows = [row.since(known[row.key]) if row.key in known else row for row in after]
    return [row for row in rows if row.holds or row.blame_ticks]


def _subtract_locks(after: Iterable[LockRow], before: Iterable[LockRow], bucket_tick_s: float) -> list[LockRow]:
    known = {row.key: row for row in before}
    rows = []
    for row in after:
        if row.key in known:
            old = known[row.key]
            waits = _sorted_waits(_subtract_waits(row.waits, old.waits))
            blame = _sorted_blame(_subtract_blame(row.blame, old.blame))
            row = replace(row, stats=row.stats.since(old.stats, bucket_tick_s), waits=waits, blame=blame)
        if row.stats:
            rows.append(row)
    return rows


def _sorted_locks(rows: Iterable[LockRow]) -> tuple[LockRow, ...]:
    def worst_first(row: LockRow) -> tuple[int, int, int, str]:
        return -row.stats.wait_ticks, -row.stats.waiters, -row.stats.hold_ticks, row.name

    return tuple(sorted(rows, key=worst_first))


def _sorted_waits(rows: Iterable[WaitRow]) -> tuple[WaitRow, ...]:
    return tuple(sorted(rows, key=lambda row: (-row.wait_ticks, -row.count, row.kind, row.stack)))


def _sorted_blame(rows: Iterable[BlameRow]) -> tuple[BlameRow, ...]:
    return tuple(sorted(rows, key=lambda row: (-row.blame_ticks, -row.holds, row.stack)))


def _sorted_threads(rows: Iterable[ThreadRow]) -> tuple[ThreadRow, ...]:
    return tuple(sorted(rows, key=lambda row: (-row.wait_ticks, -row.lifetime_ticks, row.start_ticks, row.name)))
