"""Whatever goes wrong while recording is set up: the program runs on stock, and one line says why."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from clean_environment import clean_environment

import tracedthread

PACKAGE = Path(tracedthread.__file__).resolve().parent
LIMIT_S = 60
PROGRAM = """
    import _thread, sys, threading
    with threading.Lock():
        print("ran", type(_thread.allocate_lock()).__module__, _thread.allocate_lock.__self__ is _thread, sys.argv)
    print("tracedthread._types" in sys.modules)
"""
RUN = [sys.executable, "-m", "tracedthread", "run", "--report"]


def start(
    command: list[str], cwd: Path, *, root: Path = PACKAGE.parent, prepare: Callable[[], None] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment(root, **env),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        preexec_fn=prepare,
    )


@pytest.fixture
def program(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "program.py").write_text(textwrap.dedent(PROGRAM))
    return folder


def assert_ran_with_one_line(result: subprocess.CompletedProcess[str], reason: str) -> None:
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("ran _thread")
    assert result.stderr.startswith("tracedthread: not recording: ")
    assert result.stderr.count("\n") == 1
    assert reason in result.stderr


SWITCHES = [
    {"TRACEDTHREAD_DISABLED": "1"},
    {"TRACEDTHREAD_DISABLED": "yes please"},
    {"OTEL_SDK_DISABLED": "true"},
    {"OTEL_SDK_DISABLED": "True"},
    {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "tracedthread"},
    {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "flask, tracedthread ,redis"},
    {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"},
]


@pytest.mark.parametrize("switch", SWITCHES)
def test_switches_keep_thread_stock_and_native_code_out(program: Path, switch: dict[str, str]) -> None:
    code = """
        import _thread, sys
        before = dict(vars(_thread))
        import tracedthread
        assert tracedthread.patch() is False and tracedthread.is_patched() is False
        assert vars(_thread) == before
        assert not {"tracedthread._native", "tracedthread._types", "_cffi_backend"} & set(sys.modules)
    """
    result = start([sys.executable, "-c", textwrap.dedent(code)], program, **switch)
    assert (result.returncode, result.stderr) == (0, "")  # whoever has set it knows
    result = start([*RUN, "program.py"], program, **switch)
    assert_ran_with_one_line(result, next(iter(switch)))
    assert result.stdout == "ran _thread True ['program.py']\nFalse\n"


@pytest.mark.parametrize(
    "switch",
    [
        {"TRACEDTHREAD_DISABLED": "0"},
        {"TRACEDTHREAD_DISABLED": ""},
        {"OTEL_SDK_DISABLED": "1"},  # the specification knows only "true"
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "nottracedthread"},
    ],
)
def test_what_does_not_switch_off(program: Path, switch: dict[str, str]) -> None:
    result = start([*RUN, "-q", "program.py"], program, **switch)
    assert result.stdout == "ran _thread False ['program.py']\nTrue\n", result.stderr


def test_output_that_exists_is_kept_unless_forced(program: Path) -> None:
    (program / "there.ttc").write_text("precious")
    assert_ran_with_one_line(start([*RUN, "-o", "there.ttc", "program.py"], program), "there.ttc")
    assert (program / "there.ttc").read_text() == "precious"
    result = start([*RUN, "-q", "--force", "-o", "there.ttc", "program.py"], program)
    assert result.stdout.endswith("True\n")
    assert (program / "there.ttc").stat().st_size > 100_000


@pytest.mark.parametrize("forced", [[], ["--force"]])
def test_symlinks_are_not_followed(program: Path, forced: list[str]) -> None:
    (program / "target").write_text("precious")
    (program / "link.ttc").symlink_to(program / "target")
    start([*RUN, *forced, "-o", "link.ttc", "program.py"], program)
    assert (program / "target").read_text() == "precious"


@pytest.mark.parametrize(
    "output", ["missing/app.ttc", "program.py/app.ttc", ".", "x" * 300, "/proc/app.ttc", "/dev/full"]
)
def test_unwritable_outputs(program: Path, output: str) -> None:
    assert_ran_with_one_line(start([*RUN, "-o", output, "program.py"], program), "")


def test_file_size_limit(program: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, 64 * 1024))

    assert_ran_with_one_line(start([*RUN, "-o", "app.ttc", "program.py"], program, prepare=limit), "")


def test_full_disk(program: Path) -> None:
    small = program / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64k none "$0"', str(small)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small file system here")
    script = 'mount -t tmpfs -o size=64k none small && exec "$@"'
    result = start(["unshare", "-rm", "sh", "-c", script, "sh", *RUN, "-o", "small/app.ttc", "program.py"], program)
    assert_ran_with_one_line(result, "")


def test_no_memory_to_map(program: Path) -> None:
    command = [*RUN, "--capture-size", "1G", "program.py"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    assert_ran_with_one_line(start(command, program, prepare=limit), "")


def test_no_file_descriptor_left(program: Path) -> None:
    code = """
        import os, resource, tracedthread
        import tracedthread._native  # what is still needed is the capture's descriptor
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        assert tracedthread.patch() is False
    """
    result = start([sys.executable, "-c", textwrap.dedent(code)], program)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("\n") == 1


def test_seccomp_that_refuses_memfd(program: Path) -> None:
    numbers = {"x86_64": (0xC000003E, 319), "aarch64": (0xC00000B7, 279)}
    if os.uname().machine not in numbers:
        pytest.skip(f"no system call numbers for {os.uname().machine}")
    architecture, memfd_create = numbers[os.uname().machine]
    # load architecture; other: allow; load number; memfd_create: EPERM; allow
    rules = [
        (0x20, 0, 0, 4),
        (0x15, 0, 3, architecture),
        (0x20, 0, 0, 0),
        (0x15, 0, 1, memfd_create),
        (0x06, 0, 0, 0x00050001),
        (0x06, 0, 0, 0x7FFF0000),
    ]
    code = f"""
        import ctypes, struct
        libc = ctypes.CDLL(None, use_errno=True)
        rules = b"".join(struct.pack("HBBI", *rule) for rule in {rules})
        buffer = ctypes.create_string_buffer(rules)
        program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", {len(rules)}, ctypes.addressof(buffer)))
        assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
        import sys
        sys.argv = ["tracedthread", "run", "--report", "program.py"]
        from tracedthread.__main__ import main
        sys.exit(main())
    """
    assert_ran_with_one_line(start([sys.executable, "-c", textwrap.dedent(code)], program), "")


def test_current_directory_that_is_gone(program: Path) -> None:
    gone = program / "gone"
    gone.mkdir()
    script = 'rmdir "$PWD" && exec "$@"'
    command = ["sh", "-c", script, "sh", *RUN, "-o", "app.ttc", str(program / "program.py")]
    assert_ran_with_one_line(start(command, gone), "")
    gone.mkdir()
    result = start(["sh", "-c", script, "sh", *RUN, "-q", "-m", "this"], gone)
    assert "Zen of Python" in result.stdout


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("TRACEDTHREAD_CAPTURE_BYTES", "many"),
        ("TRACEDTHREAD_EVENT_THRESHOLD_MS", "soon"),
        ("TRACEDTHREAD_EVENT_THRESHOLD_MS", "nan"),
        ("TRACEDTHREAD_DEADLOCK_AFTER_S", "soon"),
        ("TRACEDTHREAD_DEADLOCK_AFTER_S", "nan"),
        ("TRACEDTHREAD_FOLLOW_FORK", "maybe"),
    ],
)
def test_bad_settings_cost_a_line_and_the_default(program: Path, setting: str, value: str) -> None:
    result = start([*RUN[:-1], "-q", "program.py"], program, **{setting: value})
    assert (result.returncode, result.stdout) == (0, "ran _thread False ['program.py']\nTrue\n")
    assert result.stderr.startswith(f"tracedthread: {setting}: ")
    assert result.stderr.count("\n") == 1


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package on its own, to be broken."""
    shutil.copytree(PACKAGE, tmp_path / "root" / "tracedthread", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "root"


def test_no_native_code_for_this_interpreter(program: Path, copy: Path) -> None:
    for file in (copy / "tracedthread").glob("_native*.so"):
        file.unlink()
    result = start([*RUN, "program.py"], program, root=copy)
    assert_ran_with_one_line(result, "no native code")
    assert result.stdout == "ran _thread True ['program.py']\nFalse\n"


def test_native_code_that_is_broken(program: Path, copy: Path) -> None:
    for file in (copy / "tracedthread").glob("_native*.so"):
        file.write_bytes(b"not a shared object")
    assert_ran_with_one_line(start([*RUN, "program.py"], program, root=copy), "no native code")


def test_the_drop_in_itself_is_stock_where_nothing_can_be_recorded(program: Path, copy: Path) -> None:
    code = """
        import _thread as stock
        from tracedthread import _thread as ours
        assert all(getattr(ours, name) is getattr(stock, name) for name in dir(ours) if not name.startswith("__"))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = start(command, program, TRACEDTHREAD_DISABLED="1")
    assert (result.returncode, result.stderr) == (0, "")
    for file in (copy / "tracedthread").glob("_native*.so"):
        file.unlink()
    result = start(command, program, root=copy)
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith("tracedthread: not recording: no native code")
    assert result.stderr.count("\n") == 1


def test_native_code_of_another_version(program: Path, copy: Path) -> None:
    core = copy / "tracedthread" / "_core.py"
    core.write_text(core.read_text().replace("\nABI = ", "\nABI = 1000 + "))
    assert_ran_with_one_line(start([*RUN, "program.py"], program, root=copy), "ABI")


def test_something_else_has_replaced_the_primitives(program: Path) -> None:
    code = """
        import tracedthread, _thread
        stock = _thread.allocate_lock
        mine = _thread.allocate_lock = lambda: stock()
        assert tracedthread.patch() is False
        assert _thread.allocate_lock is mine
    """
    result = start([sys.executable, "-c", textwrap.dedent(code)], program)
    assert (result.returncode, result.stderr) == (
        0,
        "tracedthread: not recording: something else has replaced _thread.allocate_lock\n",
    )


def test_stderr_that_is_closed_or_missing(program: Path) -> None:
    for script in ('exec "$@" 2>&-', 'exec "$@" 2>/dev/full'):
        result = start(["sh", "-c", script, "sh", *RUN, "-o", "missing/x.ttc", "program.py"], program)
        assert (result.returncode, result.stdout[:11]) == (0, "ran _thread")
        result = start(["sh", "-c", script, "sh", *RUN, "program.py"], program)
        assert (result.returncode, result.stdout[:11]) == (0, "ran _thread")


def test_program_that_closes_every_descriptor_goes_on(program: Path) -> None:
    (program / "daemon.py").write_text(
        "import os, threading\n"
        "lock = threading.Lock()\n"
        "os.closerange(3, 4096)\n"
        "for fd in (0, 1, 2): os.close(fd)\n"
        "for _ in range(1000):\n    with lock: pass\n"
        "open('done', 'w').write('yes')\n"
    )
    assert start([*RUN, "-o", "app.ttc", "daemon.py"], program).returncode == 0
    assert (program / "done").read_text() == "yes"


def test_report_that_fails_does_not_change_the_exit_status(program: Path, copy: Path) -> None:
    (copy / "tracedthread" / "export" / "text.py").write_text("1/0")
    (program / "program.py").write_text("raise SystemExit(4)")
    result = start([*RUN, "program.py"], program, root=copy)
    assert result.returncode == 4
    assert result.stderr.startswith("tracedthread: no report: ")
    assert result.stderr.count("\n") == 1
