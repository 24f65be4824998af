"""
The threads, for people: who started them, where, what they waited; and the audit trail, if one was kept.
"""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.text import Text

from tracedthread.capture import Frame
from tracedthread.export import thread_cells
from tracedthread.export.clean import clean
from tracedthread.export.findings import pause_sentences
from tracedthread.export.terminal import UNLIMITED, new_table, print_to, shortened
from tracedthread.export.units import count, duration
from tracedthread.profile import Profile
from tracedthread.rows import OTHER, ThreadRow


def render(profile: Profile, stream: TextIO) -> None:
    """Write the threads of `profile`, oldest first, and its audit trail."""

    def show(console: Console) -> None:
        _threads(console, profile)
        _trail(console, profile)

    print_to(stream, show, width=UNLIMITED)  # nothing is cut where no terminal sets a limit


def _threads(console: Console, profile: Profile) -> None:
    rows = sorted(profile.threads, key=lambda row: (row.is_other, row.started_ticks))
    alive = sum(row.alive for row in rows)
    console.print(Text(f"{count(sum(row.threads for row in rows), 'thread')}, {alive:,} alive", style="bold"))
    for sentence in pause_sentences(profile):
        console.print(Text(f"! {sentence}", style="yellow"))
    columns = thread_cells.fitting(console.width - 5 * thread_cells.WIDTH, rows)
    table = new_table("thread", "started", "after", *columns, numbers=tuple(range(2, 3 + len(columns))))
    for row in rows:
        after = duration(row.latency_s) if row.latency_ticks else "-"
        cells = thread_cells.cells(row, profile)
        table.add_row(_name(row), _where(row), after, *(cells[column] for column in columns))
    console.print(table)
    after = "after: from the call that started it to its first instruction."
    for legend in (after, thread_cells.legend(columns)):
        console.print(Text(legend, style="dim"))


def _name(row: ThreadRow) -> Text:
    if row.is_other:
        return Text(OTHER, style="bold").append(
            f"\n{row.threads:,} ended, their records used again", style="dim not bold"
        )
    name = Text(clean(row.name) or f"thread {row.native_id}", style="bold")
    if row.function:
        name.append(f"\n{clean(row.function)}", style="dim not bold")
    return name


def _where(row: ThreadRow) -> Text:
    if row.is_other:
        return Text()
    if not row.stack:
        return Text("not by us", style="dim")
    return Text(f"by {clean(row.parent) or 'a thread that is gone'}").append(f"\n{_place(row.created)}", style="dim")


def _place(frame: Frame) -> str:
    return f"{clean(frame.function)} {shortened(frame.path)}:{frame.line}"


def _trail(console: Console, profile: Profile) -> None:
    if not profile.starts:
        ways = "patch(audit_trail=True), TRACEDTHREAD_AUDIT_TRAIL=1 or run --audit-trail"
        console.print(Text(f"\nNo audit trail was kept: {ways} keeps one.", style="dim"))
        return
    console.print(Text("\nAudit trail: who started which thread", style="bold"))
    table = new_table("at", "who", "started", "to run", "where", numbers=(0,))
    for start in profile.starts:
        table.add_row(
            f"{start.at_s:.6f} s",
            clean(start.parent) or f"thread {start.parent_native_id}",
            Text(clean(start.name) or f"thread {start.ident:#x}", style="bold"),
            clean(start.function),
            Text(_place(start.frame) if start.stack else "C code", style="dim"),
        )
    console.print(table)
    if lost := profile.lost.get("starts", 0):
        console.print(Text(f"! {count(lost, 'older start')} made room for these.", style="yellow"))
