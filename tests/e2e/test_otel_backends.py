"""
A service under load, told to real back ends: one number in the capture, in the collector and in the stores.

The service runs once. Its waits go to the collector as spans and metrics, the metrics from there to VictoriaMetrics;
Prometheus reads them, and their exemplars, from the service.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from backends import Collector, Prometheus, Store, VictoriaMetrics, free_ports, wait_for
from clean_environment import clean_environment
from sink import Point, Span

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
SERVICE = Path(__file__).with_name("otel_service.py")
REQUESTS = 150  # a thread
LOCK = "PriceCache._lock"
SELECTED = f'{{tracedthread_lock_name="{LOCK}"}}'
RUN_S = 120
MANY = 100  # so that equal is no accident


class Told(NamedTuple):
    """What became of one run."""

    capture: dict[str, Any]  # the lock, as the report on the capture has it
    collector: Collector
    store: VictoriaMetrics
    prometheus: Prometheus

    def points(self, metric: str) -> list[Point]:
        """The last ones of the lock that the collector gave on."""
        newest = self.collector.sink.latest(metric).values()
        return [point for point in newest if point.attributes["tracedthread.lock.name"] == LOCK]


@pytest.fixture(scope="module")
def told(
    collector: Collector, store: VictoriaMetrics, prometheus: Prometheus, tmp_path_factory: pytest.TempPathFactory
) -> Told:
    folder = tmp_path_factory.mktemp("service")
    (port,) = free_ports(1)
    prometheus.scrape(f"127.0.0.1:{port}")
    env = clean_environment(ROOT) | {
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }
    command = [sys.executable, "-m", "tracedthread", "run", "-q", "-o", "service.ttc", "--otlp"]
    command += ["--otlp-endpoint", collector.endpoint, f"--prometheus-listen=127.0.0.1:{port}"]
    with subprocess.Popen(
        [*command, str(SERVICE), str(REQUESTS)],
        cwd=folder,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        assert service.stdin is not None and service.stdout is not None and service.stderr is not None
        try:
            served = service.stdout.readline()
            assert served.startswith("served "), service.stderr.read()
            lock = _lock(folder / "service.ttc", env)
            series = f"tracedthread_lock_acquisitions_total{SELECTED}"
            _wait_for_value(store, series, lock["acquisitions"])
            _wait_for_value(prometheus, series, lock["acquisitions"])
            service.stdin.close()
            assert service.wait(RUN_S) == 0
            assert service.stderr.read() == ""
        finally:
            service.kill()
    return Told(_lock(folder / "service.ttc", env), collector, store, prometheus)


def _lock(capture: Path, env: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "tracedthread", "report", str(capture), "--format", "json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=RUN_S, check=True)
    (lock,) = [lock for lock in json.loads(done.stdout)["locks"] if lock["name"] == LOCK]
    return dict(lock)


def _wait_for_value(base: Store, series: str, value: int) -> None:
    wait_for(f"{value} of {series} in {type(base).__name__}", lambda: _value(base.latest(series)) == value)


def _value(series: list[tuple[dict[str, str], float]]) -> float:
    return sum(value for _, value in series)


@pytest.mark.parametrize(
    ("metric", "key"),
    [
        ("tracedthread.lock.acquisitions", "acquisitions"),
        ("tracedthread.lock.contentions", "contended"),
        ("tracedthread.lock.timeouts", "timeouts"),
    ],
)
def test_counts_are_the_same_everywhere(told: Told, metric: str, key: str) -> None:
    series = f"{metric.replace('.', '_')}_total{SELECTED}"
    assert sum(point.value for point in told.points(metric)) == told.capture[key]
    assert _value(told.store.latest(series)) == told.capture[key]
    assert _value(told.prometheus.latest(series)) == told.capture[key]


@pytest.mark.parametrize(
    ("metric", "count", "seconds"),
    [
        ("tracedthread.lock.wait.duration", "contended", "wait_s"),
        ("tracedthread.lock.hold.duration", "acquisitions", "hold_s"),
    ],
)
def test_histograms_are_the_same_everywhere(told: Told, metric: str, count: str, seconds: str) -> None:
    (point,) = told.points(metric)
    assert point.samples == sum(point.buckets) == told.capture[count] > MANY
    assert point.value == pytest.approx(told.capture[seconds], rel=1e-4)
    name = metric.replace(".", "_") + "_seconds"
    reached = [sum(point.buckets[: index + 1]) for index in range(len(point.buckets))]
    for base in (told.store, told.prometheus):
        assert _value(base.latest(f"{name}_count{SELECTED}")) == point.samples
        assert _value(base.latest(f"{name}_sum{SELECTED}")) == pytest.approx(point.value, rel=1e-4)
        series = base.latest(f"{name}_bucket{SELECTED}")
        found = sorted((float(labels["le"]), value) for labels, value in series)
        assert [bound for bound, _ in found] == pytest.approx([*point.bounds, float("inf")])
        assert [value for _, value in found] == reached


def _spans(told: Told) -> dict[tuple[str, str], Span]:
    return {(span.trace, span.id): span for span in told.collector.sink.spans()}


def test_every_exemplar_leads_to_an_existing_span(told: Told) -> None:
    spans = _spans(told)
    pushed = [one for point in told.collector.sink.points("tracedthread.lock.wait.duration") for one in point.exemplars]
    kept = told.prometheus.exemplars("tracedthread_lock_wait_duration_seconds_bucket")
    read = [(value, labels["trace_id"], labels["span_id"]) for value, labels in kept]
    assert pushed and read
    for value, trace, span in [*pushed, *read]:
        assert spans[trace, span].name == "lock.wait"
        assert spans[trace, span].seconds == pytest.approx(value, rel=0.01)


def test_a_wait_is_a_child_of_the_request_that_waited(told: Told) -> None:
    spans = _spans(told)
    waits = [span for span in spans.values() if span.name == "lock.wait"]
    assert waits
    for wait in waits:
        request = spans[wait.trace, wait.parent]
        assert request.scope == "service" and wait.service == request.service == "shop"
        assert request.start_ns <= wait.start_ns < wait.end_ns <= request.end_ns


def test_the_holders_link_of_a_long_wait_resolves(told: Told) -> None:
    spans = _spans(told)
    waits = [span for span in spans.values() if span.name == "lock.wait" and span.seconds > 0.01]
    assert len(waits) > MANY
    holders = [spans[wait.holder] for wait in waits if wait.holder in spans]
    print(f"{len(holders)} of {len(waits)} links resolve")
    assert len(holders) >= 0.99 * len(waits)
    assert {holder.name for holder in holders} <= {"refresh", "look_up"}
    assert sum(holder.name == "refresh" for holder in holders) > 0.5 * len(holders)
