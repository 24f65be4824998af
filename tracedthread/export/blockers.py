"""
A dump as text: deadlocks first, then who waits for whom, then who waits for work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO

from tracedthread.capture import Frame
from tracedthread.deadlock import BlockedThread, Cycle
from tracedthread.dump import Dump, lock_name
from tracedthread.export.clean import clean, write
from tracedthread.export.units import count, duration
from tracedthread.forest import Branch, Tree

MAX_FRAMES = 8
MAX_LINES = 40
MAX_DEPTH = 20


def render(dump: Dump, stream: TextIO) -> None:
    """Write the text to `stream`."""
    write("".join(clean(line) + "\n" for line in _lines(dump)), stream)


def _lines(dump: Dump) -> Iterable[str]:
    for number, cycle in enumerate(dump.deadlocks):
        if number == 0:
            yield _found(len(dump.deadlocks), "deadlock")
        yield from _cycle(cycle)
        yield ""
    for number, cycle in enumerate(dump.suspects):
        if number == 0:
            yield f"{_found(len(dump.suspects), 'possible deadlock')[:-1]}, unless {_who_may_end(dump.suspects)}:"
        yield from _cycle(cycle)
        yield ""
    yield _process(dump)
    for warning in dump.warnings:
        yield f"! {warning}"
    told = {wait.thread[:2] for cycle in (*dump.deadlocks, *dump.suspects) for wait in cycle.waits}
    shown = set(told)
    for tree in dump.trees:
        shown |= {branch.wait.thread[:2] for branch in tree.branches}
        if not all(branch.wait.thread[:2] in told for branch in tree.branches):
            yield ""
            yield from _tree(tree)
    others = [wait for wait in dump.waits if wait.thread[:2] not in shown]
    if others:
        yield ""
        yield "Other waits"
        yield from (f"  {_waits(wait, wait.what)}{_where(wait.stack)}" for wait in others[:MAX_LINES])
        yield from _more(len(others))


def _found(number: int, what: str) -> str:
    return f"Found one {what}:" if number == 1 else f"Found {number} {what}s:"


def _who_may_end(suspects: Iterable[Cycle]) -> str:
    if all(any(wait.timed for wait in cycle.waits) for cycle in suspects):
        return "its timeout ends it"
    return "another thread or a signal handler releases a lock"


def _cycle(cycle: Cycle) -> Iterable[str]:
    for wait in cycle.waits:
        yield f"  `{wait.thread.name}` has waited {duration(wait.waited_s)} {_for_whom(wait)}"
        yield from _frames(wait.stack)


def _for_whom(wait: BlockedThread) -> str:
    if wait.lock is None:
        return f"for `{wait.joins.name}` to end" if wait.joins is not None else "for a lock"
    if wait.blocker is not None and wait.blocker[:2] == wait.thread[:2]:
        return f"for {lock_name(wait.lock)}, held by itself"
    return f"for {lock_name(wait.lock)}, held by `{wait.blocker.name if wait.blocker else '?'}`"


def _process(dump: Dump) -> str:
    blocked = sum(wait.lock is not None for wait in dump.waits)
    total = count(dump.recorded_threads, "thread")
    if dump.threads > dump.recorded_threads:
        total += f" and {dump.threads - dump.recorded_threads} more that are not recorded"
    state = "" if dump.state == "running" else f", {dump.state}"
    return (
        f"Process {dump.pid} ({dump.program or '?'}, Python {dump.python}{state}): {total}; "
        f"{len(dump.waits)} wait, {blocked} of them for a lock."
    )


def _tree(tree: Tree) -> Iterable[str]:
    if tree.lock is None:
        yield f"`{tree.joined.name}` is joined" if tree.joined is not None else "a thread is joined"
    else:
        yield f"{lock_name(tree.lock)}  {_holder(tree)}"
    yield from _doing(tree)
    stems = _stems(tree.branches[:MAX_LINES])
    for branch, stem in zip(tree.branches[:MAX_LINES], stems):
        wait = branch.wait
        what = "" if branch.depth == 0 else _for_whom(wait).removeprefix("for ").partition(", held by")[0]
        yield f"  {stem}{_waits(wait, what, named=True)}{_where(wait.stack)}"
    yield from _more(len(tree.branches))


def _holder(tree: Tree) -> str:
    lock = tree.lock
    if lock is None or lock.owner is None:
        return (
            "held by nobody that is known"
            if lock is not None and lock.held_since
            else "free, or its owner is not known"
        )
    held = f"held {duration(lock.held_s)}" if lock.held_since else "held"
    return f"{held} by `{lock.owner.name}`" + (", which has ended" if lock.owner.ended else "")


def _doing(tree: Tree) -> Iterable[str]:
    """What the root holder does, as far as anybody knows."""
    lock, holder = tree.lock, tree.holder
    if holder is not None:
        what = f" for {holder.what}" if holder.what else ""
        yield f"  it waits itself, {holder.kind}{what}, since {duration(holder.waited_s)}{_where(holder.stack)}"
    elif lock is not None and lock.owner_stack and lock.owner_stack[0].line:  # else "(still held)", which is no place
        yield f"  when a waiter looked, it was in {_calls(lock.owner_stack)}"
    elif lock is not None and lock.release_stack:
        yield f"  last released in {_calls(lock.release_stack)}"


def _waits(wait: BlockedThread, what: str, *, named: bool = False) -> str:
    kind = "" if named else f"{wait.kind} "
    timeout = ", has a timeout" if wait.timed else ""
    target = f" for {what}" if what else ""
    return f"`{wait.thread.name}`  {kind}{duration(wait.waited_s)}{target}{timeout}"


def _where(stack: Sequence[Frame]) -> str:
    return f"  {stack[0]}" if stack else ""


def _calls(stack: Sequence[Frame]) -> str:
    return " < ".join(map(str, stack[:3]))


def _frames(stack: Sequence[Frame]) -> Iterable[str]:
    yield from (f"      {frame}" for frame in stack[:MAX_FRAMES])
    if len(stack) > MAX_FRAMES:
        yield f"      ... {len(stack) - MAX_FRAMES} more"


def _more(number: int) -> Iterable[str]:
    if number > MAX_LINES:
        yield f"  ... and {number - MAX_LINES} more"


def _stems(branches: Sequence[Branch]) -> list[str]:
    """The tree's lines, `│  └─ `, in front of each branch."""
    stems = []
    open_levels: set[int] = set()  # where, further down, another branch follows
    for branch in reversed(branches):
        depth = min(branch.depth, MAX_DEPTH)
        rails = "".join("│  " if level in open_levels else "   " for level in range(depth))
        stems.append(rails + ("├─ " if depth in open_levels else "└─ "))
        open_levels = {level for level in open_levels if level < depth} | {depth}
    return stems[::-1]
