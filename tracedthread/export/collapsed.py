"""
Collapsed stacks, a line a stack, root first: `main (app.py:50);report (cache.py:118);[PriceCache._lock] 5400000000`.

The innermost frame is the lock, the value is nanoseconds. As read by FlameGraph's flamegraph.pl (`--countname ns`),
inferno and speedscope.
"""

from __future__ import annotations

from typing import TextIO

from tracedthread.capture import Frame
from tracedthread.export.clean import clean, write
from tracedthread.export.sides import samples
from tracedthread.profile import Profile


def render(profile: Profile, stream: TextIO, *, waits: bool = False) -> None:
    """Write blame, or who waited."""
    totals: dict[str, int] = {}
    for sample in samples(profile, waits=waits):
        frames = [*map(_frame, reversed(sample.stack)), f"[{_escaped(sample.lock) or 'unnamed'}]"]
        line = ";".join(frames)
        totals[line] = totals.get(line, 0) + sample.ns
    write("".join(f"{line} {ns}\n" for line, ns in totals.items()), stream)


def _frame(frame: Frame) -> str:
    return (
        f"{_escaped(frame.function)} ({_escaped(frame.file)}:{frame.line})" if frame.file else _escaped(frame.function)
    )


def _escaped(text: str) -> str:
    return clean(text).replace(";", ",")  # the format has no way to write one
