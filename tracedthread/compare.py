"""
Two recordings of one program, compared: what got better, what got worse, what is new and what is gone.

Locks are matched by their fingerprint, which neither edits above a line nor another machine changes. Recordings differ
in length, so sums are compared per second recorded; percentiles, maxima and shares are compared as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from tracedthread.profile import Profile
from tracedthread.rows import BlameRow, Deadlock, LockRow

SCHEMA = "tracedthread.diff/1"

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class LockMeasures:
    """
    What is compared of the locks of one fingerprint.

    Args:
        contended_share: Of the attempts to take them, those that had to wait; 0 … 1.
        wait_per_s: Seconds waited per second recorded; above 1 if several threads wait at a time. The same for
            `blame_per_s`, `hold_per_s` and, as a count, `acquisitions_per_s`.
    """

    acquisitions: int
    acquisitions_per_s: float
    contended: int
    contended_share: float
    wait_s: float
    wait_per_s: float
    wait_p99_s: float
    wait_max_s: float
    blame_s: float
    blame_per_s: float
    hold_s: float
    hold_per_s: float
    hold_p99_s: float
    hold_max_s: float

    def to_dict(self) -> dict[str, Any]:
        """`base` or `new` of a row of `locks`."""
        return dict(vars(self))


@dataclass(frozen=True)
class LockChange:
    """
    The locks of one fingerprint in both recordings.

    Args:
        row: Of the new recording; of the base if they are gone.
        base, new: None where there are no such locks.
    """

    row: LockRow
    base: LockMeasures | None
    new: LockMeasures | None

    @property
    def status(self) -> str:
        """`both`, `new` or `gone`."""
        return "new" if self.base is None else "gone" if self.new is None else "both"

    @property
    def wait_per_s_change(self) -> float:
        """New minus base; what is not there did not wait."""
        return (self.new.wait_per_s if self.new else 0.0) - (self.base.wait_per_s if self.base else 0.0)

    def to_dict(self) -> dict[str, Any]:
        """A row of `locks`."""
        base, new = (side.to_dict() if side else None for side in (self.base, self.new))
        return {
            "fingerprint": self.row.fingerprint,
            "name": self.row.name,
            "type": self.row.type,
            "created": {
                "file": self.row.created.file,
                "line": self.row.created.line,
                "function": self.row.created.function,
            },
            "status": self.status,
            "base": base,
            "new": new,
            "change": {key: new[key] - base[key] for key in new} if base and new else None,
        }


@dataclass(frozen=True)
class BlameChange:
    """A function whose holds made others wait for a lock, in both recordings; zeros where it did not."""

    function: str
    file: str
    lock: str
    base_holds: int
    new_holds: int
    base_per_s: float
    new_per_s: float
    base_s: float
    new_s: float

    @property
    def change_per_s(self) -> float:
        """New minus base, in seconds per second recorded."""
        return self.new_per_s - self.base_per_s

    def to_dict(self) -> dict[str, Any]:
        """A row of `blame`."""
        return {
            "function": self.function,
            "file": self.file,
            "lock": self.lock,
            "base": {"count": self.base_holds, "blame_s": self.base_s, "blame_per_s": self.base_per_s},
            "new": {"count": self.new_holds, "blame_s": self.new_s, "blame_per_s": self.new_per_s},
            "change": {"blame_s": self.new_s - self.base_s, "blame_per_s": self.change_per_s},
        }


@dataclass(frozen=True)
class Comparison:
    """
    How `new` differs from `base`.

    Args:
        locks: The largest change of time waited per second first, either way.
        blame: The functions that got worse first.
    """

    base: Profile
    new: Profile
    locks: tuple[LockChange, ...]
    blame: tuple[BlameChange, ...]

    @property
    def worse(self) -> tuple[BlameChange, ...]:
        """The functions that make others wait more than before."""
        return tuple(change for change in self.blame if change.change_per_s > 0)

    @property
    def new_deadlocks(self) -> tuple[Deadlock, ...]:
        """Those the new recording has, and the base has not: none about the same locks."""
        known = set(map(_locks_of, self.base.deadlocks))
        return tuple(deadlock for deadlock in self.new.deadlocks if _locks_of(deadlock) not in known)

    def caveats(self) -> list[str]:
        """What to know before drawing conclusions, in sentences."""
        result = []
        base_s, new_s = self.base.process.recorded_s, self.new.process.recorded_s
        if base_s <= 0 or new_s <= 0:
            result.append("A recording without duration has no rates: what is per second is 0 there.")
        elif not 0.95 < new_s / base_s < 1.05:
            result.append("The recordings differ in length: sums are compared per second recorded.")
        if self.base.process.program != self.new.process.program:
            result.append("The recordings are of programs of different names.")
        for side, profile in (("base", self.base), ("new", self.new)):
            if profile.process.is_cut_off:
                result.append(
                    f"The {side} recording was not closed (killed, os._exit, or it still runs elsewhere): its length "
                    "is at least what is shown, so that what is per second may be less."
                )
            if profile.lost.get("sites"):
                result.append(
                    f"In the {side} recording some locks found no room and are in (other): they look gone or new."
                )
            totals = profile.totals
            if totals.wait_ticks > totals.own_gil_ticks and not (profile.blame_s or totals.gil_ticks):
                result.append(f"The {side} recording, of an older version, does not say who is to blame.")
            if any(lock.stats.waiters for lock in profile.locks):
                result.append(f"In the {side} recording some waits had not ended; their time is not counted.")
        return result

    def to_dict(self) -> dict[str, Any]:
        """The comparison as one JSON object, schema `tracedthread.diff/1`."""
        sides = (("base", self.base.process), ("new", self.new.process))
        return {
            "schema": SCHEMA,
            **{name: {**process.to_dict(), "recorded_s": process.recorded_s} for name, process in sides},
            "caveats": self.caveats(),
            "new_deadlocks": [deadlock.to_dict() for deadlock in self.new_deadlocks],
            "locks": [change.to_dict() for change in self.locks],
            "blame": [change.to_dict() for change in self.blame],
        }


def _locks_of(deadlock: Deadlock) -> frozenset[str]:
    """What is the same in another run: names of threads have numbers, and a lock without a name is an address."""
    return frozenset(
        (created.rpartition(":")[0] if lock.startswith("lock 0x") else lock) if created else ""
        for _, lock, created, _ in deadlock.steps
    )


def compare(base: Profile, new: Profile) -> Comparison:
    """Compare two profiles; they may differ in length, machine and version of the program."""
    before, after = _by_fingerprint(base.locks), _by_fingerprint(new.locks)
    base_s, new_s = base.process.recorded_s, new.process.recorded_s
    locks = [
        LockChange(
            row=after.get(mark) or before[mark],
            base=_measures(before[mark], base_s) if mark in before else None,
            new=_measures(after[mark], new_s) if mark in after else None,
        )
        for mark in {**before, **after}
    ]
    locks.sort(key=lambda change: (-abs(change.wait_per_s_change), -change.row.stats.wait_ticks, change.row.name))
    blame = _compare_blame(before, after, base_s, new_s)
    return Comparison(base, new, tuple(locks), tuple(blame))


def _by_fingerprint(locks: Iterable[LockRow]) -> dict[str, LockRow]:
    """Rows of one fingerprint are one: two lines of a function can create locks of one name."""
    result: dict[str, LockRow] = {}
    for lock in locks:
        known = result.get(lock.fingerprint)
        if known is not None:
            lock = replace(
                known, stats=known.stats + lock.stats, waits=known.waits + lock.waits, blame=known.blame + lock.blame
            )
        result[lock.fingerprint] = lock
    return result


def _measures(lock: LockRow, lasted_s: float) -> LockMeasures:
    stats = lock.stats
    return LockMeasures(
        acquisitions=stats.acquisitions,
        acquisitions_per_s=_rate(stats.acquisitions, lasted_s),
        contended=stats.contended,
        contended_share=stats.contended / stats.attempts if stats.attempts else 0.0,
        wait_s=lock.wait_s,
        wait_per_s=_rate(lock.wait_s, lasted_s),
        wait_p99_s=lock.wait_quantile_s(0.99),
        wait_max_s=lock.wait_max_s,
        blame_s=lock.blame_s,
        blame_per_s=_rate(lock.blame_s, lasted_s),
        hold_s=lock.hold_s,
        hold_per_s=_rate(lock.hold_s, lasted_s),
        hold_p99_s=lock.hold_quantile_s(0.99),
        hold_max_s=lock.hold_max_s,
    )


def _compare_blame(
    before: dict[str, LockRow], after: dict[str, LockRow], base_s: float, new_s: float
) -> list[BlameChange]:
    sides = [_blame_by_function(locks) for locks in (before, after)]
    changes = []
    for key in {**sides[0], **sides[1]}:
        old, now = (side.get(key) for side in sides)
        row = now or old
        assert row is not None
        changes.append(
            BlameChange(
                function=row.frame.function,
                file=row.frame.file,
                lock=row.lock,
                base_holds=old.holds if old else 0,
                new_holds=now.holds if now else 0,
                base_per_s=_rate(old.blame_s, base_s) if old else 0.0,
                new_per_s=_rate(now.blame_s, new_s) if now else 0.0,
                base_s=old.blame_s if old else 0.0,
                new_s=now.blame_s if now else 0.0,
            )
        )
    return sorted(changes, key=lambda change: (-change.change_per_s, -change.new_s, change.function, change.lock))


def _blame_by_function(locks: dict[str, LockRow]) -> dict[tuple[str, str, str], BlameRow]:
    """Rows by lock and function, whatever the line and the callers; those without a stack are (other)."""
    result: dict[tuple[str, str, str], BlameRow] = {}
    for mark, lock in locks.items():
        for row in lock.blame:
            key = (mark, row.frame.function, row.frame.file)
            result[key] = result[key] + row if key in result else row
    return result


def _rate(amount: _Number, lasted_s: float) -> float:
    return amount / lasted_s if lasted_s > 0 else 0.0
