"""
Captures as metrics: the same numbers as in the report, few series, none of which goes backwards.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import capture_builder as cb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracedthread
from tracedthread import _core, _settings, capture, layout, measure, names
from tracedthread.buckets import BOUNDS
from tracedthread.capture import Capture, CaptureError
from tracedthread.histogram import BUCKETS, index_of, lower_edge_ns
from tracedthread.measure import Board, HistogramValue, Measurement, Stream, histogram_value
from tracedthread.profile import Profile
from tracedthread.shown import GROWTH, OTHERS, TOP_FUNCTIONS, Shown
from tracedthread.tallier import Tallier, read_descriptor, read_own
from tracedthread.tally import EMPTY, LockTally, Tally, seconds

ROOT = Path(__file__).resolve().parents[2]
UNITS = 2**32 * 10**9  # a second


def reader(data: bytes) -> Callable[[int, int], bytes]:
    def read(offset: int, length: int) -> bytes:
        if offset + length > len(data):
            raise CaptureError("truncated")
        return data[offset : offset + length]

    return read


def tally(builder: cb.CaptureBuilder) -> Tally:
    return Tallier(reader(builder.build())).tally()


def by_series(points: list[Measurement]) -> dict[tuple[str, tuple[str, ...]], Any]:
    found = {(point.metric.name, point.attributes): point.value for point in points}
    assert len(found) == len(points)  # no series twice
    return found


def locks(**waits_s: float) -> Tally:
    """Each with one wait as long, and one hold of 1 µs."""
    made = {}
    for name, wait_s in waits_s.items():
        ns = round(wait_s * 1e9)
        made[name, "lock"] = LockTally(
            acquisitions=1,
            contended=int(ns > 0),
            wait=ns << 32,
            hold=1000 << 32,
            hold_histogram=1 << 64 * index_of(1000),
            wait_histogram=1 << 64 * index_of(ns) if ns else 0,
        )
    return EMPTY._replace(locks=made, start_ns=1)


# -- reading ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grown", [False, True])
def test_a_tally_has_the_sums_of_the_report(grown: bool) -> None:
    data = cb.example(grown=grown).build()
    profile = Profile.from_capture(Capture.from_buffer(data))
    found = Tallier(reader(data)).tally()
    names_and_types = {(lock.name, lock.type) for lock in profile.locks}
    assert {key for key, lock in found.locks.items() if lock.acquisitions} == {
        (lock.name, lock.type) for lock in profile.locks if lock.stats.acquisitions
    }
    assert names_and_types
    for key, lock in found.locks.items():
        rows = [row for row in profile.locks if (row.name, row.type) == key]
        assert lock.acquisitions == sum(row.stats.acquisitions for row in rows)
        assert lock.contended == sum(row.stats.contended for row in rows)
        assert lock.timeouts == sum(row.stats.timeouts for row in rows)
        assert seconds(lock.hold) == pytest.approx(sum(row.hold_s for row in rows), abs=1e-8)
        assert seconds(lock.wait) == pytest.approx(sum(row.wait_s for row in rows), abs=1e-8)
        assert seconds(lock.gil) == pytest.approx(sum(row.gil_s + row.own_gil_s for row in rows), abs=1e-8)
        assert seconds(lock.handoff) == pytest.approx(sum(row.handoff_s for row in rows), abs=1e-8)
    assert seconds(sum(found.blame.values())) == pytest.approx(profile.blame_s, abs=1e-8)
    report = profile.to_dict()
    assert {kind for _, kind in found.resources} == {row["kind"] for row in report["resources"]} != set()
    count = sum(row["count"] for row in report["resources"])
    assert sum(resource.waits for resource in found.resources.values()) == count
    waited = sum(resource.wait for resource in found.resources.values())
    assert seconds(waited) == pytest.approx(report["totals"]["resource_s"], abs=1e-8)
    assert found.dropped == {name: count for name, count in profile.lost.items() if name in found.dropped}


def test_the_hold_that_is_pending_counts() -> None:
    builder = cb.CaptureBuilder()
    site = builder.site("Cache._lock", ("Cache.__init__", "/srv/cache.py", 3))
    site.hold(5_000, times=3)
    site.counters["acquisitions"] += 1
    site.counters["pending_hold"] = 2 * (7_000 * cb.TICKS_PER_NS) + 1
    lock = tally(builder).locks["Cache._lock", "lock"]
    value = histogram_value(lock.hold_histogram, lock.hold)
    assert (value.total, value.sum_s) == (4, pytest.approx(22e-6))


def test_blame_is_told_by_function_and_what_had_no_room_as_other() -> None:
    builder = cb.CaptureBuilder(grown=True)
    site = builder.site("Cache._lock", ("Cache.__init__", "/srv/cache.py", 3))
    builder.blame(site, [("slow", "/srv/cache.py", 9), ("main", "/srv/app.py", 1)], 5 * cb.MS)
    builder.blame(site, [("slow", "/srv/cache.py", 10), ("main", "/srv/app.py", 1)], 6 * cb.MS)
    builder.blame(site, [], 7 * cb.MS, other=True)
    blame = {key: round(seconds(value), 9) for key, value in tally(builder).blame.items()}
    assert blame == {("Cache._lock", "slow"): 0.011, ("(other)", "(other)"): 0.007}


def test_tallies_of_two_processes_add_up_whatever_their_clocks() -> None:
    one, two = cb.CaptureBuilder(), cb.CaptureBuilder()
    two.ns_per_tick //= 4  # four times as fast
    for builder in (one, two):
        builder.site("Cache._lock", ("Cache.__init__", "/srv/cache.py", 3)).hold(4_000, times=2)
    lock = tally(one).plus(tally(two)).locks["Cache._lock", "lock"]
    assert lock.acquisitions == 4
    assert seconds(lock.hold) == pytest.approx(8e-6 + 2e-6, rel=1e-9)
    ended = tally(one).plus(tally(two))._replace(threads=3).ended()
    assert ended.threads == 0
    assert ended.locks["Cache._lock", "lock"].acquisitions == 4


def test_neither_events_nor_threads_are_read() -> None:
    data = cb.example(grown=True).build()
    header = layout.HEADER.read(data)
    table = data[header.header_size : header.header_size + header.section_count * layout.SECTION.size]
    sections = {section.id: section for section in layout.SECTION.iterate(table, layout.SECTION.size)}
    spans = []

    def read(offset: int, length: int) -> bytes:
        spans.append((offset, offset + length))
        return data[offset : offset + length]

    Tallier(read).tally()
    for unread in (layout.EVENTS, layout.THREADS, layout.STARTS, layout.CONTENDED, layout.NOTES):
        section = sections[unread]
        end = section.offset + section.capacity * section.record_size
        assert all(start >= end or stop <= section.offset for start, stop in spans), layout.SECTION_NAMES[unread]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_capture_is_an_error_and_nothing_else(data: st.DataObject) -> None:
    damaged = bytearray(cb.example(grown=True).build())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, min(len(damaged), 16384) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    with suppress(CaptureError):
        Tallier(reader(bytes(damaged))).tally()


def test_a_file_that_ends_early_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "short.ttc"
    data = cb.example().build()
    for length in (0, 10, 600, len(data) // 2):
        path.write_bytes(data[:length])
        with path.open("rb") as file, pytest.raises(CaptureError):
            Tallier(read_descriptor(file.fileno())).tally()


# -- buckets ------------------------------------------------------------------------------------------------------------


def test_bounds_are_the_nearest_edges_of_native_buckets() -> None:
    edges = [lower_edge_ns(index) for index in range(BUCKETS)]
    assert len(BOUNDS) == len(names.BOUNDS)
    for wanted, bound in zip(names.BOUNDS, BOUNDS):
        assert round(bound * 1e9) in edges
        assert abs(bound - wanted) <= wanted / 16 + 1e-9
    assert list(BOUNDS) == sorted(set(BOUNDS))


@given(st.lists(st.integers(0, 2**41), max_size=50))
def test_every_duration_is_in_its_bucket(durations: list[int]) -> None:
    words = sum(1 << 64 * index_of(ns) for ns in durations)
    value = histogram_value(words, sum(durations) << 32)
    expected = [0] * (len(BOUNDS) + 1)
    for ns in durations:
        expected[sum(ns >= round(bound * 1e9) for bound in BOUNDS)] += 1
    assert list(value.counts) == expected
    assert value.total == len(durations)
    assert value.sum_s == pytest.approx(sum(durations) / 1e9)


# -- which are shown ----------------------------------------------------------------------------------------------------


def test_the_worst_are_shown_and_the_rest_is_other() -> None:
    found = locks(a=0.1, b=0.3, c=0.2, d=0.0)
    shown = Shown(2)
    shown.update(found)
    series = by_series(Stream(shown).measure(found))
    contentions = {key[1][0]: value for key, value in series.items() if key[0] == names.CONTENTIONS.name}
    assert contentions == {"b": 1, "c": 1, OTHERS: 1}
    assert series[names.ACQUISITIONS.name, (OTHERS, "lock")] == 2


def test_what_was_shown_stays_and_what_comes_later_begins_at_zero() -> None:
    shown = Shown(1)
    stream = Stream(shown)
    first = locks(a=0.2, b=0.1)
    shown.update(first)
    stream.measure(first)
    second = locks(a=0.2, b=0.1).plus(locks(b=0.4))
    shown.update(second)
    points = stream.measure(second)
    series = by_series(points)
    key = names.WAIT_DURATION.name
    assert series[key, ("a", "lock")].total == 1
    assert series[key, ("b", "lock")].total == 0
    assert series[key, (OTHERS, "lock")].total == 2  # both waits of b
    third = second.plus(locks(b=0.4))
    assert by_series(stream.measure(third))[key, ("b", "lock")].total == 1
    starts = {point.attributes: point.start_ns for point in points if point.metric is names.WAIT_DURATION}
    assert starts["a", "lock"] == 1 == starts[OTHERS, "lock"]
    assert starts["b", "lock"] > 1


def test_the_number_of_series_is_bounded() -> None:
    shown, stream = Shown(3), None
    stream = Stream(shown)
    total = EMPTY
    for number in range(100):
        total = total.plus(locks(**{f"l{number}": 1.0 + number}))
        blame = {(f"l{number}", f"f{other}"): (other + 1) << 60 for other in range(60)}
        total = total.plus(EMPTY._replace(blame=blame))
        shown.update(total)
        points = stream.measure(total)
    assert len({point.attributes[0] for point in points if point.metric is names.CONTENTIONS}) <= 3 * GROWTH + 1
    blamed = [point for point in points if point.metric is names.BLAME_TIME]
    assert len(blamed) <= 3 * GROWTH * (TOP_FUNCTIONS * GROWTH + 1) + 1


def test_what_is_told_no_more_is_forgotten() -> None:
    stream = Stream(Shown(3))
    for number in range(100):
        stream.measure(locks(**{f"l{number}": 0.0}))
    assert len(stream._locks._place) == 1


def test_locks_that_nobody_waits_for_take_no_room_from_others() -> None:
    shown = Shown(2)
    for number in range(20):
        shown.update(locks(**{f"idle{number}": 0.0, f"idler{number}": 0.0}))
    assert len(shown.functions) == 2
    shown.update(locks(busy=1.0))
    assert "busy" in shown.functions


STEPS = st.lists(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 2), min_size=1),
    min_size=1,
    max_size=12,
)


@given(STEPS, st.integers(0, 3), st.sets(st.integers(0, 11)))
@settings(deadline=None)
def test_no_counter_ever_goes_backwards_and_all_add_up(steps: list[dict[str, float]], top: int, ends: set[int]) -> None:
    """Also when processes end, and what they leave behind forgets the names that are not shown."""
    shown = Shown(top)
    stream = Stream(shown)
    living, gone, before = EMPTY._replace(start_ns=1), EMPTY, {}
    for number, step in enumerate(steps):
        living = living.plus(locks(**step))
        blame = {(name, function): round(wait * UNITS) for name, wait in step.items() for function in "xyz"}
        living = living.plus(EMPTY._replace(blame=blame))
        if number in ends:
            gone, living = shown.without_others(gone.plus(living)), EMPTY
        total = gone.plus(living)
        shown.update(total)
        now = by_series(stream.measure(total))
        for series, old in before.items():
            new = now[series]
            if isinstance(old, HistogramValue):
                assert all(later >= earlier for earlier, later in zip(old.counts, new.counts))
                assert new.sum_s >= old.sum_s
            elif series[0] != names.WAITERS.name:
                assert new >= old
        acquired = sum(value for (name, _), value in now.items() if name == names.ACQUISITIONS.name)
        assert acquired == sum(lock.acquisitions for lock in total.locks.values())
        blamed = sum(value for (name, _), value in now.items() if name == names.BLAME_TIME.name)
        assert blamed == pytest.approx(seconds(sum(total.blame.values())))
        waits = [value for (name, _), value in now.items() if name == names.WAIT_DURATION.name]
        assert sum(wait.total for wait in waits) == sum(lock.contended for lock in total.locks.values())
        before = now


def test_a_large_capture_is_measured_and_no_larger_one_is_made() -> None:
    assert _settings.MAX_CAPTURE_BYTES == capture.MAX_BYTES  # else its own reader would refuse it
    code = """
