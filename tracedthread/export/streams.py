"""
The standard streams of a command: output whose reader may have seen enough, and the one line that says why not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from tracedthread.export.clean import clean, write

#: The exit status of a command that cannot do what it was asked for.
BAD_INPUT = 2


class Unwritable(Exception):
    """The standard output cannot be written to. The message says why."""


def put(text: str) -> None:
    """Write to the standard output; see `emit`."""
    emit(lambda stream: write(text, stream))


def emit(show: Callable[[TextIO], None]) -> None:
    """
    Have something written to the standard output; a reader that has seen enough is no error.

    Raises:
        Unwritable: As it says.
    """
    if sys.stdout is None:
        raise Unwritable("is closed")
    try:
        show(sys.stdout)
        sys.stdout.flush()
    except OSError as exc:
        # The interpreter flushes once more at exit, so that has to go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(exc, BrokenPipeError):
            raise Unwritable(exc.strerror or str(exc)) from None


def say(*parts: str | Exception) -> None:
    """Write one line to the standard error, whatever is in the parts: what it is about, and why."""
    reasons = (part.strerror if isinstance(part, OSError) and part.strerror else str(part) for part in parts)
    line = clean(": ".join(["tracedthread", *reasons])) + "\n"
    if sys.stderr is not None:
        with suppress(OSError):
            write(line, sys.stderr)


def refuse(*parts: str | Exception) -> int:
    """As `say`. Returns BAD_INPUT."""
    say(*parts)
    return BAD_INPUT
