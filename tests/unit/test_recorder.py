"""The recorder: tells its sinks, hurts nobody, comes back in forked children, and ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_interpreter import FORK, HEAD, run


def run_forking(program: str, **env: str) -> str:
    # From 3.12 on forking beside a thread is warned of.
    return run(program, head=HEAD + FORK, env={"PYTHONWARNINGS": "ignore::DeprecationWarning", **env})


def test_what_is_new_is_told_once_and_to_every_sink() -> None:
    run("""
        one, two = Told(), Told()
        assert recorder.start([one]) and recorder.start([two])
        wait_once(name="first")
        assert recorder.flush()
        assert one.names() == two.names() == ["first"]
        wait_once(name="second")
        assert recorder.flush()
        assert one.names() == two.names() == ["first", "second"]
        assert not any(recorder.lost().values()), recorder.lost()
        assert recorder.stop() and len(one.closed) == len(two.closed) == 1
    """)


def test_sinks_are_told_at_every_interval_also_of_nothing() -> None:
    run("""
        told = Told()
        assert recorder.start([told], interval_s=0.01)
        until(lambda: told.looks > 3)
        assert not told.events
    """)


def test_there_is_no_thread_before_the_first_sink_and_none_after_the_last() -> None:
    run("""
        import contextlib
        def threads():
            found = []
            for task in os.listdir("/proc/self/task"):
                with contextlib.suppress(OSError):  # it has just ended
                    found.append(open(f"/proc/self/task/{task}/comm").read().strip())
            return found
        assert "tracedthread" not in threads() and len(threads()) == 1
        one, two = Told(), Told()
        recorder.start([one, two])
        assert recorder.flush() and threads().count("tracedthread") == 1
        assert recorder.stop(sinks=[one])
        assert one.closed and not two.closed and threads().count("tracedthread") == 1
        wait_once()
        assert recorder.stop() and two.names() == ["waiter"] and not one.events
        until(lambda: len(threads()) == 1)
        assert recorder.stop() and recorder.flush()
        assert recorder.start([one]) and recorder.flush() and "tracedthread" in threads()
    """)


def test_the_recorder_is_no_thread_of_the_programs() -> None:
    run("""
        recorder.start([Told()])
        assert recorder.flush()
        assert threading.enumerate() == [threading.main_thread()]
        assert threading.active_count() == 1
    """)


def test_without_a_capture_nothing_is_started() -> None:
    run(
        """
        from tracedthread import _core, recorder
        assert not recorder.start([])
        _core.load()
        assert not recorder.start([])
        assert recorder.lost()["recorders"] == 1 and recorder.stop()
        """,
        head="",
        stderr="tracedthread: no telemetry: there is no capture",
    )


def test_a_sink_that_raises_is_counted_and_said_at_the_end_and_the_others_are_told() -> None:
    run(
        """
        class Broken(Told):
            def tick(self, events, starts, contexts, lost):
                super().tick(events, starts, contexts, lost)
                raise SystemExit(3) if self.looks == 1 else RuntimeError("broken")
            def close(self, timeout_s):
                raise KeyboardInterrupt
        broken, told = Broken(), Told()
        recorder.start([broken, told], interval_s=60)
        wait_once(name="one")
        recorder.flush()
        wait_once(name="two")
        recorder.flush()
        assert told.names() == broken.names() == ["one", "two"]
        assert recorder.lost()["failures"] == 2
        assert recorder.stop() and told.closed
        assert recorder.lost()["failures"] == 4
        """,
        stderr="tracedthread: telemetry is not whole; failures: 4, the first: SystemExit: 3\n",
    )


def test_a_failure_that_has_no_words_is_said_by_its_name() -> None:
    run(
        """
        class Wordless(Exception):
            def __str__(self):
                raise RuntimeError
        class Broken(Told):
            def tick(self, *args):
                raise Wordless
        recorder.start([Broken()], interval_s=60)
        recorder.flush()
        """,
        stderr="tracedthread: telemetry is not whole; failures: 2, the first: Wordless\n",
    )


def test_a_sink_that_blocks_is_left_behind_and_another_recorder_goes_on() -> None:
    run("""
        entered, go = threading.Event(), threading.Event()
        class Stuck(Told):
            def tick(self, events, starts, contexts, lost):
                super().tick(events, starts, contexts, lost)
                entered.set()
                go.wait()
        stuck, after = Stuck(), Told()
        recorder.start([stuck, after], interval_s=0.01)
        entered.wait()
        wait_once(name="meanwhile")
        assert not recorder.flush(timeout_s=0.01)
        assert not recorder.stop(timeout_s=0.01)
        assert recorder.lost()["ends"] == 2 and recorder.lost()["events"] > 0
        told = Told()
        assert recorder.start([told])
        wait_once(name="later")
        assert recorder.flush() and told.names() == ["later"]
        go.set()
        until(lambda: len(os.listdir("/proc/self/task")) == 2)
        assert stuck.looks == 1 and after.looks == 0
        assert recorder.stop()
    """)


def test_one_of_two_sinks_that_is_left_behind_is_told_nothing_more() -> None:
    run("""
        entered, go, done = threading.Event(), threading.Event(), threading.Event()
        class Stuck(Told):
            def tick(self, events, starts, contexts, lost):
                super().tick(events, starts, contexts, lost)
                if self.looks == 2:
                    entered.set()
                    go.wait()
                elif self.looks > 3:
                    done.set()
        stuck, left = Stuck(), Told()
        recorder.start([stuck, left], interval_s=0.01)
        entered.wait()
        assert not recorder.stop(0.01, [left])
        looks = left.looks
        go.set()
        done.wait()
        assert (left.looks, left.closed) == (looks, []), (left.looks, looks, left.closed)
        assert recorder.stop()
        assert left.closed == []
    """)


def test_a_program_ends_though_a_sink_is_stuck_and_a_line_says_what_it_has_not_seen() -> None:
    run(
        """
        entered = threading.Event()
        class Stuck(Told):
            def tick(self, events, starts, contexts, lost):
                entered.set()
                recorder.originals.allocate_lock().__enter__()
                dead = recorder.originals.allocate_lock()
                dead.acquire(); dead.acquire()
        recorder.start([Stuck(), Told()], interval_s=0.01)
        entered.wait()
        assert recorder.flush(0.1) is False
        for _ in range(3): wait_once()
        told = []
        recorder._settings.say = told.append
        recorder._at_exit()
        lost = recorder.lost()
        assert lost["ends"] == 2 and lost["events"] >= 3, lost
        waits = lost["events"]
        assert told == [f"telemetry is not whole; at the end: waits not told: {waits}, sinks left behind: 2"], told
        recorder._at_exit()
        assert len(told) == 1
        """
    )


def test_waits_of_the_recorder_and_of_the_sdks_threads_are_not_told() -> None:
    run("""
        has_lock, may_go = threading.Event(), threading.Event()
        class Waits(Told):
            def tick(self, events, starts, contexts, lost):
                super().tick(events, starts, contexts, lost)
                if has_lock.is_set() and not may_go.is_set():
                    with lock: pass
        told = Waits()
        recorder.start([told], interval_s=0.001)
        with lock:
            has_lock.set()
            until(lambda: "tracedthread" in who_waits())
            may_go.set()
        wait_once(name="OtelBatchSpanRecordProcessor")
        wait_once(name="the program's")
        assert recorder.flush() and recorder.flush()
        recorded = [row for lock in tracedthread.snapshot().locks if lock.name.endswith("lock") for row in lock.waits]
        assert sum(row.count for row in recorded) == 3, recorded
        assert told.names() == ["the program's"], told.events
    """)


def test_waits_are_told_until_the_last_thread_ends_and_before_other_ends_of_the_program() -> None:
    out = run("""
        import atexit
        class Says(Told):
            def close(self, timeout_s):
                print(self.names(), 0 < timeout_s <= 2)
        recorder.start([Says()], interval_s=60)
        atexit.register(print, "the SDK ends")
        def lets_go():
            threading.main_thread().join()
            lock.release()
        lock.acquire()
        threading.Thread(target=lock.acquire, name="late").start()
        until(lambda: "late" in who_waits())
        threading.Thread(target=lets_go).start()
    """)
    assert out == "['late'] True\nthe SDK ends\n"


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_ends_that_nobody_hears_of_take_no_time(end: str) -> None:
    run(
        f"""
        class Never(Told):
            def close(self, timeout_s):
                print("closed")
        recorder.start([Never()])
        wait_once()
        {end}
    """,
        code=0 if "_exit" in end else -9,
    )


def test_a_sink_may_stop_the_recorder() -> None:
    run("""
        class Leaves(Told):
            def tick(self, events, starts, contexts, lost):
                super().tick(events, starts, contexts, lost)
                assert not recorder.flush() and not recorder.stop()
        told = Leaves()
        recorder.start([told])
        assert recorder.flush()
        until(lambda: told.closed)
        assert told.looks == 1 and recorder.lost()["failures"] == 0 and recorder.lost()["ends"] == 0
    """)


def test_a_recorder_that_cannot_be_started_is_said_and_counted_and_no_error() -> None:
    run(
        """
        def refuse(event, args):
            if event == "_thread.start_new_thread":
                raise RuntimeError("no more threads")
        from tracedthread._original import originals
        real = originals.start_new_thread
        def start(*args):
            refuse("_thread.start_new_thread", args)
        originals.start_new_thread = start
        assert not recorder.start([Told()])
        assert recorder.lost()["recorders"] == 1
        originals.start_new_thread = real
        told = Told()
        assert recorder.start([told]) and recorder.flush() and told.looks
        """,
        stderr="tracedthread: no telemetry: no more threads\n",
    )


def test_at_exit_starting_fails_without_a_word() -> None:
    run("""
        import atexit
        atexit.register(lambda: print(recorder.start([Told()]) in (True, False)))
    """)


def test_a_forked_child_tells_what_it_does_itself_and_nothing_twice() -> None:
    run_forking("""
        told = Told()
        recorder.start([told], interval_s=60)
        wait_once(name="before")
        def work():
            wait_once(name="child")
            assert recorder.flush()
            return told.names(), told.closed
        assert in_child(work) == "(['child'], [])"
        wait_once(name="after")
        assert recorder.flush()
        assert told.names() == ["before", "after"]
    """)


def test_a_childs_losses_and_sinks_begin_anew() -> None:
    run_forking("""
        class Fresh(Told):
            def after_fork(self):
                self.events = ["fresh"]
        told = Fresh()
        recorder.start([told], interval_s=60)
        recorder.count("spans", 3)
        assert in_child(lambda: (recorder.lost()["spans"], told.events)) == "(0, ['fresh'])"
        assert recorder.lost()["spans"] == 3
    """)


def test_a_child_ends_by_its_last_look() -> None:
    out = run_forking("""
        class Says(Told):
            def close(self, timeout_s):
                print(os.getpid() == parent, self.names(), flush=True)
        parent = os.getpid()
        recorder.start([Says()], interval_s=60)
        in_child(lambda: wait_once(name="child") and None)
        wait_once(name="parent")
    """)
    assert out.splitlines() == ["False ['child']", "True ['parent']"]


def test_a_child_that_follows_into_a_file_is_told_as_well(tmp_path: Path) -> None:
    run_forking(
        """
        told = Told()
        recorder.start([told], interval_s=60)
        def work():
            wait_once(name="child")
            assert recorder.flush()
            return told.names(), os.path.basename(_core.loaded().path) == f"app.{os.getpid()}.ttc"
        assert in_child(work) == "(['child'], True)"
    """,
        TRACEDTHREAD_OUTPUT=str(tmp_path / "app.ttc"),
        TRACEDTHREAD_FOLLOW_FORK="1",
    )


def test_children_of_multiprocessing_are_told_to_their_end() -> None:
    out = run_forking("""
        import multiprocessing
        class Says(Told):
            def close(self, timeout_s):
                print(os.getpid() == parent, self.names(), flush=True)
        parent = os.getpid()
        recorder.start([Says()], interval_s=60)
        child = multiprocessing.get_context("fork").Process(target=wait_once, kwargs={"name": "child"})
        child.start()
        child.join()
        assert child.exitcode == 0
    """)
    assert out.splitlines() == ["False ['child']", "True []"]


def test_a_fork_waits_until_no_sink_runs_so_that_no_lock_of_theirs_is_held_in_the_child() -> None:
    run_forking("""
        sdk = recorder.originals.allocate_lock()
        class Busy(Told):
            def tick(self, events, starts, contexts, lost):
                if os.getpid() == parent:
                    with sdk:
                        time.sleep(0.001)
        parent = os.getpid()
        recorder.start([Busy()], interval_s=0.0001)
        for _ in range(20):
            assert in_child(sdk.locked) == "False"
    """)


def test_a_fork_does_not_wait_for_ever_and_only_once_for_a_sink_that_is_stuck() -> None:
    run_forking("""
        entered, go = threading.Event(), threading.Event()
        class Stuck(Told):
            def tick(self, events, starts, contexts, lost):
                super().tick(events, starts, contexts, lost)
                if os.getpid() == parent:
                    entered.set()
                    go.wait()
        parent = os.getpid()
        told = Stuck()
        recorder.start([told], interval_s=0.001)
        entered.wait()
        def work():
            wait_once(name="child")
            assert recorder.flush()
            return told.names()
        for _ in range(3):
            assert in_child(work) == "['child']"
        go.set()
        assert recorder.flush()
    """)


SLOW = """
        import contextlib, signal
        class Late(Exception): pass
        class Slow(Told):
            def tick(self, events, starts, contexts, lost):
                if os.getpid() == parent:
                    entered.set()
                    time.sleep(0.3)
        def late(number, frame):
            raise raised[0]
        parent, entered = os.getpid(), threading.Event()
        signal.signal(signal.SIGALRM, late)
