"""
What had not ended when a capture was read: waits, holds that somebody waits for, deadlocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tracedthread import layout
from tracedthread.capture import Capture, Frame
from tracedthread.deadlock import Cycle, confirmed, cycles, waits
from tracedthread.rows import NOWHERE, OTHER
from tracedthread.threads import thread_name


@dataclass(frozen=True)
class Pending:
    """
    A wait for a lock, or a hold of one, in progress.

    Args:
        of: `wait` or `hold`.
        lock, created: As in LockRow.
        thread: The name of the one who waits or holds.
        elapsed_ticks: So far; if it `is_minimum`, at least: the process was cut off, and nobody knows when.
        stack: Where it waits; for a hold where its owner was when somebody last looked, empty if nobody did.
        is_counted: Whether its lock's `waiters` or `unended` count it: not a hold that a forked child was born with.
    """

    of: str
    lock: str
    created: Frame
    thread: str
    elapsed_ticks: int
    stack: tuple[Frame, ...]
    is_minimum: bool = False
    is_counted: bool = True


def pending(capture: Capture) -> tuple[Pending, ...]:
    """
    The waits for locks, and the holds that made somebody wait, as far as the capture says since when.

    Raises:
        CaptureError: The capture is damaged.
    """
    sites = capture.sites()
    return (*_waits(capture, sites), *_holds(capture, sites))


def _waits(capture: Capture, sites: list[layout.SiteRecord]) -> Iterator[Pending]:
    for _, record in capture.waiting():
        if layout.KINDS[record.wait_kind] in layout.CONTENTION_KINDS:
            elapsed = max(0, capture.end_ticks - record.wait_since)
            stack = capture.stack(record.wait_stack)
            lock, name = _lock(capture, sites, record.wait_site), thread_name(capture, record)
            yield Pending("wait", *lock, name, elapsed, stack, capture.is_cut_off)


def _holds(capture: Capture, sites: list[layout.SiteRecord]) -> Iterator[Pending]:
    threads = list(capture.threads())
    for record in capture.contended():
        if record.held_since:
            owner = threads[record.owner] if record.owner and record.owner < len(threads) else None
            known = owner is not None and owner.generation == record.owner_generation
            name = thread_name(capture, owner) if owner is not None and known else ""
            elapsed = max(0, capture.end_ticks - record.held_since)
            lock, stack = _lock(capture, sites, record.site), capture.stack(record.owner_stack)
            is_counted = record.held_since > capture.header.first_ticks
            yield Pending("hold", *lock, name, elapsed, stack, capture.is_cut_off, is_counted)


def _lock(capture: Capture, sites: list[layout.SiteRecord], index: int) -> tuple[str, Frame]:
    if index == layout.SITE_OTHER or index >= len(sites):
        return OTHER, NOWHERE
    site = sites[index]
    return capture.string(site.name), Frame(capture.string(site.function), capture.string(site.file), site.line)


def deadlocks(capture: Capture, again: Capture | None = None) -> list[str]:
    """
    The deadlocks that the process noticed itself, or that it was in when the capture was read; one sentence each.

    Args:
        again: A later copy of the capture of a process that runs: a deadlock is what both copies have.
    Raises:
        CaptureError: A capture is damaged.
    """
    noticed = [_noticed(note["deadlock"]) for note in (again or capture).notes() if "deadlock" in note]
    found = cycles(waits(capture))
    if capture.may_run:
        found = confirmed(found, cycles(waits(again))) if again is not None else []
    now = [_cycle(cycle) for cycle in found if cycle.is_deadlock]
    # The threads of one deadlock tell it each from its own point of view, and a note on a long one breaks off.
    told: dict[frozenset[_Edge], str] = {}
    for edges, sentence in (*noticed, *now):
        if not any(edges <= known or (known and known < edges) for known in told):
            told[edges] = sentence
    return list(told.values())


#: Thread by its ident, and the lock it waits for; "" where that is a thread's end or a lock without a name.
_Edge = tuple[str, str]


def _cycle(cycle: Cycle) -> tuple[frozenset[_Edge], str]:
    edges = ((str(wait.thread.ident), wait.what if wait.lock is not None else "") for wait in cycle.waits)
    chain = ((wait.thread.name, wait.what, wait.blocker.name if wait.blocker else "") for wait in cycle.waits)
    return frozenset(edges), _chain(chain)


def _noticed(note: object) -> tuple[frozenset[_Edge], str]:
    """A note of the form that native/deadlock.c writes."""
    listed = note.get("threads") if isinstance(note, dict) else None
    if not isinstance(listed, list):
        return frozenset(), "a deadlock was noticed"
    edges = [edge for edge in listed if isinstance(edge, dict)]
    chain = ((str(edge.get("thread")), str(edge.get("for")), str(edge.get("held_by"))) for edge in edges)
    return frozenset(map(_noticed_edge, edges)), _chain(chain)


def _noticed_edge(edge: dict[str, object]) -> _Edge:
    what = str(edge.get("for", ""))
    is_named_lock = edge.get("kind") != "join" and not what.startswith("lock 0x")
    return str(edge.get("ident", edge.get("thread"))), what if is_named_lock else ""


def _chain(edges: Iterable[tuple[str, str, str]]) -> str:
    return "deadlock: " + ", ".join(f"{thread} waits for {what} of {holder}" for thread, what, holder in edges)
