"""
`opentelemetry-instrument` loads this before it starts the program, to learn which options it has: entry point
`opentelemetry_environment_variables`. Not for them, but for that moment: it is the last one to say which distro the
program's interpreter is to set up, and a distro is the only thing that runs before the SDK starts its threads.
"""

from __future__ import annotations

import os

from opentelemetry.instrumentation import environment_variables as _names  # what begins with OTEL_ becomes an option

from tracedthread import _settings

__all__: list[str] = []


def _stand_in_front() -> None:
    asked = os.environ.get(_names.OTEL_PYTHON_DISTRO, "")
    if _settings.disabled_by() is not None or asked == "tracedthread":
        return
    os.environ[_settings.NEXT_DISTRO] = asked
    os.environ[_names.OTEL_PYTHON_DISTRO] = "tracedthread"


_stand_in_front()
