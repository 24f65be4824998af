"""
Starting threads: the same program on the stock `_thread` and on ours, each in a fresh interpreter, has the same outcome.

What a program prints, says on stderr and leaves as its exit status is all compared. `OURS` says in it where it runs;
`here()` gives what must not change when a start is refused: tasks, `_count` and, on ours, records.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from clean_environment import clean_environment
from test_thread_module import STOCK, check

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60
HANDLES = hasattr(STOCK, "start_joinable_thread")

HEAD = """
import faulthandler
faulthandler.dump_traceback_later(50, exit=True)
import tracedthread
tracedthread.patch()
OURS = tracedthread.is_patched()
import _thread, atexit, gc, os, resource, signal, sys, threading, time, weakref
faulthandler.cancel_dump_traceback_later()
def here():
    records = [row.name for row in tracedthread.snapshot().threads] if OURS else []
    return len(os.listdir("/proc/self/task")), _thread._count(), records
def settle(tasks=1):
    while len(os.listdir("/proc/self/task")) > tasks:
        time.sleep(0.001)
settle()    # the watchdog of faulthandler
"""


def outcome(program: str, *flags: str, ours: bool) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, *flags, "-c", HEAD + textwrap.dedent(program)],
        env=clean_environment(ROOT, **({} if ours else {"TRACEDTHREAD_DISABLED": "1"})),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return done.returncode, done.stdout, re.sub(r"0x[0-9a-f]+|\b\d{10,}\b", "N", done.stderr)


def same(program: str, *flags: str) -> str:
    """The outcome is that of stock; gives what was printed."""
    stock = outcome(program, *flags, ours=False)
    assert outcome(program, *flags, ours=True) == stock
    return stock[1]


def holds(program: str, *flags: str) -> str:
    """It runs under ours, and says nothing on stderr; gives what was printed."""
    status, out, err = outcome(program, *flags, ours=True)
    assert (status, err) == (0, ""), err
    return out


# ---- handles and sentinels ------------------------------------------------------------------------------------------

HANDLE_PROGRAMS = """
m._ThreadHandle | type(m._ThreadHandle()) | m._ThreadHandle() | m._ThreadHandle(1) | m._ThreadHandle(a=1) | m._ThreadHandle.__doc__ | m._ThreadHandle.__module__
do: h = m._ThreadHandle() | h.ident | h.is_done() | h.join() | h.join(0) | h.join(1.5) | h._set_done() | h.is_done() | h | h.ident
do: h = m._ThreadHandle() | h.join('x') | h.join(1, 2) | h.join(timeout=1) | h.join(None) | h.join(nan) | h.join(1e100) | h.join(Refuses()) | h.is_done(1) | h._set_done(1)
do: h = m._ThreadHandle(); h.foo = 1 | do: h.ident = 3 | do: del h.ident | vars(h) | hash(h) == hash(h) | h == m._ThreadHandle() | copy.copy(h) | pickle.dumps(h)
do: class H(m._ThreadHandle): pass | do: m._ThreadHandle.foo = 1 | do: m._ThreadHandle.join = 1 | m._ThreadHandle.__mro__[1:] | weakref.ref(m._ThreadHandle())
do: h = m._make_thread_handle(me) | h.ident == me | h.is_done() | h.join() | h.join(0) | h._set_done() | h.is_done() | h.join() | h.join() | h._set_done() | h
m._make_thread_handle('x') | m._make_thread_handle(1.5) | m._make_thread_handle(-1) | m._make_thread_handle(2**70) | m._make_thread_handle() | m._make_thread_handle(1, 2) | m._make_thread_handle(True).ident
do: h = m._make_thread_handle(12345) | h.join(0) | h.join(0.01) | h.is_done() | m.start_joinable_thread(nop, h) | h._set_done() | h.is_done() | h.join()
do: h = m._ThreadHandle() | m.start_joinable_thread(nop, h) is h | h.join() | h._set_done() | h.is_done() | m.start_joinable_thread(nop, h) | h.is_done()
do: h = m.start_joinable_thread(nop) | h._set_done() | h.is_done() | h.join() | h.join(0) | m.start_joinable_thread(nop, h)
m.start_joinable_thread(nop, object()) | m.start_joinable_thread(nop, m._ThreadHandle) | m.start_joinable_thread(5, m._ThreadHandle()) | m.start_joinable_thread(m._ThreadHandle(), nop)
m._shutdown(1) | m._shutdown(a=1) | m._shutdown() | m._get_main_thread_ident() == me | m.daemon_threads_allowed() | m._is_main_interpreter()
inspect.signature(m._ThreadHandle.join) | inspect.getdoc(m._ThreadHandle.join) | inspect.getdoc(m._ThreadHandle._set_done) | m._ThreadHandle.is_done.__text_signature__ | m._ThreadHandle.ident
m._shutdown.__doc__ | m._make_thread_handle.__doc__ | m.start_joinable_thread.__doc__ | m._shutdown.__name__ | m._shutdown.__module__ | m._make_thread_handle.__self__ is None
"""
NAME_PROGRAMS = """
m.set_name('x') | m.set_name(name='y') | m.set_name() | m.set_name(1) | m.set_name(None) | m.set_name('a', 'b') | m.set_name(foo='x') | m.set_name(**{'name': 'x', 'y': 1})
m.set_name('') | m.set_name('n' * 1000) | m.set_name('\\u20ac' * 9) | m.set_name('a\\0b') | m.set_name('\\ud800') | m.set_name(Text('t')) | m.set_name(b'x')
other: m.set_name('other') or m._get_name() | m.set_name.__doc__ | m.set_name.__module__ | inspect.signature(m.set_name) | m._get_name(1) | m._NAME_MAXLEN
"""
SENTINEL_PROGRAMS = """
type(m._set_sentinel()) is m.LockType | m._set_sentinel().locked() | m._set_sentinel(1) | m._set_sentinel(a=1) | m._set_sentinel.__doc__ | m._set_sentinel.__module__
other: m._set_sentinel() | last.locked() | last.acquire(False)
do: kept = [] | other: kept.append(m._set_sentinel()) or kept[0].acquire(False) | kept[0].locked() | kept[0].acquire(True, 5) | kept[0].release() | kept[0].release()
do: kept = [] | other: kept.append(m._set_sentinel()) or kept.append(m._set_sentinel()) or kept[1].acquire() | kept[0].locked() | kept[1].locked()
do: kept = [] | other: [kept.append(m._set_sentinel()), kept[0].acquire(), kept[0].release()][:0] | kept[0].locked()
other: [m._set_sentinel(), gc.collect()][:0] | other: weakref.getweakrefcount(m._set_sentinel())
"""


@pytest.mark.skipif(not HANDLES, reason="3.13")
@pytest.mark.parametrize("program", [line for line in HANDLE_PROGRAMS.splitlines() if line])
def test_handles(program: str) -> None:
    check(program)


@pytest.mark.skipif(HANDLES, reason="up to 3.12")
@pytest.mark.parametrize("program", [line for line in SENTINEL_PROGRAMS.splitlines() if line])
def test_sentinels(program: str) -> None:
    check(program)


@pytest.mark.parametrize("program", [line for line in NAME_PROGRAMS.splitlines() if line])
def test_set_name(program: str) -> None:
    check(program)


# ---- audit ----------------------------------------------------------------------------------------------------------

AUDITED = """
events = []
refuse = False
def hook(event, args):
    if event not in ("_thread.start_new_thread", "_thread.start_joinable_thread"): return
    events.append((event, [next((n for n, v in things.items() if v is a), a) for a in args], here() == before))
    if refuse: raise OSError("refused")
