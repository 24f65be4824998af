"""
Text reports through rich: tables and colours in a terminal, plain lines elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import PurePath
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from tracedthread.export.clean import clean, write

WIDTH = 100
# For tables whose long names are to stay on one line.
UNLIMITED = 100_000

_LIBRARY = re.compile(r".*/(?:site-packages|dist-packages|lib/python3\.\d+)/")


def print_to(stream: TextIO, show: Callable[[Console], None], *, width: int = WIDTH) -> None:
    """
    Write what `show` prints. Colours and the terminal's width are used only if the stream is a terminal.

    Args:
        width: Where the stream is no terminal, in characters.
    """
    is_terminal = stream.isatty()
    console = Console(
        file=stream,
        width=None if is_terminal else width,
        force_terminal=is_terminal,
        color_system="auto" if is_terminal and not os.environ.get("NO_COLOR") else None,
        highlight=False,
        markup=False,
        emoji=False,
    )
    # Written at once: rich ends the process when a pipe breaks.
    with console.capture() as captured:
        show(console)
    text = "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"
    write(text, stream)


def new_table(*headers: str, numbers: tuple[int, ...] = ()) -> Table:
    """
    A table without vertical lines.

    Args:
        headers: Those of one line stand as low as those of two.
        numbers: The columns to align right, all but the first if not given.
    """
    lines = 1 + max(header.count("\n") for header in headers)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False, header_style="dim")
    for index, header in enumerate(headers):
        right = index in numbers if numbers else index > 0
        header = "\n" * (lines - 1 - header.count("\n")) + header
        table.add_column(header, justify="right" if right else "left", no_wrap=right, overflow="fold")
    return table


def heat(wait_s: float) -> str:
    """The style for a time that somebody waited."""
    return "red" if wait_s >= 1 else "yellow" if wait_s >= 0.01 else ""


def shortened(path: str) -> str:
    """A path as short as it can be without becoming ambiguous."""
    path = clean(path)
    library = _LIBRARY.match(path)
    if library:
        return path[library.end() :]
    home = os.path.expanduser("~")
    try:
        here = os.getcwd()
    except OSError:  # the folder has been removed
        here = home
    for base, shown in ((here, ""), (home, "~/")):
        if base != "/" and path.startswith(base + "/"):
            return shown + path[len(base) + 1 :]
    return PurePath(path).name
