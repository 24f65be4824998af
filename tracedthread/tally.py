"""
What captures have counted so far, as sums that can be added: over the locks of one name, and over processes.

Everything adds up exactly. Times are integers, in 2^-32 ns: ticks times the rate measured at the start, which is known
to about 3e-5. The report's rate gets finer as a recording gets longer, but with a rate that moves, sums would sometimes
go backwards. A histogram is one integer, 64 bits a bucket, which one addition adds.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

_UNITS = 2**32 * 10**9  # a second

_Key = TypeVar("_Key", bound=Hashable)


class _Summand(Protocol):
    def plus(self, other: Any) -> Any: ...


_Value = TypeVar("_Value", bound=_Summand)


def add_to(sums: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    """Add `value` to what stands there at `key`, if anything does."""
    sums[key] = sums[key].plus(value) if key in sums else value


def seconds(time: int) -> float:
    """A time of a tally as seconds, correctly rounded."""
    return time / _UNITS


class LockTally(NamedTuple):
    """Everything counted about locks. Times in 2^-32 ns, histograms 64 bits a bucket."""

    acquisitions: int = 0
    contended: int = 0
    timeouts: int = 0
    hold: int = 0
    wait: int = 0
    gil: int = 0  # own and others' waiting that was for the GIL
    handoff: int = 0
    hold_histogram: int = 0
    wait_histogram: int = 0
    waiters: int = 0  # now

    def plus(self, other: LockTally) -> LockTally:
        """Both together."""
        return LockTally._make(map(operator.add, self, other))

    def minus(self, before: LockTally) -> LockTally:
        """What came after `before`; it counted nothing that is not counted here."""
        return LockTally._make(map(operator.sub, self, before))


class ResourceTally(NamedTuple):
    """Waits for a permit, room or a connection. Time in 2^-32 ns."""

    waits: int = 0
    wait: int = 0

    def plus(self, other: ResourceTally) -> ResourceTally:
        """Both together."""
        return ResourceTally(self.waits + other.waits, self.wait + other.wait)

    def minus(self, before: ResourceTally) -> ResourceTally:
        """What came after `before`."""
        return ResourceTally(self.waits - before.waits, self.wait - before.wait)


class PoolTally(NamedTuple):
    """What was counted of a thread pool's tasks, as in LockTally."""

    queue: int = 0
    queue_histogram: int = 0
    queued: int = 0  # now, and so are the others
    busy: int = 0
    limit: int = 0

    def plus(self, other: PoolTally) -> PoolTally:
        """Both together."""
        return PoolTally._make(map(operator.add, self, other))


class Tally(NamedTuple):
    """
    What was counted in one process, or in several.

    Args:
        locks: By name and type.
        blame: Time by name of the lock and function that held it.
        resources: By name of the lock behind it and kind of wait.
        started: Threads; with `start_time` and `start_histogram`, as in LockTally.
        threads: That live now.
        deadlocks: That were noticed.
        dropped: Records by section: what found no room, or was overwritten.
        start_ns: When counting began, since 1970-01-01 UTC; the earliest of several.
        pools: By name.
    """

    locks: Mapping[tuple[str, str], LockTally]
    blame: Mapping[tuple[str, str], int]
    resources: Mapping[tuple[str, str], ResourceTally]
    started: int
    start_time: int
    start_histogram: int
    threads: int
    deadlocks: int
    dropped: Mapping[str, int]
    start_ns: int
    pools: Mapping[str, PoolTally] = MappingProxyType({})

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            _union(self.locks, other.locks),
            _sum(self.blame, other.blame),
            _union(self.resources, other.resources),
            self.started + other.started,
            self.start_time + other.start_time,
            self.start_histogram + other.start_histogram,
            self.threads + other.threads,
            self.deadlocks + other.deadlocks,
            _sum(self.dropped, other.dropped),
            min(self.start_ns, other.start_ns) or max(self.start_ns, other.start_ns),
            _union(self.pools, other.pools),
        )

    def ended(self) -> Tally:
        """What remains of it when its process is gone: nobody waits or lives there."""
        locks = {key: lock._replace(waiters=0) for key, lock in self.locks.items()}
        pools = {name: pool._replace(queued=0, busy=0, limit=0) for name, pool in self.pools.items()}
        return self._replace(locks=locks, threads=0, pools=pools)


EMPTY = Tally({}, {}, {}, 0, 0, 0, 0, 0, {}, 0)


def _union(one: Mapping[_Key, _Value], two: Mapping[_Key, _Value]) -> dict[_Key, _Value]:
    result = dict(one)
    for key, value in two.items():
        add_to(result, key, value)
    return result


def _sum(one: Mapping[_Key, int], two: Mapping[_Key, int]) -> dict[_Key, int]:
    result = dict(one)
    for key, value in two.items():
        result[key] = result.get(key, 0) + value
    return result
