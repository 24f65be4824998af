"""
Blame pushed to Pyroscope by programs as people start them: `tracedthread run --pyroscope-url`, an instrumentation.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import distribution
import pytest
from clean_environment import clean_environment

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from pyroscope_server import FakePyroscope

ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, "-m", "tracedthread", "run", "-q"]

PROGRAM = """
    import threading, time
    class Cache:
        def __init__(self):
            self.lock = threading.Lock()
        def report(self):
            with self.lock:
                has.set()
                time.sleep(0.15)
    def wait():
        holder = threading.Thread(target=cache.report)
        holder.start()
        has.wait()
        with cache.lock:
            pass
        holder.join()
    has, cache = threading.Event(), Cache()
"""


def start(
    folder: Path, command: list[str], program: str, *, paths: tuple[Path, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(textwrap.dedent(PROGRAM) + textwrap.dedent(program), encoding="utf-8")
    result = subprocess.run(
        command,
        cwd=folder,
        env=clean_environment(*paths, ROOT, **({"PYTHONWARNINGS": "ignore"} | env)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result


def blame(server: FakePyroscope, index: int = 0) -> dict[tuple[str, str], tuple[int, int]]:
    """Contentions and delay of the programs' lock by lock and innermost function."""
    samples = server.pushes[index].samples.items()
    return {(lock, stack[0]): value for (lock, stack), value in samples if lock == "Cache.lock"}


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        (["--pyroscope-url", "URL"], {}),
        (["--pyroscope-url=URL/ingest"], {}),
        ([], {"TRACEDTHREAD_PYROSCOPE_URL": "URL/"}),
        (["--pyroscope-url=URL"], {"TRACEDTHREAD_PYROSCOPE_URL": "http://127.0.0.1:1"}),
    ],
)
def test_run_pushes_at_the_programs_end(tmp_path: Path, arguments: list[str], env: dict[str, str]) -> None:
    with FakePyroscope() as server:
        command = [*RUN, *(word.replace("URL", server.url) for word in arguments), "program.py"]
        result = start(tmp_path, command, "wait()", **{k: v.replace("URL", server.url) for k, v in env.items()})
        assert (result.stdout, result.stderr) == ("", "")
        (found,) = blame(server).items()
    (lock, function), (contentions, delay_ns) = found
    assert (lock, function.rpartition(".")[2], contentions) == ("Cache.lock", "report", 1)
    assert 0.1e9 < delay_ns < 10e9
    assert server.pushes[0].labels["service_name"] == "program.py"


def test_who_it_is_and_who_asks_are_told_as_the_environment_says(tmp_path: Path) -> None:
    with FakePyroscope() as server:
        env = {
            "OTEL_SERVICE_NAME": "shop",
            "OTEL_RESOURCE_ATTRIBUTES": "service.name=x,deployment.environment.name=a%20b,host.name=h,service.namespace=",
            "TRACEDTHREAD_PYROSCOPE_HEADERS": "X-Scope-OrgID=team",
        }
        start(tmp_path, [*RUN, "--pyroscope-url", server.url, "program.py"], "wait()", **env)
    labels = server.pushes[0].labels
    assert labels["service_name"] == "shop"
    assert labels["deployment_environment_name"] == "a b"
    assert not {"host_name", "service_namespace"} & set(labels)
    assert server.headers[0]["X-Scope-OrgID"] == "team"


def test_a_program_shorter_than_the_recorders_first_look_pushes_too(tmp_path: Path) -> None:
    program = """
        cache.lock.acquire()
        threading.Thread(target=cache.lock.acquire, daemon=True).start()
        time.sleep(0.05)
        cache.lock.release()
    """
    with FakePyroscope() as server:
        start(tmp_path, [*RUN, "--pyroscope-url", server.url, "program.py"], program)
        assert sum(holds for holds, _ in blame(server).values()) == 1


