"""`tracedthread dump PID` on real programs: what hangs is named, what does not is left alone, who may not look is told why."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from clean_environment import clean_environment
from hangs import DEADLOCKS, HANGS, HEALTHY, PRELUDE

import tracedthread
from tracedthread.__main__ import main
from tracedthread.capture import Capture
from tracedthread.commands.dump import look
from tracedthread.dump import Dump
from tracedthread.procfs import Refused
from tracedthread.profile import Profile
from tracedthread.tallier import Tallier, read_descriptor
from tracedthread.target import Target

ROOT = str(Path(tracedthread.__file__).resolve().parent.parent)
LIMIT_S = 60
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@contextmanager
def program(
    folder: Path, source: str, *options: str, recorded: bool = True, **env: str
) -> Iterator[subprocess.Popen[str]]:
    """A program that runs meanwhile."""
    path = folder / "app.py"
    path.write_text(PRELUDE + source, encoding="utf-8")
    run = ["-m", "tracedthread", "run", *options] if recorded else []
    child = subprocess.Popen(
        [sys.executable, *run, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=clean_environment(ROOT, **env),
        start_new_session=True,
    )
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for stream in (child.stdout, child.stderr):
            assert stream is not None
            stream.close()


def pid_of(child: subprocess.Popen[str]) -> int:
    """What `say()` says, in the process that is to be looked into."""
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line.strip().isdigit(), (line, child.stderr and child.stderr.read())
    return int(line)


def until(pid: int, reached: Callable[[Dump], object]) -> Dump:
    """The first dump of a program on its way into its hang that shows it."""
    end = time.monotonic() + LIMIT_S
    while True:
        dump = look(pid)
        if reached(dump):
            return dump
        assert time.monotonic() < end, dump
        time.sleep(0.05)


@pytest.mark.parametrize("name", DEADLOCKS)
def test_deadlocks_are_named(name: str, tmp_path: Path) -> None:
    source, sizes = DEADLOCKS[name]
    with program(tmp_path, source) as child:
        pid = pid_of(child)
        dump = until(pid, lambda dump: len(dump.deadlocks) >= max(1, len(sizes)))
        assert sorted(len(cycle.waits) for cycle in dump.deadlocks) == sizes or not sizes
        assert dump.suspects == ()
        for cycle in dump.deadlocks:
            for wait, following in zip(cycle.waits, [*cycle.waits[1:], cycle.waits[0]]):
                assert wait.blocker == following.thread
                assert wait.stack[0].file in ("app.py", "queue.py", "threading.py")


@pytest.mark.parametrize("name", HANGS)
def test_other_hangs_are_no_deadlocks_but_worth_a_word(name: str, tmp_path: Path) -> None:
    source, warning = HANGS[name]
    with program(tmp_path, source) as child:
        dump = until(pid_of(child), lambda dump: any(warning in text for text in dump.warnings))
        assert (dump.deadlocks, dump.suspects) == ((), ())


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_programs_raise_no_alarm(name: str, tmp_path: Path) -> None:
    # Every wait of a millisecond is checked inside, and every few from outside.
    settings = {"TRACEDTHREAD_DEADLOCK_AFTER_S": "0.001", "TRACEDTHREAD_OUTPUT": str(tmp_path / "app.ttc")}
    dumps = 0
    with program(tmp_path, "say()\n" + HEALTHY[name], **settings) as child:
        pid = pid_of(child)
        while child.poll() is None:
            try:
                assert look(pid).deadlocks == ()
                dumps += 1
            except (Refused, OSError):
                child.wait(LIMIT_S)
            time.sleep(0.02)
        out, err = child.communicate(timeout=LIMIT_S)
        assert (child.returncode, out) == (0, "")
        assert "deadlock" not in err
    assert dumps > 3
    assert not [note for note in Capture.open(tmp_path / "app.ttc").notes() if "deadlock" in note]


@pytest.mark.parametrize("name", ["AB-BA", "AB-BA twice", "join under a lock", "of oneself, others go on", "30 locks"])
def test_deadlocks_are_noticed_inside_and_said_once(name: str, tmp_path: Path) -> None:
    source, sizes = DEADLOCKS[name]
    settings = {"TRACEDTHREAD_DEADLOCK_AFTER_S": "0.1", "TRACEDTHREAD_OUTPUT": str(tmp_path / "app.ttc")}
    with program(tmp_path, source, **settings) as child:
        pid_of(child)
        assert child.stderr is not None
        lines = [child.stderr.readline() for _ in sizes]
        for line in lines:
            assert line.startswith("tracedthread: deadlock: ")
        noted = Profile.from_capture(Capture.open(tmp_path / "app.ttc")).deadlocks
        assert sorted(deadlock.length for deadlock in noted) == sizes
        assert all(len(deadlock.steps) == deadlock.length for deadlock in noted if deadlock.length < 9)
        with (tmp_path / "app.ttc").open("rb") as capture:
            assert Tallier(read_descriptor(capture.fileno())).tally().deadlocks == len(sizes)
        time.sleep(1)  # the looks of all others
        os.killpg(child.pid, signal.SIGKILL)
        assert child.stderr.read() == ""


def test_a_thread_whose_wait_ends_in_time_says_nothing(tmp_path: Path) -> None:
    source = "l = Lock()\ndef f():\n  with l: time.sleep(0.5)\ngo(f); time.sleep(0.1)\nwith l: print('got it')"
    with program(tmp_path, source, TRACEDTHREAD_DEADLOCK_AFTER_S="0.05") as child:
        assert child.communicate(timeout=LIMIT_S)[0] == "got it\n"
        assert child.returncode == 0


# -- the command line ---------------------------------------------------------------------------------------------------


def dump_text(pid: int, *options: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "tracedthread", "dump", str(pid), *options]
    env = {**os.environ, "PYTHONPATH": ROOT}
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=env, check=False)
    return result.returncode, result.stdout, result.stderr


def test_names_steer_no_terminal_and_any_encoding_will_do(tmp_path: Path) -> None:
    source = """
