"""
The bill of a request on its server span, whoever makes the span and wherever it ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from clean_environment import clean_environment

ROOT = Path(__file__).resolve().parents[2]

WAIT, GIL = "tracedthread.lock.wait.time", "tracedthread.gil.wait.time"
BLOCKED = "tracedthread.lock.blocked_others.time"

HEAD = """
import gc, json, threading, time, weakref
import tracedthread
assert tracedthread.patch()
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
memory = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(memory))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("test")
lock = threading.Lock()
def waits(seconds=0.1):
    "The caller waits so long for another."
    has = threading.Event()
    def hold():
        with lock:
            has.set()
            time.sleep(seconds)
    thread = threading.Thread(target=hold)
    thread.start()
    has.wait()
    with lock: pass
    thread.join()
def blocks(seconds=0.1):
    "Another waits so long for the caller."
    def wait():
        with lock: pass
    with lock:
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(seconds)
    thread.join()
def done():
    spans = memory.get_finished_spans()
    print(json.dumps([{"name": s.name, "kind": s.kind.name, **dict(s.attributes)} for s in spans]))
"""


def run(program: str, *, head: str = HEAD, stderr: str = "", **env: str) -> list[dict[str, Any]]:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", head + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(ROOT, **env),
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def assert_billed(span: dict[str, Any], *, wait: bool, blocked: bool) -> None:
    assert (span[WAIT] > 0.05) is wait, span
    assert (span[BLOCKED] > 0.05) is blocked, span
    assert 0 <= span[GIL] < 30


PROCESSOR = """
from tracedthread.otel import setup
from opentelemetry.trace import SpanKind
assert setup.start()
"""


def test_processor_bills_server_spans_and_no_others() -> None:
    inner, server, quiet = run(
        """
        waits()                                          # before
        with tracer.start_as_current_span("server", kind=SpanKind.SERVER):
            with tracer.start_as_current_span("inner"):
                waits()
            blocks()
        with tracer.start_as_current_span("quiet", kind=SpanKind.SERVER): pass
        setup.stop()
        with tracer.start_as_current_span("unbilled", kind=SpanKind.SERVER): pass
        memory._finished_spans = [s for s in memory._finished_spans if s.name != "lock.wait"]
        *_, unbilled = memory._finished_spans
        assert unbilled.name == "unbilled" and not unbilled.attributes
        memory._finished_spans.remove(unbilled)
        done()
        """,
        head=HEAD + PROCESSOR,
    )
    assert [inner["name"], server["name"], quiet["name"]] == ["inner", "server", "quiet"]
    assert WAIT not in inner
    assert_billed(server, wait=True, blocked=True)
    assert_billed(quiet, wait=False, blocked=False)


def test_a_span_that_ends_in_another_thread_is_billed_to_the_one_that_began_it() -> None:
    [span] = run(
        """
        span = tracer.start_span("server", kind=SpanKind.SERVER)
        waits()
        thread = threading.Thread(target=span.end)
        thread.start()
        thread.join()
        span.end(); span.end()                           # says so in the SDK's log, and no more
        setup.stop()
        memory._finished_spans = [s for s in memory._finished_spans if s.name == "server"]
        done()
        """,
        head=HEAD + PROCESSOR + "import logging; logging.disable()\n",
    )
    assert_billed(span, wait=True, blocked=False)


def test_a_span_that_cannot_be_billed_is_the_programs_all_the_same() -> None:
    (span,) = run("""
        from opentelemetry.sdk.trace import Span
        from tracedthread.otel.bill import BillProcessor
        class Sealed:
            __slots__ = ()
            kind = trace.SpanKind.SERVER
            def end(self): pass
        processor = BillProcessor()
        processor.on_start(Sealed())
        provider.add_span_processor(processor)
        def refuse(self, attributes):
            raise LookupError("telemetry's")
        span = tracer.start_span("request", kind=trace.SpanKind.SERVER)
        Span.set_attributes, stock = refuse, Span.set_attributes
        span.end()
        Span.set_attributes = stock
        done()
    """)
    assert span == {"name": "request", "kind": "SERVER"}


def test_spans_are_not_kept_by_their_bill() -> None:
    run(
        """
        gc.disable()
        spans = weakref.WeakSet()
        memory.shutdown()
        for index in range(5):
            span = tracer.start_span("server", kind=SpanKind.SERVER)
            spans.add(span)
            span.end(end_time=time.time_ns())
            del span
        assert not len(spans)
        done()
        """,
        head=HEAD + PROCESSOR,
    )


def test_a_provider_that_is_set_later_is_billed_too() -> None:
    head = HEAD.replace("trace.set_tracer_provider(provider)", "")
    [span] = run(
        """
        from tracedthread.otel import bill
        bills = bill.Bills()
        bills.tick([], [], {}, {})
        trace.set_tracer_provider(provider)
        bills.tick([], [], {}, {})
        bills.tick([], [], {}, {})
        with tracer.start_as_current_span("server", kind=trace.SpanKind.SERVER):
            waits()
        assert len(provider._active_span_processor._span_processors) == 2
        done()
        """,
        head=head,
    )
    assert_billed(span, wait=True, blocked=False)


WSGI = """
from tracedthread.middleware import WSGIMiddleware
def server(environ, start_response, *, app):
    "What makes the span, around us: as OpenTelemetry's own middleware, until the body has been sent."
    span = tracer.start_span("server", kind=trace.SpanKind.SERVER)
    with trace.use_span(span):
        body = app(environ, start_response)
    try:
        with trace.use_span(span):
            yield from body
    finally:
        if hasattr(body, "close"): body.close()
        span.end()
