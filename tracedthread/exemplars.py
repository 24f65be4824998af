"""
Exemplars: which single slow wait stands for a bucket of a histogram, and in which trace it is found.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from tracedthread.buckets import BOUNDS

__all__ = ["Exemplar", "Exemplars"]


class Exemplar(NamedTuple):
    """
    One measured value.

    Args:
        trace_id, span_id: Of the span that tells of it, as OpenTelemetry's integers.
        time_ns: When it was measured, unix time.
    """

    value_s: float
    trace_id: int
    span_id: int
    time_ns: int


class Exemplars:
    """
    The newest exemplar of each bucket of each series.

    One thread adds, any may read.

    Args:
        max_series: When there are more, the one that was added first goes.
    """

    def __init__(self, max_series: int = 256) -> None:
        self._max_series = max_series
        self._series: dict[tuple[str, tuple[str, ...]], dict[int, Exemplar]] = {}

    def add(self, metric: str, attributes: tuple[str, ...], exemplar: Exemplar) -> None:
        """
        Keep an exemplar in the place of the one before.

        Args:
            metric: Its name.
            attributes: The values of its attributes, in the order of `names.Metric.attributes`.
        """
        buckets = self._series.get((metric, attributes))
        if buckets is None:
            while len(self._series) >= self._max_series:
                del self._series[next(iter(self._series))]
            buckets = self._series[metric, attributes] = {}
        buckets[bisect_left(BOUNDS, exemplar.value_s)] = exemplar

    def within(self, metric: str, attributes: tuple[str, ...], low_s: float, high_s: float) -> Exemplar | None:
        """The newest one of a bucket that begins above `low_s` and ends with `high_s`."""
        buckets = self._series.get((metric, attributes))
        if buckets is None:
            return None
        found = [one for one in tuple(buckets.values()) if low_s < one.value_s <= high_s]
        return max(found, key=lambda one: one.time_ns, default=None)

    def clear(self) -> None:
        """Forget all."""
        self._series = {}
