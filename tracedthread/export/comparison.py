"""
A comparison for people, in a terminal or not: first what matters in plain words, then the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracedthread.compare import BlameChange, Comparison, LockChange, LockMeasures
from tracedthread.export.clean import clean
from tracedthread.export.terminal import new_table, print_to
from tracedthread.export.units import count, duration, percent

MAX_LOCKS = 12
MAX_FUNCTIONS = 10
MAX_SENTENCES = 4
#: A change of a rate by less is not worth a colour or a sentence: two runs of one program differ by that much.
NOTABLE = 0.2
#: Below this, in seconds waited per second, a change is not worth a sentence.
NOTABLE_PER_S = 0.001
#: The same for a percentile, in seconds.
NOTABLE_WAIT_S = 0.001

_COLUMNS: dict[str, tuple[Callable[[LockMeasures], float], Callable[[float], str]]] = {
    "wait/s": (lambda one: one.wait_per_s, duration),
    "p99": (lambda one: one.wait_p99_s, duration),
    "max": (lambda one: one.wait_max_s, duration),
    "busy": (lambda one: one.contended_share, lambda share: percent(share, 1)),
    "blame/s": (lambda one: one.blame_per_s, duration),
    "hold/s": (lambda one: one.hold_per_s, duration),
    "hold p99": (lambda one: one.hold_p99_s, duration),
}


def render(comparison: Comparison, stream: TextIO) -> None:
    """Write the comparison. Colours and the terminal's width are used only if the stream is a terminal."""
    print_to(stream, lambda console: _print(console, comparison))


def sentences(comparison: Comparison) -> list[str]:
    """What changed, in plain words, the largest change first."""
    result = [_sentence(change) for change in comparison.locks if _is_notable(change) and change.status == "both"][
        :MAX_SENTENCES
    ]
    for status, verb in (("new", "New"), ("gone", "Gone")):
        changes = [change for change in comparison.locks if change.status == status]
        waited = [change for change in changes if _is_notable(change)]
        if waited:
            names = ", ".join(_name(change) for change in waited[:MAX_SENTENCES])
            result.append(f"{verb}, with waits: {names}.")
        if len(changes) > len(waited):
            result.append(f"{verb}, without waits to speak of: {count(len(changes) - len(waited), 'lock')}.")
    worse = [change for change in comparison.worse if change.change_per_s >= NOTABLE_PER_S]
    if worse:
        result.append(
            f"More blamed than before: {', '.join(f'{one.function} ({one.file})' for one in worse[:MAX_SENTENCES])}."
        )
    return result or ["No lock is waited for notably more or less than before."]


def _sentence(change: LockChange) -> str:
    base, new = change.base, change.new
    assert base is not None
    assert new is not None
    rate = f"{duration(new.wait_per_s)} in each second (was {duration(base.wait_per_s)})"
    p99 = f"p99 {duration(new.wait_p99_s)} (was {duration(base.wait_p99_s)})"
    if not _differs(base.wait_per_s, new.wait_per_s, NOTABLE_PER_S):
        word = "longer" if new.wait_p99_s > base.wait_p99_s else "shorter"
        return f"The waits for {_name(change)} are {word}: {p99}; together {rate}."
    word = "more" if new.wait_per_s > base.wait_per_s else "less"
    return f"Threads wait {word} for {_name(change)}: {rate}{f'; {p99}' if new.wait_p99_s != base.wait_p99_s else ''}."


def _is_notable(change: LockChange) -> bool:
    base, new = change.base, change.new
    base_per_s, new_per_s = (side.wait_per_s if side is not None else 0.0 for side in (base, new))
    if _differs(base_per_s, new_per_s, NOTABLE_PER_S):
        return True
    return base is not None and new is not None and _differs(base.wait_p99_s, new.wait_p99_s, NOTABLE_WAIT_S)


def _differs(base: float, new: float, least: float) -> bool:
    return abs(new - base) >= max(least, NOTABLE * max(base, new))


def _name(change: LockChange) -> str:
    return change.row.name or f"the lock created at {change.row.created.file}:{change.row.created.line}"


