"""However a process ends, its capture can be read, and ends it does: no crash, no hang, nothing said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from abuse import FULL, LIMIT_S, ROOT, run

from tracedthread.capture import Capture
from tracedthread.profile import Profile

pytestmark = pytest.mark.timeout(LIMIT_S + 60)

VICTIM = """
import tracedthread, sys
assert tracedthread.patch(path=sys.argv[1])
import os, threading, time, ctypes, signal, faulthandler, queue
lock = threading.Lock()
counted = threading.Lock()
for _ in range(1000):
    with counted: pass
def wait():
    lock.acquire(timeout=0.01)
lock.acquire()
wait()
held = threading.RLock()
held.acquire()
for target in (held.acquire, queue.Queue().get, lambda: [None for n in iter(int, 1) if counted.acquire(False) and counted.release()]):
    threading.Thread(target=target, daemon=True).start()
time.sleep(0.05)
"""

ENDS = {
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "SIGSEGV": ("ctypes.string_at(0)", -signal.SIGSEGV),
    "SIGBUS": ("os.kill(os.getpid(), signal.SIGBUS)", -signal.SIGBUS),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "abort": ("os.abort()", -signal.SIGABRT),
    "_exit": ("os._exit(5)", 5),
    "a thread's _exit": ("threading.Thread(target=os._exit, args=(6,)).start(); time.sleep(30)", 6),
    "exec": ("os.execv(sys.executable, [sys.executable, '-c', 'raise SystemExit(7)'])", 7),
    "sys.exit": ("sys.exit(8)", 8),
    "its end": ("", 0),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_capture_is_readable_whatever_ended_the_process(how: str, tmp_path: Path) -> None:
    end, status = ENDS[how]
    file = tmp_path / "victim.ttc"
    done = subprocess.run(
        [sys.executable, "-c", VICTIM + end, str(file)], cwd=ROOT, capture_output=True, timeout=LIMIT_S, check=False
    )
    assert (done.returncode, done.stderr) == (status, b"")
    profile = Profile.from_capture(Capture.open(file))
    assert profile.process.state == ("exited" if how in ("sys.exit", "its end") else "killed")
    rows = {row.name.split(".")[-1]: row for row in profile.locks if row.created.path == "<string>"}
    assert rows["counted"].stats.acquisitions >= 1000
    assert rows["held"].stats.waiters == 1
    assert [wait.frame.function for row in profile.locks for wait in row.waits if wait.timeouts] == ["wait"]
    assert {row.name for row in profile.threads} >= {"MainThread"}
    assert len(profile.threads) >= 4
    profile.to_dict()


def test_a_capture_read_while_it_is_written_and_killed_at_any_moment(tmp_path: Path) -> None:
    program = """
    import tracedthread, sys
    assert tracedthread.patch(path=sys.argv[1])
    import threading, os
    print("go", flush=True)
    held = threading.Lock()
    held.acquire()
    def churn(n):
        for i in range(10 ** 9):
            space = {"threading": threading, "held": held}
            exec(compile("\\n" * (i % 500) + f"x{n}_{i % 50} = threading.Lock()\\nwith x{n}_{i % 50}: held.acquire(timeout=1e-6)", f"<{n}>", "exec"), space)
            if i % 100 == 0:
                threading.Thread(target=int).start()
    for n in range(4):
        threading.Thread(target=churn, args=(n,)).start()
    threading.Event().wait()    # 3.12 starts no threads once the main one has ended
    """
    for n in range(40 if FULL else 6):
        file = tmp_path / f"{n}.ttc"
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), str(file)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(6):
            profile = Profile.from_capture(Capture.open(file))
            assert profile.process.state == "running"
            profile.to_dict()
        process.kill()
        process.wait()
        process.stdout.close()
        profile = Profile.from_capture(Capture.open(file))
        assert profile.process.state == "killed"
        # At most one of each thread's acquisitions is between two counters.
        for row in profile.locks:
            assert abs(sum(row.stats.hold.counts) - row.stats.acquisitions) <= 4


DAEMONS = """
    # Not joined, and in every state a thread can be in when the interpreter goes away.
    faulthandler.cancel_dump_traceback_later()
    held = threading.Lock()
    held.acquire()
    rlock = threading.RLock()
    rlock.acquire()
    busy = threading.Lock()
    condition = threading.Condition()
    box = queue.Queue()
    def contend():
        while True:
            with busy:
                pass
            busy.acquire(timeout=0.0001) and busy.release()
    def nap():
        while True:
            with busy:
                time.sleep(0.0001)
    def make():
        while True:
            with threading.RLock(), threading.Lock():
                threading.Event()
    def expire():
        while True:
            held.acquire(timeout=0.0003)
            rlock.acquire(timeout=0.0003)
    def notified():
        while True:
            with condition:
                condition.wait(0.0002)
                condition.notify()
    def pass_on():
        while True:
            box.put(1)
            box.get()
    def start():
        while True:
            try:
                threading.Thread(target=int, daemon=True).start()
            except RuntimeError:    # at shutdown
                return
    class Late:
        def __init__(self): self.lock = threading.Lock(); self.busy = busy; self.condition = condition
        def __del__(self):
            with self.lock:
                if self.busy.acquire(False):
                    self.busy.release()
    sys.late = Late()
    late = Late()
    cycle = [Late()]
    cycle.append(cycle)
    for target in (held.acquire, rlock.acquire, box.get, contend, contend, nap, make, expire, notified, pass_on, START):
        threading.Thread(target=target, daemon=True).start()
        _thread.start_new_thread(target, ())
    time.sleep(random.choice([0, 0.001, 0.01]))
    END