"""


@pytest.mark.parametrize("what", ["Late('too')", "KeyboardInterrupt()", "SystemExit(5)"])
@pytest.mark.parametrize("first", ["", "logging", "recorder"])
def test_what_a_signal_handler_raises_while_a_fork_waits_is_raised_in_the_parent_when_it_is_over(
    what: str, first: str
) -> None:
    """Also between hooks that are Python code, as logging's are: what is raised in those is printed and dropped."""
    start = ["import logging"] if first else []
    start.insert(first == "logging", "recorder.start([Slow()], interval_s=0.01)")
    out = run_forking(
        SLOW
        + f"""
        {"; ".join(start)}
        raised = [{what}]
        for _ in range(2):
            entered.clear()
            entered.wait()
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.03)
                pid = os.fork()
                if pid == 0:
                    os._exit(0)
                time.sleep(0.1)
            except BaseException as exc:
                assert exc is raised[0], exc
                print("parent" if os.getpid() == parent else "child", flush=True)
            with contextlib.suppress(ChildProcessError):  # a slow machine had not come to the fork yet
                assert os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]) == 0
        assert recorder.flush()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]) == 0
        logging = sys.modules.get("logging")
        if logging:
            thread = threading.Thread(target=logging.getLogger, args=("a",), daemon=True)
            thread.start()
            thread.join(20)
            assert not thread.is_alive()
        """
    )
    assert out == "parent\n" * 2


