"""
The recorder: a thread of this process that reads on in the capture and hands what is new to its sinks.

It is the only one that talks to telemetry. The threads that wait for locks never do: a metric recorded in `acquire`
would deadlock with itself. The recorder is started and sleeps by the interpreter's own primitives, which are not
recorded; what it waits for in the sinks' code, and what the threads of the OpenTelemetry SDK do, is told to nobody.

A sink that raises is counted. One that blocks keeps up only the recorder; what that then misses is counted, and at exit
it is left behind when its time is up. A forked child has a recorder and losses of its own.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Protocol

from tracedthread import _core, _settings
from tracedthread._original import originals
from tracedthread.capture import CaptureError
from tracedthread.live import Live, LiveEvent, LiveStart

__all__ = ["INTERVAL_S", "LOSSES", "Sink", "count", "flush", "lost", "start", "stop"]

INTERVAL_S = 0.5
EXIT_TIMEOUT_S = 2.0
#: What `lost` counts, and why.
LOSSES: Mapping[str, str] = {
    "events": "waits that newer ones had overwritten before the recorder came to read them, of whatever kind",
    "starts": "thread starts, likewise",
    "contexts": "contexts that the table had no room for: of a waiter, so that its span has no parent; or of a holder",
    "spans": "waits long enough for a span that the budget had none for",
    "failures": "spans and log events that could not be made, and looks at what is new that a sink has failed in",
    "threads": "recorders that could not be started",
    "ends": "sinks that were left behind because they did not end in time",
}
# A fork waits so long for the sinks to be done, so that no lock of theirs is held in the child.
_FORK_PATIENCE_S = 0.1
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


class _State:
    """What the functions below share."""

    def __init__(self) -> None:
        # An RLock, as a signal handler may call stop() in the middle of start(); never held while a sink runs.
        self.guard = originals.RLock()
        self.recorder: _Recorder | None = None
        self.lost = dict.fromkeys(LOSSES, 0)
        self.hooked = False


_state = _State()


def start(
    sinks: Iterable[Sink], interval_s: float = INTERVAL_S, *, context_variable: ContextVar[Any] | None = None
) -> bool:
    """
    Tell these sinks from now on, beside those there are.

    Args:
        interval_s: The longest time between two looks.
        context_variable: Its value in those who wait and hold is noted for each event (until all sinks are stopped).
    Returns:
        Whether there is a recorder. When this process has no capture, or can start no thread, there is none.
    """
    with _state.guard:
        core = _core.loaded()
        if core is None:
            return False
        _hook()
        if _state.recorder is None:
            _state.recorder = _launch(core, [], interval_s)
        recorder = _state.recorder
        if recorder is None:
            return False
        recorder.sinks = [*recorder.sinks, *sinks]
        recorder.interval_s = min(interval_s, recorder.interval_s)
        if context_variable is not None and recorder.context_variable is None:
            core.types.carry_context(context_variable)
            recorder.context_variable = context_variable
    return True


def stop(timeout_s: float = EXIT_TIMEOUT_S, sinks: Iterable[Sink] | None = None) -> bool:
    """
    Tell these sinks, or all, what is new for the last time, and close them.

    Returns:
        Whether they are closed. If not, they are left behind, and told nothing any more.
    """
    with _state.guard:
        recorder = _state.recorder
        if recorder is None:
            return True
        chosen = recorder.sinks if sinks is None else [sink for sink in sinks if sink in recorder.sinks]
        recorder.leave_by = time.monotonic() + timeout_s
        recorder.leaving = [*recorder.leaving, *chosen]
    if recorder.look(timeout_s):
        return True
    with _state.guard:
        behind = [sink for sink in chosen if sink in recorder.sinks]
        recorder.sinks = [sink for sink in recorder.sinks if sink not in behind]
        count("ends", len(behind))
        if not recorder.sinks and _state.recorder is recorder:
            _state.recorder = None
            recorder.is_over = True
            recorder.carry_nothing()
    return not behind


def flush(timeout_s: float = EXIT_TIMEOUT_S) -> bool:
    """Tell now what is new. Returns whether that was done in time."""
    recorder = _state.recorder
    return recorder is None or recorder.look(timeout_s)


def lost() -> Mapping[str, int]:
    """What this process could not tell since it began, by the names in `LOSSES`."""
    return dict(_state.lost)


def count(name: str, number: int = 1) -> None:
    """Add to what was lost; for sinks."""
    _state.lost[name] += number


class _Recorder:
    def __init__(self, core: _core.Core, live: Live, sinks: list[Sink], interval_s: float) -> None:
        self.core = core
        self.live = live
        self.sinks = sinks  # replaced, never changed, under the guard
        self.leaving: list[Sink] = []
        self.leave_by = 0.0
        self.interval_s = interval_s
        self.context_variable: ContextVar[Any] | None = None
        self.ident = 0
        self.is_over = False
        self._wake = originals.allocate_lock()  # held; whoever releases it wakes the thread
        self._wake.acquire()
        self._still = originals.allocate_lock()  # held while sinks run, and by a thread that forks
        self._impatient_at = -1
        self._looks = 0
        self._callers: deque[Any] = deque()  # locks to release when the next look is over
        # What was noted before an event was written may be told by the take before.
        self._earlier: dict[int, object] = {}

    def run(self) -> None:
        """The thread."""
        self.ident = originals.get_ident()
        _attempt(_name_thread, self.core)
        callers: list[Any] = []
        while not self.is_over:
            self._wake.acquire(True, self.interval_s)
            callers += [self._callers.popleft() for _ in range(len(self._callers))]
            with self._still:
                _attempt(self._look)
                _attempt(self._let_go)
            if not self.is_over:
                _release(callers)
        self._earlier = {}
        _release([*callers, *self._callers])

    def look(self, timeout_s: float) -> bool:
        """Wait until the thread has looked at what there is now."""
        if self.ident == originals.get_ident():  # a sink's, or a destructor that runs in it
            return False
        done = originals.allocate_lock()
        done.acquire()
        self._callers.append(done)
        _release([self._wake])
        if self.is_over:  # it may not have seen us come
            return True
        return bool(done.acquire(True, timeout_s))

    def hold_still(self) -> bool:
        """
        Wait until no sink runs, and keep it so until `go_on`.

        Returns False if that takes too long; then nobody waits again for the same look.
        """
        if self.ident == originals.get_ident() or self._impatient_at == self._looks:
            return False
        if self._still.acquire(True, _FORK_PATIENCE_S):
            return True
        self._impatient_at = self._looks
        return False

    def go_on(self) -> None:
        """Undo `hold_still`."""
        self._still.release()

    def inherit(self, parent: _Recorder) -> None:
        """In a forked child: what the parent's was told to do."""
        self.context_variable = parent.context_variable
        # Dropped here, their last references would run destructors in the middle of fork().
        self._earlier = parent._earlier
        parent.is_over = True

    def carry_nothing(self) -> None:
        """Contexts are not needed any more."""
        if self.context_variable is not None:
            self.context_variable = None
            self.core.types.carry_context(None)

    def _look(self) -> None:
        self._looks += 1
        live = self.live
        before = live.missed_events, live.missed_starts
        events, starts = [event for event in live.new_events() if self._is_told(event)], live.new_starts()
        # After the events: what they name has been noted by now.
        current, lost_contexts = _NOTHING if self.context_variable is None else self.core.types.take_contexts()
        contexts = {**self._earlier, **current} if self._earlier else current
        self._earlier = current
        count("events", live.missed_events - before[0])
        count("starts", live.missed_starts - before[1])
        count("contexts", lost_contexts)
        for sink in self.sinks:
            if not self.is_over:  # left behind
                _attempt(sink.tick, events, starts, contexts, _state.lost)

    def _is_told(self, event: LiveEvent) -> bool:
        return event.waiter.ident != self.ident and not event.waiter.name.startswith(_SDK_THREADS)

    def _let_go(self) -> None:
        """Close the sinks that leave; with the last one, end."""
        with _state.guard:
            leaving, self.leaving = self.leaving, []
        for sink in leaving:
            _attempt(sink.close, max(0.0, self.leave_by - time.monotonic()))
        with _state.guard:
            if leaving:
                self.sinks = [sink for sink in self.sinks if sink not in leaving]
            if not self.sinks and (leaving or _state.recorder is not self):
                self.is_over = True
                if _state.recorder is self:
                    _state.recorder = None
                    self.carry_nothing()


