"""
Standing aside for gevent and eventlet, whose monkey patching replaces the same names with cooperative ones.

Native locks block the whole thread, and with it every greenlet, so one of us must go. It is always us: when they came
first we do not patch, and when they come later we unpatch just before they patch.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

__all__ = ["patched_by", "unwatch", "watch"]


def patched_by() -> str | None:
    """`gevent` or `eventlet` if it has replaced the thread primitives, else None."""
    for package, module_name, question, names in (
        ("gevent", "gevent.monkey", "is_module_patched", ("_thread", "thread", "threading")),
        ("eventlet", "eventlet.patcher", "is_monkey_patched", ("thread", "threading")),
    ):
        is_patched = getattr(sys.modules.get(module_name), question, None)
        if is_patched is not None and any(is_patched(name) for name in names):
            return package
    return None


class _Watch:
    """
    A finder that finds nothing: it only learns what is about to be imported.

    Importing gevent.monkey patches nothing yet, and tools import it only to ask: we stay until the patching itself is
    announced. eventlet announces nothing.
    """

    def __init__(self, step_aside: Callable[[str], None]) -> None:
        self.step_aside = step_aside

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> None:
        if name == "gevent.monkey":
            self.before_gevent()
        elif name == "eventlet.patcher":
            self.step_aside("eventlet")

    def before_gevent(self) -> None:
        try:
            events: Any = __import__("gevent.events", fromlist=["subscribers"])
            if self.announced not in events.subscribers:
                events.subscribers.append(self.announced)
        except Exception:  # a gevent without events
            self.step_aside("gevent")

    def announced(self, event: object) -> None:
        if type(event).__name__ in ("GeventWillPatchAllEvent", "GeventWillPatchModuleEvent"):
            name = getattr(event, "module_name", "")
            if type(event).__name__ == "GeventWillPatchAllEvent" or name in ("thread", "_thread", "threading"):
                self.step_aside("gevent")


_watches: list[_Watch] = []  # one, while patched


def watch(step_aside: Callable[[str], None]) -> None:
    """Have `step_aside(package)` called before gevent or eventlet patches threads."""
    if not _watches:
        watch = _Watch(step_aside)
        _watches.append(watch)
        sys.meta_path.insert(0, watch)
        if "gevent.monkey" in sys.modules:
            watch.before_gevent()


def unwatch() -> None:
    """Undo `watch`."""
    while _watches:
        watch = _watches.pop()
        if watch in sys.meta_path:
            sys.meta_path.remove(watch)
        subscribers = getattr(sys.modules.get("gevent.events"), "subscribers", [])
        if watch.announced in subscribers:
            subscribers.remove(watch.announced)