def test_a_signal_that_comes_during_the_fork_itself_is_handled_when_it_is_over() -> None:
    out = run_forking("""
        import ctypes, functools, signal
        class Late(Exception): pass
        def late(number, frame): raise Late
        signal.signal(signal.SIGUSR1, late)
        # As the kernel would: no Python code runs between the fork and the hooks of the recorder.
        kill = functools.partial(ctypes.PyDLL(None).kill, os.getpid(), int(signal.SIGUSR1))
        os.register_at_fork(after_in_parent=kill)
        recorder.start([Told()], interval_s=0.01)
        try:
            if os.fork() == 0:
                os._exit(0)
            time.sleep(0.1)
        except Late:
            print("late")
        assert recorder.flush(5.0)
    """)
    assert out == "late\n"


def test_many_forks_from_many_threads_neither_lock_up_nor_lose_the_recorder() -> None:
    run_forking("""
        told = Told()
        recorder.start([told], interval_s=0.001)
        def forks():
            for _ in range(10):
                pid = os.fork()
                if pid == 0:
                    os._exit(0 if recorder.flush(timeout_s=20) else 1)
                ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        ends = []
        threads = [threading.Thread(target=forks) for _ in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert ends == [0] * 30
        assert recorder.flush()
    """)


def test_the_sdks_own_child_handlers_may_start_threads_and_wait() -> None:
    run_forking("""
        def restart():
            thread = threading.Thread(target=bool)
            thread.start()
            thread.join()
        os.register_at_fork(after_in_child=restart)
        told = Told()
        recorder.start([told], interval_s=0.001)
        for _ in range(5):
            assert in_child(lambda: recorder.flush()) == "True"
    """)


