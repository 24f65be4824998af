"""
`opentelemetry-instrument PROGRAM`: found through entry points, patched before the SDK has threads, whoever else is there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from clean_environment import clean_environment

pytest.importorskip("opentelemetry.instrumentation")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

import distribution
from sink import Sink

ROOT = Path(__file__).resolve().parents[2]

# A distro as vendors make them; its configurator starts the SDK's threads, as the stock one does.
DISTRO = """
    import os, sys, threading
    from opentelemetry import metrics, trace
    from opentelemetry.instrumentation.distro import BaseDistro
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    NAME = __name__
    SEEN = []
    class Distro(BaseDistro):
        def _configure(self, **kwargs):
            SEEN.append("configured")
            os.environ.setdefault("VENDOR", NAME)
        def load_instrumentor(self, entry_point, **kwargs):
            SEEN.append(entry_point.name)
            super().load_instrumentor(entry_point, **kwargs)
    class Configurator:
        def configure(self, **kwargs):
            SEEN.append([thread.name for thread in threading.enumerate() if thread.name.startswith("Otel")])
            SEEN.append(type(threading.Lock()).__module__ + "." + type(threading.Lock()).__qualname__)
            provider = TracerProvider()
            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
            trace.set_tracer_provider(provider)
            metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))
"""

PROGRAM = """
    import json, os, sys, threading, time
    import tracedthread
    seen = {name: getattr(sys.modules.get(name), "SEEN", None) for name in ("vendor", "other")}
    seen["patched"] = tracedthread.is_patched()
    seen["env"] = {k: v for k, v in os.environ.items() if "DISTRO" in k or k == "VENDOR"}
    setup = sys.modules.get("tracedthread.otel.setup")
    seen["told"] = setup is not None and setup.is_started()
    lock = threading.Lock()
    def hold():
        with lock:
            time.sleep(0.2)
    holder = threading.Thread(target=hold)
    holder.start()
    time.sleep(0.05)
    with lock:
        pass
    holder.join()
    seen["uncovered"] = tracedthread.uncovered()
    print(json.dumps(seen))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With our entry points, for PYTHONPATH."""
    path = tmp_path / "found"
    distribution.write_ours(path)
    return path


def vendor(folder: Path, name: str) -> None:
    (folder / f"{name}.py").write_text(textwrap.dedent(DISTRO), encoding="utf-8")
    points = {"opentelemetry_distro": f"{name}:Distro", "opentelemetry_configurator": f"{name}:Configurator"}
    distribution.write(folder, name, {group: {name: value} for group, value in points.items()})


def instrument(folder: Path, program: str = PROGRAM, **env: str) -> subprocess.CompletedProcess[str]:
    (folder.parent / "program.py").write_text(textwrap.dedent(program), encoding="utf-8")
    # Of the stock distro, where it is installed: a vendor's, in these tests, exports in any case.
    silent = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
    result = subprocess.run(
        [*distribution.INSTRUMENT, sys.executable, "program.py"],
        cwd=folder.parent,
        env=clean_environment(folder, ROOT, **(silent | env)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result


def seen(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert "Traceback" not in result.stderr, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def has(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def test_patched_before_the_sdk_has_threads_and_the_other_distro_does_its_work(folder: Path) -> None:
    vendor(folder, "vendor")
    with Sink() as sink:
        result = instrument(folder, OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint)
        found = seen(result)
        assert found["patched"]
        assert found["told"]
        configured, threads, lock, *instrumented = found["vendor"]
        assert (configured, threads, lock) == ("configured", [], "_thread.lock")
        assert "tracedthread" in instrumented
        assert found["env"] == {"VENDOR": "vendor"}
        # Those of `site` and of what opentelemetry-instrument imports before it asks anybody.
        assert not [item for item in found["uncovered"] if "opentelemetry.sdk" in str(item)]
        [span] = sink.spans("lock.wait")
    assert span.scope == "tracedthread"
    assert span.attributes["code.function.name"] == "<module>"
    assert "tracedthread" not in result.stderr


def test_the_distro_that_the_user_asks_for_is_the_one_that_is_set_up(folder: Path) -> None:
    vendor(folder, "vendor")
    vendor(folder, "other")
    with Sink() as sink:
        for name, another in (("vendor", "other"), ("other", "vendor")):
            env = {"OTEL_PYTHON_DISTRO": name, "OTEL_PYTHON_CONFIGURATOR": name}
            found = seen(instrument(folder, OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint, **env))
            assert found["patched"]
            assert found[name][:3] == ["configured", [], "_thread.lock"]
            assert found[another] is None
            assert found["env"] == {"VENDOR": name, "OTEL_PYTHON_DISTRO": name}


def test_without_any_distro_the_locks_are_recorded(folder: Path) -> None:
    result = instrument(folder)
    found = seen(result)
    assert found["patched"]
    assert found["told"]
    assert found["env"] == {}
    if not has("opentelemetry-distro"):
        [line] = [line for line in result.stderr.splitlines() if line.startswith("tracedthread: no telemetry")]
        assert line.endswith("pip install opentelemetry-distro")


def test_http_is_spoken_where_nothing_is_said_and_only_that_is_installed(folder: Path) -> None:
    vendor(folder, "vendor")
    text = (folder / "vendor.py").read_text(encoding="utf-8")
    stock = 'os.environ.setdefault("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")'  # as the stock distro does
    text = text.replace('os.environ.setdefault("VENDOR", NAME)', stock)
    (folder / "vendor.py").write_text(text, encoding="utf-8")
    program = "import os; print(os.environ['OTEL_EXPORTER_OTLP_PROTOCOL'])"
    with Sink() as sink:
        url = sink.endpoint

        def protocol(**env: str) -> str:
            return instrument(folder, program, OTEL_EXPORTER_OTLP_ENDPOINT=url, **env).stdout.strip()

        if not has("opentelemetry-exporter-otlp-proto-grpc"):
            assert protocol() == "http/protobuf"
        assert protocol(OTEL_EXPORTER_OTLP_PROTOCOL="http/json") == "http/json"
        grpc = {"opentelemetry_traces_exporter": {"otlp_proto_grpc": "vendor:OTLPSpanExporter"}}
        distribution.write(folder, "exporter", grpc)
        assert protocol() == "grpc"


def test_kept_out_everything_is_as_without_us(folder: Path) -> None:
    vendor(folder, "vendor")
    with Sink() as sink:
        env = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "tracedthread", "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint}
        found = seen(instrument(folder, **env))
        assert not found["patched"]
        assert not found["told"]
        assert found["vendor"][0] == "configured"
        assert "tracedthread" not in found["vendor"][3:]
        assert found["env"] == {"VENDOR": "vendor"}
        assert sink.spans("lock.wait") == []


def test_a_distro_that_fails_fails_as_without_us(folder: Path) -> None:
    (folder / "broken.py").write_text("raise RuntimeError('vendor is broken')", encoding="utf-8")
    distribution.write(folder, "broken", {"opentelemetry_distro": {"broken": "broken:Distro"}})
    result = instrument(folder, "print('the program runs')")
    assert result.stdout == "the program runs\n"
    assert "vendor is broken" in result.stderr


def test_started_without_opentelemetry_instrument_by_an_operator(folder: Path) -> None:
    vendor(folder, "vendor")
    import opentelemetry.instrumentation.auto_instrumentation as auto

    path = os.pathsep.join([str(Path(auto.__file__).parent), str(folder), str(ROOT)])
    (folder.parent / "program.py").write_text(textwrap.dedent(PROGRAM), encoding="utf-8")
    with Sink() as sink:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint, "PYTHONPATH": path, "OTEL_PYTHON_DISTRO": "tracedthread"}
        command = [sys.executable, str(folder.parent / "program.py")]
        result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
        found = seen(result)
    assert found["patched"]
    assert found["vendor"][:3] == ["configured", [], "_thread.lock"]
    assert found["env"] == {"VENDOR": "vendor", "OTEL_PYTHON_DISTRO": "tracedthread"}


def test_instrumenting_twice_and_back_twice_does_it_once_and_raises_nothing(folder: Path) -> None:
    program = """
        import logging
        logging.basicConfig(level=logging.WARNING)
        import tracedthread
        from tracedthread.otel import setup
        from tracedthread.otel.instrumentor import TracedThreadInstrumentor
        instrumentor = TracedThreadInstrumentor()
        assert TracedThreadInstrumentor() is instrumentor
        instrumentor.uninstrument()
        assert not setup.is_started()
        for _ in range(2):
            for _ in range(2):
                instrumentor.instrument(spans_per_second="many", unknown=1, meter_provider=None)
                assert tracedthread.is_patched() and setup.is_started()
            for _ in range(2):
                instrumentor.uninstrument()
                assert not setup.is_started()
        print(tracedthread.is_patched())
        """
    result = instrument(folder, program, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="")
    assert result.stdout == "False\n"
    assert "Traceback" not in result.stderr
    assert "while already" not in result.stderr
    assert "TRACEDTHREAD_SPANS_PER_SECOND: 'many' is not a number of spans; using the default" in result.stderr


def test_what_goes_wrong_in_here_does_not_end_the_instrumentation_of_others(folder: Path) -> None:
    vendor(folder, "vendor")
    # Found after ours, by the name of the folder that they are in.
    (folder / "later.py").write_text(
        "class Later:\n    def instrument(self, **kwargs):\n        print('later is instrumented')\n", encoding="utf-8"
    )
    distribution.write(folder, "zlater", {"opentelemetry_instrumentor": {"zlater": "later:Later"}})
    (folder / "zbreak.py").write_text(
        "import tracedthread.otel.setup as setup\ndef start(**_): raise RuntimeError('oops')\nsetup.start = start\n"
        "def done(): pass\n",
        encoding="utf-8",
    )
    distribution.write(folder, "breaker", {"opentelemetry_pre_instrument": {"breaker": "zbreak:done"}})
    result = instrument(folder, "print('the program runs')")
    assert "later is instrumented" in result.stdout
    assert result.stdout.endswith("the program runs\n")
    assert result.stderr.endswith("tracedthread: no telemetry: RuntimeError: oops\n")
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(not has("opentelemetry-distro"), reason="opentelemetry-distro is not installed")
def test_with_opentelemetry_distro(folder: Path) -> None:
    with Sink() as sink:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
        env["OTEL_TRACES_EXPORTER"] = "otlp"
        found = seen(instrument(folder, **env))
        assert found["patched"]
        assert found["told"]
        assert len(sink.spans("lock.wait")) == 1


def test_an_unknown_key_in_the_configuration_file_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    from tracedthread.otel.instrumentor import TracedThreadInstrumentor

    options = TracedThreadInstrumentor.configuration(metrics_top=5, span_threshold=3)
    assert options.settled().metrics_top == 5
    line = "tracedthread: no such option in OpenTelemetry's configuration file: span_threshold\n"
    assert capfd.readouterr().err == line


CONFIGURATION = """
    file_format: "1.0"
    tracer_provider:
      processors:
        - batch:
            exporter:
              otlp_http: {endpoint: "URL/v1/traces"}
    instrumentation/development:
      python:
        tracedthread: {root_span_threshold_ms: 100000, metrics_top: 5}
"""


@pytest.mark.skipif(
    not (has("opentelemetry-distro") and has("opentelemetry-configuration")),
    reason="opentelemetry-distro or opentelemetry-configuration is not installed",
)
@pytest.mark.parametrize(("threshold", "spans"), [("100000", 0), ("50", 1)])
def test_configuration_file(folder: Path, threshold: str, spans: int) -> None:
    with Sink() as sink:
        text = textwrap.dedent(CONFIGURATION).replace("URL", sink.endpoint).replace("100000", threshold)
        (folder.parent / "otel.yaml").write_text(text, encoding="utf-8")
        result = instrument(folder, OTEL_CONFIG_FILE=str(folder.parent / "otel.yaml"))
        found = seen(result)
        assert found["patched"]
        assert found["told"]
        assert len(sink.spans("lock.wait")) == spans
        assert "already" not in result.stderr
