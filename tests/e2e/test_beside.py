"""
Others who wrap threads and locks are beside us, patched before us and after us: theirs works, and so does ours.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from clean_environment import clean_environment

from tracedthread.capture import Capture
from tracedthread.profile import Profile

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60

HEAD = """
import faulthandler, json, os, signal, sys, threading
faulthandler.dump_traceback_later(50, exit=True)
import tracedthread
stock = {"lock": type(threading.Lock()), "factory": threading.Lock, "rlock": type(threading.RLock())}

def wait():
    with lock: pass
def waits_are_recorded():
    "Somebody waits for the lock, and that is in our profile."
    def waits():
        return sum(row.stats.contended for row in tracedthread.snapshot().locks if row.name.split(".")[-1] == "lock")
    before = waits()
    for _ in range(100):  # until the other was there in time
        with lock:
            thread = threading.Thread(target=wait)
            thread.start()
            thread.join(0.02)
        thread.join()
        if waits() > before:
            return True
    return False
def recorded_in_a_child():
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(20)
            status = 0 if waits_are_recorded() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""

PATCH = """
assert tracedthread.patch(event_threshold_ms=0)
"""

READY = """
assert not [row for row in tracedthread.uncovered() if "wrapped" in row["what"]]
lock = threading.Lock()
"""

ENDS = """
assert type(threading.Lock()) is stock["lock"] and threading.Lock is stock["factory"], threading.Lock
assert type(threading.RLock()) is stock["rlock"]
thread = threading.Thread(target=wait)
thread.start()
thread.join()
print(json.dumps(result))
"""


def needs(name: str, *, until: tuple[int, int] = (3, 99)) -> None:
    """
    Where a module cannot be had the test is skipped and says so, but in CI it fails.

    Args:
        until: The first Python that it is not made for.
    """
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # not even the package that it would be in
        found = None
    if found is None:
        reason = f"NOT TESTED BESIDE {name}: `pip install --group services` brings it to Pythons that it is made for"
        assert not os.environ.get("CI") or sys.version_info >= until, reason
        pytest.skip(reason)