def job(*args, **kwargs): events.append("ran")
def attempt(function, *args, **kwargs):
    global before
    before = here()
    try:
        function(*args, **kwargs)
    except OSError as exc:
        events.append((str(exc), here() == before))
    settle()
things = {"job": job, "args": (1, object()), "kwargs": {"a": 1}, "none": None}
thread = threading.Thread(target=job)
if hasattr(_thread, "_ThreadHandle"): things["handle"] = _thread._ThreadHandle()
before = None
sys.addaudithook(hook)
def starts():
    attempt(_thread.start_new_thread, job, things["args"])
    attempt(_thread.start_new_thread, job, things["args"], things["kwargs"])
    attempt(_thread.start_new, job, ())
    if "handle" in things:
        attempt(_thread.start_joinable_thread, job)
        attempt(_thread.start_joinable_thread, job, daemon=False)
        attempt(_thread.start_joinable_thread, job, handle=things["handle"], daemon=True)
    things["bootstrap"] = None
    before_thread = len(events)
    attempt(thread.start)
    for i, event in enumerate(events[before_thread:], before_thread):
        if len(event) == 3 and event[0].startswith("_thread."):
            args = event[1]
            args[0] = args[0].__self__ is thread or args[0]
            its_own = getattr(thread, "_os_thread_handle", getattr(thread, "_handle", args))    # called so from 3.14 on
            args[1:] = [a is its_own or a for a in args[1:]]
