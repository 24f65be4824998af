"""
The distro that `opentelemetry-instrument` sets up: patches, before the SDK has threads and locks, and then is the
distro that would have been set up without it. Entry point `opentelemetry_distro`.
"""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.distro import BaseDistro, DefaultDistro  # type: ignore[attr-defined]
from opentelemetry.instrumentation.environment_variables import OTEL_PYTHON_DISTRO

from tracedthread import _settings
from tracedthread.patch import patch

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["Distro"]

NAME = "tracedthread"


class Distro(BaseDistro):  # type: ignore[misc]
    """
    Stands in front of another distro, and does all that it does.

    The other one is that of the user's OTEL_PYTHON_DISTRO, else the first that there is, as if ours were not.
    """

    def __init__(self) -> None:
        patch()  # first of all: what is imported from here on is covered by itself
        self._next = _find(_give_back())

    def _configure(self, **kwargs: Any) -> None:
        _choose_protocol()
        self._next.configure(**kwargs)
        if not entry_points(group="opentelemetry_configurator"):
            _settings.say(
                "no telemetry unless the program itself sets up OpenTelemetry's SDK; nothing else does: "
                "pip install opentelemetry-distro"
            )

    def load_instrumentor(self, entry_point: EntryPoint, **kwargs: Any) -> None:
        """Activate an instrumentation, as the other distro does."""
        self._next.load_instrumentor(entry_point, **kwargs)


def _give_back() -> str:
    """
    Undo what `otel.environment` did: the program, and the interpreters that it starts, see what was set.

    Returns:
        The distro that the user has asked for, or nothing.
    """
    asked = os.environ.pop(_settings.NEXT_DISTRO, None)
    if asked:
        os.environ[OTEL_PYTHON_DISTRO] = asked
    elif asked is not None:
        os.environ.pop(OTEL_PYTHON_DISTRO, None)
    return asked or ""


def _choose_protocol() -> None:
    """
    Speak http where nothing is said and only that is installed, as with our extra `otlp`.

    The stock distro's choice is grpc; its exporter missing would end the instrumentation of everything.
    """
    installed = entry_points(group="opentelemetry_traces_exporter").names
    if "otlp_proto_http" in installed and "otlp_proto_grpc" not in installed:
        os.environ.setdefault("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")


def _find(asked: str) -> BaseDistro:
    # What goes wrong in there is the other distro's own, and is logged by who loads us.
    for entry_point in entry_points(group="opentelemetry_distro"):
        if entry_point.name != NAME and asked in ("", entry_point.name):
            distro = entry_point.load()()
            if isinstance(distro, BaseDistro):
                return distro
    return DefaultDistro()
