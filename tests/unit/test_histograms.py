"""
Histograms by OTLP: native counts as they are, exemplars, deltas; collectors that are slow, down or confused hurt nobody.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http.metric_exporter")

from collector import CACHE, FakeCollector, run_program
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.resources import Resource

from tracedthread import _settings, names
from tracedthread.buckets import BOUNDS
from tracedthread.exemplars import Exemplar, Exemplars
from tracedthread.measure import HistogramValue, Measurement
from tracedthread.otel import histograms
from tracedthread.otel.histograms import HistogramExporter

ROOT = Path(__file__).resolve().parents[2]
WAIT = names.WAIT_DURATION.name
DELTA = sdk.AggregationTemporality.DELTA.value
CUMULATIVE = sdk.AggregationTemporality.CUMULATIVE.value


def value(*counts: int, sum_s: float = 0.0) -> HistogramValue:
    return HistogramValue(BOUNDS, counts + (0,) * (len(BOUNDS) + 1 - len(counts)), sum_s)


class Source:
    """Points that a test sets."""

    def __init__(self, *counts: int, sum_s: float = 0.5) -> None:
        self.set(*counts, sum_s=sum_s)

    def set(self, *counts: int, sum_s: float) -> None:
        self.points = [
            Measurement(names.WAIT_DURATION, ("Cache._lock", "lock"), value(*counts, sum_s=sum_s), 1_000),
            Measurement(names.HOLD_DURATION, ("Cache._lock", "lock"), value(), 1_000),  # nothing yet
            Measurement(names.ACQUISITIONS, ("Cache._lock", "lock"), 5, 1_000),
        ]

    def __call__(self) -> list[Measurement]:
        return self.points


def exporter(source: Any, collector: FakeCollector, **more: Any) -> HistogramExporter:
    arguments: dict[str, Any] = {
        "resource": lambda: Resource({"service.name": "shop"}),
        "exporter": lambda: OTLPMetricExporter(endpoint=f"{collector.url}/v1/metrics", timeout=2),
        "interval": 3600.0,
        **more,
    }
    return HistogramExporter(source, **arguments)


def until(condition: Any) -> None:
    """Wait for what another thread does."""
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    pytest.fail("it never came to that")


def test_counts_and_sum_arrive_as_they_are() -> None:
    with FakeCollector() as collector:
        one = exporter(Source(1, 0, 3, sum_s=0.25), collector)
        assert one.start()
        assert one.close(30)
        (points,) = collector.points(WAIT)
        (point,) = points
        assert list(point.bucket_counts) == list(value(1, 0, 3).counts)
        assert list(point.explicit_bounds) == list(BOUNDS)
        assert (point.count, point.sum, point.start_time_unix_nano) == (4, 0.25, 1_000)
        assert not point.HasField("min")
        assert not point.HasField("max")
        assert {one.key: one.value.string_value for one in point.attributes} == {
            "tracedthread.lock.name": "Cache._lock",
            "tracedthread.wait.kind": "lock",
        }
        assert collector.points(names.HOLD_DURATION.name) == [[]]
        metrics = collector.requests[0].resource_metrics[0].scope_metrics[0]
        assert [metric.name for metric in metrics.metrics] == [WAIT]  # no counters: those go through the provider
        assert metrics.scope.name == names.SCOPE
        assert metrics.metrics[0].unit == "s"
        assert metrics.metrics[0].histogram.aggregation_temporality == CUMULATIVE
        assert collector.resources() == [{"service.name": "shop"}]
        assert (one.exports, one.failures) == (1, 0)


def test_it_goes_on_at_its_interval_and_ends_with_the_newest() -> None:
    with FakeCollector() as collector:
        source = Source(1)
        one = exporter(source, collector, interval=0.01)
        assert one.start()
        until(lambda: len(collector.requests) >= 3)
        source.set(1, 1, sum_s=1.0)
        assert one.close(30)
        assert collector.points(WAIT)[-1][0].count == 2
        after = len(collector.requests)
        assert one.close(30)  # a second time does nothing
        assert len(collector.requests) == after


@pytest.mark.parametrize("preference", ["delta", "LowMemory"])
def test_deltas_are_what_has_come_since_what_has_arrived(preference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference)
    source = Source(1, 2, sum_s=1.0)
    exports: list[sdk.MetricsData] = []
    results = [sdk.MetricExportResult.SUCCESS, sdk.MetricExportResult.FAILURE, sdk.MetricExportResult.SUCCESS]

    class Fake:
        def export(self, data: sdk.MetricsData) -> sdk.MetricExportResult:
            exports.append(data)
            return results[len(exports) - 1]

    one = HistogramExporter(source, resource=Resource.get_empty)
    fake: Any = Fake()
    one._export(fake, Resource.get_empty())
    source.set(1, 3, sum_s=1.5)
    one._export(fake, Resource.get_empty())
    source.set(1, 3, 4, sum_s=3.0)
    one._export(fake, Resource.get_empty())
    one._export(fake, Resource.get_empty())  # nothing new: nothing is sent
    assert len(exports) == 3
    first, second, third = (data.resource_metrics[0].scope_metrics[0].metrics[0].data for data in exports)
    assert first.aggregation_temporality.value == DELTA
    assert [data.data_points[0].count for data in (first, second, third)] == [3, 1, 5]
    # What was refused is in the next one.
    assert third.data_points[0].sum == pytest.approx(2.0)
    assert third.data_points[0].start_time_unix_nano == first.data_points[0].time_unix_nano
    assert (one.exports, one.failures) == (3, 1)


@pytest.mark.skipif(histograms.SdkExemplar is None, reason="the SDK has no exemplars before 1.28")
def test_exemplars_are_sent_once_with_their_own_time() -> None:
    exemplars = Exemplars()
    exemplars.add(WAIT, ("Cache._lock", "lock"), Exemplar(0.002, 0xABC, 0xDEF, 1_230))
    exemplars.add(WAIT, ("Other._lock", "lock"), Exemplar(0.002, 1, 2, 3))
    with FakeCollector() as collector:
        source = Source(*[1] * len(BOUNDS))
        one = exporter(source, collector, exemplars=exemplars, interval=0.01)
        assert one.start()
        until(lambda: len(collector.requests) >= 2)
        assert one.close(30)
        first, *later = (points[0] for points in collector.points(WAIT))
        (exemplar,) = first.exemplars
        assert (exemplar.as_double, exemplar.time_unix_nano) == (0.002, 1_230)
        assert (int.from_bytes(exemplar.trace_id, "big"), int.from_bytes(exemplar.span_id, "big")) == (0xABC, 0xDEF)
        assert all(not point.exemplars for point in later)


@pytest.mark.skipif(histograms.SdkExemplar is None, reason="the SDK has no exemplars before 1.28")
def test_an_exemplar_is_of_its_deltas_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    exemplars = Exemplars()
    exports: list[Any] = []

    class Fake:
        def export(self, data: sdk.MetricsData) -> sdk.MetricExportResult:
            exports.append(data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points[0])
            return sdk.MetricExportResult.SUCCESS

    fake: Any = Fake()
    source = Source(0, sum_s=0.0)
    one = HistogramExporter(source, resource=Resource.get_empty, exemplars=exemplars)

    def export(*counts: int) -> list[int]:
        source.set(*counts, sum_s=float(sum(counts)))
        one._export(fake, Resource.get_empty())
        return [exemplar.trace_id for exemplar in exports[-1].exemplars]

    def add(trace: int, time_ns: int) -> None:
        exemplars.add(WAIT, ("Cache._lock", "lock"), Exemplar(BOUNDS[0], trace, 1, time_ns))

    add(1, 999)
    assert export(1) == []  # measured before the series began
    add(2, time.time_ns())
    assert export(2) == [2]
    assert export(2, 1) == []  # in another bucket
    assert export(3, 1) == []  # in the same one again, of which nothing new is known
    add(3, exports[-1].time_unix_nano - 1)
    assert export(4, 1) == []
    ahead = time.time_ns() + 10**12  # of the interval after this one, at the earliest
    add(4, ahead)
    assert export(5, 1) == [4]
    assert export(5, 2) == []
    assert export(6, 2) == []  # it has been told


@pytest.mark.parametrize("status", [400, 429, 503])
def test_a_collector_that_refuses_is_counted_and_said_once(
    status: int, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_settings, "_said", set())
    # Older ones sleep 1, 2, 4 … 32 s between tries, whatever their timeout.
    monkeypatch.setattr(OTLPMetricExporter, "_MAX_RETRY_TIMEOUT", 2, raising=False)
    with FakeCollector(status=status, body=b"\xff<html>no</html>") as collector, caplog.at_level(logging.DEBUG):
        one = exporter(Source(1), collector, interval=0.01)
        assert one.start()
        until(lambda: collector.requests)
        one.close(0.2)  # it may be in the middle of a retry
        until(lambda: one.failures)
    until(lambda: one._done.wait(0.0))
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert "histograms cannot be delivered" in output.err
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


def test_a_collector_that_does_not_answer_holds_up_nobody() -> None:
    with FakeCollector() as collector:
        collector.gate.clear()
        source = Source(1)
        one = exporter(
            source, collector, interval=0.01, exporter=lambda: OTLPMetricExporter(f"{collector.url}/v1/metrics")
        )
        assert one.start()
        until(lambda: collector.requests)
        source.set(1, 2, sum_s=1.0)
        assert not one.close(0.1)  # left behind
        assert len(collector.requests) == 1  # nothing is piled up
        collector.gate.set()
        until(lambda: one._done.wait(0.0))


def test_nobody_listens(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_settings, "_said", set())
    with FakeCollector() as collector:
        url = collector.url
    one = HistogramExporter(
        Source(1),
        resource=Resource.get_empty,
        exporter=lambda: OTLPMetricExporter(f"{url}/v1/metrics", timeout=1),
        interval=0.01,
    )
    assert one.start()
    until(lambda: one.failures)
    one.close(0.1)
    until(lambda: one._done.wait(0.0))
    assert capfd.readouterr().err.count("\n") == 1


def test_an_exporter_that_raises_is_counted(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_settings, "_said", set())

    class Broken:
        def export(self, data: object) -> None:
            raise OSError("broken")

        def shutdown(self) -> None:
            raise OSError("broken")

    make: Any = Broken
    one = HistogramExporter(Source(1), resource=Resource.get_empty, exporter=make, interval=0.01)
    assert one.start()
    until(lambda: one.failures >= 3)
    assert one.close(30)
    assert "OSError" in capfd.readouterr().err


@pytest.mark.parametrize("ends", ["at once", "later"])
def test_histograms_that_end_are_said(
    ends: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_settings, "_said", set())
    asked: list[None] = []

    def resource() -> Resource:
        asked.append(None)
        if ends == "at once" or len(asked) > 2:
            raise RuntimeError("no resource")
        return Resource.get_empty()

    class Fake:
        def export(self, data: object) -> sdk.MetricExportResult:
            return sdk.MetricExportResult.SUCCESS

        def shutdown(self) -> None:
            pass

    make: Any = Fake
    one = HistogramExporter(Source(1), resource=resource, exporter=make, interval=0.01)
    assert one.start() == (ends == "later")
    if ends == "later":
        until(lambda: one.failures)
    assert one.close(30)
    assert not one.is_failing  # nothing is known of the collector
    assert capfd.readouterr().err == "tracedthread: no histograms by OTLP: no resource\n"


def test_without_the_extra_one_line_says_so(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_settings, "_said", set())
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    assert not HistogramExporter(Source(1), resource=Resource.get_empty).start()
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("text", "seconds"), [("", 60.0), ("250", 0.25), ("soon", 60.0), ("-1", 60.0), ("nan", 60.0)])
def test_the_interval_is_that_of_the_sdk(text: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", text)
    assert histograms.interval_s() == seconds


# -- processes ----------------------------------------------------------------------------------------------------------

PROGRAM = """
    from opentelemetry.sdk.resources import Resource
    from tracedthread import _core
    from tracedthread.measure import Board
    from tracedthread.otel.histograms import HistogramExporter
    from tracedthread.tallier import read_own
    board = Board(read_own(_core.load()), top=100)
    resource = Resource({"service.name": "shop", "service.instance.id": "parent", "process.pid": os.getpid()})
    exporter = HistogramExporter(board.measure, resource=lambda: resource)
    assert exporter.start()
