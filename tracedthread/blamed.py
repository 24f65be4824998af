"""
Who is to blame, read in place again and again: what each stack has been charged since the last time.
"""

from __future__ import annotations

from typing import NamedTuple

from tracedthread import layout
from tracedthread.capture import Frame, text
from tracedthread.live import Live
from tracedthread.rows import NOWHERE, OTHER

__all__ = ["Blame", "Blamed", "Charged", "Charges"]


class Charged(NamedTuple):
    """
    What one stack has been charged for one lock.

    Args:
        holds: That others waited for.
        time: That they waited, in 2^-32 ns.
    """

    holds: int
    time: int


#: By cell. A cell is never moved, and what it has been charged only grows.
Charges = dict[int, Charged]
_NONE = Charged(0, 0)


class Blame(NamedTuple):
    """
    A share of the blame.

    Args:
        lock: Its name.
        stack: Of the release, innermost first, never empty.
        ns: Whole ones of the sums before and after, so that shares add up exactly.
    """

    lock: str
    stack: tuple[Frame, ...]
    holds: int
    ns: int


class Blamed(Live):
    """Reads the blame in this process's capture. As of `Live`: in a forked child, make a new one."""

    @property
    def identity(self) -> tuple[int, ...]:
        """Tells this capture from that of a parent at the same address."""
        header = self._header()
        return header.pid, header.process_start, header.first_ticks

    @property
    def start_ns(self) -> int:
        """When the capture began, unix time."""
        return self._header().first_wall_ns

    @property
    def program(self) -> str:
        """Its name."""
        return text(self._header().program)

    def charges(self) -> Charges:
        """What each cell has been charged so far."""
        section, rate = self._sections[layout.BLAME], self._header().ns_per_tick
        count = min(self._used(layout.BLAME), section.capacity)
        # All of it at once, while the GIL is held: no cell is charged in between.
        data = bytes(self._view[section.offset : section.offset + count * section.record_size])
        cells = layout.BLAME_CELL.iterate(data, section.record_size)
        return {
            index: Charged(cell.holds, cell.blame_ticks * rate)
            for index, cell in enumerate(cells)
            if cell.holds or cell.blame_ticks
        }

    def since(self, before: Charges, now: Charges) -> list[Blame]:
        """What was charged after `before`, up to `now`; their differences add up to the capture's sums."""
        result = []
        for index, charged in now.items():
            known = before.get(index, _NONE)
            holds, ns = charged.holds - known.holds, (charged.time >> 32) - (known.time >> 32)
            if holds or ns:
                lock, stack = self._cell(index)
                result.append(Blame(lock, stack, holds, ns))
        return result

    def _cell(self, index: int) -> tuple[str, tuple[Frame, ...]]:
        if index == 0:  # what found no room
            return OTHER, (NOWHERE,)
        section = self._sections[layout.BLAME]
        cell = layout.BLAME_CELL.read(self._view, section.offset + index * section.record_size)
        name = OTHER if cell.site == layout.SITE_OTHER else self._place(cell.site).name
        return name, self._stack(cell.stack) or (NOWHERE,)
