"""
The native histograms by OTLP, count by count: the SDK has no way in for a histogram that is already one.

So they are exported beside the MeterProvider, with its resource, by an exporter of our own on a thread of our own,
started and put to sleep by the interpreter's own primitives. A collector that is slow or down keeps up nobody else:
nothing is queued, for the next export says it all again. A forked child exports its own, as another instance.
"""

from __future__ import annotations

import atexit
import os
import time
import uuid
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from opentelemetry import context
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.resources import PROCESS_PID, SERVICE_INSTANCE_ID, Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from tracedthread import __version__, _settings, _unsignalled, names
from tracedthread._endings import at_end_of_child
from tracedthread._gate import Gate
from tracedthread._original import originals
from tracedthread.exemplars import Exemplar, Exemplars
from tracedthread.measure import HistogramValue, Measurement

from .hush import hush, watch

if TYPE_CHECKING:
    from tracedthread.names import Metric

try:
    from opentelemetry.sdk.metrics import Exemplar as SdkExemplar
except ImportError:  # before 1.28
    SdkExemplar = None  # type: ignore[assignment,misc]

__all__ = ["HistogramExporter", "Told", "interval_s", "load_exporter", "make_exporter", "prefers_delta", "told_of"]

DEFAULT_INTERVAL_S = 60.0
EXIT_TIMEOUT_S = 2.0
GUARD_S = 1.0

Series = tuple["Metric", tuple[str, ...]]


def interval_s() -> float:
    """Seconds between two exports, as OTEL_METRIC_EXPORT_INTERVAL says."""
    text = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "").strip()
    try:
        milliseconds = float(text or DEFAULT_INTERVAL_S * 1000)
    except ValueError:
        milliseconds = 0.0
    if not 0 < milliseconds < _settings.MAX_SECONDS:
        _settings.say(f"OTEL_METRIC_EXPORT_INTERVAL: {text!r} is not a number of milliseconds; using the default")
        return DEFAULT_INTERVAL_S
    return milliseconds / 1000


def prefers_delta() -> bool:
    """Whether OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE wants of histograms what is new rather than all."""
    preference = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "").strip().lower()
    return preference in ("delta", "lowmemory")


def make_exporter() -> sdk.MetricExporter:
    """
    The exporter that OTEL_EXPORTER_OTLP_* describe.

    Raises:
        ImportError: The extra `otlp` is not installed.
    """
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter()


def load_exporter() -> None:
    """
    Import what `make_exporter` needs, and what it imports only when it is made or used.

    Raises:
        ImportError: The extra `otlp` is not installed.
    """
    import netrc  # noqa: F401  by requests

    import opentelemetry.exporter.otlp.proto.http.metric_exporter  # noqa: F401  makes its logger

    "localhost".encode("idna")
    if any(name.endswith("_CREDENTIAL_PROVIDER") for name in os.environ):  # that would be asked, and its session closed
        import requests  # noqa: F401
    else:
        watch()
        with hush():  # the one that is used says it all again
            make_exporter().shutdown()