def request(app, outside=lambda app: app):
    return list(outside(app)({"REQUEST_METHOD": "GET"}, lambda status, headers, *_: None))
def around(app):
    return lambda environ, start_response: server(environ, start_response, app=app)
"""


def test_a_provider_that_starts_spans_in_other_threads_gets_no_bills_and_one_line_says_so() -> None:
    program = """
        from opentelemetry.sdk.trace import ConcurrentMultiSpanProcessor
        from opentelemetry.trace import SpanKind
        from tracedthread.otel.bill import Bills
        # (The SDK's own shutdown at exit comes too late for the pool.)
        provider = TracerProvider(active_span_processor=ConcurrentMultiSpanProcessor(), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(memory))
        for bills in (Bills(provider), Bills(provider)):
            bills.tick()
            with provider.get_tracer("test").start_as_current_span("server", kind=SpanKind.SERVER):
                waits()
        done()
    """
    said = "tracedthread: no bills on server spans: a ConcurrentMultiSpanProcessor starts them in other threads\n"
    for span in run(program, stderr=said):
        assert span == {"name": "server", "kind": "SERVER"}


def test_wsgi_middleware_bills_the_span_around_it_until_the_body_is_sent() -> None:
    short, streamed = run(
        """
        def app(environ, start_response):
            start_response("200 OK", [])
            waits()
            return [b"a"]
        assert request(WSGIMiddleware(app), around) == [b"a"]
        closed = []
        class Body:
            def __iter__(self):
                blocks()
                yield b"a"
            def close(self): closed.append(1)
        def streaming(environ, start_response):
            start_response("200 OK", [])
            return Body()
        assert request(WSGIMiddleware(streaming, server_timing=False), around) == [b"a"]
        assert closed == [1]
        done()
        """,
        head=HEAD + WSGI,
    )
    assert_billed(short, wait=True, blocked=False)
    assert_billed(streamed, wait=False, blocked=True)


def test_a_wsgi_body_has_the_length_that_the_applications_has() -> None:
    run(
        """
        from wsgiref.handlers import SimpleHandler
        import io, sys
        class Body:
            def __iter__(self): return iter([b"abc"])
        class Sized(Body):
            def __len__(self): return 1
        def served(body):
            def app(environ, start_response):
                start_response("200 OK", [("Content-Type", "text/plain")])
                return body
            out = io.BytesIO()
            SimpleHandler(io.BytesIO(), out, sys.stderr, {"SERVER_PROTOCOL": "HTTP/1.1"}).run(WSGIMiddleware(app))
            return out.getvalue()
        with tracer.start_as_current_span("server", kind=trace.SpanKind.SERVER):
            assert b"Content-Length: 3\\r\\n" in served(Sized())  # as servers may say where there is one part
            assert b"Content-Length" not in served(Body())
        done()
        """,
        head=HEAD + WSGI,
    )


def test_wsgi_middleware_bills_a_span_that_the_application_makes_until_its_response_starts() -> None:
    [span] = run(
        """
        def app(environ, start_response):
            with tracer.start_as_current_span("server", kind=trace.SpanKind.SERVER):
                waits()
                start_response("200 OK", [])
            return [b"a"]
        request(WSGIMiddleware(app))
        done()
        """,
        head=HEAD + WSGI,
    )
    assert_billed(span, wait=True, blocked=False)


def test_wsgi_bodies_are_handed_on_where_nobody_listens() -> None:
    run(
        """
        class Body(list): pass
        body = iter([b"a"])
        class File:
            def __init__(self, file): pass
        def app(environ, start_response):
            start_response("200 OK", [])
            return body
        assert WSGIMiddleware(app)({}, lambda *_: None) is body      # no span
        with tracer.start_as_current_span("server", kind=trace.SpanKind.SERVER):
            body = File(None)
            environ = {"wsgi.file_wrapper": File}
            assert WSGIMiddleware(app)(environ, lambda *_: None) is body
        class Broken:
            kind = trace.SpanKind.SERVER
            def is_recording(self): return True
            def get_span_context(self): return trace.INVALID_SPAN_CONTEXT
            def set_attributes(self, attributes): raise RuntimeError
        with trace.use_span(Broken()):
            body = [b"b"]
            assert WSGIMiddleware(app)({}, lambda *_: None) is body
        memory.clear()
        done()
        """,
        head=HEAD + WSGI,
    )


def test_asgi_middleware_bills_both_kinds_of_spans() -> None:
    outer, send, inner = run(
        """
        import asyncio
        from tracedthread.middleware import ASGIMiddleware
        async def answer(scope, receive, send):
            waits()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        async def makes_a_span(scope, receive, send):
            with tracer.start_as_current_span("server", kind=trace.SpanKind.SERVER):
                async def traced(message):
                    with tracer.start_as_current_span("send"):
                        await send(message)
                await answer(scope, receive, send)
                await traced({"type": "http.response.body", "body": b""})
        async def send(message): pass
        async def main():
            with tracer.start_as_current_span("server", kind=trace.SpanKind.SERVER):
                await ASGIMiddleware(answer)({"type": "http"}, None, send)
            await ASGIMiddleware(makes_a_span)({"type": "http"}, None, send)
        asyncio.run(main())
        done()
        """
    )
    assert_billed(outer, wait=True, blocked=False)
    assert_billed(inner, wait=True, blocked=False)
    assert WAIT not in send


needs_flask = pytest.mark.skipif(
    not (find_spec("flask") and find_spec("opentelemetry.instrumentation.flask")),
    reason="Flask or its instrumentation is not installed: make test has them (group `services`)",
)


@needs_flask
@pytest.mark.parametrize("way", ["processor", "middleware", "both"])
def test_flask(way: str) -> None:
    [span] = run(
        f"""
        from flask import Flask
        from opentelemetry.instrumentation.flask import FlaskInstrumentor
        from tracedthread.middleware import WSGIMiddleware
        app = Flask("shop")
        @app.route("/")
        def index():
            waits()
            return "fine"
        FlaskInstrumentor().instrument_app(app)
        if {way != "processor"}:
            app.wsgi_app = WSGIMiddleware(app.wsgi_app)
        if {way != "middleware"}:
            from tracedthread.otel import setup
            assert setup.start()
        assert app.test_client().get("/").data == b"fine"
        memory._finished_spans = [s for s in memory._finished_spans if s.name != "lock.wait"]
        done()
        """
    )
    assert span["kind"] == "SERVER"
    assert_billed(span, wait=True, blocked=False)


@needs_flask
def test_opentelemetry_wsgi_middleware() -> None:
    [span] = run(
        """
        from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
        from tracedthread.middleware import WSGIMiddleware
        from wsgiref.util import setup_testing_defaults
        def app(environ, start_response):
            start_response("200 OK", [])
            blocks()
            return [b"a"]
        environ = {}
        setup_testing_defaults(environ)
        body = OpenTelemetryMiddleware(WSGIMiddleware(app))(environ, lambda *_: None)
        assert list(body) == [b"a"]
        body.close()
        done()
        """
    )
    assert span["kind"] == "SERVER"
    assert_billed(span, wait=False, blocked=True)
