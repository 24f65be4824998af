"""
Thread starts as log events, in the trace that caused them.

There are such only while the audit trail is kept: `tracedthread.audit.keep_trail`.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry._logs import Logger, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import get_current_span

from tracedthread import names, recorder
from tracedthread.live import LiveEvent, LiveStart
from tracedthread.otel import attributes

__all__ = ["Starts"]


class Starts:
    """
    A sink of the recorder that emits the events.

    Args:
        logger: Of any provider.
        resource: The provider's; needed by releases whose records name it themselves (before 1.40).
    """

    def __init__(self, logger: Logger, resource: object = None) -> None:
        self._logger = logger
        self._resource = resource
        self._takes_values = "event_name" in inspect.signature(logger.emit).parameters

    def tick(
        self,
        events: Sequence[LiveEvent],
        starts: Sequence[LiveStart],
        contexts: Mapping[int, Context],
        lost: Mapping[str, int],
    ) -> None:
        """Emit an event for each of these starts."""
        del events, lost
        for start in starts:
            # A processor may raise.
            recorder.attempt(self._emit, start, contexts.get(start.context, Context()))

    def close(self, timeout_s: float) -> None:
        """Nothing is kept here."""

    def _emit(self, start: LiveStart, context: Context) -> None:
        values: dict[str, Any] = {
            "timestamp": start.time_ns,
            "observed_timestamp": time.time_ns(),
            "severity_number": SeverityNumber.INFO,
            "severity_text": "INFO",
            "body": f"{start.parent.name or 'a thread'} started {start.thread.name or start.function}",
            "attributes": _describe(start),
        }
        if self._takes_values:
            self._logger.emit(context=context, event_name=names.THREAD_START_EVENT, **values)
        else:
            self._logger.emit(_older_record(values, context, self._resource))


def _describe(start: LiveStart) -> dict[str, str | int | float]:
    values: dict[str, str | int | float] = {
        **attributes.thread(start.parent),
        **attributes.place(start.stack),
        **attributes.thread(start.thread, names.STARTED),
        names.STARTED + names.FUNCTION: start.function,
    }
    if start.stack:
        values[names.STACK] = attributes.stacktrace(start.stack)
    return values


def _older_record(values: dict[str, Any], context: Context, resource: object) -> Any:
    """A record as older SDKs want it, complete; what such a release does not know yet is left out."""
    from opentelemetry.sdk import _logs

    make = _logs.LogRecord  # type: ignore[attr-defined, unused-ignore]
    known = inspect.signature(make).parameters
    span = get_current_span(context).get_span_context()
    values = {**values, "resource": resource, "event_name": names.THREAD_START_EVENT, "context": context}
    if "event_name" not in known:
        values["attributes"] = {**values["attributes"], "event.name": names.THREAD_START_EVENT}
    if "context" not in known:
        values |= {"trace_id": span.trace_id, "span_id": span.span_id, "trace_flags": span.trace_flags}
    return make(**{key: value for key, value in values.items() if key in known})
