"""
One endpoint for a prefork server: the sum over its processes, living and dead, each counted once.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]

# What a program can do; it is told by lines on stdin, and answers each with one.
PROGRAM = """
    import json, os, signal, subprocess, sys, threading, time, tracedthread
    tracedthread.patch()
    from tracedthread import prometheus

    class Cache:
        def __init__(self):
            self._lock = threading.Lock()

    cache = Cache()

    def use(times):
        for _ in range(times):
            with cache._lock:
                pass

    server = prometheus.listen("0")
    print(json.dumps(server.address), flush=True)

    def worker(times, grandchildren=0):
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            use(times)
            for _ in range(grandchildren):
                if os.fork() == 0:
                    use(times)
                    os.write(w, b".")
                    time.sleep(600)
            os.write(w, b".")
            time.sleep(600)
        for _ in range(1 + grandchildren):
            os.read(r, 1)
        os.close(r)
        os.close(w)
        return pid

    def short_lived(number, times):
        for _ in range(number):
            if os.fork() == 0:
                use(times)
                os.kill(os.getpid(), signal.SIGKILL)
            os.wait()

    def execute(code):
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            use(2)
            os.dup2(w, 1)
            os.execv(sys.executable, [sys.executable, "-c", code])
        os.read(r, 1)
        return pid

    def end(pid, how):
        os.kill(pid, how)
        os.waitpid(pid, 0)

    for line in sys.stdin:
        print(json.dumps(eval(line)), flush=True)
"""


class Program:
    """The program, and its endpoint."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.host, self.port = self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the program has ended"
        return json.loads(line)

    def do(self, expression: str) -> Any:
        assert self.process.stdin is not None
        print(expression, file=self.process.stdin, flush=True)
        return self._answer()

    def get(self, query: str = "") -> dict[str, dict[tuple[str, ...], float]]:
        """Values by name and labels."""
        return scrape(f"http://{self.host}:{self.port}/metrics{query}")

    def acquisitions(self) -> float:
        return of_cache(self.get())


def scrape(url: str) -> dict[str, dict[tuple[str, ...], float]]:
    with urllib.request.urlopen(url, timeout=30) as response:
        text = response.read().decode()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


def of_cache(found: dict[str, dict[tuple[str, ...], float]]) -> float:
    return sum(
        value for labels, value in found["tracedthread_lock_acquisitions_total"].items() if "Cache._lock" in labels
    )


