"""
Providers that are nobody's but ours, for programs that need not know of OpenTelemetry: `tracedthread run --otlp`.

The global providers stay the program's. A forked child makes providers of its own: those that it inherits may be locked
by threads that it does not have, and share its parent's connections. It makes them when it first has something to tell,
which may be as it ends; where no thread can be started any more (3.12), the recorder's own one does it all.
"""

from __future__ import annotations

import math
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import (
    PROCESS_PARENT_PID,
    PROCESS_PID,
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider

from tracedthread import _core, _settings, _unsignalled
from tracedthread._original import originals
from tracedthread.exemplars import Exemplars

from . import setup
from .exporters import Delivery, LastSpans, LogExporter, MetricExporter, SpanExporter, SpanProcessor, say_no_more
from .histograms import HistogramExporter, told_of
from .hush import hush, watch
from .observables import Observables, observe
from .options import Options, Settled

if TYPE_CHECKING:
    from tracedthread.live import LiveEvent, LiveStart
    from tracedthread.measure import Board

__all__ = ["Private", "make_resource", "start"]

#: For an export on the thread that all wait for at the end; spans and metrics both have to fit in `close`.
LAST_TIMEOUT_S = 0.8


def start(endpoint: str | None = None, options: Options | None = None, *, exemplars: Exemplars | None = None) -> bool:
    """
    Export what is recorded from now on.

    Args:
        endpoint: Such as `http://localhost:4318`; None for what OTEL_EXPORTER_OTLP_* say.
        exemplars: Where to note which spans were made, for others, too.
    Returns:
        Whether it is. Not where nothing is recorded.
    """
    core = _core.loaded()
    if core is None or not core.is_open:
        return False
    settled = (options or Options()).settled()
    return setup.is_started() or setup.tell([Private(settled, endpoint, exemplars)], settled)


def make_resource(parent: Resource | None = None) -> Resource:
    """
    Who this process is: what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say, and what tells it from others.

    Args:
        parent: Who the process is that this one is a fork of. All else is taken from there, for the SDK asks its
            detectors on threads, which can be had no more where a child is ending already.
    """
    if parent is not None:
        own: dict[str, Any] = {PROCESS_PID: os.getpid(), SERVICE_INSTANCE_ID: str(uuid.uuid4())}
        if PROCESS_PARENT_PID in parent.attributes:
            own[PROCESS_PARENT_PID] = os.getppid()
        return parent.merge(Resource(own))
    resource = Resource.create({PROCESS_PID: os.getpid()})
    known: dict[str, Any] = {}
    if SERVICE_INSTANCE_ID not in resource.attributes:  # the SDK gives one since 1.42
        known[SERVICE_INSTANCE_ID] = str(uuid.uuid4())
    if _core.program and str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        known[SERVICE_NAME] = f"unknown_service:{_core.program}"
    return resource.merge(Resource(known))


class Private:
    """A sink of the recorder that has its own providers."""

    def __init__(self, settled: Settled, endpoint: str | None = None, exemplars: Exemplars | None = None) -> None:
        self._settled = settled
        self._endpoint = endpoint
        self._exemplars = Exemplars() if exemplars is None else exemplars
        self._board = setup.make_board(settled)
        self._resources: dict[int, Resource] = {}  # by process
        self._providers = self._make()
        self._histograms: HistogramExporter | None = None
        self._deliveries: dict[int, Delivery] = {}  # of histograms, by process
        if _is_wanted("METRICS") and settled.otlp_histograms is not False:
            self._histograms = _Histograms(
                self._board.measure,
                resource=self._resource,
                exporter=lambda: MetricExporter(self._delivery(), endpoint and f"{endpoint}/v1/metrics"),
                exemplars=self._exemplars,
                told=told_of(self._board),
            )
            self._histograms.start()

    def tick(
        self,
        events: Sequence[LiveEvent],
        starts: Sequence[LiveStart],
        contexts: Mapping[int, Any],
        lost: Mapping[str, int],
    ) -> None:
        """Tell the providers."""
        if self._providers.pid != os.getpid():
            parents = self._providers
            self._providers = self._make()
            with suppress(RuntimeError):  # no more threads; then those end with the process
                parents.end()  # the SDK has given them threads here, too
        with hush():
            for sink in self._providers.sinks:
                sink.tick(events, starts, contexts, lost)

    def close(self, timeout_s: float) -> None:
        """Export what there is, as far as that can be done in time."""
        providers = self._providers
        leave_by = time.monotonic() + timeout_s * 0.9
        with hush():
            for sink in providers.sinks:
                sink.close(max(0.0, leave_by - time.monotonic()))
        endings = providers.end()
        if self._histograms is not None:
            self._histograms.close(max(0.0, leave_by - time.monotonic()))
        if not all(ending.done.acquire(True, max(0.0, leave_by - time.monotonic())) for ending in endings):
            providers.abandon()
        say_no_more()
        self._say_missing([one for one in (*providers.deliveries, self._delivery()) if one.missing])

    def after_fork(self) -> None:
        """In a child, whose new providers are still to come: those of the parent have nothing to say."""
        self._providers.forget()
        self._exemplars.clear()

    def _say_missing(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        numbers = ", ".join(f"{delivery.missing} of {delivery.handed} {delivery.what}" for delivery in deliveries)
        reasons = dict.fromkeys(f"{delivery.destination} ({delivery.reason})" for delivery in deliveries)
        is_child = os.getpid() != next(iter(self._resources))
        whose = f" from process {os.getpid()}" if is_child else ""
        _settings.say(f"not delivered: {numbers} to {' and '.join(reasons)}{whose}")

    def _make(self) -> _Providers:
        try:
            providers = self._make_providers()
        except RuntimeError:  # no thread can be started: 3.12 is ending, or a limit of the system
            providers = self._make_providers(threads=False)
        watch()
        return providers

    def _make_providers(self, *, threads: bool = True) -> _Providers:
        with _unsignalled.Unsignalled():  # the SDK's threads are ours, too
            providers = _Providers(self._settled, self._endpoint, self._resource(), self._exemplars, threads=threads)
            if _is_wanted("METRICS"):
                providers.measure(self._board)
        return providers

    def _delivery(self) -> Delivery:
        """Of this process's histograms; asked by two threads of a new child, as is `_resource`."""
        return self._deliveries.setdefault(os.getpid(), Delivery("exports of histograms"))

    def _resource(self) -> Resource:
        resource = self._resources.get(os.getpid())
        if resource is None:
            first = next(iter(self._resources.values()), None)
            resource = self._resources.setdefault(os.getpid(), make_resource(first))
        return resource


class _Ending:
    """
    The end of a provider, on a thread that has been waiting for it: 3.12 starts none once it is ending itself.

    Attributes:
        done: A lock that can be acquired once that is over.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._begin, self.done = originals.allocate_lock(), originals.allocate_lock()
        self._begin.acquire()
        self.done.acquire()
        self._launch()

    def begin(self) -> None:
        """Let it export the rest and end."""
        if self._pid != os.getpid():  # the thread is the parent's
            self._launch()
        self._begin.release()

    def _launch(self) -> None:
        self._pid = os.getpid()
        _unsignalled.start(self._run)

    def _run(self) -> None:
        self._begin.acquire()
        with hush(), suppress(Exception):
            self._provider.shutdown()
        self.done.release()


class _EndingHere:
    """As `_Ending`, on the thread that asks for it; the exporters' time limit is what bounds it."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self.done = originals.allocate_lock()
        self.done.acquire()

    def begin(self) -> None:
        """Export the rest and end."""
        with hush(), suppress(Exception):
            self._provider.force_flush()
            self._provider.shutdown()
        self.done.release()


class _Histograms(HistogramExporter):
    def _say_failure(self, reason: str) -> None:
        pass  # its `Delivery` does


def _is_wanted(signal: str) -> bool:
    return os.environ.get(f"OTEL_{signal}_EXPORTER", "").strip().lower() != "none"


class _Providers:
    """
    Those of one process, and what tells them.

    Args:
        threads: Whether they have threads of their own; if not, they export when they end.

    Raises:
        RuntimeError: There cannot be such threads.
    """

    def __init__(
        self, settled: Settled, endpoint: str | None, resource: Resource, exemplars: Exemplars, *, threads: bool
    ) -> None:
        self.pid = os.getpid()
        self._resource = resource
        self._observables: Observables | None = None
        self.deliveries: list[Delivery] = []
        self._exporters: list[Any] = []
        self._endings: list[_Ending | _EndingHere] = []
        self._endpoint = endpoint
        self._threads = threads
        processor: Any = SpanProcessor if threads else LastSpans
        ending: Any = _Ending if threads else _EndingHere
        tracer_provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        if _is_wanted("TRACES"):
            spans = Delivery("spans")
            tracer_provider.add_span_processor(processor(spans, self._exporter(SpanExporter, spans, "traces")))
        else:  # nor made: an exemplar that leads to a span would lead to nothing
            settled = replace(settled, spans_per_second=0)
        self._endings.append(ending(tracer_provider))
        logger_provider = None
        if settled.thread_start_logs:
            logger_provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
            exporter = self._exporter(LogExporter, Delivery("log events"), "logs")
            logs: Any = BatchLogRecordProcessor if threads else SimpleLogRecordProcessor
            logger_provider.add_log_record_processor(logs(exporter))
            self._endings.append(ending(logger_provider))
        self.sinks = setup.make_sinks(settled, exemplars, tracer_provider, logger_provider)

    def measure(self, board: Board) -> None:
        """Export counters, too."""
        exporter = self._exporter(MetricExporter, Delivery("exports of metrics"), "metrics")
        reader = PeriodicExportingMetricReader(exporter, None if self._threads else math.inf)  # inf: no thread
        provider = MeterProvider([reader], self._resource, shutdown_on_exit=False)
        self._observables = observe(provider, board.measure)
        self._endings.append(_Ending(provider) if self._threads else _EndingHere(provider))

    def forget(self) -> None:
        """Say nothing any more, without a lock."""
        if self._observables is not None:
            self._observables.stop()

    def end(self) -> list[_Ending | _EndingHere]:
        """Let them export the rest and end, side by side: none is held up by another."""
        for ending in self._endings:
            ending.begin()
        return self._endings

    def abandon(self) -> None:
        """Time is up: no more attempts."""
        with hush():
            for exporter in self._exporters:
                exporter.shutdown()

    def _exporter(self, kind: Any, delivery: Delivery, signal: str) -> Any:
        timeout_s = None if self._threads else LAST_TIMEOUT_S
        exporter = kind(delivery, self._endpoint and f"{self._endpoint}/v1/{signal}", timeout_s)
        self.deliveries.append(delivery)
        self._exporters.append(exporter)
        return exporter