refuse = True
starts()
assert "ran" not in events, events
refuse = False
starts()
for event in events: print(event)
"""


def test_the_audit_event_has_the_very_objects_passed_and_comes_before_anything_exists() -> None:
    expected = outcome(AUDITED, ours=False)[1].splitlines()
    out = holds(AUDITED).splitlines()
    ran = [line for line in out if line == "ran"]
    raised = [line for line in out if line.startswith("('_thread.")]
    assert len(ran) * 2 == len(raised), "once a start"
    assert all(line.endswith(", True)") for line in out if line != "ran"), "something exists already"
    assert raised[0] == "('_thread.start_new_thread', ['job', 'args', 'none'], True)"
    assert raised[1] == "('_thread.start_new_thread', ['job', 'args', 'kwargs'], True)"
    if HANDLES:
        assert raised[3] == "('_thread.start_joinable_thread', ['job', 1, 'none'], True)"
        assert raised[4] == "('_thread.start_joinable_thread', ['job', 0, 'none'], True)"
        assert raised[5] == "('_thread.start_joinable_thread', ['job', 1, 'handle'], True)"
        assert raised[6] == "('_thread.start_joinable_thread', [True, 0, True], True)"
    if any("start_new_thread" in line for line in expected):  # where stock raises it
        assert out == expected


def test_a_refused_start_leaves_the_thread_to_be_started_again() -> None:
    raised_by_stock = sys.version_info >= (3, 12)
    out = (same if raised_by_stock else holds)("""
        refuse = True
        def hook(event, args):
            if event.startswith("_thread.start") and refuse: raise OSError("refused")
        sys.addaudithook(hook)
        ran = []
        threads = [threading.Thread(target=ran.append, args=(n,)) for n in range(3)]
        for n in range(20):
            for thread in threads:
                try:
                    thread.start()
                except OSError as exc:
                    print(exc, thread.is_alive(), thread.ident, thread in threading.enumerate())
        refuse = False
        for thread in threads:
            thread.start()
            thread.join()
        print(ran, threading.active_count())
    """)
    assert out.endswith("[0, 1, 2] 1\n")


# ---- starts that fail -----------------------------------------------------------------------------------------------

FAILS = """
def attempt(function, *args):
    try:
        print(bool(function(*args)))
    except RuntimeError as exc:
        print(type(exc).__name__, exc)
class Job:
    def __call__(self, *args, **kwargs): print("ran")
