"""
The endpoint for Prometheus: names and numbers as they are there by OTLP, and a server that nothing upsets.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tracedthread import _settings, endpoint, names
from tracedthread.buckets import BOUNDS
from tracedthread.exemplars import Exemplar, Exemplars
from tracedthread.measure import HistogramValue, Measurement
from tracedthread.prometheus import Collector, listen

ROOT = Path(__file__).resolve().parents[2]
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
VALUE = HistogramValue(BOUNDS, (1, 0, 3) + (0,) * (len(BOUNDS) - 2), 0.25)
POINTS = [
    Measurement(names.WAIT_DURATION, ("Cache._lock", "lock"), VALUE, 1),
    Measurement(names.CONTENTIONS, ("Cache._lock", "lock"), 4, 1),
    Measurement(names.HANDOFF_TIME, ("Cache._lock",), 0.5, 1),
    Measurement(names.WAITERS, ("Cache._lock", "lock"), 2, 1),
    Measurement(names.DROPPED, ("spans",), 7, 1),
]


class Workers:
    """Two processes, of which a test says what they have counted."""

    def __init__(self) -> None:
        self.read, self._written = os.pipe()
        self.is_broken = False

    def measure(self) -> list[Measurement]:
        if self.is_broken:
            raise RuntimeError("broken")
        return POINTS

    def measure_each(self) -> list[tuple[str, list[Measurement]]]:
        return [("71", POINTS), ("72", POINTS[1:2])]

    def fileno(self) -> int:
        return self.read

    def receive(self) -> bool:
        return False

    def close(self) -> None:
        os.close(self.read)
        os.close(self._written)


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.fixture
def server(workers: Any) -> Iterator[Any]:
    server = listen("0", workers)
    assert server is not None
    yield server
    server.close()


def get(server: Any, path: str = "/metrics", **headers: str) -> tuple[str, str]:
    host, port = server.address
    request = urllib.request.Request(f"http://{host}:{port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as response:
        return response.read().decode(), response.headers["Content-Type"]


def samples(families: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


LABELS = {"tracedthread_lock_name": "Cache._lock", "tracedthread_wait_kind": "lock"}


def test_names_are_those_that_prometheus_makes_of_otlp(server: Any) -> None:
    text, content_type = get(server)
    assert content_type.startswith("text/plain")
    found = samples(parse_text(text))
    buckets = found["tracedthread_lock_wait_duration_seconds_bucket"]
    assert [(one.labels["le"], one.value) for one in buckets[:3]] == [
        ("1.024e-06", 1),
        ("1.024e-05", 1),
        ("4.9152e-05", 4),
    ]
    assert (buckets[-1].labels, buckets[-1].value) == ({**LABELS, "le": "+Inf"}, 4)
    assert found["tracedthread_lock_wait_duration_seconds_count"][0].value == 4
    assert found["tracedthread_lock_wait_duration_seconds_sum"][0].value == 0.25
    (contentions,) = found["tracedthread_lock_contentions_total"]
    assert contentions.labels == {"tracedthread_lock_name": "Cache._lock", "tracedthread_lock_type": "lock"}
    assert found["tracedthread_lock_handoff_time_seconds_total"][0].value == 0.5
    assert found["tracedthread_lock_waiter_count"][0].value == 2
    assert found["tracedthread_capture_dropped_records_total"][0].labels == {"tracedthread_capture_section": "spans"}


def test_openmetrics_has_exemplars_and_is_what_a_strict_parser_takes(workers: Any) -> None:
    exemplars = Exemplars()
    exemplars.add(names.WAIT_DURATION.name, ("Cache._lock", "lock"), Exemplar(2e-5, 0xABC, 0xDEF, 1_500_000_000))
    server = listen("0", workers, exemplars=exemplars)
    assert server is not None
    try:
        text, content_type = get(server, Accept=OPENMETRICS)
        assert content_type.startswith("application/openmetrics-text")
        assert text.endswith("# EOF\n")
        found = samples(parse_openmetrics(text))
        marked = [one for one in found["tracedthread_lock_wait_duration_seconds_bucket"] if one.exemplar]
        assert [one.labels["le"] for one in marked] == ["4.9152e-05"]
        assert marked[0].exemplar.labels == {"trace_id": f"{0xABC:032x}", "span_id": f"{0xDEF:016x}"}
        assert (marked[0].exemplar.value, float(marked[0].exemplar.timestamp)) == (2e-5, 1.5)
        assert "trace_id" not in get(server)[0]  # the plain form has no room for them
    finally:
        server.close()


def test_with_workers_each_process_has_a_label(server: Any) -> None:
    found = samples(parse_text(get(server, "/metrics?workers=1")[0]))
    assert {one.labels["worker"] for one in found["tracedthread_lock_contentions_total"]} == {"71", "72"}
    assert all(
        "worker" not in one.labels
        for one in samples(parse_text(get(server, "/metrics?workers=0")[0]))["tracedthread_lock_contentions_total"]
    )


def test_a_registry_of_the_users_takes_the_collector() -> None:
    calls = []

    def measure() -> list[Measurement]:
        calls.append(1)
        return POINTS

    registry = CollectorRegistry()
    registry.register(Collector(measure))
    assert not calls  # to register it measures nothing
    labels = {"tracedthread_lock_name": "Cache._lock", "tracedthread_lock_type": "lock"}
    assert registry.get_sample_value("tracedthread_lock_contentions_total", labels) == 4


@pytest.mark.parametrize("path", ["/", "/metrics/x", "/favicon.ico"])
def test_other_paths_are_not_found(server: Any, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as failure:
        get(server, path)
    assert failure.value.code == 404
    assert get(server)[0]


def test_what_cannot_be_measured_is_an_error_of_the_server_and_the_next_may_be(server: Any, workers: Any) -> None:
    workers.is_broken = True
    with pytest.raises(urllib.error.HTTPError) as failure:
        get(server)
    assert failure.value.code == 500
    workers.is_broken = False
    assert get(server)[0]
    assert server.failures == 1


@pytest.mark.parametrize(
    "sent",
    [b"", b"nonsense\r\n\r\n", b"GET /metrics HTTP/1.0\r\n", b"\x16\x03\x01\x00", b"POST /metrics HTTP/1.0\r\n\r\n"],
)
def test_a_client_that_is_slow_or_confused_keeps_nobody_out_for_long(
    server: Any, sent: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(endpoint, "REQUEST_S", 0.2)
    with socket.create_connection(server.address) as client:
        client.sendall(sent)
        assert get(server)[0]  # while the first one is still there
    assert capfd.readouterr() == ("", "")


def test_half_a_request_gives_way_when_somebody_else_comes(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "REQUEST_S", 600)
    with socket.create_connection(server.address) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n")
        assert get(server)[0]


def test_half_a_request_is_waited_for_while_nobody_else_comes(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "GIVE_WAY_S", 0)
    with socket.create_connection(server.address) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n")
        time.sleep(0.05)
        client.sendall(b"\r\n")
        assert client.recv(12) == b"HTTP/1.0 200"


def test_who_connects_and_says_nothing_keeps_nobody_out(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted: list[Any] = []
    handler = endpoint._Handler

    def handle(*given: Any) -> Any:
        accepted.append(given)
        return handler(*given)

    monkeypatch.setattr(endpoint, "_Handler", handle)
    clients = [socket.create_connection(server.address) for _ in range(3)]
    try:
        assert get(server)[0]
        assert len(accepted) == 1  # they came first
    finally:
        for client in clients:
            client.close()


def test_a_client_that_sends_byte_by_byte_has_one_deadline_for_all(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "REQUEST_S", 0.5)
    stop = threading.Event()

    def drip() -> None:
        with socket.create_connection(server.address) as client:
            while not stop.wait(0.05):
                try:
                    client.sendall(b"G")
                except OSError:
                    return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        assert get(server)[0]
    finally:
        stop.set()
        thread.join()


def test_a_taken_port_is_one_line_and_no_more(
    server: Any, workers: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_settings, "_said", set())
    assert listen(f"{server.address[0]}:{server.address[1]}", workers) is None
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "Address already in use" in error


def test_what_cannot_be_served_leaves_nothing_open() -> None:
    done = run(
        """
        import gc, warnings
        from unittest import mock
        from tracedthread import endpoint
        warnings.simplefilter("always")  # that a socket was not closed
        before = os.listdir("/proc/self/fd")
        assert prometheus.listen(str(server.address[1])) is None  # it is taken
        with mock.patch.object(endpoint.originals, "start_new_thread", side_effect=RuntimeError("no thread")):
            assert prometheus.listen("0") is None
        assert os.listdir("/proc/self/fd") == before
        gc.collect()
        os._exit(0)
        """
    )
    lines = done.stderr.splitlines()
    assert [line.partition(" at ")[0] for line in lines] == ["tracedthread: no metrics"] * 2, done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("address", ["", "nowhere", "1:2:3", "127.0.0.1:70000", "host.invalid:9464", "192.0.2.1:9464"])
def test_an_address_that_is_none_or_not_ours_is_one_line(
    address: str, workers: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_settings, "_said", set())
    assert listen(address, workers) is None
    assert capfd.readouterr().err.count("\n") == 1


def test_it_is_loopback_unless_asked_otherwise(server: Any) -> None:
    assert server.address[0] == "127.0.0.1"


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="no IPv6 here")
def test_ipv6(workers: Any) -> None:
    server = listen("[::1]:0", workers)
    if server is None:
        pytest.skip("no IPv6 loopback here")
    try:
        with socket.create_connection(server.address) as client:
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert client.recv(15) == b"HTTP/1.0 200 OK"
    finally:
        server.close()


def test_closed_it_frees_the_port(workers: Any) -> None:
    server = listen("0", workers)
    assert server is not None
    host, port = server.address
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port), timeout=5)
    again = listen(f"{host}:{port}", Workers())  # type: ignore[arg-type]
    assert again is not None
    again.close()


def run(code: str) -> subprocess.CompletedProcess[str]:
    head = """
        import os, signal, socket, sys, time, threading, urllib.request, tracedthread
        tracedthread.patch()
        from tracedthread import prometheus
        server = prometheus.listen("0")
    """
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(head) + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_forked_child_does_not_have_the_socket() -> None:
    done = run(
        """
        where = server.address
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.read(r, 1)
            os._exit(0)
        server.close()
        try:
            socket.create_connection(where, timeout=5)
        except ConnectionRefusedError:
            print("refused")  # though the child lives
        os.write(w, b"x")
        os.wait()
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "refused\n", "")


