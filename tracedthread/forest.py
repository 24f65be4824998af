"""
Who waits behind whom, as trees to be shown: what a thread waits for stands above it.

A thread waits for one thing at a time, so that the whole is a forest but for its cycles.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from tracedthread.deadlock import BlockedThread, LockRef, ThreadRef, cycles


@dataclass(frozen=True)
class Branch:
    """
    One line of a tree of blocked threads.

    Args:
        depth: 0 for those who wait for the root itself.
        wait: A thread that waits for something that the thread of the line above it, one level up, holds.
    """

    depth: int
    wait: BlockedThread


@dataclass(frozen=True)
class Tree:
    """
    What others wait for, and nobody waits before it: the root holder's lock, or a thread that is joined.

    Args:
        lock: None for a thread that is joined.
        joined: None for a lock.
        holder: Its owner's or the thread's own wait, if it waits: for something that no thread has, or in a cycle.
        branches: In the order of a walk: each thread before those who wait for it, the longest wait first.
    """

    lock: LockRef | None
    joined: ThreadRef | None
    holder: BlockedThread | None
    branches: tuple[Branch, ...]


def forest(blocked: Iterable[BlockedThread]) -> list[Tree]:
    """
    Who waits for whom, those first whose waiters have waited longest together.

    A thread of a cycle is a root, so that whoever waits behind the cycle has a place; in the tree of its lock the other
    threads of the cycle stand as leaves.
    """
    blocked = list(blocked)
    waiting = {wait.thread[:2]: wait for wait in blocked}
    in_cycle = {wait.thread[:2] for cycle in cycles(blocked) for wait in cycle.waits}
    held: dict[tuple[int, int], list[BlockedThread]] = {}  # by the thread they wait for
    roots: dict[Hashable, list[BlockedThread]] = {}
    for wait in blocked:
        if wait.lock is None and wait.joins is None:
            continue
        blocker = wait.blocker and wait.blocker[:2]
        before = waiting.get(blocker) if blocker is not None else None
        if before is None or blocker in in_cycle or (before.lock is None and before.joins is None):
            what = wait.lock.address if wait.lock is not None else ("join", wait.joins and wait.joins[:2])
            roots.setdefault(what, []).append(wait)
        elif blocker is not None:
            held.setdefault(blocker, []).append(wait)
    trees = []
    for waiters in roots.values():
        first = waiters[0]
        blocker = first.blocker and first.blocker[:2]
        holder = waiting.get(blocker) if blocker is not None else None
        branches = tuple(_walk(waiters, held, in_cycle))
        trees.append(Tree(first.lock, first.joins, holder, branches))
    return sorted(trees, key=lambda tree: -sum(branch.wait.waited_s for branch in tree.branches))


def _walk(
    waiters: list[BlockedThread], held: dict[tuple[int, int], list[BlockedThread]], in_cycle: set[tuple[int, int]]
) -> Iterable[Branch]:
    # Not recursive: a chain is as long as there are threads.
    stack = [(0, wait) for wait in sorted(waiters, key=lambda wait: -wait.since)]
    while stack:
        depth, wait = stack.pop()
        yield Branch(depth, wait)
        key = wait.thread[:2]
        if key not in in_cycle:
            behind = sorted(held.get(key, ()), key=lambda wait: -wait.since)
            stack += [(depth + 1, wait) for wait in behind]