"""


def run(code: str, collector: FakeCollector, **environment: str) -> subprocess.CompletedProcess[str]:
    program = CACHE + textwrap.dedent(PROGRAM) + textwrap.dedent(code)
    return run_program(program, collector.url, **{"OTEL_EXPORTER_OTLP_HEADERS": "tenant=shop", **environment})


def holds(collector: FakeCollector) -> dict[str, int]:
    """The newest count of the cache's holds by instance."""
    found: dict[str, int] = {}
    for resource, points in zip(collector.resources(), collector.points(names.HOLD_DURATION.name)):
        for point in points:
            if any(one.value.string_value == "Cache._lock" for one in point.attributes):
                found[resource["service.instance.id"]] = point.count
    return found


def test_a_program_that_ends_has_told_everything() -> None:
    with FakeCollector() as collector:
        done = run("use(123)", collector)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert holds(collector) == {"parent": 123}
        assert collector.headers[0]["tenant"] == "shop"


def test_forked_children_tell_their_own_as_another_instance() -> None:
    code = """
        use(10)
        if os.fork() == 0:
            use(3)
            sys.exit()  # past nothing: atexit runs
        os.wait()
        use(1)
    """
    with FakeCollector() as collector:
        done = run(code, collector)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        found = holds(collector)
        assert found.pop("parent") == 11
        assert list(found.values()) == [3]
        assert len({resource["process.pid"] for resource in collector.resources()}) == 2


