"""Which waits become spans, and what is in these."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind
from telemetry import MS, NOON, provider, trace_context, wait

from tracedthread import recorder, recorder_thread
from tracedthread.capture import Frame
from tracedthread.exemplars import Exemplar, Exemplars
from tracedthread.live import NOBODY, LiveEvent
from tracedthread.otel.attributes import stacktrace
from tracedthread.otel.spans import Spans, context_variable


@pytest.fixture(autouse=True)
def lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_thread.shared, "lost", dict.fromkeys(recorder.LOSSES, 0))


class Time:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


def spans_of(
    events: Sequence[LiveEvent], contexts: dict[int, Context] | None = None, **options: Any
) -> tuple[ReadableSpan, ...]:
    tracers, exporter = provider()
    Spans(tracers.get_tracer("test"), **options).tick(events, (), contexts or {}, {})
    return exporter.get_finished_spans()


def test_a_span_says_when_where_who_and_because_of_whom() -> None:
    (span,) = spans_of([wait(context=1, holder_context=2)], {1: trace_context(10), 2: trace_context(20)})
    assert (span.name, span.kind) == ("lock.wait", SpanKind.INTERNAL)
    assert (span.start_time, span.end_time) == (NOON, NOON + 5 * MS)
    assert span.context.trace_id == 10 and span.parent is not None and span.parent.span_id == 10
    (link,) = span.links
    assert (link.context.trace_id, link.context.span_id) == (20, 20)
    assert dict(link.attributes or {}) == {"tracedthread.link.type": "holder"}
    assert dict(span.attributes or {}) == {
        "tracedthread.lock.name": "Cache._lock",
        "tracedthread.lock.site": "Cache.__init__ cache.py:41",
        "tracedthread.lock.type": "lock",
        "tracedthread.wait.kind": "lock",
        "tracedthread.wait.outcome": "acquired",
        "tracedthread.wait.gil.time": 0.0005,
        "thread.id": 111,
        "thread.name": "worker-1",
        "code.function.name": "lookup",
        "code.file.path": "/app/cache.py",
        "code.line.number": 63,
        "code.stacktrace": '  File "/app/app.py", line 20, in handle\n  File "/app/cache.py", line 63, in lookup\n',
        "tracedthread.holder.thread.id": 222,
        "tracedthread.holder.thread.name": "worker-2",
        "tracedthread.holder.code.function.name": "report",
        "tracedthread.holder.code.file.path": "/app/cache.py",
        "tracedthread.holder.code.line.number": 118,
        "tracedthread.holder.code.stacktrace": (
            '  File "/app/cache.py", line 117, in report\n  File "/app/pages.py", line 7, in render\n'
        ),
    }


def test_what_is_not_known_is_left_out() -> None:
    event = wait(200, waiter=NOBODY, holder=NOBODY, stack=(), release_stack=(), holder_stack=(), outcome="timeout")
    (span,) = spans_of([event])
    assert not [
        name for name in span.attributes or {} if "thread." in name.replace("tracedthread.", "") or "code." in name
    ]
    assert (span.attributes or {})["tracedthread.wait.outcome"] == "timeout"
    assert span.parent is None and not span.links


def test_after_a_timeout_the_holder_is_where_it_was() -> None:
    (span,) = spans_of([wait(200, outcome="timeout", release_stack=())])
    assert (span.attributes or {})["tracedthread.holder.code.function.name"] == "render"


@pytest.mark.parametrize("kind", ["semaphore", "queue.put", "pool"])
def test_who_gives_a_permit_or_room_is_no_holder(kind: str) -> None:
    (span,) = spans_of([wait(200, kind=kind, holder_context=1)], {1: trace_context(20)})
    assert not [name for name in span.attributes or {} if "holder" in name]
    assert (span.attributes or {})["tracedthread.waker.thread.name"] == "worker-2"
    assert [dict(link.attributes or {}) for link in span.links] == [{"tracedthread.link.type": "waker"}]


@pytest.mark.parametrize(
    ("context", "length_ms", "is_told"),
    [
        (None, 99.9, False),
        (None, 100, True),
        (Context(), 99.9, False),
        (Context(), 100, True),
        (trace_context(10), 0.99, False),
        (trace_context(10), 1, True),
        (trace_context(10, sampled=False), 10_000, False),
        (otel_context.set_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY, True, trace_context(10)), 10_000, False),
    ],
)
def test_thresholds_depend_on_the_trace(context: Context | None, length_ms: float, is_told: bool) -> None:
    contexts = {} if context is None else {1: context}
    assert len(spans_of([wait(length_ms, context=1)], contexts)) == is_told
    assert recorder.lost() == dict.fromkeys(recorder.LOSSES, 0)


def test_thresholds_can_be_set() -> None:
    events = [wait(3), wait(20), wait(3, context=1), wait(20, context=1)]
    told = spans_of(events, {1: trace_context(10)}, in_trace_s=0.004, alone_s=0.002)
    lengths = sorted(((span.end_time or 0) - (span.start_time or 0)) // MS for span in told)
    assert lengths == [3, 20, 20]


def test_nothing_is_built_for_a_trace_that_is_not_sampled() -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"{name} was used")

    spans = Spans(Untouchable())  # type: ignore[arg-type]
    spans.tick([wait(500, context=1)] * 100, (), {1: trace_context(10, sampled=False)}, {})
    spans.tick([], (), {}, {})
    assert recorder.lost()["failures"] == 0


def test_the_sampler_is_asked_about_waits_outside_of_traces() -> None:
    kept = Exemplars()
    tracers = TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
    Spans(tracers.get_tracer("test"), exemplars=kept).tick([wait(200)], (), {}, {})
    assert kept.within("tracedthread.lock.wait.duration", ("Cache._lock", "lock"), 0, 1) is None


def test_links_lead_only_to_spans_that_are_sampled() -> None:
    unsampled = trace_context(20, sampled=False)
    for contexts in ({1: unsampled}, {1: Context()}, {}):
        (span,) = spans_of([wait(200, holder_context=1)], contexts)
        assert not span.links


def test_over_budget_the_shortest_go_first_and_are_counted() -> None:
    now = Time()
    tracers, exporter = provider()
    spans = Spans(tracers.get_tracer("test"), per_second=10, now=now)

    def told(lengths: Sequence[int]) -> list[int]:
        exporter.clear()
        spans.tick([wait(length) for length in lengths], (), {}, {})
        return sorted(((span.end_time or 0) - (span.start_time or 0)) // MS for span in exporter.get_finished_spans())

    assert told(range(100, 125)) == list(range(115, 125))
    assert recorder.lost()["spans"] == 15
    assert told([200]) == []
    now.s += 0.5
    assert told(range(300, 307)) == list(range(302, 307))
    now.s += 60  # at most one second's is saved up
    assert told(range(100, 130)) == list(range(120, 130))
    assert recorder.lost()["spans"] == 15 + 1 + 2 + 20


def test_a_processor_that_takes_long_does_not_keep_the_recorder() -> None:
    now = Time()

    class Slow(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            now.s += 0.3

    tracers, exporter = provider()
    tracers.add_span_processor(Slow())
    Spans(tracers.get_tracer("test"), now=now).tick([wait(length) for length in range(100, 150)], (), {}, {})
    told = [((span.end_time or 0) - (span.start_time or 0)) // MS for span in exporter.get_finished_spans()]
    assert told == [149, 148, 147, 146]
    assert recorder.lost()["spans"] == 46


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("moment", ["on_start", "on_end"])
def test_a_processor_that_raises_is_counted_and_spoils_no_other_span(moment: str, error: type[BaseException]) -> None:
    def once(self: Any, *args: Any, **kwargs: Any) -> None:
        if not raised:
            raised.append(1)
            raise error("broken")

    raised: list[int] = []
    tracers, exporter = provider()
    tracers.add_span_processor(type("Broken", (SpanProcessor,), {moment: once})())
    Spans(tracers.get_tracer("test")).tick([wait(200), wait(300), wait(400)], (), {}, {})
    assert recorder.lost()["failures"] == 1
    assert len(exporter.get_finished_spans()) == (2 if moment == "on_start" else 3)


def test_exemplars_lead_to_the_spans() -> None:
    kept = Exemplars()
    (span,) = spans_of([wait(5, context=1), wait(0.5, context=1)], {1: trace_context(10)}, exemplars=kept)
    found = kept.within("tracedthread.lock.wait.duration", ("Cache._lock", "lock"), 0.001, 0.005)
    assert found == Exemplar(0.005, span.context.trace_id, span.context.span_id, span.end_time or 0)


def test_a_child_begins_without_exemplars() -> None:
    kept = Exemplars()
    spans = Spans(provider()[0].get_tracer("test"), exemplars=kept)
    spans.tick([wait(200)], (), {}, {})
    spans.after_fork()
    assert kept.within("tracedthread.lock.wait.duration", ("Cache._lock", "lock"), 0, 1) is None


def test_closing_flushes_what_nobody_else_does() -> None:
    closed: list[float] = []
    Spans(provider()[0].get_tracer("test"), on_close=closed.append).close(1.5)
    Spans(provider()[0].get_tracer("test")).close(1.5)
    assert closed == [1.5]


def test_stacks_are_bounded_and_keep_their_innermost_frames() -> None:
    frames = tuple(Frame(f"f{number}", "/app/app.py", number) for number in range(200))
    text = stacktrace(frames)
    assert text.count("\n") == 32 and text.endswith("line 0, in f0\n") and "in f31\n" in text
    long = tuple(Frame("f" * 1000, "/app/app.py", number) for number in range(1, 9))
    assert len(stacktrace(long)) <= 4096 and "line 1," in stacktrace(long)
    assert stacktrace(()) == ""


def test_opentelemetry_keeps_its_context_in_a_variable() -> None:
    variable = context_variable()
    assert isinstance(variable, ContextVar)
    token = otel_context.attach(trace_context(10))
    try:
        assert variable.get() is otel_context.get_current()
    finally:
        otel_context.detach(token)  # type: ignore[arg-type, unused-ignore]


def test_a_context_kept_elsewhere_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otel_context, "attach", lambda context: "a token")
    monkeypatch.setattr(otel_context, "detach", lambda token: None)
    assert context_variable() is None