@pytest.mark.parametrize(
    ("end", "code"), [("pass", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -15)]
)
def test_it_delays_no_end_of_a_program(end: str, code: int) -> None:
    done = run(
        f"""
        client = socket.create_connection(server.address)  # a request is under way
        client.sendall(b"GET ")
        {end}
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_a_program_that_closes_all_descriptors_is_not_listened_in_on() -> None:
    done = run(
        """
        where = server.address
        os.closerange(3, 4096)
        from tracedthread import _core
        assert _core.load().lib.tt_capture_descriptor() == -1
        # They get the numbers that were ours.
        theirs = [socket.create_server(("127.0.0.1", 0)) for _ in range(10)]
        pairs = [socket.socketpair() for _ in range(10)]
        for one, two in pairs:
            two.send(b"hello")
        clients = [socket.create_connection(one.getsockname()) for one in theirs]
        if os.fork() == 0:
            lost = [one for one in theirs if not os.path.exists(f"/proc/self/fd/{one.fileno()}")]
            os._exit(len(lost))
        assert os.wait()[1] == 0
        time.sleep(0.3)
        for one, client in zip(theirs, clients):
            one.settimeout(5)
            one.accept()
        for one, two in pairs:
            one.settimeout(5)
            assert one.recv(100) == b"hello"
            one.setblocking(False)
            try:
                print(one.recv(100))
            except BlockingIOError:
                pass
        print("ok")
        os._exit(0)
        """
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