def _print(console: Console, comparison: Comparison) -> None:
    for deadlock in comparison.new_deadlocks:
        console.print(Text(f"New deadlock: {clean(str(deadlock))}.", style="bold red"))
    for side, profile in (("base", comparison.base), ("new", comparison.new)):
        process = profile.process
        line = Text(f"{side:<5}") + Text(clean(process.program) or "?", style="bold")
        line.append(f"  pid {process.pid}, Python {clean(process.python)}, ")
        line.append(
            f"{duration(process.recorded_s, digits=3)} from {process.started:%Y-%m-%d %H:%M:%S} UTC, {process.state}"
        )
        console.print(line)
    for caveat in comparison.caveats():
        console.print(Text(f"! {clean(caveat)}", style="yellow"))
    console.print()
    for sentence in sentences(comparison):
        bullet = Table.grid(padding=(0, 1))  # a hanging indent: the sentence wraps under itself
        bullet.add_row(Text("•", style="bold yellow"), Text(clean(sentence)))
        console.print(bullet)
    _print_locks(console, comparison)
    _print_blame(console, comparison)


def _print_locks(console: Console, comparison: Comparison) -> None:
    locks = [change for change in comparison.locks if _waited(change)] or list(comparison.locks)
    if not locks:
        return
    _title(console, "Locks, by change of the time waited")
    table = new_table("lock", "", *_COLUMNS, numbers=tuple(range(2, 2 + len(_COLUMNS))))
    table.columns[0].overflow = "fold"
    for change in locks[:MAX_LOCKS]:
        name = Text(clean(_name(change)), style="bold")
        if (created := change.row.created).line:
            name.append(f"\n{clean(created.file)}:{created.line}", style="dim not bold")
        sides = Text("base\n", style="dim") + Text("new", style="not dim")
        table.add_row(name, sides, *(_cell(change, *column) for column in _COLUMNS.values()))
    console.print(table)
    legend = (
        "/s: in each second recorded, all threads together. busy: had to wait. p99: 99 % of the waits are at most this."
    )
    console.print(Text(legend, style="dim"))
    if len(comparison.locks) > len(locks[:MAX_LOCKS]):
        rest = len(comparison.locks) - len(locks[:MAX_LOCKS])
        console.print(Text(f"and {count(rest, 'more lock')}, with less of a change or without waits", style="dim"))


def _waited(change: LockChange) -> bool:
    return any(side.contended for side in (change.base, change.new) if side is not None)


def _cell(change: LockChange, value_of: Callable[[LockMeasures], float], shown: Callable[[float], str]) -> Text:
    base, new = (value_of(side) if side is not None else None for side in (change.base, change.new))
    cell = Text("-" if base is None else shown(base), style="dim")
    style = "not dim"
    if base is not None and new is not None and abs(new - base) > NOTABLE * max(base, new):
        style += " red" if new > base else " green"
    return cell + Text("\n") + Text("-" if new is None else shown(new), style=style)


def _print_blame(console: Console, comparison: Comparison) -> None:
    changes = [change for change in comparison.blame if change.change_per_s > 0]
    if not changes:
        return
    _title(console, "Functions that make others wait more than before, by change")
    table = new_table("function", "lock", "base/s", "new/s", "holds", numbers=(2, 3, 4))
    table.columns[0].overflow = table.columns[1].overflow = "fold"
    for change in changes[:MAX_FUNCTIONS]:
        table.add_row(*_blame_cells(change))
    console.print(table)
    if len(changes) > MAX_FUNCTIONS:
        console.print(Text(f"and {count(len(changes) - MAX_FUNCTIONS, 'more function')}", style="dim"))


def _blame_cells(change: BlameChange) -> Iterator[Text]:
    yield Text(clean(change.function), style="bold").append(f" {clean(change.file)}", style="dim not bold")
    yield Text(clean(change.lock))
    yield Text(duration(change.base_per_s), style="dim")
    yield Text(duration(change.new_per_s), style="red" if change.change_per_s > NOTABLE * change.new_per_s else "")
    yield Text(f"{change.base_holds:,} → {change.new_holds:,}")


def _title(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, style="bold cyan"))
