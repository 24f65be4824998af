"""
The timeline: threads with their slow waits, one by one as far as there is room, and what they held meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from heapq import nlargest
from typing import TYPE_CHECKING, Any

from tracedthread.events import EventRow
from tracedthread.export.holds import Hold, holds, obtained_ticks
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
    weights = [_BIAS[event.kind] + event.end_ticks - event.start_ticks for event in events]
    chosen = set(nlargest(most_events, range(len(events)), key=weights.__getitem__))
    kept = [events[index] for index in chosen]
    kept.sort(key=lambda event: (event.start_ticks, event.sequence))
    held = holds(kept)
    shown = _threads(kept, held, most_threads)
    number_of = {key: index for index, (key, _) in enumerate(shown)}
    page = _Page(profile, names, number_of)
    waits = [event for event in kept if _who(event) in number_of]
    bins: list[list[int]] = [[] for _ in shown]
    if len(kept) < len(events):
        rest = (event for index, event in enumerate(events) if index not in chosen)
        bins = _bins(rest, profile, number_of)
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
_BIAS = {kind: number << 64 for kind, number in _CLASS.items()}  # more than any time


def _who(event: EventRow) -> Hashable:
    return event.thread if event.thread is not None else event.thread_name


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


def _bins(events: Iterable[EventRow], profile: Profile, number_of: dict[Hashable, int]) -> list[list[int]]:
    width = max(1, -(-profile.process.duration_ticks // BINS))
    filled: list[list[int]] = [[] for _ in number_of]
    for event in events:
        number = number_of.get(_who(event))
        if number is None or event.kind not in CONTENTION_KINDS:
            continue
        bins = filled[number] = filled[number] or [0] * BINS
        start, end = max(0, event.start_ticks), min(obtained_ticks(event), width * BINS)
        while start < end:
            at = start // width
            until = min(end, (at + 1) * width)
            bins[at] += until - start
            start = until
    return [[min(1000, -(-1000 * ticks // width)) for ticks in bins] for bins in filled]
