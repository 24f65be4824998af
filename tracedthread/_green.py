"""
Standing aside for gevent and eventlet, whose monkey patching replaces the same names with cooperative ones.

Native locks block the whole thread, and with it every greenlet, so one of us must go. It is always us: when they came first
we do not patch, and when they come later we unpatch just before they patch.
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

    Importing gevent.monkey or eventlet.patcher patches nothing yet (tools import them only to ask), so we stay until the
    patching itself is announced.
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


_watch: _Watch | None = None


def watch(step_aside: Callable[[str], None]) -> None:
    """Have `step_aside(package)` called before gevent or eventlet patches threads."""
    global _watch
    if _watch is None:
        _watch = _Watch(step_aside)
        sys.meta_path.insert(0, _watch)
        if "gevent.monkey" in sys.modules:
            _watch.before_gevent()


def unwatch() -> None:
    """Undo `watch`."""
    global _watch
    if _watch is not None:
        if _watch in sys.meta_path:
            sys.meta_path.remove(_watch)
        subscribers = getattr(sys.modules.get("gevent.events"), "subscribers", [])
        if _watch.announced in subscribers:
            subscribers.remove(_watch.announced)
        _watch = None
