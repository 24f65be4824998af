"""
The thread that reads on in the capture and tells the sinks: its loop, and how others wake it, wait for it and hold it.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Protocol

from tracedthread._core import Core
from tracedthread._original import originals
from tracedthread.live import Live, LiveEvent, LiveStart

__all__ = ["LOSSES", "RecorderThread", "Sink", "attempt", "count", "shared"]

#: What `lost` counts, and why.
LOSSES: Mapping[str, str] = {
    "events": "waits of whatever kind that were overwritten before the recorder came to read them, or left at its end",
    "starts": "thread starts, likewise",
    "contexts": "contexts that the table had no room for: of a waiter, so that its span has no parent; or of a holder",
    "spans": "waits long enough for a span that the budget had none for",
    "failures": "spans and log events that could not be made, and looks at what is new that a sink has failed in",
    "profiles": "pushes of blame that were refused, or of which nobody knows whether they have arrived",
    "recorders": "recorders that could not be started",
    "ends": "sinks that were left behind because they did not end in time",
}
_MAX_WORDS = 200  # characters of an exception's text
_THREAD_NAME = "tracedthread"
_SDK_THREADS = "Otel"
_NOTHING: tuple[dict[int, object], int] = ({}, 0)


class Sink(Protocol):
    """
    What the recorder tells; called by its thread only.

    A sink may also have `after_fork()`, called in a forked child before anything else happens there: it may forget what
    it knows, and must not touch anything that has a lock.
    """

    def tick(
        self,
        events: Sequence[LiveEvent],
        starts: Sequence[LiveStart],
        contexts: Mapping[int, Any],
        lost: Mapping[str, int],
    ) -> None:
        """
        What is new; called at every interval, also with nothing.

        Args:
            contexts: By the numbers in the events and starts. Not to be kept.
            lost: As `recorder.lost`.
        """

    def close(self, timeout_s: float) -> None:
        """There will be no more; end within that time."""


class _Shared:
    """
    What the recorder of this process shares with those who start and stop it.

    Attributes:
        guard: Of all this. An RLock, as a signal handler may stop what is just starting; never held while a sink runs.
        current: The recorder, if there is one.
        lost: By the names in `LOSSES`.
        first_failure: What was raised first, in words, until it has been said.
    """

    def __init__(self) -> None:
        self.guard = originals.RLock()
        self.current: RecorderThread | None = None
        self.lost = dict.fromkeys(LOSSES, 0)
        self.first_failure = ""


shared = _Shared()


def count(name: str, number: int = 1) -> None:
    """Add to what was lost; for sinks."""
    shared.lost[name] += number


class RecorderThread:
    """
    The thread, and what others ask of it.

    Attributes:
        sinks: Replaced, never changed, under the guard.
        leaving: Those to close after the next look, by `leave_by` (monotonic).
        interval_s: The longest time between two looks.
        is_over: It has ended, or ends as soon as the sink that keeps it lets go.
    """

    def __init__(self, core: Core, live: Live, sinks: list[Sink], interval_s: float) -> None:
        self.core = core
        self.live = live
        self.sinks = sinks
        self.leaving: list[Sink] = []
        self.leave_by = 0.0
        self.interval_s = interval_s
        self.context_variable: ContextVar[Any] | None = None
        self.ident = 0
        self.is_over = False
        self._wake = originals.allocate_lock()  # held; whoever releases it wakes the thread
        self._wake.acquire()
        # Forks wait until no sink runs, so that no lock of theirs is held in the child.
        self.still = core.types.Still()
        self._callers: deque[Any] = deque()  # locks to release when the next look is over

    def run(self) -> None:
        """The thread."""
        self.ident = originals.get_ident()
        with suppress(OSError, MemoryError):  # no /proc
            _name_thread(self.core)
        callers: list[Any] = []
        while not self.is_over:
            self._wake.acquire(True, self.interval_s)
            callers += [self._callers.popleft() for _ in range(len(self._callers))]
            with self.still:
                attempt(self._look)
                attempt(self._let_go)
            if not self.is_over:
                _release(callers)
        _release([*callers, *self._callers])

    @property
    def waits_for_caller(self) -> bool:
        """
        Whether it would be kept waiting by who asks.

        By a sink, or a destructor that runs in this thread; by a signal handler in the middle of starting or stopping.
        """
        return bool(self.ident == originals.get_ident() or shared.guard._is_owned())

    def look(self, timeout_s: float) -> bool:
        """Wait until the thread has looked at what there is now. Returns whether it has."""
        if self.waits_for_caller:
            return False
        done = originals.allocate_lock()
        done.acquire()
        self._callers.append(done)
        _release([self._wake])
        if self.is_over:  # it may not have seen us come
            return True
        return bool(done.acquire(True, timeout_s))

    def carry_nothing(self) -> object:
        """
        Contexts are not needed any more.

        Returns:
            Those that nobody will take, to be dropped without the guard: what they refer to may have destructors.
        """
        if self.context_variable is None:
            return None
        self.context_variable = None
        self.core.types.carry_context(None)
        return self.core.types.take_contexts()

    def _look(self) -> None:
        live = self.live
        before = live.missed_events, live.missed_starts
        events, starts = [event for event in live.new_events() if self._is_told(event)], live.new_starts()
        # After the events: what they name has been noted by now. What later ones name is given out again next time.
        contexts, lost_contexts = _NOTHING if self.context_variable is None else self.core.types.take_contexts()
        count("events", live.missed_events - before[0])
        count("starts", live.missed_starts - before[1])
        count("contexts", lost_contexts)
        for sink in self.sinks:
            if not self.is_over and sink in self.sinks:  # else it has been left behind meanwhile
                attempt(sink.tick, events, starts, contexts, shared.lost)

    def _is_told(self, event: LiveEvent) -> bool:
        return event.waiter.ident != self.ident and not event.waiter.name.startswith(_SDK_THREADS)

    def _let_go(self) -> None:
        """Close the sinks that leave; with the last one, end."""
        with shared.guard:
            leaving, self.leaving = self.leaving, []
        for sink in leaving:
            if sink not in self.sinks:  # left behind
                continue
            attempt(sink.close, max(0.0, self.leave_by - time.monotonic()))
        contexts = None
        with shared.guard:
            if leaving:
                self.sinks = [sink for sink in self.sinks if sink not in leaving]
            if not self.sinks and (leaving or shared.current is not self):
                self.is_over = True
                if shared.current is self:
                    shared.current = None
                    contexts = self.carry_nothing()
        del contexts


def attempt(call: Callable[..., object], *args: object) -> None:
    """Whatever it raises is counted, also SystemExit: this is nobody's main program."""
    try:
        call(*args)
    except BaseException as exc:
        count("failures")
        shared.first_failure = shared.first_failure or _in_words(exc)


def _in_words(exc: BaseException) -> str:
    try:
        text = str(exc)
    except BaseException:
        text = ""
    return f"{type(exc).__name__}: {text[:_MAX_WORDS]}" if text else type(exc).__name__


def _release(locks: list[Any]) -> None:
    while locks:
        with suppress(RuntimeError):  # somebody else has
            locks.pop().release()


def _name_thread(core: Core) -> None:
    """For people who look at the process, and at the capture."""
    core.types.adopt_thread(_THREAD_NAME)
    descriptor = os.open(f"/proc/self/task/{originals.get_native_id()}/comm", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, _THREAD_NAME.encode())
    finally:
        os.close(descriptor)
