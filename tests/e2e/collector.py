"""
An OTLP/HTTP collector inside the test: takes what is exported, decodes it, and can be slow, refuse or hang up.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_REQUESTS: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


class Span(NamedTuple):
    name: str
    resource: dict[str, Any]
    attributes: dict[str, Any]
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[tuple[str, str], ...]
    kind: int
    scope: str
    duration_s: float


class Point(NamedTuple):
    """Of a metric; `value` is a sum, or a histogram's count."""

    metric: str
    resource: dict[str, Any]
    attributes: dict[str, Any]
    value: float
    sum_s: float
    request: int


def plain(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value") or "string_value") for item in attributes}


class Collector:
    """
    Args:
        delay_s: It answers so much later.
        status: With this.
    """

    def __init__(self, *, delay_s: float = 0.0, status: int = 200) -> None:
        self.delay_s = delay_s
        self.status = status
        self.received: list[tuple[str, Any]] = []
        self._closing = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector._closing.wait(collector.delay_s)
                if collector.status == 200:
                    message = _REQUESTS[self.path]()
                    message.ParseFromString(body)
                    collector.received.append((self.path, message))
                self.send_response(collector.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # a client that has gone

        self._server = Server(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def spans(self, name: str = "lock.wait") -> list[Span]:
        return [span for span in self._spans() if span.name == name]

    def _spans(self) -> Iterator[Span]:
        for path, message in list(self.received):
            if path != "/v1/traces":
                continue
            for resource_spans in message.resource_spans:
                for scope_spans in resource_spans.scope_spans:
                    for span in scope_spans.spans:
                        yield Span(
                            span.name,
                            plain(resource_spans.resource.attributes),
                            plain(span.attributes),
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                            span.kind,
                            scope_spans.scope.name,
                            (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                        )

    def points(self, metric: str) -> list[Point]:
        """All that were received, the oldest first."""
        found = []
        for number, (path, message) in enumerate(list(self.received)):
            if path != "/v1/metrics":
                continue
            for resource_metrics in message.resource_metrics:
                resource = plain(resource_metrics.resource.attributes)
                for scope_metrics in resource_metrics.scope_metrics:
                    for one in scope_metrics.metrics:
                        if one.name != metric:
                            continue
                        data = getattr(one, one.WhichOneof("data"))
                        for point in data.data_points:
                            count = getattr(point, "count", None)
                            value = point.as_double or point.as_int if count is None else count
                            sum_s = 0.0 if count is None else point.sum
                            found.append(Point(metric, resource, plain(point.attributes), value, sum_s, number))
        return found

    def logs(self) -> list[tuple[dict[str, Any], dict[str, Any], str]]:
        """Resource, attributes and trace of each log event."""
        return [
            (plain(resource_logs.resource.attributes), plain(record.attributes), record.trace_id.hex())
            for path, message in list(self.received)
            if path == "/v1/logs"
            for resource_logs in message.resource_logs
            for scope_logs in resource_logs.scope_logs
            for record in scope_logs.log_records
        ]

    def wait_for(self, condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
        """What `condition` gives once that is true."""
        give_up = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < give_up, f"received only {[path for path, _ in self.received]}"
            time.sleep(0.02)
        return found
