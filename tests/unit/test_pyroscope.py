"""Blame pushed to Pyroscope: what arrives, that nothing is told twice, and that a bad server hurts nobody."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from own_interpreter import HEAD, ROOT, run
from pyroscope_server import FakePyroscope

from tracedthread import _settings
from tracedthread.pusher import Lost, NotTaken, Pusher
from tracedthread.pyroscope import Pyroscope

PPROF = ROOT / "build" / "backends" / "pprof"

LOCK = "<string>.lock"

PUSHING = (
    HEAD
    + """
import json
from tracedthread import pyroscope, tallier
URL = os.environ["URL"]

def start(interval_s=0.02):
    os.environ["TRACEDTHREAD_PYROSCOPE_INTERVAL_S"] = str(interval_s)
    sink = pyroscope.make(URL)
    if interval_s < 0.1:
        sink._interval_s = interval_s  # less than is allowed, for the test's sake
    assert sink is not None and recorder.start([sink], interval_s=0.01)
    return sink

def charged():
    "Holds and whole nanoseconds by lock, as the capture has them now."
    core = _core.loaded()
    cells = list(Capture.from_buffer(core.copy()).blame())
    rate = Capture.from_buffer(core.copy()).header.ns_per_tick
    return [sum(cell.holds for cell in cells), sum(cell.blame_ticks * rate >> 32 for cell in cells)]

def end():
    print(json.dumps(charged()))
