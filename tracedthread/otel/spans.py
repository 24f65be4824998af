"""
Slow waits as spans: `lock.wait`, from when to when the wait was, in the trace that waited, linked to who made it wait.

Waits for locks, permits and room become spans; idle waiting does not. In a sampled trace that is every wait from 1 ms
on, outside of any trace those from 100 ms on, and in a trace that is not sampled none: nothing is built for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind, Tracer, get_current_span

from tracedthread import names, recorder
from tracedthread.exemplars import Exemplar, Exemplars
from tracedthread.layout import CONTENTION_KINDS
from tracedthread.live import LiveEvent, LiveStart
from tracedthread.otel import attributes

__all__ = ["ALONE_S", "IN_TRACE_S", "PER_SECOND", "Spans", "context_variable"]

IN_TRACE_S = 0.001
ALONE_S = 0.1
PER_SECOND = 1000
# A processor that exports at once can take long for each; then the rest is dropped, or the recorder would fall behind.
_LOOK_LIMIT_S = 1.0
# Set while spans are exported, and where instrumentations are told to keep quiet.
_SUPPRESS = getattr(otel_context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")


def context_variable() -> ContextVar[Context] | None:
    """Where OpenTelemetry keeps the current context; None if it has been told to keep it elsewhere."""
    token = otel_context.attach(otel_context.get_current())
    try:
        variable = getattr(token, "var", None)
        return variable if isinstance(variable, ContextVar) else None
    finally:
        otel_context.detach(token)  # type: ignore[arg-type, unused-ignore]  # `object` in older releases


class Spans:
    """
    A sink of the recorder that makes the spans.

    Args:
        tracer: Of any provider; also of one that is set later.
        in_trace_s: Waits in a sampled trace become spans from this length on. The capture's event threshold, 1 ms, is
            the least it can be.
        alone_s: Those that are in no trace, or whose context was lost, from this length on.
        per_second: The budget; what a second leaves may be spent in the next one. The shortest waits go first.
        exemplars: Where to note which span stands for which measurement.
        on_close: Called at the end with the seconds there are left, for a provider that nobody else flushes.
        now: A clock, seconds.
    """

    def __init__(
        self,
        tracer: Tracer,
        *,
        in_trace_s: float = IN_TRACE_S,
        alone_s: float = ALONE_S,
        per_second: float = PER_SECOND,
        exemplars: Exemplars | None = None,
        on_close: Callable[[float], object] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracer = tracer
        self._in_trace_s = in_trace_s
        self._alone_s = alone_s
        self._exemplars = exemplars
        self._on_close = on_close
        self._now = now
        self._per_second = self._budget = per_second
        self._budget_at = now()

    def tick(
        self,
        events: Sequence[LiveEvent],
        starts: Sequence[LiveStart],
        contexts: Mapping[int, Context],
        lost: Mapping[str, int],
    ) -> None:
        """Make the spans of these events."""
        del starts, lost
        if not events:
            return
        chosen: list[tuple[float, LiveEvent, Context]] = []
        for event in events:
            parent = contexts.get(event.context)
            wait_s = event.wait_s
            if wait_s >= self._threshold_s(parent):
                chosen.append((wait_s, event, Context() if parent is None else parent))
        if not chosen:
            return
        chosen.sort(key=lambda one: one[0], reverse=True)
        made = 0
        stop_at = self._now() + _LOOK_LIMIT_S
        for wait_s, event, parent in chosen[: self._allowed()]:
            if self._now() > stop_at:
                break
            # A processor or a sampler may raise.
            recorder.attempt(self._make, wait_s, event, parent, contexts.get(event.holder_context))
            made += 1
        self._budget -= made
        recorder.count("spans", len(chosen) - made)

    def close(self, timeout_s: float) -> None:
        """Flush what nobody else does."""
        if self._on_close is not None:
            self._on_close(timeout_s)

    def after_fork(self) -> None:
        """In a child: exemplars are of what it counts itself."""
        if self._exemplars is not None:
            self._exemplars.clear()

    def _threshold_s(self, parent: Context | None) -> float:
        if parent is None:
            return self._alone_s
        if otel_context.get_value(_SUPPRESS, parent):
            return float("inf")
        span = get_current_span(parent).get_span_context()
        if not span.is_valid:
            return self._alone_s
        return self._in_trace_s if span.trace_flags.sampled else float("inf")

    def _allowed(self) -> int:
        now = self._now()
        self._budget = min(self._per_second, self._budget + (now - self._budget_at) * self._per_second)
        self._budget_at = now
        return int(self._budget)

    def _make(self, wait_s: float, event: LiveEvent, parent: Context, holder: Context | None) -> None:
        culprit = "holder" if event.kind in CONTENTION_KINDS else "waker"
        span = self._tracer.start_span(
            names.SPAN,
            context=parent,
            kind=SpanKind.INTERNAL,
            attributes=_describe(event),
            links=_link(holder, culprit),
            start_time=event.start_ns,
        )
        told = span.get_span_context()
        is_told = span.is_recording() and told.trace_flags.sampled
        span.end(end_time=event.end_ns)
        if is_told and self._exemplars is not None:
            exemplar = Exemplar(wait_s, told.trace_id, told.span_id, event.end_ns)
            self._exemplars.add(names.WAIT_DURATION.name, (event.lock.name, event.kind), exemplar)


def _link(context: Context | None, culprit: str) -> list[Link]:
    # A link to a span that is not sampled would lead nowhere.
    found: SpanContext = get_current_span(context).get_span_context() if context is not None else _NOWHERE
    return [Link(found, {names.LINK_TYPE: culprit})] if found.is_valid and found.trace_flags.sampled else []


def _describe(event: LiveEvent) -> dict[str, str | int | float]:
    values: dict[str, str | int | float] = {
        names.LOCK_NAME: event.lock.name,
        names.LOCK_SITE: str(event.lock.created),
        names.LOCK_TYPE: event.lock.type,
        names.WAIT_KIND: event.kind,
        names.WAIT_OUTCOME: event.outcome,
        names.WAIT_OWN_GIL: event.own_gil_s,
        **attributes.thread(event.waiter),
        **attributes.place(event.stack),
    }
    if event.stack:
        values[names.STACK] = attributes.stacktrace(event.stack)
    # Where it was released says who is to blame; where the holder was when the wait began says why it took so long.
    prefix = names.HOLDER if event.kind in CONTENTION_KINDS else names.WAKER
    values |= attributes.thread(event.holder, prefix)
    values |= attributes.place(event.release_stack or event.holder_stack, prefix)
    if event.holder_stack:
        values[prefix + names.STACK] = attributes.stacktrace(event.holder_stack)
    return values


_NOWHERE = get_current_span(Context()).get_span_context()
