"""Patching, pausing, looking and un-patching while threads make locks, use them, wait for them and start others."""

from __future__ import annotations

import pytest
from abuse import LIMIT_S, run

pytestmark = pytest.mark.timeout(LIMIT_S + 60)

LOAD = """
    stop = []
    old = threading.Lock()
    def make_and_use(seed):
        choose = random.Random(seed)
        while not stop:
            lock = choose.choice([threading.Lock, threading.RLock, _thread.allocate_lock])()
            with lock:
                assert not lock.acquire(False) or lock._is_owned()
            if hasattr(lock, "_is_owned") and lock._is_owned():
                lock.release()
            with old:
                pass
            old.acquire(timeout=0.0005) and old.release()
    def wait_for_work(seed):
        while not stop:
            condition, event, box = threading.Condition(), threading.Event(), queue.Queue(1)
            with condition:
                condition.wait(0.0005)
            event.wait(0.0005)
            box.put(1)
            assert box.get() == 1
            thread = threading.Thread(target=box.put, args=(2,))
            thread.start()
            assert box.get(timeout=20) == 2
            thread.join()
            with threading.Semaphore(1), threading.BoundedSemaphore():
                pass
    def long_lived(seed):
        lock, condition, box = threading.RLock(), threading.Condition(threading.Lock()), queue.Queue()
        while not stop:
            with lock, lock, condition:
                box.put(seed)
                condition.notify_all()
                condition.wait(0.0003)
            box.get()
    failed = []
    def guarded(function, seed):
        try:
            function(seed)
        except BaseException as exc:
            failed.append(exc)
            stop.append(1)
            raise
    threads = [
        threading.Thread(target=guarded, args=(function, seed))
        for seed in range(2) for function in (make_and_use, wait_for_work, long_lived)
    ]
    for thread in threads: thread.start()
    end = time.monotonic() + (60 if FULL else 2)
    rounds = 0
    while (time.monotonic() < end or rounds <= 5) and not stop:
        CHANGE
        rounds += 1
        time.sleep(0.0005)
    stop.append(1)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert not failed, failed
    assert rounds > 5, rounds
    assert not old.locked()
    for row in tracedthread.snapshot().locks:
        assert row.stats.waiters == 0, row.name
"""

CHANGES = {
    "patch and unpatch": """
        assert tracedthread.unpatch() is True
        assert type(threading.Lock()) is type(stock.allocate_lock())
        assert tracedthread.patch() is True
        assert type(threading.Lock()) is _thread.LockType is not stock.LockType
""",
    "pause and resume": """
        tracedthread.pause(); tracedthread.pause()
        tracedthread.resume(); tracedthread.resume()
""",
    "look": """
        tracedthread.snapshot().to_dict()
        with tracedthread.record() as rec:
            pass
        assert all(row.stats.acquisitions >= 0 for row in rec.profile.locks)
""",
    "all of it": """
        random.choice([tracedthread.pause, tracedthread.resume, tracedthread.patch, tracedthread.unpatch, tracedthread.snapshot])()
""",
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_under_load(change: str) -> None:
    run(LOAD.replace("        CHANGE\n", CHANGES[change].lstrip("\n")))


def test_patching_from_many_threads_at_once() -> None:
    run("""
    def flip(seed):
        choose = random.Random(seed)
        for _ in range(2000 if FULL else 60):
            choose.choice([tracedthread.patch, tracedthread.unpatch, tracedthread.pause, tracedthread.resume])()
            with threading.Lock(), threading.RLock():
                pass
    run_all(*[lambda i=i: flip(i) for i in range(6)])
    tracedthread.unpatch()
    assert _thread.LockType is stock.LockType and _thread.allocate_lock is stock.allocate_lock
    assert threading.Lock is getattr(stock, "lock", stock.allocate_lock)
    assert _thread.start_new_thread is stock.start_new_thread
    """)


def test_a_handler_may_pause_and_look_at_any_moment() -> None:
    run("""
    handled = [0]
    def ring(*args):
        handled[0] += 1
        (tracedthread.pause if handled[0] % 2 else tracedthread.resume)()
        if handled[0] % 20 == 0:
            tracedthread.snapshot()
    tracedthread.snapshot()     # imports what it needs; a handler cannot do that in the middle of the same import
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    lock = threading.Lock()
    end = time.monotonic() + (30 if FULL else 1.5)
    while time.monotonic() < end or handled[0] <= 50:
        with lock:
            lock.acquire(timeout=0.0005)
        tracedthread.unpatch()
        tracedthread.patch()
        tracedthread.pause()
        tracedthread.snapshot()
        tracedthread.resume()
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert handled[0] > 50
    """)


SUBINTERPRETER = """
    faulthandler.cancel_dump_traceback_later()
    try:
        import _interpreters as interpreters
        def create(isolated):
            return interpreters.create("isolated" if isolated else "legacy")
    except ImportError:
        import _xxsubinterpreters as interpreters
        def create(isolated):
            return interpreters.create(isolated=isolated)
    inside = '''if True:
        import sys
        sys.path.insert(0, %r)
        import _thread, threading, tracedthread
        sys.stderr = sys.stdout
        print("patched", tracedthread.patch(), tracedthread.is_patched())
        for lock in (threading.Lock(), threading.RLock(), _thread.allocate_lock()):
            with lock:
                assert lock.__class__.__name__ in ("lock", "RLock")
        try:
            thread = threading.Thread(target=lambda: None)
            thread.start()
            thread.join()
        except RuntimeError:
            pass        # isolated ones may not
    ''' % sys.path[0]
    lock = threading.Lock()
    stop = []
    def use():
        while not stop:
            with lock, threading.RLock():
                pass
            lock.acquire(timeout=0.0005) and lock.release()
    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads: thread.start()
    for n in range(30 if FULL else 4):
        for isolated in (True, False):
            made = create(isolated)
            result = interpreters.run_string(made, inside.replace("sys.path.insert(0, ''", "sys.path.insert(0, '.'"))
            assert result is None, result
            interpreters.destroy(made)
    stop.append(1)
    for thread in threads: thread.join()
    row, = rows("lock")
    assert row.stats.acquisitions > 0 and row.stats.waiters == 0
    print("done")
"""


def test_subinterpreters_stay_stock_and_leave_us_alone() -> None:
    printed = run(SUBINTERPRETER)
    assert "patched True" not in printed
    assert printed.count("patched False False") == printed.count("patched")
    assert printed.endswith("done\n")
