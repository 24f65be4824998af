"""
The recorder: a thread of this process that reads on in the capture and hands what is new to its sinks.

It is the only one that talks to telemetry. The threads that wait for locks never do: a metric recorded in `acquire`
would deadlock with itself. The recorder is started and sleeps by the interpreter's own primitives, which are not
recorded; what it waits for in the sinks' code, and what the threads of the OpenTelemetry SDK do, is told to nobody.

A sink that raises is counted, and at the end one line says so. One that blocks keeps up only the recorder; what that
then misses is counted, and at exit it is left behind when its time is up, which one line says, too. A forked child has
a recorder and losses of its own.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from tracedthread import _core, _settings, _unsignalled
from tracedthread._endings import at_end_of_child
from tracedthread._original import originals
from tracedthread.live import Live
from tracedthread.recorder_thread import LOSSES, RecorderThread, Sink, attempt, count, shared

__all__ = ["INTERVAL_S", "LOSSES", "Sink", "attempt", "count", "flush", "lost", "start", "stop"]

INTERVAL_S = 0.5
EXIT_TIMEOUT_S = 2.0


def start(
    sinks: Iterable[Sink], interval_s: float = INTERVAL_S, *, context_variable: ContextVar[Any] | None = None
) -> bool:
    """
    Tell these sinks from now on, beside those there are.

    Args:
        interval_s: The longest time between two looks.
        context_variable: Its value in those who wait and hold is noted for each event, until all sinks are stopped.
            There is one; the first that is given.
    Returns:
        Whether there is a recorder. When this process has no capture, or can start no thread, there is none.
    """
    with shared.guard:
        core = _core.loaded()
        if core is None:
            return False
        _hook(core.types)
        if shared.current is None:
            shared.current = _launch(core, [], interval_s)
        recorder = shared.current
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
        Whether they are closed. If not, they are left behind, and told nothing more. Only when a sink calls this, or a
        signal handler in the middle of another call, they will be closed when that returns.
    """
    with shared.guard:
        recorder = shared.current
        if recorder is None:
            return True
        chosen = recorder.sinks if sinks is None else [sink for sink in sinks if sink in recorder.sinks]
        recorder.leave_by = time.monotonic() + timeout_s
        recorder.leaving = [*recorder.leaving, *chosen]
    if recorder.waits_for_caller:
        return False
    if recorder.look(timeout_s):
        return True
    contexts = None
    with shared.guard:
        behind = [sink for sink in chosen if sink in recorder.sinks]
        recorder.sinks = [sink for sink in recorder.sinks if sink not in behind]
        recorder.leaving = [sink for sink in recorder.leaving if sink not in behind]
        count("ends", len(behind))
        if not recorder.sinks and shared.current is recorder:
            shared.current = None
            recorder.core.types.watch_forks(None)
            recorder.is_over = True
            contexts = recorder.carry_nothing()
            count("events", recorder.live.unread_events)
    del contexts
    return not behind


def flush(timeout_s: float = EXIT_TIMEOUT_S) -> bool:
    """Tell now what is new. Returns whether that was done in time."""
    recorder = shared.current
    return recorder is None or recorder.look(timeout_s)


def lost() -> Mapping[str, int]:
    """What this process could not tell since it began, by the names in `LOSSES`."""
    return dict(shared.lost)


def _launch(
    core: _core.Core, sinks: list[Sink], interval_s: float, parent: RecorderThread | None = None
) -> RecorderThread | None:
    try:
        recorder = RecorderThread(core, Live(core), sinks, interval_s)
        if parent is not None:
            parent.is_over = True
            recorder.context_variable = parent.context_variable
        core.types.watch_forks(recorder.still)
        _unsignalled.start(recorder.run)
    except Exception as exc:  # also a limit of the system, and what an audit hook raises
        count("recorders")
        if "at interpreter shutdown" not in str(exc):  # as each version ends: there is nothing more to tell
            _settings.say(f"no telemetry: {exc}")
        return None
    return recorder


_hooks: list[bool] = []  # one, once they are in place


def _after_fork_in_child() -> None:
    # Only plain state of ours, and a thread started by the interpreter's own means: whatever else there is may be
    # locked by a thread that does not exist here.
    shared.guard = originals.RLock()
    shared.lost = dict.fromkeys(LOSSES, 0)
    shared.first_failure = ""
    parent, shared.current = shared.current, None
    core = _core.loaded()
    if parent is None or core is None:
        return
    for sink in parent.sinks:
        attempt(getattr(sink, "after_fork", bool))
    recorder = shared.current = _launch(core, parent.sinks, parent.interval_s, parent)
    if recorder is None:
        core.types.carry_context(None)  # nobody is going to take them; nor here, where destructors could run
    else:
        at_end_of_child(recorder, _at_exit, -50)  # before the capture is finished


def _hook(types: Any) -> None:
    if _hooks:
        return
    import threading  # not before: the later it is first imported, the more of it is ours

    # After its own handlers, which make its locks anew in a child.
    os.register_at_fork(
        before=types.before_fork, after_in_parent=types.after_fork, after_in_child=types.after_fork_in_child
    )
    os.register_at_fork(after_in_child=_after_fork_in_child)
    _hooks.append(True)
    atexit.register(_at_exit)
    with suppress(AttributeError, RuntimeError):  # it has changed, or is past that
        # Called when the main thread is through. Registered only then, our last look comes after all threads that the
        # interpreter waits for, and before everything else that ends at exit: the SDK's providers.
        threading._register_atexit(atexit.register, _at_exit)  # type: ignore[attr-defined]


def _at_exit() -> None:
    before = lost()
    is_ended = stop(EXIT_TIMEOUT_S)
    sinks, waits = (shared.lost[name] - before[name] for name in ("ends", "events"))
    if not is_ended and (sinks or waits):
        _settings.say(f"telemetry is not whole; at the end: waits not told: {waits}, sinks left behind: {sinks}")
    first, shared.first_failure = shared.first_failure, ""
    if first:
        _settings.say(f"telemetry is not whole; failures: {shared.lost['failures']}, the first: {first}")
