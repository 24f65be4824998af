"""
Which locks and thread pools metrics tell by name, so that there are few series, none of which ever goes backwards.

Shown are the locks that were waited for longest, and of each the functions to blame most; all others together are
`other`. What was shown once stays, for a series that ends and begins again is worth little; four times as many can
gather in the course of time, then no more. What is shown later than it was seen begins at zero: what it had before
stays where it was told. So the series of a metric always add up to the whole. Thread pools are shown as they come,
until there are enough.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from tracedthread.rows import OTHER
from tracedthread.tally import LockTally, PoolTally, ResourceTally, Tally, add_to

#: How many locks are shown at first; and, of each, how many functions.
TOP = 20
TOP_FUNCTIONS = 5
#: So many times as many can be shown in the course of time.
GROWTH = 4
#: How many thread pools are shown.
POOLS = 100

OTHERS = "other"

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Shown:
    """
    The names that are shown.

    Args:
        top: Locks shown at first.
    """

    def __init__(self, top: int = TOP) -> None:
        self.top = top
        self.functions: dict[str, set[str]] = {}  # by name of the lock
        self.pools: set[str] = set()

    def update(self, tally: Tally) -> None:
        """Show what has come to the top."""
        ranks: dict[str, tuple[int, int]] = {}
        for (name, _), lock in tally.locks.items():
            wait, hold = ranks.get(name, (0, 0))
            ranks[name] = wait + lock.wait, hold + lock.hold
        for (name, _), waits in tally.resources.items():
            wait, hold = ranks.get(name, (0, 0))
            ranks[name] = wait + waits.wait, hold
        ranks.pop(OTHER, None)
        for name in heapq.nlargest(self.top, ranks, key=ranks.__getitem__):
            # If nobody has waited for it, it is shown while there is room, but takes none from later ones.
            limit = self.top * GROWTH if ranks[name][0] else self.top
            if name not in self.functions and len(self.functions) < limit:
                self.functions[name] = set()
        blamed: dict[str, list[tuple[int, str]]] = {}
        for (name, function), charged in tally.blame.items():
            if name in self.functions and function != OTHER:
                blamed.setdefault(name, []).append((charged, function))
        for name, ranked in blamed.items():
            shown = self.functions[name]
            for _, function in heapq.nlargest(TOP_FUNCTIONS, ranked):
                if len(shown) < TOP_FUNCTIONS * GROWTH:
                    shown.add(function)
        for name in tally.pools:
            if name != OTHER and len(self.pools) < POOLS:
                self.pools.add(name)

    def lock(self, key: tuple[str, str]) -> tuple[str, str]:
        """Where a lock of this name and type, or kind of wait, is told."""
        return key if key[0] in self.functions else (OTHERS, key[1])

    def blame(self, key: tuple[str, str]) -> tuple[str, str]:
        """Where the blame of a lock and function is told: a lock that is shown has an `other` of its own."""
        name, function = key
        functions = self.functions.get(name)
        if functions is None:
            return OTHERS, OTHERS
        return key if function in functions else (name, OTHERS)

    def pool(self, name: str) -> str:
        """Where a thread pool is told."""
        return name if name in self.pools else OTHERS

    def without_others(self, tally: Tally) -> Tally:
        """The same with the names that are shown only; where values are told, it makes no difference."""
        locks: dict[tuple[str, str], LockTally] = {}
        for (name, lock_type), lock in tally.locks.items():
            add_to(locks, ((name if name in self.functions else OTHER), lock_type), lock)
        resources: dict[tuple[str, str], ResourceTally] = {}
        for (name, kind), waits in tally.resources.items():
            add_to(resources, ((name if name in self.functions else OTHER), kind), waits)
        blame: dict[tuple[str, str], int] = {}
        for (name, function), charged in tally.blame.items():
            who = (name, function) if name in self.functions else (OTHER, OTHER)
            blame[who] = blame.get(who, 0) + charged
        pools: dict[str, PoolTally] = {}
        for name, pool in tally.pools.items():
            add_to(pools, name if name in self.pools else OTHER, pool)
        return tally._replace(locks=locks, resources=resources, blame=blame, pools=pools)


class Places(Generic[Key, Value]):
    """
    Where growing values are told, each in one place at a time.

    When a value moves to another place, what it was by then stays in the old one; only what comes is told in the new.
    """

    def __init__(self, plus: Callable[[Value, Value], Value], minus: Callable[[Value, Value], Value]) -> None:
        self._plus, self._minus = plus, minus
        self._place: dict[Key, Key] = {}  # in this round; what is told no more is forgotten
        self._before: dict[Key, Key] = {}
        self._left: dict[Key, list[tuple[Key, Value]]] = {}
        self._since: dict[Key, int] = {}
        self._told: dict[Key, Value] = {}

    def begin(self) -> None:
        """A new round: every value is told once."""
        self._told = {}
        self._before, self._place = self._place, {}

    def tell(self, key: Key, place: Key, value: Value) -> None:
        """Add a value where it belongs."""
        last = self._before.get(key, place)
        self._place[key] = place
        left = self._left.get(key, [])
        rest = value
        for old, share in left:
            self._add(old, share)
            rest = self._minus(rest, share)
        if last != place:
            self._left[key] = [*left, (last, rest)]
            self._since.setdefault(place, time.time_ns())
            self._add(last, rest)
            rest = self._minus(rest, rest)
        self._add(place, rest)

    def _add(self, place: Key, value: Value) -> None:
        self._told[place] = self._plus(self._told[place], value) if place in self._told else value

    def told(self, start_ns: int) -> list[tuple[Key, Value, int]]:
        """Place, value and since when it counts: from `start_ns` on, unless the place was new later."""
        return [(place, value, self._since.get(place, start_ns)) for place, value in self._told.items()]
