"""
Metrics through the program's own set-up: whose they are, when the histograms begin, and what forks and stops leave of it.
"""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http.metric_exporter")

from collector import CACHE, FakeCollector, run_program

from tracedthread import names
from tracedthread.otel import metrics

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, url: str = "http://127.0.0.1:1", **environment: str) -> subprocess.CompletedProcess[str]:
    return run_program(textwrap.dedent(code), url, **environment)


def test_nothing_is_imported_on_threads_of_ours() -> None:
    # A fork meanwhile would leave the child with a module whose lock nobody ever releases.
    code = """
        import sys, threading, time
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from tracedthread.otel.instrumentor import TracedThreadInstrumentor
        instrumentor = TracedThreadInstrumentor()
        instrumentor.instrument()
        provider = TracerProvider()
        before = set(sys.modules)
        with threading.Lock(): pass
        trace.set_tracer_provider(provider)
        time.sleep(1.5)
        instrumentor.uninstrument()
        print(sorted(set(sys.modules) - before))
    """
    with FakeCollector() as collector:
        done = run(code, collector.url, OTEL_METRIC_EXPORT_INTERVAL="100")
        assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
        assert any(collector.points(names.HOLD_DURATION.name))


@pytest.mark.parametrize(
    ("names_of_exporters", "protocol", "expected"),
    [
        (None, None, "http"),
        ("", None, "http"),  # an empty value is none
        (" otlp ", None, "http"),
        ("otlp", "grpc", "grpc"),
        ("", "grpc", "grpc"),
        ("console,otlp_proto_http", None, "http"),
        ("otlp_proto_http", "grpc", "http"),  # the name goes before, as in the SDK
        ("otlp_proto_grpc", None, "grpc"),
        ("otlp_proto_grpc", "http/protobuf", "grpc"),
        ("none", None, None),
        ("console,prometheus", "grpc", None),
    ],
)
def test_exporters_are_named_as_the_sdk_has_them(
    names_of_exporters: str | None, protocol: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    for name, value in (("OTEL_METRICS_EXPORTER", names_of_exporters), ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)

    class Grpc:
        OTLPMetricExporter = staticmethod(lambda: "grpc")

    monkeypatch.setattr(metrics, "_load_grpc", lambda: Grpc)
    monkeypatch.setattr(metrics, "make_exporter", lambda: "http")
    assert metrics.uses_otlp() == (expected is not None)
    if expected is not None:
        assert metrics.exporter_of_environment() == expected


def test_loading_the_exporter_logs_nothing() -> None:
    code = """
        from tracedthread.otel.histograms import load_exporter
        load_exporter()
    """
    done = run(code, OTEL_EXPORTER_OTLP_HEADERS="no header")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_the_extra_the_caller_is_told_at_once() -> None:
    code = """
        import sys
        sys.modules["opentelemetry.exporter.otlp.proto.http.metric_exporter"] = None
        from tracedthread.otel.instrumentor import TracedThreadInstrumentor
        TracedThreadInstrumentor().instrument()
        import os
        os._exit(0)
    """
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (0, "", 1)
    assert done.stderr.startswith("tracedthread: no histograms by OTLP: ")


@pytest.mark.parametrize("is_set_later", [False, True])
def test_a_program_with_metrics_only_has_histograms_of_its_meter_provider(is_set_later: bool) -> None:
    code = f"""
        import threading, time
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.resources import Resource
        from tracedthread import recorder
        from tracedthread.otel.instrumentor import TracedThreadInstrumentor
        provider = MeterProvider(resource=Resource({{"service.name": "shop"}}))
        TracedThreadInstrumentor().instrument(**({{}} if {is_set_later} else {{"meter_provider": provider}}))
        with threading.Lock(): pass
        if {is_set_later}:
            metrics.set_meter_provider(provider)
            recorder.flush(30)  # 3.12 starts no thread any more where the interpreter ends
    """
    with FakeCollector() as collector:
        done = run(code, collector.url)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert any(collector.points(names.HOLD_DURATION.name))
        assert {one["service.name"] for one in collector.resources()} == {"shop"}


def test_a_program_that_sets_up_no_sdk_exports_nothing() -> None:
    code = """
        import threading
        from tracedthread.otel.instrumentor import TracedThreadInstrumentor
        TracedThreadInstrumentor().instrument()
        with threading.Lock(): pass
    """
    with FakeCollector() as collector:
        done = run(code, collector.url)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert not collector.requests


DELTAS = """
    from opentelemetry.sdk.metrics import MeterProvider, export as sdk
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
    from tracedthread.otel import histograms, metrics, setup
    from tracedthread.otel.options import Options
    sent = []
    class Fake:
        def export(self, data):
            for resource in data.resource_metrics:
                for metric in resource.scope_metrics[0].metrics:
                    if metric.name == "tracedthread.lock.hold.duration":
                        found = [one for one in metric.data.data_points if "Cache._lock" in one.attributes.values()]
                        sent.extend((one.count, one.start_time_unix_nano) for one in found)
            return sdk.MetricExportResult.SUCCESS
        def shutdown(self): pass
    metrics.exporter_of_environment = Fake
    providers = {"tracer_provider": TracerProvider(), "meter_provider": MeterProvider()}
    def start(): assert setup.start(options=Options(otlp_histograms=True, metrics_top=200), **providers)
"""
DELTA = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}


def run_deltas(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(CACHE + textwrap.dedent(DELTAS) + textwrap.dedent(code), **DELTA, **environment)


def test_stopped_and_started_again_deltas_go_on() -> None:
    code = """
        for _ in range(3):
            start()
            use(100)
            assert setup.stop(30)
        assert [count for count, _ in sent] == [100, 100, 100], sent
        assert sorted(since for _, since in sent) == [since for _, since in sent]
        if os.fork() == 0:  # it was stopped in the parent
            sent.clear()
            use(7)
            start()
            setup.stop(30)
            os._exit([count for count, _ in sent] != [7])
        assert os.wait()[1] == 0
    """
    done = run_deltas(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_exporter_that_was_never_closed_ends_and_deltas_go_on() -> None:
    code = """
        hangs, exports = threading.Event(), threading.Event()
        class Slow(SpanExporter):
            def export(self, spans):
                exports.set()
                hangs.wait(30)
                return SpanExportResult.SUCCESS
        providers["tracer_provider"].add_span_processor(SimpleSpanProcessor(Slow()))
        taken = threading.Event()
        def hold():
            with cache._lock:
                taken.set()
                while not any(row.stats.waiters for row in tracedthread.snapshot().locks): time.sleep(0.01)
                time.sleep(0.1)
        start()
        thread = threading.Thread(target=hold)
        thread.start()
        taken.wait()
        use(1)
        thread.join()
        exports.wait(30)  # the recorder makes a span of that wait, and waits for its exporter
        use(50)
        assert not setup.stop(0.1)
        assert not list(histograms._live)
        use(50)
        start()
        hangs.set()
        use(100)
        assert setup.stop(30)
        time.sleep(0.3)
        assert sum(count for count, _ in sent) == 202, sent
    """
    done = run_deltas(code, OTEL_METRIC_EXPORT_INTERVAL="100")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
