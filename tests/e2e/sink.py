"""
Where telemetry goes in tests: an OTLP/HTTP server that keeps what it is sent, and can be as bad as a real one.

It serves in threads of the test's own process, which is not patched.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

HOLDER_LINK = ("tracedthread.link.type", "holder")


class Answer(NamedTuple):
    """
    What the server says, and when; what it answers with another status than 200 it does not keep.

    Args:
        raw: Sent instead of an answer in HTTP; then the connection ends.
    """

    status: int = 200
    delay_s: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()
    raw: bytes | None = None

    @property
    def accepts(self) -> bool:
        return self.status == 200 and self.raw is None


class Span(NamedTuple):
    """A span as it arrived; ids are hex, the holder is (trace id, span id) of its holder link."""

    resource: dict[str, Any]
    scope: str
    name: str
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    holder: tuple[str, str] | None

    @property
    def service(self) -> str:
        return str(self.resource.get("service.name", ""))

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


class Point(NamedTuple):
    """A metric's point as it arrived: the `value` of a number, or of a histogram `samples`, `value` (their sum) and the rest."""

    resource: dict[str, Any]
    name: str
    attributes: dict[str, Any]
    value: float
    time_ns: int
    samples: int = 0
    bounds: tuple[float, ...] = ()
    buckets: tuple[int, ...] = ()
    exemplars: tuple[tuple[float, str, str], ...] = ()  # value, trace id, span id


class Sink:
    """
    Args:
        answer: What each request gets; settable at any time.

    Attributes:
        requests: Their paths, as they came, also those that were answered badly.
    """

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer or Answer()
        self.requests: list[str] = []
        self._traces: list[ExportTraceServiceRequest] = []
        self._metrics: list[ExportMetricsServiceRequest] = []
        self._logs: list[ExportLogsServiceRequest] = []
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self._receive, self._closing))
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        """Gone, as if killed: who connects is refused from now on."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self, path: str, body: bytes) -> Answer:
        answer = self.answer
        self.requests.append(path)
        if answer.accepts and path == "/v1/traces":
            self._traces.append(ExportTraceServiceRequest.FromString(body))
        elif answer.accepts and path == "/v1/metrics":
            self._metrics.append(ExportMetricsServiceRequest.FromString(body))
        elif answer.accepts and path == "/v1/logs":
            self._logs.append(ExportLogsServiceRequest.FromString(body))
        return answer

    def spans(self, name: str | None = None) -> list[Span]:
        """All that arrived, or those of this name."""
        return [span for span in self._all_spans() if name in (None, span.name)]

    def _all_spans(self) -> Iterator[Span]:
        for request in list(self._traces):
            for resource in request.resource_spans:
                whose = _attributes(resource.resource.attributes)
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        holders = [
                            (link.trace_id.hex(), link.span_id.hex())
                            for link in span.links
                            if HOLDER_LINK in _attributes(link.attributes).items()
                        ]
                        yield Span(
                            whose,
                            scope.scope.name,
                            span.name,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            span.start_time_unix_nano,
                            span.end_time_unix_nano,
                            _attributes(span.attributes),
                            holders[0] if holders else None,
                        )

    def points(self, metric: str) -> list[Point]:
        """All that arrived of this metric, oldest first."""
        return [point for point in self._all_points() if point.name == metric]

    def latest(self, metric: str) -> dict[tuple[tuple[str, Any], ...], Point]:
        """The newest point of each attribute set (as sorted pairs)."""
        return {tuple(sorted(point.attributes.items())): point for point in self.points(metric)}

    def _all_points(self) -> Iterator[Point]:
        for request in list(self._metrics):
            for resource in request.resource_metrics:
                whose = _attributes(resource.resource.attributes)
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        for point in _numbers(metric):
                            yield Point(
                                whose,
                                metric.name,
                                _attributes(point.attributes),
                                point.as_double if point.HasField("as_double") else point.as_int,
                                point.time_unix_nano,
                            )
                        for point in metric.histogram.data_points:
                            yield Point(
                                whose,
                                metric.name,
                                _attributes(point.attributes),
                                point.sum,
                                point.time_unix_nano,
                                point.count,
                                tuple(point.explicit_bounds),
                                tuple(point.bucket_counts),
                                tuple((e.as_double, e.trace_id.hex(), e.span_id.hex()) for e in point.exemplars),
                            )

    def log_events(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Event name, trace id and attributes of each log record."""
        return [
            (record.event_name, record.trace_id.hex(), _attributes(record.attributes))
            for request in list(self._logs)
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a slow answer does not keep the test

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is no news."""


def _handler(receive: Callable[[str, bytes], Answer], closing: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            self.close_connection = True
            if closing.is_set():
                return
            answer = receive(self.path, body)
            if closing.wait(answer.delay_s):
                return
            if answer.raw is not None:
                self.wfile.write(answer.raw)
                return
            self.close_connection = False
            self.send_response(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _numbers(metric: Any) -> Any:
    return metric.sum.data_points if metric.HasField("sum") else metric.gauge.data_points


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None
