"""
What a recording of a service teaches, in plain sentences: who is to blame that requests are slow, and what shows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracedthread.export.findings import blamed_by_place, summed_by_place
from tracedthread.export.units import count, duration, percent

if TYPE_CHECKING:
    from tracedthread.capture import Frame
    from tracedthread.profile import Profile
    from tracedthread.rows import LockRow, ThreadRow, WaitRow

#: Of the time recorded: with less waiting than this, all threads together, nobody is to blame for slow requests.
MUCH_WAITING = 0.05
#: A wait that the user of a service can tell from none. Waits are that long on average where somebody is to blame.
NOTICEABLE_S = 0.020
# Of the waiting for locks. It is a lower bound: who lacks the GIL inside a hold is charged as a holder.
MUCH_GIL = 1 / 3
# Of the time recorded. A thread that used the processor less is not what the GIL was busy with; if those that used it
# more did so for less than MUCH_COMPUTING together, the GIL was mostly free. With a busy GIL few waits may tell of it:
# others hardly come to where they would wait, and who lacks it inside a hold looks like a holder.
MUCH_CPU = 0.05
MUCH_COMPUTING = 0.3
MAX_ROWS = 3
_SLOWER = 2.0  # than in the healthy run, at least
_LIBRARY = re.compile(r"/lib/python3\.\d+/(?!site-packages/|dist-packages/)|/sqlalchemy/")


@dataclass(frozen=True)
class Verdict:
    """
    Who is to blame.

    Args:
        kind: `nobody`, `holder` (of a lock), `gil` or `pool`.
        culprit: The function that held the lock, `the GIL`, or where the connections come from; empty for nobody.
        of: The name of the lock that most waiting was for; empty where it was for none.
        lines: What shows it.
    """

    kind: str
    culprit: str
    of: str
    lines: tuple[str, ...]


def judge(profile: Profile) -> Verdict:
    """The one cause of most waiting in `profile`, if there is much."""
    enough_s = max(MUCH_WAITING * profile.process.duration_s, NOTICEABLE_S)
    pool = _pool_waits(profile)
    pool_s = sum(row.wait_s for row in pool)
    lock_s = sum(lock.wait_s for lock in profile.locks)
    gil_s = sum(lock.own_gil_s + lock.gil_s for lock in profile.locks)
    worst = max(profile.locks, key=lambda lock: lock.wait_s, default=None)
    if pool_s >= enough_s and pool_s > lock_s:
        return _pool(pool, lock_s)
    computing = _computing(profile)
    if worst is not None and sum(computing.values()) >= MUCH_COMPUTING * profile.process.duration_s:
        return _gil(computing, worst, gil_s, lock_s)
    if worst is None or lock_s < enough_s or worst.wait_s < NOTICEABLE_S * worst.stats.contended:
        most = f", {duration(worst.wait_s)} of it for {worst.name}" if worst is not None and worst.wait_s else ""
        waited = f"Of {duration(profile.process.duration_s)}, threads waited {duration(lock_s)} for locks{most}."
        return Verdict("nobody", "", "", (waited,))
    if gil_s >= MUCH_GIL * lock_s:
        if profile.threads and not computing:
            return _starved(gil_s, lock_s)
        return _gil(computing, worst, gil_s, lock_s)
    return _holder(worst)


def _holder(lock: LockRow) -> Verdict:
    culprits = [row for row in blamed_by_place(lock.blame) if row.stack]
    victims = summed_by_place(lock.waits)[:1]
    lines = [
        (
            f"{count(lock.stats.contended, 'wait')} for {lock.name} took {duration(lock.wait_s)}, the longest "
            f"{duration(lock.wait_max_s)}; {percent(lock.own_gil_s + lock.gil_s, lock.wait_s)} of that was the GIL."
        )
    ]
    lines += [f"Most of it in {_place(row.frame)}, {count(row.count, 'wait')}." for row in victims]
    if not culprits:
        return Verdict("holder", "", lock.name, (*lines, "Who held it meanwhile is not recorded."))
    culprit = culprits[0]
    half, longest = lock.hold_quantile_s(0.5), lock.hold_max_s
    lines += [
        (
            f"{percent(culprit.blame_s, lock.wait_s)} is charged to {_place(culprit.frame)}, which held it "
            f"{count(culprit.holds, 'time')} while others waited."
        ),
        (
            f"Half of all holds were over within {duration(half)}, the longest took {duration(longest)}: look there "
            "for what could be done after letting go, such as a call to another service, a file or a long loop."
        ),
    ]
    return Verdict("holder", culprit.frame.function, lock.name, tuple(lines))


def _starved(gil_s: float, lock_s: float) -> Verdict:
    line = (
        f"{percent(gil_s, lock_s)} of {duration(lock_s)} of waiting for locks was for the GIL, but no thread computed "
        "for long: those that had it were short of processors."
    )
    return Verdict("nobody", "", "", (line,))


def _gil(computing: dict[ThreadRow, float], worst: LockRow, gil_s: float, lock_s: float) -> Verdict:
    lines = [
        (
            f"{percent(gil_s, lock_s)} of {duration(lock_s)} of waiting for locks was for the GIL alone: the lock was "
            "the waiter's already, or its owner could not go on with it yet. In a hold that has begun this is not "
            "seen, so that is the least it can be, and who holds a lock is not what to look at."
        ),
        f"{worst.name}: {duration(worst.wait_s)}, {percent(worst.own_gil_s + worst.gil_s, worst.wait_s)} the GIL.",
    ]
    busy = _busy(computing)
    if busy:
        lines.append(f"Who had the GIL when is not recorded, but who used the processor: {'; '.join(busy)}.")
    else:
        lines.append("Who had the GIL is not recorded; look for threads that only compute.")
    return Verdict("gil", "the GIL", worst.name, tuple(lines))


def _computing(profile: Profile) -> dict[ThreadRow, float]:
    """Seconds that threads used the processor which used it much; not the main one's: the program's start is in it."""
    enough_s = MUCH_CPU * profile.process.duration_s
    cpu_s = {thread: (thread.cpu_ns or 0) * 1e-9 for thread in profile.threads if thread.function}
    return {thread: used_s for thread, used_s in cpu_s.items() if used_s >= enough_s}


def _busy(computing: dict[ThreadRow, float]) -> list[str]:
    """Their processor time by what they were started with, most first."""
    cpu_s: dict[str, list[float]] = {}
    for thread, used_s in computing.items():
        cpu_s.setdefault(thread.function, []).append(used_s)
    worst = sorted(cpu_s.items(), key=lambda item: -sum(item[1]))
    return [f"{count(len(each), 'thread')} of {function}, {duration(sum(each))}" for function, each in worst[:MAX_ROWS]]


def _pool(waits: Sequence[WaitRow], lock_s: float) -> Verdict:
    by_place: dict[Frame, list[WaitRow]] = {}
    for row in waits:
        by_place.setdefault(_own(row), []).append(row)
    worst = sorted(by_place.items(), key=lambda item: -sum(row.wait_s for row in item[1]))
    whose = _library(waits[0])
    lines = [
        (
            f"{count(sum(row.count for row in waits), 'wait')} for a connection of {whose} took "
            f"{duration(sum(row.wait_s for row in waits))}, the longest {duration(max(row.max_s for row in waits))}; "
            f"all waiting for locks took {duration(lock_s)}."
        )
    ]
    lines += [
        f"{_place(frame)}: {count(sum(row.count for row in rows), 'wait')}, {duration(sum(r.wait_s for r in rows))}."
        for frame, rows in worst[:MAX_ROWS]
    ]
    lines.append(
        "Who had the connections meanwhile is not recorded, but it is these places that take them: give the pool more, "
        "or give them back before slow work."
    )
    return Verdict("pool", whose, "", tuple(lines))


def _pool_waits(profile: Profile) -> list[WaitRow]:
    """Waits for a connection, worst first."""
    rows = [row for row in profile.resources if row.kind == "pool"]
    return sorted(rows, key=lambda row: -row.wait_ticks)


def _library(row: WaitRow) -> str:
    """Whose pool it is: the method's class that waits longest outside of the pool's queue, as in `QueuePool`."""
    for frame in row.stack:
        name, _, method = frame.function.rpartition(".")
        if name and method and name != "Queue":
            return f"the {name}"
    return "a pool"


def _own(row: WaitRow) -> Frame:
    """The program's frame, not the library's that waits for it."""
    return next((frame for frame in row.stack if not _LIBRARY.search(frame.path)), row.frame)


def _place(frame: Frame) -> str:
    return f"{frame.function} ({frame.file}:{frame.line})"


def slowed(now: Mapping[str, float], healthy: Mapping[str, float]) -> list[str]:
    """
    Endpoints that take far longer than they did, the worst first.

    Args:
        now, healthy: Seconds that 99 of 100 requests did not exceed, by endpoint.
    """
    worse = [
        (after_s / before_s, endpoint, after_s, before_s)
        for endpoint, after_s in now.items()
        if (before_s := healthy.get(endpoint, 0.0)) and after_s > max(_SLOWER * before_s, NOTICEABLE_S)
    ]
    return [
        f"{endpoint} {duration(after_s)} ({duration(before_s)} when healthy)"
        for _ratio, endpoint, after_s, before_s in sorted(worse, reverse=True)
    ]


def headline(verdict: Verdict) -> str:
    """Who is to blame, in one line."""
    if verdict.kind == "nobody":
        return "Nobody is to blame: no lock and no pool made requests slow."
    if verdict.kind == "gil":
        return f"To blame: the GIL, not a holder of {verdict.of}."
    if verdict.kind == "pool":
        return f"To blame: {verdict.culprit}, which has too few connections."
    return f"To blame: {verdict.culprit or 'a holder that is not recorded'}, which holds {verdict.of}."


def paragraphs(verdict: Verdict, slow: Iterable[str]) -> list[str]:
    """The story: what is slow, who is to blame, what shows it."""
    slow = list(slow)
    first = [f"Slow, by p99: {', '.join(slow)}."] if slow else []
    return [*first, headline(verdict), *verdict.lines]
