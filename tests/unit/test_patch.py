"""What patch() exchanges, what it leaves, and that unpatch() undoes all of it. Each claim in a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from clean_environment import clean_environment

import tracedthread
from tracedthread import _rebind, _settings

ROOT = str(Path(tracedthread.__file__).resolve().parent.parent)
LIMIT_S = 60


def fresh(code: str, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(code)],
        env=clean_environment(ROOT, **env),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def holds(code: str, *flags: str, **env: str) -> str:
    """The code runs, complains about nothing, and gives back what it printed."""
    result = fresh(code, *flags, **env)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "stderr", ["ToLog()", "type('Fails', (ToLog,), {'write': lambda self, text: 1 / 0})()", "object()", "None"]
)
def test_a_program_that_writes_its_errors_elsewhere_can_be_declined(stderr: str) -> None:
    lines = holds(f"""
        import sys
        said = []
        class ToLog:
            def write(self, text):
                said.append(text)
        sys.stderr = {stderr}
        import tracedthread
        assert tracedthread.patch(path="/nonexistent/app.ttc") is False
        sys.stderr = sys.__stderr__  # the interpreter itself wants to flush it at exit
        print(*said)
    """)
    assert ("tracedthread: not recording: " in lines) == (stderr == "ToLog()")


def test_every_name_is_ours_or_stock_and_comes_back() -> None:
    holds("""
        import _thread
        before = dict(vars(_thread))
        import tracedthread
        assert vars(_thread) == before
        assert tracedthread.patch() is True
        assert tracedthread.is_patched()
        from tracedthread import _thread as drop_in
        assert set(vars(_thread)) == set(before)
        for name, value in before.items():
            assert (vars(_thread)[name] is not value) == (name in drop_in._OURS), name
            if not name.startswith("__"):
                assert vars(_thread)[name] is getattr(drop_in, name), name
        assert type(_thread.allocate_lock()) is _thread.LockType
        assert tracedthread.unpatch() is True
        assert not tracedthread.is_patched()
        assert vars(_thread) == before
        assert tracedthread.unpatch() is False
    """)


def test_the_drop_in_has_the_names_of_this_interpreter_and_knows_all_of_them() -> None:
    holds("""
        import _thread
        from tracedthread import _thread as ours
        assert dir(ours) == dir(_thread)
        assert ours.__doc__ == _thread.__doc__
        assert ours._UNKNOWN == (), f"new in this Python, decide about it: {ours._UNKNOWN}"
        there, here = {}, {}
        exec("from _thread import *", there)
        exec("from tracedthread._thread import *", here)
        assert set(there) == set(here), set(there) ^ set(here)
        assert ours.stack_size is _thread.stack_size and ours.error is _thread.error
    """)


def test_patching_twice_does_nothing_and_another_path_is_an_error() -> None:
    holds("""
        import _thread, tracedthread
        assert tracedthread.patch()
        lock_type = _thread.LockType
        assert tracedthread.patch()
        assert _thread.LockType is lock_type
        for _ in range(2):
            try:
                tracedthread.patch(path="/nonexistent/other.ttc")
            except RuntimeError as exc:
                assert "memory" in str(exc) and "other.ttc" in str(exc)
            else:
                raise SystemExit("no error")
            tracedthread.unpatch()
    """)


def test_modules_loaded_before_are_rebound_and_restored() -> None:
    holds("""
        import threading, queue, logging, tempfile, functools, concurrent.futures, types, sys
        import _thread
        class Uses:
            make = threading.Lock
            other = 1
        mine = types.ModuleType("mine")
        from _thread import allocate_lock as kept
        mine.anything = kept
        sys.modules["mine"] = mine
        stock = {"lock": type(threading.Lock()), "rlock": type(threading.RLock())}  # not globals: those are rebound
        loaded = {m: dict(vars(module)) for m, module in list(sys.modules.items()) if m != "__main__"}
        before = {(m, n): value for m, names in loaded.items() for n, value in names.items()}
        import tracedthread
        assert tracedthread.patch()
        ours = [_thread.LockType]
        assert type(threading.Lock()) is ours[0] is type(tempfile._allocate_lock()) is type(kept())
        assert type(mine.anything()) is ours[0]
        assert type(Uses.make()) is type(Uses().make()) is ours[0]
        assert type(threading.RLock()) is functools.RLock is _thread.RLock is not stock["rlock"]
        assert type(threading.Condition()._lock) is _thread.RLock
        assert type(queue.Queue().mutex) is ours[0]
        while_patched = types.ModuleType("while_patched")
        sys.modules["while_patched"] = while_patched
        exec("from threading import Lock; from _thread import *", vars(while_patched))
        class Later:
            make = threading.Lock
        old = threading.Lock()
        assert tracedthread.unpatch()
        def compare():  # in a function: 3.15 resolves a lazy import where a global is read
            for (m, n), v in before.items():
                if type(v).__name__ != "lazy_import" and not m.startswith("tracedthread"):
                    assert vars(sys.modules[m]).get(n) is v, (m, n)
        compare()
        assert type(while_patched.Lock()) is type(while_patched.allocate_lock()) is stock["lock"]
        assert while_patched.LockType is stock["lock"]
        assert type(Uses.make()) is type(Later.make()) is type(kept()) is stock["lock"]
        with old:
            assert old.locked()
        assert type(old) is ours[0]
    """)


def test_import_locks_stay_stock_and_bootstrap_gets_its_module_back() -> None:
    holds("""
        import importlib._bootstrap as bootstrap, _thread, tracedthread
        assert bootstrap._thread is _thread
        assert tracedthread.patch()
        assert bootstrap._thread is tracedthread.originals
        module_lock = bootstrap._ModuleLock("x")
        assert type(module_lock.lock) in (tracedthread.originals.LockType, tracedthread.originals.RLock)
        tracedthread.unpatch()
        assert bootstrap._thread is _thread
    """)


def test_patching_imports_no_threading_and_reads_no_lazy_module() -> None:
    holds("""
        import sys, importlib.util
        spec = importlib.util.find_spec("wave")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        lazy = importlib.util.module_from_spec(spec)
        sys.modules["wave"] = lazy
        spec.loader.exec_module(lazy)
        threading_there = "threading" in sys.modules
        class Nasty:
            def __getattribute__(self, name): raise SystemExit("ran " + name)
        sys.modules["nasty"] = Nasty()
        sys.modules["none"] = None
        proxy = Nasty()
        import tracedthread
        assert tracedthread.patch()
        assert tracedthread.unpatch()
        assert type(lazy).__name__ == "_LazyModule"
        assert ("threading" in sys.modules) == threading_there
    """)


def test_pause_and_resume_stop_and_go_on_counting_in_place() -> None:
    holds("""
        import tracedthread, threading
        tracedthread.patch()
        counted = lock = threading.Lock()
        def acquisitions():
            rows = tracedthread.snapshot().to_dict()["locks"]
            return sum(row["acquisitions"] for row in rows if row["name"].endswith(".counted"))
        with lock: pass
        one = acquisitions()
        tracedthread.pause()
        for _ in range(100):
            with lock: pass
        assert tracedthread.is_patched()
        paused = acquisitions()
        tracedthread.resume()
        tracedthread.resume()
        for _ in range(10):
            with lock: pass
        assert (one, paused, acquisitions()) == (1, 1, 11), (one, paused, acquisitions())
        tracedthread.unpatch()
        tracedthread.pause(); tracedthread.resume()
        after = acquisitions()
        with lock: pass
        assert acquisitions() == after
        tracedthread.patch()
        with lock: pass
        assert acquisitions() == after + 1
    """)


def test_audit_events() -> None:
    out = holds("""
        import sys
        sys.addaudithook(lambda event, args: event.startswith("tracedthread.") and print(event, args))
        import tracedthread
        tracedthread.patch()
        tracedthread.unpatch()
    """)
    assert out == "tracedthread.patch (None,)\ntracedthread.unpatch ()\n"


def test_refusing_audit_hook_leaves_all_stock() -> None:
    holds("""
        import sys, _thread
        stock = _thread.allocate_lock
        def refuse(event, args):
            if event == "tracedthread.patch": raise PermissionError(event)
        sys.addaudithook(refuse)
        import tracedthread
        try:
            tracedthread.patch()
        except PermissionError:
            pass
        else:
            raise SystemExit("not refused")
        assert _thread.allocate_lock is stock and "tracedthread._types" not in sys.modules
    """)


def test_what_existed_before_is_counted_and_named() -> None:
    holds("""
        import _thread, threading, sys, types, queue
        module = types.ModuleType("shop")
        sys.modules["shop"] = module
        class Till:
            shared = threading.RLock()
            def __init__(self): self.lock = threading.Lock()
        Till.__module__ = "shop"
        module.Till, module.till, module.lock, module.jobs = Till, Till(), threading.Lock(), queue.SimpleQueue()
        hidden = [threading.Lock(), threading.RLock()]
        import tracedthread
        assert tracedthread.patch()
        before, queues = tracedthread.uncovered()[:2]
        assert before["what"] == "locks created before patching"
        assert before["count"] >= 5, before
        for name in ("shop.lock", "shop.till.lock", "shop.Till.shared"):
            assert name in before["where"], before
        what = "queue.SimpleQueue waits (implemented in C), other than tasks of thread pools"
        assert queues == {"what": what, "count": 1, "where": ["shop.jobs"]}
        reported = {row["what"]: row["count"] for row in tracedthread.snapshot().to_dict()["uncovered"]}
        assert reported.get(before["what"]) == before["count"], reported
    """)


def test_at_start_nothing_is_uncovered_but_what_is_in_c() -> None:
    out = holds(
        "import tracedthread as t; t.patch(); print([u['what'][:17] for u in t.uncovered()])",
        "-S",
        PYTHONPATH=os.pathsep.join([ROOT, *(path for path in sys.path if path.endswith("site-packages"))]),
    )
    assert out == "['queue.SimpleQueue']\n"


def test_patch_and_unpatch_under_load() -> None:
    holds("""
        import sys, threading, queue, time, concurrent.futures
        import tracedthread
        sys.setswitchinterval(1e-5)
        stop = threading.Event()
        failures, done = [], [0] * 4
        def work(index):
            shared = threading.Lock()
            try:
                while not stop.is_set():
                    lock, rlock = threading.Lock(), threading.RLock()
                    with lock, rlock, rlock, shared:
                        assert lock.locked() and not lock.acquire(False)
                    q = queue.Queue()
                    thread = threading.Thread(target=q.put, args=(index,))
                    thread.start()
                    assert q.get(timeout=30) == index
                    thread.join()
                    done[index] += 1
            except BaseException as exc:
                failures.append(exc)
                raise
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads: thread.start()
        for _ in range(40):
            assert tracedthread.patch()
            time.sleep(0.01)
            assert tracedthread.unpatch()
        stop.set()
        for thread in threads: thread.join(30)
        assert not failures and all(done), (failures, done)
        import _thread
        assert _thread.allocate_lock is tracedthread.originals.allocate_lock
    """)


def test_a_fresh_import_of_the_package_still_finds_the_originals() -> None:
    holds("""
        import sys, _thread
        stock = [_thread.allocate_lock]
        import tracedthread
        tracedthread.patch()
        for name in [n for n in sys.modules if n.startswith("tracedthread") and not n.endswith(("_native", "_types"))]:
            del sys.modules[name]
        import tracedthread
        assert tracedthread.originals.allocate_lock is stock[0]
    """)


def test_subinterpreters_with_a_gil_of_their_own_stay_stock() -> None:
    if sys.version_info < (3, 12):
        pytest.skip("no interpreter has a GIL of its own before 3.12")
    holds("""
        import sys
        try:
            import _interpreters as i
        except ImportError:
            import _xxsubinterpreters as i
        import tracedthread
        tracedthread.patch()
        one = i.create()
        i.run_string(one, '''if True:
            import _thread, sys, io
            sys.stderr = io.StringIO()
            stock = _thread.allocate_lock
            import tracedthread
            assert tracedthread.patch() is False
            assert sys.stderr.getvalue() == "", sys.stderr.getvalue()    # each would say it, and there can be many
            assert _thread.allocate_lock is stock
        ''')
        i.destroy(one)
    """)


@pytest.mark.parametrize(
    ("text", "size"), [("196608", 196608), ("512k", 512 << 10), ("16M", 16 << 20), ("1 GiB", 1 << 30), ("2mb", 2 << 20)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert _settings.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "k", "-1", "1e6", "12 apples", "0", "1k", "131071", "9" * 400, "99999G", "١٦M"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        _settings.parse_bytes(text)


def test_rebinding_goes_by_identity_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("somewhere")
    old, new = object(), object()
    module.__dict__.update(a=old, b=[old], c=new, d=old)
    monkeypatch.setitem(sys.modules, "somewhere", module)
    assert _rebind.rebind([(old, new)]) == 2
    assert (vars(module)["a"], vars(module)["b"], vars(module)["d"]) == (new, [old], new)


def test_a_path_with_a_null_byte_is_refused_as_open_refuses_it() -> None:
    holds("""
        import tracedthread
        try:
            tracedthread.patch(path="a\\0b")
        except ValueError as exc:
            assert str(exc) == "embedded null byte"
        else:
            raise AssertionError("taken")
        assert not tracedthread.is_patched()
        """)