import threading, tracedthread
from tracedthread import _core, names
from tracedthread.measure import Board
from tracedthread.tallier import read_own
assert tracedthread.patch(capture_bytes=1 << 30)
lock = threading.Lock()
with lock:
    lock.acquire(timeout=0.001)
board = Board(read_own(_core.load()))
print(sum(point.metric is names.ACQUISITIONS for point in board.measure()), board.failures)
try:
    tracedthread.unpatch()
    tracedthread.patch(capture_bytes=(1 << 30) + 1)
except ValueError as exc:
    print(exc)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    measured, refused = result.stdout.splitlines()
    assert (int(measured.split()[0]) > 0, measured.split()[1]) == (True, "0")
    assert refused == "capture_bytes must be between 196608 and 1073741824"
    assert result.stderr == ""


def test_what_telemetry_dropped_takes_the_place_of_what_the_capture_says() -> None:
    found = EMPTY._replace(dropped={"events": 5, "sites": 1})
    series = by_series(Stream(Shown()).measure(found, {"events": 2, "spans": 3}))
    dropped = {key[1][0]: value for key, value in series.items() if key[0] == names.DROPPED.name}
    assert dropped == {"events": 2, "sites": 1, "spans": 3}


# -- of this process ----------------------------------------------------------------------------------------------------


