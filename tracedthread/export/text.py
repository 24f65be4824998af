"""
The report for people, in a terminal or not: first what matters in plain words, then the tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tracedthread.capture import Frame
from tracedthread.export import thread_cells
from tracedthread.export.clean import clean
from tracedthread.export.findings import WORTH_A_SENTENCE, findings, is_held_long, summed_by_place
from tracedthread.export.pools import LEGEND, MAX_POOLS, TITLE, pool_table
from tracedthread.export.terminal import heat, new_table, print_to, shortened
from tracedthread.export.units import count, duration, percent, short
from tracedthread.profile import Profile
from tracedthread.rows import OTHER, LockRow, WaitRow

MAX_LOCKS = 12
MAX_STACKS = 5
MAX_SHARES = 3
MAX_FRAMES = 10
MAX_IDLE = 8
MAX_THREADS = 10

# The columns of the table of locks, with the room they need.
_NAME_WIDTH = 20
_COLUMNS = {
    "acquisitions": ("acq", 8),
    "contended": ("busy", 7),
    "wait": ("wait", 8),
    "wait p50": ("wait\np50", 8),
    "wait p99": ("wait\np99", 8),
    "wait max": ("wait\nmax", 8),
    "hold": ("hold", 8),
    "hold p99": ("hold\np99", 8),
    "hold max": ("hold\nmax", 8),
    "gil": ("GIL", 6),
}
_LEGENDS = (
    "busy: had to wait. p50, p99: half, 99 % are at most this. open: waits that are not over.",
    "GIL: of the wait, nothing but the GIL was missing, to the owner or to the waiter.",
)
_CUT_OFF = {
    "killed": "The process ended without closing its recording (killed, or os._exit); all up to its end is here.",
    "unknown": "The recording is not closed: its process, of another machine or container or of before a reboot, was "
    "cut off or goes on there.",
}
# What goes first where there is no room for all.
_LESS = ("hold p99", "wait p50", "gil", "hold", "acquisitions", "wait max", "hold max", "contended", "wait p99")


def render(profile: Profile, stream: TextIO) -> None:
    """Write the report."""
    print_to(stream, lambda console: _Report(console, profile).print())


class _Report:
    def __init__(self, console: Console, profile: Profile) -> None:
        self.console = console
        self.profile = profile

    def print(self) -> None:
        self._header()
        self._findings()
        self._locks()
        self._blame()
        self._waits()
        self._idle("Idle: waiting for work, not a problem in itself", self.profile.idle)
        self._idle("Waiting for a permit or for room", self.profile.resources)
        self._pools()
        self._threads()
        self._warnings()

    def _header(self) -> None:
        process = self.profile.process
        title = Text(clean(process.program) or "?", style="bold")
        lasted = duration(process.duration_s, digits=3)
        if process.is_cut_off:
            lasted = f"at least {lasted}"  # its last sign of life
        facts = (
            f"  pid {process.pid}, Python {clean(process.python)}, {lasted} from "
            f"{process.started:%Y-%m-%d %H:%M:%S} UTC, "
        )
        style = {"killed": "bold red", "running": "green"}.get(process.state, "")
        self.console.print(title + Text(facts) + Text(process.state, style=style))
        if sentence := _CUT_OFF.get(process.state):
            self.console.print(Text(sentence, style="yellow"))

    def _section(self, title: str) -> None:
        self.console.print()
        self.console.print(Text(title, style="bold cyan"))

    def _findings(self) -> None:
        self.console.print()
        for sentence in findings(self.profile):
            # Hanging indent: the sentence wraps under itself.
            line = Table.grid(padding=(0, 1))
            line.add_row(Text("•", style="bold yellow"), self._quoted(clean(sentence)))
            self.console.print(line)

    def _quoted(self, sentence: str) -> Text:
        """What stands in backquotes becomes bold where that can be seen."""
        if self.console.color_system is None:
            return Text(sentence)
        text = Text()
        for index, part in enumerate(sentence.split("`")):
            text.append(part, style="bold" if index % 2 else "")
        return text

    def _locks(self) -> None:
        locks = [
            lock for lock in self.profile.locks if lock.stats.contended or lock.stats.waiters or is_held_long(lock)
        ]
        locks = locks or list(self.profile.locks)
        if not locks:
            return
        self._section("Locks, by time waited")
        columns = _fitting(self.console.width)
        table = new_table("lock", *(_COLUMNS[column][0] for column in columns))
        for lock in locks[:MAX_LOCKS]:
            cells = _lock_cells(lock)
            table.add_row(_lock_name(lock), *(cells[column] for column in columns))
        self.console.print(table)
        for legend in _LEGENDS:
            self.console.print(Text(legend, style="dim"))
        rest = [lock for lock in self.profile.locks if lock not in locks[:MAX_LOCKS]]
        if rest:
            contended = sum(lock.stats.contended for lock in rest)
            waited = f"{count(contended, 'wait')}, {duration(sum(lock.wait_s for lock in rest))}" if contended else ""
            self.console.print(Text(f"and {count(len(rest), 'more lock')}: {waited or 'nobody waited'}", style="dim"))

    def _blame(self) -> None:
        blames = [(row, lock) for lock in self.profile.locks for row in lock.blame]
        blames.sort(key=lambda pair: -pair[0].blame_ticks)
        if not blames:
            return
        self._section("Because of whom: where locks were released that others waited for")
        for row, lock in blames[:MAX_STACKS]:
            head = Text(f"{duration(row.blame_s):>7}", style=f"bold {heat(row.blame_s)}")
            if row.holds:
                head.append(f"  by {count(row.holds, 'hold')}", style="not bold")
                head.append(f", at most {duration(row.max_s)} by one, of ", style="not bold default")
            else:
                head.append("  by holds of ", style="not bold default")
            head.append(clean(lock.name) or "(unnamed)", style="bold default")
            self.console.print(head)
            self._stack(row.stack)
        if len(blames) > MAX_STACKS:
            rest = sum(row.blame_s for row, _ in blames[MAX_STACKS:])
            self.console.print(Text(f"and {len(blames) - MAX_STACKS} more, {duration(rest)}", style="dim"))
        for lock in self.profile.locks[:MAX_SHARES]:
            if lock.wait_s >= WORTH_A_SENTENCE * sum(lock.wait_s for lock in self.profile.locks):
                self.console.print(Text(_shares(lock), style="dim"))

    def _waits(self) -> None:
        waits = [(wait, lock) for lock in self.profile.locks for wait in lock.waits]
        waits.sort(key=lambda pair: -pair[0].wait_ticks)
        if not waits:
            return
        self._section("Where threads waited")
        for wait, lock in waits[:MAX_STACKS]:
            head = Text(f"{duration(wait.wait_s):>7}", style=f"bold {heat(wait.wait_s)}")
            head.append(f"  in {count(wait.count, 'wait')}", style="not bold")
            head.append(f", at most {duration(wait.max_s)}, for ", style="not bold default")
            head.append(clean(lock.name) or "(unnamed)", style="bold default")
            self.console.print(head)
            self._stack(wait.stack)
        if len(waits) > MAX_STACKS:
            rest = sum(wait.wait_s for wait, _ in waits[MAX_STACKS:])
            self.console.print(Text(f"and {len(waits) - MAX_STACKS} more, {duration(rest)}", style="dim"))

    def _stack(self, stack: tuple[Frame, ...]) -> None:
        lines = Text()
        for index, frame in enumerate(stack[:MAX_FRAMES]):
            lines.append(f"{clean(frame.function)} ", style="" if index else "bold")
            lines.append(f"{shortened(frame.path)}:{frame.line}\n", style="dim")
        if len(stack) > MAX_FRAMES:
            lines.append(f"… {count(len(stack) - MAX_FRAMES, 'more frame')}\n", style="dim")
        if not stack:
            lines.append(f"{OTHER}: no Python frames, or none that found room in the recording\n", style="dim")
        lines.rstrip()
        self.console.print(Padding(lines, (0, 0, 0, 9)))

    def _idle(self, title: str, rows: Iterable[WaitRow]) -> None:
        places = summed_by_place(rows)
        if not places:
            return
        self._section(title)
        table = new_table("time", "kind", "waits", "max", "where", numbers=(0, 2, 3))
        for row in places[:MAX_IDLE]:
            where = Text(clean(row.frame.function))
            if row.stack:
                where.append(f" {clean(row.frame.file)}:{row.frame.line}", style="dim")
            if row.lock:
                where.append(f"  {clean(row.lock)}", style="dim")
            table.add_row(duration(row.wait_s), row.kind, short(row.count), duration(row.max_s), where)
        self.console.print(table)
        if len(places) > MAX_IDLE:
            rest = sum(row.wait_s for row in places[MAX_IDLE:])
            self.console.print(
                Text(f"and {count(len(places) - MAX_IDLE, 'more place')}, {duration(rest)}", style="dim")
            )

    def _pools(self) -> None:
        pools = self.profile.pools
        if not pools:
            return
        self._section(TITLE)
        self.console.print(pool_table(pools))
        self.console.print(Text(LEGEND, style="dim"))
        if len(pools) > MAX_POOLS:
            rest = sum(pool.queue_s for pool in pools[MAX_POOLS:])
            self.console.print(Text(f"and {count(len(pools) - MAX_POOLS, 'more pool')}, {duration(rest)}", style="dim"))

    def _threads(self) -> None:
        threads = self.profile.threads
        if not threads:
            return
        self._section("Threads, by time waited")
        columns = thread_cells.fitting(self.console.width - 2 * _NAME_WIDTH, threads[:MAX_THREADS])
        table = new_table("thread", "runs", *columns, numbers=tuple(range(2, 2 + len(columns))))
        for thread in threads[:MAX_THREADS]:
            name = Text(clean(thread.name) or f"thread {thread.native_id}", style="bold")
            cells = thread_cells.cells(thread, self.profile)
            table.add_row(name, clean(thread.function), *(cells[column] for column in columns))
        self.console.print(table)
        self.console.print(Text(thread_cells.legend(columns), style="dim"))
        if len(threads) > MAX_THREADS:
            rest = sum(thread.wait_s for thread in threads[MAX_THREADS:])
            more = count(sum(thread.threads for thread in threads[MAX_THREADS:]), "more thread")
            line = f"and {more} that waited {duration(rest)}; all, and who started them: report --threads"
            self.console.print(Text(line, style="dim"))

    def _warnings(self) -> None:
        lines = []
        for row in self.profile.uncovered:
            names = ", ".join(row.where[:5]) + (", …" if len(row.where) > 5 else "")
            number = f": {row.count:,}" if row.count else ""
            lines.append(f"Not covered: {row.what}{number}" + (f" ({names})" if names else ""))
        lost = {name: number for name, number in self.profile.lost.items() if number}
        events, starts = lost.pop("events", 0), lost.pop("starts", 0)
        if lost:
            what = ", ".join(f"{number:,} {name}" for name, number in lost.items())
            lines.append(f"No room was left for {what}. Totals are exact; what has no row of its own is in {OTHER}.")
        if events:
            lines.append(f"The {count(events, 'oldest event')} made room for newer ones. No count or sum misses them.")
        if starts:
            lines.append(f"The {count(starts, 'oldest thread start')} of the audit trail made room for newer ones.")
        if lines:
            self.console.print()
        for line in lines:
            self.console.print(Text(f"! {clean(line)}", style="yellow"))


def _fitting(width: int) -> list[str]:
    """The columns of the table of locks for which there is room."""
    columns = list(_COLUMNS)
    for column in _LESS:
        if _NAME_WIDTH + sum(_COLUMNS[name][1] for name in columns) <= width:
            break
        columns.remove(column)
    return columns


def _lock_name(lock: LockRow) -> Text:
    name = Text(clean(lock.name) or "(unnamed)", style="bold")
    if lock.name != OTHER:
        many = f" ×{lock.stats.created:,}" if lock.stats.created > 1 else ""
        place = f"{clean(lock.created.file)}:{lock.created.line}"
        # A lock that nothing names is called after the line that creates it.
        where = clean(lock.created.function) if lock.name == place else place
        name.append(f"\n{where}{many}", style="dim not bold")
    return name


def _lock_cells(lock: LockRow) -> dict[str, Text]:
    stats = lock.stats
    waits = {
        "wait": lock.wait_s,
        "wait p50": lock.wait_quantile_s(0.5),
        "wait p99": lock.wait_quantile_s(0.99),
        "wait max": lock.wait_max_s,
    }
    holds = {"hold": lock.hold_s, "hold p99": lock.hold_quantile_s(0.99), "hold max": lock.hold_max_s}
    cells = {
        "acquisitions": Text(short(stats.acquisitions)),
        "contended": Text(percent(stats.contended, stats.attempts)),
    }
    cells.update({name: Text(duration(value), style=heat(value)) for name, value in waits.items()})
    cells.update({name: Text(duration(value)) for name, value in holds.items()})
    cells["gil"] = Text(percent(lock.own_gil_s + lock.gil_s, lock.wait_s))
    if not stats.contended:
        cells.update(dict.fromkeys([*waits, "gil"], Text("-", style="dim")))
        if stats.waiters:
            cells["wait"] = Text(f"{short(stats.waiters)} open", style="yellow")
    return cells


def _shares(lock: LockRow) -> str:
    """What the waiting for a lock was made of."""
    stats = lock.stats
    parts = {
        "while it was held": sum(row.blame_ticks for row in lock.blame),
        "while its owner waited for the GIL": stats.gil_ticks,
        "between two owners": stats.handoff_ticks,
        "for the own GIL": stats.own_gil_ticks,
    }
    # The share of a hold that is not over is not known yet.
    parts["in holds that are not over"] = stats.wait_ticks - sum(parts.values())
    shares = ", ".join(f"{percent(part, stats.wait_ticks)} {what}" for what, part in parts.items() if part > 0)
    return f"Of the waiting for {clean(lock.name) or '(unnamed)'}: {shares}."
