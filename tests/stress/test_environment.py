"""`patch()` where a capture cannot be had: it says one line, gives False, and the program's locks are stock."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from abuse import LIMIT_S, ROOT

pytestmark = pytest.mark.timeout(LIMIT_S + 60)

PROGRAM = """
import sys, os
sys.path.insert(0, {root!r})
{before}
import _thread, threading, tracedthread
assert tracedthread.patch({arguments}) is False
assert not tracedthread.is_patched()
for lock in (threading.Lock(), threading.RLock(), _thread.allocate_lock()):
    with lock:
        assert type(lock) in (tracedthread.originals.LockType, tracedthread.originals.RLock)
threading.Thread(target=threading.Lock().acquire).start()
try:
    tracedthread.snapshot()
except RuntimeError:
    print("ran")
"""


def declines(
    arguments: str = "",
    *,
    before: str = "",
    cwd: Path = ROOT,
    prepare: Callable[[], None] | None = None,
    wrap: tuple[str, ...] = (),
) -> str:
    """Why patch() declined, one line."""
    source = PROGRAM.format(root=str(ROOT), before=textwrap.dedent(before), arguments=arguments)
    done = subprocess.run(
        [*wrap, sys.executable, "-c", source],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        preexec_fn=prepare,
    )
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
    assert done.stderr.startswith("tracedthread: not recording: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def limit(what: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(what, (value, resource.getrlimit(what)[1]))


@pytest.mark.parametrize("path", ["", "app.ttc"], ids=["memory", "file"])
def test_a_limit_on_the_size_of_files(path: str, tmp_path: Path) -> None:
    declines(f"path={path!r}" if path else "", cwd=tmp_path, prepare=limit(resource.RLIMIT_FSIZE, 1 << 20))
    assert list(tmp_path.iterdir()) == []


def test_no_descriptor_left() -> None:
    declines(
        before="""
        import threading, tracedthread._core, atexit, ctypes, opcode, tracedthread._thread
        from tracedthread import _green, _rebind, _uncovered
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        """
    )


@pytest.mark.parametrize(
    "path",
    ["missing/app.ttc", "file/app.ttc", "folder", "link", "dangling", "there.ttc", "fifo", "n" * 300, "loop/x"],
)
def test_a_path_that_cannot_be_a_new_file(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "there.ttc").write_text("precious")
    (tmp_path / "link").symlink_to("there.ttc")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    before = sorted(os.listdir(tmp_path))
    declines(f"path='{path}'", cwd=tmp_path)
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "there.ttc").read_text() == "precious"


def test_a_path_with_a_null_byte_is_nobodys_file(tmp_path: Path) -> None:
    code = "import tracedthread\ntry:\n assert not tracedthread.patch(path='a\\0b')\nexcept ValueError: pass"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=LIMIT_S)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["folder", "fifo", "/dev/null", "/proc/self/mem", "/dev/full"])
def test_force_replaces_files_only(path: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    declines(f"path={path!r}, force=True", cwd=tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["fifo", "folder"]
    assert Path("/dev/null").is_char_device()


def test_force_replaces_a_link_and_leaves_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "app.ttc").symlink_to("target")
    code = "import tracedthread; assert tracedthread.patch(path='app.ttc', force=True)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=LIMIT_S)
    assert (tmp_path / "target").read_text() == "precious"
    assert not (tmp_path / "app.ttc").is_symlink()
    assert (tmp_path / "app.ttc").stat().st_mode & 0o777 == 0o600


def test_a_current_directory_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    declines("path='app.ttc'", cwd=gone, before="os.rmdir(os.getcwd())")


root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
unshare = pytest.mark.skipif(
    os.geteuid() != 0
    or shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="needs a mount namespace",
)


@root
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    # Everything is loaded before the privileges go: the checkout need not be readable for others.
    loaded = "import threading, tracedthread._thread; from tracedthread import _green, _rebind, _uncovered, patch\n"
    tmp_path.chmod(0o555)
    reason = declines(
        "path='app.ttc'", cwd=tmp_path, before=loaded + "import atexit; os.setgid(65534); os.setuid(65534)"
    )
    assert "app.ttc" in reason
    assert "enied" in reason


@unshare
@pytest.mark.parametrize("options", ["size=1m", "ro", "size=64k,nr_inodes=1"])
def test_a_disk_that_is_full_or_read_only(options: str, tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o {options} none "$1" && cd "$1" && shift && exec "$@"'
    declines("path='app.ttc'", wrap=("unshare", "-m", "sh", "-c", script, "sh", str(tmp_path)))


@unshare
def test_without_shared_memory_and_temporary_folders_memory_does() -> None:
    script = 'mount -t tmpfs -o ro none /dev/shm; mount -t tmpfs -o ro none /tmp; exec "$@"'
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import tracedthread; assert tracedthread.patch()"
    prefix = Path(sys.prefix).resolve()
    if Path("/tmp") in (*prefix.parents, *ROOT.parents):
        script = script.replace("mount -t tmpfs -o ro none /tmp; ", "")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stderr) == (0, "")


SYSTEM_CALLS = {"x86_64": {"memfd_create": 319, "mmap": 9}, "aarch64": {"memfd_create": 279, "mmap": 222}}


def refuse(number: int, errno: int) -> str:
    """Python text that makes the kernel refuse a system call to this process from now on (a BPF program for seccomp)."""
    return f"""
    import threading, tracedthread._thread, ctypes, struct
    program = b"".join(struct.pack("HBBI", *line) for line in (
        (0x20, 0, 0, 0),                    # load the system call's number
        (0x15, 0, 1, {number}),             # equal: the next line; else: the one after
        (0x06, 0, 0, 0x00050000 | {errno}), # SECCOMP_RET_ERRNO
        (0x06, 0, 0, 0x7FFF0000),           # SECCOMP_RET_ALLOW
    ))
    code = ctypes.create_string_buffer(program, len(program))
    filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS"
    assert libc.prctl(22, 2, filter, 0, 0) == 0, "PR_SET_SECCOMP"
    """


@pytest.mark.skipif(os.uname().machine not in SYSTEM_CALLS, reason="numbers of system calls not known")
@pytest.mark.parametrize("errno", [1, 38], ids=["EPERM", "ENOSYS"])
def test_seccomp_that_refuses_memfd_create(errno: int) -> None:
    number = SYSTEM_CALLS[os.uname().machine]["memfd_create"]
    reason = declines(before=refuse(number, errno))
    assert "memfd" in reason
    assert os.strerror(errno) in reason


def test_patching_that_is_refused_again_and_again_takes_no_memory(tmp_path: Path) -> None:
    """Each try left the hash tables behind, 1.5 MiB."""
    (tmp_path / "app.ttc").touch()
    code = """
import resource, tracedthread
def used(): return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
assert not tracedthread.patch(path="app.ttc")
before = used()
for _ in range(50): assert not tracedthread.patch(path="app.ttc")
assert used() - before < 20 << 20, used() - before
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=LIMIT_S, stderr=subprocess.DEVNULL)


def test_an_address_space_too_small() -> None:
    declines(
        before="""
        import threading, tracedthread._thread, resource
        used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 20), resource.RLIM_INFINITY))
        threading.stack_size(65536)
        """
    )
    assert ctypes.sizeof(ctypes.c_void_p) == 8
