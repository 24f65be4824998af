"""
tracedthread as one of OpenTelemetry's instrumentations: for `opentelemetry-instrument`, for its configuration file, and
for programs that set up OpenTelemetry themselves.

    TracedThreadInstrumentor().instrument()

The entry point `opentelemetry_instrumentor` is called `tracedthread`; so are its section in a configuration file, whose
keys are those of `Options`, and what OTEL_PYTHON_DISABLED_INSTRUMENTATIONS has to name to keep it out.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from tracedthread import _settings
from tracedthread.patch import patch, unpatch

from . import setup
from .options import Options, OptionsOfFile

__all__ = ["TracedThreadInstrumentor"]


class TracedThreadInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """
    Records the program's locks and threads, and tells what they waited through the program's providers.

    Nothing here raises: an exception would end the auto-instrumentation of everything else, too.
    """

    #: What a configuration file may give.
    configuration = OptionsOfFile

    def instrumentation_dependencies(self) -> Collection[str]:
        """None: it instruments the standard library."""
        return ()

    def instrument(self, **kwargs: Any) -> None:
        """
        Start. Does nothing while started: with a configuration file `opentelemetry-instrument` calls this twice.

        Args:
            kwargs: `tracer_provider`, `meter_provider`, `logger_provider` (default: the global ones), and what
                `Options` has. Others are ignored, as all instrumentations do.
        """
        if not self.is_instrumented_by_opentelemetry:
            super().instrument(**kwargs)

    def uninstrument(self, **kwargs: Any) -> None:
        """Stop, and put the stock locks back in place. Does nothing while stopped."""
        if self.is_instrumented_by_opentelemetry:
            super().uninstrument(**kwargs)

    def _instrument(self, **kwargs: Any) -> None:
        try:
            if patch():
                chosen = {name: value for name, value in kwargs.items() if name in Options.__dataclass_fields__}
                providers = {name: kwargs[name] for name in setup.PROVIDERS if kwargs.get(name) is not None}
                setup.start(options=Options(**chosen), **providers)
        except Exception as exc:
            _settings.say(f"no telemetry: {type(exc).__name__}: {exc}")

    def _uninstrument(self, **kwargs: Any) -> None:
        try:
            setup.stop()
            unpatch()
        except Exception as exc:
            _settings.say(f"not uninstrumented: {type(exc).__name__}: {exc}")
