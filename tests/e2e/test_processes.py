"""
Processes that fork, in all the ways there are: each reports itself, nothing is counted twice, and none hangs.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from clean_environment import clean_environment

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from sink import Answer, Sink
from waits import WAITS

ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, "-m", "tracedthread", "run", "-q"]


def environment(folder: Path, **more: str) -> dict[str, str]:
    env = {"OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_METRIC_EXPORT_INTERVAL": "500"}
    # Every lock by its name: the first waits of one that was not among the worst are told without it.
    env |= {"TRACEDTHREAD_ROOT_SPAN_THRESHOLD_MS": "20", "TRACEDTHREAD_METRICS_TOP": "1000"}
    return clean_environment(ROOT, folder, **(env | more))


def run(folder: Path, arguments: list[str], program: str, **env: str) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(WAITS + textwrap.dedent(program), encoding="utf-8")
    result = subprocess.run(
        [*RUN, *arguments, "program.py"],
        cwd=folder,
        env=environment(folder, **env),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result


def waits_by_process(sink: Sink) -> list[int]:
    """
    How many waits each instance of the service has told of. By span, by histogram and by counter it is the same.
    """
    assert len({span.id for span in sink.spans("lock.wait")}) == len(sink.spans("lock.wait"))
    by_span: dict[str, int] = defaultdict(int)
    for span in sink.spans("lock.wait"):
        by_span[span.resource["service.instance.id"]] += 1
    by_metric = []
    for metric in ("tracedthread.lock.wait.duration", "tracedthread.lock.contentions"):
        last: dict[tuple[str, str], float] = {}
        for point in sink.points(metric):
            if point.attributes["tracedthread.lock.name"] == "wait.lock":
                key = point.resource["service.instance.id"], str(point.attributes)
                number = point.samples or point.value
                assert number >= last.get(key, 0), "a sum that shrinks"
                last[key] = number
        found: dict[str, float] = defaultdict(float)
        for (instance, _), value in last.items():
            found[instance] += value
        by_metric.append({instance: value for instance, value in found.items() if value})
    assert dict(by_span) == by_metric[0] == by_metric[1]
    return sorted(by_span.values())


@pytest.mark.parametrize("ending", ["sys.exit(0)", "time.sleep(2.5); os._exit(0)"])
def test_raw_fork(tmp_path: Path, ending: str) -> None:
    program = f"""
        wait(1)
        children = []
        for number in (2, 3):
            if (pid := os.fork()) == 0:
                wait(number)
                {ending}
            children.append(pid)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        wait(4)
        """
    with Sink() as sink:
        result = run(tmp_path, ["--otlp-endpoint", sink.endpoint], program)
        assert waits_by_process(sink) == [2, 3, 5]
    assert "tracedthread" not in result.stderr


def test_a_child_that_can_start_no_thread_at_its_end_reports_itself(tmp_path: Path) -> None:
    """As any that ends soon on 3.12: its providers are made as it ends."""
    program = """
        wait(1)
        if os.fork() == 0:
            wait(2)
            def refuse(self): raise RuntimeError("can't create new thread at interpreter shutdown")
            threading.Thread.start = refuse
        else:
            assert os.wait()[1] == 0
        """
    with Sink() as sink:
        result = run(tmp_path, ["--otlp-endpoint", sink.endpoint], program)
        assert waits_by_process(sink) == [1, 2]
    assert "tracedthread" not in result.stderr


def test_children_of_children_and_a_named_instance(tmp_path: Path) -> None:
    program = """
        wait(1)
        if os.fork() == 0:
            wait(2)
            if os.fork() == 0:
                wait(4)
            else:
                assert os.wait()[1] == 0
        else:
            assert os.wait()[1] == 0
        """
    with Sink() as sink:
        run(tmp_path, ["--otlp-endpoint", sink.endpoint], program, OTEL_RESOURCE_ATTRIBUTES="service.instance.id=me")
        assert waits_by_process(sink) == [1, 2, 4]
        [parent] = [span for span in sink.spans("lock.wait") if span.resource["service.instance.id"] == "me"]
        assert {span.resource["process.pid"] for span in sink.spans("lock.wait")} > {parent.resource["process.pid"]}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(tmp_path: Path, method: str) -> None:
    program = f"""
        import multiprocessing
        if __name__ == "__main__":
            context = multiprocessing.get_context("{method}")
            children = [context.Process(target=wait, args=(number,)) for number in (2, 3)]
            for child in children: child.start()
            for child in children: child.join()
            assert [child.exitcode for child in children] == [0, 0]
            wait(1)
        """
    with Sink() as sink:
        run(tmp_path, ["--otlp-endpoint", sink.endpoint, "--follow-fork"], program)
        assert waits_by_process(sink) == [1, 2, 3]


# The parent forks while its exporters, and the locks that the SDK keeps meanwhile, are busy in other threads.
HELD = """
    import contextlib
    from opentelemetry import metrics, trace
    def locks_of(*roots):
        "All locks that can be reached from these objects of the SDK."
        seen, found, todo = set(), [], list(roots)
        while todo:
            one = todo.pop()
            if id(one) in seen: continue
            seen.add(id(one))
            if hasattr(one, "acquire") and hasattr(one, "release") and not isinstance(one, threading.Condition):
                found.append(one)
            elif isinstance(one, dict): todo += [*one.values()]
            elif isinstance(one, (list, tuple, set)): todo += [*one]
            elif type(one).__module__.startswith(("opentelemetry", "tracedthread.otel", "threading")):
                todo += [*getattr(one, "__dict__", {}).values()]
        return found
    def fork_while_held(locks, number):
        stop, held = threading.Event(), threading.Event()
        def hold():
            taken = [lock for lock in locks if lock.acquire(timeout=1)]
            held.set()
            stop.wait()
            for lock in taken: lock.release()
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        pid = os.fork()
        if pid == 0:
            wait(number)
            return True
        stop.set()
        holder.join()
        give_up = time.monotonic() + 40
        while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > give_up:
                os.kill(pid, 9)
                raise SystemExit("the child hangs")
            time.sleep(0.05)
        assert ended[1] == 0
        return False
