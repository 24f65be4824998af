"""
Whether a profile keeps to limits: for each limit what was measured, and where.

There are three answers. What cannot be judged is never a pass: a name that selects nothing, a lock that nobody took, a
wait in progress that nobody timed, one of a process that was cut off, data that found no room in the capture and could
change the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches

from tracedthread.capture import Frame
from tracedthread.limits import Limit, is_pattern, selected
from tracedthread.profile import Profile
from tracedthread.rows import NOBODY, OTHER, BlameRow, LockRow, Stats, seconds
from tracedthread.unfinished import Pending

MAX_NAMES = 5
_LARGER = " (record with a larger --capture-size)"


@dataclass(frozen=True)
class Reading:
    """
    What was measured of one lock, or of one function.

    Args:
        value: Seconds, or a share of 1.
        least: The value is at least so large; smaller than the value itself where that is only known to a bucket of the
            histogram, as the longest of all came before the profile.
        lock: None for a function. Its counters include `pending`.
        blame: Of the lock, or of the function, worst first.
        pending: Waits for the lock, and holds of it, that had not ended.
        is_minimum: The value is at least so large: it is that of a process that was cut off while something went on.
    """

    name: str
    place: Frame
    value: float
    least: float
    exceeded: bool
    lock: LockRow | None
    blame: tuple[BlameRow, ...]
    pending: tuple[Pending, ...] = ()
    is_minimum: bool = False


@dataclass(frozen=True)
class Verdict:
    """
    The answer to one limit.

    Args:
        readings: Of all that the limit selects, worst first.
        problem: Why it cannot be judged, one sentence; empty if it can.
        note: What the readings leave out, one sentence; empty if nothing.
    """

    limit: Limit
    readings: tuple[Reading, ...]
    problem: str = ""
    note: str = ""

    @property
    def exceeded(self) -> tuple[Reading, ...]:
        """Those above the limit."""
        return tuple(reading for reading in self.readings if reading.exceeded)


def judge(profile: Profile, limits: Iterable[Limit], pending: Iterable[Pending] = ()) -> list[Verdict]:
    """
    Hold a profile against limits.

    Args:
        pending: What had not ended when the profile was taken. Of that, what was before the profile does not count.
    """
    most = profile.process.duration_ticks
    inside = tuple(replace(one, elapsed_ticks=min(one.elapsed_ticks, most)) for one in pending)
    return [
        _judge_blame(profile, limit, inside) if limit.measure.of == "blame" else _judge_locks(profile, limit, inside)
        for limit in limits
    ]


def was_used(profile: Profile) -> bool:
    """Whether anything was recorded that a limit could be about."""
    return any(map(_was_used, profile.locks))


def _was_used(lock: LockRow) -> bool:
    # In a part of a recording a hold can end that began before.
    return bool(lock.stats.acquisitions or lock.stats.contended or lock.stats.waiters or lock.stats.hold.counts)


def _judge_locks(profile: Profile, limit: Limit, pending: tuple[Pending, ...]) -> Verdict:
    names = selected(limit.name, (lock.name for lock in profile.locks))
    locks = [lock for lock in profile.locks if lock.name in names]
    if not locks:
        return Verdict(limit, (), _without_room(profile, limit) or _unknown_lock(profile, limit))
    readings = []
    problems: list[str] = []
    notes: list[str] = []
    for lock in locks:
        mine = _of_lock(pending, lock)
        reading = _read_lock(lock, limit, mine)
        readings.append(reading)
        if (untimed := _untimed(lock, limit, mine)) > 0 and not reading.exceeded:
            what = f"{untimed} of the {limit.measure.of}s of {lock.name} had not ended, and since when is not known"
            # Locks that are held for good, as a signal, are in every program: a pattern is hardly about them.
            (notes if limit.measure.of == "hold" and is_pattern(limit.name) else problems).append(what)
        if reading.is_minimum and not reading.exceeded:
            problems.append(
                f"a {limit.measure.of} of {lock.name} was in progress when the process was cut off, and how long it "
                "lasted is not known"
            )
        if reading.least <= limit.most < reading.value:
            least, value = (f"{bound * 1e3:.3g} ms" for bound in (reading.least, reading.value))
            problems.append(
                f"the longest {limit.measure.of} of {lock.name} was between {least} and {value}; which is not known, "
                "because a longer one came before"
            )
        if limit.measure.of == "hold" and (number := lock.stats.holds_untimed):
            notes.append(
                f"{number:,} hold{'' if number == 1 else 's'} of {lock.name}, how long is not known: recording was "
                "paused meanwhile, or the lock was dropped or reset while it was held"
            )
    if not any(_was_used(lock) or (limit.measure.of == "hold" and lock.stats.unended) for lock in locks):
        problems.append(f"{_listed(sorted(names))} was created, but nobody has taken it")
    if profile.full & {"sites", "strings"} and any(
        lock.name in ("", OTHER) and _may_hide(lock, limit, _of_lock(pending, lock)) for lock in profile.locks
    ):
        problems.append(
            f"locks found no room in the recording, and one that exceeds the limit may be among them{_LARGER}"
        )
    return _verdict(limit, readings, problems, notes)


def _without_room(profile: Profile, limit: Limit) -> str:
    if not profile.full & {"sites", "strings"}:
        return ""
    number = profile.lost.get("sites", 0)  # counted for each lock that is created
    which = f"{number:,} lock{'' if number == 1 else 's'}" if number else "locks or their names"
    return f"no lock is called {limit.name}, but {which} found no room in the recording{_LARGER}"


def _unknown_lock(profile: Profile, limit: Limit) -> str:
    return _unknown("lock", limit.name, (lock.name for lock in profile.locks))


def _untimed(lock: LockRow, limit: Limit, pending: tuple[Pending, ...]) -> int:
    """Waits or holds, as the limit has it, of which neither the end is known nor the start."""
    in_progress = {"wait": lock.stats.waiters, "hold": lock.stats.unended}.get(limit.measure.of, 0)
    return in_progress - sum(one.of == limit.measure.of and one.is_counted for one in pending)


def _read_lock(lock: LockRow, limit: Limit, pending: tuple[Pending, ...]) -> Reading:
    measure = limit.measure
    attempts = lock.stats.attempts + sum(one.of == "wait" for one in pending)
    lock = replace(lock, stats=_with_pending(lock, pending))
    stats = lock.stats
    if measure.of == "contended":
        value = round(stats.contended / attempts, 12) if attempts else 0.0
    elif measure.percentile is None:
        value = lock.wait_s if measure.of == "wait" else lock.hold_s
    elif measure.percentile == 100:
        value = lock.wait_max_s if measure.of == "wait" else lock.hold_max_s
    else:
        quantile_s = lock.wait_quantile_s if measure.of == "wait" else lock.hold_quantile_s
        value = quantile_s(measure.percentile / 100)
    minimum = any(one.is_minimum and one.of == measure.of for one in pending)
    least = min(value, _least_maximum(lock, measure.of, pending)) if measure.percentile == 100 else value
    return Reading(lock.name, lock.created, value, least, least > limit.most, lock, lock.blame, pending, minimum)


def _least_maximum(lock: LockRow, of: str, pending: tuple[Pending, ...]) -> float:
    """How long the longest was at least, in seconds; infinite where the maximum itself is known."""
    stats = lock.stats
    is_bound, histogram, sum_s = (
        (stats.wait_max_is_bound, stats.wait, lock.wait_s)
        if of == "wait"
        else (stats.hold_max_is_bound, stats.hold, lock.hold_s)
    )
    if not is_bound:
        return float("inf")
    longest = max((one.elapsed_ticks * lock.tick_s for one in pending if one.of == of), default=0.0)
    return max(histogram.floor_ns() * 1e-9, sum_s / sum(histogram.counts), longest)


def _with_pending(lock: LockRow, pending: tuple[Pending, ...]) -> Stats:
    """The lock's counters as if what has not ended had ended when they were read."""
    stats = lock.stats
    for one in pending:
        ticks, ns = one.elapsed_ticks, int(one.elapsed_ticks * lock.tick_s * 1e9)
        if one.of == "wait":
            stats = replace(
                stats,
                contended=stats.contended + 1,
                wait_ticks=stats.wait_ticks + ticks,
                wait_max_ticks=max(stats.wait_max_ticks, ticks),
                wait_max_is_bound=stats.wait_max_is_bound and ticks < stats.wait_max_ticks,
                wait=stats.wait.with_one(ns),
            )
        else:
            stats = replace(
                stats,
                hold_ticks=stats.hold_ticks + ticks,
                hold_max_ticks=max(stats.hold_max_ticks, ticks),
                hold_max_is_bound=stats.hold_max_is_bound and ticks < stats.hold_max_ticks,
                hold=stats.hold.with_one(ns),
            )
    return stats


