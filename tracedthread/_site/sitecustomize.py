"""
Found first through PYTHONPATH in the Python subprocesses of `tracedthread run --follow-fork`: records, then makes way
for the `sitecustomize` that would have been found without it. Any version of Python may be started so.
"""

from __future__ import annotations

import os
import sys


def _without_us(paths: list[str], here: str) -> list[str]:
    return [path for path in paths if os.path.realpath(path or ".") != here]


def _record(here: str) -> None:
    if os.environ.get("TRACEDTHREAD_ENABLE") != "1" or sys.version_info < (3, 10):
        return
    # Another environment's interpreter may not have the package, and gets the one that we lie in; what it cannot load
    # there (the native code, when the version differs) patch() says in one line.
    beside = os.path.dirname(os.path.dirname(here))
    paths = list(sys.path)
    sys.path.append(beside)
    try:
        from tracedthread import _settings, patch

        otlp, pyroscope = _settings.otlp(), _settings.pyroscope_url()
        if patch() and (otlp or pyroscope):
            from tracedthread import telemetry

            telemetry.start(otlp=otlp, otlp_endpoint=_settings.otlp_endpoint(), pyroscope_url=pyroscope)
    finally:
        sys.path[:] = paths


def _chain() -> None:
    spec = None
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        spec = find_spec("sitecustomize", None) if find_spec is not None else None
        if spec is not None:
            break
    if spec is None or spec.loader is None:
        raise ImportError("there is no other", name="sitecustomize")  # what `site` hears, and minds not, without us
    module = type(sys)("sitecustomize")
    module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


_here = os.path.dirname(os.path.realpath(__file__))
try:
    sys.path[:] = _without_us(sys.path, _here)  # the program sees the path that it would see without us
    _record(_here)
except Exception as exc:
    sys.stderr.write(f"tracedthread: not recording: {exc}\n")
_chain()  # its errors are its own, reported by `site` as ever
