"""
Tallies as metrics: the points of `names.METRICS`.

A process has one `Board`, which everybody who asks for its metrics shares.
"""

from __future__ import annotations

import operator
import os
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tracedthread import _settings, names
from tracedthread._original import originals
from tracedthread.buckets import BOUNDS, RANGES
from tracedthread.histogram import BUCKETS
from tracedthread.names import Metric
from tracedthread.shown import TOP, Places, Shown
from tracedthread.tallier import Read, Tallier
from tracedthread.tally import LockTally, PoolTally, ResourceTally, Tally, add_to, seconds

_WORDS = struct.Struct(f"<{BUCKETS}Q")


class HistogramValue(NamedTuple):
    """
    Durations by exported bucket.

    Args:
        bounds: Upper bounds in seconds, without the last, which is infinite.
        counts: One a bucket, the last included; not cumulative.
        sum_s: Of all durations, seconds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float

    @property
    def total(self) -> int:
        """How many durations there are."""
        return sum(self.counts)


class Measurement(NamedTuple):
    """
    One point of a metric.

    Args:
        attributes: Values of `metric.attributes`, in their order.
        start_ns: Since when it counts, since 1970-01-01 UTC.
    """

    metric: Metric
    attributes: tuple[str, ...]
    value: int | float | HistogramValue
    start_ns: int

    @property
    def labels(self) -> dict[str, str]:
        """The attributes by name."""
        return dict(zip(self.metric.attributes, self.attributes))


def histogram_value(words: int, time: int) -> HistogramValue:
    """The native histogram `words` (64 bits a bucket), whose durations sum up to `time`, in the exported buckets."""
    native = _WORDS.unpack(words.to_bytes(_WORDS.size, "little"))
    return HistogramValue(BOUNDS, tuple(sum(native[start:end]) for start, end in RANGES), seconds(time))


class Stream:
    """
    Measurements of one source, one after the other, in which no counter goes backwards.

    Args:
        shown: Which locks are told by name; other streams may use it, too.
    """

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._locks: Places[tuple[str, str], LockTally] = Places(LockTally.plus, LockTally.minus)
        self._blame: Places[tuple[str, str], int] = Places(operator.add, operator.sub)
        self._resources: Places[tuple[str, str], ResourceTally] = Places(ResourceTally.plus, ResourceTally.minus)

    def measure(self, tally: Tally, dropped: Mapping[str, int] | None = None) -> list[Measurement]:
        """
        The points of all metrics.

        Args:
            dropped: More to count, by section; in place of the tally's own for a section that is in both.
        """
        start = tally.start_ns
        points = self._measure_locks(tally)
        self._blame.begin()
        for key, charged in tally.blame.items():
            self._blame.tell(key, self._shown.blame(key), charged)
        for key, charged, since in self._blame.told(start):
            points.append(Measurement(names.BLAME_TIME, key, seconds(charged), since))
        self._resources.begin()
        for key, resource in tally.resources.items():
            self._resources.tell(key, self._shown.lock(key), resource)
        for key, resource, since in self._resources.told(start):
            points.append(Measurement(names.RESOURCE_WAITS, key, resource.waits, since))
            points.append(Measurement(names.RESOURCE_WAIT_TIME, key, seconds(resource.wait), since))
        for section, count in {**tally.dropped, **(dropped or {})}.items():
            points.append(Measurement(names.DROPPED, (section,), count, start))
        starts = histogram_value(tally.start_histogram, tally.start_time)
        points.append(Measurement(names.START_DURATION, (), starts, start))
        points.append(Measurement(names.STARTS, (), tally.started, start))
        points.append(Measurement(names.THREADS, (), tally.threads, start))
        points.append(Measurement(names.DEADLOCKS, (), tally.deadlocks, start))
        pools: dict[str, PoolTally] = {}
        for name, pool in tally.pools.items():
            add_to(pools, self._shown.pool(name), pool)
        for name, pool in pools.items():
            place = (name,)
            queue = histogram_value(pool.queue_histogram, pool.queue)
            points += (
                Measurement(names.POOL_QUEUE_DURATION, place, queue, start),
                Measurement(names.POOL_QUEUE_SIZE, place, pool.queued, start),
                Measurement(names.POOL_BUSY, place, pool.busy, start),
                Measurement(names.POOL_LIMIT, place, pool.limit, start),
            )
        return points

    def _measure_locks(self, tally: Tally) -> list[Measurement]:
        self._locks.begin()
        waiters: dict[tuple[str, str], int] = {}
        for key, lock in tally.locks.items():
            place = self._shown.lock(key)
            if lock.waiters:
                waiters[place] = waiters.get(place, 0) + lock.waiters
                lock = lock._replace(waiters=0)
            self._locks.tell(key, place, lock)
        points: list[Measurement] = []
        by_name: dict[str, tuple[int, int, int]] = {}
        for place, lock, since in self._locks.told(tally.start_ns):
            name, lock_type = place
            waits = histogram_value(lock.wait_histogram, lock.wait)
            holds = histogram_value(lock.hold_histogram, lock.hold)
            points += (
                # The kind of contention is the type of the lock.
                Measurement(names.WAIT_DURATION, (name, lock_type), waits, since),
                Measurement(names.HOLD_DURATION, place, holds, since),
                Measurement(names.ACQUISITIONS, place, lock.acquisitions, since),
                Measurement(names.CONTENTIONS, place, lock.contended, since),
                Measurement(names.TIMEOUTS, place, lock.timeouts, since),
                Measurement(names.WAITERS, place, waiters.get(place, 0), since),
            )
            gil, handoff, first = by_name.get(name, (0, 0, since))
            by_name[name] = gil + lock.gil, handoff + lock.handoff, min(first, since)
        for name, (gil, handoff, since) in by_name.items():
            points.append(Measurement(names.GIL_WAIT_TIME, (name,), seconds(gil), since))
            points.append(Measurement(names.HANDOFF_TIME, (name,), seconds(handoff), since))
        return points


def with_failures(dropped: Mapping[str, int], failures: int) -> dict[str, int]:
    """What telemetry had to drop, with the measurements that failed among its `failures`."""
    return {**dropped, "failures": dropped.get("failures", 0) + failures}


class Board:
    """
    The metrics of the calling process's own capture. Any thread may ask, at any time; nothing is ever raised.

    Args:
        read: Gives bytes of the mapped capture; also in a forked child, whose capture lies in the same place.
        top: How many locks are shown at first.
        dropped: What telemetry itself had to drop, by section.
    """

    def __init__(self, read: Read, *, top: int = TOP, dropped: Callable[[], Mapping[str, int]] | None = None) -> None:
        self._read, self._top, self._dropped = read, top, dropped
        self.failures = 0
        self._begin()

    def _begin(self) -> None:
        # Stock, and never waited for long: whoever has it may be gone, or be the one that asks (a finalizer).
        self._lock = originals.allocate_lock()
        self._tallier = Tallier(self._read, in_place=True)
        self._shown = Shown(self._top)
        self._stream = Stream(self._shown)
        self._newest: list[Measurement] = []
        self._pid = os.getpid()  # the last: another thread of a child is not to use what is the parent's

    def measure(self) -> list[Measurement]:
        """The points of all metrics now, or, if somebody else takes them at this moment, those from a moment ago."""
        if self._pid != os.getpid():
            self._begin()
        lock = self._lock
        if not lock.acquire(timeout=1.0):
            return self._newest
        try:
            tally = self._tallier.tally()
            self._shown.update(tally)
            dropped = with_failures(self._dropped(), self.failures) if self._dropped is not None else None
            self._newest = self._stream.measure(tally, dropped)
        except Exception as exc:
            self.failures += 1
            if self.failures == 1:
                _settings.say(f"no metrics of this process: {exc}")
        finally:
            lock.release()
        return self._newest