def _of_lock(pending: tuple[Pending, ...], lock: LockRow) -> tuple[Pending, ...]:
    return tuple(one for one in pending if (one.lock, one.created) == (lock.name, lock.created))


def _may_hide(lock: LockRow, limit: Limit, pending: tuple[Pending, ...]) -> bool:
    """Whether some of the locks that this row sums up can exceed a limit."""
    if limit.measure.is_share:
        return lock.stats.contended > 0
    bound = (
        limit if limit.measure.percentile is None else replace(limit, measure=replace(limit.measure, percentile=100))
    )
    return _read_lock(lock, bound, pending).value > limit.most


def _judge_blame(profile: Profile, limit: Limit, pending: tuple[Pending, ...]) -> Verdict:
    functions: dict[str, list[BlameRow]] = {}
    for row in (row for lock in profile.locks for row in lock.blame if row.is_somebody):
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
    waits = [one for one in pending if one.of == "wait"]
    unknown_s += seconds(sum(wait.elapsed_ticks for wait in waits), profile.process.tick_s)
    if most_s <= limit.most < most_s + unknown_s:
        problems.append(
            f"whose holds caused another {unknown_s:.3g} s of waiting is not known, and with it the limit may be "
            "exceeded"
        )
    elif most_s <= limit.most and any(wait.is_minimum for wait in waits):
        problems.append(
            "a wait was in progress when the process was cut off; how long it lasted, and because of whom, is not known"
        )
    elif most_s <= limit.most and (untimed := sum(lock.stats.waiters for lock in profile.locks) - len(waits)) > 0:
        problems.append(f"{untimed} waits had not ended, and since when is not known")
    return _verdict(limit, readings, problems)


