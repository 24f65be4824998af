"""
Providers that are nobody's but ours, for programs that need not know of OpenTelemetry: `tracedthread run --otlp`.

The global providers stay the program's. A forked child gets providers of its own: what it inherits may be locked by
threads that it does not have, and shares its parent's connections.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.resources import PROCESS_PID, SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from tracedthread import _core, _settings

from .hush import hush, watch

__all__ = ["Delivery", "MetricExporter", "make_resource", "make_tracer_provider"]

_instance: dict[int, str] = {}  # by process


def make_resource() -> Resource:
    """
    Who this process is: what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say, and what tells it from others.

    `service.instance.id` is the user's in the first process only: a forked child is another instance.
    """
    resource = Resource.create({PROCESS_PID: os.getpid()})
    known: dict[str, Any] = {}
    if _instance.keys() - {os.getpid()} or SERVICE_INSTANCE_ID not in resource.attributes:
        known[SERVICE_INSTANCE_ID] = _instance.get(os.getpid()) or str(uuid.uuid4())
    name = str(resource.attributes.get(SERVICE_NAME, ""))
    if name in ("", "unknown_service") and _core.program:
        known[SERVICE_NAME] = f"unknown_service:{_core.program}"
    resource = resource.merge(Resource(known))
    _instance[os.getpid()] = str(resource.attributes[SERVICE_INSTANCE_ID])
    return resource


class Delivery:
    """What was handed over for export and what has arrived: of one signal, in one process."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.handed = 0
        self.delivered = 0
        self.failures = 0

    @property
    def missing(self) -> int:
        """What has not arrived: it was refused, there was no room for it, or it is under way."""
        return self.handed - self.delivered

    def say(self, destination: str, reason: str) -> None:
        """One line when an export has failed; the same one only once."""
        self.failures += 1
        _settings.say(f"{self.what} cannot be delivered to {destination} ({reason}); going on without them")


class SpanExporter(OTLPSpanExporter):
    """By OTLP over HTTP; keeps what goes wrong to itself."""

    def __init__(self, delivery: Delivery, endpoint: str | None) -> None:
        super().__init__(endpoint=endpoint)
        self._delivery = delivery

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        with hush():
            try:
                result = super().export(spans)
                reason = "it does not take them"
            except Exception as exc:
                result, reason = SpanExportResult.FAILURE, type(exc).__name__
        if result is SpanExportResult.SUCCESS:
            self._delivery.delivered += len(spans)
        else:
            self._delivery.say(self._endpoint, reason)
        return result


class MetricExporter(OTLPMetricExporter):
    """By OTLP over HTTP; keeps what goes wrong to itself."""

    def __init__(self, delivery: Delivery, endpoint: str | None) -> None:
        super().__init__(endpoint=endpoint)
        self._delivery = delivery

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Send what was measured; the next time it is sent again, and grown."""
        self._delivery.handed += 1
        with hush():
            try:
                result = super().export(metrics_data, timeout_millis, **kwargs)
                reason = "it does not take them"
            except Exception as exc:
                result, reason = MetricExportResult.FAILURE, type(exc).__name__
        if result is MetricExportResult.SUCCESS:
            self._delivery.delivered += 1
        else:
            self._delivery.say(self._endpoint, reason)
        return result


class _Processor(BatchSpanProcessor):
    """Counts what it is handed."""

    def __init__(self, delivery: Delivery, exporter: SpanExporter) -> None:
        super().__init__(exporter)
        self._delivery = delivery

    def on_end(self, span: ReadableSpan) -> None:
        self._delivery.handed += 1
        with hush():  # that its queue is full
            super().on_end(span)


def make_tracer_provider(resource: Resource, delivery: Delivery, endpoint: str | None) -> TracerProvider:
    """
    A provider that exports by OTLP.

    Args:
        endpoint: Where to; None for what OTEL_EXPORTER_OTLP_* say.
    """
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = SpanExporter(delivery, endpoint and f"{endpoint}/v1/traces")
    provider.add_span_processor(_Processor(delivery, exporter))
    watch()
    return provider
