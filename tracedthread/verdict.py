"""
Whether a profile keeps to limits: for each limit what was measured, and where.

There are three answers. What cannot be judged is never a pass: a name that selects nothing, a lock that nobody took, a
wait in progress that nobody timed, data that found no room in the capture and could change the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches

from tracedthread import layout
from tracedthread.capture import Capture, Frame
from tracedthread.deadlock import Cycle, confirmed, cycles, waits
from tracedthread.limits import Limit, selected
from tracedthread.profile import Profile
from tracedthread.rows import OTHER, BlameRow, LockRow, seconds
from tracedthread.threads import thread_name

MAX_NAMES = 5
_LARGER = " (record with a larger --capture-size)"


@dataclass(frozen=True)
class Pending:
    """A wait for a lock that was in progress when the capture was read."""

    lock: str
    created: Frame
    thread: str
    elapsed_ticks: int
    stack: tuple[Frame, ...]


@dataclass(frozen=True)
class Reading:
    """
    What was measured of one lock, or of one function.

    Args:
        value: Seconds, or a share of 1.
        lock: None for a function. Its counters include the waits in `pending`.
        blame: Of the lock, or of the function, worst first.
        pending: Waits for the lock in progress.
    """

    name: str
    place: Frame
    value: float
    exceeded: bool
    lock: LockRow | None
    blame: tuple[BlameRow, ...]
    pending: tuple[Pending, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """
    The answer to one limit.

    Args:
        readings: Of all that the limit selects, worst first.
        problem: Why it cannot be judged, one sentence; empty if it can.
    """

    limit: Limit
    readings: tuple[Reading, ...]
    problem: str = ""

    @property
    def exceeded(self) -> tuple[Reading, ...]:
        """Those above the limit."""
        return tuple(reading for reading in self.readings if reading.exceeded)


def pending_waits(capture: Capture) -> tuple[Pending, ...]:
    """
    The waits for locks that were in progress, as far as the capture says since when.

    Raises:
        CaptureError: The capture is damaged.
    """
    sites = capture.sites()
    result = []
    for _, record in capture.waiting():
        if layout.KINDS[record.wait_kind] not in layout.CONTENTION_KINDS or record.wait_site >= len(sites):
            continue
        site = sites[record.wait_site]
        result.append(
            Pending(
                lock=capture.string(site.name),
                created=Frame(capture.string(site.function), capture.string(site.file), site.line),
                thread=thread_name(capture, record),
                elapsed_ticks=max(0, capture.end_ticks - record.wait_since),
                stack=capture.stack(record.wait_stack),
            )
        )
    return tuple(result)


def judge(profile: Profile, limits: Iterable[Limit], pending: Iterable[Pending] = ()) -> list[Verdict]:
    """
    Hold a profile against limits.

    Args:
        pending: What was in progress when the profile was taken.
    """
    waiting = tuple(pending)
    return [
        _judge_blame(profile, limit, waiting) if limit.measure.of == "blame" else _judge_locks(profile, limit, waiting)
        for limit in limits
    ]


def was_used(profile: Profile) -> bool:
    """Whether anything was recorded that a limit could be about."""
    return any(lock.stats.acquisitions or lock.stats.contended or lock.stats.waiters for lock in profile.locks)


def _judge_locks(profile: Profile, limit: Limit, pending: tuple[Pending, ...]) -> Verdict:
    names = selected(limit.name, (lock.name for lock in profile.locks))
    locks = [lock for lock in profile.locks if lock.name in names]
    if not locks:
        return Verdict(limit, (), _unknown("lock", limit.name, (lock.name for lock in profile.locks)))
    readings = []
    problems: list[str] = []
    for lock in locks:
        mine = tuple(wait for wait in pending if (wait.lock, wait.created) == (lock.name, lock.created))
        readings.append(_read_lock(lock, limit, mine))
        untimed = lock.stats.waiters - len(mine)
        if untimed > 0 and limit.measure.of == "wait" and not readings[-1].exceeded:
            problems.append(f"{untimed} of the waits for {lock.name} had not ended, and since when is not known")
    if not any(lock.stats.acquisitions or lock.stats.contended or lock.stats.waiters for lock in locks):
        problems.append(f"{_listed(sorted(names))} was created, but nobody has taken it")
    if (profile.lost.get("sites") or profile.lost.get("strings")) and any(
        lock.name in ("", OTHER) and _may_hide(lock, limit) for lock in profile.locks
    ):
        problems.append(
            f"locks found no room in the recording, and one that exceeds the limit may be among them{_LARGER}"
        )
    return _verdict(limit, readings, problems)


def _read_lock(lock: LockRow, limit: Limit, pending: tuple[Pending, ...]) -> Reading:
    stats, measure = lock.stats, limit.measure
    if pending:
        ticks = [wait.elapsed_ticks for wait in pending]
        wait = stats.wait
        for elapsed in ticks:
            wait = wait.with_one(int(elapsed * lock.tick_s * 1e9))
        stats = replace(
            stats,
            contended=stats.contended + len(ticks),
            wait_ticks=stats.wait_ticks + sum(ticks),
            wait_max_ticks=max(stats.wait_max_ticks, *ticks),
            wait=wait,
        )
        lock = replace(lock, stats=stats)
    if measure.of == "contended":
        tries = max(stats.acquisitions, stats.contended)
        value = round(stats.contended / tries, 12) if tries else 0.0
    elif measure.percentile is None:
        value = lock.wait_s if measure.of == "wait" else lock.hold_s
    elif measure.percentile == 100:
        value = lock.wait_max_s if measure.of == "wait" else lock.hold_max_s
    else:
        quantile_s = lock.wait_quantile_s if measure.of == "wait" else lock.hold_quantile_s
        value = quantile_s(measure.percentile / 100)
    return Reading(lock.name, lock.created, value, value > limit.most, lock, lock.blame, pending)


def _may_hide(lock: LockRow, limit: Limit) -> bool:
    """Whether some of the locks that this row sums up can exceed a limit."""
    if limit.measure.is_share:
        return lock.stats.contended > 0
    bound = (
        limit if limit.measure.percentile is None else replace(limit, measure=replace(limit.measure, percentile=100))
    )
    return _read_lock(lock, bound, ()).exceeded


def _judge_blame(profile: Profile, limit: Limit, pending: tuple[Pending, ...]) -> Verdict:
    functions: dict[str, list[BlameRow]] = {}
    for row in (row for lock in profile.locks for row in lock.blame if row.stack):
        functions.setdefault(row.frame.function, []).append(row)
    names = selected(limit.name, functions)
    if not names and limit.name != "*":
        known = {*functions, *_functions_seen(profile)}
        if not (names := selected(limit.name, known)):
            why = _unknown("function", limit.name, known)
            return Verdict(limit, (), f"{why} (a function that made nobody wait leaves no trace; `*` stands for any)")
    readings = [_read_function(name, functions.get(name, []), limit) for name in names]
    problems = []
    most_s = max((reading.value for reading in readings), default=0.0)
    unknown_s = sum(map(_unattributed_s, profile.locks))
    unknown_s += seconds(sum(wait.elapsed_ticks for wait in pending), profile.process.tick_s)
    if most_s <= limit.most < most_s + unknown_s:
        problems.append(
            f"whose holds caused another {unknown_s:.3g} s of waiting is not known, and with it the limit may be "
            "exceeded"
        )
    elif most_s <= limit.most and (untimed := sum(lock.stats.waiters for lock in profile.locks) - len(pending)) > 0:
        problems.append(f"{untimed} waits had not ended, and since when is not known")
    return _verdict(limit, readings, problems)


def _unattributed_s(lock: LockRow) -> float:
    """Waiting that nobody known is to blame for: no room, a hold that has not ended, or a capture without blame."""
    known = sum(row.blame_ticks for row in lock.blame if row.stack)
    explained = lock.stats.own_gil_ticks + lock.stats.gil_ticks + lock.stats.handoff_ticks + known
    return seconds(max(0, lock.stats.wait_ticks - explained), lock.tick_s)


def _read_function(name: str, rows: list[BlameRow], limit: Limit) -> Reading:
    value = sum(row.blame_s for row in rows)
    place = rows[0].frame if rows else Frame(name, "", 0)
    worst = tuple(sorted(rows, key=lambda row: -row.blame_ticks))
    return Reading(name, place, value, value > limit.most, None, worst)


def _functions_seen(profile: Profile) -> Iterator[str]:
    """Functions that the recording has met elsewhere: as waiters, as creators of locks, further out in a stack."""
    for lock in profile.locks:
        yield lock.created.function
        for stack in (*(row.stack for row in lock.waits), *(row.stack for row in lock.blame)):
            yield from (frame.function for frame in stack)
    for row in (*profile.idle, *profile.resources):
        yield from (frame.function for frame in row.stack)


def _verdict(limit: Limit, readings: list[Reading], problems: list[str]) -> Verdict:
    readings.sort(key=lambda reading: (-reading.value, reading.name))
    return Verdict(limit, tuple(readings), "; ".join(dict.fromkeys(problems)))


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    if not (names := sorted({one for one in known if one and one != OTHER})):
        return f"no {what} is called {name}: none was recorded"
    last_parts = {one.rpartition(".")[2]: one for one in names}
    close = [
        *get_close_matches(name, names, MAX_NAMES),
        *get_close_matches(name.rpartition(".")[2], last_parts, MAX_NAMES),
    ]
    close = list(dict.fromkeys(last_parts.get(one, one) for one in close))[:MAX_NAMES]
    hint = f"did you mean {_listed(close, ' or ')}?" if close else f"there are {_listed(names)}"
    return f"no {what} is called {name}; {hint}"


def _listed(names: list[str], between: str = ", ") -> str:
    more = f", … ({len(names)} in all)" if len(names) > MAX_NAMES else ""
    return between.join(names[:MAX_NAMES]) + more


def deadlocks(capture: Capture, again: Capture | None = None) -> list[str]:
    """
    The deadlocks that the process noticed itself, or that it was in when the capture was read; one sentence each.

    Args:
        again: A later copy of the capture of a process that runs: a deadlock is what both copies have.
    Raises:
        CaptureError: A capture is damaged.
    """
    noticed = [
        sentence
        for note in (again or capture).notes()
        if "deadlock" in note and (sentence := _noticed(note["deadlock"]))
    ]
    found = cycles(waits(capture))
    if capture.state == "running":
        found = confirmed(found, cycles(waits(again))) if again is not None else []
    now = [_cycle(cycle) for cycle in found if cycle.is_deadlock]
    return list(dict.fromkeys([*noticed, *now]))


def _cycle(cycle: Cycle) -> str:
    return _chain((wait.thread.name, wait.what, wait.blocker.name if wait.blocker else "") for wait in cycle.waits)


def _noticed(note: object) -> str:
    """A note of the form that native/deadlock.c writes."""
    edges = note.get("threads") if isinstance(note, dict) else None
    if not isinstance(edges, list):
        return "a deadlock was noticed"
    return _chain(
        (str(edge.get("thread")), str(edge.get("for")), str(edge.get("held_by")))
        for edge in edges
        if isinstance(edge, dict)
    )


def _chain(edges: Iterable[tuple[str, str, str]]) -> str:
    return "deadlock: " + ", ".join(f"{thread} waits for {what} of {holder}" for thread, what, holder in edges)