l = Lock()
def f():
  threading.current_thread().name = "evil\\x1b]0;pwned\\x07\\u202e"
  with l: pass
l.acquire(); go(f); time.sleep(0.2); say(); time.sleep(60)
"""
    with program(tmp_path, source) as child:
        pid = pid_of(child)
        until(pid, lambda dump: dump.waits)
        for encoding in ("utf-8", "latin-1", "ascii"):
            env = clean_environment(ROOT, PYTHONIOENCODING=encoding)
            command = [sys.executable, "-m", "tracedthread", "dump", str(pid)]
            done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, env=env, check=False)
            text = done.stdout.decode(encoding)
            assert (done.returncode, done.stderr) == (0, b""), done
            assert "evil" in text
            assert not set(text) & {"\x1b", "\x07", "\u202e"}


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_output_that_cannot_be_written_is_neither_a_deadlock_nor_none(options: tuple[str, ...], tmp_path: Path) -> None:
    with program(tmp_path, DEADLOCKS["AB-BA with others behind it"][0]) as child:
        pid = pid_of(child)
        until(pid, lambda dump: dump.deadlocks)
        command = [sys.executable, "-m", "tracedthread", "dump", str(pid), *options]
        for to, why in ((">/dev/full", "No space left on device"), (">&-", "is closed")):
            words = ["sh", "-c", f'exec "$@" {to}', "sh", *command]
            env = clean_environment(ROOT)
            done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, env=env, check=False)
            assert (done.returncode, done.stderr) == (2, f"tracedthread: standard output: {why}\n")


def test_the_text_names_the_deadlock_first_and_the_forest_after(tmp_path: Path) -> None:
    with program(tmp_path, DEADLOCKS["AB-BA with others behind it"][0]) as child:
        pid = pid_of(child)
        until(pid, lambda dump: dump.deadlocks and len(dump.waits) == 4)
        status, out, err = dump_text(pid)
    assert (status, err) == (1, "")
    lines = out.splitlines()
    assert lines[0] == "Found one deadlock:"
    assert lines[1].startswith("  `member-") and ", held by `member-" in lines[1]
    assert lines[2].startswith("      ") and "member app.py:" in lines[2]
    assert f"Process {pid} (app.py, Python {sys.version.split()[0]}): 5 threads; 4 wait, 4 of them for a lock." in lines
    behind = next(index for index, line in enumerate(lines) if "─ `behind`" in line)
    assert "─ `far_behind`" in lines[behind + 1] and "for `" in lines[behind + 1]


def test_a_forest_without_a_deadlock(tmp_path: Path) -> None:
    source = """
