"""
How sentences name locks and places; names are in backquotes.
"""

from __future__ import annotations

from tracedthread.capture import Frame
from tracedthread.rows import OTHER


def lock_phrase(name: str, created: Frame) -> str:
    """A lock, by its name and where it was created."""
    if name == OTHER:
        return "locks without a row of their own"
    return f"`{name}`" if name else f"the lock created at {created.file}:{created.line}"


def place_phrase(stack: tuple[Frame, ...]) -> str:
    """Where a stack, innermost first, stands."""
    return f"`{stack[0].function}` ({stack[0].file}:{stack[0].line})" if stack else "code with no row of its own"


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."