class Cache:
    def __init__(self) -> None:
        self._measured_lock = threading.Lock()


def test_read_in_place_it_is_what_a_snapshot_says() -> None:
    assert tracedthread.patch()
    try:
        cache = Cache()
        for _ in range(100):
            with cache._measured_lock:
                pass
        with cache._measured_lock:
            waiters = [threading.Thread(target=lambda: cache._measured_lock.acquire(timeout=0.01)) for _ in range(3)]
            for thread in waiters:
                thread.start()
            for thread in waiters:
                thread.join()
        core = _core.load()
        board = Board(read_own(core), top=1000)
        series = by_series(board.measure())
        (row,) = [row for row in tracedthread.snapshot().locks if row.name == "Cache._measured_lock"]
        key = ("Cache._measured_lock", "lock")
        assert series[names.ACQUISITIONS.name, key] == row.stats.acquisitions == 101
        assert series[names.CONTENTIONS.name, key] == row.stats.contended == 3
        assert series[names.TIMEOUTS.name, key] == 3
        assert series[names.HOLD_DURATION.name, key].total == 101
        assert series[names.WAIT_DURATION.name, key].total == 3
        assert series[names.WAIT_DURATION.name, key].sum_s == pytest.approx(row.wait_s, rel=1e-3)
        assert board.failures == 0
        # A second look finds what has changed, though what has not is not read again.
        with cache._measured_lock:
            pass
        assert by_series(board.measure())[names.ACQUISITIONS.name, key] == 102
    finally:
        tracedthread.unpatch()


