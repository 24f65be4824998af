"""
Waits and thread starts made up for the tests of what tells them, and OpenTelemetry providers that keep all in memory.
"""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from tracedthread.capture import Frame
from tracedthread.live import LiveEvent, LiveStart, Place, Who

MS = 1_000_000
NOON = 1_795_363_200_000_000_000  # unix time, ns
WAITER, HOLDER = Who(111, "worker-1"), Who(222, "worker-2")


def wait(
    length_ms: float = 5.0,
    *,
    kind: str = "lock",
    outcome: str = "acquired",
    start_ns: int = NOON,
    context: int = 0,
    holder_context: int = 0,
    own_gil_s: float = 0.0005,
    stack: tuple[Frame, ...] = (Frame("lookup", "/app/cache.py", 63), Frame("handle", "/app/app.py", 20)),
    release_stack: tuple[Frame, ...] = (Frame("report", "/app/cache.py", 118),),
    holder_stack: tuple[Frame, ...] = (Frame("render", "/app/pages.py", 7), Frame("report", "/app/cache.py", 117)),
    waiter: Who = WAITER,
    holder: Who = HOLDER,
) -> LiveEvent:
    return LiveEvent(
        Place("Cache._lock", Frame("Cache.__init__", "/app/cache.py", 41), "rlock" if kind == "rlock" else "lock"),
        kind,
        outcome,
        start_ns,
        start_ns + round(length_ms * MS),
        own_gil_s,
        waiter,
        stack,
        holder,
        release_stack,
        holder_stack,
        context,
        holder_context,
    )


def thread_start(*, context: int = 0) -> LiveStart:
    return LiveStart(NOON, Who(333, "worker-3"), "work", WAITER, (Frame("submit", "/app/pool.py", 9),), context)


def trace_context(number: int, *, sampled: bool = True) -> Context:
    """A context in which the span `number` of the trace of that number is active."""
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return set_span_in_context(NonRecordingSpan(SpanContext(number, number, False, flags)), Context())


def provider() -> tuple[TracerProvider, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    return tracers, exporter