class Cache:
    def __init__(self): self._lock = Lock()
cache = Cache()
def slow():
    with cache._lock: time.sleep(60)
def want():
    with cache._lock: pass
def idle(): queue.Queue().get()
go(slow); time.sleep(0.1); go(want, want, idle); hang()
"""
    with program(tmp_path, source) as child:
        pid = pid_of(child)
        until(pid, lambda dump: len(dump.waits) == 3)
        status, out, err = dump_text(pid)
        data = json.loads(dump_text(pid, "--json")[1])
    assert (status, err) == (0, "")
    assert "`Cache._lock` (app.py:" in out and " by `slow`" in out
    assert out.count("─ `want`") == 2
    assert "Other waits\n  `idle`  queue.get " in out
    assert data["schema"] == "tracedthread.dump/1"
    assert data["process"]["pid"] == pid and data["process"]["threads"] == 5
    (held,) = data["locks"]
    assert (held["name"], held["owner"]["name"]) == ("Cache._lock", "slow")
    assert [waiter["name"] for waiter in held["waiters"]] == ["want", "want"]
    assert sorted(wait["kind"] for wait in data["waits"]) == ["lock", "lock", "queue.get"]
    assert data["deadlocks"] == data["suspects"] == data["warnings"] == []


@pytest.mark.parametrize("options", [(), ("-o", "app.ttc")])
def test_a_stopped_process(options: tuple[str, ...], tmp_path: Path) -> None:
    with program(tmp_path, DEADLOCKS["AB-BA"][0], *options) as child:
        pid = pid_of(child)
        until(pid, lambda dump: dump.deadlocks)
        os.kill(pid, signal.SIGSTOP)
        dump = until(pid, lambda dump: dump.state == "stopped")
        assert len(dump.deadlocks) == 1
        status, out, _ = dump_text(pid)
        assert status == 1 and "stopped" in out


def test_a_wait_that_a_timeout_ends_is_only_a_suspect(tmp_path: Path) -> None:
    source = """
a, b, meet = Lock(), Lock(), threading.Barrier(2)
def first():
    with a: meet.wait(); b.acquire(timeout=60)
def second():
    with b: meet.wait(); a.acquire(timeout=60)
