"""
Metrics through the program's own set-up: whose they are, when the histograms begin, and what forks and stops leave of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http.metric_exporter")

from collector import FakeCollector

from tracedthread import names

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, url: str = "http://127.0.0.1:1", **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(ROOT), "OTEL_EXPORTER_OTLP_ENDPOINT": url, **environment}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_nothing_is_imported_on_threads_of_ours() -> None:
    # A fork meanwhile would leave the child with a module whose lock nobody ever releases.
    code = """
        import sys, threading, time
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from tracedthread.otel.instrumentor import TracedThreadInstrumentor
        instrumentor = TracedThreadInstrumentor()
        instrumentor.instrument()
        provider = TracerProvider()
        before = set(sys.modules)
        with threading.Lock(): pass
        trace.set_tracer_provider(provider)
        time.sleep(1.5)
        instrumentor.uninstrument()
        print(sorted(set(sys.modules) - before))
    """
    with FakeCollector() as collector:
        done = run(code, collector.url, OTEL_METRIC_EXPORT_INTERVAL="100")
        assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
        assert any(collector.points(names.HOLD_DURATION.name))


def test_without_the_extra_the_caller_is_told_at_once() -> None:
    code = """
        import sys
        sys.modules["opentelemetry.exporter.otlp.proto.http.metric_exporter"] = None
        from tracedthread.otel.instrumentor import TracedThreadInstrumentor
        TracedThreadInstrumentor().instrument()
        import os
        os._exit(0)
    """
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (0, "", 1)
    assert done.stderr.startswith("tracedthread: no histograms by OTLP: ")
