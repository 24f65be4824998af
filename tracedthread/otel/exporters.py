"""
Exporters by OTLP over HTTP that keep what goes wrong to themselves: it is counted, and said once, on one line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace import SpanProcessor as SdkSpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tracedthread import _settings

from .hush import hush

__all__ = [
    "Delivery",
    "LastSpans",
    "LogExporter",
    "MetricExporter",
    "SpanExporter",
    "SpanProcessor",
    "load",
    "say_failure",
    "say_no_more",
]

_NO_ANSWER = "no answer in time"


class Delivery:
    """
    What was handed over for export and what has arrived, of one signal in one process.

    Args:
        what: What is counted, such as `spans`.

    Attributes:
        destination: Where they go, as it can be shown.
        reason: Why what is missing is, in words: of the last attempt that failed; if none did, it is still under way.
        rejected: How much of the batch under way was refused by a collector that took the rest.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.handed = 0
        self.delivered = 0
        self.destination = ""
        self.reason = _NO_ANSWER
        self.rejected = 0
        self._last_loss = _NO_ANSWER

    @property
    def missing(self) -> int:
        """What has not arrived: it was refused, there was no room for it, or it is still under way."""
        return self.handed - self.delivered

    def export(self, export: Callable[..., Any], items: int, *args: Any, **kwargs: Any) -> Any:
        """
        Export a batch.

        Returns:
            What `export` does; None if it has raised something.
        """
        result = None
        self.rejected = 0
        with hush():
            try:
                result = export(*args, **kwargs)
            except Exception as exc:
                self.reason = _in_words(exc)
        lost = min(items, self.rejected) if getattr(result, "name", "") == "SUCCESS" else items
        self.delivered += items - lost
        if lost:
            self._last_loss = self.reason
            say_failure(self.destination, self.reason)
        self.reason = self._last_loss  # attempts that failed at first may have been made good
        return result


class _Session(requests.Session):
    """Notes why an attempt has failed, which the exporters only log."""

    def __init__(self, delivery: Delivery) -> None:
        super().__init__()
        self._delivery = delivery

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send one."""
        try:
            response = super().request(*args, **kwargs)
        except Exception as exc:
            self._delivery.reason = _in_words(exc)
            raise
        if not response.ok:
            self._delivery.reason = f"HTTP {response.status_code}"
        elif rejected := _rejected(response.content):
            self._delivery.rejected, self._delivery.reason = rejected, "refused in part"
        return response


def _rejected(answer: bytes) -> int:
    """How much of a batch that was taken was not: `partial_success` has the same layout for all signals."""
    try:
        return max(0, int(ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans))
    except Exception:  # it is something else
        return 0


def _in_words(exc: BaseException) -> str:
    """What the system says, where it is that: these libraries wrap it up several times."""
    if isinstance(exc, requests.Timeout):
        return _NO_ANSWER
    innermost: BaseException | None = exc
    while innermost is not None:
        if isinstance(innermost, OSError) and innermost.strerror:
            return innermost.strerror.lower()
        innermost = innermost.__cause__ or innermost.__context__
    return type(exc).__name__


def _options(delivery: Delivery, endpoint: str | None, timeout_s: float | None) -> dict[str, Any]:
    # A session that the environment has a provider for is left to that.
    is_provided = any(name.endswith("_CREDENTIAL_PROVIDER") for name in os.environ)
    return {"endpoint": endpoint, "timeout": timeout_s, "session": None if is_provided else _Session(delivery)}


def _shown(endpoint: str) -> str:
    """Without what follows from it, and without a password."""
    return re.sub("//[^/@]*@", "//", endpoint).partition("/v1/")[0]


_said: set[tuple[int, str]] = set()


def say_failure(destination: str, reason: str) -> None:
    """One line, whichever signal fails first and however often; at the end there are numbers."""
    if not {(os.getpid(), destination), (os.getpid(), "")} & _said:
        _said.add((os.getpid(), destination))
        _settings.say(f"telemetry cannot be delivered to {destination} ({reason}); the program goes on without")


def say_no_more() -> None:
    """The numbers are said now: what fails later on is among them."""
    _said.add((os.getpid(), ""))


class _Counted:
    """What the three have in common; stands before the SDK's exporter, which it makes."""

    _endpoint: str

    def __init__(self, delivery: Delivery, endpoint: str | None, timeout_s: float | None = None) -> None:
        super().__init__(**_options(delivery, endpoint, timeout_s))
        self._delivery = delivery
        delivery.destination = _shown(self._endpoint)


class SpanExporter(_Counted, OTLPSpanExporter):
    """Of spans."""

    def export(self, spans: Sequence[ReadableSpan], *args: Any, **kwargs: Any) -> Any:
        """Send a batch."""
        return self._delivery.export(super().export, len(spans), spans, *args, **kwargs)


class MetricExporter(_Counted, OTLPMetricExporter):
    """Of metrics. What could not be sent is in the next export where sums are cumulative; a counter's delta is lost."""

    def export(self, metrics_data: Any, *args: Any, **kwargs: Any) -> Any:
        """Send what was measured."""
        self._delivery.handed += 1
        return self._delivery.export(super().export, 1, metrics_data, *args, **kwargs)


class LogExporter(_Counted, OTLPLogExporter):
    """Of log events."""

    def export(self, batch: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        """Send a batch."""
        self._delivery.handed += len(batch)
        return self._delivery.export(super().export, len(batch), batch, *args, **kwargs)


class SpanProcessor(BatchSpanProcessor):
    """In batches; counts what it is handed, also what its queue has no room for."""

    def __init__(self, delivery: Delivery, exporter: SpanExporter) -> None:
        super().__init__(exporter)
        self._delivery = delivery

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""
        self._delivery.handed += 1
        with hush():  # that its queue is full
            super().on_end(span)


class LastSpans(SdkSpanProcessor):
    """Without a thread: keeps what it is handed, up to a limit, until it is told to export it."""

    MOST = 2048  # as the SDK's queue has it

    def __init__(self, delivery: Delivery, exporter: SpanExporter) -> None:
        self._delivery = delivery
        self._exporter = exporter
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""
        self._delivery.handed += 1
        if len(self._spans) < self.MOST:
            self._spans.append(span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export them, as long as the exporter takes for it."""
        spans, self._spans = self._spans, []
        if spans:
            self._exporter.export(spans)
        return True

    def shutdown(self) -> None:
        """End."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call, unused-ignore]


def load() -> None:
    """Import what they would import when they are made or used, so that nothing is while the program runs."""
    import netrc  # noqa: F401  by requests

    "localhost".encode("idna")

    for kind in (SpanExporter, MetricExporter, LogExporter):
        kind(Delivery(""), "http://localhost").shutdown()
