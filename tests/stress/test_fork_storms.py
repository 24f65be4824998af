"""Forking while other threads hold our locks and wait for them: children use and make locks, and count their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from abuse import FULL, LIMIT_S, ROOT, run

from tracedthread.capture import Capture
from tracedthread.profile import Profile

pytestmark = pytest.mark.timeout(LIMIT_S + 60)

# Four threads that hold, wait, time out and wait for work, for as long as the program forks.
BUSY = """
    locks = [threading.Lock() for _ in range(3)]
    rlock = threading.RLock()
    condition = threading.Condition()
    box = queue.Queue(2)
    stuck = threading.Lock()
    stuck.acquire()
    stop = []
    def busy(seed):
        choose = random.Random(seed)
        while not stop:
            with choose.choice(locks), rlock:
                time.sleep(choose.choice([0, 0, 0.0005]))
            choose.choice(locks).acquire(timeout=0.0005) and [lock.release() for lock in ()]
            with condition:
                condition.wait(0.0005)
            try:
                box.put_nowait(1) if seed % 2 else box.get_nowait()
            except (queue.Full, queue.Empty):
                pass
    def busy_safely(seed):
        try:
            busy(seed)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(99)
""".replace(
    "            choose.choice(locks).acquire(timeout=0.0005) and [lock.release() for lock in ()]\n",
    """\
            tried = choose.choice(locks)
            if tried.acquire(timeout=0.0005):
                tried.release()
""",
)

CHILD = """
    def child(n):
        signal.alarm(20)  # faulthandler hangs in a child whose parent has armed it
        assert not stuck.acquire(False)
        assert not stuck.acquire(timeout=0.0005)
        stuck._at_fork_reinit()
        assert stuck.acquire(False)
        stuck.release()
        for lock in [*locks, rlock]:
            # Whoever held it does not exist here.
            if not lock.acquire(False):
                lock._at_fork_reinit()
                assert lock.acquire(timeout=1)
            lock.release()
        made = threading.Lock()
        shared = threading.Condition()
        results = queue.Queue()
        def work(index):
            for _ in range(20):
                with made, rlock, stuck:
                    results.put(index)
            with shared:
                shared.notify_all()
        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert results.qsize() == 60
        with shared:
            assert not shared.wait(0.001)
        with made:
            assert not made.acquire(timeout=0.0005)
        profile = tracedthread.snapshot()
        assert profile.process.pid == os.getpid()
        found = {row.name.split(".")[-1]: row.stats for row in profile.locks if row.created.path == "<string>"}
        assert found["made"].acquisitions == 61, found["made"]
        assert found["made"].timeouts == 1
        assert found["stuck"].acquisitions in (61, 62), found["stuck"]
        assert found["stuck"].failed_tries == 1
        assert all(row.stats.waiters == 0 for row in profile.locks)
        if n % 8 == 0:
            grandchild = os.fork()
            if grandchild == 0:
                with made, rlock:
                    pass
                mine, = [row for row in tracedthread.snapshot().locks if row.name.endswith(".made")]
                os._exit(0 if mine.stats.acquisitions == 1 else 98)
            assert os.waitpid(grandchild, 0)[1] == 0
"""

STORM = (
    BUSY
    + CHILD
    + """
    def storm(count, leave):
        for n in range(count):
            pid = os.fork()
            if pid == 0:
                try:
                    child(n)
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    os._exit(97)
                leave(n)
            done, status = os.waitpid(pid, 0)
            assert status == 0, (n, status)
    threads = [threading.Thread(target=busy_safely, args=(seed,)) for seed in range(4)]
    for thread in threads: thread.start()
    before = tracedthread.snapshot().totals.acquisitions
    FORK
    stop.append(1)
    for thread in threads: thread.join()
    assert tracedthread.snapshot().totals.acquisitions > before
    assert all(row.stats.waiters == 0 for row in tracedthread.snapshot().locks)