def starts():
    job, argument, keyword = Job(), Job(), Job()
    dead = [weakref.ref(thing) for thing in (job, argument, keyword)]
    attempt(_thread.start_new_thread, job, (argument,), {"keyword": keyword})
    if hasattr(_thread, "start_joinable_thread"):
        attempt(_thread.start_joinable_thread, job)
        handle = _thread._ThreadHandle()
        for _ in range(2):
            attempt(_thread.start_joinable_thread, job, handle)
        print(handle.is_done())
        attempt(handle.join)
    del job, argument, keyword
    print([ref() for ref in dead])
    thread = threading.Thread(target=print, args=("thread ran",), name="failed")
    for _ in range(2):
        attempt(thread.start)
    print(thread.is_alive(), threading.active_count(), thread.ident)
    attempt(thread.join)
    dead = weakref.ref(thread)
    del thread
    gc.collect()
    print(dead())
"""


def test_no_memory_for_a_stack() -> None:
    out = same(
        FAILS
        + """
threading.Thread(target=int).start()    # with what the first one takes
settle()
before = here()
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (256 << 20), resource.RLIM_INFINITY))
threading.stack_size(1 << 30)
starts()
assert here() == before, (here(), before)
threading.stack_size(0)
thread = threading.Thread(target=print, args=("ran",), name="succeeded")
thread.start()
thread.join()
settle()
assert not OURS or sorted(here()[2]) == sorted([*before[2], "succeeded"]), here()
"""
    )
    assert out.count("can't start new thread") >= 2
    assert out.endswith("ran\n")


def test_no_more_threads_for_this_user() -> None:
    out = same(
        FAILS
        + """
before = here()
if os.getuid() == 0:
    os.setuid(54321)    # nobody else's, and root has no limit
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
starts()
assert here() == before, (here(), before)
"""
    )
    assert out.count("can't start new thread") >= 2


# ---- exceptions -----------------------------------------------------------------------------------------------------


def test_what_a_thread_lets_out_is_said_as_stock_says_it() -> None:
    stderr = outcome(
        program := """
        def fails(*args): raise ValueError("on purpose")
        for start in (lambda: _thread.start_new_thread(fails, (1,)), threading.Thread(target=fails, name="its name").start):
            start()
            settle()
        for error in (SystemExit, SystemExit(5), SystemExit("farewell")):
            def leaves(): raise error
            _thread.start_new_thread(leaves, ())
            settle()
            threading.Thread(target=leaves).start()
            settle()
        """,
        ours=True,
    )[2]
    assert stderr.count("ValueError: on purpose") == 2
    assert "farewell" not in stderr
    same(program)


def test_hooks_that_fail_themselves() -> None:
    same("""
        def fails(*args): raise ValueError("on purpose")
        def hook(args): raise KeyError("in the hook")
        threading.excepthook = hook
        threading.Thread(target=fails, name="its name").start()
        settle()
        sys.unraisablehook = hook
        _thread.start_new_thread(fails, ())
        settle()
        sys.unraisablehook = None
        _thread.start_new_thread(fails, ())
        settle()
        del sys.unraisablehook
        _thread.start_new_thread(fails, ())
        settle()
    """)


# ---- at the end of the interpreter ----------------------------------------------------------------------------------

ENDINGS = {
    "atexit": "atexit.register(starts)",
    "threading's atexit": "threading._register_atexit(starts)",
    "module teardown": """
class Late:
    def __del__(self, starts=starts): starts()
late = Late()
""",
    "sys's teardown": """
class Late:
    def __del__(self, starts=starts): starts()
sys.late = Late()
""",
    "a cycle": """
class Late:
    def __del__(self, starts=starts): starts()
late = Late()
late.me = late
""",
    "a non-daemon thread": """
def after_main():
    while threading.main_thread().is_alive(): time.sleep(0.001)
    time.sleep(0.02)
    starts()
