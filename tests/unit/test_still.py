"""What forks wait for: the end of a round, for a while and once for each."""

from __future__ import annotations

from own_interpreter import run

HEAD = """
import faulthandler, os, threading, time
faulthandler.dump_traceback_later(50, exit=True)
import tracedthread
from tracedthread import _core
types = _core.load().types
still, begun, end = types.Still(), threading.Event(), threading.Event()
types.watch_forks(still)
def rounds():
    with still:
        begun.set()
        end.wait()
thread = threading.Thread(target=rounds)
"""


def test_a_fork_waits_for_the_end_of_a_round_and_lets_none_begin() -> None:
    run(
        """
        done = []
        def fork():
            types.before_fork()
            done.append("forks")
            time.sleep(0.2)
            done.append("has forked")
            types.after_fork()
        thread.start()
        begun.wait()
        forking = threading.Thread(target=fork)
        forking.start()
        done.append("round")
        end.set()
        thread.join()
        while len(done) < 2: time.sleep(0.001)
        with still:
            done.append("next round")
        forking.join()
        assert done == ["round", "forks", "has forked", "next round"], done
        """,
        head=HEAD,
    )


def test_nobody_waits_twice_for_one_round() -> None:
    """A wait takes a tenth of a second, so fifty would take five."""
    run(
        """
        thread.start()
        begun.wait()
        began = time.monotonic()
        for _ in range(50):
            types.before_fork()
            types.after_fork()
        took = time.monotonic() - began
        assert 0.1 <= took < 2.5, took
        end.set()
        thread.join()
        """,
        head=HEAD,
    )


def test_hooks_of_a_fork_in_the_hooks_of_a_fork() -> None:
    run(
        """
        end.set()
        types.before_fork()
        types.before_fork()
        types.after_fork()
        thread.start()
        assert not begun.wait(0.1)
        types.after_fork()
        thread.join()
        types.after_fork()
        """,
        head=HEAD,
    )


def test_its_own_thread_forks_at_any_time_and_a_child_begins_anew() -> None:
    run(
        """
        with still:
            types.before_fork()
            types.after_fork()
        types.before_fork()
        types.after_fork_in_child()
        types.after_fork()
        types.before_fork()             # of nothing
        types.watch_forks(None)
        types.watch_forks(types.Still())
        for bad in (3, still.__class__):
            try:
                types.watch_forks(bad)
            except TypeError:
                continue
            raise AssertionError(bad)
        """,
        head=HEAD,
    )
