"""
What a profile says in plain words: a few sentences, the most important first.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace

from tracedthread.export.units import count, duration, percent
from tracedthread.profile import Profile
from tracedthread.rows import OTHER, LockRow, WaitRow

MAX_SENTENCES = 3
# Of all the time waited.
WORTH_A_SENTENCE = 0.01
# A lock that is held this long at a time is worth a line even if nobody waited yet.
LONG_HOLD_S = 0.01


def findings(profile: Profile) -> list[str]:
    """Sentences about a profile; names are in backquotes."""
    waits = [(row, lock) for lock in profile.locks for row in summed_by_place(lock.waits)]
    waits.sort(key=lambda pair: -pair[0].wait_ticks)
    enough = WORTH_A_SENTENCE * sum(row.wait_ticks for row, _ in waits)
    sentences = [_wait(row, lock) for row, lock in waits[:MAX_SENTENCES] if row.wait_ticks >= enough]
    sentences += [_hold(lock, profile) for lock in profile.locks[:1] if is_held_long(lock)]
    sentences += [_waiting_now(lock) for lock in profile.locks if lock.stats.waiters]
    contended = profile.totals.contended or any(lock.stats.waiters for lock in profile.locks)
    return sentences if contended else [_nobody_waited(profile), *sentences]


def is_held_long(lock: LockRow) -> bool:
    """Whether the lock is at times held for long."""
    return lock.hold_max_s >= LONG_HOLD_S


def summed_by_place(rows: Iterable[WaitRow]) -> list[WaitRow]:
    """Rows of one kind, lock and innermost frame as one, worst first; the stack is cut down to that frame."""
    places: dict[Hashable, WaitRow] = {}
    for row in rows:
        row = replace(row, stack=row.stack[:1])
        places[row.key] = places[row.key] + row if row.key in places else row
    return sorted(places.values(), key=lambda row: (-row.wait_ticks, row.kind, row.stack))


def _name(lock: LockRow) -> str:
    if lock.name == OTHER:
        return "locks without a row of their own"
    return f"`{lock.name}`" if lock.name else f"the lock created at {lock.created.file}:{lock.created.line}"


def _wait(row: WaitRow, lock: LockRow) -> str:
    place = (
        f"`{row.frame.function}` ({row.frame.file}:{row.frame.line})" if row.stack else "Code with no row of its own"
    )
    sentence = f"{place} waited {duration(row.wait_s)} in {count(row.count, 'wait')} for {_name(lock)}"
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
