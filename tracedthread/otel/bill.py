"""
The bill of each request on its server span: what the request waited for locks and for the GIL, and what it made others
wait, in seconds.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from opentelemetry.sdk.trace import ConcurrentMultiSpanProcessor, SpanProcessor
from opentelemetry.trace import SpanKind, get_tracer_provider

from tracedthread import _settings
from tracedthread.billing import Bill

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span
    from opentelemetry.trace import TracerProvider

__all__ = ["BillProcessor", "Bills"]


class BillProcessor(SpanProcessor):
    """
    Bills the thread that starts a server span until the span ends, wherever it does.

    The SDK has no hook that may still add to a span which ends: `_on_ending` is called when it cannot be changed any
    more (1.45), or not at all (1.27). So each server span gets an `end` of its own, which goes when it is called.
    """

    def __init__(self) -> None:
        #: Processors cannot be taken from a provider; this one can be told to do nothing.
        self.enabled = True

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Begin a bill if the span is a server's."""
        if not self.enabled or span.kind is not SpanKind.SERVER:
            return
        # What is raised here would come out of the program's start_span.
        with suppress(Exception):
            bill = Bill().__enter__()
            if bill.recorded:
                span.end = _Ending(span, bill)  # type: ignore[method-assign]


class _Ending:
    """`end` of one span."""

    __slots__ = ("_bill", "_span")

    def __init__(self, span: Span, bill: Bill) -> None:
        self._span = span
        self._bill = bill

    def __call__(self, end_time: int | None = None) -> None:
        span = self._span
        if vars(span).pop("end", None) is self:  # and with it the cycle of references
            with suppress(Exception):
                span.set_attributes(self._bill.attributes())
        span.end(end_time)


_processors: WeakKeyDictionary[TracerProvider, BillProcessor] = WeakKeyDictionary()  # none is ever taken away


class Bills:
    """
    Sees to it that a provider has a `BillProcessor`: a sink of the recorder, for the global one may be set later.

    Args:
        provider: None for the global one.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._processor: BillProcessor | None = None
        self._add()

    def tick(self, *_: object) -> None:
        """Look whether there is a provider by now."""
        if self._processor is None:
            self._add()

    def close(self, timeout_s: float) -> None:
        """Nothing is kept here."""

    def withdraw(self) -> None:
        """No more bills."""
        if self._processor is not None:
            self._processor.enabled = False

    def _add(self) -> None:
        provider = self._provider or get_tracer_provider()
        add = getattr(provider, "add_span_processor", None)  # which only the SDK's have
        if add is None:
            return
        if (processor := _processors.get(provider)) is None:
            processor = _processors[provider] = BillProcessor()
            if isinstance(getattr(provider, "_active_span_processor", None), ConcurrentMultiSpanProcessor):
                # It would be billed what threads of a pool wait, in which it is told of spans: nothing.
                _settings.say("no bills on server spans: a ConcurrentMultiSpanProcessor starts them in other threads")
            else:
                add(processor)
        processor.enabled = True
        self._processor = processor
