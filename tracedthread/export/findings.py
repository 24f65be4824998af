"""
What a profile says in plain words: a few sentences, the most important first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from tracedthread.export.open_waits import (
    are_longer,
    deadlock_sentences,
    idle_sentences,
    permit_sentences,
    permits_take_longer,
    wait_sentences,
)
from tracedthread.export.phrases import lock_phrase, place_phrase, sentence
from tracedthread.export.pools import pool_sentences
from tracedthread.export.units import count, duration, percent
from tracedthread.profile import Profile
from tracedthread.rows import BlameRow, LockRow, WaitRow

MAX_SENTENCES = 3
# Of all the time waited.
WORTH_A_SENTENCE = 0.01
# Of the time waited for one lock: less is not worth asking about.
MUCH_GIL = 0.1
# A lock that is held this long at a time is worth a line even if nobody waited yet.
LONG_HOLD_S = 0.01
# For permits and for room: less is not worth a line even if nobody waited for a lock.
MUCH_WAITING_S = 0.001
# What ends a recording pauses it for microseconds.
MUCH_PAUSE_S = 0.001


def findings(profile: Profile) -> list[str]:
    """Sentences about a profile; names are in backquotes."""
    sentences = _blames(profile)
    sentences += _waits(profile, most=1 if sentences else MAX_SENTENCES)
    open_waits = wait_sentences(profile)
    sentences += [_much_gil(lock) for lock in profile.locks[:1] if _has_much_gil(lock)]
    sentences += [_hold(lock, profile) for lock in profile.locks[:1] if is_held_long(lock)]
    sentences = [*open_waits, *sentences] if are_longer(profile) else [*sentences, *open_waits]
    if not (profile.totals.contended or open_waits or profile.deadlocks):
        sentences.insert(0, _nobody_waited(profile))
    permits = permit_sentences(profile)
    sentences = [*permits, *sentences] if permits_take_longer(profile) else [*sentences, *permits]
    return [
        *pause_sentences(profile),
        *deadlock_sentences(profile),
        *_resources(profile),
        *pool_sentences(profile),
        *sentences,
        *idle_sentences(profile),
    ]


def pause_sentences(profile: Profile) -> list[str]:
    """That recording was paused, if it was for long enough to matter."""
    process = profile.process
    if process.paused_s < MUCH_PAUSE_S:
        return []
    paused = f"{duration(process.paused_s)} of {duration(process.duration_s)}"
    return [f"Recording was paused for {paused}; what happened then is not in these numbers."]


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
    return sorted(_by_place(rows, WaitRow.plus), key=lambda row: (-row.wait_ticks, row.kind, row.stack))


def blamed_by_place(rows: Iterable[BlameRow]) -> list[BlameRow]:
    """Rows of one lock and innermost frame as one, worst first; the stack is cut down to that frame."""
    return sorted(_by_place(rows, BlameRow.plus), key=lambda row: (-row.blame_ticks, row.stack))


_Row = TypeVar("_Row", WaitRow, BlameRow)


def _by_place(rows: Iterable[_Row], plus: Callable[[_Row, Sequence[_Row]], _Row]) -> list[_Row]:
    places: dict[Hashable, list[_Row]] = {}
    for row in rows:
        key = (row.kind if isinstance(row, WaitRow) else "", row.lock, row.stack[:1])
        places.setdefault(key, []).append(row)
    sums = (plus(of[0], of[1:]) if len(of) > 1 else of[0] for of in places.values())
    return [replace(row, stack=row.stack[:1]) if len(row.stack) > 1 else row for row in sums]


def knows_waiters(row: BlameRow, lock: LockRow) -> bool:
    """Whether it can be told to a tenth how many threads waited at a time: one who gave up may have waited again."""
    return 0 < row.holds >= 10 * lock.stats.gave_up


def _name(lock: LockRow) -> str:
    return lock_phrase(lock.name, lock.created)


def _blame(row: BlameRow, lock: LockRow) -> str:
    """As in: `f` held `_lock` 15 times while others wanted it: 3 threads waited at a time on average, 5.4 s in all."""
    text = f"{place_phrase(row.stack)} held {_name(lock)}"
    if row.holds:
        text += f" {count(row.holds, 'time')} while others wanted it"
    gil_s = lock.own_gil_s + lock.gil_s
    gil = f"; {percent(gil_s, lock.wait_s)} of all waiting for it was the GIL" if gil_s else ""
    return sentence(f"{text} and made {_waiters(row, lock)}{gil}")


def _waiters(row: BlameRow, lock: LockRow) -> str:
    """Whom a row's holds made wait, for how long in all."""
    if row.waiters < row.holds or not knows_waiters(row, lock):
        return f"threads wait {duration(row.blame_s)} in all"
    if row.holds == 1:
        return f"{count(row.waiters, 'thread')} wait {duration(row.blame_s)}" + (" in all" if row.waiters > 1 else "")
    average = f"{row.waiters / row.holds:.1f}".removesuffix(".0")
    if row.waiters == row.holds:
        return f"1 thread wait at a time, {duration(row.blame_s)} in all"
    return f"on average {average} threads wait at a time, {duration(row.blame_s)} in all"


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
    text = f"{place_phrase(row.stack)} waited {duration(row.wait_s)} in {count(row.count, 'wait')} for {_name(lock)}"
    if row.own_gil_ticks:
        text += f"; for {percent(row.own_gil_s, row.wait_s)} of that it had the lock, but not the GIL"
    return sentence(text)


def _hold(lock: LockRow, profile: Profile) -> str:
    text = f"{_name(lock)} was held for up to {duration(lock.hold_max_s)} at a time"
    held, lasted = lock.hold_s, profile.process.recorded_s
    # How long a process lasted that was cut off is not known, only its last sign of life.
    if lock.stats.created == 1 and 0 < held <= lasted and not profile.process.is_cut_off:
        text += f" and for {percent(held, lasted)} of the time altogether"
    return sentence(text)


def _resources(profile: Profile) -> list[str]:
    """More waiting for permits and for room than for locks, and the place where most of it was."""
    waited, for_locks = profile.resource_s, profile.totals.wait_ticks * profile.process.tick_s
    if waited < MUCH_WAITING_S or waited <= for_locks:
        return []
    worst = summed_by_place(profile.resources)[0]
    of_what = f" for `{worst.lock}`" if worst.lock else ""
    where = f"{duration(worst.wait_s)} of it in {place_phrase(worst.stack)}, in {count(worst.count, 'wait')}{of_what}"
    more = f"more than for locks ({duration(for_locks)})"
    return [f"Threads waited {duration(waited)} for permits or for room, {more}: {where} ({worst.kind})."]


def _nobody_waited(profile: Profile) -> str:
    totals = profile.totals
    used = sum(1 for lock in profile.locks if lock.stats.acquisitions)
    if not used:
        return "No lock was used."
    return (
        f"No thread had to wait for a lock: {count(totals.acquisitions, 'acquisition')} of locks created at "
        f"{count(used, 'place')}, none contended."
    )
