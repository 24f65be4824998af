"""
Telling OpenTelemetry what was recorded: what is told through which providers, from when and until when.

    tracedthread.patch()
    tracedthread.otel.setup.start()     # through the global providers, also those that are set later
    ...
    tracedthread.otel.setup.stop()      # or let the interpreter's end do it

`opentelemetry-instrument` and `TracedThreadInstrumentor` come through here; so does `tracedthread run --otlp`, with
providers of its own. A forked child goes on by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import _logs, trace

from tracedthread import __version__, _core, _settings, audit, names, recorder
from tracedthread.exemplars import Exemplars
from tracedthread.measure import Board
from tracedthread.tallier import read_own

from .bill import Bills
from .metrics import Metrics
from .options import Options
from .spans import Spans, context_variable
from .starts import Starts

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from .options import Settled

__all__ = ["PROVIDERS", "is_started", "make_board", "make_sinks", "start", "stop", "tell"]

PROVIDERS = ("tracer_provider", "meter_provider", "logger_provider")

_sinks: list[recorder.Sink] = []  # what we have told the recorder of
_boards: dict[int, Board] = {}  # by how many locks are told by name


def start(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    logger_provider: LoggerProvider | None = None,
    options: Options | None = None,
) -> bool:
    """
    Tell what is recorded from now on. Does nothing while that is done already.

    Args:
        tracer_provider, meter_provider, logger_provider: Default: the global ones.
        options: Default: what the environment says.
    Returns:
        Whether it is told. Not where nothing is recorded.
    """
    if is_started():
        return True
    core = _core.loaded()
    if core is None or not core.is_open:
        return False
    settled = (options or Options()).settled()
    exemplars = Exemplars()
    sinks = make_sinks(settled, exemplars, tracer_provider, logger_provider)
    measured = Metrics(
        make_board(settled), meter_provider, tracer_provider, exemplars=exemplars, histograms=settled.otlp_histograms
    )
    if settled.pyroscope_url is not None:
        sinks = [*_make_pusher(settled.pyroscope_url, tracer_provider), *sinks]
    return tell([*sinks, measured, Bills(tracer_provider)], settled)


def stop(timeout_s: float = recorder.EXIT_TIMEOUT_S) -> bool:
    """
    Tell what is new for the last time, and no more. The providers go on.

    Returns:
        Whether that was done in time.
    """
    sinks = list(_sinks)
    _sinks.clear()
    ended = recorder.stop(timeout_s, sinks)
    for sink in sinks:
        if isinstance(sink, (Metrics, Bills)):
            sink.withdraw()
    return ended


def is_started() -> bool:
    """Whether something is told."""
    return bool(_sinks)


def tell(sinks: Iterable[recorder.Sink], settled: Settled) -> bool:
    """
    Let the recorder tell these sinks.

    Returns:
        Whether there is a recorder.
    """
    core = _core.load()
    least_ns = int(1e9 * min(settled.span_threshold_s, settled.root_span_threshold_s))
    if least_ns < core.lib.tt_event_threshold_get():  # shorter waits are not kept one by one
        core.lib.tt_event_threshold_set(least_ns)
    if settled.thread_start_logs:
        audit.keep_trail()
    sinks = list(sinks)
    if not recorder.start(sinks, context_variable=context_variable()):
        return False
    _sinks.extend(sinks)
    return True


def make_board(settled: Settled) -> Board:
    """What is measured in this process; the same one after a stop, or what is told as `other` would go backwards."""
    board = _boards.get(settled.metrics_top)
    if board is None:
        board = Board(read_own(_core.load()), top=settled.metrics_top, dropped=recorder.lost)
    return _boards.setdefault(settled.metrics_top, board)


def _make_pusher(url: str, tracer_provider: TracerProvider | None) -> list[recorder.Sink]:
    """What pushes profiles; called as the traces are, whenever that comes to be known."""
    try:
        from tracedthread import pyroscope
    except ImportError as exc:
        _settings.say(f"no profiles: they need more ({exc}): pip install 'tracedthread[pyroscope]'")
        return []

    def resource() -> Mapping[str, Any]:
        provider = tracer_provider or trace.get_tracer_provider()
        return getattr(getattr(provider, "resource", None), "attributes", {})

    sink = pyroscope.make(url, resource=resource)
    return [] if sink is None else [sink]


def make_sinks(
    settled: Settled,
    exemplars: Exemplars,
    tracer_provider: TracerProvider | None = None,
    logger_provider: LoggerProvider | None = None,
) -> list[recorder.Sink]:
    """What tells these providers of single waits and starts; None for the global ones."""
    sinks: list[recorder.Sink] = []
    if settled.spans_per_second > 0:
        tracer = trace.get_tracer(names.SCOPE, __version__, tracer_provider, names.SCHEMA_URL)
        spans = Spans(
            tracer,
            in_trace_s=settled.span_threshold_s,
            alone_s=settled.root_span_threshold_s,
            per_second=settled.spans_per_second,
            exemplars=exemplars,
        )
        sinks.append(spans)
    if settled.thread_start_logs:
        logger = _logs.get_logger(names.SCOPE, __version__, logger_provider, names.SCHEMA_URL)
        sinks.append(Starts(logger, getattr(logger_provider or _logs.get_logger_provider(), "resource", None)))
    return sinks
