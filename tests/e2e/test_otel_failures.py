"""
Where telemetry goes to is in trouble: the program is served as if nothing was, what is lost is counted, memory stays.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from clean_environment import clean_environment
from sink import Answer, Sink

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).resolve().parents[2]
LOAD = Path(__file__).with_name("otel_load.py")
LIMIT_S = 90
# An exporter in trouble takes 10 s and more for an attempt. What waits for it waits as long; what does not, does not, on
# the busiest machine.
FAR_LESS_S = 7.0
NOBODY = "http://127.0.0.1:1"
# All waits of the load become spans.
ALL = {"TRACEDTHREAD_ROOT_SPAN_THRESHOLD_MS": "0.01", "TRACEDTHREAD_SPANS_PER_SECOND": "1000000"}


class Run(NamedTuple):
    """
    How a program went.

    Args:
        result: What it printed at its end.
        ending_s: From there until the process was gone.
    """

    result: dict[str, Any]
    ending_s: float
    stderr: str

    @property
    def undelivered(self) -> tuple[int, int]:
        """Of the spans, and of how many; as the program was told on stderr."""
        found = re.search(r"^tracedthread: not delivered: .*?(\d+) of (\d+) spans", self.stderr, re.MULTILINE)
        return (int(found[1]), int(found[2])) if found else (0, 0)


def run(command: list[str], folder: Path, *, stderr: Any = subprocess.PIPE, **more: str) -> Run:
    env = clean_environment(ROOT, **more)
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        timer = threading.Timer(LIMIT_S, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            printed = process.stdout.readline()
            ended = time.monotonic()
            rest, errors = process.communicate()
            ending_s = time.monotonic() - ended
        finally:
            timer.cancel()
    assert process.returncode == 0, errors
    assert rest == ""
    print(f"the end took {ending_s * 1e3:.0f} ms")
    return Run(json.loads(printed), ending_s, errors or "")


def serve(folder: Path, endpoint: str, seconds: float, held_s: float, **more: Any) -> Run:
    """Run otel_load.py with all its waits exported; see there for the result."""
    command = [sys.executable, "-m", "tracedthread", "run", "-q", f"--otlp-endpoint={endpoint}"]
    return run([*command, str(LOAD), str(seconds), str(held_s)], folder, **{**ALL, **more})


def assert_was_served(done: Run) -> None:
    assert done.result["served"] > 100
    assert done.result["longest_s"] < FAR_LESS_S
    assert done.ending_s < FAR_LESS_S
    assert all(line.startswith("tracedthread: ") for line in done.stderr.splitlines()), done.stderr


def test_a_healthy_collector_gets_all(sink: Sink, tmp_path: Path) -> None:
    done = serve(tmp_path, sink.endpoint, 2, 0.005)
    assert_was_served(done)
    assert done.stderr == ""
    assert len(sink.spans("lock.wait")) > 100


# Not among them is a redirection: the SDK takes any status below 400 for success.
TROUBLE = {
    "slow": Answer(delay_s=10),
    "429": Answer(429, headers=(("Retry-After", "30"),)),
    "503": Answer(503),
    "503, later": Answer(503, headers=(("Retry-After", "3600"),)),
    "400": Answer(400),
    "garbage": Answer(raw=b"\x00\xff" * 5000),
    "hangs up": Answer(raw=b""),
    "half an answer": Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_collector_in_trouble_is_the_collectors_trouble(tmp_path: Path, trouble: str) -> None:
    with Sink(TROUBLE[trouble]) as sink:
        done = serve(tmp_path, sink.endpoint, 3, 0.005)
        assert "/v1/traces" in sink.requests
    assert_was_served(done)
    lost, made = done.undelivered
    assert lost == made > 100
    assert done.stderr.count("\n") <= 4, done.stderr


def test_no_collector(tmp_path: Path) -> None:
    done = serve(tmp_path, NOBODY, 2, 0.005)
    assert_was_served(done)
    lost, made = done.undelivered
    assert lost == made > 100
    assert done.stderr.count("\n") <= 4, done.stderr


def test_a_collector_that_goes_in_the_middle(tmp_path: Path) -> None:
    sink = Sink()

    def leave() -> None:
        while not sink.spans():
            time.sleep(0.01)
        sink.close()

    leaver = threading.Thread(target=leave, daemon=True)
    leaver.start()
    done = serve(tmp_path, sink.endpoint, 4, 0.005, OTEL_BSP_SCHEDULE_DELAY="300")
    leaver.join()
    assert_was_served(done)
    lost, made = done.undelivered
    assert lost > 0
    assert made - lost == len(sink.spans()) > 0


def test_a_collector_that_comes_back(tmp_path: Path) -> None:
    with Sink(Answer(503)) as sink:
        timer = threading.Timer(2.0, lambda: setattr(sink, "answer", Answer()))
        timer.start()
        done = serve(tmp_path, sink.endpoint, 6, 0.005, OTEL_BSP_SCHEDULE_DELAY="300")
        timer.join()
        assert_was_served(done)
        lost, made = done.undelivered
        assert len(sink.spans()) > 100
        if made:  # else all of it was sent again in time
            assert made - lost == len(sink.spans())


@pytest.mark.slow
def test_memory_is_bounded_when_nothing_is_taken(tmp_path: Path) -> None:
    # Some ten thousand spans; the queue has room for 2,048 of them.
    with Sink(Answer(delay_s=600)) as sink:
        done = serve(tmp_path, sink.endpoint, 9, 0.0002, OTEL_EXPORTER_OTLP_TIMEOUT="600")
    assert_was_served(done)
    lost, made = done.undelivered
    growth = done.result["late_bytes"] - done.result["early_bytes"]
    print(f"{made} spans, {growth / 2**20:.1f} MiB more in the last two thirds")
    assert lost == made > 5000
    assert growth < 500 * made  # a span in Python takes some 3 kB


def test_a_full_queue_is_counted(tmp_path: Path) -> None:
    with Sink(Answer(delay_s=0.5)) as sink:
        done = serve(
            tmp_path, sink.endpoint, 3, 0.001, OTEL_BSP_MAX_QUEUE_SIZE="64", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="16"
        )
        assert_was_served(done)
        lost, made = done.undelivered
        arrived = len(sink.spans())
    assert lost > 64
    assert arrived > 0
    assert made - lost <= arrived  # what arrived while nobody waited for the answer any more


RAISING = """
    import json, threading, time, tracedthread
    assert tracedthread.patch()
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
    from tracedthread import recorder
    from tracedthread.otel import setup

    class Exporter(SpanExporter):
        def export(self, spans): raise ERROR

    class Processor(SpanProcessor):
        def on_start(self, span, parent_context=None):
            if WHERE == "on_start": raise ERROR
        def on_end(self, span):
            if WHERE == "on_end": raise ERROR

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Exporter()) if WHERE == "export" else Processor())
    assert setup.start(tracer_provider=provider)
    lock = threading.Lock()
    def hold():
        with lock:
            has.set()
            time.sleep(0.15)
    for _ in range(3):
        has = threading.Event()
        thread = threading.Thread(target=hold)
        thread.start()
        has.wait()
        with lock: pass
        thread.join()
    assert setup.stop(30)
    print(json.dumps(recorder.lost()), flush=True)