def test_a_child_is_the_instance_that_its_provider_becomes_after_our_fork() -> None:
    code = """
        def renew():
            global resource
            resource = resource.merge(Resource({"service.instance.id": "child", "process.pid": os.getpid()}))
        os.register_at_fork(after_in_child=lambda: (time.sleep(0.1), renew()))  # after our thread has begun
        use(10)
        if os.fork() == 0:
            use(3)
            sys.exit()
        os.wait()
    """
    with FakeCollector() as collector:
        done = run(code, collector)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert holds(collector) == {"child": 3, "parent": 10}


def test_a_child_of_an_sdk_that_gives_it_no_instance_is_one_of_its_own_throughout() -> None:
    code = """
        if os.fork() == 0:
            use(3)
            time.sleep(0.5)
            sys.exit()
        os.wait()
    """
    with FakeCollector() as collector:
        done = run(code, collector, OTEL_METRIC_EXPORT_INTERVAL="50")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        children = [one for one in collector.resources() if one["service.instance.id"] != "parent"]
        assert len(children) > 2
        assert len({one["service.instance.id"] for one in children}) == 1


def test_children_of_multiprocessing_tell_before_they_end() -> None:
    code = """
        import multiprocessing
        process = multiprocessing.get_context("fork").Process(target=use, args=(7,))
        process.start()
        process.join()
        assert process.exitcode == 0
    """
    with FakeCollector() as collector:
        done = run(code, collector)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert 7 in holds(collector).values()


def test_a_fork_in_the_middle_of_an_export_hangs_nobody() -> None:
    code = """
        use(10)
        time.sleep(0.3)  # the collector has the parent's first request, and does not answer
        pid = os.fork()
        if pid == 0:
            use(3)
            sys.exit()
        assert os.waitpid(pid, 0)[1] == 0
        print("ok")
    """
    with FakeCollector() as collector:
        collector.gate.clear()
        done = run(code, collector, OTEL_METRIC_EXPORT_INTERVAL="20")
        assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_the_end_of_a_program_waits_no_longer_than_it_may_for_a_collector() -> None:
    with FakeCollector() as collector:
        collector.gate.clear()
        done = run("use(1)", collector)  # with the exporter's own patience it would be 10 s
        assert done.returncode == 0
        assert len(collector.requests) == 1
        assert not collector.gate.is_set()
