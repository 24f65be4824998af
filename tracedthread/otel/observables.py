"""
Counters through the user's MeterProvider: observable instruments, read when its readers collect.

A reader asks on a thread of its own, under locks of the SDK. So what is asked here takes no lock of the SDK, makes no
instrument, never waits long and never raises. There is no observable histogram, and none is made: other readers get the
sums and counts of ours as counters (`names.SUMS`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from tracedthread import __version__, names
from tracedthread.measure import HistogramValue, Measurement
from tracedthread.names import Metric

__all__ = ["Observables", "observe"]

Measure = Callable[[], "list[Measurement]"]

#: What of a histogram other readers get: its sum, and its count where no counter says that already.
_SUMS = {names.WAIT_DURATION: names.WAIT_TIME, names.HOLD_DURATION: names.HOLD_TIME}
_SUMS[names.START_DURATION] = names.START_TIME
_COUNTS = {names.HOLD_DURATION: names.HOLDS}
_OBSERVED = (*(metric for metric in names.METRICS if metric.kind != "histogram"), *names.SUMS)


class Observables:
    """
    The instruments of one provider. An instrument cannot be taken back, so they are made once and switched on and off.

    Args:
        failures: Collections in which nothing could be said.
    """

    def __init__(self, provider: MeterProvider) -> None:
        self.failures = 0
        self._measure: Measure | None = None
        self._observations: dict[Metric, list[Observation]] = {}
        self._asked: set[Metric] = set(_OBSERVED)
        meter = provider.get_meter(names.SCOPE, __version__, names.SCHEMA_URL)
        for metric in _OBSERVED:
            make: Any = (
                meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_up_down_counter
            )
            make(metric.name, [partial(self._observe, metric)], metric.unit, metric.description)

    def start(self, measure: Measure) -> None:
        """Tell what `measure` says from now on."""
        self._measure = measure
        self._asked = set(_OBSERVED)

    def stop(self) -> None:
        """Tell nothing any more."""
        self._measure = None
        self._observations = {}

    def _observe(self, metric: Metric, _: CallbackOptions) -> Iterable[Observation]:
        measure = self._measure
        if measure is None:
            return ()
        # A collection asks for every instrument once, so one that is asked a second time is asked by the next one.
        if metric in self._asked:
            self._asked = set()
            try:
                self._observations = _sorted_by_metric(measure())
            except Exception:
                self.failures += 1
                self._observations = {}
        self._asked.add(metric)
        return self._observations.get(metric, ())


_known: weakref.WeakKeyDictionary[MeterProvider, Observables] = weakref.WeakKeyDictionary()


def observe(provider: MeterProvider, measure: Measure) -> Observables:
    """The provider's instruments, made if need be, telling what `measure` says."""
    observables = _known.get(provider)
    if observables is None:
        observables = _known[provider] = Observables(provider)
    observables.start(measure)
    return observables


def _sorted_by_metric(points: Iterable[Measurement]) -> dict[Metric, list[Observation]]:
    result: dict[Metric, list[Observation]] = {}

    def add(metric: Metric, point: Measurement, value: float) -> None:
        result.setdefault(metric, []).append(Observation(value, dict(zip(metric.attributes, point.attributes))))

    for point in points:
        value = point.value
        if not isinstance(value, HistogramValue):
            add(point.metric, point, value)
            continue
        if (metric := _SUMS.get(point.metric)) is not None:
            add(metric, point, value.sum_s)
        if (metric := _COUNTS.get(point.metric)) is not None:
            add(metric, point, value.total)
    return result