go(first, second); hang()
"""
    with program(tmp_path, source) as child:
        pid = pid_of(child)
        until(pid, lambda dump: dump.suspects)
        status, out, _ = dump_text(pid)
    assert status == 0
    assert out.startswith("Found one possible deadlock, unless its timeout ends it:\n")


def test_while_recording_is_paused_the_dump_says_so(tmp_path: Path) -> None:
    source = "import tracedthread; tracedthread.pause(); hang()"
    with program(tmp_path, source) as child:
        assert "The recording is paused" in look(pid_of(child)).warnings[0]


# -- doors and rights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "options"),
    [
        ("", ()),
        ("", ("-o", "app.ttc")),
        ("os.closerange(3, 1024)", ()),
        ("os.closerange(3, 1024)", ("-o", "app.ttc")),
        ("os.unlink('app.ttc')", ("-o", "app.ttc")),
        ("os.rename('app.ttc', 'old.ttc'); open('app.ttc', 'w').close()", ("-o", "app.ttc")),
        ("", ("-o", "a\rb c.ttc")),
    ],
)
def test_the_capture_is_found(before: str, options: tuple[str, ...], tmp_path: Path) -> None:
    if before and os.geteuid() != 0:
        pytest.skip("needs map_files")
    with program(tmp_path, before + "\n" + DEADLOCKS["AB-BA"][0], *options) as child:
        until(pid_of(child), lambda dump: dump.deadlocks)


PLANT = """
jail = os.getcwd()
inside = jail + jail                # where the path that others see leads to, seen from within
os.makedirs(inside)
spoilt = bytearray(open("app.ttc", "rb").read())
spoilt[20:24] = b"\\xff" * 4        # the size of the whole, behind magic, ABI and header_size
open(jail + "/planted", "wb").write(spoilt)
"""


@as_root
@pytest.mark.parametrize(
    "plant",
    [
        "os.symlink(jail + '/planted', inside + '/app.ttc')",
        "os.rename(jail + '/planted', inside + '/app.ttc')",
        "os.mkfifo(inside + '/app.ttc')",
    ],
)
def test_a_file_in_the_place_of_the_recording_is_not_taken_for_it(plant: str, tmp_path: Path) -> None:
    hang = DEADLOCKS["AB-BA"][0]
    with program(tmp_path, f"{PLANT}{plant}\nos.chroot(jail)\n{hang}", "-o", "app.ttc") as child:
        until(pid_of(child), lambda dump: dump.deadlocks)


def test_a_process_id_that_is_used_again_is_not_taken_for_the_same_process(tmp_path: Path) -> None:
    with program(tmp_path, "hang()") as child:
        pid = pid_of(child)
        with Target(pid) as target:
            assert target.look_again().start == target.status.start
            target.status = replace(target.status, start=target.status.start - 1)
            with pytest.raises(Refused, match=f"^process {pid} has just ended; another one has its number now$"):
                target.look_again()


IN_CHILD = "pid = os.fork()\nif pid == 0:\n  {}\n  ring([Lock(), Lock()]); hang()\nsay(); os.waitpid(pid, 0)"


@pytest.mark.parametrize("options", [(), ("-o", "app.ttc"), ("-o", "app.ttc", "--follow-fork")])
def test_parent_and_child_are_not_mixed_up(options: tuple[str, ...], tmp_path: Path) -> None:
    with program(tmp_path, IN_CHILD.format("time.sleep(0.2)"), *options) as child:
        pids = {pid_of(child), pid_of(child)}
        pids.remove(child.pid)
        until(pids.pop(), lambda dump: dump.deadlocks)
        assert look(child.pid).deadlocks == ()


@as_root
def test_a_child_without_a_free_descriptor_is_read_through_its_memory(tmp_path: Path) -> None:
    source = (
        "import resource\nfds = [0]\ntry:\n  while True: fds.append(os.dup(0))\nexcept OSError: pass\n"
        + IN_CHILD.format("[os.close(fd) for fd in fds[-5:]]")
    )
    with program(
        tmp_path, "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))\n" + source
    ) as child:
        pids = {pid_of(child), pid_of(child)}
        pids.remove(child.pid)
        pid = pids.pop()
        assert not [fd for fd in os.listdir(f"/proc/{pid}/fd") if "tracedthread" in os.readlink(f"/proc/{pid}/fd/{fd}")]
        until(pid, lambda dump: dump.deadlocks)


def test_a_descriptor_of_the_program_s_own_is_never_closed(tmp_path: Path) -> None:
    source = """
