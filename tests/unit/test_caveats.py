"""
The caveats on the documentation page of `_thread`, one program each, run on the stock module and on ours: same story.

Programs say `ready` when they are about to wait; what they print after that is compared, with stderr and exit status.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

STARTS = {
    "stock": "import _thread, threading",
    "drop-in": "import threading, tracedthread._thread as _thread",
    "patched": "import tracedthread; assert tracedthread.patch(); import _thread, threading",
    "patched late": "import threading, queue, _thread, tracedthread; assert tracedthread.patch()",
}
WAYS = list(STARTS)[1:]

HEAD = """
import faulthandler, os, signal, sys, time
faulthandler.dump_traceback_later(50, exit=True)
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def ready():
    say("ready")
def asleep(tid=None):
    "Whether a thread (default: the main one) is blocked in the kernel."
    path = f"/proc/self/task/{tid or os.getpid()}/stat"
    return open(path).read().rpartition(")")[2].split()[0] == "S"
def once_asleep(action, tid=None):
    "Do it when the main thread has been seen asleep a few times in a row."
    def run():
        seen = 0
        while seen < 5:
            time.sleep(0.002)
            seen = seen + 1 if asleep(tid) else 0
        action()
    _thread.start_new_thread(run, ())
"""

Story = tuple[str, str, int]


def story(start: str, program: str, interrupt: bool = False) -> Story:
    """stdout, stderr and exit status; with `interrupt`, SIGINT is sent once the main thread sleeps after `ready`."""
    source = STARTS[start] + HEAD + textwrap.dedent(program)
    process = subprocess.Popen(
        [sys.executable, "-c", source], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out = ""
    try:
        if interrupt:
            assert process.stdout is not None
            while "ready" not in out:
                line = process.stdout.readline()
                assert line, process.communicate()[1]
                out += line
            for _ in range(5):
                while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
                    time.sleep(0.002)
                time.sleep(0.002)
            process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return out + rest, re.sub("0x[0-9a-f]+", "0x", err), process.returncode


def check(way: str, program: str, interrupt: bool = False) -> Story:
    expected = story("stock", program, interrupt)
    assert "Fatal" not in expected[1]
    assert story(way, program, interrupt) == expected
    return expected


# ---- interrupts go to the main thread -------------------------------------------------------------------------------

WAITS = {
    "lock": "lock = _thread.allocate_lock(); lock.acquire(); wait = lock.acquire",
    "lock with timeout": "lock = _thread.allocate_lock(); lock.acquire(); wait = lambda: lock.acquire(timeout=40)",
    "lock in with": "lock = _thread.allocate_lock(); lock.acquire(); wait = lock.__enter__",
    "rlock": "lock = _thread.RLock(); keep(lock); wait = lock.acquire",
    "rlock with timeout": "lock = _thread.RLock(); keep(lock); wait = lambda: lock.acquire(True, 40)",
    "condition": "c = threading.Condition(); c.acquire(); wait = c.wait",
    "condition with timeout": "c = threading.Condition(); c.acquire(); wait = lambda: c.wait(40)",
    "event": "wait = threading.Event().wait",
    "semaphore": "wait = threading.Semaphore(0).acquire",
    "queue": "import queue; wait = queue.Queue().get",
    "full queue": "import queue; q = queue.Queue(1); q.put(1); wait = lambda: q.put(2)",
    "future": "from concurrent.futures import Future; wait = Future().result",
    "barrier": "wait = threading.Barrier(2).wait",
    "join": "t = threading.Thread(target=time.sleep, args=(45,), daemon=True); t.start(); wait = t.join",
}
KEEP = """
def keep(lock):
    held = _thread.allocate_lock()
    held.acquire()
    def hold():
        lock.acquire()
        held.release()
        time.sleep(45)
    _thread.start_new_thread(hold, ())
    held.acquire()
