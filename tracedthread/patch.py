"""Putting the drop-in in place, and taking it out again."""

from __future__ import annotations

import os
import sys

from . import _core, _settings
from ._endings import at_end_of_child
from ._original import bootstrap, originals, stock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "begin_recording",
    "end_recording",
    "is_from_an_earlier_run",
    "is_patched",
    "patch",
    "pause",
    "resume",
    "uncovered",
    "unpatch",
]


class _State:
    """What the functions below share."""

    def __init__(self) -> None:
        # Guards the rest. Stock, so that it is never recorded; an RLock, as a signal handler may call pause() in the
        # middle of patch(); new in a forked child, where its holder does not exist.
        self.guard = originals.RLock()
        self.pairs: tuple[tuple[Any, Any], ...] = ()  # (stock, ours) while patched
        self.kept: tuple[tuple[Any, Any], ...] = ()  # those that unpatch() had to leave in place
        self.paused = False
        self.follow_fork = False
        self.force = False
        self.began_ns = 0  # when this run's first file was made
        self.uncovered: tuple[dict[str, Any], ...] = ()
        self.recordings = 0  # blocks of `record()` that this process is in
        self.recordings_patched = False  # and the last to end unpatches
        self.hooked = False


_state = _State()


def patch(
    *,
    path: str | os.PathLike[str] | None = None,
    force: bool = False,
    capture_bytes: int | None = None,
    event_threshold_ms: float | None = None,
    deadlock_after_s: float | None = None,
    follow_fork: bool | None = None,
    audit_trail: bool | None = None,
) -> bool:
    """
    Replace the lock types and thread starters of `_thread` with ours, and record.

    New locks are recorded from here on, also those of modules that are loaded already: their references to the stock
    factories are exchanged (module globals, and attributes of classes). Locks that exist already stay as they are; see
    `uncovered`. Patch as early as you can. Patching again while patched does nothing.

    A process has one capture. It is made by the first call; a later one, after `unpatch()`, goes on in it.

    Args:
        path: File to record to, created with mode 0600. Default: $TRACEDTHREAD_OUTPUT, else memory. `%p` stands for the
            process id.
        force: Overwrite the file, and those that forked children of an earlier run have left under the names of ours.
        capture_bytes: Size of the capture, from 192 KiB to 1 GiB. Default: $TRACEDTHREAD_CAPTURE_BYTES, else about
            8 MiB, of which only what is used becomes resident.
        event_threshold_ms: Waits at least this long are also kept one by one, in milliseconds. Default:
            $TRACEDTHREAD_EVENT_THRESHOLD_MS, else 1.
        deadlock_after_s: A wait this long, in seconds, looks whether it is part of a deadlock, which is then noted in
            the capture and said on stderr, once. 0: none does. Default: $TRACEDTHREAD_DEADLOCK_AFTER_S, else 5.
        follow_fork: Give forked children files of their own, `app.<pid>.ttc` beside `app.ttc`, rather than memory.
            Default: $TRACEDTHREAD_FOLLOW_FORK.
        audit_trail: Keep who started which thread, from where and when; see `tracedthread.audit`. Default:
            $TRACEDTHREAD_AUDIT_TRAIL.
    Returns:
        Whether `_thread` is patched now. When it cannot be (no native code for this interpreter, gevent or eventlet got
        here first, the file cannot be made...), one line on stderr says why and the program goes on with stock locks.
        When a switch such as TRACEDTHREAD_DISABLED keeps us out, and in subinterpreters, nothing is said.
    Raises:
        ValueError: A size or threshold out of range, or a null byte in `path`.
        RuntimeError: `path` is not the file that this process records to.

    Raises the audit event `tracedthread.patch` with argument `path`, also when already patched.
    """
    if capture_bytes is not None and not _settings.MIN_CAPTURE_BYTES <= capture_bytes <= _settings.MAX_CAPTURE_BYTES:
        least, most = _settings.MIN_CAPTURE_BYTES, _settings.MAX_CAPTURE_BYTES
        raise ValueError(f"capture_bytes must be between {least} and {most}")
    if event_threshold_ms is not None and not 0 <= event_threshold_ms < 1e9:
        raise ValueError("event_threshold_ms must be a number of milliseconds")
    if deadlock_after_s is not None and not 0 <= deadlock_after_s < _settings.MAX_SECONDS:
        raise ValueError("deadlock_after_s must be a number of seconds")
    try:
        target = None if path is None else _core.Target(path)
    except OSError as exc:
        _settings.say(f"not recording: the current directory is gone ({exc})")
        return False
    sys.audit("tracedthread.patch", target and target.path)
    if _settings.disabled_by():
        return False
    with _state.guard:
        core = _core.loaded()
        if target is not None and core is not None and core.is_open and target.path != core.path:
            raise RuntimeError(f"this process records to {core.path or 'memory'} already, not to {target.path}")
        if _state.pairs:
            return True
        if event_threshold_ms is None:
            event_threshold_ms = _settings.event_threshold_ms()
        if deadlock_after_s is None:
            deadlock_after_s = _settings.deadlock_after_s()
        try:
            _patch(target, force, capture_bytes, event_threshold_ms, deadlock_after_s, follow_fork, audit_trail)
        except _core.Subinterpreter:
            return False
        except Exception as exc:  # Unavailable, or whatever happens to a process in a bad state
            _unpatch()
            _settings.say(f"not recording: {exc}")
            return False
    return True


