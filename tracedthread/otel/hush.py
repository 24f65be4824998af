"""
No word from OpenTelemetry's exporters, nor from what they use, about exports that the program knows nothing of.

A collector that is down makes them log warnings, which go to the program's log, or to stderr if it has none. What they
say on other threads, for the program's own set-up, is left alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident

__all__ = ["hush", "watch"]

_LIBRARIES = ("opentelemetry", "urllib3", "requests")

_hushed: dict[int, int] = {}  # thread -> how deep


class _Filter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return get_ident() not in _hushed


_filter = _Filter("tracedthread")


def _after_fork_in_child() -> None:
    # Threads that are not here; one of the program's may get the number of one of them.
    own = get_ident()
    for thread in [thread for thread in _hushed if thread != own]:
        del _hushed[thread]


os.register_at_fork(after_in_child=_after_fork_in_child)


def watch() -> None:
    """Look after the loggers that there are by now; call it when the exporters have been imported."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _LIBRARIES:
            logger.addFilter(_filter)  # a second time it does nothing


@contextmanager
def hush() -> Iterator[None]:
    """Nothing that the calling thread has them log inside of this is heard."""
    thread = get_ident()
    _hushed[thread] = _hushed.get(thread, 0) + 1
    try:
        yield
    finally:
        _hushed[thread] -= 1
        if not _hushed[thread]:
            del _hushed[thread]
