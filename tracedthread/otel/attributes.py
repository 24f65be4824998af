"""
Threads and places as attributes of spans and log events.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from tracedthread import names
from tracedthread.capture import Frame
from tracedthread.live import Who

__all__ = ["place", "stacktrace", "thread"]

Values = Mapping[str, "str | int | float"]

MAX_FRAMES = 32
MAX_STACKTRACE = 4096


def thread(who: Who, prefix: str = "") -> Values:
    """A thread's id and name, as far as they are known."""
    values: dict[str, str | int | float] = {}
    if who.ident:
        values[prefix + names.THREAD_ID] = who.ident
    if who.name:
        values[prefix + names.THREAD_NAME] = who.name
    return values


@lru_cache(maxsize=1024)
def place(stack: tuple[Frame, ...], prefix: str = "") -> Values:
    """The innermost frame of a stack; nothing of an empty one."""
    if not stack:
        return {}
    frame = stack[0]
    values: dict[str, str | int | float] = {prefix + names.FUNCTION: frame.function}
    if frame.path:
        values[prefix + names.FILE] = frame.path
    if frame.line:
        values[prefix + names.LINE] = frame.line
    return values


@lru_cache(maxsize=1024)
def stacktrace(stack: tuple[Frame, ...]) -> str:
    """
    A stack, innermost first, in the form of Python's tracebacks, in which the innermost frame comes last.

    Of a long one the innermost frames.
    """
    lines: list[str] = []
    room = MAX_STACKTRACE
    for frame in stack[:MAX_FRAMES]:
        line = f'  File "{frame.path}", line {frame.line}, in {frame.function}\n'
        room -= len(line)
        if room < 0:
            break
        lines.append(line)
    return "".join(reversed(lines))
