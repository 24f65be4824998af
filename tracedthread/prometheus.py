"""
Metrics for Prometheus: a collector for `prometheus_client`, and an endpoint that needs nothing of the program.

    tracedthread run --prometheus-listen 9464 app.py
    curl localhost:9464/metrics              # all processes of a prefork server together
    curl localhost:9464/metrics?workers=1    # each by itself, with the label `worker`

Names are those that Prometheus makes of the same metrics when they come by OTLP, so that one dashboard serves both
ways. Exemplars are there for those who ask for OpenMetrics.

The endpoint is one thread, started and kept by the interpreter's own primitives, that serves one request after the
other, each within a few seconds. A forked child does not have it, and closes what it inherits.
"""

from __future__ import annotations

import errno
import io
import os
import select
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Exemplar as PrometheusExemplar

from tracedthread import _settings, names
from tracedthread._original import originals
from tracedthread.exemplars import Exemplars
from tracedthread.measure import HistogramValue, Measurement
from tracedthread.workers import Workers

__all__ = ["Collector", "Server", "listen", "parse_address"]

DEFAULT_PORT = 9464
LOOPBACK = "127.0.0.1"
WORKER_LABEL = "worker"
REQUEST_S = 3.0
_ALL = (*names.METRICS, names.WORKERS)
_FAMILIES: dict[str, Any] = {
    "histogram": HistogramMetricFamily,
    "counter": CounterMetricFamily,
    "updown": GaugeMetricFamily,
}


def family_name(metric: names.Metric) -> str:
    """
    What Prometheus calls a metric, without `_total`.

    Source: UnderscoreEscapingWithSuffixes of https://github.com/prometheus/otlptranslator
    """
    return metric.name.replace(".", "_") + ("_seconds" if metric.unit == "s" else "")


class Collector:
    """
    A custom collector for a `prometheus_client` registry: `REGISTRY.register(Collector(measure))`.

    Args:
        measure: Gives all points.
        exemplars: For the buckets; shown in OpenMetrics only.
    """

    def __init__(self, measure: Callable[[], list[Measurement]], exemplars: Exemplars | None = None) -> None:
        self._measure, self._exemplars = measure, exemplars

    def describe(self) -> Iterable[Metric]:
        """The families without values, so that registering measures nothing."""
        return [_family(metric, ()) for metric in _ALL]

    def collect(self) -> Iterator[Metric]:
        """The families."""
        return _families([("", self._measure())], self._exemplars)


class _ByWorker:
    """The same with a label that says which process it is of."""

    def __init__(self, workers: Workers, exemplars: Exemplars | None) -> None:
        self._workers, self._exemplars = workers, exemplars

    def collect(self) -> Iterator[Metric]:
        return _families(self._workers.measure_each(), self._exemplars)


def _family(metric: names.Metric, labels: tuple[str, ...]) -> Any:
    label_names = [name.replace(".", "_") for name in metric.attributes]
    return _FAMILIES[metric.kind](
        family_name(metric),
        metric.description,
        labels=[*labels, *label_names],
        unit="seconds" if metric.unit == "s" else "",
    )


def _families(groups: list[tuple[str, list[Measurement]]], exemplars: Exemplars | None) -> Iterator[Metric]:
    found: dict[names.Metric, Any] = {}
    own = str(os.getpid())
    for worker, points in groups:
        labels = (WORKER_LABEL,) if worker else ()
        for point in points:
            family = found.get(point.metric)
            if family is None:
                family = found[point.metric] = _family(point.metric, labels)
            values = [worker, *point.attributes] if worker else list(point.attributes)
            if isinstance(point.value, HistogramValue):
                # Exemplars are kept of the process's own waits only.
                known = exemplars if worker in ("", own) else None
                family.add_metric(values, _buckets(point, point.value, known), point.value.sum_s)
            else:
                family.add_metric(values, point.value)
    return iter(found.values())


def _buckets(point: Measurement, value: HistogramValue, exemplars: Exemplars | None) -> list[Any]:
    result: list[Any] = []
    reached, low = 0, 0.0
    for bound, count in zip((*value.bounds, float("inf")), value.counts):
        reached += count
        le = "+Inf" if bound == float("inf") else repr(bound)
        one = exemplars.within(point.metric.name, point.attributes, low, bound) if exemplars and count else None
        if one is None:
            result.append((le, reached))
        else:
            ids = {"trace_id": f"{one.trace_id:032x}", "span_id": f"{one.span_id:016x}"}
            mark = PrometheusExemplar(ids, one.value_s, one.time_ns / 1e9)
            result.append((le, reached, mark))
        low = bound
    return result