def _attempt(call: Callable[..., object], *args: object) -> None:
    """Whatever it raises, also SystemExit: this is nobody's main program."""
    try:
        call(*args)
    except BaseException:
        count("failures")


def _release(locks: list[Any]) -> None:
    while locks:
        with suppress(RuntimeError):  # somebody else has
            locks.pop().release()


def _launch(
    core: _core.Core, sinks: list[Sink], interval_s: float, parent: _Recorder | None = None
) -> _Recorder | None:
    try:
        recorder = _Recorder(core, Live(core), sinks, interval_s)
        if parent is not None:
            recorder.inherit(parent)
        originals.start_new_thread(recorder.run, ())
    except (_core.Unavailable, CaptureError) as exc:
        count("threads")
        _settings.say(f"no telemetry: {exc}")
        return None
    except Exception:  # at exit, at a limit of the system, or an audit hook's
        count("threads")
        return None
    return recorder


def _name_thread(core: _core.Core) -> None:
    """For people who look at the process, and at the capture."""
    core.types.adopt_thread(_THREAD_NAME)
    try:
        descriptor = os.open(f"/proc/self/task/{originals.get_native_id()}/comm", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(descriptor, _THREAD_NAME.encode())
    except OSError:
        pass
    finally:
        os.close(descriptor)


_forking: dict[int, _Recorder] = {}  # by the thread that forks


def _before_fork() -> None:
    recorder = _state.recorder
    if recorder is not None and recorder.hold_still():
        _forking[originals.get_ident()] = recorder


def _after_fork_in_parent() -> None:
    recorder = _forking.pop(originals.get_ident(), None)
    if recorder is not None:
        recorder.go_on()


def _after_fork_in_child() -> None:
    # Only plain state of ours, and a thread started by the interpreter's own means: whatever else there is may be
    # locked by a thread that does not exist here.
    _state.guard = originals.RLock()
    _state.lost = dict.fromkeys(LOSSES, 0)
    _forking.clear()
    parent, _state.recorder = _state.recorder, None
    core = _core.loaded()
    if parent is None or core is None:
        return
    for sink in parent.sinks:
        _attempt(getattr(sink, "after_fork", bool))
    recorder = _state.recorder = _launch(core, parent.sinks, parent.interval_s, parent)
    # A child of multiprocessing ends by os._exit, past atexit, after running what it was told through this.
    if recorder is not None and (util := sys.modules.get("multiprocessing.util")) is not None:
        # Before the capture is finished, which is told by a priority of -100.
        util.register_after_fork(recorder, lambda _: util.Finalize(None, _at_exit, exitpriority=-50))


def _hook() -> None:
    if _state.hooked:
        return
    _state.hooked = True
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
    atexit.register(_at_exit)
    import threading  # not before: the later it is first imported, the more of it is ours

    with suppress(AttributeError, RuntimeError):  # it has changed, or is past that
        # Called when the main thread is through. Registered only then, our last look comes after all threads that the
        # interpreter waits for, and before everything else that ends at exit: the SDK's providers.
        threading._register_atexit(atexit.register, _at_exit)  # type: ignore[attr-defined]


def _at_exit() -> None:
    stop(EXIT_TIMEOUT_S)