"""
)


def push(program: str, server: str | FakePyroscope, **options: str) -> str:
    url = server if isinstance(server, str) else server.url
    env = {"URL": url, "PYTHONWARNINGS": "ignore::DeprecationWarning", "OTEL_SERVICE_NAME": "shop"}
    return run(program, head=PUSHING, env=env, **options)


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# ---- what arrives ---------------------------------------------------------------------------------------------------


def test_pushes_add_up_to_the_capture_exactly_and_follow_each_other_without_a_gap() -> None:
    with FakePyroscope() as server:
        out = push(
            """
            start()
            for number in range(12):
                wait_once(name=f"waiter-{number}")
                time.sleep(0.03)
            assert recorder.stop()
            assert not any(recorder.lost().values()), recorder.lost()
            end()
            """,
            server,
        )
        assert not server.refused
        assert len(server.pushes) > 2
        assert list(server.total()) == json.loads(out)
        assert server.total(LOCK)[0] == 12
    for one, two in zip(server.pushes, server.pushes[1:]):
        assert one.from_ns < one.until_ns <= two.from_ns


def test_named_so_that_grafana_finds_it() -> None:
    with FakePyroscope() as server:
        before = time.time_ns()
        push("start(); wait_once(); assert recorder.stop()", server)
        (one,) = server.pushes
    assert one.types == ["mutex:contentions:count:contentions:count", "mutex:delay:nanoseconds:contentions:count"]
    assert (one.labels["__name__"], one.labels["service_name"], one.labels["__delta__"]) == ("mutex", "shop", "false")
    assert set(one.labels) == {"__name__", "__delta__", "__session_id__", "service_name"}
    assert server.paths == ["/push.v1.PusherService/Push"]
    (_, stack) = next(key for key in one.samples if key[0] == LOCK)
    assert stack == ("wait_once", "<module>")
    assert before - 60e9 < one.from_ns < one.until_ns < time.time_ns()


@pytest.mark.parametrize(
    ("resource", "labels"),
    [
        ({"service.name": "code", "service.version": "2"}, {"service_name": "code", "service_version": "2"}),
        ({"service.name": "unknown_service:python"}, {"service_name": "environment", "service_version": "1"}),
        ({"service.name": ""}, {"service_name": "environment", "service_version": "1"}),
        ({}, {"service_name": "environment", "service_version": "1"}),
    ],
)
def test_the_service_is_the_one_of_the_traces(
    resource: dict[str, str], labels: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "environment")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=1")
    series = Pyroscope(Pusher("http://127.0.0.1:9", {}), resource=lambda: resource)._series()
    assert {name: value for name, value in series.items() if name.startswith("service")} == labels


@pytest.mark.skipif(not PPROF.exists() and not shutil.which("pprof"), reason="there is no pprof: make backends")
def test_pprof_reads_what_was_pushed(tmp_path: Path) -> None:
    with FakePyroscope() as server:
        push("start(); wait_once(); assert recorder.stop()", server)
    (tmp_path / "pushed.pb.gz").write_bytes(server.pushes[0].raw)
    tool = str(PPROF) if PPROF.exists() else "pprof"
    command = [tool, "-raw", "pushed.pb.gz"]
    env = {**os.environ, "HOME": str(tmp_path)}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "contentions/count delay/nanoseconds" in result.stdout
    assert f"lock:[{LOCK}]" in result.stdout
    assert "wait_once" in result.stdout


def test_nothing_is_pushed_while_nobody_is_blamed() -> None:
    with FakePyroscope() as server:
        push(
            "sink = start(); until(lambda: pyroscope._told.since_ns > time.time_ns() - 10_000_000); recorder.stop()",
            server,
        )
        assert not server.paths


def test_started_again_it_pushes_what_came_in_between_and_nothing_twice() -> None:
    with FakePyroscope() as server:
        out = push(
            """
            for _ in range(2):
                start()
                assert pyroscope.make(URL) is None  # it pushes already
                wait_once()
                assert recorder.stop()
                wait_once()
            start(); recorder.stop()
            end()
            """,
            server,
        )
        assert list(server.total()) == json.loads(out)


def test_a_forked_child_pushes_for_itself_and_nothing_of_its_parents() -> None:
    with FakePyroscope() as server:
        out = push(
            """
            start(interval_s=15)
            wait_once()
            pid = os.fork()
            if pid == 0:
                wait_once(); wait_once()
                sys.exit()
            assert os.waitpid(pid, 0)[1] == 0
            assert recorder.stop()
            end()
            """,
            server,
        )
        child, parent = server.pushes
    assert parent.labels["__session_id__"] != child.labels["__session_id__"]
    assert child.labels["service_name"] == parent.labels["service_name"] == "shop"
    contentions = [
        sum(holds for (lock, _), (holds, _) in one.samples.items() if lock == LOCK) for one in (child, parent)
    ]
    assert contentions == [2, 1]
    assert sum(ns for _, ns in parent.samples.values()) == json.loads(out)[1]


def test_a_child_has_no_connection_of_its_parents() -> None:
    with FakePyroscope() as server:
        server.gate.clear()
        push(
            """
            def connections():
                found = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
                return sum(os.readlink(fd).startswith("socket:") for fd in found if os.path.islink(fd))
            start(); wait_once()
            until(lambda: pyroscope._live[0]._pusher._open)
            assert connections()
            pid = os.fork()
            if pid == 0:
                os._exit(connections())
            assert os.waitpid(pid, 0)[1] == 0
            os._exit(0)
            """,
            server,
        )


# ---- servers that are not well --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 404, 429, 503, 302])
def test_what_was_not_taken_goes_with_the_next_push(status: int) -> None:
    with FakePyroscope(status) as server:
        out = push(
            """
            start(); wait_once()
            until(lambda: pyroscope._live[0]._reason)
            wait_once()
            pyroscope._live[0]._pusher._path = "/well" + pyroscope._live[0]._pusher._path
            assert recorder.stop()
            assert not any(recorder.lost().values()), recorder.lost()
            end()
            """,
            server,
            stderr=f"profiles cannot be delivered to {server.url} (HTTP {status}); the program goes on without\n",
        )
        assert list(server.total()) == json.loads(out)
        assert 1 <= len(server.pushes) <= 2  # two if the first was put together before the second wait


@pytest.mark.parametrize(
    ("status", "raw", "page"), [(400, None, False), (500, None, False), (200, b"SSH-2.0\r\n", False), (200, None, True)]
)
def test_what_may_have_arrived_is_never_sent_again_but_counted(status: int, raw: bytes | None, page: bool) -> None:
    with FakePyroscope(status, raw=raw, page=page) as server:
        server.keeps = True
        out = push(
            """
            start(); wait_once()
            until(lambda: recorder.lost()["profiles"])
            assert recorder.lost()["profiles"] == 1
            assert recorder.stop()
            end()
            """,
            server,
            stderr="the program goes on without",
        )
        assert list(server.total()) == json.loads(out)  # it had kept it


def test_nobody_listens() -> None:
    url = f"http://user:secret@127.0.0.1:{closed_port()}"
    shown = url.replace("user:secret@", "")
    err = f"tracedthread: profiles cannot be delivered to {shown} (connection refused); the program goes on without\n"
    err += f"tracedthread: not delivered: 1 of 1 profiles to {shown} (connection refused)\n"
    push("start(); wait_once(); until(lambda: pyroscope._live[0]._reason)", url, stderr=err)


def test_a_server_that_says_nothing_holds_up_neither_the_program_nor_for_long_its_end() -> None:
    with FakePyroscope() as server:
        server.gate.clear()
        out = push(
            """
            start(); wait_once()
            until(lambda: pyroscope._live[0]._under_way)
            wait_once()
            assert recorder.flush()  # other sinks are told
            began = time.monotonic()
            assert recorder.stop(2.0)
            print(json.dumps([time.monotonic() - began, recorder.lost()["profiles"]]))
            """,
            server,
            stderr="not delivered: 1 of ",
        )
        seconds, lost = json.loads(out)
        assert lost == 1
        assert seconds < 10  # which the push is given


def test_a_server_that_goes_away() -> None:
    with FakePyroscope() as server:
        out = push(
            """
            start(); wait_once()
            until(lambda: pyroscope._told.charges)
            told = charged()
            pyroscope._live[0]._pusher._port = PORT
            wait_once()
            until(lambda: pyroscope._live[0]._reason)
            assert recorder.stop() and recorder.lost()["profiles"] == 1
            print(json.dumps(told))
            """.replace("PORT", str(closed_port())),
            server,
            stderr="not delivered: 1 of ",
        )
        assert list(server.total()) == json.loads(out)


def test_what_is_too_old_is_counted_and_given_up() -> None:
    push(
        """
        pyroscope.CARRY_NS = 1
        start(); wait_once()
        until(lambda: recorder.lost()["profiles"])
        assert recorder.stop() and recorder.lost()["profiles"] == 1
        """,
        f"http://127.0.0.1:{closed_port()}",
        stderr="connection refused",
    )


# ---- a push ---------------------------------------------------------------------------------------------------------


def test_what_a_server_behind_a_gate_needs_is_sent_and_never_shown() -> None:
    with FakePyroscope() as server:
        url = server.url.replace("//", "//me%40home:s%3Acret@") + "/prefix"
        pusher = Pusher(url, {"X-Scope-OrgID": "shop"})
        with pytest.raises(Lost):
            pusher.push(b"no profile", {"service_name": "a"}, 5)
        assert server.headers[0]["Authorization"] == "Basic bWVAaG9tZTpzOmNyZXQ="
        assert server.headers[0]["X-Scope-OrgID"] == "shop"
        assert server.paths == ["/prefix/push.v1.PusherService/Push"]
        assert pusher.shown == server.url + "/prefix"
        assert server.refused


def test_a_server_without_tls_is_given_nothing_over_https() -> None:
    with FakePyroscope() as server, pytest.raises(NotTaken):  # which does not even speak TLS
        Pusher(server.url.replace("http:", "https:")).push(b"", {}, 5)
    assert not server.paths


def test_a_name_that_cannot_be_is_not_taken() -> None:
    with pytest.raises(NotTaken):
        Pusher(f"http://{'a' * 70}.invalid").push(b"", {}, 1)


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://localhost:4040", "http://localhost:4040"),
        (" HTTPS://a:b@[::1]:443/x/ ", "https://a:b@[::1]:443/x"),
        ("http://[::1]", "http://[::1]"),
        ("http://h/ingest", "http://h"),
        ("http://h/push.v1.PusherService/Push/", "http://h"),
    ],
)
def test_url(text: str, url: str) -> None:
    assert _settings.parse_push_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "ftp://secret",
        "http://",
        "http://u:secret@",
        "http://h:secret",
        "http://h:0",
        "http://h:66666",
        "http://h?secret",
        "http://h x",
        "http://h\x7f",
    ],
)
def test_what_is_no_url_is_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not a URL such as http://localhost:4040$"):
        _settings.parse_push_url(text)


def test_headers() -> None:
    assert _settings.parse_headers("X-Scope-OrgID=shop, Authorization=Bearer%20a=b,") == {
        "X-Scope-OrgID": "shop",
        "Authorization": "Bearer a=b",
    }
    for text in ("secret", "a b=secret", "A=secret%0D%0AB", "A=sécret"):
        with pytest.raises(ValueError, match=r"^(not NAME=VALUE,NAME=VALUE|the value of A cannot be in a header)$"):
            _settings.parse_headers(text)
