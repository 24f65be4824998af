"""
What the page shows, small enough for a page. What is left out is counted, so that the page can say it.

Times are seconds in tables, nanoseconds in flame graphs, microseconds from the start in the timeline.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from tracedthread.capture import Frame
from tracedthread.export.clean import clean
from tracedthread.export.findings import blamed_by_place, knows_waiters, summed_by_place
from tracedthread.export.html.timeline import timeline
from tracedthread.export.html.tree import tree
from tracedthread.export.sides import samples
from tracedthread.profile import Profile
from tracedthread.rows import LockRow, WaitRow


class Limits(NamedTuple):
    """
    How much there is room for.

    Args:
        locks: Rows of the table of locks.
        places: Places that one lock shows on each side.
        rows: Rows of every other table.
        nodes: Of each flame graph.
        events: Of the timeline, one by one.
        threads: Of the timeline.
        names: Characters of a name.
    """

    locks: int = 2_000
    places: int = 5
    rows: int = 200
    nodes: int = 12_000
    events: int = 10_000
    threads: int = 120
    names: int = 240

    def halved(self) -> Limits:
        """Half as much of all but the places."""
        return Limits(*(max(1, value // 2) for value in self))._replace(places=self.places)


LIMITS = Limits()


class Names:
    """
    Every name once, and every frame once, by number.

    Args:
        longest: Characters; the rest is cut off.
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.texts: dict[str, int] = {}
        self.frames: dict[Frame, int] = {}

    def text(self, text: str) -> int:
        """The number of a name."""
        if len(text) > self.longest:
            text = text[: self.longest] + "\u2026"
        return self.texts.setdefault(clean(text), len(self.texts))

    def frame(self, frame: Frame) -> int:
        """The number of a frame."""
        return self.frames.setdefault(frame, len(self.frames))

    def flat_frames(self) -> list[int]:
        """Function, path and line of every frame, one after the other."""
        return [number for f in self.frames for number in (self.text(f.function), self.text(f.path), f.line)]


def page_data(profile: Profile, limits: Limits) -> dict[str, Any]:
    """
    The object that the script reads.

    Raises:
        CaptureError: The capture is damaged.
    """
    names = Names(limits.names)
    totals, locks = profile.to_totals(), profile.locks
    data: dict[str, Any] = {
        "duration": profile.process.duration_s,
        "totals": totals | {"attempts": sum(lock.stats.attempts for lock in locks)},
        "locks": [_lock(lock, names, limits) for lock in locks[: limits.locks]],
        "flames": [tree(samples(profile, waits=waits), names, limits.nodes) for waits in (False, True)],
        "timeline": timeline(profile, names, limits.events, limits.threads),
        "idle": _places(profile.idle, names, limits.rows),
        "resources": _places(profile.resources, names, limits.rows),
        "pools": [
            [
                names.text(pool.name),
                pool.tasks,
                pool.queued,
                pool.queue_quantile_s(0.5),
                pool.queue_quantile_s(0.99),
                pool.queue_max_s,
                pool.busy_s,
                pool.full_s,
                pool.limit_max,
            ]
            for pool in profile.pools[: limits.rows]
        ],
        "threads": [
            [
                names.text(thread.name or f"thread {thread.native_id}"),
                names.text(thread.function),
                thread.lifetime_s,
                thread.wait_s,
                thread.own_gil_s,
                thread.idle_s,
                thread.resource_s,
                thread.cpu_s,
                profile.knows_lifetime(thread),
            ]
            for thread in profile.threads[: limits.rows]
        ],
        "uncovered": [
            [names.text(row.what), row.count, [names.text(name) for name in row.where[:20]]]
            for row in profile.uncovered[: limits.rows]
        ],
        "lost": {name: number for name, number in profile.lost.items() if number},
        "left": {
            "locks": [max(0, len(locks) - limits.locks), round(sum(lock.wait_s for lock in locks[limits.locks :]), 9)],
            "pools": [
                max(0, len(profile.pools) - limits.rows),
                round(sum(pool.queue_s for pool in profile.pools[limits.rows :]), 9),
            ],
            "threads": sum(thread.threads for thread in profile.threads[limits.rows :]),
            "uncovered": max(0, len(profile.uncovered) - limits.rows),
            "names": limits.names,
        },
    }
    data["frames"] = names.flat_frames()
    data["texts"] = list(names.texts)
    return data


def _lock(lock: LockRow, names: Names, limits: Limits) -> dict[str, Any]:
    stats = lock.stats
    blame, waits = blamed_by_place(lock.blame), summed_by_place(lock.waits)
    return {
        "name": names.text(lock.name or "(unnamed)"),
        "type": lock.type,
        "created": names.frame(lock.created),
        "numbers": [
            stats.created,
            stats.acquisitions,
            stats.contended,
            stats.timeouts,
            lock.wait_s,
            lock.wait_quantile_s(0.5),
            lock.wait_quantile_s(0.99),
            lock.wait_max_s,
            lock.hold_s,
            lock.hold_quantile_s(0.99),
            lock.hold_max_s,
            lock.blame_s,
            lock.gil_s,
            lock.handoff_s,
            lock.own_gil_s,
            stats.waiters,
            stats.attempts,
        ],
        "blame": [
            [names.frame(row.frame), row.holds, row.blame_s, row.max_s, row.waiters if knows_waiters(row, lock) else 0]
            for row in blame[: limits.places]
        ],
        "waits": [[names.frame(row.frame), row.count, row.wait_s, row.max_s] for row in waits[: limits.places]],
        "more": [max(0, len(blame) - limits.places), max(0, len(waits) - limits.places)],
    }


def _places(rows: Iterable[WaitRow], names: Names, most: int) -> dict[str, Any]:
    places = summed_by_place(rows)
    return {
        "rows": [
            [
                row.kind,
                names.frame(row.frame),
                names.text(row.lock),
                row.count,
                row.wait_s,
                row.max_s,
                names.text(row.waker),
            ]
            for row in places[:most]
        ],
        "left": [max(0, len(places) - most), round(sum(row.wait_s for row in places[most:]), 9)],
    }