"""
)
COUNT = 1000 if FULL else 60


@pytest.mark.parametrize(
    "fork",
    [
        f"storm({COUNT}, lambda n: os._exit(0))",
        f"other = threading.Thread(target=storm, args=({COUNT // 2}, lambda n: os._exit(0))); other.start(); other.join()",
    ],
    ids=["from the main thread", "from another thread"],
)
def test_children_use_and_make_locks(fork: str) -> None:
    run(STORM.replace("FORK", fork))


def test_children_end_in_an_orderly_way() -> None:
    run(
        BUSY
        + CHILD
        + f"""
    faulthandler.cancel_dump_traceback_later()   # a child would wait for its thread at exit
    threads = [threading.Thread(target=busy_safely, args=(seed,), daemon=True) for seed in range(4)]
    for thread in threads: thread.start()
    for n in range({COUNT // 3}):
        pid = os.fork()
        if pid == 0:
            child(n)
            break      # out of the program by its end: atexit, threading's shutdown
        assert os.waitpid(pid, 0)[1] == 0
    """
    )


def test_a_handler_forks_while_its_thread_waits() -> None:
    """The child goes on with the wait that its parent began, in a queue of its own."""
    run(f"""
    lock = threading.Lock()
    children = []
    def ring(*args):
        pid = os.fork()
        if pid == 0:
            children.clear()
            children.append(None)
            threading.Thread(target=lambda: (time.sleep(0.005), lock.release())).start()
        else:
            children.append(pid)
    signal.signal(signal.SIGALRM, ring)
    for n in range({100 if FULL else 15}):
        lock.acquire()
        releaser = threading.Thread(target=lambda: (time.sleep(0.03), lock.release()))
        releaser.start()
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        assert lock.acquire(timeout=20)
        if children == [None]:
            row, = rows("lock")
            assert row.stats.waiters == 0
            os._exit(0)
        releaser.join()
        lock.release()
        pid, = children
        children.clear()
        assert os.waitpid(pid, 0)[1] == 0, n
    row, = rows("lock")
    assert row.stats.waiters == 0
    """)


def test_pools_of_forked_processes() -> None:
    run(f"""
    faulthandler.cancel_dump_traceback_later()
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    lock = threading.Lock()
    def square(n):
        with lock, threading.RLock():
            return n * n
    fork = multiprocessing.get_context("fork")
    for _ in range({20 if FULL else 2}):
        with fork.Pool(3) as pool:
            assert pool.map(square, range(50)) == [n * n for n in range(50)]
        with ProcessPoolExecutor(2, mp_context=fork) as pool:
            assert list(pool.map(square, range(20))) == [n * n for n in range(20)]
    """)


def test_follow_fork_leaves_a_readable_file_of_every_child(tmp_path: Path) -> None:
    count = 30 if FULL else 6
    printed = run(
        f"""
    lock = threading.Lock()
    for n in range({count}):
        pid = os.fork()
        if pid == 0:
            for _ in range(n + 1):
                with lock: pass
            os._exit(0) if n % 2 else os.kill(os.getpid(), signal.SIGKILL)
        print(pid, n + 1)
        os.waitpid(pid, 0)
    """,
        patch="path='app.ttc', follow_fork=True",
        cwd=tmp_path,
    )
    assert ROOT.is_dir()
    for line in printed.splitlines():
        pid, acquisitions = map(int, line.split())
        profile = Profile.from_capture(Capture.open(tmp_path / f"app.{pid}.ttc"))
        assert profile.process.pid == pid
        assert profile.process.state == "killed"  # os._exit() and SIGKILL alike: nobody wrote that it ended
        (row,) = [row for row in profile.locks if row.name.endswith(".lock") and row.created.path == "<string>"]
        assert row.stats.acquisitions == acquisitions
    assert len(list(tmp_path.glob("app*.ttc"))) == count + 1


# While each child begins, its parent goes on to record places, stacks and names that the child never sees. There is room for
# 1,024 places.
PARENT_GOES_ON = """
    def code(n):
        makers = "".join(f"def make_{n}_{i}():\\n    lock_{n}_{i} = threading.Lock()\\n" for i in range(840 // forks))
        return makers + "def make():\\n" + "".join(f"    make_{n}_{i}()\\n" for i in range(840 // forks))
    makers = []
    for n in range(forks):
        namespace = {"threading": threading}
        exec(compile(code(n), f"/srv/app/module_{n}.py", "exec"), namespace)
        makers.append(namespace["make"])
    tracedthread.snapshot()
    from tracedthread import _core
    from tracedthread.capture import Capture
    for n, make in enumerate(makers):
        pid = os.fork()
        if not pid:
            tracedthread.snapshot()  # raises, if it is damaged
            capture = Capture.from_buffer(_core.loaded().copy())
            files = {capture.string(site.file) for site in capture.sites()}
            os._exit(any(f"/srv/app/module_{later}.py" in files for later in range(n, forks)))
        make()
        assert os.waitpid(pid, 0)[1] == 0, n
    capture = Capture.from_buffer(_core.loaded().copy())
    files = {capture.string(site.file) for site in capture.sites()}
    assert all(f"/srv/app/module_{n}.py" in files for n in range(forks)), "nothing was there to be missed"
"""


def test_a_child_knows_what_its_parent_knew_at_the_fork_and_no_more() -> None:
    forks = 400 if FULL else 60
    run(f"    import tracedthread\n    forks = {forks}\n" + PARENT_GOES_ON)


LOST_AT_FORK = """
    tracedthread.patch()
    makers = []
    for n in range(300):
        space = {}
        source = "import threading\\ndef make():\\n return threading.Lock()"
        exec(compile("\\n" * n + source, f"/srv/app/module_{n}.py", "exec"), space)
        makers.append(space["make"])
        makers[-1]()
    used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 20), limits[1]))
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        tracedthread.unpatch()
        assert not tracedthread.patch(capture_bytes=256 << 10)     # it says so
        with tracedthread.record() as rec:
            for lock in [make() for make in makers for _ in range(2)]:
                with lock: pass
        assert rec.profile is None
        pid = os.fork()
        if pid == 0:
            os._exit(0 if makers[0]().acquire() else 1)
        os._exit(os.waitpid(pid, 0)[1])
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_a_child_that_had_no_room_for_its_recording_makes_no_other() -> None:
    """The ids that locks and code objects have are of the parent's."""
    code = "import os, resource, tracedthread\n" + textwrap.dedent(LOST_AT_FORK)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    reason = "tracedthread: not recording: there was no memory for this process's recording when it was forked\n"
    assert (done.returncode, done.stdout, set(done.stderr.splitlines(True))) == (0, "", {reason})
