"""
What a profile says in plain words: a few sentences, the most important first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from typing import TypeVar

from tracedthread.capture import Frame
from tracedthread.export.units import count, duration, percent
from tracedthread.profile import Profile
from tracedthread.rows import OTHER, BlameRow, LockRow, WaitRow

MAX_SENTENCES = 3
# Of all the time waited.
WORTH_A_SENTENCE = 0.01
# Of the time waited for one lock: less is not worth asking about.
MUCH_GIL = 0.1
# A lock that is held this long at a time is worth a line even if nobody waited yet.
LONG_HOLD_S = 0.01


def findings(profile: Profile) -> list[str]:
    """Sentences about a profile; names are in backquotes."""
    sentences = _blames(profile)
    sentences += _waits(profile, most=1 if sentences else MAX_SENTENCES)
    sentences += [_much_gil(lock) for lock in profile.locks[:1] if _has_much_gil(lock)]
    sentences += [_hold(lock, profile) for lock in profile.locks[:1] if is_held_long(lock)]
    sentences += [_waiting_now(lock) for lock in profile.locks if lock.stats.waiters]
    contended = profile.totals.contended or any(lock.stats.waiters for lock in profile.locks)
    return sentences if contended else [_nobody_waited(profile), *sentences]


def _blames(profile: Profile) -> list[str]:
    blames = [(row, lock) for lock in profile.locks for row in blamed_by_place(lock.blame)]
    blames.sort(key=lambda pair: -pair[0].blame_ticks)
    enough = WORTH_A_SENTENCE * sum(row.blame_ticks for row, _ in blames)
    return [
        _blame(row, lock) for row, lock in blames[:MAX_SENTENCES] if row.blame_ticks >= enough or row is blames[0][0]
    ]


def _waits(profile: Profile, *, most: int) -> list[str]:
    waits = [(row, lock) for lock in profile.locks for row in summed_by_place(lock.waits)]
    waits.sort(key=lambda pair: -pair[0].wait_ticks)
    enough = WORTH_A_SENTENCE * sum(row.wait_ticks for row, _ in waits)
    return [_wait(row, lock) for row, lock in waits[:most] if row.wait_ticks >= enough or row is waits[0][0]]


def is_held_long(lock: LockRow) -> bool:
    """Whether the lock is at times held for long."""
    return lock.hold_max_s >= LONG_HOLD_S


def summed_by_place(rows: Iterable[WaitRow]) -> list[WaitRow]:
    """Rows of one kind, lock and innermost frame as one, worst first; the stack is cut down to that frame."""
    return sorted(_by_place(rows, WaitRow.__add__), key=lambda row: (-row.wait_ticks, row.kind, row.stack))


def blamed_by_place(rows: Iterable[BlameRow]) -> list[BlameRow]:
    """Rows of one lock and innermost frame as one, worst first; the stack is cut down to that frame."""
    return sorted(_by_place(rows, BlameRow.__add__), key=lambda row: (-row.blame_ticks, row.stack))


_Row = TypeVar("_Row", WaitRow, BlameRow)


def _by_place(rows: Iterable[_Row], add: Callable[[_Row, _Row], _Row]) -> list[_Row]:
    places: dict[Hashable, _Row] = {}
    for row in rows:
        key = (row.kind if isinstance(row, WaitRow) else "", row.lock, row.stack[:1])
        known = places.get(key)
        places[key] = row if known is None else add(known, row)
    return [replace(row, stack=row.stack[:1]) if len(row.stack) > 1 else row for row in places.values()]


def _name(lock: LockRow) -> str:
    if lock.name == OTHER:
        return "locks without a row of their own"
    return f"`{lock.name}`" if lock.name else f"the lock created at {lock.created.file}:{lock.created.line}"


def _place(stack: tuple[Frame, ...]) -> str:
    return f"`{stack[0].function}` ({stack[0].file}:{stack[0].line})" if stack else "Code with no row of its own"


def _blame(row: BlameRow, lock: LockRow) -> str:
    """As in: `slow_report` held `_lock` 15 times while others wanted it and made 3 threads wait 5.4 s, 120 ms each."""
    sentence = f"{_place(row.stack)} held {_name(lock)}"
    if row.holds:
        sentence += f" {count(row.holds, 'time')} while others wanted it"
    sentence += f" and made {_waiters(row)} wait {duration(row.blame_s)}"
    if row.waiters > 1:
        sentence += f", {duration(row.blame_s / row.waiters)} each time"
    gil_s = lock.own_gil_s + lock.gil_s
    if gil_s:
        return f"{sentence}; {percent(gil_s, lock.wait_s)} of all waiting for it was the GIL."
    return sentence + "."


def _waiters(row: BlameRow) -> str:
    """How many threads waited at a time."""
    if not row.holds or not row.waiters:
        return "threads"
    at_a_time = row.waiters / row.holds
    nearest = max(1, round(at_a_time))
    return ("" if abs(at_a_time - nearest) < 0.05 else "about ") + count(nearest, "thread")


def _has_much_gil(lock: LockRow) -> bool:
    return lock.gil_s + lock.own_gil_s >= MUCH_GIL * lock.wait_s > 0


def _much_gil(lock: LockRow) -> str:
    """Where a faster holder would not help."""
    both = percent(lock.gil_s + lock.own_gil_s, lock.wait_s)
    return (
        f"{both} of the waiting for {_name(lock)} was for the GIL: its owner waited for it for "
        f"{percent(lock.gil_s, lock.wait_s)}, the waiters themselves for {percent(lock.own_gil_s, lock.wait_s)}. "
        "Threads that only compute cause that."
    )


def _wait(row: WaitRow, lock: LockRow) -> str:
    sentence = f"{_place(row.stack)} waited {duration(row.wait_s)} in {count(row.count, 'wait')} for {_name(lock)}"
    if row.own_gil_ticks:
        return f"{sentence}; {percent(row.own_gil_s, row.wait_s)} of that was the GIL."
    return sentence + "."


def _hold(lock: LockRow, profile: Profile) -> str:
    longest = duration(lock.hold_max_s)
    sentence = f"{_name(lock)} was held for up to {longest} at a time"
    held, lasted = lock.hold_s, profile.process.duration_s
    if lock.stats.created == 1 and 0 < held <= lasted:
        sentence += f" and for {percent(held, lasted)} of the time altogether"
    return sentence[0].upper() + sentence[1:] + "."


def _waiting_now(lock: LockRow) -> str:
    threads = count(lock.stats.waiters, "thread")
    return f"{threads} still waited for {_name(lock)} when this was read."


def _nobody_waited(profile: Profile) -> str:
    totals = profile.totals
    used = sum(1 for lock in profile.locks if lock.stats.acquisitions)
    if not used:
        return "No lock was used."
    return (
        f"No thread had to wait for a lock: {count(totals.acquisitions, 'acquisition')} of locks created at "
        f"{count(used, 'place')}, none contended."
    )
