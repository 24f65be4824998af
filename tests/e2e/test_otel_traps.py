"""
Locks of the SDK, of urllib3, of grpc and of logging are recorded like all others: what records them never comes back to them.

Every program does the same on stock locks first: what hangs there is not ours to mend, and not tested.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from clean_environment import clean_environment
from sink import Sink

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

ROOT = Path(__file__).resolve().parents[2]

HEAD = """
import faulthandler, os, sys
faulthandler.dump_traceback_later(50, exit=True)
import tracedthread
patched = "STOCK" not in os.environ
assert not patched or tracedthread.patch(event_threshold_ms=0)
import gc, itertools, json, logging, signal, threading, time
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from tracedthread.otel import setup

spans = TracerProvider()
# A batch that is full wakes the worker through an Event: from a signal handler or a collection that may hang on stock, too.
spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), 1 << 16, 100, 1 << 16))
meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter(), export_interval_millis=60_000)])
trace.set_tracer_provider(spans)
metrics.set_meter_provider(meters)
tracer, meter = trace.get_tracer("trap"), metrics.get_meter("trap")
counter = meter.create_counter("trap.count")
counter.add(0)
assert setup.start() == patched
lock = threading.Lock()

def until(condition):
    for _ in range(20000):
        if condition():
            return
        time.sleep(0.001)
    raise AssertionError("that never happened")

def together(*functions):
    "All at once, until all have come to their end."
    gate, failed = threading.Barrier(len(functions)), []
    def run(function):
        gate.wait()
        try:
            function()
        except BaseException as error:
            failed.append(error)
    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed

def collect():
    for _ in range(20):
        assert meters.force_flush()

def done(**more):
    "The providers and we come to our end by ourselves."
    made = tracedthread.snapshot().locks if patched else ()
    print(json.dumps({"made": sorted({row.created.path for row in made}), **more}))
"""


def run(program: str, sink: Sink, *, stock: bool) -> Any:
    env = clean_environment(ROOT) | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint,
        "TRACEDTHREAD_ROOT_SPAN_THRESHOLD_MS": "1",
    }
    if stock:
        env["STOCK"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(program)],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return json.loads(done.stdout)


def counted(sink: Sink) -> float:
    """What the program's counter came to."""
    return max(point.value for point in sink.points("trap.count"))


def files(result: Any, name: str) -> list[str]:
    return [file for file in result["made"] if f"/{name}/" in file]


stock_and_ours = pytest.mark.parametrize("stock", [True, False], ids=["stock", "ours"])


@stock_and_ours
def test_what_dies_while_others_wait_and_collect_counts_and_makes_spans(sink: Sink, stock: bool) -> None:
    program = """
    gc.disable()  # it would also come amid the SDK's own locks, which hangs on stock, too
    class Dies:
        def __init__(self):
            self.itself = self
        def __del__(self):
            counter.add(1)
            with tracer.start_as_current_span("dies"):
                pass
    def drop():
        for _ in range(20):
            with lock:  # contended
                for _ in range(5):
                    Dies()
                gc.collect()
    together(drop, drop, drop, collect)
    gc.collect()
    done()
    """
    result = run(program, sink, stock=stock)
    assert counted(sink) == 300
    assert len(sink.spans("dies")) == 300
    if not stock:
        assert files(result, "opentelemetry")
        assert sink.spans("lock.wait")


@stock_and_ours
def test_what_dies_amid_a_collect_counts_and_takes_locks(sink: Sink, stock: bool) -> None:
    program = """
    gc.disable()
    class Dies:
        def __init__(self):
            self.itself = self
        def __del__(self):
            with lock:
                counter.add(1)
    looks = itertools.count()
    def observe(options):
        Dies()
        gc.collect()
        return [metrics.Observation(next(looks))]
    meter.create_observable_gauge("trap.look", [observe])
    def contend():
        for _ in range(100):
            with lock:
                time.sleep(0.0005)
    together(contend, contend, collect)
    gc.collect()
    meters.shutdown()
    done(looks=next(looks))
    """
    result = run(program, sink, stock=stock)
    # The last look's is in the count of the next one, if its reader had been read before.
    assert result["looks"] - 1 <= counted(sink) <= result["looks"]
    assert result["looks"] >= 20
    assert stock or files(result, "opentelemetry")