fd = next(int(fd) for fd in os.listdir("/proc/self/fd") if "tracedthread" in os.path.realpath(f"/proc/self/fd/{fd}"))
os.dup2(0, fd)
pid = os.fork()
if pid == 0:
    print("still open", os.path.sameopenfile(fd, 0), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""
    with program(tmp_path, source) as child:
        out, err = child.communicate(timeout=LIMIT_S)
        assert out == "still open True\n", err


def test_low_descriptors_stay_the_program_s(tmp_path: Path) -> None:
    with (
        program(tmp_path, "print(os.open('/', 0))") as child,
        program(tmp_path, "print(os.open('/', 0))", recorded=False) as stock,
    ):
        assert child.communicate(timeout=LIMIT_S)[0] == stock.communicate(timeout=LIMIT_S)[0]


def refusal(pid: int) -> str:
    with pytest.raises(Refused) as caught:
        look(pid)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_who_is_not_recorded(tmp_path: Path) -> None:
    with program(tmp_path, "hang()", recorded=False) as child:
        pid = pid_of(child)
        assert refusal(pid).startswith(f"process {pid} is not recorded: start it with `tracedthread run`")
    with program(tmp_path, "hang()", TRACEDTHREAD_DISABLED="1") as child:
        pid = pid_of(child)
        assert refusal(pid) == f"process {pid} is not recorded: its environment says TRACEDTHREAD_DISABLED=1"


def test_who_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    child = subprocess.Popen(["true"])
    end = time.monotonic() + LIMIT_S
    while "Z" not in Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2] and time.monotonic() < end:
        time.sleep(0.01)
    assert refusal(child.pid) == f"process {child.pid} has ended; its parent has not fetched its status yet"
    child.wait()
    assert main(["dump", str(child.pid)]) == 2
    assert capsys.readouterr() == ("", f"tracedthread: there is no process {child.pid}\n")
    assert refusal(2**70) == f"there is no process {2**70}"


def test_a_thread_is_no_process(tmp_path: Path) -> None:
    with program(tmp_path, "t = go(hang); t[0].join()") as child:
        pid = pid_of(child)
        thread = max(int(tid) for tid in os.listdir(f"/proc/{pid}/task"))
        assert refusal(thread) == f"{thread} is a thread of process {pid}: give the process"