def _unattributed_s(lock: LockRow) -> float:
    """Waiting that nobody known is to blame for: no room, a hold that has not ended, or a capture without blame."""
    known = sum(row.blame_ticks for row in lock.blame if row.is_somebody)
    explained = lock.stats.own_gil_ticks + lock.stats.gil_ticks + lock.stats.handoff_ticks + known
    return seconds(max(0, lock.stats.wait_ticks - explained), lock.tick_s)


def _read_function(name: str, rows: list[BlameRow], limit: Limit) -> Reading:
    value = sum(row.blame_s for row in rows)
    place = rows[0].frame if rows else Frame(name, "", 0)
    worst = tuple(sorted(rows, key=lambda row: -row.blame_ticks))
    return Reading(name, place, value, value, value > limit.most, None, worst)


def _functions_seen(profile: Profile) -> Iterator[str]:
    """Functions that the recording has met elsewhere: as waiters, as creators of locks, further out in a stack."""
    for lock in profile.locks:
        yield lock.created.function
        for stack in (*(row.stack for row in lock.waits), *(row.stack for row in lock.blame)):
            yield from (frame.function for frame in stack)
    for row in (*profile.idle, *profile.resources):
        yield from (frame.function for frame in row.stack)


def _verdict(limit: Limit, readings: list[Reading], problems: list[str], notes: Iterable[str] = ()) -> Verdict:
    readings.sort(key=lambda reading: (-reading.value, reading.name))
    return Verdict(limit, tuple(readings), "; ".join(dict.fromkeys(problems)), "; ".join(notes))


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    if not (names := sorted({one for one in known if one and one not in NOBODY and one != OTHER})):
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
