"""The promised names of the package: what they cost, give back and raise. Each claim in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from clean_environment import clean_environment

import tracedthread

ROOT = str(Path(tracedthread.__file__).resolve().parent.parent)
LIMIT_S = 60


def holds(code: str, *flags: str, stderr: str = "", **env: str) -> str:
    result = subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(code)],
        env=clean_environment(ROOT, **env),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, stderr)
    return result.stdout


def test_import_is_light_and_changes_nothing() -> None:
    out = holds(
        """
        import sys, _thread
        before, names = set(sys.modules), dict(vars(_thread))
        import tracedthread
        print(sorted(n for n in set(sys.modules) - before if not n.startswith("tracedthread")))
        print(sorted(n for n in sys.modules if n in ("tracedthread._native", "tracedthread._types", "_cffi_backend")))
        assert vars(_thread) == names
        """
    )
    assert out == "['__future__']\n[]\n"


def test_promised_names() -> None:
    for name in tracedthread.__all__:
        assert getattr(tracedthread, name) is not None
        if callable(getattr(tracedthread, name)):
            assert getattr(tracedthread, name).__doc__
    assert set(tracedthread.__all__) <= set(dir(tracedthread))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tracedthread.nonsense  # noqa: B018


def test_patch_stays_a_function_when_the_module_is_imported() -> None:
    holds("""
        import tracedthread
        import tracedthread.patch
        from tracedthread.patch import patch
        assert callable(tracedthread.patch) and tracedthread.patch is patch
    """)


@pytest.mark.parametrize(
    "arguments",
    [
        "capture_bytes=1000",
        "capture_bytes=-1",
        "event_threshold_ms=-1",
        "event_threshold_ms=float('nan')",
        "deadlock_after_s=-1",
        "deadlock_after_s=float('nan')",
    ],
)
def test_bad_arguments_raise(arguments: str) -> None:
    holds(f"""
        import tracedthread
        try:
            tracedthread.patch({arguments})
        except ValueError as exc:
            assert "must be" in str(exc)
        else:
            raise SystemExit("accepted")
        assert not tracedthread.is_patched()
    """)


def test_snapshot_before_any_recording_raises() -> None:
    holds("""
        import tracedthread
        try:
            tracedthread.snapshot()
        except RuntimeError as exc:
            assert "patch()" in str(exc)
        else:
            raise SystemExit("accepted")
    """)


CONTEND = """
    import threading, time
    def contend(lock):
        def hold():
            with lock:
                held.set()
                time.sleep(0.05)
        held = threading.Event()
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        with lock: pass
        thread.join()