def test_signal_handlers_may_stop_and_start_it() -> None:
    run("""
        import signal
        told = Told()
        def handler(number, frame):
            recorder.stop()
            recorder.start([told], interval_s=0.001)
        signal.signal(signal.SIGALRM, handler)
        for number in range(300):
            signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + number))
            recorder.start([told], interval_s=0.001)
            recorder.flush()
            recorder.stop()
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert recorder.stop()
        assert recorder.lost()["failures"] == 0 and recorder.lost()["ends"] == 0, recorder.lost()
    """)


def test_contexts_come_with_the_events_that_name_them_and_do_not_stay() -> None:
    run("""
        import contextvars, gc, weakref
        class Value: pass
        variable = contextvars.ContextVar("variable")
        class Meets(Told):
            def tick(self, events, starts, contexts, lost):
                super().tick(events, starts, contexts, lost)
                for event in events:
                    if is_ours(event.lock.name):
                        met.extend(type(contexts.get(number)).__name__ for number in (event.context, event.holder_context))
                self.contexts = {}
        met, values = [], []
        assert recorder.start([Meets()], interval_s=60, context_variable=variable)
        def with_value(wait):
            value = Value()
            values.append(weakref.ref(value))
            variable.set(value)
            wait()
        wait_once(wrap=with_value)
        assert values[0]() is not None       # while nobody has looked, it is kept
        assert recorder.flush() and met == ["Value", "NoneType"], met
        for _ in range(2): assert recorder.flush()
        gc.collect()
        assert values[0]() is None
        contextvars.copy_context().run(with_value, wait_once)
        assert recorder.flush() and met[2:] == ["NoneType", "Value"], met
        contextvars.copy_context().run(with_value, wait_once)
        assert recorder.stop()
        gc.collect()
        assert values[2]() is None           # what nobody will take is not kept
        contextvars.copy_context().run(with_value, wait_once)
        gc.collect()
        assert values[3]() is None           # nothing is noted any more
        assert recorder.lost()["contexts"] == 0
    """)


def test_contexts_that_found_no_room_are_counted() -> None:
    run("""
        import contextvars
        variable = contextvars.ContextVar("variable")
        told = Told()
        assert recorder.start([told], interval_s=3600, context_variable=variable)
        def wait_in_vain(number):
            variable.set(object())
            assert not lock.acquire(timeout=1e-6)
        with lock:
            for number in range(1024 + 7):
                contextvars.copy_context().run(wait_in_vain, number)
        assert recorder.flush()
        without = [event for event in told.events if not event.context]
        assert len(told.events) == 1024 + 7 and len(without) >= 7
        assert recorder.lost()["contexts"] >= len(without)
    """)
