"""
A collector for tests: takes OTLP over HTTP, and can be as unhelpful as real ones.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest


class FakeCollector:
    """
    Listens on loopback until the end of the `with`.

    Args:
        status: What it answers.
        body: Likewise.

    Attributes:
        requests: What has come, parsed.
        gate: While it is not set, nothing is answered.
    """

    def __init__(self, *, status: int = 200, body: bytes = b"") -> None:
        self.requests: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.gate = threading.Event()
        self.gate.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append(ExportMetricsServiceRequest.FromString(data))
                outer.headers.append(dict(self.headers))
                outer.gate.wait(60)
                with suppress(ConnectionError):  # nobody waits for the answer any more
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeCollector:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def points(self, name: str) -> list[list[Any]]:
        """The histogram points of a metric, of each request."""
        return [
            [
                point
                for resource in request.resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
                if metric.name == name
                for point in metric.histogram.data_points
            ]
            for request in self.requests
        ]

    def resources(self) -> list[dict[str, str]]:
        """The resource attributes of each request."""
        return [
            {one.key: one.value.string_value or str(one.value.int_value) for one in resource.resource.attributes}
            for request in self.requests
            for resource in request.resource_metrics
        ]