"""


@pytest.mark.parametrize("way", ["drop-in", "patched"])
@pytest.mark.parametrize("what", WAITS)
def test_an_interrupt_reaches_the_main_thread_while_it_waits(what: str, way: str) -> None:
    program = f"{KEEP}\n{WAITS[what]}\n" + textwrap.dedent("""
        ready()
        try:
            wait()
        except KeyboardInterrupt:
            say("interrupted", threading.current_thread() is threading.main_thread())
    """)
    out, err, status = check(way, program, interrupt=True)
    assert (out, err, status) == ("ready\ninterrupted True\n", "", 0)


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupted_lock_is_as_good_as_before(way: str) -> None:
    program = """
    lock, rlock = _thread.allocate_lock(), _thread.RLock()
    for n in range(20):
        lock.acquire()
        once_asleep(lambda: os.kill(os.getpid(), signal.SIGINT))
        try:
            lock.acquire()
        except KeyboardInterrupt:
            say(lock.locked(), lock.acquire(False), lock.acquire(True, 0.001))
        lock.release()
        say(lock.locked(), lock.acquire(False))
        lock.release()
    """
    out, err, status = check(way, program)
    assert (out, err, status) == ("True False False\nFalse True\n" * 20, "", 0)


@pytest.mark.parametrize("way", WAYS)
def test_an_uncaught_interrupt_ends_the_program_with_the_signals_status(way: str) -> None:
    program = """
    lock = _thread.allocate_lock()
    lock.acquire()
    ready()
    lock.acquire()
    """
    _, err, status = check(way, program, interrupt=True)
    assert status == -signal.SIGINT
    assert err.endswith("KeyboardInterrupt\n")


@pytest.mark.parametrize("way", WAYS)
def test_the_handler_runs_in_the_main_thread_wherever_the_signal_went(way: str) -> None:
    program = """
    main = _thread.get_ident()
    lock = _thread.allocate_lock()
    lock.acquire()
    def handler(number, frame):
        say("handled", number, _thread.get_ident() == main)
        lock.release()
    signal.signal(signal.SIGUSR1, handler)
    other = threading.Thread(target=time.sleep, args=(40,), daemon=True)
    other.start()
    once_asleep(lambda: signal.pthread_kill(other.ident, signal.SIGUSR1), other.native_id)
    # The signal wakes the other thread's sleep; the main one must be woken by its own wait's end.
    while not lock.acquire(timeout=0.05):
        pass
    say("done")
    """
    out, err, status = check(way, program)
    assert (out, err, status) == ("handled 10 True\ndone\n", "", 0)


@pytest.mark.parametrize("way", WAYS)
def test_a_handler_that_returns_does_not_end_the_wait(way: str) -> None:
    program = """
    handled = []
    signal.signal(signal.SIGALRM, lambda *args: handled.append(args[1].f_code.co_name))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    for lock in (_thread.allocate_lock(), _thread.RLock()):
        held = _thread.allocate_lock()
        held.acquire()
        def holder():
            lock.acquire()
            held.release()
            time.sleep(1.5)
        _thread.start_new_thread(holder, ())
        held.acquire()
        def wait(timeout):
            handled.clear()
            start = time.monotonic()
            got = lock.acquire(timeout=timeout)
            passed = time.monotonic() - start
            say(got, passed >= timeout, len(handled) > 1, set(handled) <= {"wait", "<lambda>"})
        wait(0.2)
        wait(0.05)
    signal.setitimer(signal.ITIMER_REAL, 0)
    """
    out, err, status = check(way, program)
    assert (out, err, status) == ("False True True True\n" * 4, "", 0)


@pytest.mark.parametrize("way", WAYS)
def test_what_a_handler_raises_comes_out_of_acquire(way: str) -> None:
    program = """
    import traceback
    class Alarm(Exception): pass
    def handler(*args):
        raise Alarm("ring")
    signal.signal(signal.SIGALRM, handler)
    def hold(lock):
        held = _thread.allocate_lock()
        held.acquire()
        def holder():
            lock.acquire()
            held.release()
            time.sleep(40)
        _thread.start_new_thread(holder, ())
        held.acquire()
    for lock in (_thread.allocate_lock(), _thread.RLock()):
        hold(lock)
        for wait in (lock.acquire, lambda: lock.acquire(True, 30), lock.__enter__):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            try:
                wait()
            except Alarm as exc:
                say(exc, exc.__context__, [frame.name for frame in traceback.extract_tb(exc.__traceback__)])
        say(lock.acquire(False))
    """
    out, err, status = check(way, program)
    assert out.count("ring None") == 6
    assert (err, status) == ("", 0)


@pytest.mark.parametrize("way", WAYS)
def test_a_handler_may_release_use_and_wait_for_the_lock_that_is_waited_for(way: str) -> None:
    program = """
    lock, rlock, log = _thread.allocate_lock(), _thread.RLock(), []
    def handler(*args):
        log.append(lock.acquire(timeout=0.01))
        with rlock, rlock:
            log.append(lock.locked())
        other = _thread.allocate_lock()
        other.acquire()
        log.append(other.acquire(timeout=0.01))
        lock.release()
    signal.signal(signal.SIGALRM, handler)
    for n in range(10):
        lock.acquire()
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with rlock:
            say(lock.acquire(), log)
        log.clear()
        lock.release()
    """
    out, err, status = check(way, program)
    assert (out, err, status) == ("True [False, True, False]\n" * 10, "", 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("handler", ["SIG_DFL", "SIG_IGN"])
def test_interrupt_main_does_nothing_without_a_python_handler(handler: str, way: str) -> None:
    program = f"""
    signal.signal(signal.SIGINT, signal.{handler})
    signal.signal(signal.SIGTERM, signal.{handler})
    say(_thread.interrupt_main())
    say(_thread.interrupt_main(signal.SIGTERM))
    say(_thread.interrupt_main(signum) if (signum := int(signal.SIGUSR1)) else None)
    _thread.start_new_thread(lambda: (_thread.interrupt_main(), say("sent")), ())
    time.sleep(0.1)
    for n in range(1000):
        pass
    say("alive")
    """
    out, err, status = check(way, program)
    assert (out, err, status) == ("None\nNone\nNone\nsent\nalive\n", "", 0)


@pytest.mark.parametrize("way", WAYS)
def test_interrupt_main_raises_in_the_main_thread(way: str) -> None:
    program = """
    def interrupt():
        _thread.interrupt_main()
        say("sent")
    try:
        _thread.start_new_thread(interrupt, ())
        while True:
            time.sleep(0.001)
    except KeyboardInterrupt:
        say("interrupted")
    signal.signal(signal.SIGUSR2, lambda *args: say("handled", args[0], _thread.get_ident() == main))
    main = _thread.get_ident()
    done = _thread.allocate_lock()
    done.acquire()
    _thread.start_new_thread(lambda: (_thread.interrupt_main(signal.SIGUSR2), done.release()), ())
    done.acquire()
    """
    out, err, status = check(way, program)
    assert sorted(out.splitlines()) == ["handled 12 True", "interrupted", "sent"]
    assert (err, status) == ("", 0)


# ---- leaving a thread -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("leave", ["sys.exit(3)", "raise SystemExit", "_thread.exit()", "_thread.exit_thread()"])
def test_sys_exit_ends_the_thread_silently_and_nothing_else(leave: str, way: str) -> None:
    program = f"""
    def run():
        try:
            {leave}
        finally:
            say("finally")
    def end_of(start):
        before = set(os.listdir("/proc/self/task"))
        start()
        while not set(os.listdir("/proc/self/task")) <= before:
            time.sleep(0.001)
        say("ended")
    end_of(lambda: _thread.start_new_thread(run, ()))
    end_of(lambda: threading.Thread(target=run).start())
    if hasattr(_thread, "start_joinable_thread"):
        end_of(lambda: _thread.start_joinable_thread(run).join())
    say("main")
    """
    out, err, status = check(way, program)
    rounds = 3 if sys.version_info >= (3, 13) else 2
    assert (out, err, status) == ("finally\nended\n" * rounds + "main\n", "", 0)


@pytest.mark.parametrize("way", WAYS)
def test_an_uncaught_exception_ends_its_thread_and_no_other(way: str) -> None:
    program = """
    def run():
        with lock:
            raise ValueError("on purpose")
    lock = _thread.allocate_lock()
    for start in (lambda: _thread.start_new_thread(run, ()), lambda: threading.Thread(target=run, name="T").start()):
        before = set(os.listdir("/proc/self/task"))
        start()
        while not set(os.listdir("/proc/self/task")) <= before:
            time.sleep(0.001)
        say(lock.locked())
    """
    out, err, status = check(way, program)
    assert (out, status) == ("False\nFalse\n", 0)
    assert err.count("ValueError: on purpose") == 2


# ---- the main thread's exit -----------------------------------------------------------------------------------------

BLOCKED = {
    "in a lock": "held.acquire()",
    "in a lock with timeout": "held.acquire(timeout=40)",
    "in with": "held.__enter__()",
    "in an rlock": "rlock.acquire()",
    "in a condition": "condition.acquire(); condition.wait()",
    "in a queue": "box.get()",
    "asleep": "time.sleep(40)",
    "busy": "[len(str(n)) for n in iter(int, 1)]",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", BLOCKED)
def test_when_the_main_thread_exits_the_others_die_without_finally(how: str, way: str) -> None:
    program = f"""
    import queue
    held, rlock, condition, box = _thread.allocate_lock(), _thread.RLock(), threading.Condition(), queue.Queue()
    held.acquire()
    rlock.acquire()
    began = queue.Queue()
    class Noisy:
        def __del__(self): say("destructor in thread", threading.current_thread() is not threading.main_thread())
    def run(noisy):
        began.put(1)
        try:
            {BLOCKED[how]}
        except BaseException as exc:
            say("except", exc)
        finally:
            say("finally")
    for n in range(3):
        _thread.start_new_thread(run, (None,))
        threading.Thread(target=run, args=(None,), daemon=True).start()
    for n in range(6):
        began.get()
    time.sleep(0.05)
    say("main exits")
    """
    out, err, status = check(way, program)
    assert (out, err, status) == ("main exits\n", "", 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "end", ["sys.exit(7)", "raise SystemExit('bye')", "raise ValueError('x')", "os._exit(9)", "pass"]
)
def test_the_main_threads_end_gives_the_status(end: str, way: str) -> None:
    program = f"""
    lock = _thread.allocate_lock()
    lock.acquire()
    threading.Thread(target=lock.acquire, daemon=True).start()
    worker = threading.Thread(target=lambda: (time.sleep(0.05), say("worker done")))
    worker.start()
    import atexit
    atexit.register(lambda: say("atexit", lock.acquire(False), lock.acquire(timeout=0.01)))
    {end}
    """
    out, _, status = check(way, program)
    if "_exit" not in end:
        assert out == "worker done\natexit False False\n"
    assert (
        status
        == {"sys.exit(7)": 7, "raise SystemExit('bye')": 1, "raise ValueError('x')": 1, "os._exit(9)": 9, "pass": 0}[
            end
        ]
    )


@pytest.mark.parametrize("way", WAYS)
def test_locks_work_while_the_interpreter_shuts_down(way: str) -> None:
    program = """
    import atexit
    class Late:
        def __init__(self):
            self.lock, self.rlock = _thread.allocate_lock(), _thread.RLock()
            self.make, self.write = _thread.allocate_lock, os.write
        def __del__(self):
            with self.lock, self.rlock, self.rlock:
                self.write(1, f"{self.lock.locked()} {self.lock.acquire(False)} {self.make().acquire()}\\n".encode())
    late = Late()
    sys.late = Late()
    atexit.register(lambda: say("atexit", Late().lock.locked()))
    """
    out, err, status = check(way, program)
    assert (out, err, status) == ("True False True\natexit False\n" + "True False True\n" * 2, "", 0)


def test_the_stories_can_differ() -> None:
    one, other = story("stock", "say(1)"), story("stock", "say(2); sys.exit(1)")
    assert one == ("1\n", "", 0)
    assert other == ("2\n", "", 1)
    assert os.path.isdir("/proc/self/task")
