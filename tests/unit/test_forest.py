"""Who waits behind whom, as trees."""

from __future__ import annotations

from blocked_threads import blocked, lock

from tracedthread.deadlock import BlockedThread
from tracedthread.forest import forest


def shape(waiting: list[BlockedThread]) -> list[tuple[str, list[tuple[int, str]]]]:
    return [
        (
            tree.lock.name if tree.lock else f"join {tree.joined and tree.joined.name}",
            [(branch.depth, branch.wait.thread.name) for branch in tree.branches],
        )
        for tree in forest(waiting)
    ]


def test_the_root_holder_comes_first_and_the_longest_wait_of_each() -> None:
    cache, session = lock(10, 9), lock(11, 2)
    waiting = [blocked(4, session), blocked(2, cache), blocked(1, cache), blocked(3, session), blocked(5, lock(12, 4))]
    assert shape(waiting) == [("L10", [(0, "t1"), (0, "t2"), (1, "t3"), (1, "t4"), (2, "t5")])]


def test_a_holder_that_waits_for_no_thread_is_a_root() -> None:
    (tree,) = forest([blocked(1, lock(10, 2)), blocked(2)])
    assert tree.holder is not None and tree.holder.thread.name == "t2"
    assert [branch.wait.thread.name for branch in tree.branches] == ["t1"]


def test_every_lock_of_a_cycle_is_a_root_with_its_members_as_leaves() -> None:
    waiting = [blocked(1, lock(11, 2)), blocked(2, lock(10, 1)), blocked(3, lock(10, 1)), blocked(4, lock(12, 3))]
    assert shape(waiting) == [
        ("L10", [(0, "t2"), (0, "t3"), (1, "t4")]),
        ("L11", [(0, "t1")]),
    ]


def test_joins_stand_in_the_forest_too() -> None:
    waiting = [blocked(1, joins=2), blocked(2, lock(10, 3)), blocked(4, joins=5)]
    assert shape(waiting) == [("L10", [(0, "t2"), (1, "t1")]), ("join t5", [(0, "t4")])]


def test_a_chain_of_thousands_needs_no_recursion() -> None:
    waiting = [blocked(number, lock(number, number + 1)) for number in range(1, 20_000)]
    (tree,) = forest(waiting)
    assert max(branch.depth for branch in tree.branches) == 19_998