class Told:
    """
    What of this process's histograms has arrived, whoever exports them: after a stop and start deltas go on there.

    Attributes:
        guard: Held during an export, for there can be an earlier exporter that was left behind with one.
        values: Of each series.
        exemplars: Likewise, by bucket.
        until_ns: When that was, unix time.
    """

    def __init__(self) -> None:
        self._pid = 0
        self.begin()

    def begin(self) -> None:
        """Forget what was told of another process: of a parent."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self.guard = originals.allocate_lock()
        self.values: dict[Series, HistogramValue] = {}
        self.exemplars: dict[Series, tuple[Exemplar | None, ...]] = {}
        self.until_ns = 0


_told: weakref.WeakKeyDictionary[object, Told] = weakref.WeakKeyDictionary()


def told_of(source: object) -> Told:
    """What has been told of this source of measurements; always the same one."""
    return _told.setdefault(source, Told())


class HistogramExporter:
    """
    Exports the histograms again and again, until it is closed.

    Args:
        measure: Gives all points; what is no histogram is passed over.
        resource: Who this process is, asked before each export. The provider's own, so that all metrics of a process
            join up.
        exporter: Makes an exporter, in a forked child another one.
        interval: Seconds between two exports.
        told: What earlier exporters of the same have told. Default: nothing.

    Attributes:
        exports, failures: How many there were, and how many of them did not arrive.
        is_failing: The last one did not.
    """

    def __init__(
        self,
        measure: Callable[[], list[Measurement]],
        *,
        resource: Callable[[], Resource],
        exporter: Callable[[], sdk.MetricExporter] = make_exporter,
        exemplars: Exemplars | None = None,
        interval: float | None = None,
        told: Told | None = None,
    ) -> None:
        self._measure, self._resource, self._make, self._exemplars = measure, resource, exporter, exemplars
        self._interval = interval_s() if interval is None else interval
        self._told = Told() if told is None else told
        self._origin: tuple[int, Any] = os.getpid(), None  # the process it was made in, and which instance that is
        self._reset()

    def _reset(self) -> None:
        self.exports = self.failures = 0
        self.is_failing = self._has_said = False
        self._stop, self._done = Gate(), Gate()
        self._is_running = False
        self._own_instance = str(uuid.uuid4())  # where the SDK gives a child none

    def start(self) -> bool:
        """
        Export from now on. Returns whether it does: where there is no exporter, or no thread, one line says so.

        What has to be imported is, here and now: at exit it would be too late.
        """
        if self._is_running:
            return True
        try:
            self._own_resource()
            exporter = self._make()
        except Exception as exc:
            _settings.say(f"no histograms by OTLP: {exc}")
            return False
        watch()
        _live.add(self)
        atexit.register(self.close)
        return self._launch(exporter)

    def close(self, timeout_s: float = EXIT_TIMEOUT_S) -> bool:
        """Export for the last time. Returns whether that was over in time; if not, it is left behind."""
        _live.discard(self)
        atexit.unregister(self.close)
        if not self._is_running:
            return True
        self._stop.open()
        self._is_running = not self._done.wait(timeout_s)
        return not self._is_running

    def leave(self) -> None:
        """Let it export for the last time, without waiting for that."""
        _live.discard(self)
        atexit.unregister(self.close)
        with suppress(RuntimeError):  # somebody else does so at this moment
            self._stop.open()

    def _launch(self, exporter: sdk.MetricExporter | None = None) -> bool:
        self._told.begin()
        try:
            _unsignalled.start(self._run, exporter, self._stop, self._done)
        except Exception:  # at exit, or at a limit of the system
            self.failures += 1
            return False
        self._is_running = True
        return True

    def _run(self, exporter: sdk.MetricExporter | None, stop: Gate, done: Gate) -> None:
        try:
            # No spans of other instrumentations about our requests.
            context.attach(context.set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True))
            exporter = exporter or self._make()
            while not stop.wait(self._interval):
                self._export(exporter, self._own_resource())
            self._export(exporter, self._own_resource())
        except Exception as exc:  # not of an export: the collector may be well
            self.failures += 1
            _settings.say(f"no histograms by OTLP: {exc}")
        finally:
            done.open()
        if exporter is not None:
            with hush(), suppress(Exception):
                exporter.shutdown()

    def _own_resource(self) -> Resource:
        """The provider's, unless it is still that of a parent: newer SDKs give theirs another one, after our fork."""
        resource = self._resource()
        pid, instance = self._origin
        if pid == os.getpid():
            self._origin = pid, self._instance_of(resource)
            return resource
        own: dict[str, Any] = {}
        if self._instance_of(resource) in (None, instance):
            own[SERVICE_INSTANCE_ID] = self._own_instance
        if PROCESS_PID in resource.attributes:
            own[PROCESS_PID] = os.getpid()
        return resource.merge(Resource(own))

    @staticmethod
    def _instance_of(resource: Resource) -> Any:
        return resource.attributes.get(SERVICE_INSTANCE_ID) or None

    def _export(self, exporter: sdk.MetricExporter, resource: Resource) -> None:
        guard = self._told.guard
        if not guard.acquire(True, GUARD_S):
            self.failures += 1
            _settings.say("histograms wait for an export by OTLP that does not end, of before a stop and start")
            return
        try:
            failure = self._export_guarded(exporter, resource)
        finally:
            guard.release()
        if failure is None:
            return
        self.is_failing = bool(failure)
        if failure:
            self.failures += 1
            if not self._has_said:
                self._has_said = True
                self._say_failure(failure)

    def _export_guarded(self, exporter: sdk.MetricExporter, resource: Resource) -> str | None:
        """Why it has not arrived; empty if it has; None if there is nothing to export."""
        told = self._told
        values: dict[Series, HistogramValue] = {}
        exemplars: dict[Series, tuple[Exemplar | None, ...]] = {}
        with hush():
            now = time.time_ns()
            try:
                data = self._data(resource, now, values, exemplars)
                if data is None:
                    return None
                self.exports += 1
                if exporter.export(data) is not sdk.MetricExportResult.SUCCESS:
                    return "it does not take them"
            except Exception as exc:
                return type(exc).__name__
            told.values, told.exemplars, told.until_ns = values, exemplars, now
        return ""

    def _say_failure(self, reason: str) -> None:
        _settings.say(f"histograms cannot be delivered by OTLP ({reason}); going on without them")

    def _data(
        self,
        resource: Resource,
        now: int,
        values: dict[Series, HistogramValue],
        exemplars: dict[Series, tuple[Exemplar | None, ...]],
    ) -> sdk.MetricsData | None:
        """What to export; None if there is nothing. `values` and `exemplars` are filled with what that makes known."""
        told = self._told
        delta = prefers_delta()
        temporality = sdk.AggregationTemporality.DELTA if delta else sdk.AggregationTemporality.CUMULATIVE
        points: dict[Metric, list[sdk.HistogramDataPoint]] = {}
        for point in self._measure():
            value = point.value
            if not isinstance(value, HistogramValue) or not value.total:
                continue
            series = point.metric, point.attributes
            values[series] = value
            exemplars[series] = told.exemplars.get(series, ())
            start = point.start_ns
            if delta and series in told.values:
                value, start = _since(value, told.values[series]), max(start, told.until_ns)
            if not value.total:
                continue
            more: dict[str, Any] = {}
            if SdkExemplar is not None and self._exemplars is not None:
                found = _exemplars_of(self._exemplars, series, value)
                before = told.exemplars.get(series) or (None,) * len(found)
                # Older ones are of what has been counted in another interval, or under another name.
                news = [one for one in found if one is not None and one not in before and one.time_ns >= start]
                exemplars[series] = tuple(new or old for new, old in zip(found, before))
                more["exemplars"] = [
                    SdkExemplar({}, one.value_s, one.time_ns, one.span_id, one.trace_id) for one in news
                ]
            points.setdefault(point.metric, []).append(
                sdk.HistogramDataPoint(
                    attributes=point.labels,
                    start_time_unix_nano=start,
                    time_unix_nano=now,
                    count=value.total,
                    sum=value.sum_s,
                    bucket_counts=value.counts,
                    explicit_bounds=value.bounds,
                    min=None,  # type: ignore[arg-type]  # not known since then
                    max=None,  # type: ignore[arg-type]
                    **more,
                )
            )
        if not points:
            return None
        metrics = [
            sdk.Metric(metric.name, metric.description, metric.unit, sdk.Histogram(data_points, temporality))
            for metric, data_points in points.items()
        ]
        scope = InstrumentationScope(names.SCOPE, __version__, names.SCHEMA_URL)
        scoped = sdk.ScopeMetrics(scope=scope, metrics=metrics, schema_url=names.SCHEMA_URL)
        return sdk.MetricsData([sdk.ResourceMetrics(resource, [scoped], resource.schema_url)])

    def _after_fork(self) -> None:
        was_running = self._is_running and not self._stop.is_open
        self._reset()
        if was_running:
            self._launch()


def _since(value: HistogramValue, before: HistogramValue) -> HistogramValue:
    counts = tuple(max(0, now - then) for now, then in zip(value.counts, before.counts))
    return HistogramValue(value.bounds, counts, max(0.0, value.sum_s - before.sum_s))


def _exemplars_of(exemplars: Exemplars, series: Series, value: HistogramValue) -> tuple[Exemplar | None, ...]:
    """One for each bucket in use, if there is one."""
    metric, attributes = series
    edges = (0.0, *value.bounds, float("inf"))
    return tuple(
        exemplars.within(metric.name, attributes, low, high) if count else None
        for count, low, high in zip(value.counts, edges, edges[1:])
    )


_live: weakref.WeakSet[HistogramExporter] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for exporter in list(_live):
        exporter._after_fork()
        at_end_of_child(exporter, exporter.close, -50)


os.register_at_fork(after_in_child=_after_fork_in_child)
