"""
A collector for tests: takes OTLP over HTTP, and can be as unhelpful as real ones; and programs that export to it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).resolve().parents[2]

#: The beginning of a program that takes `Cache._lock` as often as it is told.
CACHE = """
import os, sys, threading, time, tracedthread
tracedthread.patch()
class Cache:
    def __init__(self): self._lock = threading.Lock()
cache = Cache()
def use(times):
    for _ in range(times):
        with cache._lock: pass
"""


def run_program(code: str, url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that exports to `url`."""
    environment = {"PYTHONPATH": str(ROOT), "OTEL_EXPORTER_OTLP_ENDPOINT": url, **environment}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


class Listener:
    """
    An HTTP server on loopback, until the end of the `with`.

    Args:
        answer: Given the body and the headers of a POST, what to answer: status and body, or None for not at all.
    """

    def __init__(self, answer: Callable[[bytes, dict[str, str]], tuple[int, bytes] | None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                answered = answer(data, dict(self.headers))
                if answered is None:
                    return
                status, body = answered
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

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class FakeCollector(Listener):
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

        def answer(data: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
            self.requests.append(ExportMetricsServiceRequest.FromString(data))
            self.headers.append(headers)
            self.gate.wait(60)
            return status, body

        super().__init__(answer)

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        super().__exit__()

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
