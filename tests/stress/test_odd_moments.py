"""Waits that something comes in between of: signals while the GIL is missing, forks after a hand-over, the end of the process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from abuse import run

from tracedthread.capture import Capture

INTERRUPTED = """
import ctypes
usleep = ctypes.PyDLL(None).usleep      # keeps the GIL
signal.signal(signal.SIGALRM, signal.default_int_handler)
def give_up(*args): os._exit(9)         # the signal was lost
signal.signal(signal.SIGPROF, give_up)
"""


def test_signal_that_comes_while_a_passed_over_waiter_wants_the_gil_is_handled() -> None:
    run(
        INTERRUPTED
        + """
lock = threading.Lock()
lock.acquire()
def other():
    time.sleep(0.2)
    lock.release(); lock.acquire()       # barges past the main thread, which is woken
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    usleep(300000)
    time.sleep(1000)
threading.Thread(target=other, daemon=True).start()
threading.Timer(10, os.kill, (os.getpid(), signal.SIGPROF)).start()
try:
    lock.acquire()
except KeyboardInterrupt:
    os._exit(0)
os._exit(8)
"""
    )


@pytest.mark.parametrize("what", ["lock.acquire()", "thread.join()"])
def test_signal_that_comes_while_a_deadlock_is_looked_for_is_handled(what: str) -> None:
    if what == "thread.join()" and sys.version_info < (3, 13):
        pytest.skip("up to 3.12 a join waits for a lock")
    run(
        INTERRUPTED
        + f"""
lock = threading.Lock()
lock.acquire()
def other():
    time.sleep(0.25)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    usleep(400000)                       # the look is due at 0.3 s
    time.sleep(1000)
thread = threading.Thread(target=other, daemon=True)
thread.start()
threading.Timer(10, os.kill, (os.getpid(), signal.SIGPROF)).start()
try:
    {what}
except KeyboardInterrupt:
    os._exit(0)
os._exit(8)
""",
        patch="deadlock_after_s=0.3",
    )


def test_child_does_not_inherit_a_lock_that_was_handed_to_another_thread() -> None:
    run("""
    for _ in range(10):
        lock = threading.Lock()
        lock.acquire()
        thread = threading.Thread(target=lambda: (lock.acquire(), lock.release()))
        thread.start()
        time.sleep(0.01)
        lock.release(); lock.acquire()   # the waiter is passed over
        time.sleep(0.01)
        lock.release()                   # and handed the lock
        if (child := os.fork()) == 0:
            os._exit(0 if lock.acquire(timeout=5) else 7)
        assert os.waitpid(child, 0)[1] == 0
        thread.join()
    """)


def test_stack_of_a_holder_that_died_at_exit_is_not_walked(tmp_path: Path) -> None:
    """Its memory is free by then, but is seldom used again so soon: what tells is not a crash, but what was recorded."""
    printed = run(
        """
    has, lock = threading.Event(), threading.Lock()
    def deep(n):
        if n: return deep(n - 1)
        lock.acquire()
        has.set()
        time.sleep(1000)
    class Last:
        def __del__(self, write=os.write, lock=lock):
            write(1, b"last\\n")
            lock.acquire(True, 0.1)
    sys.last = Last()
    threading.Thread(target=deep, args=(10,), daemon=True).start()
    has.wait()
    faulthandler.cancel_dump_traceback_later()
    """,
        patch=f"path={str(tmp_path / 'app.ttc')!r}",
        env={"MALLOC_PERTURB_": "165", "PYTHONMALLOC": "malloc"},
    )
    assert printed == "last\n"
    capture = Capture.open(tmp_path / "app.ttc")
    # On a crowded machine the start of the thread and `has.wait` may record a wait too.
    at_the_end = [
        event
        for event in capture.events()
        if [frame.function.split(".")[-1] for frame in capture.stack(event.stack)] == ["__del__"]
    ]
    if sys.version_info >= (3, 15):  # there is no waiting at the very end any more
        assert at_the_end == []
        return
    assert [[frame.function for frame in capture.stack(event.holder_stack)] for event in at_the_end] == [
        ["(still held)"]
    ]


def test_the_holder_that_is_looked_at_does_not_go_on_meanwhile() -> None:
    """On 3.11 the name of its file made an exception, that collected garbage, and this let the holder go on and end."""
    run("""
    space, started, go = {}, stock.allocate_lock(), stock.allocate_lock()
    started.acquire(); go.acquire()
    source = "def hold(n):\\n if n: return hold(n - 1)\\n with lock: started.release(); go.acquire()\\n"
    exec(compile(source, "/srv/\\udcff.py", "exec"), space)
    space |= {"lock": threading.Lock(), "started": started, "go": go}
    class Garbage:
        def __init__(self): self.me = self
        def __del__(self):
            gc.disable()
            go.release()
            time.sleep(0.3)
            self.junk = [bytes([255]) * 16000 for _ in range(50)]
    gc.collect()
    _thread.start_new_thread(space["hold"], (50,))
    started.acquire()
    gc.disable()
    Garbage()
    gc.set_threshold(1, 1, 1)
    gc.enable()
    space["lock"].acquire(True, 0.5)
    gc.collect()
    """)


def test_thread_is_not_shown_as_waiting_while_its_signal_handler_runs() -> None:
    run("""
    from tracedthread.capture import Capture
    from tracedthread import _core
    lock, seen = threading.Lock(), []
    lock.acquire()
    def shown():
        capture = Capture.from_buffer(_core.loaded().copy())
        return [record.wait_since for record in capture.threads() if record.ident == threading.get_ident()]
    def handler(*args):
        seen.append(shown())
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    assert not lock.acquire(timeout=0.5)
    assert seen == [[0]], seen
    """)
