"""
Whether recording works here, what it costs and what it cannot see: findings, each a sentence and the numbers behind it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tracedthread import _settings
from tracedthread.capture import Capture, CaptureError
from tracedthread.layout import RING_NAMES
from tracedthread.procfs import Refused
from tracedthread.profile import Profile
from tracedthread.target import Target

OK, NOTE, WRONG = "ok", "note", "wrong"

PROBE_LIMIT_S = 60
CONNECT_LIMIT_S = 2.0


@dataclass(frozen=True)
class Finding:
    """
    One thing that was looked at.

    Args:
        topic: In a word: `python`, `patching`, `cost`, `clock`, `coverage`, `recording`, `back end`; `target` is what
            was asked about and cannot be read.
        state: `ok`, `note` (to know, but as it should be) or `wrong`.
    """

    topic: str
    state: str
    sentence: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A row of `findings`."""
        return {"topic": self.topic, "state": self.state, "sentence": self.sentence, "data": dict(self.data)}


def of_host() -> Iterator[Finding]:
    """What recording would do in a fresh interpreter like this one, in this environment."""
    drop = ("TRACEDTHREAD_ENABLE", "TRACEDTHREAD_OUTPUT", "TRACEDTHREAD_FOLLOW_FORK")
    environment = {name: value for name, value in os.environ.items() if name not in drop}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [_root(), environment.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "tracedthread._probe"]
    try:
        # `-m` looks first where it is started, and there may be another one: that of a checkout, without native code.
        probe = subprocess.run(
            command, cwd=_root(), env=environment, capture_output=True, text=True, timeout=PROBE_LIMIT_S, check=False
        )
        found = json.loads(probe.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as exc:
        yield Finding("patching", WRONG, f"A fresh interpreter could not be asked: {exc}")
        return
    yield _python(found["python"])
    yield from _patching(found, probe.stderr)
    if found["patched"]:
        yield from _cost(found["cost"])
        yield _clock(found)
        yield from _coverage(found["uncovered"])


def of_file(path: str) -> Iterator[Finding]:
    """What a recording is, and what it lost."""
    try:
        capture = Capture.open(path)
        yield from _recording(capture, path)
    except (OSError, CaptureError) as exc:
        yield Finding("target", WRONG, f"{path} cannot be read: {_reason(exc)}.")


def of_process(pid: int) -> Iterator[Finding]:
    """What a running process records, and what it lost."""
    try:
        with Target(pid) as target:
            capture = target.copy()
            target.look_again()
        yield from _recording(capture, f"Process {pid}")
    except Refused as exc:
        yield Finding("target", WRONG, f"{_sentence(str(exc))}.")
    except (OSError, CaptureError) as exc:
        yield Finding("target", WRONG, f"The recording of process {pid} cannot be read: {_reason(exc)}.")


def of_back_ends(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Which back ends accept connections."""
    yield _of_otlp(environment)
    if value := environment.get("TRACEDTHREAD_PYROSCOPE_URL", "").strip():
        try:
            parts = urlsplit(_settings.parse_push_url(value))
        except ValueError as exc:
            yield Finding("back end", WRONG, f"TRACEDTHREAD_PYROSCOPE_URL is {exc}.")
        else:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            yield _reached("Pyroscope", parts.hostname or "", port)


def _of_otlp(environment: Mapping[str, str]) -> Finding:
    value = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    if not value:
        return Finding("back end", NOTE, "No OTLP back end is configured (OTEL_EXPORTER_OTLP_ENDPOINT is not set).")
    is_http = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").startswith("http")
    try:
        parts = urlsplit(value if "://" in value else f"//{value}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        return Finding("back end", WRONG, "OTEL_EXPORTER_OTLP_ENDPOINT is not an address.")
    return _reached("The OTLP back end", host, port or ((443 if parts.scheme == "https" else 80) if is_http else 4317))


def _reached(what: str, host: str, port: int) -> Finding:
    where = {"host": host, "port": port}  # not the whole address, which may have a password in it
    error = _connect(host, port)
    if error is None:
        return Finding("back end", OK, f"{what} at {host}:{port} accepts connections.", where)
    return Finding("back end", WRONG, f"{what} at {host}:{port} cannot be reached: {error}.", where)


def _python(python: Mapping[str, Any]) -> Finding:
    names = {"cpython": "CPython"}
    build = ", a debug build" if python["debug"] else ""
    build += ", free-threaded" if python["free_threaded"] else ""
    what = f"{names.get(python['implementation'], python['implementation'])} {python['version']} on {python['machine']}"
    return Finding("python", OK, f"{what}{build}: {python['executable']}.", python)


def _patching(found: Mapping[str, Any], stderr: str) -> Iterator[Finding]:
    said = [line.partition(": ")[2] for line in stderr.splitlines() if line.startswith("tracedthread: ")]
    if found["switch"] is not None:
        yield Finding("patching", WRONG, f"Nothing is recorded, because {found['switch']} is set.")
    elif not found["patched"]:
        why = "; ".join(line.removeprefix("not recording: ") for line in said) or "no reason was given"
        yield Finding("patching", WRONG, f"Nothing can be recorded: {why}.", {"said": said})
    else:
        yield Finding("patching", OK, "Patching works.")
        for line in said:
            yield Finding("patching", WRONG, f"{_sentence(line)}.")
    for package in ("gevent", "eventlet"):
        if importlib.util.find_spec(package) is not None:
            sentence = f"{package} is installed: a program that it patches is not recorded, and says so."
            yield Finding("patching", NOTE, sentence)


def _cost(cost: Mapping[str, Mapping[str, float]]) -> Iterator[Finding]:
    names = {"Lock()": "Making a lock", "thread": "Starting a thread until it has run"}
    for name, one in cost.items():
        what = names.get(name, f"A recorded `{name}`")
        ours, stock, ratio = one["ours_ns"], one["stock_ns"], one["ratio"]
        sentence = (
            f"{what} takes {_ns(ours)}, with the stock one {_ns(stock)}: {ratio:.2f} times as long "
            f"(median of {one['rounds']:.0f})."
        )
        yield Finding("cost", OK, sentence, {"operation": name, **one})


def _clock(found: Mapping[str, Any]) -> Finding:
    source, machine = found["clocksource"], found["python"]["machine"]
    data = {name: found[name] for name in ("clock", "clocksource", "ns_per_tick")}
    if found["clock"] == "tsc":
        sentence = "Times are read from the processor's counter (TSC), with which the kernel keeps time as well."
        return Finding("clock", OK, sentence, data)
    if machine != "x86_64":
        why = f"there is no other on {machine}"
    elif source != "tsc":
        why = f"the kernel does not trust the processor's counter (its clocksource is {source or 'not known'})"
    else:
        why = "the processor's counter did not pass its test"
    sentence = f"Times are read by clock_gettime, because {why}; that makes a hold some 10 to 50 ns more expensive."
    return Finding("clock", NOTE, sentence, data)


def _coverage(uncovered: list[dict[str, Any]]) -> Iterator[Finding]:
    sentence = (
        "Covered are locks, RLocks and threads that are made through _thread once it is patched, and with them "
        "threading, queue, concurrent.futures and all that is built on those."
    )
    yield Finding("coverage", OK, sentence)
    for row in uncovered:
        number = f", {row['count']} in a fresh interpreter" if row["count"] else ""
        names = f" ({', '.join(row['where'])})" if row["where"] else ""
        yield Finding("coverage", NOTE, f"Not covered: {row['what']}{number}{names}.", row)
    sentence = (
        "Not covered, as they are no locks of _thread: those of C extensions, of asyncio, and of multiprocessing, "
        "which processes share; nor waits for the GIL while a lock is held."
    )
    yield Finding("coverage", NOTE, sentence)


_BECAME = {
    "running": "still runs",
    "exited": "has ended",
    "killed": "ended without closing it",
    "unknown": "had not closed it, on another machine, in another container or before a reboot",
}


def _recording(capture: Capture, name: str) -> Iterator[Finding]:
    profile = Profile.from_capture(capture)
    process, totals = profile.process, profile.totals
    sentence = (
        f"{name} holds {process.duration_s:.3g} s of {process.program or '?'}, which "
        f"{_BECAME[process.state]}: "
        f"{totals.acquisitions:,} acquisitions of locks from {len(profile.locks)} places, {totals.contended:,} waits."
    )
    data = {**process.to_dict(), "bytes": capture.header.size}
    used = totals.acquisitions or totals.contended
    yield Finding("recording", OK if used else WRONG, sentence, data)
    # Rings overwrite their oldest records; no count or sum misses those.
    lost = {section: number for section, number in profile.lost.items() if number and section not in RING_NAMES}
    if lost:
        what = ", ".join(f"{number:,} {section}" for section, number in lost.items())
        sentence = f"No room was left for {what}: their totals are in (other). Record with a larger --capture-size."
        yield Finding("recording", WRONG, sentence, {"lost": lost})
    else:
        yield Finding("recording", OK, "Nothing was lost: everything found room.", {"lost": {}})
    for section in RING_NAMES:
        if number := profile.lost.get(section, 0):
            sentence = f"The {number:,} oldest {section} made room for newer ones; no count or sum misses them."
            yield Finding("recording", NOTE, sentence, {section: number})
    for row in profile.uncovered:
        names = f" ({', '.join(row.where[:5])}{', …' if len(row.where) > 5 else ''})" if row.where else ""
        count = f": {row.count:,}" if row.count else ""
        yield Finding("coverage", NOTE, f"Not in it: {row.what}{count}{names}.", row.to_dict())


def _connect(host: str, port: int) -> str | None:
    """What went wrong, None if nothing did. To look a name up may take longer than anybody wants to wait."""
    outcome: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=CONNECT_LIMIT_S).close()
            outcome.append(None)
        except (OSError, ValueError) as exc:
            outcome.append(_reason(exc))

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(2 * CONNECT_LIMIT_S)
    return outcome[0] if outcome else "no answer"


def _root() -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _reason(exc: Exception) -> str:
    return exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc) or type(exc).__name__


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] if not text.startswith(("/", ".")) else text


def _ns(value: float) -> str:
    return f"{value:.0f} ns" if value < 9_999.5 else f"{value / 1000:.0f} µs"
