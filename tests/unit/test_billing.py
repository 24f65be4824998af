"""What a thread and a block have waited; the bill of a request. In interpreters of their own, for they patch."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tracedthread.middleware import WSGIMiddleware

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
import tracedthread
assert tracedthread.patch()
import threading, time
lock = threading.Lock()
def keep(seconds, lock=lock):
    "Another thread has the lock for so long; returns once it has it."
    has = threading.Event()
    def hold():
        with lock:
            has.set()
            time.sleep(seconds)
    thread = threading.Thread(target=hold)
    thread.start()
    has.wait()
    return thread
"""


def run_unrecorded(program: str) -> str:
    return run(program, {"TRACEDTHREAD_DISABLED": "1"}, head="")


def run(program: str, env: dict[str, str] | None = None, *, head: str = HEAD) -> str:
    result = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_block_is_billed_for_what_it_waits_and_nothing_else() -> None:
    run("""
        keep(0.05)
        with lock: pass                      # not in the block
        thread = keep(0.1)
        with tracedthread.bill() as outer:
            began = time.monotonic()
            with tracedthread.bill() as inner:
                with lock: pass
            waited = time.monotonic() - began
            thread.join()
            sleeper = threading.Thread(target=time.sleep, args=(0.05,))
            sleeper.start()
            sleeper.join()
            assert outer.wait_s == inner.wait_s          # so far, and for good
        total = outer.stats
        thread = keep(0.05)
        with lock: pass                      # after the block
        assert 0 < inner.wait_s <= waited, (inner.wait_s, waited)
        assert inner.waits == 1 and outer.waits == 1
        assert inner.wait_s > 0.02 and inner.idle_s == 0 and inner.resource_s == 0
        assert outer.idle_s > 0.04 and outer.wait_s == inner.wait_s
        assert 0 <= inner.own_gil_s <= inner.wait_s
        assert outer.stats is total
    """)


def test_stats_are_those_of_the_thread_record() -> None:
    run("""
        keep(0.03)
        with lock: pass
        semaphore = threading.Semaphore(0)
        threading.Timer(0.03, semaphore.release).start()
        semaphore.acquire()
        threading.Event().wait(0.03)
        with lock:
            thread = threading.Thread(target=lock.acquire, args=(True, 0.03))
            thread.start()
            thread.join()
        stats = tracedthread.current_thread_stats()
        (row,) = [row for row in tracedthread.snapshot().threads if row.name == "MainThread"]
        close = lambda a, b: abs(a - b) <= 1e-3 * b           # the clock's slope, known better the later one looks
        assert close(stats.wait_s, row.wait_s) and close(stats.resource_s, row.resource_s), (stats, row)
        assert stats.waits == row.wait_count == 1
        assert stats.idle_s >= 0.03 and stats.resource_s > 0.01 and close(stats.idle_s, row.idle_s)
        assert stats.blocked_others_s >= 0.03 and close(stats.blocked_others_s, row.blocked_others_s), (stats, row)
        assert "(wait_s=" in repr(stats) and ", blocked_others_s=" in repr(stats)
    """)


def test_another_thread_may_ask_for_the_bill_and_gets_that_of_its_owner() -> None:
    run("""
        bills, entered, done = [], threading.Event(), threading.Event()
        def owner():
            with tracedthread.bill() as mine:
                bills.append(mine)
                with lock: pass
                entered.set()
                done.wait()
        keeper = keep(0.05)
        thread = threading.Thread(target=owner)
        thread.start()
        entered.wait()
        keeper.join()
        assert bills[0].wait_s > 0.01
        done.set()
        thread.join()
        assert bills[0].waits == 1 and bills[0].idle_s >= 0
    """)


def test_bill_of_a_thread_whose_record_another_has_now_is_empty() -> None:
    run("""
        import _thread
        tracedthread.unpatch()
        stats = []
        def once():
            stats.append(tracedthread.current_thread_stats())
        assert tracedthread.patch()
        thread = threading.Thread(target=once)
        thread.start(); thread.join()
        for _ in range(4200):
            thread = threading.Thread(target=int)
            thread.start(); thread.join()
        gone = stats[0].elapsed()
        assert (gone.wait_s, gone.idle_s, gone.waits) == (0, 0, 0)
    """)


def test_child_of_a_fork_in_a_block_is_billed_from_the_fork_on() -> None:
    run("""
        import os
        keep(0.05)
        with tracedthread.bill() as outer:
            with lock: pass
            if (child := os.fork()) == 0:
                ok = outer.wait_s == 0
                threading.Event().wait(0.02)
                ok = ok and outer.idle_s >= 0.02
                os._exit(0 if ok else 9)
            assert os.waitpid(child, 0)[1] == 0
            assert outer.wait_s > 0.01
    """)


def test_without_a_recording_the_bill_is_zero() -> None:
    run_unrecorded("""
        from tracedthread import Bill, bill, current_thread_stats
        with bill() as nothing:
            pass
        assert (nothing.wait_s, nothing.own_gil_s, nothing.idle_s, nothing.resource_s, nothing.waits) == (0, 0, 0, 0, 0)
        assert nothing.blocked_others_s == 0
        assert nothing.server_timing() == "lock;dur=0.000"
        assert str(nothing) == "-" and not nothing.recorded
        assert Bill().waits == 0
        assert current_thread_stats().elapsed().wait_s == 0
        assert repr(current_thread_stats()) == "<ThreadStats: nothing is recorded>"
    """)


def test_server_timing_says_how_long_others_were_blocked() -> None:
    header = run("""
        with tracedthread.bill() as b, lock:
            thread = threading.Thread(target=lock.acquire, args=(True, 0.03))
            thread.start()
            while not b.blocked_others_s:
                time.sleep(0.001)
        print(b.server_timing())
    """)
    parts = dict(part.strip().split(";dur=") for part in header.split(","))
    assert 30 <= float(parts["blocked"]) < 30_000


