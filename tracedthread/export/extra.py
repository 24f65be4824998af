"""
Packages that only some forms need, and that are not installed with the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


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
