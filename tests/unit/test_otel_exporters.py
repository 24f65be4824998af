"""
What was not delivered, and why: as the collector's answers have it, batch by batch.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from collector import Listener
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import TracerProvider

from tracedthread import _settings
from tracedthread.otel import exporters
from tracedthread.otel.exporters import Delivery, MetricExporter, SpanExporter


class Collector(Listener):
    """
    Answers in turn as it is told: with a status, with a body, or not at all (None).

    Args:
        answers: The last one goes on.
    """

    def __init__(self, *answers: int | bytes | None) -> None:
        left = list(answers)
        self._ended = threading.Event()

        def reply(_: bytes, __: dict[str, str]) -> tuple[int, bytes] | None:
            answer = left.pop(0) if len(left) > 1 else left[0]
            if answer is None:
                self._ended.wait(60)
                return None
            return (answer, b"") if isinstance(answer, int) else (200, answer)

        super().__init__(reply)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        super().__exit__()


@pytest.fixture(autouse=True)
def _unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_settings, "_said", set())
    monkeypatch.setattr(exporters, "_said", set())


def told(*answers: int | bytes | None, exports: int) -> Delivery:
    """What is known after so many exports of metrics, the last of which is still under way where there is no answer."""
    with Collector(*answers) as collector:
        delivery = Delivery("exports of metrics")
        exporter = MetricExporter(delivery, f"{collector.url}/v1/metrics", 30)
        for _ in range(exports - 1):
            exporter.export(MetricsData([]))
        last = threading.Thread(target=exporter.export, args=(MetricsData([]),), daemon=True)
        last.start()
        last.join(0.5 if None in answers else 30)
        found = Delivery("")
        found.handed, found.delivered, found.reason = delivery.handed, delivery.delivered, delivery.reason
        return found


@pytest.mark.parametrize(
    ("answers", "exports", "missing", "reason"),
    [
        ((200, 200, None), 3, 1, "no answer in time"),
        ((400, 200), 3, 1, "HTTP 400"),  # of what is missing, not of what has come since
        ((503, 200, None), 2, 1, "no answer in time"),  # what was refused at first has arrived
    ],
)
def test_the_reason_is_that_of_what_is_missing(answers: Any, exports: int, missing: int, reason: str) -> None:
    delivery = told(*answers, exports=exports)
    assert (delivery.missing, delivery.reason) == (missing, reason)


def test_what_the_collector_takes_in_part_is_not_delivered(capfd: pytest.CaptureFixture[str]) -> None:
    body = ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(rejected_spans=2, error_message="too old")
    ).SerializeToString()
    provider = TracerProvider(shutdown_on_exit=False)
    spans: list[Any] = []
    for name in ("a", "b", "c"):
        span = provider.get_tracer("t").start_span(name)
        span.end()
        spans.append(span)
    with Collector(body, 200) as collector:
        delivery = Delivery("spans")
        exporter = SpanExporter(delivery, f"{collector.url}/v1/traces", 30)
        for batch in (spans, spans):
            delivery.handed += len(batch)
            exporter.export(batch)
    assert (delivery.handed, delivery.missing, delivery.reason) == (6, 2, "refused in part")
    assert capfd.readouterr().err == (
        f"tracedthread: telemetry cannot be delivered to {collector.url} (refused in part); the program goes on without\n"
    )
    # Of metrics it is an export that is counted, whatever there was in it.
    delivery = told(body, 200, exports=2)
    assert (delivery.missing, delivery.reason) == (1, "refused in part")


@pytest.mark.parametrize("body", [b"{}", b"\xff<html>ok</html>", ExportTraceServiceResponse().SerializeToString()])
def test_an_answer_that_says_nothing_is_none_of_refusal(body: bytes) -> None:
    assert told(body, exports=1).missing == 0
