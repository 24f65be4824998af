"""
Metrics for Prometheus: a collector for `prometheus_client`, and an endpoint that needs nothing of the program.

    tracedthread run --prometheus-listen 9464 app.py
    curl localhost:9464/metrics              # all processes of a prefork server together
    curl localhost:9464/metrics?workers=1    # each by itself, with the label `worker`

Names are those that Prometheus makes of the same metrics when they come by OTLP, so that one dashboard serves both
ways. Exemplars are there for those who ask for OpenMetrics.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Exemplar as PrometheusExemplar

from tracedthread import _core, _settings, names
from tracedthread.endpoint import Server, bind
from tracedthread.exemplars import Exemplars
from tracedthread.measure import HistogramValue, Measurement
from tracedthread.workers import Workers

__all__ = ["Collector", "listen"]

WORKER_LABEL = "worker"
_ALL = (*names.METRICS, names.WORKERS)
_FAMILIES: dict[str, Any] = {
    "histogram": HistogramMetricFamily,
    "counter": CounterMetricFamily,
    "updown": GaugeMetricFamily,
}


def family_name(metric: names.Metric) -> str:
    """
    What Prometheus calls a metric, without `_total`.

    Source: UnderscoreEscapingWithSuffixes of https://github.com/prometheus/otlptranslator
    """
    return metric.name.replace(".", "_") + ("_seconds" if metric.unit == "s" else "")


class Collector:
    """
    A custom collector for a `prometheus_client` registry: `REGISTRY.register(Collector(measure))`.

    Args:
        measure: Gives all points.
        exemplars: For the buckets; shown in OpenMetrics only.
    """

    def __init__(self, measure: Callable[[], list[Measurement]], exemplars: Exemplars | None = None) -> None:
        self._measure, self._exemplars = measure, exemplars

    def describe(self) -> Iterable[Metric]:
        """The families without values, so that registering measures nothing."""
        return [_family(metric, ()) for metric in _ALL]

    def collect(self) -> Iterator[Metric]:
        """The families."""
        return _families([("", self._measure())], self._exemplars)


class _ByWorker:
    """The same with a label that says which process it is of."""

    def __init__(self, workers: Workers, exemplars: Exemplars | None) -> None:
        self._workers, self._exemplars = workers, exemplars

    def collect(self) -> Iterator[Metric]:
        return _families(self._workers.measure_each(), self._exemplars)


def _family(metric: names.Metric, labels: tuple[str, ...]) -> Any:
    label_names = [name.replace(".", "_") for name in metric.attributes]
    return _FAMILIES[metric.kind](
        family_name(metric),
        metric.description,
        labels=[*labels, *label_names],
        unit="seconds" if metric.unit == "s" else "",
    )


def _families(groups: list[tuple[str, list[Measurement]]], exemplars: Exemplars | None) -> Iterator[Metric]:
    found: dict[names.Metric, Any] = {}
    own = str(os.getpid())
    for worker, points in groups:
        labels = (WORKER_LABEL,) if worker else ()
        for point in points:
            family = found.get(point.metric)
            if family is None:
                family = found[point.metric] = _family(point.metric, labels)
            values = [worker, *point.attributes] if worker else list(point.attributes)
            if isinstance(point.value, HistogramValue):
                # Exemplars are kept of the process's own waits only.
                known = exemplars if worker in ("", own) else None
                family.add_metric(values, _buckets(point, point.value, known), point.value.sum_s)
            else:
                family.add_metric(values, point.value)
    return iter(found.values())


def _buckets(point: Measurement, value: HistogramValue, exemplars: Exemplars | None) -> list[Any]:
    result: list[Any] = []
    reached, low = 0, 0.0
    for bound, count in zip((*value.bounds, float("inf")), value.counts):
        reached += count
        le = "+Inf" if bound == float("inf") else repr(bound)
        one = exemplars.within(point.metric.name, point.attributes, low, bound) if exemplars and count else None
        if one is None:
            result.append((le, reached))
        else:
            ids = {"trace_id": f"{one.trace_id:032x}", "span_id": f"{one.span_id:016x}"}
            mark = PrometheusExemplar(ids, one.value_s, one.time_ns / 1e9)
            result.append((le, reached, mark))
        low = bound
    return result


def listen(
    address: str,
    workers: Workers | None = None,
    *,
    exemplars: Exemplars | None = None,
    dropped: Callable[[], Mapping[str, int]] | None = None,
) -> Server | None:
    """
    Serve the metrics of this process and its descendants from now on.

    Args:
        address: `ADDR:PORT`, `:PORT` or `PORT`; without an address it is loopback's.
        workers: Default: made here.
        dropped: What telemetry had to drop, by section; for those made here.
    Returns:
        The server; None if there can be none, which one line says. The program goes on.
    """
    try:
        with ExitStack() as undo:
            listener = undo.enter_context(bind(address))
            if workers is None:
                workers = Workers(_core.load(), top=_settings.metrics_top(), dropped=dropped)
                undo.callback(workers.close)
            server = Server(listener, partial(_answer, workers, exemplars), workers)
            undo.pop_all()
            return server
    except (OSError, ValueError, RuntimeError, _core.Unavailable) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        _settings.say(f"no metrics at {address}: {reason}")
        return None


def _answer(workers: Workers, exemplars: Exemplars | None, query: str, accept: str) -> tuple[str, bytes]:
    """Content type and body for a request."""
    by_worker = parse_qs(query).get("workers", ["0"])[-1] not in ("0", "")
    collector: Any = _ByWorker(workers, exemplars) if by_worker else Collector(workers.measure, exemplars)
    encode, content_type = choose_encoder(accept)
    return content_type, encode(collector)