@stock_and_ours
def test_collections_make_spans_at_any_moment(sink: Sink, stock: bool) -> None:
    program = """
    begun = itertools.count()
    inside = threading.local()
    def collected(phase, info):
        if phase == "start" and not getattr(inside, "it", False):
            inside.it = True  # what a span allocates could begin another
            next(begun)
            tracer.start_span("collected").end()
            inside.it = False
    gc.collect()
    gc.set_threshold(5)
    gc.callbacks.append(collected)
    def contend():
        for turn in range(100):
            with lock, tracer.start_as_current_span("turn") as span:
                span.set_attribute("turn", [turn])
                kept = [[] for _ in range(50)]
    together(contend, contend, contend, collect)
    gc.callbacks.remove(collected)
    gc.set_threshold(2000)
    done(begun=next(begun))
    """
    result = run(program, sink, stock=stock)
    assert len(sink.spans("turn")) == 300
    assert len(sink.spans("collected")) == result["begun"] >= 100


@stock_and_ours
def test_signal_handlers_amid_a_wait_count_make_spans_log_and_take_locks(sink: Sink, stock: bool) -> None:
    program = """
    logging.basicConfig(stream=open(os.devnull, "w"), level="INFO")
    other, again = threading.Lock(), threading.RLock()
    handled = []
    def handle(number, frame):
        counter.add(1)
        with tracer.start_as_current_span("handled"), other, again, again:
            logging.info("handled")
        handled.append(number)
    signal.signal(signal.SIGUSR1, handle)
    main = threading.main_thread().ident
    stop, waits = threading.Event(), threading.Event()
    def contend():
        while not stop.is_set():
            with other:
                logging.info("contend")
            with again:
                counter.add(0)
                time.sleep(0.0001)
            time.sleep(0.002)  # outside: stock locks starve who waits
    def send():
        try:
            with lock:
                waits.set()
                for turn in range(50):
                    time.sleep(0.002)  # a signal between a stock lock's look for signals and its sleep is not noticed
                    signal.pthread_kill(main, signal.SIGUSR1)
                    until(lambda: len(handled) > turn)
        finally:
            stop.set()
    threads = [threading.Thread(target=f) for f in (contend, contend, collect, send)]
    for thread in threads:
        thread.start()
    waits.wait()
    with lock:
        pass
    for thread in threads:
        thread.join()
    assert len(handled) == 50
    done()
    """
    result = run(program, sink, stock=stock)
    assert counted(sink) == 50
    assert len(sink.spans("handled")) == 50
    assert stock or files(result, "logging")


@stock_and_ours
def test_logging_through_opentelemetry_while_contended(sink: Sink, stock: bool) -> None:
    program = """
    import warnings
    warnings.simplefilter("ignore")  # the SDK's handler has been deprecated
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    logs = LoggerProvider()
    logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(), 20, 100))
    logging.getLogger().addHandler(LoggingHandler(logger_provider=logs))
    logger = logging.getLogger("trap")
    logger.setLevel("INFO")
    def log():
        for _ in range(100):
            with lock, tracer.start_as_current_span("logs"):
                logger.info("contend", extra={"trap": 1})
    together(log, log, log, collect)
    done()
    """
    result = run(program, sink, stock=stock)
    assert sum(attributes.get("trap", 0) for _, _, attributes in sink.log_events()) == 300
    assert stock or files(result, "logging")


@stock_and_ours
def test_a_urllib3_pool_that_is_too_small_while_exporting(sink: Sink, stock: bool) -> None:
    program = """
    import urllib3
    pool = urllib3.PoolManager(maxsize=2, block=True)
    endpoint = os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]
    def ask():
        for _ in range(25):
            with tracer.start_as_current_span("asks"):
                assert pool.request("POST", endpoint + "/trap", body=b"x").status == 200
            counter.add(1)
    together(ask, ask, ask, ask, collect)
    done()
    """
    result = run(program, sink, stock=stock)
    assert sink.requests.count("/trap") == counted(sink) == len(sink.spans("asks")) == 100
    assert stock or files(result, "urllib3")


@stock_and_ours
def test_grpc_calls_while_contended_and_exporting(sink: Sink, stock: bool) -> None:
    pytest.importorskip("grpc", reason="NOT TESTED WITH GRPC: grpcio is not installed")
    program = """
    from concurrent.futures import ThreadPoolExecutor
    import grpc
    def echo(request, context):
        with lock:
            return request
    server = grpc.server(ThreadPoolExecutor(4))
    handlers = {"echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("trap", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/trap/echo")
        def ask():
            for _ in range(25):
                with tracer.start_as_current_span("asks"):
                    assert call(b"x", timeout=30) == b"x"
                with lock:
                    counter.add(1)
        together(ask, ask, ask, ask, collect)
    server.stop(None).wait()
    done()
    """
    result = run(program, sink, stock=stock)
    assert counted(sink) == len(sink.spans("asks")) == 100
    assert stock or files(result, "grpc")