def test_server_timing_has_milliseconds_of_what_was_waited() -> None:
    header = run("""
        thread = keep(0.05)
        with tracedthread.bill() as b:
            with lock: pass
            threading.Event().wait(0.02)
        print(b.server_timing())
        assert str(b) == b.server_timing() and b.server_timing() in repr(b)
    """)
    parts = dict(part.strip().split(";dur=") for part in header.split(","))
    assert {"lock", "idle"} <= parts.keys() <= {"lock", "gil", "idle"}
    assert 10 < float(parts["lock"]) < 30_000
    assert 20 <= float(parts["idle"]) < 30_000


@pytest.mark.parametrize("server_timing", [True, False])
def test_wsgi_application_is_called_as_without_us_where_nothing_is_recorded(server_timing: bool) -> None:
    run_unrecorded(f"""
        from tracedthread import Bill
        from tracedthread.middleware import WSGIMiddleware
        seen, body = [], [b"b"]
        def app(environ, start_response):
            seen.append(environ["tracedthread.bill"])
            write = start_response("200 OK", [("Server-Timing", "db;dur=5")], exc_info=(1, 2, 3))
            write(b"a")
            return body
        def start_response(status, headers, exc_info=None):
            seen.extend([status, headers, exc_info])
            return seen.append
        assert WSGIMiddleware(app, server_timing={server_timing})({{}}, start_response) is body
        assert isinstance(seen[0], Bill) and str(seen[0]) == "-"
        assert seen[1:] == ["200 OK", [("Server-Timing", "db;dur=5")], (1, 2, 3), b"a"]
    """)


def test_wsgi_errors_are_the_applications_own() -> None:
    def app(environ, start_response):  # type: ignore[no-untyped-def]
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        WSGIMiddleware(app)({}, lambda *_: None)


@pytest.mark.parametrize("get", ["pass", "trace.get_current_span = Broken", "trace.get_current_span = lambda: 1 / 0"])
def test_a_request_goes_on_whatever_telemetry_does(get: str) -> None:
    run(f"""
        import sys, types
        from tracedthread.middleware import WSGIMiddleware
        class Broken:
            def is_recording(self):
                raise LookupError("telemetry's")
        trace = sys.modules["opentelemetry.trace"] = types.ModuleType("trace")  # as while it is imported
        {get}
        def app(environ, start_response):
            start_response("200 OK", [])
            return [b"ours"]
        assert WSGIMiddleware(app)({{}}, lambda *_: None) == [b"ours"]
    """)


def test_wsgi_request_that_waits_says_so_in_its_header() -> None:
    run("""
        from wsgiref.simple_server import make_server, WSGIRequestHandler
        from tracedthread.middleware import WSGIMiddleware
        import http.client
        def app(environ, start_response):
            with lock: pass
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [str(environ["tracedthread.bill"].waits).encode()]
        class Quiet(WSGIRequestHandler):
            def log_message(self, *args): pass
        server = make_server("127.0.0.1", 0, WSGIMiddleware(app), handler_class=Quiet)
        serving = threading.Thread(target=server.handle_request)
        keep(0.1)
        serving.start()
        client = http.client.HTTPConnection("127.0.0.1", server.server_port)
        client.request("GET", "/")
        response = client.getresponse()
        assert response.read() == b"1"
        timing = dict(part.strip().split(";dur=") for part in response.getheader("Server-Timing").split(","))
        assert float(timing["lock"]) > 10, timing
        serving.join()
    """)


def test_wsgi_errors_are_reported_as_the_application_reports_them() -> None:
    run("""
        from tracedthread.middleware import WSGIMiddleware
        calls = []
        def app(environ, start_response):
            start_response("500 Oops", [], exc_info=("type", "value", None))
            start_response("500 Oops", [], ("type", "value", None))
            start_response("200 OK", [])
            return []
        def start_response(*args): calls.append(args)
        WSGIMiddleware(app)({}, start_response)
        assert [len(call) for call in calls] == [3, 3, 2]
        assert all(call[1][-1][0] == "Server-Timing" for call in calls)
        assert calls[0][2] == calls[1][2] == ("type", "value", None)
        assert tracedthread.middleware.WSGIMiddleware is WSGIMiddleware and "tracedthread.patch" in tracedthread.audit.EVENTS
    """)


def test_asgi_application_gets_the_bill_and_the_response_its_header() -> None:
    run("""
        import asyncio
        from tracedthread.middleware import ASGIMiddleware
        sent, bills = [], []
        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                bills.append(scope)
                return
            bills.append(scope["tracedthread.bill"])
            with lock: pass
            await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
            await send({"type": "http.response.body", "body": b"x"})
        async def send(message): sent.append(message)
        scope = {"type": "http"}
        keep(0.05)
        asyncio.run(ASGIMiddleware(app)(scope, None, send))
        assert scope == {"type": "http"}
        (a, b), (name, value) = sent[0]["headers"]
        assert (a, b, name) == (b"a", b"b", b"server-timing") and value.startswith(b"lock;dur=")
        assert float(value.split(b";dur=")[1].split(b",")[0]) > 10
        assert sent[1] == {"type": "http.response.body", "body": b"x"}
        assert bills[0].waits == 1
        asyncio.run(ASGIMiddleware(app)({"type": "lifespan"}, None, send))
        assert bills[1] == {"type": "lifespan"}
        asyncio.run(ASGIMiddleware(app, server_timing=False)(scope, None, send))
        assert sent[2]["headers"] == [(b"a", b"b")]
    """)
