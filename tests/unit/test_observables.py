"""
Counters through a MeterProvider of the user's: the same numbers, one measurement a collection, nothing that breaks a reader.
"""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import textwrap
import time
import weakref
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry.metrics import CallbackOptions
from opentelemetry.metrics._internal import _ProxyMeterProvider
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import DropAggregation, View

from tracedthread import _settings, names
from tracedthread.buckets import BOUNDS
from tracedthread.measure import HistogramValue, Measurement
from tracedthread.otel import observables
from tracedthread.otel.observables import Observables, observe

ROOT = Path(__file__).resolve().parents[2]
VALUE = HistogramValue(BOUNDS, (1, 2) + (0,) * (len(BOUNDS) - 1), 0.25)


def point(metric: names.Metric, *attributes: str, value: Any = 1) -> Measurement:
    return Measurement(metric, attributes, value, 1)


POINTS = [
    point(names.WAIT_DURATION, "Cache._lock", "lock", value=VALUE),
    point(names.HOLD_DURATION, "Cache._lock", "lock", value=VALUE),
    point(names.START_DURATION, value=VALUE),
    point(names.ACQUISITIONS, "Cache._lock", "lock", value=12),
    point(names.ACQUISITIONS, "other", "lock", value=5),
    point(names.BLAME_TIME, "Cache._lock", "slow", value=1.5),
    point(names.WAITERS, "Cache._lock", "lock", value=2),
    point(names.THREADS, value=7),
]


