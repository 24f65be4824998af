"""
Debuggers, profilers and tracers see the threads of ours as they see stock ones: the same program under both, the same seen.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clean_environment import clean_environment

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60

HEAD = """\
import tracedthread; tracedthread.patch()
import _thread, os, sys, threading, time
OURS = tracedthread.is_patched()
def settle():
    while len(os.listdir("/proc/self/task")) > 1: time.sleep(0.001)
def leaf(n):
    return abs(n) + 1
def branch(n):
    lock = threading.Lock()
    with lock:
        total = sum(leaf(i) for i in range(n))
    lock.acquire()
    lock.release()
    try:
        raise ValueError(total)
    except ValueError as exc:
        return len(exc.args)
def work(n=3):
    local = threading.local()
    local.value = branch(n)
    return local.value
"""


def environment(ours: bool) -> dict[str, str]:
    return clean_environment(ROOT, **({} if ours else {"TRACEDTHREAD_DISABLED": "1"}))


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "program.py"


def run(script: Path, *command: str, ours: bool) -> str:
    """What it prints, on stdout; it must end well."""
    done = subprocess.run(
        [sys.executable, *command, str(script)],
        env=environment(ours),
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def same(script: Path, program: str) -> str:
    script.write_text(HEAD + textwrap.dedent(program))
    stock = run(script, ours=False)
    assert run(script, ours=True) == stock
    return stock


# ---- in the process -------------------------------------------------------------------------------------------------

STARTS = """
for start in (threading.Thread(target=work).start, lambda: _thread.start_new_thread(work, ()),
              threading.Thread(target=work, daemon=True).start):
    seen.append("a thread")
    start()
    settle()
for each in seen: print(each)
"""


def test_settrace(script: Path) -> None:
    out = same(
        script,
        """
seen = []
def tracer(frame, event, arg):
    if frame.f_code.co_filename == __file__:
        seen.append((event, frame.f_code.co_name, frame.f_lineno - frame.f_code.co_firstlineno, arg if event == "return" else None))
    return tracer
threading.settrace(tracer)
"""
        + STARTS.replace("threading.Thread(target=work, daemon", "threading.Thread(target=sets, daemon").replace(
            "for start", "def sets():\n    sys.settrace(tracer)\n    work()\nfor start", 1
        ),
    )
    assert out.count("'call', 'leaf'") == 6 * 1 and out.count("'line', 'branch'") > 10  # a bare thread is not traced


def test_setprofile(script: Path) -> None:
    out = same(
        script,
        """
seen = []
def profiler(frame, event, arg):
    if frame.f_code.co_filename == __file__:
        name = getattr(arg, "__qualname__", None) if event.startswith("c_") else None
        seen.append((event, frame.f_code.co_name, name))
def sets():
    sys.setprofile(profiler)
    work()
threading.setprofile(profiler)
"""
        + STARTS.replace("start_new_thread(work", "start_new_thread(sets"),
    )
    assert out.count("('call', 'leaf', None)") == 9
    assert out.count("('c_call', 'branch', 'lock.acquire')") == 3


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring came with 3.12")
def test_monitoring(script: Path) -> None:
    out = same(
        script,
        """
seen = []
monitoring = sys.monitoring
monitoring.use_tool_id(3, "test")
def callback(event):
    def called(code, *rest):
        if code.co_filename == __file__ and code.co_name in ("work", "branch", "leaf"):
            rest = [getattr(arg, "__qualname__", type(arg).__name__) if event == "CALL" else arg for arg in rest if isinstance(arg, int) or event == "CALL"]
            seen.append((event, code.co_name, rest))
    return called
events = 0
for event in ("PY_START", "PY_RETURN", "LINE", "CALL", "RAISE", "EXCEPTION_HANDLED"):
    number = getattr(monitoring.events, event)
    events |= number
    monitoring.register_callback(3, number, callback(event))
monitoring.set_events(3, events)
"""
        + STARTS,
    )
    assert out.count("('PY_START', 'leaf'") == 9
    assert out.count("'lock.acquire'") == 3


def test_cprofile(script: Path) -> None:
    out = same(
        script,
        """
import cProfile, pstats, io
def profiled():
    profiler = cProfile.Profile()
    profiler.runcall(work, 5)
    profiler.create_stats()
    for (file, line, name), (calls, total, *_, callers) in sorted(profiler.stats.items(), key=repr):
        print(os.path.basename(file), line, name.replace("_thread.RLock", "RLock"), calls, total, sorted(c[2] for c in callers))
for start in (threading.Thread(target=profiled).start, lambda: _thread.start_new_thread(profiled, ())):
    start()
    settle()
