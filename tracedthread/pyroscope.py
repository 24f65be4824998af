"""
Blame to Pyroscope, as the profile `mutex` that Go programs push: which stacks, holding which lock, kept others waiting.

    tracedthread run --pyroscope-url http://localhost:4040 app.py

Every 15 s what was charged since the last time is pushed, by a thread that nobody waits for. What certainly did not
arrive goes with the next push; what may have arrived is not sent twice but counted as lost. A forked child pushes for
itself.

It belongs to a service and a stretch of time, not to a span: who is charged adds up what many requests waited.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from tracedthread import _core, _settings, _unsignalled, pprof, recorder
from tracedthread._gate import Gate
from tracedthread.blamed import Blamed, Charges
from tracedthread.live import LiveEvent, LiveStart
from tracedthread.pusher import Lost, NotTaken, Pusher

__all__ = ["PROFILE", "Pyroscope", "make"]

#: What Grafana selects by is this, its sample types and its period type: `mutex:delay:nanoseconds:contentions:count`.
PROFILE = "mutex"
TIMEOUT_S = 10.0
#: Of the last push; a program ends no later for a server that is not well.
LAST_TIMEOUT_S = 0.8
#: What is older goes to nobody: an hour back is where Pyroscope's ingestion window ends.
CARRY_NS = 45 * 60 * 10**9

# Few values each. Never a process or an instance: what Pyroscope keeps such apart by is `__session_id__`.
_LABELS = ("service.name", "service.namespace", "service.version", "deployment.environment.name")


class _Told:
    """
    What of this process's capture has been pushed, whoever pushes.

    Attributes:
        since_ns: Until when that was, unix time.
    """

    def __init__(self) -> None:
        self._of: tuple[int, ...] = ()
        self.charges: Charges = {}
        self.since_ns = 0

    def begin(self, blamed: Blamed) -> None:
        """Forget what was told of another capture: of a parent's."""
        if self._of != blamed.identity:
            self._of, self.charges, self.since_ns = blamed.identity, {}, blamed.start_ns

    def move(self, charges: Charges, until_ns: int) -> None:
        """That much, too."""
        self.charges, self.since_ns = charges, until_ns


_told = _Told()
_live: list[Pyroscope] = []  # one, or none


def make(url: str, *, resource: Callable[[], Mapping[str, Any]] = dict, service: str | None = None) -> Pyroscope | None:
    """
    What pushes there, for `recorder.start`; None if something pushes already, or it cannot.

    Args:
        resource: Who this process is, in OpenTelemetry's words; that goes before the environment, as in the SDK.
        service: Who it is if nobody says so. Default: the program's name.
    """
    if _live:
        return None
    headers = _settings.pyroscope_headers()
    try:
        sink = Pyroscope(Pusher(url, headers), resource=resource, service=service)
    except Exception as exc:  # no ssl, or no certificates
        _settings.say(f"no profiles: {type(exc).__name__}")
        return None
    _live.append(sink)
    return sink


