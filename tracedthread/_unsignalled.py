"""
Threads of ours take no signals.

The kernel gives a signal to any thread that does not block it. Where a program has blocked one in its own, to fetch it
by sigtimedwait or a signalfd, a thread of ours would be the one to get it, and the program would lose it or die of it.
"""

from __future__ import annotations

import signal

from tracedthread._original import originals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

__all__ = ["Unsignalled", "start"]

# But what a thread does to itself: blocked, it would end the process without a word from faulthandler.
_MASK = signal.valid_signals() - {
    getattr(signal, f"SIG{name}") for name in ("SEGV", "BUS", "FPE", "ILL", "ABRT", "TRAP", "SYS")
}


class Unsignalled:
    """A block in which signals are blocked in the calling thread: threads that it starts inherit that."""

    def __enter__(self) -> None:
        self._before: set[int] = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, _MASK)
        except BaseException:  # a handler of the program's has raised; the mask is in force all the same
            signal.pthread_sigmask(signal.SIG_SETMASK, self._before)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


def start(function: Callable[..., Any], *args: Any) -> None:
    """
    Start a thread of ours, by the interpreter's own primitive.

    Raises:
        Exception: No thread can be had: a limit of the system, the interpreter's end, or an audit hook's.
    """
    with Unsignalled():
        originals.start_new_thread(function, args)
