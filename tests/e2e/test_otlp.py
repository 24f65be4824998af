"""
`tracedthread run --otlp PROGRAM`: exported by providers that the program does not see, and that do not see it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from clean_environment import clean_environment

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from sink import Answer, Sink
from waits import WAITS

ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, "-m", "tracedthread", "run", "-q"]
QUIET_FORKS = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}  # from 3.12 on one beside a thread is warned of


def environment(**more: str) -> dict[str, str]:
    return clean_environment(ROOT, **more)


def run(
    folder: Path, arguments: list[str], program: str, *, head: str = WAITS, **env: str
) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(head + textwrap.dedent(program), encoding="utf-8")
    return subprocess.run(
        [*RUN, *arguments, "program.py"],
        cwd=folder,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_waits_arrive_as_spans_of_the_service_that_the_environment_names(tmp_path: Path) -> None:
    with Sink() as sink:
        env = {"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}
        result = run(tmp_path, ["--otlp"], "wait(3)", OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint, **env)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        spans = sink.spans("lock.wait")
    assert len(spans) == 3
    for span in spans:
        assert span.resource["service.name"] == "shop"
        assert span.resource["deployment.environment.name"] == "test"
        assert span.resource["service.instance.id"]
        assert span.attributes["code.function.name"] == "wait"
        assert span.attributes["tracedthread.holder.code.function.name"].endswith("hold")
        assert 0.1 < span.seconds < 10


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        (["--otlp-endpoint", "URL"], {}),
        (["--otlp-endpoint=URL/"], {}),
        (["--otlp-endpoint=URL/v1/traces"], {}),
        ([], {"TRACEDTHREAD_OTLP_ENDPOINT": "URL"}),
        ([], {"TRACEDTHREAD_OTLP": "1", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "URL/v1/traces"}),
        # What is given for us goes before what is given for all.
        (["--otlp-endpoint", "URL"], {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}),
    ],
)
def test_endpoint_can_be_given_in_several_ways(tmp_path: Path, arguments: list[str], env: dict[str, str]) -> None:
    with Sink() as sink:
        arguments = [word.replace("URL", sink.endpoint) for word in arguments]
        env = {key: value.replace("URL", sink.endpoint) for key, value in env.items()}
        env.setdefault("OTEL_METRICS_EXPORTER", "none")
        result = run(tmp_path, arguments, "wait()", **env)
        assert (result.returncode, result.stderr) == (0, "")
        [span] = sink.spans("lock.wait")
    assert span.resource["service.name"] == "unknown_service:program.py"


def test_the_program_gets_its_own_modules_and_none_of_ours_runs_its_code(tmp_path: Path) -> None:
    mine = ("uuid", "gzip", "platform", "http_helper")
    for name in mine:
        (tmp_path / f"{name}.py").write_text("print('loaded', __name__); MINE = True", encoding="utf-8")
    program = f"""
        print("begins")
        wait(2)
        time.sleep(1.5)
        for name in {mine}:
            assert __import__(name).MINE, name
        """
    with Sink() as sink:
        result = run(tmp_path, ["--otlp-endpoint", sink.endpoint], program, OTEL_BSP_SCHEDULE_DELAY="200")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.splitlines() == ["begins", *(f"loaded {name}" for name in mine)]
        assert len(sink.spans("lock.wait")) == 2


@pytest.mark.parametrize("file", ["requests.py", "urllib3/__init__.py", "google.py"])
def test_what_the_exporters_are_made_of_is_the_programs_if_it_has_that_too(tmp_path: Path, file: str) -> None:
    name = file.partition("/")[0].removesuffix(".py")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("print('loaded', __name__)", encoding="utf-8")
    (tmp_path / "certifi").mkdir()  # a folder is no module
    with Sink() as sink:
        result = run(tmp_path, ["--otlp-endpoint", sink.endpoint], f"wait()\ntime.sleep(1)\nimport {name}")
        assert (result.returncode, result.stdout) == (0, f"loaded {name}\n")
        assert result.stderr == (
            f"tracedthread: no telemetry: it needs a module '{name}' that is not the program's of that name\n"
        )


def test_a_program_beside_a_checkout_of_this_package_is_exported(tmp_path: Path) -> None:
    # No clash: this package has long been imported, whichever copy of it that is.
    (tmp_path / "tracedthread").symlink_to(ROOT / "tracedthread")
    with Sink() as sink:
        result = run(tmp_path, ["--otlp-endpoint", sink.endpoint], "wait()")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        assert len(sink.spans("lock.wait")) == 1


def test_nothing_is_imported_for_us_once_the_program_runs(tmp_path: Path) -> None:
    program = """
        wait(2)
        time.sleep(1.5)
        print(sorted(set(sys.modules) - BEFORE - {"threading", "time"}))
        """
    with Sink() as sink:
        head = "import sys\nBEFORE = set(sys.modules)\n" + WAITS
        env = {"OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_METRIC_EXPORT_INTERVAL": "300"}
        result = run(tmp_path, ["--otlp-endpoint", sink.endpoint], program, head=head, **env)
        assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")
        assert len(sink.spans("lock.wait")) == 2


def test_the_programs_garbage_collections_do_not_go_through_what_is_imported_for_us(tmp_path: Path) -> None:
    program = """
        import gc
        classes = [one for one in gc.get_objects() if type(one) is type]
        print([one for one in classes if one.__module__.startswith("opentelemetry.sdk.")])
        import opentelemetry.sdk.trace  # it is there
        print(isinstance(opentelemetry.sdk.trace.TracerProvider, type))
        """
    result = run(tmp_path, ["--otlp-endpoint", "http://127.0.0.1:1"], program, head="", OTEL_METRICS_EXPORTER="none")
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\nTrue\n", "")


def test_without_telemetry_opentelemetry_is_not_even_imported(tmp_path: Path) -> None:
    program = "import sys; print([name for name in sys.modules if name.partition('.')[0] == 'opentelemetry'])"
    assert run(tmp_path, [], program, head="").stdout == "[]\n"


def test_a_program_that_sets_up_opentelemetry_itself_is_not_disturbed(tmp_path: Path) -> None:
    program = """
        import logging
        logging.basicConfig(level=logging.DEBUG)
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        memory = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(memory))
        trace.set_tracer_provider(provider)
        meters = MeterProvider()
        metrics.set_meter_provider(meters)
        assert trace.get_tracer_provider() is provider and metrics.get_meter_provider() is meters
        wait()
        time.sleep(1)
        assert memory.get_finished_spans() == ()
        """
    with Sink() as sink:
        result = run(tmp_path, ["--otlp-endpoint", sink.endpoint], program, OTEL_BSP_SCHEDULE_DELAY="200")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        assert len(sink.spans("lock.wait")) == 1


def test_missing_extra_is_one_line_and_the_program_runs_on(tmp_path: Path) -> None:
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text(
        "import sys\nfor name in ('opentelemetry.exporter', 'prometheus_client'): sys.modules[name] = None\n",
        encoding="utf-8",
    )
    path = os.pathsep.join([str(tmp_path / "hide"), str(ROOT)])
    for option, extra in (("--otlp", "otlp"), ("--prometheus-listen=:0", "prometheus")):
        result = run(tmp_path, [option], "print('ran')", PYTHONPATH=path)
        assert (result.returncode, result.stdout) == (0, "ran\n")
        assert result.stderr.count("\n") == 1
        assert result.stderr.endswith(f"pip install 'tracedthread[{extra}]'\n")


def test_a_protocol_that_is_not_spoken_is_one_line(tmp_path: Path) -> None:
    result = run(tmp_path, ["--otlp"], "print('ran')", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert (result.returncode, result.stdout) == (0, "ran\n")
    assert result.stderr.startswith("tracedthread: no telemetry: --otlp speaks http/protobuf, not grpc")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--otlp-endpoint", "localhost:4318"], "is not a URL such as"),
        (["--otlp-endpoint"], "expected one argument"),
        (["--prometheus-listen", "here"], "is not ADDR:PORT"),
    ],
)
def test_usage_errors(tmp_path: Path, arguments: list[str], message: str) -> None:
    command = [*RUN, *arguments, *(["program.py"] if len(arguments) > 1 else [])]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 2
    assert message in result.stderr


@pytest.mark.parametrize("trouble", ["down", "slow", "503", "garbage"])
def test_a_collector_in_trouble_costs_two_lines_and_little_time(tmp_path: Path, trouble: str) -> None:
    program = """
        wait(2)
        print("done", flush=True)
        """
    kinds = {"slow": Answer(delay_s=30.0), "503": Answer(503), "garbage": Answer(418)}
    with Sink(kinds.get(trouble)) as sink:
        url = "http://127.0.0.1:1" if trouble == "down" else sink.endpoint
        (tmp_path / "program.py").write_text(WAITS + textwrap.dedent(program), encoding="utf-8")
        process = subprocess.Popen(
            [*RUN, "--otlp-endpoint", url, "program.py"],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        began = time.monotonic()
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 20  # 2 s and what a busy machine makes of them
        assert (process.returncode, out) == (0, "")
        lines = err.splitlines()
        numbers, _, where = lines[-1].partition(" to ")
        spans = "tracedthread: not delivered: 2 of 2 spans"
        assert numbers.startswith(spans)
        others = {"1 of 1 exports of metrics", "1 of 1 exports of histograms"}  # if it came to them in time
        assert {*numbers.removeprefix(spans).split(", ")} <= {"", *others}
        reasons = {"down": "connection refused", "slow": "no answer in time", "503": "HTTP 503", "garbage": "HTTP 418"}
        assert where.startswith(f"{url} ({reasons[trouble]})")
        failures = [line for line in lines[:-1] if line.startswith("tracedthread: telemetry cannot be delivered to ")]
        assert failures == lines[:-1]
        assert (
            len(failures) == 1 if trouble == "garbage" else len(failures) <= 1
        )  # else it may be tried again until then


def test_a_child_says_which_process_could_not_deliver_and_no_password(tmp_path: Path) -> None:
    program = """
        import os
        wait()
        if (pid := os.fork()) == 0:
            wait()
        else:
            assert os.wait()[1] == 0
            print(pid)
        """
    result = run(tmp_path, ["--otlp-endpoint", "http://me:secret@127.0.0.1:1"], program)
    lines = [line for line in result.stderr.splitlines() if line.startswith("tracedthread: not delivered: ")]
    reason = "to http://127.0.0.1:1 (connection refused)"
    assert [line[line.index(" to ") + 1 :] for line in lines] == [
        f"{reason} from process {result.stdout.strip()}",
        reason,
    ]


def test_histograms_alone_that_are_refused_are_said_by_each_process(tmp_path: Path) -> None:
    program = """
        pid = os.fork()
        lock = threading.Lock()
        for _ in range(1000):
            with lock: pass
        if pid != 0:
            assert os.wait()[1] == 0
        """

    class Picky(Sink):
        def _receive(self, path: str, body: bytes) -> Answer:
            return Answer(400) if b"lock.hold.duration" in body else super()._receive(path, body)

    with Picky() as sink:
        result = run(tmp_path, ["--otlp-endpoint", sink.endpoint], program)
        assert (result.returncode, result.stdout) == (0, "")
        lines = [line for line in result.stderr.splitlines() if "not delivered" in line]
        told = f"tracedthread: not delivered: 1 of 1 exports of histograms to {sink.endpoint} (HTTP 400)"
        assert len(lines) == 2
        assert lines[0].startswith(f"{told} from process ")
        assert lines[1] == told
        assert sink.points("tracedthread.lock.acquisitions")


def test_children_that_end_at_once_tell_all_the_same(tmp_path: Path) -> None:
    program = """
        lock = threading.Lock()
        for _ in range(5):
            if os.fork() == 0:
                for _ in range(1000):
                    with lock: pass
                sys.exit()
            assert os.wait()[1] == 0
        """
    with Sink() as sink:
        env = {"OTEL_RESOURCE_ATTRIBUTES": "tier=web", **QUIET_FORKS}
        result = run(tmp_path, ["--otlp-endpoint", sink.endpoint], program, **env)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        told = [one for one in sink.points("tracedthread.lock.holds") if one.value >= 1000]
        assert len({one.resource["service.instance.id"] for one in told}) == 5
        assert {one.resource["tier"] for one in told} == {"web"}


def test_exemplars_are_of_what_a_process_has_waited_itself(tmp_path: Path) -> None:
    program = """
        from tracedthread.otel import setup
        def known(): return sum(len(one) for one in list(setup._sinks[0]._exemplars._series.values()))
        wait()
        end = time.monotonic() + 30
        while not known() and time.monotonic() < end: time.sleep(0.01)
        assert known() == 1
        if os.fork() == 0:
            time.sleep(1)
            os._exit(known())
        assert os.wait()[1] == 0
        """
    with Sink() as sink:
        result = run(tmp_path, ["--otlp-endpoint", sink.endpoint], program, **QUIET_FORKS)
        assert (result.returncode, result.stderr) == (0, "")


def test_spans_that_are_not_exported_are_no_exemplars(tmp_path: Path) -> None:
    with Sink() as sink:
        result = run(tmp_path, ["--otlp-endpoint", sink.endpoint], "wait()", OTEL_TRACES_EXPORTER="none")
        assert (result.returncode, result.stderr) == (0, "")
        points = sink.points("tracedthread.lock.wait.duration")
        assert points
        assert not any(point.exemplars for point in points)
        assert not sink.spans()


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_histograms_can_be_left_out(tmp_path: Path, wanted: str) -> None:
    with Sink() as sink:
        result = run(tmp_path, ["--otlp-endpoint", sink.endpoint], "wait()", TRACEDTHREAD_OTLP_HISTOGRAMS=wanted)
        assert (result.returncode, result.stderr) == (0, "")
        assert sink.points("tracedthread.lock.contentions")
        assert bool(sink.points("tracedthread.lock.wait.duration")) == (wanted == "1")
