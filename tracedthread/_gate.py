"""
An event that is set once, made of the interpreter's own lock: for threads of ours, which nobody records.
"""

from __future__ import annotations

from tracedthread._original import originals

__all__ = ["Gate"]


class Gate:
    """Closed until it is opened, for good."""

    def __init__(self) -> None:
        self._lock = originals.allocate_lock()
        self._lock.acquire()
        self._is_open = False

    @property
    def is_open(self) -> bool:
        """Whether it has been opened."""
        return self._is_open

    def open(self) -> None:
        """Let everybody through, now and later."""
        if not self._is_open:
            self._is_open = True
            self._lock.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is open. Returns whether it is."""
        if self._lock.acquire(timeout=min(timeout_s, originals.TIMEOUT_MAX)):
            self._lock.release()
            return True
        return False