def run(theirs: str, program: str, end: str, *, ours_first: bool, ours_ends_first: bool, **more: str) -> Any:
    """
    The `result` of a program.

    Args:
        theirs: What sets up the others.
        end: What takes them away; nothing of anybody is left then.
    """
    theirs, end = textwrap.dedent(theirs), textwrap.dedent(end)
    unpatch = "assert tracedthread.unpatch()\n"
    parts = [HEAD]
    parts += [PATCH, theirs] if ours_first else [theirs, PATCH]
    parts += [READY, textwrap.dedent(program)]
    parts += [unpatch, end] if ours_ends_first else [end, unpatch]
    done = subprocess.run(
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", "\n".join([*parts, ENDS])],
        env=clean_environment(ROOT, **more),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "tracedthread" not in done.stderr, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# Who comes first goes first: the other way round everybody finds what was there.
order = pytest.mark.parametrize("ours_first", [True, False], ids=["ours-first", "theirs-first"])


@order
def test_opentelemetrys_threading_keeps_the_context_in_threads(ours_first: bool) -> None:
    needs("opentelemetry.instrumentation.threading")
    theirs = """
    from opentelemetry import trace
    from opentelemetry.instrumentation.threading import ThreadingInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    trace.set_tracer_provider(provider)
    tracer = trace.get_tracer("beside")
    ThreadingInstrumentor().instrument()
    """
    program = """
    from concurrent.futures import ThreadPoolExecutor
    from tracedthread.otel import setup
    from tracedthread.otel.options import Options
    assert setup.start(options=Options(span_threshold_ms=1))
    def child(name):
        with tracer.start_as_current_span(name), lock: pass
    with tracer.start_as_current_span("parent") as parent:
        timer = threading.Timer(0, child, ["timer"])
        with ThreadPoolExecutor(1) as pool, lock:
            threads = [threading.Thread(target=child, args=["thread"]), timer]
            for thread in threads:
                thread.start()
            future = pool.submit(child, "pool")
            threads[0].join(0.1)
        for thread in threads:
            thread.join()
        future.result()
    recorded = [waits_are_recorded(), recorded_in_a_child()]
    setup.stop()
    names = {s.context.span_id: s.name for s in memory.get_finished_spans()}
    pairs = [(s.name, names[s.parent.span_id]) for s in memory.get_finished_spans() if s.parent]
    traces = {s.context.trace_id for s in memory.get_finished_spans() if s.name != "lock.wait"}
    result = {"pairs": sorted(set(pairs)), "recorded": recorded, "traces": len(traces)}
    """
    end = "ThreadingInstrumentor().uninstrument()"
    done = run(theirs, program, end, ours_first=ours_first, ours_ends_first=ours_first)
    pairs = {tuple(pair) for pair in done["pairs"]}
    assert {("thread", "parent"), ("timer", "parent"), ("pool", "parent"), ("lock.wait", "thread")} <= pairs
    assert done["traces"] == 1
    assert done["recorded"] == [True, True]


@order
def test_opentelemetrys_logging_knows_the_span_that_waits(ours_first: bool) -> None:
    needs("opentelemetry.instrumentation.logging")
    theirs = """
    import io, logging
    from opentelemetry import trace
    from opentelemetry.instrumentation.logging import LoggingInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    trace.set_tracer_provider(TracerProvider())
    tracer = trace.get_tracer("beside")
    LoggingInstrumentor().instrument(inject_trace_context=True)
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(message)s %(otelTraceID)s"))
    logging.getLogger("beside").addHandler(handler)
    """
    program = """
    from tracedthread.otel import setup
    assert setup.start()
    def log():
        for _ in range(50):
            with tracer.start_as_current_span("logs") as span:
                trace_id = format(span.get_span_context().trace_id, "032x")
                with lock:
                    logging.getLogger("beside").warning(trace_id)
    threads = [threading.Thread(target=log) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [line.split() for line in written.getvalue().splitlines()]
    same = sum(said == formatted for said, formatted in lines)
    result = {"lines": len(lines), "same": same, "recorded": [waits_are_recorded(), recorded_in_a_child()]}
    setup.stop()
    """
    end = "LoggingInstrumentor().uninstrument()"
    done = run(theirs, program, end, ours_first=ours_first, ours_ends_first=ours_first)
    assert done == {"lines": 200, "same": 200, "recorded": [True, True]}


@order
def test_sentry_reports_what_a_thread_raises(ours_first: bool) -> None:
    needs("sentry_sdk")
    theirs = """
    import sentry_sdk
    from sentry_sdk.integrations.threading import ThreadingIntegration
    from sentry_sdk.transport import Transport
    sent = []
    class Dummy(Transport):
        def capture_envelope(self, envelope):
            event = envelope.get_event()
            if event is not None:
                sent.append(event)
    sentry_sdk.init("http://key@127.0.0.1:1/1", transport=Dummy, integrations=[ThreadingIntegration(propagate_scope=True)],
                    default_integrations=False, send_client_reports=False, auto_session_tracking=False)
    """
    program = """
    threading.excepthook = lambda args: None
    def fail():
        with lock:
            raise ValueError("from a thread")
    sentry_sdk.set_tag("whose", "the parent's")
    with lock:
        threads = [threading.Thread(target=fail) for _ in range(4)]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    sentry_sdk.flush(5)
    found = [[e["exception"]["values"][0]["value"], e["tags"]["whose"]] for e in sent]
    result = {"found": found, "recorded": [waits_are_recorded(), recorded_in_a_child()]}
    """
    done = run(theirs, program, "sentry_sdk.get_client().close()", ours_first=ours_first, ours_ends_first=ours_first)
    assert done == {"found": [["from a thread", "the parent's"]] * 4, "recorded": [True, True]}


DDTRACE = {
    "auto": ("import ddtrace.auto", ""),
    "lock-profiler": (
        """
        from ddtrace.profiling.profiler import Profiler
        from ddtrace.profiling.collector.threading import _ProfiledThreadingLock as Theirs
        profiler = Profiler()
        profiler.start()
        """,
        "profiler.stop(flush=False)",
    ),
}
QUIET_DDTRACE = {
    "DD_TRACE_AGENT_URL": "http://127.0.0.1:1",  # nobody is there
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_PROFILING_LOCK_ENABLED": "true",
    "DD_PROFILING_CAPTURE_PCT": "100",
}


@order
@pytest.mark.parametrize("ours_ends_first", [True, False], ids=["ours-ends-first", "theirs-ends-first"])
@pytest.mark.parametrize("what", DDTRACE)
def test_ddtrace(what: str, ours_first: bool, ours_ends_first: bool) -> None:
    needs("ddtrace", until=(3, 15))
    program = """
    total = 0
    def add():
        global total
        for _ in range(1000):
            with lock:
                total += 1
    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = threading.RLock()
    with again, again: pass
    ready = threading.Condition()
    with ready:
        timed_out = not ready.wait(0.01)
    result = {"total": total, "timed out": timed_out, "recorded": [waits_are_recorded(), recorded_in_a_child()]}
    result["theirs"] = "Theirs" not in globals() or isinstance(lock, Theirs) and isinstance(threading.Lock(), Theirs)
    """
    theirs, end = DDTRACE[what]
    done = run(theirs, program, end, ours_first=ours_first, ours_ends_first=ours_ends_first, **QUIET_DDTRACE)
    assert done == {"total": 4000, "timed out": True, "recorded": [True, True], "theirs": True}


APP = """
import threading
lock = threading.Lock()
def wait():
    with lock: pass
for _ in range(10):
    with lock:
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(0.02)
    thread.join()
print(type(threading.Lock).__module__)
"""


@pytest.mark.parametrize("ours_first", [True, False], ids=["inside-ours", "inside-theirs"])
def test_ddtrace_run_and_tracedthread_run_one_inside_the_other(tmp_path: Path, ours_first: bool) -> None:
    needs("ddtrace", until=(3, 15))
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    theirs = shutil.which("ddtrace-run", path=str(Path(sys.executable).parent))
    assert theirs is not None
    ours = [sys.executable, "-m", "tracedthread", "run", "--follow-fork", "-o", "app.ttc"]
    command = [*ours, theirs, sys.executable, "app.py"] if ours_first else [theirs, *ours, "app.py"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=clean_environment(ROOT, DD_PROFILING_ENABLED="true", **QUIET_DDTRACE),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ddtrace.profiling.collector._lock" in done.stdout
    waits = [
        row.stats.contended
        for file in tmp_path.glob("*.ttc")
        for row in Profile.from_capture(Capture.open(file)).locks
        if row.name == "app.lock"
    ]
    assert len(waits) == 1 and 1 <= waits[0] <= 10