threading.Thread(target=after_main).start()
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("how", ["raw", "joinable", "same handle", "daemon", "thread"])
def test_a_start_while_the_interpreter_goes_away(ending: str, how: str) -> None:
    # Who joins a thread that cannot run any more waits for ever, on stock too.
    join = ending in ("atexit", "threading's atexit", "a non-daemon thread")
    start = {
        "raw": "_thread.start_new_thread(int, ())",
        "joinable": "_thread.start_joinable_thread(int)",
        "same handle": "_thread.start_joinable_thread(int, handle)",
        "daemon": "Thread(target=int, daemon=True).start()",
        "thread": "Thread(target=int).start()",
    }[how]
    if "Thread(" in start and not join:
        pytest.skip("Thread.start waits for a thread that cannot run any more")
    if "joinable" in start and not HANDLES:
        pytest.skip("3.13")
    same(
        f"""
handle = _thread._ThreadHandle() if hasattr(_thread, "_ThreadHandle") else None
def starts(write=os.write, _thread=_thread, Thread=threading.Thread, handle=handle, BaseException=BaseException):
    for _ in range(2):
        try:
            {start}
            write(1, b"started\\n")
        except BaseException as exc:
            write(1, f"{{type(exc).__name__}} {{exc}}\\n".encode())
{ENDINGS[ending]}
"""
    )


def test_shutdown_waits_for_threads_that_are_no_daemons() -> None:
    out = same("""
        def last(n):
            time.sleep(0.05)
            if n:
                try:
                    threading.Thread(target=last, args=(n - 1,)).start()
                except RuntimeError:        # 3.12
                    pass
            print("end of", n)
        threading.Thread(target=last, args=(3,)).start()
        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
        _thread.start_new_thread(time.sleep, (30,))
        atexit.register(print, "atexit")
        print("main")
    """)
    assert out.startswith("main\n")
    assert out.endswith("atexit\n")


@pytest.mark.parametrize("handled", [False, True])
def test_an_interrupt_while_shutdown_waits(handled: bool) -> None:
    same(f"""
        def hit():
            while threading.main_thread().is_alive(): time.sleep(0.001)
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
            print("thread", flush=True)
        if {handled}: signal.signal(signal.SIGINT, lambda *args: print("handled", flush=True))
        threading.Thread(target=hit).start()
        atexit.register(print, "atexit", flush=True)
    """)


def test_an_interrupt_ends_a_join_only_if_its_handler_raises() -> None:
    # Up to 3.12 Thread.join takes a thread that it was interrupted in joining for one that has ended (bpo-45274).
    out = same("""
        class Stop(Exception): pass
        def handler(*args):
            print("handled", flush=True)
            if stop: raise Stop
        signal.signal(signal.SIGUSR1, handler)
        def interrupted(*args):
            killer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
            killer.start()
            try:
                thread.join(*args)
                print("joined", thread.is_alive())
            except Stop:
                print("stopped")
            killer.join()
        for stop in (False, True):
            for timeout in (0.2, 20, None):
                gate = threading.Event()
                thread = threading.Thread(target=gate.wait)
                thread.start()
                opener = threading.Timer(0.15, gate.set)
                if timeout != 0.2 and not stop: opener.start()
                interrupted(timeout)
                gate.set()
                thread.join()
    """)
    lines = out.splitlines()
    assert lines == ["handled", "joined True", *["handled", "joined False"] * 2, *["handled", "stopped"] * 3]


