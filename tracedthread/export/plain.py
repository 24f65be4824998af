"""
Text for people without rich, for a terminal, a log or a failed test: what a verdict says, and how to say it.
"""

from __future__ import annotations

from collections.abc import Iterator

from tracedthread.capture import Frame
from tracedthread.export.clean import clean
from tracedthread.export.units import count, duration
from tracedthread.limits import Limit
from tracedthread.rows import OTHER, Stats
from tracedthread.verdict import Reading, Verdict

MAX_READINGS = 5
MAX_STACKS = 3
MAX_FRAMES = 6


def amount(limit: Limit, value: float) -> str:
    """A value of what a limit is about."""
    return f"{100 * value:.3g} %" if limit.measure.is_share else duration(value, digits=3)


def explain(verdict: Verdict, *, below: tuple[str, ...] = ()) -> list[str]:
    """
    Lines on what exceeded the limit, with the stacks under it, and why it cannot be judged.

    Args:
        below: Parts of paths. A stack is shown up to the first frame, from within, whose path has one of them.
    """
    limit = verdict.limit
    lines = []
    for reading in verdict.exceeded[:MAX_READINGS]:
        place = f" ({reading.place.file}:{reading.place.line})" if reading.place.line else ""
        lines.append(
            clean(
                f"{reading.name or '(unnamed)'}{place}: {limit.measure} was {_how_known(reading)}"
                f"{amount(limit, reading.value)}, "
                f"the limit is {amount(limit, limit.most)}"
            )
        )
        lines += [f"  {line}" for line in _evidence(reading, below)]
    if len(verdict.exceeded) > MAX_READINGS:
        lines.append(f"and {len(verdict.exceeded) - MAX_READINGS} more above the limit")
    if verdict.problem:
        lines.append(clean(f"cannot be judged: {verdict.problem}"))
    if verdict.note:
        lines.append(clean(f"left out: {verdict.note}"))
    return lines


def measured(verdict: Verdict) -> str:
    """What was measured, in a few words: of the worst, if the limit selects many."""
    if not verdict.readings:
        return "nobody" if not verdict.problem else "unknown"
    worst = verdict.readings[0]
    among = f", the worst of {len(verdict.readings)}" if len(verdict.readings) > 1 else ""
    return f"{_how_known(worst)}{amount(verdict.limit, worst.value)}{among}"


def _how_known(reading: Reading) -> str:
    return "at least " if reading.is_minimum else "at most " if reading.least < reading.value else ""


def _evidence(reading: Reading, below: tuple[str, ...]) -> Iterator[str]:
    if reading.lock is not None:
        yield _counters(reading.lock.stats, reading.lock.wait_s, reading.lock.wait_max_s, "wait")
        yield _counters(reading.lock.stats, reading.lock.hold_s, reading.lock.hold_max_s, "hold")
        for one in reading.pending[:MAX_STACKS]:
            did = "had waited for" if one.of == "wait" else "had held it for"
            elapsed = duration(one.elapsed_ticks * reading.lock.tick_s)
            when = f"at least {elapsed} when it was cut off" if one.is_minimum else f"{elapsed} when this was read"
            yield clean(f"{one.thread or 'a thread'} {did} {when}{', in' if one.stack else ''}")
            if one.stack:
                yield from _stack(one.stack, below)
        for row in reading.lock.waits[:MAX_STACKS]:
            yield f"waited {duration(row.wait_s)} in {count(row.count, 'wait')}, at most {duration(row.max_s)}, in"
            yield from _stack(row.stack, below)
        if len(reading.lock.waits) > MAX_STACKS:
            yield f"and {count(len(reading.lock.waits) - MAX_STACKS, 'more stack')} that waited"
    for blame in reading.blame[:MAX_STACKS]:
        yield f"made others wait {duration(blame.blame_s)} in {count(blame.holds, 'hold')}, released in"
        yield from _stack(blame.stack, below)
    if len(reading.blame) > MAX_STACKS:
        yield f"and {count(len(reading.blame) - MAX_STACKS, 'more stack')} that made others wait"


def _counters(stats: Stats, sum_s: float, max_s: float, what: str) -> str:
    number = stats.contended if what == "wait" else sum(stats.hold.counts)
    return (
        f"{count(number, what)}: {duration(sum_s)} together, the longest {duration(max_s)}" if number else f"no {what}s"
    )


def _stack(stack: tuple[Frame, ...], below: tuple[str, ...]) -> Iterator[str]:
    runner = next((at for at, frame in enumerate(stack) if any(part in frame.path for part in below)), len(stack))
    frames = stack[:runner] or stack
    for frame in frames[:MAX_FRAMES]:
        place = f" {frame.path}:{frame.line}" if frame.path else ""
        yield clean(f"    {frame.function}{place}")
    if len(frames) > MAX_FRAMES:
        yield f"    … {count(len(frames) - MAX_FRAMES, 'more frame')}"
    if not frames:
        yield f"    {OTHER}: no Python frames, or none that found room in the recording"
