"""
Telemetry beside a program that knows nothing of it: `tracedthread run --otlp`, `--prometheus-listen`,
`--pyroscope-url`.

What is imported for it is not the program's: it is found as if the program were not there, and before it begins. Where
the program has modules of the same names, these are what it gets.
"""

from __future__ import annotations

import gc
import os
import sys

from . import _settings
from ._launch import without_first

TYPE_CHECKING = False  # all of this is imported before the program is
if TYPE_CHECKING:
    from collections.abc import Callable

    from .exemplars import Exemplars

__all__ = ["start"]


def start(
    *,
    otlp: bool = False,
    otlp_endpoint: str | None = None,
    prometheus_listen: str | None = None,
    pyroscope_url: str | None = None,
    paths: list[str] | None = None,
) -> None:
    """
    Start what is asked for. What cannot be started costs one line.

    Args:
        otlp: Export by OTLP.
        otlp_endpoint: Where to; None for what OTEL_EXPORTER_OTLP_* say.
        prometheus_listen: Where to serve metrics, as ADDR:PORT.
        pyroscope_url: Where to push profiles to.
        paths: What sys.path was before it was made the program's; None: it has not been made so yet.
    """
    wanted: list[Callable[[], Callable[[], object] | None]] = []
    if pyroscope_url:  # the first to be told to end: it is the quickest
        wanted.append(lambda: _pushing(pyroscope_url, otlp=otlp))
    if otlp:
        wanted.append(lambda: _exporting(otlp_endpoint, exemplars))
    if prometheus_listen:
        wanted.append(lambda: _serving(prometheus_listen, exemplars))
    known = set(sys.modules)
    programs = list(sys.path)
    in_front: list[str] = []
    if paths is not None:
        in_front = programs[: len(programs) - len(without_first(programs))]
        sys.path[:] = without_first(paths)
    try:
        from .exemplars import Exemplars

        exemplars = Exemplars()  # what is exported as a span is an example for what is served
        for prepare in wanted:
            begin = prepare()
            if begin is not None and not _is_in_the_way(known, in_front):
                _set_apart()
                _attempt(begin)
    finally:
        sys.path[:] = programs
        _make_way(known, in_front)


def _exporting(endpoint: str | None, exemplars: Exemplars) -> Callable[[], object] | None:
    if endpoint is None and (protocol := _unsupported_protocol()) is not None:
        _settings.say(f"no telemetry: --otlp speaks http/protobuf, not {protocol}; give it an endpoint that does")
        return None
    try:
        from .otel import exporters, private

        exporters.load()
    except ImportError as exc:
        _settings.say(f"no telemetry: --otlp needs more ({exc}): pip install 'tracedthread[otlp]'")
        return None
    return lambda: private.start(endpoint, exemplars=exemplars)


def _serving(address: str, exemplars: Exemplars) -> Callable[[], object] | None:
    try:
        from . import recorder
        from .prometheus import listen
    except ImportError as exc:
        _settings.say(f"no telemetry: --prometheus-listen needs more ({exc}): pip install 'tracedthread[prometheus]'")
        return None
    return lambda: listen(address, exemplars=exemplars, dropped=recorder.lost)


def _pushing(url: str, *, otlp: bool) -> Callable[[], object] | None:
    try:
        from . import _core, pyroscope, recorder
    except ImportError as exc:
        _settings.say(f"no telemetry: --pyroscope-url needs more ({exc}): pip install 'tracedthread[pyroscope]'")
        return None
    # Traces lead to the profiles of the service that they are called after.
    service = f"unknown_service:{_core.program}" if otlp and _core.program else None

    def begin() -> None:
        sink = pyroscope.make(url, service=service)
        if sink is not None:
            recorder.start([sink])

    return begin


def _set_apart() -> None:
    """
    Spare the program's garbage collections what has been imported so far.

    It is a hundred thousand objects that live until the end, where going through them again and again took 70 ms.
    """
    gc.collect()
    gc.freeze()


def _attempt(begin: Callable[[], object]) -> None:
    try:
        begin()
    except Exception as exc:
        _settings.say(f"no telemetry: {type(exc).__name__}: {exc}")


def _unsupported_protocol() -> str | None:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if value := os.environ.get(name, ""):
            return None if value == "http/protobuf" else value
    return None


def _is_in_the_way(known: set[str], folders: list[str]) -> bool:
    """
    Whether the program has a module called as one that the exporters are made of.

    They import from each other while they run, and would get the program's.
    """
    found = sorted(name for name in _shadowed(known, folders) if name not in sys.stdlib_module_names)
    if found:
        _settings.say(f"no telemetry: it needs a module {found[0]!r} that is not the program's of that name")
    return bool(found)


def _make_way(known: set[str], folders: list[str]) -> None:
    """Let the program have those of its own modules that are called as some of what was imported for us."""
    shadowed = _shadowed(known, folders)
    for name in sorted(set(sys.modules) - known):
        if name.partition(".")[0] in shadowed:
            del sys.modules[name]


def _shadowed(known: set[str], folders: list[str]) -> set[str]:
    """
    Names of what was imported since `known` that are the program's in these folders.

    A package that was there before, such as this one, is the program's as it is, whatever of it was imported since.
    """
    from importlib.machinery import PathFinder

    result = set()
    for name in {name.partition(".")[0] for name in set(sys.modules) - known} - known:
        spec = PathFinder.find_spec(name, [folder or os.getcwd() for folder in folders])
        if spec is not None and spec.loader is not None and spec.origin is not None:
            result.add(name)
    return result
