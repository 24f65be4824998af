"""Exchanging one object for another wherever a loaded module refers to it by name."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["ModuleType", "namespace_of", "rebind"]

ModuleType: Any = type(sys)
_module_dict: Any = ModuleType.__dict__["__dict__"].__get__
_class_dict: Any = type.__dict__["__dict__"].__get__


def namespace_of(module: Any) -> dict[str, Any]:
    """
    A module's globals themselves ({} for what is no module).

    Never getattr or vars: a module of `importlib.util.LazyLoader`, or with a `__getattr__` of its own, would run code.
    """
    return _module_dict(module) if issubclass(type(module), ModuleType) else {}


def rebind(pairs: Iterable[tuple[Any, Any]]) -> int:
    """
    In every loaded module, let globals and attributes of the classes defined there that are an `old` be its `new`.

    By identity, so that it does not matter under which name or by which way a module got hold of it. Not found: default
    arguments, closures, containers, instances, classes inside classes. Runs no code of the modules'. Safe while other
    threads import and run; a module that is in the middle of importing `old` from somewhere else may keep it.

    Args:
        pairs: (old, new); no `old` is a `new`.
    Returns:
        The number of names bound anew.
    """
    exchange = {id(old): (old, new) for old, new in pairs}
    count = 0
    for module_name, module in sys.modules.copy().items():
        if not isinstance(module_name, str) or module_name.partition(".")[0] == "tracedthread":
            continue
        namespace = namespace_of(module)
        for name, value in namespace.copy().items():
            if id(value) in exchange:
                namespace[name] = exchange[id(value)][1]
                count += 1
            elif issubclass(type(value), type):
                count += _rebind_class(value, module_name, exchange)
    return count


def _rebind_class(cls: Any, module_name: str, exchange: dict[int, tuple[Any, Any]]) -> int:
    attributes = _class_dict(cls)
    if attributes.get("__module__") != module_name:
        return 0
    count = 0
    for name, value in attributes.copy().items():
        if id(value) in exchange:
            try:
                type.__setattr__(cls, name, exchange[id(value)][1])
                count += 1
            except TypeError:  # an immutable type
                pass
    return count
