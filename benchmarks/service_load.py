"""
Load for a service, and the far end of its telemetry, each so small that it leaves the processors to what is measured.

    python benchmarks/service_load.py      # a sink: prints its port, takes whatever is posted to it and says 200;
                                           # GET / gives how much that was, by path, and how many waits it told of
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Load(NamedTuple):
    """What came of it: requests in `seconds`, and how long each took (sorted, seconds)."""

    seconds: float
    latencies: list[float]

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * percent / 100))]


def load(port: int, path: str, *, connections: int, seconds: float) -> Load:
    """
    As many requests as are answered: on each connection one after the other.

    Raises:
        RuntimeError: An answer was not 200 OK, or a connection was closed.
    """
    request = f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: keep-alive\r\n\r\n".encode("ascii")
    latencies: list[float] = []
    with selectors.DefaultSelector() as selector:
        clients = [_Client(port, request) for _ in range(connections)]
        try:
            for client in clients:
                selector.register(client.socket, selectors.EVENT_READ, client)
            began = time.perf_counter()
            for client in clients:
                client.ask()
            while (now := time.perf_counter()) < began + seconds:
                for key, _ in selector.select(1.0):
                    took = key.data.read()
                    if took is not None:
                        latencies.append(took)
                        key.data.ask()
            return Load(now - began, sorted(latencies))
        finally:
            for client in clients:
                client.socket.close()


class _Client:
    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._answer = b""
        self._asked = 0.0

    def ask(self) -> None:
        self._answer = b""
        self._asked = time.perf_counter()
        self.socket.sendall(self._request)

    def read(self) -> float | None:
        """Seconds since it was asked, if that was the answer's end."""
        more = self.socket.recv(65536)
        self._answer += more
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not more or (found and not head.startswith(b"HTTP/1.1 200 ")):
            raise RuntimeError(f"the service answers {self._answer[:200]!r}")
        if not found:
            return None
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        return time.perf_counter() - self._asked if len(body) >= length else None


taken: Counter[str] = Counter()


class _Taker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        taken[self.path] += 1
        taken["lock.wait"] += body.count(b"lock.wait")  # exporters do not compress, unless told to
        self._say(b"")

    do_PUT = do_POST  # so does ddtrace

    def do_GET(self) -> None:
        self._say(json.dumps(taken).encode("ascii") if self.path == "/" else b"")

    def _say(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Taker)
    print(server.server_address[1], flush=True)
    server.serve_forever()
