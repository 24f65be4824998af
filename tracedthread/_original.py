"""
The interpreter's own thread primitives, kept when tracedthread is first imported.

What tracedthread itself needs (a lock around `patch()`, the locks of the import system) comes from here, so that it is
never recorded and never depends on what is patched.
"""

from __future__ import annotations

import _frozen_importlib
import _thread
import sys

TYPE_CHECKING = False  # `typing` costs more to import than all of this package's start
if TYPE_CHECKING:
    from types import SimpleNamespace
    from typing import Any
else:
    SimpleNamespace = type(sys.implementation)

__all__ = ["bootstrap", "originals", "stock"]

#: The module `_thread` itself; while patched, some of its names are ours.
stock: Any = _thread

#: `importlib._bootstrap`, the one importer of `_thread` that must never see our locks.
bootstrap: Any = _frozen_importlib


def _take() -> SimpleNamespace:
    # While patched the import system holds the namespace made by the first import of this module: when tracedthread is
    # imported afresh (removed from sys.modules), `_thread` is no longer stock, and that namespace is.
    held = getattr(_frozen_importlib, "_thread", None)
    if isinstance(held, SimpleNamespace) and hasattr(held, "allocate_lock"):
        return held
    return SimpleNamespace(**{name: value for name, value in vars(_thread).items() if not name.startswith("__")})


#: Every name of `_thread` with the value it had before patching.
originals: SimpleNamespace = _take()