def parse_address(text: str) -> tuple[str, int]:
    """
    Host and port of `9464`, `:9464`, `0.0.0.0:9464`, `localhost:9464` or `[::1]:9464`; without a host, loopback.

    Raises:
        ValueError: It is none of these.
    """
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host or (colon and not port):
        raise ValueError(f"{text!r} is not an address such as 127.0.0.1:{DEFAULT_PORT} or [::1]:{DEFAULT_PORT}")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ValueError(f"{text!r} has no port, as in 127.0.0.1:{DEFAULT_PORT}")
    return host or LOOPBACK, int(port)


def listen(address: str, workers: Workers, *, exemplars: Exemplars | None = None) -> Server | None:
    """
    Serve the metrics of a process and its descendants from now on.

    Returns:
        The server; None if it cannot be, which one line says. The program goes on.
    """
    try:
        host, port = parse_address(address)
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(16)
            listener.setblocking(False)
            return Server(listener, workers, exemplars)
        except BaseException:
            listener.close()
            raise
    except (OSError, ValueError, RuntimeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        _settings.say(f"no metrics at {address}: {reason}")
        return None


class Server:
    """
    The endpoint.

    Attributes:
        failures: Requests that were not served.
    """

    def __init__(self, listener: socket.socket, workers: Workers, exemplars: Exemplars | None) -> None:
        self.workers, self.exemplars = workers, exemplars
        self.failures = 0
        self._listener = listener
        self._connection: socket.socket | None = None
        self._ended = originals.allocate_lock()
        self._ended.acquire()
        self._pid = os.getpid()
        _live.add(self)
        originals.start_new_thread(self._run, ())

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listener.getsockname()[:2]
        return host, port

    def close(self, timeout_s: float = 1.0) -> None:
        """Listen no more. Does nothing in a forked child."""
        if self._pid != os.getpid() or self not in _live:
            return
        _live.discard(self)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._ended.acquire(timeout=timeout_s)
        self._listener.close()

    def _run(self) -> None:
        listener = self._listener.fileno()
        poll = select.poll()  # not select(), which knows no descriptor above 1023
        poll.register(listener, select.POLLIN)
        poll.register(self.workers, select.POLLIN)
        try:
            while self in _live:
                try:
                    ready = {fd for fd, _ in poll.poll()}
                    if self.workers.fileno() in ready:
                        self.workers.receive()
                    if listener in ready:
                        self._serve()
                except Exception as exc:
                    self.failures += 1
                    if isinstance(exc, OSError) and exc.errno in (errno.EBADF, errno.EINVAL):
                        return  # closed
                    time.sleep(0.1)  # no descriptor is free, say: do not spin
        finally:
            self._ended.release()

    def _serve(self) -> None:
        connection, client = self._listener.accept()
        self._connection = connection
        try:
            connection.settimeout(REQUEST_S)
            _Handler(connection, client, self)  # type: ignore[arg-type]  # which is no server of the library's
        except Exception:  # gone, too slow, or talks something else
            self.failures += 1
        finally:
            self._connection = None
            connection.close()

    def _after_fork(self) -> None:
        for inherited in (self._listener, self._connection):
            if inherited is not None:
                inherited.close()
        self._connection = None


class _InTime(io.RawIOBase):
    """What a client sends within REQUEST_S, however slowly."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + REQUEST_S

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    """One request, one answer."""

    server: Server  # type: ignore[assignment]
    server_version = "tracedthread"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_InTime(self.connection), 8192)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path != "/metrics":
            self.send_error(404, "Metrics are at /metrics")
            return
        server = self.server
        by_worker = parse_qs(url.query).get("workers", ["0"])[-1] not in ("0", "")
        collector: Any = (
            _ByWorker(server.workers, server.exemplars)
            if by_worker
            else Collector(server.workers.measure, server.exemplars)
        )
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        body = encode(collector)
        self.connection.settimeout(REQUEST_S)
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: stderr is the program's."""


_live: weakref.WeakSet[Server] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for server in list(_live):
        server._after_fork()
        _live.discard(server)


os.register_at_fork(after_in_child=_after_fork_in_child)