"""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("ValueError('no')", "ValueError: no"),
        ("SystemExit(3)", "SystemExit: 3"),
        ("KeyboardInterrupt()", "KeyboardInterrupt"),
        ("MemoryError()", "MemoryError"),
    ],
)
@pytest.mark.parametrize("where", ["export", "on_start", "on_end"])
def test_an_exporter_or_processor_that_raises(tmp_path: Path, where: str, error: str, words: str) -> None:
    program = f"WHERE, ERROR = {where!r}, {error}\n" + textwrap.dedent(RAISING)
    done = run([sys.executable, "-c", program], tmp_path)
    # The SDK itself keeps an exporter's Exceptions, and logs them.
    kept = where == "export" and error.startswith(("Value", "Memory"))
    assert done.result["failures"] == (0 if kept else 3)
    assert kept or done.stderr == f"tracedthread: telemetry is not whole; failures: 3, the first: {words}\n"


OWN_PROVIDERS = """
    import threading, time
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    trace.set_tracer_provider(TracerProvider())
    class Exporter(OTLPMetricExporter):
        def export(self, data, *args, **kwargs):
            open("exports", "a").write("one ")
            return super().export(data, *args, **kwargs)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(Exporter())]))
    import tracedthread
    tracedthread.patch()
    from tracedthread.otel.setup import start
    assert start()
    lock = threading.Lock()
    def hold():
        with lock:
            time.sleep(0.05)
    holder = threading.Thread(target=hold)
    holder.start()
    time.sleep(0.02)
    with lock:
        pass
    holder.join()
    print("{}", flush=True)
"""


@pytest.mark.parametrize("collector", ["none", "healthy", "refusing"])
def test_a_program_of_its_own_providers_does_not_stay_for_our_counters(tmp_path: Path, collector: str) -> None:
    (tmp_path / "program.py").write_text(textwrap.dedent(OWN_PROVIDERS), encoding="utf-8")
    with Sink(Answer(400) if collector == "refusing" else None) as sink:
        url = NOBODY if collector == "none" else sink.endpoint
        done = run([sys.executable, "program.py"], tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=url)
    if collector == "healthy":
        assert done.stderr == ""
        assert sink.points("tracedthread.lock.contentions")
    else:
        assert not (tmp_path / "exports").exists()  # the SDK had nothing to export, and to try again
        assert done.stderr.count("\n") == 1


def test_a_disk_that_is_full_keeps_nothing_and_nobody(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    mount = "mount -t tmpfs -o size=64k none small"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system here")
    command = [sys.executable, "-m", "tracedthread", "run", "-q", "-o", "small/app.ttc", f"--otlp-endpoint={NOBODY}"]
    in_there = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    done = run([*in_there, *command, str(LOAD), "1", "0.001"], tmp_path, **ALL)
    assert_was_served(done)
    assert done.stderr.startswith("tracedthread: not recording: ")
    assert done.stderr.count("\n") == 1


def test_what_cannot_even_be_said_is_not_said(tmp_path: Path) -> None:
    with open("/dev/full", "w", encoding="ascii") as full:
        done = serve(tmp_path, NOBODY, 1, 0.005, stderr=full)
    assert_was_served(done)