# ---- what is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [(), ("-X", "tracemalloc=5"), ("-X", "dev")], ids=["", "tracemalloc", "dev"])
def test_what_a_thread_was_given_is_free_after_its_end(flags: tuple[str, ...]) -> None:
    out = same(
        """
        class Thing:
            def __call__(self, *args, **kwargs):
                if self.fails: raise SystemExit
        def made(fails):
            thing = Thing()
            thing.fails = fails
            return thing
        gone = []
        for n in range(60):
            things = [made(n % 2) for _ in range(4)]
            gone += map(weakref.ref, things)
            _thread.start_new_thread(things[0], (things[1],), {"k": things[2]})
            thread = threading.Thread(target=things[0], args=(things[1],), kwargs={"k": things[2]}, daemon=n % 3 == 0)
            thread.thing = things[3]
            gone.append(weakref.ref(thread))
            if hasattr(_thread, "start_joinable_thread"): _thread.start_joinable_thread(things[0]).join()
            thread.start()
            thread.join()
            settle()
        del things, thread
        gc.collect()
        print([ref() for ref in gone if ref() is not None], threading.active_count(), _thread._count())
        """,
        *flags,
    )
    assert out == "[] 1 0\n"


def test_thread_locals_die_where_locks_can_be_had() -> None:
    out = same("""
        lock, rlock, condition = threading.Lock(), threading.RLock(), threading.Condition()
        log = []
        class Value:
            def __del__(self):
                with lock, rlock, threading.Lock():
                    if condition.acquire(timeout=1):
                        condition.wait(0.0001)
                        condition.release()
                    log.append(threading.get_ident() == self.ident)
        local = threading.local()
        def work():
            local.value = Value()
            local.value.ident = threading.get_ident()
        for n in range(30):
            threading.Thread(target=work).start() if n % 2 else _thread.start_new_thread(work, ())
            if n % 5 == 0: settle()
        settle()
        print(sorted(log), _thread._count())
    """)
    assert out == f"{[True] * 30} 0\n"


# ---- fork -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "1 / 0", "os._exit(4)", "_thread.exit()"])
@pytest.mark.parametrize("how", ["threading.Thread(target=forks).start()", "_thread.start_new_thread(forks, ())"])
def test_a_fork_in_a_thread_that_ends_in_the_child(how: str, end: str) -> None:
    same(
        f"""
        import warnings
        warnings.simplefilter("ignore")
        sys.unraisablehook = threading.excepthook = lambda args: os.write(1, args.exc_type.__name__.encode())
        never = threading.Event()
        others = [threading.Thread(target=never.wait, daemon=n > 0) for n in range(3)]
        for thread in others: thread.start()
        def forks():
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                main = threading.main_thread() is threading.current_thread()
                assert not any(thread.is_alive() for thread in others) or not main
                for thread in others: thread.join(0.01)
                child = threading.Thread(target=os.write, args=(1, b"thread of the child\\n"))
                child.start()
                child.join()
                assert not OURS or [row.native_id for row in tracedthread.snapshot().threads if row.alive] == [os.getpid()]
                os.write(1, f"{{main}} {{threading.active_count()}}\\n".encode())
                {end}
                return
            status = os.waitpid(pid, 0)[1]
            os.write(1, f"{{os.waitstatus_to_exitcode(status)}}\\n".encode())
            never.set()
        {how}
        never.wait()
        settle()
        """
    )


# ---- unpatching -----------------------------------------------------------------------------------------------------


def test_a_thread_made_before_patching_can_be_started_after_it() -> None:
    assert (
        holds("""
        tracedthread.unpatch()
        ran = []
        threads = [threading.Thread(target=ran.append, args=(n,), daemon=n > 1) for n in range(4)]
        threads[0].start()
        assert tracedthread.patch()
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()
        print(sorted(ran), threading.active_count(), _thread._count())
        def last():
            while threading.main_thread().is_alive(): time.sleep(0.001)
            time.sleep(0.05)
            print("end")
        tracedthread.unpatch()
        thread = threading.Thread(target=last)
        tracedthread.patch()
        thread.start()
    """)
        == "[0, 1, 2, 3] 1 0\nend\n"
    )


