"""What a recording that starts now cannot see: counted, and named as far as names are cheap to find."""

from __future__ import annotations

import gc
import sys

from ._original import bootstrap, originals
from ._rebind import ModuleType, namespace_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["BEFORE", "IMPORT", "SIMPLE_QUEUE", "find"]

BEFORE = "locks created before patching"
SIMPLE_QUEUE = "queue.SimpleQueue waits (implemented in C), other than tasks of thread pools"
IMPORT = "import locks"

#: At most so many names; `count` is always whole.
MAX_NAMES = 20


def find(ours: Any) -> tuple[dict[str, Any], ...]:
    """
    What is not covered, as `uncovered` in the report: `{"what": str, "count": int, "where": [name, ...]}`.

    `count` is the number of live stock locks or queues, found by a walk over the objects that the garbage collector
    knows (not those that `gc.freeze()` set apart). For import locks it is the number at this moment. A name is a
    module's global or class attribute, or an attribute of an instance that is a module's global.

    Args:
        ours: A lock that is not the program's.
    """
    lock, rlock = originals.LockType, originals.RLock
    simple_queue = getattr(sys.modules.get("_queue"), "SimpleQueue", None)
    locks: list[Any] = []
    queues: list[Any] = []
    for found in gc.get_objects():
        kind = type(found)
        if kind is lock or kind is rlock:
            locks.append(found)
        elif kind is simple_queue:
            queues.append(found)
    importing = _import_locks()
    locks = [found for found in locks if id(found) not in importing and found is not ours]
    rows: tuple[dict[str, Any], ...] = (
        {"what": BEFORE, "count": len(locks), "where": _names({id(found) for found in locks})},
        {"what": SIMPLE_QUEUE, "count": len(queues), "where": _names({id(found) for found in queues})},
        {"what": IMPORT, "count": len(importing), "where": []},
    )
    # Nothing is no news, but for SimpleQueue: executors make theirs later.
    return tuple(row for row in rows if row["count"] or row["what"] == SIMPLE_QUEUE)


def _import_locks() -> set[int]:
    locks = set()
    for reference in list(getattr(bootstrap, "_module_locks", {}).values()):
        module_lock = reference()
        for name in ("lock", "wakeup"):
            if (lock := getattr(module_lock, name, None)) is not None:
                locks.add(id(lock))
    return locks


def _names(wanted: set[int]) -> list[str]:
    names: dict[int, str] = {}
    if not wanted:
        return []
    for module_name, module in sys.modules.copy().items():
        if not isinstance(module_name, str) or module_name.startswith("tracedthread"):
            continue
        for name, value in namespace_of(module).copy().items():
            if id(value) in wanted:
                names.setdefault(id(value), f"{module_name}.{name}")
            else:
                for attribute, held in _attributes(value, module_name).items():
                    if id(held) in wanted:
                        names.setdefault(id(held), f"{module_name}.{name}.{attribute}")
        if len(names) == len(wanted):
            break
    return sorted(names.values())[:MAX_NAMES]


def _attributes(value: Any, module_name: str) -> dict[str, Any]:
    kind = type(value)
    if kind in _PLAIN or issubclass(kind, ModuleType):
        return {}
    try:
        if issubclass(kind, type):  # a class, named where it is defined
            space = type.__dict__["__dict__"].__get__(value)
            return dict(space) if space.get("__module__") == module_name else {}
        # Not getattr: proxies run code. A type that replaces __dict__ is such a proxy.
        if any(
            "__dict__" in base.__dict__ and type(base.__dict__["__dict__"]) is not _DictSlot for base in kind.__mro__
        ):
            return {}
        return dict(object.__getattribute__(value, "__dict__"))
    except Exception:  # a name is not worth an error
        return {}


_DictSlot = type(type.__dict__["__dict__"])
_PLAIN = frozenset({int, str, bytes, float, bool, type(None), tuple, list, dict, set, frozenset, type(len), type(find)})