"""


def test_snapshot_shows_what_was_recorded_so_far() -> None:
    holds(
        CONTEND
        + """
    import tracedthread
    tracedthread.patch()
    shared = threading.Lock()
    contend(shared)
    profile = tracedthread.snapshot()
    assert isinstance(profile, tracedthread.Profile)
    row = next(row for row in profile.to_dict()["locks"] if row["name"].endswith("shared"))
    assert (row["contended"], row["instances"]) == (1, 1)
    assert 0.005 < row["wait_s"] < 30
    assert row["waits"][0]["function"] == "contend"
    contend(shared)
    row = next(row for row in tracedthread.snapshot().to_dict()["locks"] if row["name"].endswith("shared"))
    assert row["contended"] == 2
    """
    )


def test_snapshot_under_load_is_whole() -> None:
    holds("""
        import sys, threading, tracedthread
        sys.setswitchinterval(1e-5)
        tracedthread.patch()
        stop = threading.Event()
        def work():
            while not stop.is_set():
                exec("lock = threading.Lock()\\nwith lock: pass", {"threading": threading})
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads: thread.start()
        last = 0
        for _ in range(30):
            totals = tracedthread.snapshot().to_dict()["totals"]
            assert totals["acquisitions"] >= last
            last = totals["acquisitions"]
        stop.set()
        for thread in threads: thread.join()
        assert last > 0
    """)


def test_record_gives_the_difference_and_leaves_things_as_they_were() -> None:
    holds(
        CONTEND
        + """
    import tracedthread, _thread
    stock = _thread.allocate_lock
    with tracedthread.record() as rec:
        assert tracedthread.is_patched() and rec.profile is None
        lock = threading.Lock()
        contend(lock)
    assert _thread.allocate_lock is stock and not tracedthread.is_patched()
    first = rec.profile.to_dict()
    assert sum(row["contended"] for row in first["locks"]) == 1
    contend(lock)
    tracedthread.patch()
    contend(lock)
    with tracedthread.record() as rec:
        contend(lock)
        contend(lock)
    assert tracedthread.is_patched()
    row = next(row for row in rec.profile.to_dict()["locks"] if row["name"].endswith(".lock"))
    assert row["contended"] == 2, row
    """
    )


def test_record_passes_exceptions_on_and_can_be_used_again() -> None:
    holds("""
        import tracedthread
        recording = tracedthread.record()
        for _ in range(2):
            try:
                with recording as rec:
                    1 / 0
            except ZeroDivisionError:
                pass
            assert rec is recording and rec.profile is not None
            assert not tracedthread.is_patched()
    """)


def test_the_last_of_several_recordings_at_once_unpatches() -> None:
    holds("""
        import threading, tracedthread
        with tracedthread.record() as first:
            second = tracedthread.record().__enter__()
        assert tracedthread.is_patched()
        lock = threading.Lock()
        for _ in range(1000):
            with lock:
                pass
        second.__exit__(None, None, None)
        assert not tracedthread.is_patched()
        assert second.profile.totals.acquisitions >= 1000, second.profile.totals
        with tracedthread.record() as rec:
            assert tracedthread.is_patched()
        assert not tracedthread.is_patched()
    """)


def test_a_recording_that_cannot_begin_leaves_nothing_patched() -> None:
    holds("""
        import tracedthread
        whole = tracedthread.snapshot
        def fail():
            raise MemoryError
        tracedthread.snapshot = fail
        try:
            tracedthread.record().__enter__()
        except MemoryError:
            pass
        assert not tracedthread.is_patched()
        tracedthread.snapshot = whole
        with tracedthread.record() as rec:
            pass
        assert rec.profile is not None and not tracedthread.is_patched()
    """)


def test_a_child_forked_while_others_record_unpatches_when_its_own_block_ends() -> None:
    holds("""
        import os, threading, tracedthread, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
        go, end = threading.Event(), threading.Event()
        def other():
            with tracedthread.record():
                go.set()
                end.wait()
        with tracedthread.record() as rec:
            thread = threading.Thread(target=other)
            thread.start()
            go.wait()
            pid = os.fork()
        if pid == 0:
            os._exit(rec.profile is not None or tracedthread.is_patched())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert tracedthread.is_patched()
        end.set()
        thread.join()
        assert not tracedthread.is_patched()
    """)


def test_record_lets_a_forked_child_exit_as_it_likes() -> None:
    holds("""
        import os, sys, tracedthread
        with tracedthread.record() as rec:
            pid = os.fork()
            if pid == 0:
                sys.exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert rec.profile is not None
    """)


def test_record_that_cannot_take_its_profile_says_so_and_unpatches() -> None:
    holds(
        """
        import tracedthread
        def fail():
            raise MemoryError("none left")
        try:
            with tracedthread.record() as rec:
                tracedthread.snapshot = fail
                raise KeyError("the block's own")
        except KeyError:
            pass
        assert rec.profile is None and not tracedthread.is_patched()
        """,
        stderr="tracedthread: record() has no profile: MemoryError('none left')\n",
    )


def test_record_where_nothing_can_be_recorded() -> None:
    holds(
        """
        import tracedthread
        with tracedthread.record() as rec:
            pass
        assert rec.profile is None
        """,
        TRACEDTHREAD_DISABLED="1",
    )


def test_a_snapshot_does_not_make_the_whole_capture_resident() -> None:
    holds("""
        import tracedthread
        def shared_kib():
            for line in open("/proc/self/status"):
                if line.startswith("RssShmem"):
                    return int(line.split()[1])
        tracedthread.patch(capture_bytes=64 << 20)
        tracedthread.snapshot()
        assert shared_kib() < 4096, shared_kib()
    """)


def test_forked_child_records_for_itself() -> None:
    holds("""
        import os, threading, tracedthread
        tracedthread.patch()
        shared = threading.Lock()
        for _ in range(5):
            with shared: pass
        def count():
            rows = [row for row in tracedthread.snapshot().to_dict()["locks"] if row["name"].endswith(".shared")]
            return sum(row["acquisitions"] for row in rows)
        assert count() == 5
        pid = os.fork()
        if pid == 0:
            with shared: pass
            profile = tracedthread.snapshot().to_dict()
            os._exit(0 if (count(), profile["process"]["pid"]) == (1, os.getpid()) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert count() == 5
    """)