def as_nobody(action: Callable[[], str]) -> str:
    """What `action` returns in a child that has become nobody."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            answer = action()
        except BaseException as exc:
            answer = f"{type(exc).__name__}: {exc}"
        os.write(theirs, answer.encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, encoding="utf-8") as file:
        answer = file.read()
    os.waitpid(pid, 0)
    return answer


def found(pid: int) -> Callable[[], str]:
    return lambda: f"{len(look(pid).deadlocks)} found"


BECOME_NOBODY = f"os.setgroups([]); os.setresgid(*[{NOBODY}] * 3); os.setresuid(*[{NOBODY}] * 3)\n"


@as_root
def test_another_user_is_told_whose_process_it_is(tmp_path: Path) -> None:
    with program(tmp_path, DEADLOCKS["AB-BA"][0]) as child:
        pid = pid_of(child)
        assert as_nobody(found(pid)) == (
            f"Refused: process {pid} runs as uid 0, you are uid {NOBODY}: run this as uid 0, or run this as root "
            "(with CAP_SYS_PTRACE)"
        )


@as_root
def test_a_process_that_is_not_dumpable(tmp_path: Path) -> None:
    with program(tmp_path, BECOME_NOBODY + DEADLOCKS["AB-BA"][0]) as child:
        pid = pid_of(child)
        until(pid, lambda dump: dump.deadlocks)  # root may
        assert as_nobody(found(pid)).startswith(f"Refused: process {pid} is not dumpable (it has changed its user")


@as_root
@pytest.mark.parametrize("fork", [False, True])
def test_the_same_user_needs_no_right_but_to_see_its_own_processes(fork: bool, tmp_path: Path) -> None:
    dumpable = f"import ctypes; {BECOME_NOBODY}ctypes.CDLL(None).prctl(4, 1)\n"
    with program(tmp_path, dumpable + DEADLOCKS["AB-BA in a forked child" if fork else "AB-BA"][0]) as child:
        pid = pid_of(child)
        until(pid, lambda dump: dump.deadlocks)
        assert as_nobody(found(pid)) == "1 found"


@as_root
def test_a_process_of_a_container_is_not_called_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its number there is another process's here, or nobody's."""
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a PID namespace")
    (tmp_path / "app.py").write_text("import threading, time\nwith threading.Lock(): time.sleep(600)\n")
    run = [sys.executable, "-m", "tracedthread", "run", "-q", "-o", "app.ttc", "app.py"]
    command = ["unshare", "--pid", "--fork", "--kill-child", *run]
    child = subprocess.Popen(command, cwd=tmp_path, env=clean_environment(ROOT), start_new_session=True)
    try:
        end = time.monotonic() + LIMIT_S
        while not (tmp_path / "app.ttc").exists() or main(["report", str(tmp_path / "app.ttc")]):
            assert child.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        assert "The recording is not closed: its process, of another machine or container" in capsys.readouterr().out
        inside = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()[0]
        main(["doctor", inside])
        assert "which still runs" in capsys.readouterr().out
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@as_root
def test_root_without_the_capability(tmp_path: Path) -> None:
    def drop_and_look() -> str:
        class Header(ctypes.Structure):
            _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

        data = (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset(ctypes.byref(Header(0x20080522, 0)), data) == 0
        return found(pid)()

    with program(tmp_path, DEADLOCKS["AB-BA"][0]) as child:
        pid = pid_of(child)
        ours, theirs = os.pipe()
        if os.fork() == 0:
            try:
                answer = drop_and_look()
            except BaseException as exc:
                answer = f"{type(exc).__name__}: {exc}"
            os.write(theirs, answer.encode())
            os._exit(0)
        os.close(theirs)
        with os.fdopen(ours, encoding="utf-8") as file:
            answer = file.read()
        os.wait()
        assert answer == (
            f"Refused: process {pid} has capabilities that you lack: root lacks CAP_SYS_PTRACE here, give it that "
            "(`docker run --cap-add SYS_PTRACE`)"
        )


@pytest.mark.parametrize(
    ("before", "options", "told"),
    [
        ("os.closerange(3, 1024)", (), "process {} has closed the descriptor of its recording"),
        ("os.unlink('app.ttc')", ("-o", "app.ttc"), "{file}, which process {} records to, is deleted"),
        ("", ("-o", "app.ttc"), "{file}, which process {} records to, may not be opened: it is uid {uid}'s, mode 600"),
    ],
)
@pytest.mark.parametrize(
    ("scope", "way"),
    [
        ("0", "run this as root (with CAP_SYS_PTRACE)"),
        ("1", "kernel.yama.ptrace_scope is 1, only its parents may: run this as root (with CAP_SYS_PTRACE)"),
        ("3", "kernel.yama.ptrace_scope is 3, nobody may"),
    ],
)
def test_who_may_read_neither_the_recording_nor_memory_is_told_why(
    before: str,
    options: tuple[str, ...],
    told: str,
    scope: str,
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = os.open

    def refuse(path: str, *rest: int) -> int:
        if path.endswith(("/mem", "app.ttc")) or "/map_files/" in path:
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest)

    with program(tmp_path, before + "\nhang()", *options) as child:
        pid = pid_of(child)
        monkeypatch.setattr("tracedthread.target.os.open", refuse)
        monkeypatch.setattr("tracedthread.procfs._yama_scope", lambda: int(scope))
        reason = told.format(pid, file=tmp_path / "app.ttc", uid=os.geteuid())
        assert refusal(pid) == f"{reason}; nor may you read its memory: {way}"


def test_a_capture_that_somebody_has_spoilt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with program(tmp_path, "hang()", "-o", "app.ttc") as child:
        pid = pid_of(child)
        with Target(pid) as target:
            assert target.copy().header.pid == pid
        with (tmp_path / "app.ttc").open("r+b") as file:
            file.seek(20)  # the size of the whole, behind magic, ABI and header_size
            file.write(b"\xff" * 4)
        assert main(["dump", str(pid)]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"tracedthread: the recording of process {pid} cannot be read: truncated")
        assert err.count("\n") == 1
