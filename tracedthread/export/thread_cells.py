"""
The columns that tables of threads have in common: how long each lived, and what it did in that time.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from tracedthread.export.terminal import heat
from tracedthread.export.units import duration
from tracedthread.profile import Profile
from tracedthread.rows import ThreadRow

COLUMNS = ("lived", "wait", "own GIL", "blocked", "idle", "permit", "cpu")
# What goes first where there is no room for all.
LESS = ("cpu", "permit", "blocked", "own GIL")
# Of one column.
WIDTH = 8

_MEANINGS = {
    "own GIL": "it could have gone on, but for the GIL.",
    "blocked": "others, while it held a lock.",
    "idle": "for work.",
    "permit": "for a permit or for room.",
}


def fitting(room: int, rows: Iterable[ThreadRow]) -> list[str]:
    """The columns that say something of these threads and for which there is room, in characters."""
    blocked = any(row.blamed_ticks for row in rows)
    columns = [column for column in COLUMNS if blocked or column != "blocked"]
    for column in LESS:
        if len(columns) * WIDTH <= room:
            break
        if column in columns:
            columns.remove(column)
    return columns


def legend(columns: list[str]) -> str:
    """What the columns mean, one line."""
    return " ".join(f"{column}: {_MEANINGS[column]}" for column in columns if column in _MEANINGS)


def cells(row: ThreadRow, profile: Profile) -> dict[str, Text]:
    """A thread's cells by column."""
    at_least = "" if profile.knows_lifetime(row) else "\u2265 "
    return {
        "lived": Text(at_least + duration(row.lifetime_s) if not row.is_other else "-"),
        "wait": Text(duration(row.wait_s), style=heat(row.wait_s)),
        "own GIL": Text(duration(row.own_gil_s)),
        "blocked": Text(duration(row.blocked_others_s), style=heat(row.blocked_others_s)),
        "idle": Text(duration(row.idle_s)),
        "permit": Text(duration(row.resource_s)),
        "cpu": Text(duration(row.cpu_s) if row.cpu_ns else "-"),
    }