def unpatch() -> bool:
    """
    Give `_thread`, and every module that refers to our factories by name, the stock ones back, and stop recording.

    Locks and threads made meanwhile go on working, unrecorded. The capture stays, for `snapshot()` and a later
    `patch()`.

    From 3.13 on `_thread.start_joinable_thread` and `_shutdown`, the functions behind `threading.Thread`, stay ours as
    long as threads that were started, or Thread objects that were made, while patched still run or wait to be
    started: the stock ones would not join them at exit, nor start them.

    Returns:
        Whether it was patched.

    Raises the audit event `tracedthread.unpatch`.
    """
    sys.audit("tracedthread.unpatch")
    with _state.guard:
        return _unpatch()


def is_patched() -> bool:
    """Whether `_thread` is patched."""
    return bool(_state.pairs)


def pause() -> None:
    """Count nothing until `resume()`; everything stays in place. Waits and holds in progress are not counted."""
    with _state.guard:
        _state.paused = True
        _set_recording()


def resume() -> None:
    """Undo `pause()`. Does nothing when not paused."""
    with _state.guard:
        _state.paused = False
        _set_recording()


def uncovered() -> tuple[dict[str, Any], ...]:
    """
    What the recording cannot see, found when it was patched: `{"what": str, "count": int, "where": [name, ...]}` each.
    """
    return _state.uncovered


def begin_recording() -> bool:
    """A block of `record()` begins: patch, if that is still to be done. Returns whether it is recorded."""
    with _state.guard:
        _state.recordings += 1  # first of all: no other block's end unpatches from here on
        was_patched = bool(_state.pairs)
    is_recorded = False
    try:
        is_recorded = patch()
    finally:
        with _state.guard:
            _state.recordings -= not is_recorded
            _state.recordings_patched |= is_recorded and not was_patched
    return is_recorded


def end_recording(pid: int) -> None:
    """
    A block of `record()` ends: the last one unpatches, if one of them has patched.

    Args:
        pid: The process in which it began, a parent's in a forked child; 0: it is not recorded.
    """
    with _state.guard:
        _state.recordings -= pid == os.getpid()
        if pid and not _state.recordings and _state.recordings_patched:
            _state.recordings_patched = False
            unpatch()


def _patch(
    target: _core.Target | None,
    force: bool,
    size: int | None,
    event_threshold_ms: float | None,
    deadlock_after_s: float | None,
    follow_fork: bool | None,
    audit_trail: bool | None,
) -> None:
    from . import _green, _wrapped
    from . import _uncovered as _scan

    if (package := _green.patched_by()) is not None:
        raise _core.Unavailable(f"{package} has patched threads; its locks are not native ones")
    kept = {id(ours) for _, ours in _state.kept}
    for name, value in vars(originals).items():
        if (found := getattr(stock, name, value)) is not value and id(found) not in kept:
            raise _core.Unavailable(f"something else has replaced _thread.{name}")
    core = _core.load()
    from . import _thread as drop_in

    first = not core.is_open
    if first:
        if target is None and (output := _settings.output()) is not None:
            target = _core.Target(output)
        core.open(target, force=force, size=size if size is not None else _settings.capture_bytes())
        if target is not None:
            _state.force, _state.began_ns = force, os.stat(target.path).st_mtime_ns
    if event_threshold_ms is not None:
        core.lib.tt_event_threshold_set(int(event_threshold_ms * 1_000_000))
    if deadlock_after_s is None:
        deadlock_after_s = 5.0
    core.lib.tt_deadlock_watch_set(int(deadlock_after_s * 1e9), _stderr_descriptor())
    if audit_trail is None:
        audit_trail = _settings.audit_trail() or None
    if audit_trail is not None:
        core.lib.tt_trail_set(audit_trail)

    _hook()
    _state.follow_fork = _settings.follow_fork() if follow_fork is None else follow_fork
    _state.uncovered = _scan.find(_state.guard)
    if is_wrapped := _thread_start_is_wrapped(kept):
        item: dict[str, Any] = {
            "what": "starts of threading.Thread, which another tool has wrapped",
            "count": 0,
            "where": [],
        }
        _state.uncovered = (*_state.uncovered, item)

    left_out = drop_in._FAMILY if is_wrapped else ()
    ours = {
        name: getattr(core.types, kind)
        for name, kind in drop_in._OURS.items()
        if hasattr(originals, name) and name not in left_out
    }
    # The import system keeps the originals: its locks are not the program's.
    bootstrap._thread = originals
    _state.pairs = tuple((getattr(originals, name), value) for name, value in ours.items())
    _state.kept = tuple(pair for pair in _state.kept if pair not in _state.pairs)
    _state.paused = False
    core.types.adopt_thread(_thread_name())
    core.types.set_recording(True)
    # What makes handles last, for stock functions do not know ours: other threads may start threads meanwhile.
    with _wrapped.Aside():
        _exchange({name: value for name, value in ours.items() if name not in drop_in._HANDLE_MAKERS})
        _exchange({name: value for name, value in ours.items() if name in drop_in._HANDLE_MAKERS})
    if names := _wrapped.kept(_state.pairs):
        _state.uncovered = (*_state.uncovered, {"what": _wrapped.WRAPPED, "count": 0, "where": names})
    if first:
        for item in _state.uncovered:
            core.note(item["what"], item["count"], item["where"])
    core.types.watch_pools(True)
    _green.watch(_step_aside)


