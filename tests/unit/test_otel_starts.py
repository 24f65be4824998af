"""Thread starts as log events; the SDK's records differ from release to release."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk import _logs
from opentelemetry.sdk._logs import LoggerProvider, export
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from telemetry import NOON, thread_start, trace_context

from tracedthread import recorder, recorder_thread
from tracedthread.otel.starts import Starts

InMemory: Any = getattr(export, "InMemoryLogRecordExporter", None) or export.InMemoryLogExporter


@pytest.fixture(autouse=True)
def lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_thread.shared, "lost", dict.fromkeys(recorder.LOSSES, 0))


def emitted(context: Context | None = None) -> Any:
    exporter = InMemory()
    loggers = LoggerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    sink = Starts(loggers.get_logger("test"), loggers.resource)
    sink.tick((), [thread_start(context=1)], {} if context is None else {1: context}, {})
    sink.close(1.0)
    assert recorder.lost()["failures"] == 0
    (data,) = exporter.get_finished_logs()
    return data


def test_a_start_is_an_event_in_the_trace_that_caused_it() -> None:
    data = emitted(trace_context(10))
    record = data.log_record
    assert (record.timestamp, record.trace_id, record.span_id) == (NOON, 10, 10)
    attributes = dict(record.attributes)
    name = attributes.pop("event.name", None) or record.event_name
    assert name == "tracedthread.thread.start"
    assert attributes == {
        "thread.id": 111,
        "thread.name": "worker-1",
        "code.function.name": "submit",
        "code.file.path": "/app/pool.py",
        "code.line.number": 9,
        "code.stacktrace": '  File "/app/pool.py", line 9, in submit\n',
        "tracedthread.started.thread.id": 333,
        "tracedthread.started.thread.name": "worker-3",
        "tracedthread.started.code.function.name": "work",
    }
    assert record.body == "worker-1 started worker-3"
    assert record.severity_number.value == 9
    resource = getattr(data, "resource", None) or record.resource
    assert resource.attributes["service.name"] == "shop"


def test_without_a_trace_it_is_in_none() -> None:
    assert not emitted().log_record.trace_id
    assert not emitted(Context()).log_record.trace_id


def test_a_processor_that_raises_is_counted() -> None:
    class Broken:
        def emit(self, *args: Any) -> None:
            raise SystemExit

        on_emit = emit

        def shutdown(self) -> None: ...

        def force_flush(self, timeout_millis: int = 0) -> bool:
            return True

    loggers = _logs.LoggerProvider(shutdown_on_exit=False)
    loggers.add_log_record_processor(Broken())  # type: ignore[arg-type]
    Starts(loggers.get_logger("test"), loggers.resource).tick((), [thread_start()] * 2, {}, {})
    assert recorder.lost()["failures"] == 2