def program(code: str, **environment: str) -> Any:
    """What it prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


def test_what_is_counted_between_two_lines_of_a_look_does_not_tear_it() -> None:
    totals, fewer = program(
        """
        import json, sys, threading, time, tracedthread
        tracedthread.patch()
        from tracedthread import _core, tallier
        from tracedthread.histogram import BUCKETS
        lock = threading.Lock()
        looks = tallier.Tallier(tallier.read_own(_core.load()), in_place=True)
        looked_into = {tallier.Tallier._read_locks.__code__, tallier._lock_tally.__code__}
        lengths = [0.0, 0.001] * 1000
        def hold():
            with lock:
                time.sleep(lengths.pop())
        def at_line(frame, event, arg):
            sys.settrace(None)
            hold()
            sys.settrace(at_call)
            return at_line
        def at_call(frame, event, arg):
            return at_line if frame.f_code in looked_into else None
        hold()
        found = []
        for _ in range(4):
            sys.settrace(at_call)
            tally = looks.tally()
            sys.settrace(None)
            counted = max(tally.locks.values(), key=lambda lock: lock.acquisitions)
            counts = [counted.hold_histogram >> 64 * index & 2**64 - 1 for index in range(BUCKETS)]
            found.append((counted.acquisitions, counts))
        totals = [[acquisitions, sum(counts)] for acquisitions, counts in found]
        fewer = [b - a for (_, x), (_, y) in zip(found, found[1:]) for a, b in zip(x, y) if b < a]
        print(json.dumps([totals, fewer]))
        """
    )
    assert all(acquisitions == holds for acquisitions, holds in totals)
    assert totals[0] < totals[1] < totals[2] < totals[3]
    assert fewer == []


def test_every_thread_start_counts_though_records_are_used_again() -> None:
    found = program(
        """
        import json, threading, tracedthread
        tracedthread.patch(capture_bytes=256 * 1024)  # room for few threads
        from tracedthread import _core
        from tracedthread.tallier import Tallier, read_own
        from tracedthread.measure import histogram_value
        gate = threading.Event()
        many = [threading.Thread(target=gate.wait) for _ in range(150)]
        for thread in many: thread.start()
        tallier = Tallier(read_own(_core.load()), in_place=True)
        alive = tallier.tally().threads
        gate.set()
        for thread in many: thread.join()
        for _ in range(300):
            thread = threading.Thread(target=int); thread.start(); thread.join()
        found = tallier.tally()
        value = histogram_value(found.start_histogram, found.start_time)
        print(json.dumps([alive, found.started, value.total, value.sum_s > 0, found.dropped["threads"] > 0]))
        """
    )
    assert found == [151, 450, 450, True, True]


def test_a_forked_child_begins_at_zero_and_shares_nothing() -> None:
    found = program(
        """
        import json, os, threading, tracedthread
        tracedthread.patch()
        from tracedthread import _core, names
        from tracedthread.tallier import read_own
        from tracedthread.measure import Board
        class Cache:
            def __init__(self): self._lock = threading.Lock()
        cache = Cache()
        board = Board(read_own(_core.load()), top=100)
        def acquisitions():
            return sum(p.value for p in board.measure()
                       if p.metric is names.ACQUISITIONS and p.attributes[0] == "Cache._lock")
        for _ in range(10):
            with cache._lock: pass
        counts = [acquisitions()]
        r, w = os.pipe()
        held = board._lock.acquire()  # as by a thread that the child does not have
        if os.fork() == 0:
            with cache._lock: pass
            os.write(w, str(acquisitions()).encode())
            os._exit(0)
        os.wait()
        board._lock.release()
        counts += [int(os.read(r, 10)), acquisitions()]
        print(json.dumps(counts))
        """
    )
    assert found == [10, 1, 10]


def test_in_a_forked_child_nobody_uses_what_is_the_parents_while_the_first_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    board = Board(reader(b""))
    board._pid = 1  # as in a child
    seen = []
    monkeypatch.setattr(measure, "Shown", lambda top: seen.append(board._pid) or Shown(top))
    monkeypatch.setattr(measure, "Stream", lambda shown: seen.append(board._pid) or Stream(shown))
    board.measure()
    assert seen == [1, 1]
    assert board._pid == os.getpid()


def test_whoever_asks_while_another_measures_gets_the_newest() -> None:
    assert tracedthread.patch()
    try:
        board = Board(read_own(_core.load()))
        newest = board.measure()
        assert newest
        with board._lock:  # this very thread, as a finalizer would find it
            assert board.measure() is newest
    finally:
        tracedthread.unpatch()


def test_a_capture_that_cannot_be_read_is_counted_and_raises_nothing() -> None:
    def read(offset: int, length: int) -> bytes:
        raise OSError("gone")

    board = Board(read)
    assert board.measure() == []
    assert board.failures == 1