class Pyroscope:
    """A sink of the recorder that pushes; see `make`."""

    def __init__(
        self,
        pusher: Pusher,
        *,
        interval_s: float | None = None,
        resource: Callable[[], Mapping[str, Any]] = dict,
        service: str | None = None,
    ) -> None:
        self._pusher = pusher
        self._interval_s = _settings.pyroscope_interval_s() if interval_s is None else interval_s
        self._resource, self._service = resource, service
        self._is_child = False
        self._reset()

    def _reset(self) -> None:
        self._pid = 0
        self._has_thread = False
        self._blamed: Blamed | None = None
        self._session = secrets.token_hex(8)
        self._stop, self._done = Gate(), Gate()
        self._is_left = False
        self._under_way: tuple[Charges, int] | None = None
        self._reason = ""
        self._arrived = self._missing = 0
        self._is_carrying = False  # what was not taken, and is still to be sent

    def tick(
        self,
        events: Sequence[LiveEvent],
        starts: Sequence[LiveStart],
        contexts: Mapping[int, Any],
        lost: Mapping[str, int],
    ) -> None:
        """See that the thread of this process runs."""
        del events, starts, contexts, lost
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._blamed = Blamed(_core.load())
        _told.begin(self._blamed)
        with suppress(Exception):  # 3.12 starts none at the end, or it is a limit of the system
            _unsignalled.start(self._run, self._stop, self._done)
            self._has_thread = True

    def close(self, timeout_s: float) -> None:
        """Push for the last time."""
        if self in _live:
            _live.remove(self)
        self._stop.open()
        if not self._has_thread:
            recorder.attempt(self._push, min(timeout_s, LAST_TIMEOUT_S))
        elif not self._done.wait(min(timeout_s, LAST_TIMEOUT_S * 1.25)):
            self._leave()
        if self._is_carrying:
            self._count_missing()
        if self._missing:
            of = f"{self._missing} of {self._missing + self._arrived} profiles"
            whose = f" from process {os.getpid()}" if self._is_child else ""
            _settings.say(f"not delivered: {of} to {self._pusher.shown} ({self._reason}){whose}")

    def after_fork(self) -> None:
        """In a child, which pushes what it is charged itself."""
        self._pusher.after_fork()
        self._reset()
        self._is_child = True

    def _leave(self) -> None:
        """Leave the thread behind with the push that it waits for, of which nobody will know what became."""
        self._is_left = True
        self._reason = self._reason or "no answer in time"
        self._is_carrying = False
        self._count_missing()
        if self._under_way is not None:
            _told.move(*self._under_way)

    def _run(self, stop: Gate, done: Gate) -> None:
        try:
            while not stop.wait(self._interval_s) and not self._is_left:
                recorder.attempt(self._push, TIMEOUT_S)
            if not self._is_left:
                recorder.attempt(self._push, LAST_TIMEOUT_S)
        finally:
            done.open()

    def _push(self, timeout_s: float) -> None:
        blamed = self._blamed
        if blamed is None:  # it cannot be read
            return
        charges, now_ns = blamed.charges(), time.time_ns()
        news = blamed.since(_told.charges, charges)
        since_ns = _told.since_ns
        if not news:
            _told.move(charges, now_ns)
            return
        length_ns = max(1, now_ns - since_ns)
        profile = pprof.encode(news, program=blamed.program, started_ns=since_ns, duration_ns=length_ns)
        self._under_way = charges, now_ns
        arrives, is_over = True, True
        try:
            self._pusher.push(profile, self._series(), timeout_s)
        except NotTaken as exc:
            arrives, is_over = False, length_ns >= CARRY_NS
            self._say_failure(str(exc))
        except Lost as exc:
            arrives = False
            self._say_failure(str(exc))
        finally:
            self._under_way = None
        if self._is_left:  # and it was counted
            return
        self._is_carrying = not is_over
        if arrives:
            self._arrived += 1
        elif is_over:
            self._count_missing()
        if is_over:
            _told.move(charges, now_ns)

    def _count_missing(self) -> None:
        self._missing += 1
        recorder.count("profiles")

    def _series(self) -> dict[str, str]:
        environment = _environment()
        known = {**environment, **self._resource()}
        name = str(known.get("service.name") or "")
        if not name or name.startswith("unknown_service"):  # as the SDK says that it has been told none
            name = environment.get("service.name") or name
        known["service.name"] = name or self._service or _core.program or self._program()
        labels = {name.replace(".", "_"): str(known[name]) for name in _LABELS if known.get(name)}
        return {"__name__": PROFILE, "__delta__": "false", "__session_id__": self._session, **labels}

    def _program(self) -> str:
        return self._blamed.program if self._blamed is not None and self._blamed.program else "unknown_service"

    def _say_failure(self, reason: str) -> None:
        if not self._reason:
            where = self._pusher.shown
            _settings.say(f"profiles cannot be delivered to {where} ({reason}); the program goes on without")
        self._reason = reason


def _environment() -> dict[str, str]:
    """OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME, without the SDK, whose import takes long."""
    pairs = (pair.partition("=") for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    known = {name.strip(): unquote(value.strip()) for name, equals, value in pairs if equals}
    if name := os.environ.get("OTEL_SERVICE_NAME", "").strip():
        known["service.name"] = name
    return known