""",
    )
    assert re.search(r"program.py \d+ leaf 5 5", out)
    assert "acquire" in out


# ---- coverage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("core", ["ctrace", "pytrace", "sysmon"])
def test_coverage(core: str, script: Path) -> None:
    pytest.importorskip("coverage")
    if core == "sysmon" and sys.version_info < (3, 12):
        pytest.skip("sys.monitoring came with 3.12")
    # A bare thread is seen through threading.settrace by nobody but sys.monitoring.
    script.write_text(HEAD + "for _ in range(3):\n    threading.Thread(target=work).start()\n    settle()\n")

    def lines(ours: bool) -> list[int]:
        data = script.with_name(f"data-{ours}")
        report = script.with_name(f"{ours}.json")
        env = {**environment(ours), "COVERAGE_CORE": core, "COVERAGE_FILE": str(data)}
        for command in (["run", str(script)], ["json", "-q", "-o", str(report), f"--include={script}"]):
            done = subprocess.run(
                [sys.executable, "-m", "coverage", *command],
                cwd=script.parent,
                env=env,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        (file,) = json.loads(report.read_text())["files"].values()
        return list(file["executed_lines"])

    stock = lines(False)
    assert lines(True) == stock
    assert {
        n for n, line in enumerate(script.read_text().splitlines(), 1) if "leaf(i)" in line or "return abs" in line
    } <= set(stock)


# ---- from outside -----------------------------------------------------------------------------------------------------

WAITING = """
import faulthandler
lock, rlock, gate = threading.Lock(), threading.RLock(), threading.Event()
lock.acquire()
rlock.acquire()
def on_lock(): lock.acquire()
def on_rlock():
    with rlock: pass
def on_event(): gate.wait()
def sleeps(): time.sleep(100)
def joins(): threads[0].join()
def deeper(function): function()
threads = []
for function in (on_lock, on_rlock, on_event, sleeps, joins):
    threads.append(threading.Thread(target=deeper, args=(function,), daemon=True, name=function.__name__))
    threads[-1].start()
    _thread.start_new_thread(deeper, (function,))
def where():
    me = threading.get_ident()
    return sorted((ident, frame.f_code.co_name, frame.f_lasti) for ident, frame in sys._current_frames().items() if ident != me)
before = None
while before != (before := where()) or any(name.startswith(("deep", "_boot", "run")) for _, name, _ in before): time.sleep(0.1)
"""
FUNCTIONS = ("on_lock", "on_rlock", "on_event", "sleeps", "joins")


def test_faulthandler_shows_the_stack_of_every_thread(script: Path) -> None:
    script.write_text(HEAD + WAITING + "faulthandler.dump_traceback(sys.stdout)\nsys.stdout.flush()\nos._exit(0)\n")

    def dumped(ours: bool) -> list[str]:
        text = re.sub(r"0x[0-9a-f]+", "0x", run(script, ours=ours))
        return sorted(text.split("\n\n"))

    stock = dumped(False)
    assert dumped(True) == stock
    for function in FUNCTIONS:
        assert sum(f" in {function}\n" in thread for thread in stock) == 2
    assert len(stock) == 11


@contextlib.contextmanager
def waiting(script: Path, ours: bool) -> Iterator[int]:
    """The process id of the program with all of its threads in place."""
    script.write_text(HEAD + WAITING + "print('ready', flush=True)\ntime.sleep(100)\n")
    process = subprocess.Popen(
        [sys.executable, str(script)], env=environment(ours), cwd=script.parent, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_py_spy_shows_the_stack_of_every_thread(script: Path) -> None:
    tool = Path(sysconfig.get_path("scripts")) / "py-spy"
    if not tool.exists():
        pytest.skip("py-spy is not installed")

    def dumped(ours: bool) -> list[Any]:
        with waiting(script, ours) as pid:
            done = subprocess.run(
                [tool, "dump", "--json", "--pid", str(pid)],
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        if done.returncode != 0:
            if not ours:
                pytest.skip(f"py-spy does not know this Python: {done.stderr.strip()[-200:]}")
            pytest.fail(done.stderr)
        threads = json.loads(done.stdout)
        return sorted(
            [str(t["thread_name"]), [[f["name"], os.path.basename(f["filename"]), f["line"]] for f in t["frames"]]]
            for t in threads
        )

    stock = dumped(False)
    assert dumped(True) == stock
    for function in FUNCTIONS:
        assert sum(any(frame[0] == function for frame in frames) for _, frames in stock) == 2


def test_gdb_shows_the_python_frames_of_every_thread(script: Path) -> None:
    extension = Path(f"{os.path.realpath(sys.executable)}-gdb.py")
    if shutil.which("gdb") is None or not extension.exists():
        pytest.skip("no gdb, or no extension for it beside this interpreter")

    def shown(ours: bool) -> list[list[str]]:
        with waiting(script, ours) as pid:
            done = subprocess.run(
                ["gdb", "-nx", "-batch", "-p", str(pid), "-ex", f"source {extension}", "-ex", "thread apply all py-bt"],
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        if "Traceback (most recent call first)" not in done.stdout:
            if not ours:
                pytest.skip(f"this gdb shows no Python frames here: {(done.stdout + done.stderr)[-200:]}")
            pytest.fail(done.stdout + done.stderr)
        threads = re.split(r"\n(?=Thread \d+ )", done.stdout)
        return sorted(re.findall(r'File ".*?", line \d+, in \w+', thread) for thread in threads)

    stock = shown(False)
    assert shown(True) == stock
    for function in FUNCTIONS:
        assert sum(any(f"in {function}" in line for line in frames) for frames in stock) == 2


# ---- debugpy --------------------------------------------------------------------------------------------------------


class Debugger:
    """As much of the Debug Adapter Protocol as it takes to stop in a thread and look around."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        self.file = self.socket.makefile("rb")
        self.sequence = 0
        self.events: list[dict[str, Any]] = []

    def _read(self) -> dict[str, Any]:
        length = 0
        while (line := self.file.readline().strip()) or not length:
            assert line or length, "the debugger has gone"
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        message: dict[str, Any] = json.loads(self.file.read(length))
        return message

    def send(self, command: str, **arguments: Any) -> int:
        self.sequence += 1
        message = {"seq": self.sequence, "type": "request", "command": command, "arguments": arguments}
        body = json.dumps(message).encode()
        self.socket.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return self.sequence

    def reply(self, sequence: int) -> dict[str, Any]:
        while True:
            message = self._read()
            if message["type"] == "event":
                self.events.append(message)
            elif message.get("request_seq") == sequence:
                assert message["success"], message
                return dict(message.get("body") or {})

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        return self.reply(self.send(command, **arguments))

    def event(self, name: str) -> dict[str, Any]:
        while True:
            for i, message in enumerate(self.events):
                if message["event"] == name:
                    return dict(self.events.pop(i).get("body") or {})
            message = self._read()
            if message["type"] == "event":
                self.events.append(message)


