"""
The timeline: threads with their slow waits, one by one as far as there is room, and what they held meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from functools import cache
from heapq import nlargest
from operator import sub
from typing import TYPE_CHECKING, Any

from tracedthread.events import EventRow, Events
from tracedthread.export.holds import Hold, holds
from tracedthread.layout import CONTENTION_KINDS, KINDS, RESOURCE_KINDS
from tracedthread.profile import Profile

if TYPE_CHECKING:
    from tracedthread.export.html.data import Names

BINS = 400
STACK_FRAMES = 4
_IDLE, _RESOURCE, _CONTENTION = range(3)


def timeline(profile: Profile, names: Names, most_events: int, most_threads: int) -> dict[str, Any]:
    """
    Args:
        most_events: Those that are contention come first, then waits for a resource, then idle ones, the longest first.
        most_threads: Those that waited or held longest.
    Returns:
        `threads`: names. `waits`: thread, start, length, own GIL, class (0 idle, 1 resource, 2 contention), kind, lock,
        outcome, stack, holder's thread or -1, release stack, holder's stack, one after the other. `holds`: thread,
        start, length, lock, whether the start is exact, stack, one after the other. `stacks`: the innermost frames.
        `bins`: of each thread, thousandths of each of its bins that contention without a row of its own fills, or an
        empty list. `left`: events without a row, those of threads without a row among them, and threads without a row.
    """
    events = profile.events
    chosen = _choose(events, most_events)
    kept = [events[index] for index in chosen]
    kept.sort(key=lambda event: (event.start_ticks, event.sequence))
    held = holds(kept)
    shown = _threads(kept, held, most_threads)
    number_of = {key: index for index, (key, _) in enumerate(shown)}
    page = _Page(profile, names, number_of)
    waits = [event for event in kept if _who(event) in number_of]
    bins: list[list[int]] = [[] for _ in shown]
    if len(kept) < len(events):
        bins = _bins(profile, chosen, number_of)
    return {
        "threads": [names.text(name or "(not known any more)") for _, name in shown],
        "waits": [number for event in waits for number in page.wait(event)],
        "holds": [number for hold in held if hold.thread in number_of for number in page.hold(hold)],
        "stacks": page.stacks(),
        "bins": bins,
        "left": [len(events) - len(waits), len(kept) - len(waits), len(_everybody(kept, held)) - len(shown)],
        "events": len(events),
    }


def _class_of(kind: str) -> int:
    return _CONTENTION if kind in CONTENTION_KINDS else _RESOURCE if kind in RESOURCE_KINDS else _IDLE


_CLASS = {kind: _class_of(kind) for kind in KINDS}


def _choose(events: Events, most: int) -> set[int]:
    """The places of those that are shown one by one."""
    lengths = list(map(sub, events.records.column("end_ticks"), events.records.column("start_ticks")))
    kinds = events.records.column("kind")
    chosen: list[int] = []
    for of in (_CONTENTION, _RESOURCE, _IDLE):
        if len(chosen) >= most:
            break
        is_of = [number == of for number in map(_class_of, KINDS)]
        places = [place for place, kind in enumerate(kinds) if is_of[kind]]
        chosen += nlargest(most - len(chosen), places, key=lengths.__getitem__)
    return set(chosen)


def _key(thread: Hashable | None, name: str) -> Hashable:
    return thread if thread is not None else name


def _who(event: EventRow) -> Hashable:
    return _key(event.thread, event.thread_name)


def _everybody(events: list[EventRow], held: list[Hold]) -> dict[Hashable, str]:
    everybody = {_who(event): event.thread_name for event in events}
    everybody.update((hold.thread, hold.thread_name) for hold in held)
    return everybody


def _threads(events: list[EventRow], held: list[Hold], most: int) -> list[tuple[Hashable, str]]:
    """The threads to show, with their names: those with the most of contention first."""
    everybody = _everybody(events, held)
    weights: Counter[Hashable] = Counter()
    for event in events:
        # Idle waiting only tells apart those without any contention.
        weights[_who(event)] += (event.end_ticks - event.start_ticks) << (40 if _CLASS[event.kind] != _IDLE else 0)
    for hold in held:
        weights[hold.thread] += (hold.end_ticks - hold.start_ticks) << 40
    keys = sorted(everybody, key=lambda key: (-weights[key], everybody[key], str(key)))
    return [(key, everybody[key]) for key in keys[:most]]


class _Page:
    """Rows of numbers."""

    def __init__(self, profile: Profile, names: Names, number_of: dict[Hashable, int]) -> None:
        self.us = profile.process.tick_s * 1e6
        self.names = names
        self.number_of = number_of
        self.known_stacks: dict[tuple[Any, ...], int] = {}

    def stack(self, stack: tuple[Any, ...]) -> int:
        return self.known_stacks.setdefault(stack[:STACK_FRAMES], len(self.known_stacks)) if stack else -1

    def stacks(self) -> list[list[int]]:
        return [[self.names.frame(frame) for frame in stack] for stack in self.known_stacks]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Start and length."""
        first = round(start * self.us)
        return first, max(0, round(end * self.us) - first)

    def wait(self, event: EventRow) -> tuple[int, ...]:
        return (
            self.number_of[_who(event)],
            *self.span(event.start_ticks, event.end_ticks),
            round(event.own_gil_ticks * self.us),
            _CLASS[event.kind],
            self.names.text(event.kind),
            self.names.text(event.lock or "(unnamed)"),
            self.names.text(event.outcome),
            self.stack(event.stack),
            self.number_of.get(event.holder, -1) if event.holder is not None else -1,
            self.stack(event.release_stack),
            self.stack(event.holder_stack),
        )

    def hold(self, hold: Hold) -> tuple[int, ...]:
        return (
            self.number_of[hold.thread],
            *self.span(hold.start_ticks, hold.end_ticks),
            self.names.text(hold.lock or "(unnamed)"),
            int(hold.is_exact),
            self.stack(hold.release_stack or hold.holder_stack),
        )


def _bins(profile: Profile, chosen: set[int], number_of: dict[Hashable, int]) -> list[list[int]]:
    """The bins of every thread, from all events but the chosen ones."""
    events, width = profile.events, max(1, -(-profile.process.duration_ticks // BINS))
    first = events.first_ticks
    filled: list[list[int]] = [[] for _ in number_of]
    is_contention = [kind in CONTENTION_KINDS for kind in KINDS]

    @cache
    def bins_of(thread: int, generation: int) -> list[int] | None:
        number = number_of.get(_key(*events.who(thread, generation)))
        if number is None:
            return None
        filled[number] = filled[number] or [0] * BINS  # also another record's, if neither thread is known any more
        return filled[number]

    fields = ("kind", "start_ticks", "end_ticks", "own_gil_ticks", "thread", "thread_generation")
    columns = map(events.records.column, fields)
    for index, kind, start, end, own_gil, thread, generation in zip(range(len(events)), *columns):
        if is_contention[kind] and index not in chosen and (bins := bins_of(thread, generation)):
            start, end = start - first, end - own_gil - first
            at = start // width
            if start <= end and at == end // width and 0 <= at < BINS:
                bins[at] += end - start  # nearly all are in one bin
            else:
                _spread(bins, width, max(0, start), min(end, BINS * width))
    return [[min(1000, -(-1000 * ticks // width)) for ticks in bins] for bins in filled]


def _spread(bins: list[int], width: int, start: int, end: int) -> None:
    """Add the ticks from `start` to `end` to the bins that they lie in."""
    while start < end:
        at = start // width
        until = min(end, (at + 1) * width)
        bins[at] += until - start
        start = until
