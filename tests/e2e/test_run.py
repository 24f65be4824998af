"""`tracedthread run PROGRAM` is `python PROGRAM`, plus a recording."""

from __future__ import annotations

import json
import os
import py_compile
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest
from clean_environment import clean_environment

import tracedthread

ROOT = str(Path(tracedthread.__file__).resolve().parent.parent)
RUN = [sys.executable, "-m", "tracedthread", "run"]
LIMIT_S = 60

SHOW = """
    import sys
    print(sorted(k for k in globals()))
    print(__name__, __file__, __package__, __doc__, type(__loader__).__name__, __spec__ and __spec__.name)
    print(globals().get("__cached__", "none"), globals().get("__annotations__"), type(__builtins__))
    print(sys.modules["__main__"].__dict__ is globals())
    print(sys.argv, repr(sys.path[0]), len(sys.path))
    print("threading" in sys.modules, "tracedthread" in sys.path[0])
"""

WAITER = """
    import threading, time
    class Cache:
        def __init__(self):
            self.lock = threading.Lock()
    cache = Cache()
    def hold():
        with cache.lock:
            time.sleep(0.2)
    holder = threading.Thread(target=hold)
    holder.start()
    time.sleep(0.05)
    with cache.lock:
        pass
    holder.join()
"""


def environment(**more: str) -> dict[str, str]:
    return clean_environment(ROOT, **({"PYTHON_COLORS": "0"} | more))


