"""
Packages that only some forms need, and that are not installed with the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from tracedthread.capture import CaptureError


class MissingExtra(Exception):
    """A package is missing. The message is one line that says how to get it."""


def load(module: str) -> Any:
    """
    Import a module that comes with the extra `reports`.

    Raises:
        MissingExtra: It is not there, or cannot be imported.
    """
    try:
        return import_module(module)
    except Exception as exc:  # protobuf refuses messages of another version with an error of its own
        reason = f"{type(exc).__name__}: {exc}".splitlines()[0]
        raise MissingExtra(f"this form needs pip install 'tracedthread[reports]' ({reason})") from exc


@contextmanager
def damage_refused() -> Iterator[None]:
    """
    Around the making of protobuf's messages.

    Raises:
        CaptureError: A number is larger than its field, as only a damaged capture has one.
    """
    try:
        yield
    except ValueError as exc:
        if "out of range" not in str(exc):
            raise
        raise CaptureError(f"is damaged: {exc}") from None