def test_children_and_subprocesses_push_for_themselves(tmp_path: Path) -> None:
    program = """
        import os, subprocess, sys
        if os.fork() == 0:
            wait()
            sys.exit()
        assert os.wait()[1] == 0
        if not os.environ.get("INNER"):
            subprocess.run([sys.executable, "program.py"], env={**os.environ, "INNER": "1"}, check=True)
    """
    with FakePyroscope() as server:
        start(tmp_path, [*RUN, "--follow-fork", "--pyroscope-url", server.url, "program.py"], program)
        found = [blame(server, index) for index in range(len(server.pushes))]
    assert sum(contentions for one in found for contentions, _ in one.values()) == 2
    sessions = {push.labels["__session_id__"] for push, one in zip(server.pushes, found) if one}
    assert len(sessions) == 2


def test_a_url_that_is_none_is_said_without_its_password(tmp_path: Path) -> None:
    result = start(tmp_path, [*RUN, "program.py"], "print(1)", TRACEDTHREAD_PYROSCOPE_URL="user:secret@host")
    line = "tracedthread: TRACEDTHREAD_PYROSCOPE_URL: not a URL such as http://localhost:4040; pushing no profiles\n"
    assert (result.stdout, result.stderr) == ("1\n", line)
    command = [*RUN, "--pyroscope-url", "user:secret@host", "program.py"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "argument --pyroscope-url: not a URL such as http://localhost:4040" in refused.stderr
    assert "secret" not in refused.stderr


def test_without_a_server_the_program_runs_as_it_would(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        result = start(tmp_path, [*RUN, "--pyroscope-url", url, "program.py"], "wait(); print('done')")
    assert result.stdout == "done\n"
    assert result.stderr == (
        f"tracedthread: profiles cannot be delivered to {url} (connection refused); the program goes on without\n"
        f"tracedthread: not delivered: 1 of 1 profiles to {url} (connection refused)\n"
    )


def test_without_protobuf_one_line_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "away" / "google").mkdir(parents=True)
    (tmp_path / "away" / "google" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "away" / "google" / "protobuf.py").write_text("raise ImportError('none')", encoding="utf-8")
    command = [*RUN, "--pyroscope-url", "http://127.0.0.1:1", "program.py"]
    result = start(tmp_path, command, "print(1)", paths=(tmp_path / "away",))
    assert result.stdout == "1\n"
    assert result.stderr.count("\n") == 1
    assert "pip install 'tracedthread[pyroscope]'" in result.stderr


def test_opentelemetry_instrument_pushes_as_the_service_of_the_traces(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.instrumentation")
    distribution.write_ours(tmp_path / "found")
    program = """
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        trace.set_tracer_provider(TracerProvider(resource=Resource({"service.name": "of-the-traces"})))
        wait()
    """
    with FakePyroscope() as server:
        env = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
        env |= {"TRACEDTHREAD_PYROSCOPE_URL": server.url}
        env |= {"OTEL_PYTHON_CONFIGURATOR": "none"}  # the provider is the program's, also where the distro is installed
        start(
            tmp_path,
            [*distribution.INSTRUMENT, sys.executable, "program.py"],
            program,
            paths=(tmp_path / "found",),
            **env,
        )
        assert len(blame(server)) == 1
    assert server.pushes[0].labels["service_name"] == "of-the-traces"


def test_the_instrumentor_has_an_option_for_it_and_can_stop(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.instrumentation")
    program = """
        import os
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from tracedthread.otel.instrumentor import TracedThreadInstrumentor
        provider = TracerProvider(resource=Resource({"service.name": "given"}))
        for _ in range(2):
            TracedThreadInstrumentor().instrument(tracer_provider=provider, pyroscope_url=os.environ["URL"])
            cache = Cache()
            has.clear()
            wait()
            TracedThreadInstrumentor().uninstrument()
    """
    with FakePyroscope() as server:
        start(tmp_path, [sys.executable, "program.py"], program, URL=server.url)
    assert [sum(holds for holds, _ in blame(server, index).values()) for index in range(2)] == [1, 1]
    assert {push.labels["service_name"] for push in server.pushes} == {"given"}
    assert not server.refused
