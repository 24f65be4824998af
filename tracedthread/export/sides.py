"""
The two sides of contention, in the shape of a sampling profiler's output: who made others wait, and who waited.
"""

from __future__ import annotations

from typing import NamedTuple

from tracedthread.capture import Frame
from tracedthread.profile import Profile
from tracedthread.rows import NOWHERE

SIDES = {False: "blame", True: "waits"}


class Sample(NamedTuple):
    """
    One stack of one side.

    Args:
        lock: Name of the lock.
        stack: Innermost first, never empty.
        times: Holds that made others wait, or waits.
        ns: Waiting that these holds caused, or the time waited.
    """

    lock: str
    stack: tuple[Frame, ...]
    times: int
    ns: int


def samples(profile: Profile, *, waits: bool) -> list[Sample]:
    """Every stack, by lock, worst first within one. Their sum is `blame_s`, or `wait_s`, of all locks."""
    result = []
    for lock in profile.locks:
        if waits:
            counted = [(row.stack, row.count, row.wait_ticks) for row in lock.waits]
        else:
            counted = [(row.stack, row.holds, row.blame_ticks) for row in lock.blame]
        result += [
            Sample(lock.name, stack or (NOWHERE,), count, round(ticks * lock.tick_s * 1e9))
            for stack, count, ticks in counted
        ]
    return result