"""


def test_a_child_of_a_parent_whose_providers_are_locked_reports_itself(tmp_path: Path) -> None:
    program = (
        textwrap.dedent(HELD)
        + """
from tracedthread.otel import setup
[private] = setup._sinks
providers = [ending._provider for ending in private._providers._endings]
locks = locks_of(providers, private._providers._exporters)
assert len(locks) > 10, locks
wait(1)
fork_while_held(locks, 2)
"""
    )
    with Sink() as sink:
        run(tmp_path, ["--otlp-endpoint", sink.endpoint], program)
        assert waits_by_process(sink) == [1, 2]


def test_a_child_forked_while_the_collector_is_slow_reports_itself(tmp_path: Path) -> None:
    program = """
        wait(1)
        time.sleep(1.2)                      # the exporters wait for their answers
        if os.fork() == 0:
            wait(2)
        else:
            assert os.wait()[1] == 0
        """
    with Sink(Answer(delay_s=0.4)) as sink:
        run(tmp_path, ["--otlp-endpoint", sink.endpoint], program)
        assert waits_by_process(sink) == [1, 2]


OWN = """
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])
    metrics.set_meter_provider(meters)
    from tracedthread.otel.setup import start
    assert start()
"""


def sdk_version() -> tuple[int, ...]:
    from opentelemetry.sdk.version import __version__

    return tuple(int(part) for part in __version__.split(".")[:2])


@pytest.mark.skipif(sdk_version() < (1, 42), reason="before 1.42 a forked child keeps its parent's service.instance.id")
def test_children_of_a_program_with_its_own_providers(tmp_path: Path) -> None:
    program = (
        textwrap.dedent(OWN)
        + """
wait(1)
if os.fork() == 0:
    wait(2)
else:
    assert os.wait()[1] == 0
"""
    )
    with Sink() as sink:
        run(tmp_path, [], program, OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint)
        assert waits_by_process(sink) == [1, 2]


def test_a_child_of_a_program_whose_own_providers_are_locked_is_not_held_up_by_us(tmp_path: Path) -> None:
    """Its end may be held up by the SDK, whose locks these are; so it ends without."""
    program = (
        textwrap.dedent(OWN)
        + textwrap.dedent(HELD)
        + """
