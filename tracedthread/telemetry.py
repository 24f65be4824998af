"""
Telemetry beside a program that knows nothing of it: `tracedthread run --otlp` and `--prometheus-listen`.

What is imported for it is not the program's: it is found as if the program were not there, and where the program has
modules of the same names, these are what it gets.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from . import _settings

TYPE_CHECKING = False  # all of this is imported before the program is
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["start"]


def start(
    *,
    otlp: bool = False,
    otlp_endpoint: str | None = None,
    prometheus_listen: str | None = None,
    paths: list[str] | None = None,
) -> None:
    """
    Start what is asked for here, or in TRACEDTHREAD_*. What cannot be started costs one line.

    Args:
        otlp: Export by OTLP.
        otlp_endpoint: Where to; None for what the environment says.
        prometheus_listen: Where to serve metrics, as ADDR:PORT.
        paths: What sys.path was before it was made the program's.
    """
    endpoint = otlp_endpoint or _settings.otlp_endpoint()
    address = prometheus_listen or _settings.prometheus_listen()
    wanted: list[Callable[[], object]] = []
    if otlp or endpoint or _settings.otlp():
        wanted.append(lambda: _export(endpoint))
    if address:
        wanted.append(lambda: _serve(address))
    if not wanted:
        return
    known = set(sys.modules)
    programs = list(sys.path)
    if paths is not None:
        sys.path[:] = paths
    sys.path[:] = _without_first(sys.path)
    try:
        for begin in wanted:
            begin()
    finally:
        sys.path[:] = programs
        _make_way(known, programs[: len(programs) - len(_without_first(programs))])


def _export(endpoint: str | None) -> None:
    if endpoint is None and (protocol := _unsupported_protocol()) is not None:
        _settings.say(f"no telemetry: --otlp speaks http/protobuf, not {protocol}; give it an endpoint that does")
        return
    try:
        from .otel import private

        private.start(endpoint)
    except ImportError as exc:
        _settings.say(f"no telemetry: --otlp needs more ({exc}): pip install 'tracedthread[otlp]'")
    except Exception as exc:
        _settings.say(f"no telemetry: {type(exc).__name__}: {exc}")


def _serve(address: str) -> None:
    try:
        from . import prometheus

        prometheus.listen(address)
    except ImportError as exc:
        _settings.say(f"no metrics: --prometheus-listen needs more ({exc}): pip install 'tracedthread[prometheus]'")
    except Exception as exc:
        _settings.say(f"no metrics: {type(exc).__name__}: {exc}")


def _unsupported_protocol() -> str | None:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if value := os.environ.get(name, ""):
            return None if value == "http/protobuf" else value
    return None


def _without_first(paths: list[str]) -> list[str]:
    # What the interpreter has put in front: the script's directory, or the current one, where anything may lie.
    is_safe = sys.flags.isolated or getattr(sys.flags, "safe_path", False)
    return paths if is_safe else paths[1:]


def _make_way(known: set[str], folders: list[str]) -> None:
    """Let the program have those of its own modules that are called as some of what was imported for us."""
    own = set()
    for folder in folders:
        with suppress(OSError):
            own |= {entry.partition(".")[0] for entry in os.listdir(folder or ".")}
    for name in sorted(set(sys.modules) - known):
        if name.partition(".")[0] in own:
            del sys.modules[name]