"""


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "import atexit; atexit.register(lambda: time.sleep(0.01))"])
def test_daemon_threads_at_exit(end: str) -> None:
    # Starting threads while the interpreter goes away is not made safe by anybody before 3.13.
    start = "start" if sys.version_info >= (3, 13) else "make"
    for _ in range(60 if FULL else 5):
        run(DAEMONS.replace("START", start).replace("END", end))


def test_daemon_threads_at_exit_with_a_file_and_a_debugging_allocator(tmp_path: Path) -> None:
    # Stock 3.10 itself crashes on this program with that allocator (8 runs of 60, unpatched): there without it.
    debugging = sys.version_info >= (3, 11)
    for n in range(20 if FULL else 3):
        file = tmp_path / f"{n}.ttc"
        run(
            DAEMONS.replace("START", "make").replace("END", ""),
            *(("-X", "dev") if debugging else ()),
            patch=f"path={str(file)!r}",
            env={"PYTHONMALLOC": "debug"} if debugging else {},
        )
        profile = Profile.from_capture(Capture.open(file))
        assert profile.process.state == "exited"


def test_a_program_that_becomes_a_daemon_goes_on_recording(tmp_path: Path) -> None:
    """Two forks, a session of its own, and every descriptor closed, the capture's too if there were one."""
    run(
        f"""
    faulthandler.cancel_dump_traceback_later()
    read, write = os.pipe()
    lock = threading.Lock()
    with lock: pass
    if os.fork():
        os.close(write)
        os.wait()
        assert os.read(read, 10) == b""     # closed by the daemon, not written to
        deadline = time.monotonic() + 40
        while not os.path.exists({str(tmp_path)!r} + "/done"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        sys.exit()
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.umask(0)
    os.closerange(0, 4096)
    for _ in range(3):
        os.open(os.devnull, os.O_RDWR)
    def work():
        for _ in range(1000):
            with lock, threading.RLock():
                pass
        lock.acquire()
        lock.acquire(timeout=0.001)
        lock.release()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with open({str(tmp_path)!r} + "/result", "w") as file:
        row, = rows("lock")
        file.write(f"{{row.stats.acquisitions}} {{row.stats.timeouts}} {{os.getpid()}}")
    os.rename({str(tmp_path)!r} + "/result", {str(tmp_path)!r} + "/done")
    sys.exit()
    """,
        patch=f"path={str(tmp_path / 'app.ttc')!r}, follow_fork=True",
    )
    acquisitions, timeouts, pid = (tmp_path / "done").read_text().split()
    assert (acquisitions, timeouts) == ("1001", "1")
    profile = Profile.from_capture(Capture.open(tmp_path / f"app.{pid}.ttc"))
    (row,) = [row for row in profile.locks if row.name.endswith(".lock") and row.created.path == "<string>"]
    assert row.stats.acquisitions == 1001
    assert os.stat(tmp_path / f"app.{pid}.ttc").st_mode & 0o777 == 0o600
