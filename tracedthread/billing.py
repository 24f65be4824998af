"""
What a thread, or a block of code in it, has waited: for access logs, `Server-Timing` and tests.
"""

from __future__ import annotations

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ._types import ThreadStats

__all__ = ["Bill", "bill", "current_thread_stats"]


class _Nothing:
    """The ThreadStats of a process in which nothing was ever recorded."""

    wait_s = own_gil_s = idle_s = resource_s = blocked_others_s = 0.0
    waits = 0
    recorded = False

    def elapsed(self) -> _Nothing:
        """Nothing."""
        return self

    def __repr__(self) -> str:
        return "<ThreadStats: nothing is recorded>"


_NOTHING: ThreadStats = _Nothing()  # type: ignore[assignment]


_native: Callable[[], ThreadStats] | None = None


def current_thread_stats() -> ThreadStats:
    """
    What the calling thread has waited so far.

    About 0.1 µs, so that it can be asked for every request.

    Returns:
        `wait_s` (for locks), `idle_s` (for work), `resource_s` (for permits and room), `own_gil_s` (the ends of all
        these, when it could have gone on but for the GIL) and `blocked_others_s` (what others waited because it held a
        lock, summed over them), in seconds, and `waits`, how often for a lock. All zero where nothing was ever
        recorded.
    """
    return _first_stats() if _native is None else _native()


def _first_stats() -> ThreadStats:
    global _native  # noqa: PLW0603
    core = _core.loaded()
    if core is None:
        return _NOTHING
    _native = core.types.current_thread_stats
    stats: ThreadStats = core.types.current_thread_stats()
    return stats


class Bill:
    """
    What the thread that entered the block has waited since then, and made others wait; until it is left, so far.

    Any thread may ask. Blocks may be nested; each counts for itself.
    """

    def __init__(self) -> None:
        self._start: ThreadStats = _NOTHING
        self._total: ThreadStats | None = _NOTHING

    def __enter__(self) -> Bill:
        self._start = current_thread_stats()
        self._total = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._total = self._start.elapsed()

    @property
    def recorded(self) -> bool:
        """Whether the thread is on record; if not, all zeros mean nothing."""
        return self._start.recorded

    @property
    def stats(self) -> ThreadStats:
        """All of it, at one moment."""
        return self._start.elapsed() if self._total is None else self._total

    @property
    def wait_s(self) -> float:
        """Waiting for locks."""
        return self.stats.wait_s

    @property
    def own_gil_s(self) -> float:
        """The ends of waits of every kind: what it waited for was there already, the GIL was not."""
        return self.stats.own_gil_s

    @property
    def idle_s(self) -> float:
        """Waiting for work: queues, events, futures, threads to join."""
        return self.stats.idle_s

    @property
    def resource_s(self) -> float:
        """Waiting for a permit or for room: semaphores, full queues."""
        return self.stats.resource_s

    @property
    def blocked_others_s(self) -> float:
        """What others waited because it held a lock, summed over them; known when the hold ends, or they give up."""
        return self.stats.blocked_others_s

    @property
    def waits(self) -> int:
        """How often for a lock."""
        return self.stats.waits

    def server_timing(self) -> str:
        """
        The bill as the value of a `Server-Timing` header: `lock;dur=12.3, gil;dur=0.1`, milliseconds.

        Source: https://www.w3.org/TR/server-timing/
        """
        stats = self.stats
        parts = {"lock": stats.wait_s, "gil": stats.own_gil_s, "resource": stats.resource_s, "idle": stats.idle_s}
        parts["blocked"] = stats.blocked_others_s
        shown = {name: value for name, value in parts.items() if value or name == "lock"}
        return ", ".join(f"{name};dur={value * 1e3:.3f}" for name, value in shown.items())

    def attributes(self) -> dict[str, float]:
        """The bill as attributes of a span, seconds."""
        from . import names  # with `typing`, which no start is to wait for

        stats = self.stats
        return {
            names.REQUEST_WAIT: stats.wait_s,
            names.REQUEST_GIL: stats.own_gil_s,
            names.REQUEST_BLOCKED_OTHERS: stats.blocked_others_s,
        }

    def __str__(self) -> str:
        return self.server_timing() if self.recorded else "-"

    def __repr__(self) -> str:
        return f"<Bill {self.server_timing()}>"


def bill() -> Bill:
    """
    What a block of code waits.

        with tracedthread.bill() as b:
            handle(request)
        log.info("waited %.3f s for locks", b.wait_s)
    """
    return Bill()
