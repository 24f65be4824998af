"""
Counters through the user's MeterProvider: observable instruments, read when its readers collect.

A reader asks on a thread of its own, under locks of the SDK. So what is asked here takes no lock of the SDK, makes no
instrument, never waits long and never raises. There is no observable histogram, and none is made: other readers get the
sums and counts of ours as counters (`names.SUMS`).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from tracedthread import __version__, _settings, names
from tracedthread.measure import HistogramValue, Measurement
from tracedthread.names import Metric

__all__ = ["Observables", "observe"]

Measure = Callable[[], "list[Measurement]"]

#: What of a histogram other readers get: its sum, and its count where no counter says that already.
_SUMS = {names.WAIT_DURATION: names.WAIT_TIME, names.HOLD_DURATION: names.HOLD_TIME}
_SUMS |= {names.START_DURATION: names.START_TIME, names.POOL_QUEUE_DURATION: names.POOL_QUEUE_TIME}
_COUNTS = {names.HOLD_DURATION: names.HOLDS, names.POOL_QUEUE_DURATION: names.POOL_TASKS}
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
        self._pid, self._is_mute = os.getpid(), False
        self._asked: set[Metric] = set(_OBSERVED)
        self._instruments: list[weakref.ref[Any]] = []  # they lead to the provider, which is not to be kept
        meter = provider.get_meter(names.SCOPE, __version__, names.SCHEMA_URL)
        for metric in _OBSERVED:
            make: Any = (
                meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_up_down_counter
            )
            made = make(metric.name, [partial(self._observe, metric)], metric.unit, metric.description)
            with suppress(TypeError):  # somebody else's, that there can be no reference to
                self._instruments.append(weakref.ref(made))

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
        if self._pid != os.getpid():
            self._is_mute = not self._begin_anew()
            self._asked, self._pid = set(_OBSERVED), os.getpid()  # what there is was found by the parent
        if self._is_mute:
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

    def _begin_anew(self) -> bool:
        """
        In a forked child: let the SDK forget what its readers were told by the parent.

        Else it would subtract that from what the child counts, which begins at zero, and exported deltas would be
        negative. Whoever asks for our instruments does so under one lock of their provider, and nobody else uses what
        is cleared here.

        Returns:
            Whether it has. If the SDK is made in another way, this child says nothing through it.
        """
        is_found = False
        try:
            for reference in self._instruments:
                proxy = reference()
                instrument = getattr(proxy, "_real_instrument", proxy)
                consumer = getattr(instrument, "_measurement_consumer", None)
                if consumer is None:
                    continue
                is_found = True
                for storage in consumer._reader_storages.values():
                    for match in storage._instrument_view_instrument_matches.get(instrument, ()):
                        match._attributes_aggregation.clear()
            if not is_found:  # they are wrapped, or somebody else's, and yet we are asked
                raise LookupError("its instruments are made in another way")
        except Exception as exc:
            self.failures += 1
            _settings.say(f"no counters of forked children through this release of OpenTelemetry: {exc}")
            return False
        return True


_known: weakref.WeakKeyDictionary[MeterProvider, Observables] = weakref.WeakKeyDictionary()
_global: list[Observables] = []  # those of the global provider, once they are made


def observe(provider: MeterProvider, measure: Measure) -> Observables:
    """The provider's instruments, made if need be, telling what `measure` says."""
    observables = _known.get(provider)
    if observables is None:
        is_global = provider is get_meter_provider()
        # There is one, but before it is set it is another object. Its instruments are those that were made then: the
        # SDK would give us these again, and never call what we give it now.
        observables = _known[provider] = _global[0] if is_global and _global else Observables(provider)
        if is_global and not _global:
            _global.append(observables)
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