class Source:
    """Gives POINTS, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> list[Measurement]:
        self.times += 1
        return POINTS


def collected(reader: InMemoryMetricReader) -> dict[str, dict[tuple[Any, ...], Any]]:
    data = reader.get_metrics_data()
    found: dict[str, dict[tuple[Any, ...], Any]] = {}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                points = found.setdefault(metric.name, {})
                for one in metric.data.data_points:
                    points[tuple(sorted((one.attributes or {}).items()))] = one.value
    return found


LOCK = (("tracedthread.lock.name", "Cache._lock"), ("tracedthread.lock.type", "lock"))


def test_counters_and_what_of_histograms_other_readers_get() -> None:
    reader = InMemoryMetricReader()
    observe(MeterProvider([reader]), Source())
    found = collected(reader)
    assert found["tracedthread.lock.acquisitions"][LOCK] == 12
    assert found["tracedthread.lock.waiter.count"][LOCK] == 2
    assert found["tracedthread.thread.count"] == {(): 7}
    blamed = (("tracedthread.blamed.function", "slow"), ("tracedthread.lock.name", "Cache._lock"))
    assert found["tracedthread.lock.blame.time"] == {blamed: 1.5}
    assert found["tracedthread.lock.wait.time"] == {LOCK: 0.25}
    assert found["tracedthread.lock.hold.time"] == {LOCK: 0.25}
    assert found["tracedthread.lock.holds"] == {LOCK: 3}
    assert found["tracedthread.thread.start.time"] == {(): 0.25}
    assert not any(name.endswith(".duration") for name in found)


def test_units_and_kinds_are_those_of_the_names() -> None:
    reader = InMemoryMetricReader()
    observe(MeterProvider([reader]), Source())
    data = reader.get_metrics_data()
    assert data is not None
    (scope,) = data.resource_metrics[0].scope_metrics
    assert scope.scope.name == names.SCOPE
    assert scope.scope.schema_url == names.SCHEMA_URL
    known = {metric.name: metric for metric in (*names.METRICS, *names.SUMS)}
    for metric in scope.metrics:
        assert (metric.unit, metric.description) == (known[metric.name].unit, known[metric.name].description)
        assert metric.data.is_monotonic == (known[metric.name].kind == "counter")  # type: ignore[union-attr]


def test_one_measurement_serves_a_whole_collection() -> None:
    reader, source = InMemoryMetricReader(), Source()
    observe(MeterProvider([reader]), source)
    for times in (1, 2, 3):
        collected(reader)
        assert source.times == times


def test_every_reader_gets_all() -> None:
    readers, source = [InMemoryMetricReader(), InMemoryMetricReader()], Source()
    observe(MeterProvider(readers), source)
    assert collected(readers[0]) == collected(readers[1])
    assert source.times == 2


def test_what_fails_is_counted_and_breaks_no_reader(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> list[Measurement]:
        raise RuntimeError("broken")

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    provider.get_meter("theirs").create_counter("theirs").add(1)
    observables = observe(provider, broken)
    with caplog.at_level(logging.DEBUG):
        assert collected(reader) == {"theirs": {(): 1}}
    assert observables.failures == 1
    assert caplog.text == ""


def test_stopped_it_says_nothing_and_started_again_it_makes_no_second_instrument(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    observables = observe(provider, Source())
    assert collected(reader)
    observables.stop()
    assert collected(reader) == {}
    with caplog.at_level(logging.DEBUG):
        assert observe(provider, Source()) is observables
        assert collected(reader)["tracedthread.thread.count"] == {(): 7}
    assert caplog.text == ""


def test_a_view_that_drops_instruments_takes_nothing_from_the_others() -> None:
    reader, source = InMemoryMetricReader(), Source()
    view = View(instrument_name="tracedthread.lock.*", aggregation=DropAggregation())
    observe(MeterProvider([reader], views=[view]), source)
    for _ in range(3):
        assert collected(reader) == {"tracedthread.thread.count": {(): 7}, "tracedthread.thread.start.time": {(): 0.25}}
    assert source.times == 3


def test_the_prometheus_reader_of_the_sdk_takes_all() -> None:
    exporter = pytest.importorskip("opentelemetry.exporter.prometheus")
    prometheus_client = pytest.importorskip("prometheus_client")
    provider = MeterProvider([exporter.PrometheusMetricReader()])
    observe(provider, Source())
    text = prometheus_client.generate_latest(prometheus_client.REGISTRY).decode()
    assert "tracedthread_lock_acquisitions_total{" in text
    assert "tracedthread_lock_wait_time_seconds_total{" in text
    provider.shutdown()


def test_a_provider_that_is_gone_is_not_kept() -> None:
    provider = MeterProvider([InMemoryMetricReader()])
    observe(provider, Source())
    provider.shutdown()
    assert isinstance(observe(provider, Source()), Observables)
    reference = weakref.ref(provider)
    del provider
    gc.collect()
    assert reference() is None


def test_started_again_it_tells_the_global_provider_that_was_set_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observables, "_global", [])
    reader = InMemoryMetricReader()
    before, real = _ProxyMeterProvider(), MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(observables, "get_meter_provider", lambda: before)
    observe(before, Source()).stop()
    before.on_set_meter_provider(real)
    monkeypatch.setattr(observables, "get_meter_provider", lambda: real)
    assert not collected(reader)
    observe(real, Source())
    assert collected(reader)[names.WAITERS.name]
    real.shutdown()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_that_is_forked_during_a_collection_tells_nothing_of_its_parents() -> None:
    parent = os.getpid()

    def measure() -> list[Measurement]:
        return [point(metric, value=int(os.getpid() == parent)) for metric in (names.STARTS, names.THREADS)]

    provider = MeterProvider(shutdown_on_exit=False)
    told = observe(provider, measure)
    options = CallbackOptions()
    assert [one.value for one in told._observe(names.STARTS, options)] == [1]
    if os.fork() == 0:
        os._exit(sum(int(one.value) for one in told._observe(names.THREADS, options)))
    assert os.wait()[1] == 0
    assert [one.value for one in told._observe(names.THREADS, options)] == [1]
    provider.shutdown()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("is_set_later", [False, True])
def test_what_a_childs_readers_are_told_begins_in_the_child(
    is_set_later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observables, "_global", [])
    parent = os.getpid()
    numbers = [1000, 10, 15]

    def measure() -> list[Measurement]:
        value = numbers[0] if os.getpid() == parent else numbers[1]
        return [
            point(names.ACQUISITIONS, "Cache._lock", "lock", value=value),
            *([point(names.ACQUISITIONS, "parent's", "lock")] if os.getpid() == parent else []),
        ]

    delta = {ObservableCounter: AggregationTemporality.DELTA}
    readers = [InMemoryMetricReader(preferred_temporality=delta), InMemoryMetricReader()]
    view = View(instrument_name="theirs", attribute_keys={"a"})
    provider: Any = MeterProvider([*readers, InMemoryMetricReader()], views=[view], shutdown_on_exit=False)
    theirs = provider.get_meter("theirs").create_counter("theirs")
    theirs.add(5)
    if is_set_later:
        before = _ProxyMeterProvider()
        observe(before, measure)
        before.on_set_meter_provider(provider)
    else:
        observe(provider, measure)
    name = names.ACQUISITIONS.name
    assert [collected(reader)[name][LOCK] for reader in readers] == [1000, 1000]
    if os.fork() == 0:
        status = 1
        try:
            began = time.time_ns()
            found = [collected(reader) for reader in readers]
            assert [one[name] for one in found] == [{LOCK: 10}] * 2
            assert "theirs" in found[1]  # what is not ours is left as it is
            numbers[1] = 15
            assert collected(readers[0])[name] == {LOCK: 5}
            data = readers[1].get_metrics_data()
            assert data is not None
            (told,) = [
                one
                for scope in data.resource_metrics[0].scope_metrics
                for metric in scope.metrics
                if metric.name == name
                for one in metric.data.data_points
            ]
            assert (told.value, told.start_time_unix_nano >= began) == (15, True)
            status = 0
        finally:
            os._exit(status)
    assert os.wait()[1] == 0
    numbers[0] = 1001
    assert collected(readers[0])[name][LOCK] == 1
    provider.shutdown()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_says_nothing_by_an_sdk_that_would_subtract_its_parents_numbers(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_settings, "_said", set())
    reader = InMemoryMetricReader()
    provider: Any = MeterProvider([reader], shutdown_on_exit=False)
    told = observe(provider, Source())
    assert collected(reader)
    if os.fork() == 0:
        (storage,) = provider._measurement_consumer._reader_storages.values()
        matches = storage._instrument_view_instrument_matches
        for one in matches:
            matches[one] = [object()]  # an SDK that is made in another way
        observed = list(told._observe(names.THREADS, CallbackOptions()))
        os._exit(0 if not observed and told.failures == 1 else 1)
    assert os.wait()[1] == 0
    assert capfd.readouterr().err.count("\n") == 1
    provider.shutdown()


def test_a_child_says_nothing_by_wrapped_instruments_whose_sdk_would_subtract(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_settings, "_said", set())
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)

    class Wrapper:
        def __init__(self, wrapped: Any) -> None:
            self._wrapped = wrapped

        def __getattr__(self, name: str) -> Any:
            if name == "_measurement_consumer":
                raise AttributeError(name)
            made = getattr(self._wrapped, name)
            return (lambda *args, **kwargs: Wrapper(made(*args, **kwargs))) if callable(made) else made

    told = observe(cast("Any", Wrapper(provider)), Source())
    assert collected(reader)
    if os.fork() == 0:
        observed = list(told._observe(names.THREADS, CallbackOptions()))
        os._exit(0 if not observed and told.failures == 1 else 1)
    assert os.wait()[1] == 0
    assert "no counters of forked children" in capfd.readouterr().err
    provider.shutdown()


def test_started_again_no_counter_goes_backwards() -> None:
    program = """
    import threading, tracedthread
    assert tracedthread.patch()
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from tracedthread.otel import setup
    from tracedthread.otel.options import Options
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    one = threading.Lock()
    other = threading.Lock()
    def start():
        assert setup.start(meter_provider=provider, options=Options(metrics_top=1, otlp_histograms=False))
    def told():
        points = [
            (metric.name, tuple(point.attributes.items()), point.value)
            for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics for metric in scope.metrics
            if metric.data.is_monotonic for point in metric.data.data_points
        ]
        return {(name, attributes): value for name, attributes, value in points}
    def wait_for(lock, seconds):
        with lock:
            thread = threading.Thread(target=lock.acquire, kwargs={"timeout": seconds})
            thread.start()
            thread.join()
    start()
    wait_for(one, 0.01)
    told()
    for _ in range(1000):
        with other: pass
    before = told()
    wait_for(other, 0.5)  # now it is the one that is shown
    setup.stop()
    start()
    after = told()
    assert len(after) > len(before)
    assert not {series: (value, after.get(series)) for series, value in before.items() if after.get(series, 0) < value}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