def _thread_start_is_wrapped(kept: set[int]) -> bool:
    """
    Whether `threading` starts its threads by something that is neither stock nor ours (a debugger's, since 3.13).

    It will call the stock function, which knows no other handles than stock ones.
    """
    from . import _rebind

    stock_start = getattr(originals, "start_joinable_thread", None)
    start = _rebind.namespace_of(sys.modules.get("threading")).get("_start_joinable_thread", stock_start)
    return start is not stock_start and id(start) not in kept


def _exchange(names: dict[str, Any]) -> None:
    """Let these names of `_thread`, and every module's references to what they were, be these."""
    from . import _rebind

    pairs = []
    for name, value in names.items():
        old = getattr(stock, name)
        if old is not value:
            pairs.append((old, value))
            setattr(stock, name, value)
    _rebind.rebind(pairs)


def _unpatch() -> bool:
    if not _state.pairs:
        return False
    from . import _green, _wrapped
    from . import _thread as drop_in

    _green.unwatch()
    core = _core.loaded()
    if core is not None:
        core.types.watch_pools(False)
    pairs = (*_state.pairs, *(pair for pair in _state.kept if pair not in _state.pairs))
    stock_ids = {id(original) for original, _ in pairs}
    names = [name for name in drop_in._OURS if id(getattr(originals, name, None)) in stock_ids]
    # First what makes handles, so that no more of ours are made; then see whether some are in use.
    _exchange({name: getattr(originals, name) for name in names if name in drop_in._HANDLE_MAKERS})
    in_use = core is not None and core.types.handles_in_use()
    left = [name for name in names if in_use and name in drop_in._FAMILY and name not in drop_in._HANDLE_MAKERS]
    with _wrapped.Aside():
        _exchange({name: getattr(originals, name) for name in names if name not in left})
    left_ids = {id(getattr(originals, name)) for name in left}
    _state.kept = tuple(pair for pair in pairs if id(pair[0]) in left_ids)
    bootstrap._thread = stock
    _state.pairs = ()
    if core is not None:
        core.types.set_recording(False)
    return True


def _set_recording() -> None:
    if _state.pairs and (core := _core.loaded()) is not None:
        core.types.set_recording(not _state.paused)


def _thread_name() -> str:
    # Without importing threading; when it is there it knows the name.
    active = getattr(sys.modules.get("threading"), "_active", {})
    thread = active.get(originals.get_ident())
    return "" if thread is None else str(thread.name)


def _stderr_descriptor() -> int:
    # In a process that was started without a stderr, descriptor 2 may be anything.
    try:
        return 2 if sys.__stderr__ is not None and sys.__stderr__.fileno() == 2 else -1
    except (OSError, ValueError):  # closed since
        return -1


def _step_aside(package: str) -> None:
    with _state.guard:
        if _unpatch():
            _settings.say(f"not recording: {package} patches threads; stock locks are back in place")


def _hook() -> None:
    if _state.hooked:
        return
    import atexit

    core = _core.load()
    atexit.register(core.finish)
    os.register_at_fork(after_in_child=_after_fork_in_child)
    _state.hooked = True


def is_from_an_earlier_run(path: str) -> bool:
    """Whether the file is older than this run's first, by the file system's own clock: process ids come round."""
    try:
        return os.lstat(path).st_mtime_ns < _state.began_ns
    except OSError:
        return False


def _after_fork_in_child() -> None:
    _state.guard = originals.RLock()
    _state.recordings = 0  # the blocks are the parent's
    core = _core.loaded()
    if core is None or not _state.follow_fork or core.target is None:
        return
    target = core.target.of_child()
    try:
        core.open(target, force=_state.force and is_from_an_earlier_run(target.path), size=core.size)
    except _core.Unavailable as exc:
        _settings.say(f"not recording: {exc}")  # to a file; the child's own memory stays
    at_end_of_child(core, core.finish, -100)
