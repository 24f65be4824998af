"""Who waits for whom, on synthetic captures."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from blocked_threads import blocked, lock, thread
from capture_builder import FIRST_MONOTONIC_NS, SECOND, CaptureBuilder, Place

from tracedthread.capture import Capture, CaptureError, Frame
from tracedthread.deadlock import (
    BlockedThread,
    Cycle,
    ThreadRef,
    confirmed,
    cycles,
    live_threads,
    nobody_else,
    waits,
)
from tracedthread.export.findings import findings
from tracedthread.forest import forest
from tracedthread.profile import Profile, subtract

APP = "/srv/app.py"


def names(cycle: Cycle) -> list[str]:
    return [wait.thread.name for wait in cycle.waits]


def test_two_threads_that_want_each_other_s_lock() -> None:
    (cycle,) = cycles([blocked(2, lock(0xA, 1)), blocked(1, lock(0xB, 2))])
    assert names(cycle) == ["t1", "t2"]
    assert cycle.is_deadlock


def test_a_chain_is_no_cycle() -> None:
    assert cycles([blocked(1, lock(0xA, 2)), blocked(2, lock(0xB, 3)), blocked(3, lock(0xC, 4))]) == []
    assert cycles([blocked(1, lock(0xA, 2)), blocked(2)]) == []
    assert cycles([blocked(1, lock(0xA, None)), blocked(2, lock(0xB, 1))]) == []


def test_who_only_waits_behind_a_cycle_is_not_of_it() -> None:
    waiting = [blocked(1, lock(0xB, 2)), blocked(2, lock(0xA, 1)), blocked(3, lock(0xA, 1)), blocked(4, lock(0xC, 3))]
    (cycle,) = cycles(waiting)
    assert names(cycle) == ["t1", "t2"]


def test_cycles_of_any_length_and_number_are_found() -> None:
    numbers = random.Random(4)
    for _ in range(200):
        left = list(range(1, numbers.randint(2, 60)))
        numbers.shuffle(left)
        waiting, expected = [], set()
        while left:
            ring = [left.pop() for _ in range(min(len(left), numbers.randint(1, 9)))]
            closed = numbers.random() < 0.5
            for before, after in zip(ring, [*ring[1:], ring[0]]):
                if closed or after != ring[0]:
                    waiting.append(blocked(before, lock(before, after)))
            if closed:
                expected.add(frozenset(ring))
        numbers.shuffle(waiting)
        found = cycles(waiting)
        assert {frozenset(wait.thread.slot for wait in cycle.waits) for cycle in found} == expected
        for cycle in found:
            for wait, following in zip(cycle.waits, [*cycle.waits[1:], cycle.waits[0]]):
                assert wait.blocker == following.thread
            assert cycle.waits[0].since == min(wait.since for wait in cycle.waits)


@pytest.mark.parametrize(
    ("waiting", "is_deadlock"),
    [
        ([blocked(1, lock(0xA, 1))], False),  # may be a signal that another thread gives
        ([blocked(1, lock(0xA, 1, entered=True))], True),
        ([blocked(1, lock(0xA, 1, entered=True), timed=True)], False),
        ([blocked(1, lock(0xA, 2)), blocked(2, lock(0xB, 1), timed=True)], False),
        ([blocked(1, lock(0xA, 2, kind="rlock")), blocked(2, lock(0xB, 1))], True),
        ([blocked(1, joins=2), blocked(2, lock(0xB, 1))], False),  # a gate that a third thread opens
        ([blocked(1, joins=2), blocked(2, lock(0xB, 1, entered=True))], True),
        ([blocked(1, joins=2), blocked(2, lock(0xB, 1, kind="rlock"))], True),
        ([blocked(1, joins=2), blocked(2, joins=1)], True),
    ],
)
def test_a_deadlock_is_what_nobody_can_end(waiting: list[BlockedThread], is_deadlock: bool) -> None:
    (cycle,) = cycles(waiting)
    assert cycle.is_deadlock == is_deadlock
    (cycle,) = cycles(waiting, alone=True)
    assert cycle.is_deadlock == (not any(wait.timed for wait in waiting))


def test_an_ended_thread_blocks_nobody_in_a_cycle() -> None:
    held = replace(lock(0xA, 2), owner=thread(2, ended=True))
    assert cycles([blocked(1, held), blocked(2, lock(0xB, 1))]) == []


def test_what_moves_between_two_copies_is_no_deadlock() -> None:
    first = cycles([blocked(1, lock(0xA, 2)), blocked(2, lock(0xB, 1))])
    assert confirmed(first, first) == first
    moved = cycles([replace(blocked(1, lock(0xA, 2)), since=9), blocked(2, lock(0xB, 1))])
    assert moved and confirmed(first, moved) == []
    retaken = cycles([blocked(1, lock(0xA, 2, since=6)), blocked(2, lock(0xB, 1))])
    assert retaken and confirmed(first, retaken) == []
    assert confirmed([], first) == []


def test_a_chain_of_thousands_needs_no_recursion() -> None:
    waiting = [blocked(number, lock(number, number + 1)) for number in range(1, 20_000)]
    assert cycles(waiting) == []
    ring = [*waiting, blocked(20_000, lock(20_000, 1))]
    (cycle,) = cycles(ring)
    assert len(cycle.waits) == 20_000


# -- out of a capture ---------------------------------------------------------------------------------------------------


def read(builder: CaptureBuilder) -> Capture:
    capture = Capture.from_buffer(builder.build())
    capture._read_monotonic_ns = FIRST_MONOTONIC_NS + 10 * SECOND
    return capture


def at(function: str, line: int) -> list[Place]:
    return [(function, APP, line), ("<module>", APP, 90)]


def ab_ba() -> CaptureBuilder:
    builder = CaptureBuilder(grown=True)
    a = builder.site("A", ("<module>", APP, 11))
    b = builder.site("B", ("<module>", APP, 12), lock_type=1)
    builder.thread("", "first", label="t-AB")
    builder.thread("", "second")
    builder.contended(0xA0, a, 1, held_since_ns=6 * SECOND, entered=True)
    builder.contended(0xB0, b, 2, held_since_ns=6 * SECOND, owner_at=at("second", 30), released_at=at("third", 40))
    builder.waits_for(1, 0xB0, b, since_ns=7 * SECOND, kind="rlock", places=at("first", 20))
    builder.waits_for(2, 0xA0, a, since_ns=8 * SECOND, places=at("second", 31))
    return builder


def test_waits_are_read_from_the_capture() -> None:
    first, second = waits(read(ab_ba()))
    assert first.thread == ThreadRef(1, 0, 140_000_000_000_001, 71, "t-AB", False)
    assert second.thread.name == "second"
    assert (first.kind, first.what, first.waited_s, first.timed) == ("rlock", "B", 3.0, False)
    assert first.stack == (Frame("first", APP, 20), Frame("<module>", APP, 90))
    held = first.lock
    assert held is not None and held.owner == second.thread
    assert (held.name, held.type, held.created, held.held_s) == ("B", "rlock", Frame("<module>", APP, 12), 4.0)
    assert (held.entered, held.only_owner_releases, held.before_fork) == (False, True, False)
    assert held.owner_stack[0].line == 30 and held.release_stack[0].line == 40
    assert second.lock is not None and second.lock.entered
    (cycle,) = cycles([first, second])
    assert cycle.is_deadlock and names(cycle) == ["t-AB", "second"]


def test_a_lock_without_a_record_has_no_known_owner() -> None:
    builder = ab_ba()
    del builder.locks_now[2]
    first, _ = waits(read(builder))
    assert first.lock is not None and first.lock.owner is None and first.blocker is None


def test_an_owner_whose_record_is_another_thread_s_by_now_has_ended() -> None:
    builder = ab_ba()
    builder.thread_tails[2] = (1, b"newcomer", 0)
    first, _ = waits(read(builder))
    assert first.lock is not None and first.lock.owner is not None
    assert (first.lock.owner.name, first.lock.owner.ended, first.blocker) == ("a thread", True, None)


def test_joins_are_read_by_the_ident_of_the_joined_thread() -> None:
    builder = ab_ba()
    builder.waits_for(1, 140_000_000_000_002, kind="join", since_ns=7 * SECOND)
    builder.waits_for(2, 77, kind="join", since_ns=8 * SECOND)
    first, second = waits(read(builder))
    assert first.joins is not None and first.joins.name == "second"
    assert second.joins is None and second.blocker is None


def test_a_hold_from_before_the_fork_has_no_owner_here() -> None:
    builder = ab_ba()
    builder.generation = 1
    builder.locks_now[2] = (0xB0, 5, *builder.locks_now[2][2:4], 0, 0, 0, 0, 1, 0)
    first, _ = waits(read(builder))
    assert first.lock is not None and first.lock.before_fork


def test_what_is_being_written_is_not_read() -> None:
    data = ab_ba().build()
    other = bytearray(data)
    ident = (140_000_000_000_001).to_bytes(8, "little")
    other[data.index(ident) + 40] ^= 1  # a counter of the first thread's
    reads: dict[tuple[int, int], int] = {}

    def torn_read(start: int, length: int) -> bytes:
        reads[start, length] = reads.get((start, length), 0) + 1
        return bytes((data if reads[start, length] == 1 else other)[start : start + length])

    (wait,) = waits(Capture(torn_read, len(data)))
    assert wait.thread.name == "second"


def test_threads_that_do_not_wait_or_have_ended_are_left_out() -> None:
    builder = ab_ba()
    builder.thread("", "third")
    builder.thread("", "fourth", end_ns=SECOND)
    builder.waits_for(4, 0xA0)
    capture = read(builder)
    assert [wait.thread.name for wait in waits(capture)] == ["t-AB", "second"]
    assert live_threads(capture) == 3


def test_nobody_else_is_left_only_if_all_wait_for_ever() -> None:
    builder = ab_ba()
    capture = read(builder)
    found = waits(capture)
    assert nobody_else(capture, found, threads=2, handled_signals=False)
    assert not nobody_else(capture, found, threads=2, handled_signals=True)
    assert not nobody_else(capture, found, threads=3, handled_signals=False)
    assert not nobody_else(capture, [found[0], replace(found[1], timed=True)], threads=2, handled_signals=False)
    builder.thread("", "third")
    capture = read(builder)
    assert not nobody_else(capture, waits(capture), threads=2, handled_signals=False)


@pytest.mark.parametrize("field", [2, 3, 4])
def test_references_of_waits_are_checked(field: int) -> None:
    builder = ab_ba()
    wait = list(builder.waits_now[1])
    wait[field] = 10**6
    builder.waits_now[1] = tuple(wait)
    with pytest.raises(CaptureError, match="corrupt threads: 1 "):
        waits(read(builder))


@pytest.mark.parametrize("field", [2, 3, 4, 6, 7])
def test_references_of_contended_locks_are_checked(field: int) -> None:
    builder = ab_ba()
    record = list(builder.locks_now[1])
    record[field] = 10**6
    builder.locks_now[1] = tuple(record)
    with pytest.raises(CaptureError, match="corrupt contended: 1 "):
        waits(read(builder))


def test_a_deadlock_that_the_threads_have_noted_heads_the_report() -> None:
    builder = ab_ba()
    step = '{"thread": "t-AB", "ident": 1, "kind": "lock", "for": "B", "created": "app.py:12", "held_by": "t-BA"}'
    join = '{"thread": "t-BA", "ident": 2, "kind": "join", "for": "t-AB", "held_by": "t\\ud800\\n"}'
    builder.note(f'{{"deadlock": {{"length": 3, "threads": [{step}, {join}]}}}}')
    for broken in ('{"deadlock": 1}', '{"deadlock": {"length": 2}}', '{"deadlock": {"length": "2", "threads": [7]}}'):
        builder.note(broken)
    profile = Profile.from_capture(read(builder))
    assert findings(profile)[0] == (
        "Deadlock: `t-AB` waits for `B` (app.py:12), held by `t-BA`; `t-BA` waits for `t??` to end; "
        "and so on, 3 threads in all. Where they stand: `t-AB` in `first` (app.py:20) for 3.0 s."
    )
    assert profile.to_dict()["deadlocks"][0]["threads"][0]["held_by"] == "t-BA"
    assert len(profile.deadlocks) == 1 and subtract(profile, profile).deadlocks == ()


def test_no_mutation_of_a_capture_gets_past_the_reader() -> None:
    data = ab_ba().build()
    numbers = random.Random(4)
    for _ in range(2000):
        mutated = bytearray(data)
        for _ in range(numbers.randint(1, 6)):
            place = numbers.randrange(len(mutated)) & ~3
            value = numbers.choice([0, 1, 2, 5, 0xFFFFFFFF, numbers.getrandbits(32)])
            mutated[place : place + 4] = value.to_bytes(4, "little")
        try:
            found = waits(Capture.from_buffer(bytes(mutated)))
        except CaptureError:
            continue
        forest(found)
        assert all(len(cycle.waits) <= 2 for cycle in cycles(found))
