"""What forks wait for: the end of a round, for a while and once for each."""

from __future__ import annotations

import pytest
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
def a_round_begins_only_after(*steps):
    again = threading.Thread(target=still.__enter__, daemon=True)
    again.start()
    again.join(0.1)
    assert again.is_alive()
    for step in steps: step()
    again.join()
"""


def test_a_fork_waits_for_the_end_of_a_round_and_lets_none_begin() -> None:
    run(
        """
        def trial():
            still, begun, end, order, took = types.Still(), threading.Event(), threading.Event(), [], []
            types.watch_forks(still)
            def rounds():
                with still:
                    begun.set()
                    end.wait()
                    order.append("round")
                    time.sleep(0.02)
                    order.append("its end")
                time.sleep(0.02)        # as there is a while between two rounds
                with still:
                    order.append("next round")
            def fork():
                before = time.monotonic()
                types.before_fork()
                took.append(time.monotonic() - before)
                order.append("forks")
                time.sleep(0.1)
                order.append("has forked")
                types.after_fork()
            threads = [threading.Thread(target=target) for target in (rounds, fork)]
            threads[0].start()
            begun.wait()
            threads[1].start()
            end.set()
            for thread in threads: thread.join()
            return order, took[0]
        orders = [order for order, took in (trial() for _ in range(20)) if took < 0.08]  # else its patience was over
        waited = ["round", "its end", "forks", "has forked", "next round"]
        after = ["round", "its end", "next round", "forks", "has forked"]
        assert waited in orders and all(order in (waited, after) for order in orders), orders
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
        assert 0.09 <= took < 2.5, took
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


def test_its_own_thread_forks_at_any_time() -> None:
    run(
        """
        with still:
            types.before_fork()
            types.after_fork()
        try:
            still.__exit__(None, None, None)
        except RuntimeError as exc:
            assert str(exc) == "there is no round"
        else:
            raise AssertionError
        """,
        head=HEAD,
    )


def test_a_child_begins_anew() -> None:
    run(
        """
        end.set()
        thread.start()
        thread.join()
        types.before_fork()
        types.before_fork()
        types.after_fork_in_child()     # the round's lock is as it is, held
        still = types.Still()
        types.watch_forks(still)
        thread = threading.Thread(target=rounds)
        thread.start()
        thread.join()
        types.before_fork()
        a_round_begins_only_after(types.after_fork)
        """,
        head=HEAD,
    )


def test_threads_that_fork_at_once_do_not_wait_for_each_other() -> None:
    """They would for a tenth of a second, and then go on without."""
    run(
        """
        types.before_fork()
        forked, done = threading.Event(), threading.Event()
        def fork():
            types.before_fork()
            forked.set()
            done.wait()
            types.after_fork()
        other = threading.Thread(target=fork)
        other.start()
        forked.wait()
        types.after_fork()
        a_round_begins_only_after(done.set, other.join)     # the other one still forks
        """,
        head=HEAD,
    )


def test_after_one_that_would_not_wait_forks_hold_it_again() -> None:
    run(
        """
        thread.start()
        begun.wait()
        types.before_fork()
        types.after_fork()
        end.set()
        thread.join()
        types.before_fork()             # there has been no new round
        a_round_begins_only_after(types.after_fork)
        """,
        head=HEAD,
    )


@pytest.mark.parametrize("bad", ["3", "types.Still"])
def test_what_is_watched_is_a_still(bad: str) -> None:
    run(
        f"""
        try:
            types.watch_forks({bad})
        except TypeError as exc:
            assert str(exc) == "a Still or None expected"
        else:
            raise AssertionError
        """,
        head=HEAD,
    )