@contextmanager
def running() -> Iterator[Program]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PROGRAM)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield Program(process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def program() -> Iterator[Program]:
    with running() as program:
        yield program


def test_the_sum_is_exact_and_a_killed_worker_stays_in_it(program: Program) -> None:
    program.do("use(5)")
    pids = [program.do("worker(1000)") for _ in range(3)]
    assert program.acquisitions() == 3005
    program.do(f"end({pids[0]}, signal.SIGKILL)")
    program.do(f"end({pids[1]}, signal.SIGTERM)")
    assert program.acquisitions() == 3005
    program.do("worker(100)")
    found = program.get()
    assert of_cache(found) == 3105
    assert found["tracedthread_worker_count"] == {("living",): 3, ("ended",): 2, ("unreadable",): 0}
    assert found["tracedthread_thread_count"][()] == 3  # the dead have no threads


def test_with_a_label_for_each_worker_they_add_up_to_the_sum(program: Program) -> None:
    program.do("use(5)")
    one, two = program.do("worker(10)"), program.do("worker(20)")
    program.do(f"end({one}, signal.SIGKILL)")
    found = program.get("?workers=1")["tracedthread_lock_acquisitions_total"]
    by_worker = {labels[-1]: value for labels, value in found.items() if "Cache._lock" in labels}
    assert by_worker == {str(program.process.pid): 5, str(two): 20, "retired": 10}
    total = program.get()["tracedthread_lock_acquisitions_total"]
    assert sum(found.values()) == pytest.approx(sum(total.values()), abs=200)  # our own requests use locks, too


def test_no_counter_goes_backwards_while_workers_come_and_go(program: Program) -> None:
    before: dict[str, dict[tuple[str, ...], float]] = {}
    pids: list[int] = []
    for times in range(1, 13):
        pids.append(program.do(f"worker({times * 50})"))
        if times % 3 == 0:
            program.do(f"end({pids.pop(0)}, signal.SIGKILL)")
        now = program.get()
        for name, series in before.items():
            if name.endswith(("_total", "_bucket", "_sum", "_count")) and name != "tracedthread_worker_count":
                if name in ("tracedthread_lock_waiter_count", "tracedthread_thread_count"):
                    continue
                for labels, value in series.items():
                    assert now[name][labels] >= value, (name, labels)
        before = now
    assert program.acquisitions() == sum(range(1, 13)) * 50


def test_grandchildren_count_once_and_outlive_their_parent_in_it(program: Program) -> None:
    child = program.do("worker(10, grandchildren=3)")
    assert program.acquisitions() == 40
    program.do(f"end({child}, signal.SIGKILL)")
    found = program.get()
    assert of_cache(found) == 40
    assert found["tracedthread_worker_count"] == {("living",): 4, ("ended",): 1, ("unreadable",): 0}


def test_workers_that_nobody_saw_alive_are_in_the_sum_and_cost_no_descriptors(program: Program) -> None:
    program.do("use(1)")
    program.do("short_lived(200, 7)")
    assert program.acquisitions() == 1401
    descriptors = "len(os.listdir('/proc/self/fd'))"
    before = program.do(descriptors)
    program.do("short_lived(200, 7)")
    assert program.do(descriptors) <= before + 70  # though nobody has asked meanwhile
    assert program.acquisitions() == 2801
    until = time.monotonic() + 10  # the answer is here before the endpoint has closed its end of the connection
    while program.do(descriptors) > before:
        assert time.monotonic() < until


def test_a_child_keeps_none_of_the_descriptors(program: Program) -> None:
    for _ in range(5):
        program.do("worker(1)")
    assert program.get()
    pid = program.do("worker(1)")
    links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    assert sum("memfd:tracedthread" in link for link in links) == 1  # its own
    listening = {
        line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    }
    assert not {link.strip("socket:[]") for link in links if link.startswith("socket:")} & listening


def test_a_worker_in_a_pid_namespace_of_its_own_counts_once(program: Program) -> None:
    program.do("use(5)")
    if program.do("__import__('ctypes').CDLL(None).unshare(0x20000000)"):  # CLONE_NEWPID
        pytest.skip("only root may make a pid namespace")
    pid = program.do("worker(1000)")
    for _ in range(3):
        assert program.acquisitions() == 1005
    assert program.get()["tracedthread_worker_count"] == {("living",): 2, ("ended",): 0, ("unreadable",): 0}
    program.do(f"end({pid}, signal.SIGKILL)")
    assert program.acquisitions() == 1005
    assert program.get()["tracedthread_worker_count"] == {("living",): 1, ("ended",): 1, ("unreadable",): 0}


def test_a_fork_that_executes_another_program_has_ended_and_what_that_records_counts(program: Program) -> None:
    program.do("use(5)")
    code = "cache = Cache(); use(30); print(flush=True); time.sleep(600)"
    recorded = "\n".join([*textwrap.dedent(PROGRAM).split("server =")[0].splitlines()[:-1], code])
    unrecorded = "import time; print(flush=True); time.sleep(600)"
    pid = program.do(f"execute({recorded!r})")
    for _ in range(3):
        assert program.acquisitions() == 37
    assert program.get()["tracedthread_worker_count"] == {("living",): 2, ("ended",): 1, ("unreadable",): 0}
    program.do(f"execute({unrecorded!r})")
    for _ in range(3):
        assert program.acquisitions() == 39
    assert program.get()["tracedthread_worker_count"] == {("living",): 2, ("ended",): 2, ("unreadable",): 0}
    program.do(f"end({pid}, signal.SIGKILL)")
    assert program.acquisitions() == 39
    assert program.get()["tracedthread_worker_count"] == {("living",): 1, ("ended",): 3, ("unreadable",): 0}


def test_a_descendant_that_is_no_fork_of_ours_is_found(program: Program) -> None:
    program.do("use(5)")
    child = """
        import sys, threading, tracedthread
        tracedthread.patch()
        class Cache:
            def __init__(self): self._lock = threading.Lock()
        cache = Cache()
        for _ in range(30):
            with cache._lock: pass
        print("ready", flush=True)
        sys.stdin.read()
    """
    code = textwrap.dedent(child)
    program.do(
        f"[globals().update(child=subprocess.Popen([sys.executable, '-c', {code!r}], stdin=-1, stdout=-1)),"
        " child.stdout.readline().decode()][1]"
    )
    program.do("globals().update(other=subprocess.Popen(['sleep', '600']))")  # records nothing
    found = program.get()
    assert of_cache(found) == 35
    assert found["tracedthread_worker_count"] == {("living",): 2, ("ended",): 0, ("unreadable",): 0}
    program.do("[child.kill(), child.wait()][1]")
    assert program.acquisitions() == 35


@pytest.mark.parametrize("follow_fork", [True, False])
def test_children_of_a_process_that_records_to_a_file_count(tmp_path: Path, follow_fork: bool) -> None:
    patch = f"tracedthread.patch(path={str(tmp_path / 'a.ttc')!r}, follow_fork={follow_fork})"
    head = textwrap.dedent(PROGRAM).replace("tracedthread.patch()", patch)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", head],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        program = Program(process)
        pid = program.do("worker(10)")
        program.do(f"end({pid}, signal.SIGKILL)")
        program.do("short_lived(3, 5)")
        assert program.acquisitions() == 25
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_one_endpoint_serves_the_sum_over_gunicorns_workers(tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "app.py").write_text(
        textwrap.dedent(
            """
            import os, threading
            class Cache:
                def __init__(self): self._lock = threading.Lock()
            cache = Cache()
            def app(environ, start_response):
                for _ in range(100):
                    with cache._lock: pass
                start_response("200 OK", [("Content-Type", "text/plain")])
                return [str(os.getpid()).encode()]
            """
        )
    )
    (tmp_path / "main.py").write_text(
        textwrap.dedent(
            """
            import sys, tracedthread
            tracedthread.patch()
            from tracedthread import prometheus
            print("metrics at port", prometheus.listen("0").address[1], file=sys.stderr, flush=True)
            from gunicorn.app.wsgiapp import run
            # The new worker may be told to end before it has its own handlers; gunicorn waits so long for it.
            options = ["--graceful-timeout", "3"]
            sys.argv = ["gunicorn", *options, "-k", "gthread", "-w", "2", "--threads", "4", "-b", "127.0.0.1:0", "app:app"]
            run()
            """
        )
    )
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "main.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        metrics, site = _found(log, r"metrics at port (\d+)"), _found(log, r"Listening at: http://127.0.0.1:(\d+)")
        url = f"http://127.0.0.1:{metrics}/metrics"
        pids = set()
        for _ in range(40):
            with urllib.request.urlopen(f"http://127.0.0.1:{site}/", timeout=20) as response:
                pids.add(int(response.read()))
        assert of_cache(scrape(url)) == 4000
        os.kill(pids.pop(), signal.SIGKILL)
        for _ in range(10):
            with urllib.request.urlopen(f"http://127.0.0.1:{site}/", timeout=20) as response:
                response.read()
        assert of_cache(scrape(url)) == 5000
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None


def _found(log: Path, pattern: str) -> int:
    for _ in range(600):
        if (match := re.search(pattern, log.read_text())) is not None:
            return int(match.group(1))
        time.sleep(0.05)
    pytest.fail(log.read_text())
