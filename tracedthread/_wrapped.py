"""
Factories of locks that another tool has put its own around.

A wrapper keeps the factory that it found where no exchange of names reaches it. That of ddtrace's lock profiler is
taken off while names are exchanged, and put around what is there then; what others keep is reported as not covered.
"""

from __future__ import annotations

import gc
import sys

from ._original import originals
from ._rebind import ModuleType, namespace_of, rebind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

__all__ = ["WRAPPED", "Aside", "kept"]

WRAPPED = "locks made by factories that another tool has wrapped"

_DDTRACE = "ddtrace.profiling.collector._lock"
# Enough from a wrapper around ddtrace's compiled one to the factory: wrapper, function, its scope. One more would lead
# through the collector, which is in that scope as well, to all the rest of ddtrace.
_STEPS = 4
_MAX_OBJECTS = 5000
_CELL = type((lambda cell: lambda: cell)(0).__closure__[0])  # type: ignore[index]
_FUNCTION = type(namespace_of)
# Of these objects and closures are made; to go through one is no step.
_NO_STEP = frozenset({tuple, list, dict, _FUNCTION, _CELL})
_LOCKS = (originals.LockType, originals.RLock)


class Aside:
    """While entered, ddtrace's lock profiler has taken its wrapper off `threading.Lock`."""

    def __init__(self) -> None:
        self._taken_off: list[tuple[Any, Any]] = []  # (wrapper, the collector that made it): one, or none

    def __enter__(self) -> None:
        wrapper = _threading().get("Lock")
        if type(wrapper).__module__ != _DDTRACE:
            return
        kind = namespace_of(sys.modules.get(_DDTRACE)).get("LockCollector")
        for found in _reached(wrapper):
            if kind in type(found).__mro__:
                try:
                    found.unpatch()
                    self._taken_off.append((wrapper, found))
                except Exception:  # a release that we do not know: then it stays, and `kept` tells
                    _threading()["Lock"] = wrapper
                return

    def __exit__(self, *_: object) -> None:
        for wrapper, collector in self._taken_off:
            space = _threading()
            try:
                collector.patch()
            except Exception:
                space["Lock"] = wrapper
            if (again := space["Lock"]) is not wrapper:
                rebind([(wrapper, again)])  # the names that others have taken it by
        self._taken_off.clear()


def kept(pairs: Iterable[tuple[Any, Any]]) -> list[str]:
    """
    The names in `threading` behind which a stock factory still works, because the tool that wrapped it keeps it.

    Runs no code of the tool's. A factory that it looks up anew each time, or keeps in a module's globals, is exchanged
    like all others, and not found here.

    Args:
        pairs: (stock, ours)
    """
    stock, ours = ({id(one) for one in side} for side in zip(*pairs))
    space = _threading()

    def keeps_stock(factory: Any) -> bool:
        for found in _reached(factory):  # the nearest is what it wraps, what comes later belongs to somebody it knows
            if id(found) in stock:
                return True
            is_rlock = type(found) is _FUNCTION and found.__globals__ is space and found.__name__ == "RLock"
            if is_rlock or id(found) in ours:  # threading.RLock looks up the type that it makes
                return False
        return False

    names = ("Lock", "RLock", "_allocate_lock", "_CRLock")
    wrapped = [name for name in names if name in space and id(space[name]) not in ours]
    return [f"threading.{name}" for name in wrapped if keeps_stock(space[name])]


def _threading() -> dict[str, Any]:
    return namespace_of(sys.modules.get("threading"))


def _reached(start: Any) -> Iterator[Any]:
    """What an object refers to, and that in turn, the nearest first: not far, nor through modules and classes."""
    seen = {id(namespace_of(module)) for module in sys.modules.copy().values()}
    last = len(seen) + _MAX_OBJECTS
    level, next_level = [start], []
    for _ in range(_STEPS):
        while level:
            for found in gc.get_referents(level.pop()):
                if id(found) in seen or len(seen) > last:
                    continue
                seen.add(id(found))
                yield found
                kind = type(found)
                if kind in _NO_STEP:
                    level.append(found)
                elif not issubclass(kind, (type, ModuleType)) and kind not in _LOCKS:
                    next_level.append(found)
        level, next_level = next_level, []
