"""What can be chosen of the telemetry: in code, in OpenTelemetry's configuration file, or in TRACEDTHREAD_*."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tracedthread import _settings

__all__ = ["Options", "OptionsOfFile"]


@dataclass
class Options:
    """
    What is chosen; None leaves it to the environment, and that to the default. Nothing here is ever an error: what
    cannot be read costs one line on stderr and the default.

    Args:
        span_threshold_ms: Waits at least this long in a sampled trace become spans. Default:
            $TRACEDTHREAD_SPAN_THRESHOLD_MS, else 1.
        root_span_threshold_ms: Waits at least this long outside any trace become spans. Default:
            $TRACEDTHREAD_ROOT_SPAN_THRESHOLD_MS, else 100.
        spans_per_second: No more spans than these, the longest waits first; 0: none. Default:
            $TRACEDTHREAD_SPANS_PER_SECOND, else 1,000.
        metrics_top: How many locks have metrics of their own. Default: $TRACEDTHREAD_METRICS_TOP, else 20.
        otlp_histograms: Whether the histograms are exported by OTLP, beside what the MeterProvider does. Default:
            $TRACEDTHREAD_OTLP_HISTOGRAMS, else whether OTEL_METRICS_EXPORTER or an endpoint for OTLP say so.
        thread_start_logs: Whether thread starts are told as log events. Default: $TRACEDTHREAD_THREAD_START_LOGS.
        pyroscope_url: Where blame is pushed to as a profile; "" for nowhere. Default: $TRACEDTHREAD_PYROSCOPE_URL.
    """

    # Types for the file's reader; what a file really gives is looked at in `settled`.
    span_threshold_ms: float | None = None
    root_span_threshold_ms: float | None = None
    spans_per_second: int | None = None
    metrics_top: int | None = None
    otlp_histograms: bool | None = None
    thread_start_logs: bool | None = None
    pyroscope_url: str | None = None

    def settled(self) -> Settled:
        """All of it, as it is going to be."""
        return Settled(
            span_threshold_s=_settings.span_threshold_ms(self.span_threshold_ms) / 1e3,
            root_span_threshold_s=_settings.root_span_threshold_ms(self.root_span_threshold_ms) / 1e3,
            spans_per_second=_settings.spans_per_second(self.spans_per_second),
            metrics_top=_settings.metrics_top(self.metrics_top),
            otlp_histograms=_settings.otlp_histograms(self.otlp_histograms),
            thread_start_logs=_settings.thread_start_logs(self.thread_start_logs),
            pyroscope_url=_settings.pyroscope_url(self.pyroscope_url),
        )


class OptionsOfFile(Options):
    """As OpenTelemetry's configuration file gives them: an unknown key costs one line, not all the others."""

    def __init__(self, **given: Any) -> None:
        unknown = sorted(given.keys() - self.__dataclass_fields__.keys())
        if unknown:
            _settings.say(f"no such option in OpenTelemetry's configuration file: {', '.join(unknown)}")
        super().__init__(**{key: value for key, value in given.items() if key not in unknown})


@dataclass(frozen=True)
class Settled:
    """What was chosen, in the end."""

    span_threshold_s: float
    root_span_threshold_s: float
    spans_per_second: int
    metrics_top: int
    otlp_histograms: bool | None
    thread_start_logs: bool
    pyroscope_url: str | None = None