wait(1)
if fork_while_held(locks_of(provider, meters), 2):
    print("the child's work is done", flush=True)
    os._exit(0)
"""
    )
    with Sink() as sink:
        result = run(tmp_path, [], program, OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint)
    assert "the child's work is done" in result.stdout


APP = """
def app(environ, start_response):
    wait()
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.skipif(not find_spec("gunicorn"), reason="gunicorn is not installed: make test has it (group `services`)")
@pytest.mark.parametrize("arguments", [[], ["--preload"], ["-k", "gthread", "--threads", "4"]], ids=" ".join)
def test_gunicorn(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "service.py").write_text(WAITS + APP, encoding="utf-8")
    port = free_port()
    with Sink() as sink:
        command = [*RUN, "--otlp-endpoint", sink.endpoint, "-m", "gunicorn", "-w", "2", "-b", f"127.0.0.1:{port}"]
        server = subprocess.Popen(
            [*command, *arguments, "service:app"],
            cwd=tmp_path,
            env=environment(tmp_path),
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            served: dict[str, int] = defaultdict(int)
            give_up = time.monotonic() + 30
            while len(served) < 2 or sum(served.values()) < 8:
                assert time.monotonic() < give_up, served
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as response:
                        served[response.read().decode()] += 1
                except OSError:
                    time.sleep(0.1)
        finally:
            server.send_signal(signal.SIGTERM)
            _, err = server.communicate(timeout=40)
        assert server.returncode == 0, err
        assert waits_by_process(sink) == sorted(served.values())
    assert "tracedthread" not in err
    assert "Traceback" not in err


CELERY = """
from celery import Celery
app = Celery("tasks", broker="filesystem://", backend="cache+memory://")
folder = os.environ["QUEUE"]
app.conf.broker_transport_options = {
    "data_folder_in": folder, "data_folder_out": folder, "control_folder": folder + "-control"}
@app.task
def task():
    wait()
    with open(os.environ["DONE"], "a") as file:
        file.write(f"{os.getpid()}\\n")
"""


@pytest.mark.skipif(not find_spec("celery"), reason="Celery is not installed: make test has it (group `services`)")
def test_celery_prefork(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(WAITS + CELERY, encoding="utf-8")
    for name in ("queue", "queue-control"):
        (tmp_path / name).mkdir()
    done = tmp_path / "done"
    env = environment(tmp_path, QUEUE=str(tmp_path / "queue"), DONE=str(done), C_FORCE_ROOT="1")
    subprocess.run(
        [sys.executable, "-c", "import tasks\nfor _ in range(6): tasks.task.delay()"],
        cwd=tmp_path,
        env=env,
        check=True,
        timeout=60,
    )
    with Sink() as sink:
        command = [*RUN, "--otlp-endpoint", sink.endpoint, "-m", "celery", "-A", "tasks", "worker", "--pool", "prefork"]
        worker = subprocess.Popen(
            [*command, "-c", "2", "--without-gossip", "--without-mingle", "--without-heartbeat"],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            give_up = time.monotonic() + 40
            while not done.exists() or len(done.read_text().splitlines()) < 6:
                assert time.monotonic() < give_up
                time.sleep(0.1)
        finally:
            worker.send_signal(signal.SIGTERM)
            out, _ = worker.communicate(timeout=40)
        by_pid: dict[str, int] = defaultdict(int)
        for pid in done.read_text().split():
            by_pid[pid] += 1
        assert worker.returncode == 0, out
        assert task_waits(sink) == sorted(by_pid.values())
    assert "tracedthread:" not in out


def task_waits(sink: Sink) -> list[int]:
    """As `waits_by_process`, of the tasks' own lock: Celery has others."""
    by_span: dict[Any, int] = defaultdict(int)
    for span in sink.spans("lock.wait"):
        if span.attributes["tracedthread.lock.name"] == "wait.lock":
            by_span[span.resource["service.instance.id"]] += 1
    return sorted(by_span.values())