def start(command: list[str], cwd: Path, *, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=environment(**env),
        check=False,
    )


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def assert_same(arguments: list[str], cwd: Path, *, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Both ways of running end alike, and print the same on both streams (run adds nothing with -q)."""
    stock = start([sys.executable, *arguments], cwd, stdin=stdin)
    ours = start([*RUN, "-q", *arguments], cwd, stdin=stdin)
    assert (ours.returncode, ours.stdout, ours.stderr) == (stock.returncode, stock.stdout, stock.stderr)
    return ours


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    write(tmp_path / "show.py", SHOW)
    write(tmp_path / "sub" / "show.py", SHOW)
    write(tmp_path / "pkg" / "__init__.py", "")
    write(tmp_path / "pkg" / "__main__.py", SHOW)
    write(tmp_path / "folder" / "__main__.py", SHOW)
    (tmp_path / "link.py").symlink_to(tmp_path / "sub" / "show.py")
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("__main__.py", textwrap.dedent(SHOW))
    py_compile.compile(str(tmp_path / "show.py"), cfile=str(tmp_path / "compiled.pyc"))
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["show.py"],
        ["./show.py", "a b", "--force", "-m", "-o"],
        ["sub/../sub/show.py", "-"],
        ["link.py"],
        ["compiled.pyc", "x"],
        ["folder", "--", "x"],
        ["app.zip", "x"],
        ["-m", "pkg", "--report", "x"],
        ["-m", "pkg.__main__"],
        ["-m", "sub.show", "-m", "y"],
    ],
)
def test_main_module_argv_and_path_are_those_of_python(programs: Path, arguments: list[str]) -> None:
    result = assert_same(arguments, programs)
    assert result.returncode == 0
    assert "__main__" in result.stdout


def test_script_from_stdin(programs: Path) -> None:
    assert assert_same(["-", "x"], programs, stdin=textwrap.dedent(SHOW)).returncode == 0


def test_stdin_belongs_to_the_program(tmp_path: Path) -> None:
    write(tmp_path / "echo.py", "import sys\nprint(sys.stdin.read()[::-1])")
    assert assert_same(["echo.py"], tmp_path, stdin="abc").stdout == "cba\n"


@pytest.mark.parametrize(
    "text",
    [
        "import sys; sys.exit()",
        "import sys; sys.exit(0)",
        "import sys; sys.exit(3)",
        "import sys; sys.exit(256 + 7)",
        "import sys; sys.exit('a message')",
        "import sys; sys.exit((1, 2))",
        "import os; os._exit(9)",
        "raise SystemExit",
        "raise KeyboardInterrupt",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os; os.abort()",
        "1/0",
        "def f(): raise ValueError('x')\ntry: f()\nexcept ValueError as e: raise KeyError('y') from e",
        "try:\n    1/0\nexcept ZeroDivisionError:\n    {}['k']",
        "class E(BaseException):\n    def __str__(self):\n        raise ValueError\nraise E",
        "def f(:\n  pass",
        "x = '",
        "if 1:\n\tx\n        y",
        "# -*- coding: latin-1 -*-\nprint(ascii('\u00e9'))",
        "import sys; sys.excepthook = lambda *a: print(*a[:2], a[2].tb_frame.f_code.co_filename, a[2].tb_lineno)\n1/0",
        "import sys\ndef hook(*a): raise RuntimeError('in hook')\nsys.excepthook = hook\n1/0",
        "import sys\ndef hook(*a): sys.exit(5)\nsys.excepthook = hook\n1/0",
        "import atexit, sys\natexit.register(lambda: print(sys.last_type, sys.last_value))\n1/0",
        "import atexit, sys\natexit.register(lambda: print(sys.excepthook))\nraise KeyboardInterrupt",
        "import threading\nthreading.Thread(target=lambda: 1/0, name='t').start()",
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(.2), print('late'))).start()",
        "import threading, atexit\natexit.register(print, 'at exit')\nthreading.Timer(.1, print, ('late',)).start()",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(30,), daemon=True).start()",
        "import warnings; warnings.warn('careful')",
        "raise ExceptionGroup('g', [ValueError(1)])" if sys.version_info >= (3, 11) else "1",
        "import traceback\ntry:\n    1/0\nexcept Exception:\n    traceback.print_exc()",
        "x: int = 1\nprint(__annotations__)" if sys.version_info < (3, 14) else "x: int = 1",
        "from __future__ import annotations",
        "class A:\n    def __del__(self): print('deleted', A)\na = A()",
        "print(repr(__builtins__), print.__module__)",
        "import inspect\nprint(inspect.getsource(inspect.currentframe().f_code))",
    ],
)
def test_endings_are_those_of_python(tmp_path: Path, text: str) -> None:
    write(tmp_path / "program.py", text)
    assert_same(["program.py"], tmp_path)
    write(tmp_path / "m.py", text)
    if "getsource" not in text:
        assert_same(["-m", "m"], tmp_path)


@pytest.mark.parametrize(
    "arguments", [["missing.py"], ["-m", "missing"], ["-m", "empty"], ["empty"], ["-m", "os.path.x"]]
)
def test_what_cannot_be_run(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    stock = start([sys.executable, *arguments], tmp_path)
    ours = start([*RUN, "-q", *arguments], tmp_path)
    assert (ours.returncode, ours.stdout, ours.stderr) == (stock.returncode, stock.stdout, stock.stderr)
    assert stock.returncode != 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-m"],
        ["-o"],
        ["--nonsense", "x.py"],
        ["--capture-size", "little", "x.py"],
        ["--follow-fork", "x.py"],
        ["-o", "f"],
    ],
)
def test_usage_errors(tmp_path: Path, arguments: list[str]) -> None:
    result = start([*RUN, *arguments], tmp_path)
    assert result.returncode == 2
    assert "usage: tracedthread run" in result.stderr
    assert "Traceback" not in result.stderr
    assert os.listdir(tmp_path) == []


def test_help_and_version(tmp_path: Path) -> None:
    for arguments in (["--help"], ["run", "--help"], ["install", "-h"], ["uninstall", "-h"]):
        result = start([sys.executable, "-m", "tracedthread", *arguments], tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        assert "usage: tracedthread" in result.stdout
    result = start([sys.executable, "-m", "tracedthread", "--version"], tmp_path)
    assert result.stdout == f"tracedthread {tracedthread.__version__}\n"


def test_interrupt_reaches_the_program_and_the_exit_status(tmp_path: Path) -> None:
    write(
        tmp_path / "program.py",
        """
        import threading, sys
        lock = threading.Lock()
        lock.acquire()
        print("ready", flush=True)
        try:
            lock.acquire()
        finally:
            print("cleanup", flush=True)
        """,
    )
    with subprocess.Popen(
        [*RUN, "-q", "program.py"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)  # into the wait; the interrupt is to break it, but before it is right as well
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT_S)
    assert out == "cleanup\n"
    assert process.returncode == -signal.SIGINT
    assert err.count("KeyboardInterrupt") == 1
    assert "tracedthread" not in err.replace(ROOT + "/tracedthread-tests", "")


def test_report_goes_to_stderr_and_says_who_waited(tmp_path: Path) -> None:
    write(tmp_path / "program.py", WAITER + "    print('out')\n")
    result = start([*RUN, "--report", "program.py"], tmp_path)
    assert (result.returncode, result.stdout) == (0, "out\n")
    assert "Cache.lock" in result.stderr
    assert "program.py" in result.stderr


def test_report_comes_after_threads_and_exit_functions(tmp_path: Path) -> None:
    write(
        tmp_path / "program.py",
        """
        import atexit, sys, threading, time
        atexit.register(lambda: print("at exit", file=sys.stderr))
        threading.Thread(target=lambda: (time.sleep(0.2), print("late", file=sys.stderr))).start()
        """,
    )
    text = start([*RUN, "program.py"], tmp_path).stderr
    assert text.index("late") < text.index("at exit") < text.index("tracedthread: ")


def test_one_line_with_the_next_command_when_stderr_is_no_terminal(tmp_path: Path) -> None:
    write(tmp_path / "program.py", WAITER)
    result = start([*RUN, "-o", "my app.ttc", "program.py"], tmp_path)
    assert result.stderr == "tracedthread: recorded to my app.ttc; next: tracedthread report 'my app.ttc'\n"
    command = [sys.executable, "-m", "tracedthread", "report", "my app.ttc", "--format", "json"]
    report = json.loads(start(command, tmp_path).stdout)
    assert report["process"]["state"] == "exited"
    assert report["process"]["program"] == "program.py"
    lock = next(lock for lock in report["locks"] if lock["name"] == "Cache.lock")
    assert lock["contended"] == 1
    assert 0.05 < lock["wait_s"] < 30
    assert not any("tracedthread" in frame or "runpy" in frame for wait in lock["waits"] for frame in wait["stack"])
    assert [item["what"] for item in report["uncovered"]] == [
        "queue.SimpleQueue waits (implemented in C), other than tasks of thread pools"
    ]


def test_terminal_gets_the_report(tmp_path: Path) -> None:
    write(tmp_path / "program.py", WAITER)
    master, slave = os.openpty()
    try:
        status = subprocess.run(
            [*RUN, "program.py"],
            cwd=tmp_path,
            env=environment(TERM="xterm"),
            stderr=slave,
            timeout=LIMIT_S,
            check=False,
        ).returncode
        os.close(slave)
        text = b""
        while True:
            try:
                if not (part := os.read(master, 65536)):
                    break
            except OSError:  # how Linux says that the other end is gone
                break
            text += part
    finally:
        os.close(master)
    assert status == 0
    assert b"Cache.lock" in text


def test_the_end_imports_nothing_that_lies_beside_the_program(tmp_path: Path) -> None:
    for name in ("shlex", "glob", "rich"):
        write(tmp_path / f"{name}.py", "print('imported from beside the program')")
    write(tmp_path / "program.py", "print('done')")
    for options in (["-o", "app.ttc", "--follow-fork"], ["--report"]):
        result = start([*RUN, *options, "program.py"], tmp_path)
        assert result.stdout == "done\n"
        assert "recorded to app.ttc" in result.stderr or "No lock" in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("asked", "named"), [("env.ttc", "env.ttc"), ("env.%p.ttc", "{folder}/env.{pid}.ttc"), ("", None)]
)
def test_last_line_names_the_file_that_the_environment_asks_for(tmp_path: Path, asked: str, named: str | None) -> None:
    write(tmp_path / "program.py", "import os; print(os.getpid())")
    result = start([*RUN, "program.py"], tmp_path, TRACEDTHREAD_OUTPUT=asked)
    if named is None:
        assert "add --report" in result.stderr
        return
    path = named.format(folder=tmp_path, pid=result.stdout.strip())
    assert result.stderr == f"tracedthread: recorded to {path}; next: tracedthread report {path}\n"
    assert (tmp_path / path).is_file()


def test_last_line_names_the_file_of_the_option_rather_than_that_of_the_environment(tmp_path: Path) -> None:
    write(tmp_path / "program.py", "pass")
    result = start([*RUN, "-o", "app.%p.ttc", "program.py"], tmp_path, TRACEDTHREAD_OUTPUT="env.ttc")
    (path,) = tmp_path.glob("*.ttc")
    assert result.stderr == f"tracedthread: recorded to {path}; next: tracedthread report {path}\n"


@pytest.mark.parametrize("options", [[], ["--report"], ["-o", "app.ttc"]])
@pytest.mark.parametrize("arguments", [["missing.py"], ["-m", "missing"], ["-m", "empty"], ["empty"]])
def test_no_recording_is_told_of_when_there_was_no_program(
    tmp_path: Path, options: list[str], arguments: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    stock = start([sys.executable, *arguments], tmp_path)
    assert start([*RUN, *options, *arguments], tmp_path).stderr == stock.stderr


@pytest.mark.parametrize(
    "arguments", [["missing.py"], ["-m", "missing"], ["-m", "empty"], ["empty"], ["-m", "package.missing"]]
)
def test_no_file_is_left_when_there_was_no_program(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "package" / "__init__.py", "")
    stock = start([sys.executable, *arguments], tmp_path)
    ours = start([*RUN, "-o", "app.ttc", *arguments], tmp_path)
    assert (ours.returncode, ours.stdout, ours.stderr) == (stock.returncode, stock.stdout, stock.stderr)
    assert not (tmp_path / "app.ttc").exists()


def test_older_recording_is_not_overwritten_for_a_script_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "app.ttc").write_text("old")
    assert start([*RUN, "--force", "-o", "app.ttc", "missing.py"], tmp_path).returncode == 2
    assert (tmp_path / "app.ttc").read_text() == "old"


@pytest.mark.parametrize(
    "end", ["1/0", "raise KeyboardInterrupt", "import sys; sys.exit(3)", "import sys; sys.exit('no')"]
)
def test_recording_of_a_package_that_did_not_get_to_its_module_is_kept(tmp_path: Path, end: str) -> None:
    write(tmp_path / "package" / "__init__.py", end)
    write(tmp_path / "package" / "there.py", "")
    assert start([*RUN, "-o", "app.ttc", "-m", "package.there"], tmp_path).returncode != 0
    assert (tmp_path / "app.ttc").exists()


@pytest.mark.parametrize("arguments", [["there.py"], ["-m", "there"], ["folder"], ["-"]])
def test_recording_of_a_program_that_failed_is_told_of(tmp_path: Path, arguments: list[str]) -> None:
    write(tmp_path / "there.py", "1/0")
    write(tmp_path / "folder" / "__main__.py", "1/0")
    result = start([*RUN, *arguments], tmp_path, stdin="1/0")
    assert "ZeroDivisionError" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("tracedthread: recorded; ")


def test_nothing_is_said_when_quiet_and_the_file_is_there(tmp_path: Path) -> None:
    write(tmp_path / "program.py", WAITER)
    result = start([*RUN, "-q", "-o", "app.ttc", "program.py"], tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "app.ttc").stat().st_mode & 0o777 == 0o600


def test_capture_size_bounds_the_file(tmp_path: Path) -> None:
    write(tmp_path / "program.py", WAITER)
    for size in ("192k", "1M", "16M"):
        start([*RUN, "-q", "-o", f"{size}.ttc", "--capture-size", size, "program.py"], tmp_path)
        limit = int(size[:-1]) << (10 if size.endswith("k") else 20)
        assert limit / 2 < (tmp_path / f"{size}.ttc").stat().st_size <= limit


def test_killed_program_leaves_a_readable_file(tmp_path: Path) -> None:
    write(tmp_path / "program.py", WAITER + "    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)\n")
    assert start([*RUN, "-o", "app.ttc", "program.py"], tmp_path).returncode == -signal.SIGKILL
    report = start([sys.executable, "-m", "tracedthread", "report", "app.ttc", "--format", "json"], tmp_path)
    assert json.loads(report.stdout)["process"]["state"] == "killed"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("arguments", [["program.py"], ["-m", "program"]])
def test_multiprocessing_finds_main(tmp_path: Path, method: str, arguments: list[str]) -> None:
    write(
        tmp_path / "program.py",
        f"""
        import multiprocessing
        class Item:
            def __init__(self, n): self.n = n
        def double(item): return Item(item.n * 2)
        if __name__ == "__main__":
            with multiprocessing.get_context({method!r}).Pool(2) as pool:
                print([item.n for item in pool.map(double, [Item(1), Item(2)])])
        """,
    )
    result = assert_same(arguments, tmp_path)
    assert result.stdout == "[2, 4]\n"


def test_forked_child_prints_no_report_and_keeps_its_status(tmp_path: Path) -> None:
    write(
        tmp_path / "program.py",
        """
        import os, sys
        pid = os.fork()
        if pid == 0:
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """,
    )
    result = start([*RUN, "program.py"], tmp_path)
    assert result.stdout == "7\n"
    assert result.stderr.count("tracedthread: ") == 1


FORKS = """
    import os, subprocess, sys, threading
    lock = threading.Lock()
    def work():
        for _ in range(10):
            with lock: pass
    pid = os.fork()
    if pid == 0:
        work()
        pid = os.fork()
        if pid == 0:
            work()
            os._exit(0)
        os.waitpid(pid, 0)
        os._exit(0)
    os.waitpid(pid, 0)
    code = "import threading, sys; threading.Lock().acquire(); print(sys.path, 'sitecustomize' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    print({k: v for k, v in os.environ.items() if k.startswith(("TRACEDTHREAD", "PYTHONPATH"))})
"""


def test_without_follow_fork_there_is_one_file_and_environments_are_untouched(tmp_path: Path) -> None:
    write(tmp_path / "program.py", FORKS)
    stock = start([sys.executable, "program.py"], tmp_path)
    ours = start([*RUN, "-q", "-o", "app.ttc", "program.py"], tmp_path)
    assert (ours.returncode, ours.stdout, ours.stderr) == (0, stock.stdout, "")
    assert sorted(path.name for path in tmp_path.glob("*.ttc")) == ["app.ttc"]


def test_follow_fork_records_children_and_python_subprocesses_beside(tmp_path: Path) -> None:
    write(tmp_path / "program.py", FORKS)
    stock = start([sys.executable, "program.py"], tmp_path)
    ours = start([*RUN, "-q", "--follow-fork", "-o", "app.ttc", "program.py"], tmp_path)
    assert (ours.returncode, ours.stderr) == (0, "")
    assert ours.stdout.splitlines()[0] == stock.stdout.splitlines()[0]  # sys.path and sitecustomize of the subprocess
    files = sorted(path.name for path in tmp_path.glob("*.ttc"))
    assert len(files) == 4
    assert "app.ttc" in files
    pids = set()
    for file in files:
        report = start([sys.executable, "-m", "tracedthread", "report", file, "--format", "json"], tmp_path)
        process = json.loads(report.stdout)["process"]
        pids.add(process["pid"])
        assert file in ("app.ttc", f"app.{process['pid']}.ttc")
    assert len(pids) == 4


FILES_OF_AN_EARLIER_RUN = """
import os, sys, time
last = int(open("/proc/sys/kernel/ns_last_pid").read())
for pid in range(last + 1, last + 300):
    path = f"app.{pid}.ttc"
    open(path, "w").write("an earlier run's")
    os.utime(path, (1, 1))
pid = os.fork()
if not pid:
    os._exit(0)
os.waitpid(pid, 0)
print(f"app.{pid}.ttc")
"""


@pytest.mark.parametrize("force", [True, False])
def test_force_replaces_what_children_of_an_earlier_run_have_left(tmp_path: Path, force: bool) -> None:
    (tmp_path / "program.py").write_text(FILES_OF_AN_EARLIER_RUN)
    options = ["--force"] if force else []
    ours = start([*RUN, "--follow-fork", *options, "-o", "app.ttc", "program.py"], tmp_path)
    child = tmp_path / ours.stdout.strip()
    if child.read_bytes().startswith(b"an earlier run's") and "exists" not in ours.stderr:
        pytest.fail(f"the child has another number, or no file of its own: {ours.stderr}")
    beside = f" and 1 more beside it, such as {child.name}" if force else ""
    assert child.read_bytes().startswith(b"an earlier run's") is not force
    assert f"recorded to app.ttc{beside}; next:" in ours.stderr
    assert ("exists (--force replaces it)" in ours.stderr) is not force


def test_follow_fork_names_the_recordings_of_the_children_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import os\npid = os.fork()\nif not pid:\n    os._exit(0)\nos.waitpid(pid, 0)\n"
    )
    ours = start([*RUN, "--follow-fork", "-o", "app.ttc", "program.py"], tmp_path)
    (child,) = tmp_path.glob("app.*.ttc")
    assert (
        f"recorded to app.ttc and 1 more beside it, such as {child.name}; next: tracedthread report app.ttc"
        in ours.stderr
    )


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_follow_fork_records_multiprocessing_to_its_orderly_end(tmp_path: Path, method: str) -> None:
    write(
        tmp_path / "program.py",
        f"""
        import multiprocessing, threading
        def work():
            jobs = threading.Lock()
            with jobs: pass
        if __name__ == "__main__":
            process = multiprocessing.get_context({method!r}).Process(target=work)
            process.start()
            process.join()
            print(process.pid)
        """,
    )
    ours = start([*RUN, "-q", "--follow-fork", "-o", "app.ttc", "program.py"], tmp_path)
    assert (ours.returncode, ours.stderr) == (0, "")
    command = [sys.executable, "-m", "tracedthread", "report", f"app.{ours.stdout.strip()}.ttc", "--format", "json"]
    report = json.loads(start(command, tmp_path).stdout)
    assert report["process"]["state"] == "exited"
    assert [lock["acquisitions"] for lock in report["locks"] if lock["name"].endswith("jobs")] == [1]


def test_follow_fork_leaves_a_sitecustomize_of_the_user_in_place(tmp_path: Path) -> None:
    write(tmp_path / "site" / "sitecustomize.py", "import sys; sys.from_the_user = __name__, __file__")
    write(tmp_path / "program.py", "import subprocess, sys\nsubprocess.run([sys.executable, 'child.py'], check=True)")
    write(tmp_path / "child.py", "import sys; print(sys.from_the_user, sys.modules['sitecustomize'].__spec__.name)")
    path = os.pathsep.join([ROOT, str(tmp_path / "site")])
    result = start([*RUN, "-q", "--follow-fork", "-o", "app.ttc", "program.py"], tmp_path, PYTHONPATH=path)
    assert result.stderr == ""
    assert result.stdout == f"{('sitecustomize', str(tmp_path / 'site' / 'sitecustomize.py'))} sitecustomize\n"
    assert len(list(tmp_path.glob("*.ttc"))) == 2


def test_threading_is_imported_by_the_program_only(tmp_path: Path) -> None:
    write(
        tmp_path / "program.py",
        """
        import sys
        heavy = {"threading", "argparse", "typing", "dataclasses", "rich", "opentelemetry", "json", "re", "logging"}
        print(sorted(heavy & set(sys.modules)), "tracedthread._types" in sys.modules)
        """,
    )
    result = start(
        [sys.executable, "-S", *RUN[1:], "-q", "program.py"], tmp_path, PYTHONPATH=os.pathsep.join(sys.path[1:])
    )
    assert result.stdout == "[] True\n"
