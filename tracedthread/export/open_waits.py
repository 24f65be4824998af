"""
What had not ended when a recording was read, in plain words: deadlocks, and waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tracedthread.export.phrases import lock_phrase, place_phrase, sentence
from tracedthread.export.units import count, duration
from tracedthread.layout import CONTENTION_KINDS, RESOURCE_KINDS
from tracedthread.profile import Profile
from tracedthread.rows import OTHER, Deadlock, Waiting

MAX_WAITS = 3
# What a wait is for, and where its lock's name is of use.
_GOALS = {
    "condition": "a notification",
    "event": "the event",
    "semaphore": "a permit",
    "queue.get": "an item",
    "queue.put": "room",
    "barrier": "the others",
    "future": "a result",
    "join": "the end of a thread",
    "pool": "a connection",
}
_OF = {
    "condition": "of",
    "event": "",
    "semaphore": "of",
    "queue.get": "of",
    "queue.put": "in",
    "barrier": "at",
    "pool": "of",
}


def deadlock_sentences(profile: Profile) -> list[str]:
    """One of each deadlock, and where its threads stand as far as that is known."""
    result = []
    for deadlock in profile.deadlocks:
        standing = [
            f"`{wait.thread}` in {place_phrase(wait.stack)}" + ("" if wait.elapsed_s is None else f" for {_long(wait)}")
            for wait in _waits_of(deadlock, profile)
            if wait.stack
        ]
        where = f" Where they stand: {', '.join(standing)}." if standing else ""
        result.append(f"Deadlock: {deadlock}.{where}")
    return result


def wait_sentences(profile: Profile) -> list[str]:
    """The longest waits for locks one by one, the others by their number; without those of deadlocks."""
    told = {wait.key for deadlock in profile.deadlocks for wait in _waits_of(deadlock, profile)}
    known = [wait for wait in profile.waiting if wait.kind in CONTENTION_KINDS]
    shown = [wait for wait in known if wait.key not in told][:MAX_WAITS]
    result = [_wait(wait, profile.process.state) for wait in shown]
    told |= {wait.key for wait in shown}
    named = Counter((wait.lock, wait.created) for wait in known if wait.key in told)
    for lock in profile.locks:
        listed = named[lock.name, lock.created]
        if (rest := lock.stats.waiters - listed) > 0:
            threads = count(rest, "more thread" if listed else "thread")
            result.append(f"{threads} still waited for {lock_phrase(lock.name, lock.created)} when this was read.")
    return result


def permit_sentences(profile: Profile) -> list[str]:
    """The longest waits for permits and for room one by one, the others by their number."""
    waits = [wait for wait in profile.waiting if wait.kind in RESOURCE_KINDS]
    result = [_wait(wait, profile.process.state) for wait in waits[:MAX_WAITS]]
    if (rest := len(waits) - MAX_WAITS) > 0:
        result.append(f"{count(rest, 'more thread')} still waited for a permit or for room when this was read.")
    return result


def idle_sentences(profile: Profile) -> list[str]:
    """At most one, of the waits that are nobody's fault unless what they wait for never comes; without deadlocks'."""
    told = {wait.key for deadlock in profile.deadlocks for wait in _waits_of(deadlock, profile)}
    waits = [wait for wait in profile.waiting if wait.kind not in CONTENTION_KINDS | RESOURCE_KINDS]
    waits = [wait for wait in waits if wait.key not in told]
    if not waits:
        return []
    longest = waits[0]
    who = f"`{longest.thread}`" if len(waits) == 1 else f"the longest, `{longest.thread}`,"
    lasted = "" if longest.elapsed_s is None else f" for {_long(longest)}"
    what = f"{count(len(waits), 'thread')} still waited for work or for news, which may be as it should"
    return [f"{what}: {who}{lasted} for {_goal(longest)} in {place_phrase(longest.stack)}."]


def are_longer(profile: Profile) -> bool:
    """Whether the waits for locks that are not over are longer, together, than all that are."""
    return _elapsed_ticks(profile, CONTENTION_KINDS) > profile.totals.wait_ticks


def permits_take_longer(profile: Profile) -> bool:
    """Whether the waits for permits and for room that are not over are longer, together, than all for locks."""
    for_locks = profile.totals.wait_ticks + _elapsed_ticks(profile, CONTENTION_KINDS)
    return _elapsed_ticks(profile, RESOURCE_KINDS) > for_locks


def _elapsed_ticks(profile: Profile, kinds: frozenset[str]) -> int:
    return sum(wait.elapsed_ticks or 0 for wait in profile.waiting if wait.kind in kinds)


def _goal(wait: Waiting) -> str:
    if wait.kind in CONTENTION_KINDS:
        return lock_phrase(wait.lock, wait.created)
    goal = _GOALS[wait.kind]
    has_name = wait.lock not in ("", OTHER) and wait.kind in _OF
    return " ".join(filter(None, (goal, _OF[wait.kind], f"`{wait.lock}`"))) if has_name else goal


def _wait(wait: Waiting, state: str) -> str:
    what = f"for {_goal(wait)} in {place_phrase(wait.stack)}"
    if wait.elapsed_s is None:
        return sentence(f"`{wait.thread}` was waiting {what} when the recording ended; for how long is not known")
    if state == "running":
        return sentence(f"`{wait.thread}` has waited {_long(wait)} so far {what}")
    return sentence(f"`{wait.thread}` had waited {_long(wait)} {what} when the recording ended")


def _long(wait: Waiting) -> str:
    return duration(wait.elapsed_s or 0)


def _waits_of(deadlock: Deadlock, profile: Profile) -> Iterable[Waiting]:
    """The waits of its threads, as far as their names leave no doubt."""
    for thread, lock, created, _ in deadlock.steps:
        found = [
            wait
            for wait in profile.waiting
            if wait.thread == thread and (wait.lock == lock if created else wait.kind == "join")
        ]
        if len(found) == 1:
            yield found[0]