def test_debugpy_stops_at_a_breakpoint_in_a_thread(script: Path) -> None:
    if importlib.util.find_spec("debugpy") is None:
        pytest.skip("debugpy is not installed")
    script.write_text(
        HEAD
        + textwrap.dedent("""
            for name in ("first", "second"):
                thread = threading.Thread(target=work, name=name)
                thread.start()
                thread.join()
            """)
    )
    line = next(n for n, text in enumerate(script.read_text().splitlines(), 1) if "return abs(n)" in text)

    def session(ours: bool) -> list[Any]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = ["-Xfrozen_modules=off"] if sys.version_info >= (3, 11) else []
        process = subprocess.Popen(
            [sys.executable, *command, "-m", "debugpy", "--listen", str(port), "--wait-for-client", str(script)],
            env=environment(ours),
            cwd=script.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            debugger = connect(port, process)
            debugger.ask("initialize", adapterID="test", pathFormat="path", linesStartAt1=True)
            attach = debugger.send("attach", justMyCode=True)
            debugger.event("initialized")
            debugger.ask("setBreakpoints", source={"path": str(script)}, breakpoints=[{"line": line}])
            debugger.ask("configurationDone")
            debugger.reply(attach)
            seen: list[Any] = []
            for _ in range(6):
                stopped = debugger.event("stopped")
                thread = stopped["threadId"]
                names = {each["id"]: each["name"] for each in debugger.ask("threads")["threads"]}
                frames = debugger.ask("stackTrace", threadId=thread)["stackFrames"]
                scopes = debugger.ask("scopes", frameId=frames[0]["id"])["scopes"]
                values = debugger.ask("variables", variablesReference=scopes[0]["variablesReference"])["variables"]
                seen.append(
                    [
                        stopped["reason"],
                        names[thread],
                        [(frame["name"], frame["line"]) for frame in frames],
                        [(value["name"], value["value"]) for value in values],
                    ]
                )
                debugger.ask("continue", threadId=thread)
            debugger.event("terminated")
            debugger.socket.close()
            return [*seen, process.wait(LIMIT_S)]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
            if process.stderr is not None:
                process.stderr.close()

    def connect(port: int, process: subprocess.Popen[bytes]) -> Debugger:
        import time

        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                return Debugger(port)
            except OSError:
                if process.poll() is not None and process.stderr is not None:
                    pytest.skip(f"debugpy does not run on this Python: {process.stderr.read()[-200:]!r}")
                assert time.monotonic() < deadline
                time.sleep(0.05)

    try:
        stock = session(False)
    except (AssertionError, OSError) as exc:
        if sys.version_info < (3, 14):
            raise
        pytest.skip(f"debugpy cannot do it on this Python: {exc}")
    assert session(True) == stock
    assert [stop[1] for stop in stock[:-1]] == ["first"] * 3 + ["second"] * 3
    assert stock[0][2][0] == ("leaf", line)
    assert stock[-1] == 0