@pytest.mark.parametrize("started", ["before", "after"])
@pytest.mark.parametrize("again", [False, True])
def test_a_thread_of_ours_is_awaited_after_unpatching(started: str, again: bool) -> None:
    assert (
        holds(f"""
        def last():
            while threading.main_thread().is_alive(): time.sleep(0.001)
            time.sleep(0.05)
            print("end", flush=True)
        thread = threading.Thread(target=last)
        if {started == "before"}: thread.start()
        assert tracedthread.unpatch()
        if {started == "after"}: thread.start()
        stock = threading.Thread(target=last)
        stock.start()
        later = threading.Thread(target=int)
        later.start()
        later.join()
        if {again}: assert tracedthread.patch()
        atexit.register(print, "atexit")
        print("main", flush=True)
    """)
        == "main\nend\nend\natexit\n"
    )


def test_joins_across_unpatching_come_back() -> None:
    assert (
        holds("""
        gate = threading.Event()
        runs = threading.Thread(target=gate.wait)
        runs.start()
        joiners = [threading.Thread(target=runs.join) for _ in range(5)]
        for thread in joiners: thread.start()
        unstarted = [threading.Thread(target=int) for _ in range(5)]
        tracedthread.unpatch()
        for thread in unstarted: thread.start()
        joiners += [threading.Thread(target=runs.join, args=(20,)) for _ in range(5)]
        for thread in joiners[5:]: thread.start()
        gate.set()
        for thread in [*joiners, *unstarted, runs]: thread.join()
        print(threading.active_count(), _thread._count(), any(thread.is_alive() for thread in joiners))
    """)
        == "1 0 False\n"
    )


KEPT = [True, True, False, False]  # what makes handles is stock again; what serves handles of both kinds stays


@pytest.mark.skipif(not HANDLES, reason="3.13")
def test_unpatching_when_nothing_of_ours_is_left_gives_all_names_back() -> None:
    assert (
        holds("""
        stock = tracedthread.originals
        def family(): return [getattr(_thread, n) is getattr(stock, n) for n in ("_ThreadHandle", "_make_thread_handle", "_shutdown", "start_joinable_thread")]
        gate = threading.Event()
        thread = threading.Thread(target=gate.wait)
        tracedthread.unpatch()
        print(family(), _thread.allocate_lock is stock.allocate_lock)
        tracedthread.patch()
        thread.start()
        tracedthread.unpatch()
        print(family())
        gate.set()
        thread.join()
        tracedthread.patch()
        tracedthread.unpatch()
        print(family())
    """)
        == f"{KEPT} True\n{KEPT}\n{[True] * 4}\n"
    )


WRAPPER = """
def wrap(function):
    def wrapper(*args, **kwargs):
        calls.append(function.__name__)
        return function(*args, **kwargs)
    return wrapper
calls = []
names = [name for name in ("_start_joinable_thread", "_start_new_thread") if hasattr(threading, name)]
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("then", ["", "tracedthread.unpatch()"])
def test_a_wrapper_around_the_function_that_threading_starts_with(when: str, then: str) -> None:
    """As debugpy has: it keeps what it found in a closure, where nobody can exchange it."""
    wrap = "for name in names: setattr(threading, name, wrap(getattr(threading, name)))"
    assert (
        holds(f"""
        tracedthread.unpatch()
        {WRAPPER.replace(chr(10), chr(10) + " " * 8)}
        made = [threading.Thread(target=print, args=("ran",), daemon=True)]
        if {when == "before"}:
            {wrap}
        assert tracedthread.patch()
        made.append(threading.Thread(target=print, args=("ran",), daemon=True))
        if {when == "after"}:
            {wrap}
        made.append(threading.Thread(target=print, args=("ran",), daemon=True))
        {then}
        made.append(threading.Thread(target=print, args=("ran",), daemon=True))
        for thread in made:
            thread.start()
            thread.join()
        def last():
            while threading.main_thread().is_alive(): time.sleep(0.001)
            print("end", len(calls))
        threading.Thread(target=last).start()
    """)
        == "ran\n" * 4 + "end 5\n"
    )
