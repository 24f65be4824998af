"""
Metrics through the program's own set-up: counters by its MeterProvider, histograms beside it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.resources import Resource

from tracedthread import _settings
from tracedthread.measure import Board

from .histograms import HistogramExporter, load_exporter, make_exporter, told_of
from .observables import Observables, observe

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from tracedthread.exemplars import Exemplars

__all__ = ["Metrics", "exporter_of_environment", "uses_otlp"]

# As the SDK's exporters of one protocol are called; `otlp` leaves that to the environment.
_HTTP, _GRPC = "otlp_proto_http", "otlp_proto_grpc"


class Metrics:
    """
    A sink of the recorder, which it uses as a clock only: a global provider may be set later.

    Args:
        meter_provider: None for the global one.
        tracer_provider: Its resource, which all of the program's providers have, is that of the histograms; if there is
            none, that of the meter provider.
        histograms: Whether to export them; None: if the environment speaks of metrics by OTLP.
    """

    def __init__(
        self,
        board: Board,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
        *,
        exemplars: Exemplars | None = None,
        histograms: bool | None = None,
    ) -> None:
        self._tracer_provider, self._meter_provider = tracer_provider, meter_provider
        self._observables: Observables = observe(meter_provider or metrics.get_meter_provider(), board.measure)
        self._waiting: HistogramExporter | None = None
        self._histograms: HistogramExporter | None = None
        if (uses_otlp() if histograms is None else histograms) and _can_export():
            self._waiting = HistogramExporter(
                board.measure,
                resource=self._resource,
                exporter=exporter_of_environment,
                exemplars=exemplars,
                told=told_of(board),
            )
            self.tick()

    def tick(self, *_: object) -> None:
        """Begin with the histograms once it is known whose they are."""
        waiting = self._waiting
        if waiting is not None and self._known_resource() is not None:
            waiting.start()
            # Not before: a child that is forked meanwhile has to start them itself.
            self._histograms, self._waiting = waiting, None

    def close(self, timeout_s: float) -> None:
        """
        Export for the last time. The provider's own last collection is still to come.

        Where the histograms did not arrive, the counters would not either: the provider gets no more of them, for it
        would try until its time is up, ten seconds or more, and keep the program from ending.
        """
        self._waiting = None
        histograms = self._histograms
        if histograms is None:
            return
        is_over = histograms.close(timeout_s * 0.9)  # while we are still waited for
        if is_over and not histograms.is_failing:
            return
        self._observables.stop()
        if not histograms.failures:  # else that has been said
            _settings.say("the last metrics could not be delivered by OTLP in time; ending without them")

    def withdraw(self) -> None:
        """Answer the provider no more, nor export. Waits for nothing: `close` may never have been called."""
        self._observables.stop()
        waiting, self._waiting = self._waiting, None
        for histograms in (waiting, self._histograms):
            if histograms is not None:
                histograms.leave()

    def _known_resource(self) -> Resource | None:
        tracer = self._tracer_provider or trace.get_tracer_provider()
        meter = self._meter_provider or metrics.get_meter_provider()
        for owner in (tracer, getattr(meter, "_sdk_config", None)):
            if isinstance(resource := getattr(owner, "resource", None), Resource):
                return resource
        return None

    def _resource(self) -> Resource:
        return self._known_resource() or Resource.create()


def uses_otlp() -> bool:
    """Whether the environment speaks of metrics by OTLP."""
    if names := _exporters():
        return any(name in ("otlp", _HTTP, _GRPC) for name in names)
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    return any(os.environ.get(name) for name in endpoints)


def _exporters() -> list[str]:
    """OTEL_METRICS_EXPORTER, in which nothing is the same as none of it."""
    return [name for one in os.environ.get("OTEL_METRICS_EXPORTER", "").split(",") if (name := one.strip())]


def exporter_of_environment() -> Any:
    """
    The exporter that OTEL_EXPORTER_OTLP_* describe, in the protocol that they or OTEL_METRICS_EXPORTER name.

    Raises:
        ImportError: It is not installed.
    """
    return _load_grpc().OTLPMetricExporter() if _speaks_grpc() else make_exporter()


def _speaks_grpc() -> bool:
    named = [name for name in _exporters() if name in (_HTTP, _GRPC)]
    if named:  # that goes before
        return named[0] == _GRPC
    generally = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
    return (os.environ.get("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL") or generally).strip() == "grpc"


def _load_grpc() -> Any:
    from opentelemetry.exporter.otlp.proto.grpc import metric_exporter  # type: ignore[import-not-found, unused-ignore]

    for module in ("grpc._channel", "grpc._simple_stubs", "grpc.experimental"):  # as a channel does when it is made
        with suppress(ImportError):
            import_module(module)

    return metric_exporter


def _can_export() -> bool:
    """
    Whether there is an exporter; where there is none, one line says so.

    All that it needs is imported here, by the caller. On a thread of ours a fork could come in between, and the child
    would have modules whose import nobody ever ends.
    """
    try:
        if _speaks_grpc():
            _load_grpc()
        else:
            load_exporter()
    except Exception as exc:
        _settings.say(f"no histograms by OTLP: {exc}")
        return False
    return True
