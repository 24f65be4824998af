"""
Thread pools of a capture: how long tasks waited for a worker, and whether workers were to be had.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from tracedthread.capture import Capture
from tracedthread.histogram import EMPTY, Histogram
from tracedthread.rows import OTHER, max_since, seconds

_SUMS = ("submitted", "ended", "dropped", "untimed", "queue_ticks", "busy_ticks", "full_ticks")


@dataclass(frozen=True)
class PoolRow:
    """
    The executors whose threads' names begin alike, or `(other)`: those that found no room. The fields are tt_pool's.

    Args:
        limit: Workers that those executors may have which are alive; `limit_max` is the most that it has ever been.
        queued: Tasks that no worker has begun yet.
        busy: Workers at a task when this was read.
        dropped: Tasks that no worker has ever begun: cancelled, or their executor was shut down before.
        untimed: Tasks whose time in the queue is not known, as recording was paused in the middle of it.
        busy_ticks: Of tasks that have ended.
        full_ticks: All workers of an executor were busy, summed up over executors.
    """

    name: str
    executors: int
    limit: int
    queued: int
    busy: int
    submitted: int
    ended: int
    dropped: int
    untimed: int
    limit_max: int
    queue_ticks: int
    queue_max_ticks: int
    busy_ticks: int
    full_ticks: int
    tick_s: float
    queue: Histogram = EMPTY

    @property
    def tasks(self) -> int:
        """Those that a worker has begun."""
        return self.busy + self.ended

    @property
    def queue_s(self) -> float:
        """Tasks' time in the queue, summed up."""
        return seconds(self.queue_ticks, self.tick_s)

    @property
    def queue_max_s(self) -> float:
        """The longest."""
        return seconds(self.queue_max_ticks, self.tick_s)

    @property
    def busy_s(self) -> float:
        """Workers' time at tasks, summed up."""
        return seconds(self.busy_ticks, self.tick_s)

    @property
    def full_s(self) -> float:
        """Time in which no worker was free."""
        return seconds(self.full_ticks, self.tick_s)

    def queue_quantile_s(self, fraction: float) -> float:
        """The time in the queue that `fraction` of all tasks do not exceed, off by at most 12.5 %."""
        ns = self.queue.quantile_ns(fraction, self.queue_max_ticks * self.tick_s * 1e9)
        return round(ns * 1e-9, 9)

    def since(self, before: PoolRow, bucket_tick_s: float) -> PoolRow:
        """
        What was counted after `before`; what is in progress is so at its end. Maxima are at most 12.5 % too high.

        `bucket_tick_s` is as in Process.
        """
        sums: dict[str, Any] = {name: max(0, getattr(self, name) - getattr(before, name)) for name in _SUMS}
        queue = self.queue - before.queue
        bound = queue.bound_ticks(sums["queue_ticks"], bucket_tick_s)
        longest = max_since(self.queue_max_ticks, before.queue_max_ticks, bound)
        return replace(self, **sums, queue=queue, queue_max_ticks=longest)

    def to_dict(self) -> dict[str, Any]:
        """A row of `pools`."""
        return {
            "name": self.name,
            "executors": self.executors,
            "tasks": self.tasks,
            "dropped": self.dropped,
            "untimed": self.untimed,
            "queued": self.queued,
            "busy": self.busy,
            "limit": self.limit,
            "limit_max": self.limit_max,
            "queue_s": self.queue_s,
            "queue_max_s": self.queue_max_s,
            "queue_p50_s": self.queue_quantile_s(0.5),
            "queue_p99_s": self.queue_quantile_s(0.99),
            "busy_s": self.busy_s,
            "full_s": self.full_s,
        }


def read_pools(capture: Capture) -> tuple[PoolRow, ...]:
    """
    The pools that tasks were submitted to, worst first.

    Raises:
        CaptureError: A name is not there.
    """
    rows = []
    for index, record in enumerate(capture.pools()):
        if not record.submitted:
            continue
        fields = record._asdict()
        queue = Histogram.from_bytes(fields.pop("queue_histogram"))
        fields["name"] = capture.string(record.name) if index else OTHER
        rows.append(PoolRow(**fields, tick_s=capture.tick_s, queue=queue))
    return _sorted_pools(rows)


def pools_since(after: Iterable[PoolRow], before: Iterable[PoolRow], bucket_tick_s: float) -> tuple[PoolRow, ...]:
    """What was counted between two moments of one recording; without pools that had nothing to do."""
    known = {row.name: row for row in before}
    rows = [row.since(known[row.name], bucket_tick_s) if row.name in known else row for row in after]
    return _sorted_pools(row for row in rows if row.submitted or row.tasks or row.queued)


def _sorted_pools(rows: Iterable[PoolRow]) -> tuple[PoolRow, ...]:
    return tuple(sorted(rows, key=lambda row: (-row.queue_ticks, -row.submitted, row.name)))
