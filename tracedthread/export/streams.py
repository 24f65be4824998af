"""
The standard streams of a command: output whose reader may have seen enough, and the one line that says why not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TextIO

from tracedthread.export.clean import clean, write

#: The exit status of a command that cannot do what it was asked for.
BAD_INPUT = 2


def put(text: str) -> None:
    """Write to the standard output; see `emit`."""
    emit(lambda stream: write(text, stream))


def emit(show: Callable[[TextIO], None]) -> None:
    """
    Have something written to the standard output; a reader that has seen enough is no error.

    Raises:
        OSError: It cannot be written to.
    """
    try:
        show(sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at exit, so that has to go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(*parts: str | Exception) -> None:
    """Write one line to the standard error, whatever is in the parts: what it is about, and why."""
    reasons = (part.strerror if isinstance(part, OSError) and part.strerror else str(part) for part in parts)
    sys.stderr.write(clean(": ".join(["tracedthread", *reasons])) + "\n")


def refuse(*parts: str | Exception) -> int:
    """As `say`. Returns BAD_INPUT."""
    say(*parts)
    return BAD_INPUT
