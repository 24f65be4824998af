"""
The model: rows, sums and differences, from synthetic captures whose answers are known.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import capture_builder as cb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracedthread.capture import Capture
from tracedthread.histogram import Histogram, index_of
from tracedthread.profile import Profile, subtract

PLACE = ("Cache.__init__", "/srv/cache.py", 41)
STACK = [("lookup", "/srv/cache.py", 63), ("main", "/srv/app.py", 2)]


def profile(builder: cb.CaptureBuilder) -> Profile:
    return Profile.from_capture(Capture.from_buffer(builder.build()))


def row(rows: list[dict[str, Any]], **wanted: object) -> dict[str, Any]:
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


REPORT = profile(cb.example()).to_dict()


def test_keys_are_those_that_are_promised() -> None:
    promised = {
        "": "schema process totals locks idle resources threads uncovered",
        "process": "pid program python started duration_s state",
        "totals": "acquisitions contended timeouts wait_s own_gil_s blame_s gil_s handoff_s hold_s idle_s resource_s lost",
        "lost": "strings frames stacks sites cells threads events",
        "locks": "name type created instances acquisitions contended timeouts failed_tries wait_s wait_max_s wait_p50_s "
        "wait_p99_s own_gil_s hold_s hold_max_s hold_p50_s hold_p99_s gil_s handoff_s waits blame",
        "created": "file line function",
        "blame": "function file line count blame_s waiters stack",
        "waits": "kind function file line count wait_s own_gil_s max_s stack",
        "idle": "kind function file line count wait_s stack",
        "resources": "kind function file line count wait_s waker stack",
        "threads": "ident native_id name function started_s start_latency_s lifetime_s cpu_s wait_s idle_s own_gil_s",
        "uncovered": "what count where",
    }
    lock = REPORT["locks"][0]
    parts = {
        **REPORT,
        "": REPORT,
        "lost": REPORT["totals"]["lost"],
        "created": lock["created"],
        "waits": lock["waits"],
        "blame": blamed().to_dict()["locks"][0]["blame"],
    }
    for name, keys in promised.items():
        part = parts[name]
        part = part[0] if isinstance(part, list) else part
        assert set(keys.split()) <= part.keys(), name
    assert json.loads(json.dumps(REPORT, allow_nan=False)) == REPORT


def test_process_is_described() -> None:
    assert REPORT["schema"] == "tracedthread.report/1"
    assert REPORT["process"] == {
        "pid": 71,
        "program": "app.py",
        "python": "3.13.0",
        "started": "2026-11-22T16:00:00.123456Z",
        "duration_s": 12.3,
        "paused_s": 0.0,
        "state": "exited",
    }


@pytest.mark.parametrize(("recording", "paused_s"), [(1, 2.0), (0, 5.0)])
def test_pause_that_goes_on_is_one(recording: int, paused_s: float) -> None:
    builder = cb.CaptureBuilder(state=1, pid=os.getpid())
    builder.process_start = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[19])
    builder.paused_ns, builder.recording = 2 * cb.SECOND, recording
    capture = Capture.from_buffer(builder.build())
    capture._read_monotonic_ns = cb.FIRST_MONOTONIC_NS + 13 * cb.SECOND  # 3 s after its newest anchor
    process = Profile.from_capture(capture).process
    assert (process.state, process.duration_s) == ("running", pytest.approx(13))
    assert (process.paused_s, process.recorded_s) == (pytest.approx(paused_s), pytest.approx(13 - paused_s))


def test_lock_row_has_its_counts_and_times() -> None:
    lock = row(REPORT["locks"], name="PriceCache._lock")
    assert lock["type"] == "lock"
    assert lock["created"] == {
        "file": "cache.py",
        "path": "/srv/shop/cache.py",
        "line": 41,
        "function": "PriceCache.__init__",
    }
    assert (lock["instances"], lock["acquisitions"], lock["contended"], lock["timeouts"]) == (1, 12_045, 50, 1)
    waits_ms = [20 + 3 * index for index in range(34)] + [119] * 8 + [122] * 3 + [81, 119, 12, 0.8, 0.95]
    assert lock["wait_s"] == pytest.approx(sum(waits_ms) / 1e3, abs=1e-8)
    assert (lock["wait_max_s"], lock["hold_max_s"]) == (0.122, 0.124)
    assert lock["own_gil_s"] == pytest.approx(45 * 1.9e-3 + 3 * 0.3e-3)
    wait = lock["waits"][0]
    assert (wait["kind"], wait["function"], wait["file"], wait["line"]) == (
        "lock",
        "PriceCache.fast_lookup",
        "cache.py",
        63,
    )
    assert (wait["count"], wait["max_s"], wait["stack"][:2]) == (
        45,
        0.122,
        ["PriceCache.fast_lookup cache.py:63", "checkout app.py:20"],
    )


@pytest.mark.parametrize(("pending", "ticks"), [(2 * 5000 + 1, 5000), ((1 << 64) - 3, 0)])
def test_newest_hold_is_pending_in_the_capture_and_counted_by_the_reader(pending: int, ticks: int) -> None:
    builder = cb.CaptureBuilder()
    site = builder.site("lock", PLACE)
    site.hold(1000)
    site.counters["acquisitions"] += 1
    site.counters["pending_hold"] = pending
    stats = profile(builder).locks[0].stats
    assert sum(stats.hold.counts) == stats.acquisitions == 2
    assert stats.hold_ticks == 1000 * cb.TICKS_PER_NS + ticks
    assert stats.hold_max_ticks == max(1000 * cb.TICKS_PER_NS, ticks)


def test_holds_in_progress_are_those_that_have_not_ended_timed_or_not() -> None:
    builder = cb.CaptureBuilder(grown=True)
    site = builder.site("lock", PLACE)
    site.hold(1000, times=5)
    site.counters["acquisitions"] += 4
    site.counters["pending_hold"] = 2 * 5000 + 1
    site.holds_untimed = 2
    before = profile(builder)
    assert (before.locks[0].stats.unended, before.locks[0].stats.holds_untimed) == (1, 2)
    # One that began before ends, another one begins: the sums are as if nothing was held.
    site.hold(2000)
    site.holds_untimed += 1
    site.counters["acquisitions"] += 1
    between = subtract(profile(builder), before).locks[0].stats
    assert (between.acquisitions, sum(between.hold.counts), between.holds_untimed, between.unended) == (2, 1, 1, 1)
    assert (between + between).unended == 2


def test_older_captures_know_of_no_untimed_holds() -> None:
    builder = cb.CaptureBuilder()
    site = builder.site("lock", PLACE)
    site.hold(1000)
    site.counters["acquisitions"] += 1
    site.holds_untimed = 7  # in a field that its records do not have
    stats = profile(builder).locks[0].stats
    assert (stats.unended, stats.holds_untimed) == (1, 0)


def test_every_list_has_the_worst_first() -> None:
    for rows, key in [
        (REPORT["locks"], "wait_s"),
        (REPORT["locks"][0]["waits"], "wait_s"),
        (REPORT["idle"], "wait_s"),
        (REPORT["resources"], "wait_s"),
        (REPORT["threads"], "wait_s"),
    ]:
        values = [row[key] for row in rows]
        assert values == sorted(values, reverse=True)


def test_contention_idle_and_resources_are_apart() -> None:
    assert {wait["kind"] for lock in REPORT["locks"] for wait in lock["waits"]} == {"lock", "rlock"}
    assert {wait["kind"] for wait in REPORT["idle"]} == {"queue.get", "event", "condition"}
    assert {wait["kind"] for wait in REPORT["resources"]} == {"queue.put"}
    assert REPORT["totals"]["idle_s"] == pytest.approx(410 * 0.09 + 12.1 + 0.007)
    assert REPORT["totals"]["resource_s"] == pytest.approx(0.048)


def test_totals_are_the_sums_of_the_rows_with_other() -> None:
    for key in ("acquisitions", "contended", "timeouts", "wait_s", "own_gil_s", "hold_s"):
        assert REPORT["totals"][key] == pytest.approx(sum(lock[key] for lock in REPORT["locks"]), abs=1e-8)
    for lock in REPORT["locks"]:
        assert lock["wait_s"] == pytest.approx(sum(wait["wait_s"] for wait in lock["waits"]), abs=1e-8)
        assert lock["contended"] == sum(wait["count"] for wait in lock["waits"])


def test_waits_without_a_cell_are_an_other_row_of_their_lock() -> None:
    builder = cb.CaptureBuilder()
    site = builder.site("_lock", PLACE)
    builder.wait(site, "lock", STACK, 5_000)
    builder.wait(site, "lock", STACK, 7_000, 1_000, gil_ns=400, other=True)
    waits = profile(builder).to_dict()["locks"][0]["waits"]
    assert [(wait["function"], wait["count"], wait["wait_s"], wait["own_gil_s"]) for wait in waits] == [
        ("(other)", 2, 8e-6, 0.8e-6),
        ("lookup", 1, 5e-6, 0.0),
    ]


HOLDER = [("report", "/srv/jobs.py", 118), ("main", "/srv/app.py", 2)]
OTHER_HOLDER = [("refresh", "/srv/jobs.py", 97)]


def blamed(*, other_ns: int = 0) -> Profile:
    """100 ms of waiting, 4 of them the waiters' own GIL, 1 the owner's, 3 between owners: 92 to blame."""
    builder = cb.CaptureBuilder(grown=True)
    site = builder.site("_lock", PLACE, fingerprint=0xABC)
    builder.wait(site, "lock", STACK, 60 * cb.MS, 40 * cb.MS, gil_ns=2 * cb.MS)
    builder.blame(site, HOLDER, 50 * cb.MS, 30 * cb.MS, waiters=2, gil_ns=cb.MS, handoff_ns=3 * cb.MS)
    builder.blame(site, OTHER_HOLDER, 12 * cb.MS - other_ns)
    if other_ns:
        builder.blame(site, (), other_ns, other=True)
    return profile(builder)


def test_blame_is_by_release_stack_and_adds_up() -> None:
    of = blamed()
    report = of.to_dict()
    lock = report["locks"][0]
    assert [
        (row["function"], row["line"], row["count"], row["blame_s"], row["max_s"], row["waiters"], row["stack"])
        for row in lock["blame"]
    ] == [
        ("report", 118, 2, 0.08, 0.05, 4, ["report jobs.py:118", "main app.py:2"]),
        ("refresh", 97, 1, 0.012, 0.012, 1, ["refresh jobs.py:97"]),
    ]
    assert (lock["gil_s"], lock["handoff_s"], lock["own_gil_s"]) == (0.001, 0.003, 0.004)
    assert lock["blame_s"] + lock["gil_s"] + lock["handoff_s"] == pytest.approx(lock["wait_s"] - lock["own_gil_s"])
    assert report["totals"]["blame_s"] == of.blame_s == of.locks[0].blame_s == 0.092


def test_blame_without_a_cell_is_an_other_row_of_its_lock() -> None:
    lock = blamed(other_ns=5 * cb.MS).locks[0]
    assert [(row.frame.function, row.holds, row.blame_s) for row in lock.blame] == [
        ("report", 2, 0.08),
        ("refresh", 1, 0.007),
        ("(other)", 0, 0.005),
    ]
    assert lock.blame_s == 0.092


def test_hold_that_is_not_over_is_nobodys_blame_yet() -> None:
    builder = cb.CaptureBuilder(grown=True)
    held, full = builder.site("held", PLACE), builder.site("full", PLACE)
    builder.wait(held, "lock", STACK, 70 * cb.MS)
    assert profile(builder).locks[0].blame == ()
    # Where the (other) cell is in use as well, no more than it has is given out.
    builder.wait(full, "lock", STACK, 90 * cb.MS)
    builder.blame(full, (), 90 * cb.MS, other=True)
    assert profile(builder).blame_s == 0.09


def test_capture_of_the_first_version_has_no_blame_and_no_waker() -> None:
    report = profile(cb.example()).to_dict()
    assert {len(lock["blame"]) for lock in report["locks"]} == {0}
    assert {row["waker"] for row in report["resources"]} == {""}


def test_resources_have_their_waker() -> None:
    builder = cb.CaptureBuilder(grown=True)
    site = builder.site("_slots", PLACE)
    builder.wait(site, "semaphore", STACK, cb.MS, waker=OTHER_HOLDER)
    assert profile(builder).to_dict()["resources"][0]["waker"] == "refresh jobs.py:97"


def test_fingerprint_is_stored_or_made_from_what_a_new_version_keeps() -> None:
    assert blamed().locks[0].fingerprint == "0000000000000abc"
    builder = cb.CaptureBuilder()
    builder.site("_lock", ("Cache.__init__", "/srv/cache.py", 41))
    builder.site("_lock", ("Cache.__init__", "/home/me/cache.py", 57))
    builder.site("_lock", ("Cache.reset", "/srv/cache.py", 41))
    builder.site("_guard", ("Cache.__init__", "/srv/cache.py", 41))
    builder.site("_lock", ("Cache.__init__", "/srv/cache.py", 41), lock_type=1)
    marks = [lock.fingerprint for lock in sorted(profile(builder).locks, key=lambda lock: lock.created.line)]
    assert len(set(marks)) == 4
    assert marks[-1] in marks[:-1]  # only moved
    assert {len(mark) for mark in marks} == {16}


def test_events_have_waiter_and_holder() -> None:
    builder = cb.CaptureBuilder(grown=True)
    site = builder.site("_lock", PLACE)
    builder.thread("cut off", "worker", label="request-1", wait_ns=1)
    builder.thread("report", "report", start_ns=5, wait_ns=1, generation=3)
    builder.event(site, STACK, cb.MS, 9 * cb.MS, gil_ns=2_000, thread=1, holder=2, holder_generation=3, release=HOLDER)
    builder.event(site, STACK, cb.MS, 4 * cb.MS, outcome=1, thread=2, generation=2, holder=1, holder_at=HOLDER)
    builder.event(site, STACK, cb.MS, 4 * cb.MS, kind="event", lock=0xDEF)
    of = profile(builder)
    first, second, third = of.events
    keys = {thread.name: thread.key for thread in of.threads}
    assert (first.thread, first.thread_name) == (keys["request-1"], "request-1")
    assert (first.holder, first.holder_name) == (keys["report"], "report")
    assert (first.lock, first.lock_id, first.kind, first.outcome) == ("_lock", 0xABC0, "lock", "acquired")
    assert (first.start_ticks, first.wait_s, first.own_gil_s) == (cb.MS * cb.TICKS_PER_NS, 0.008, 2e-6)
    assert [frame.function for frame in first.stack] == ["lookup", "main"]
    assert ([frame.line for frame in first.release_stack], first.holder_stack) == ([118, 2], ())
    # Another thread has the record now.
    assert (second.thread, second.thread_name, second.outcome) == (None, "", "timeout")
    assert ([frame.line for frame in second.holder_stack], second.release_stack) == ([118, 2], ())
    assert (third.thread, third.thread_name, third.holder, third.holder_name) == (None, "(other)", None, "")


def test_unrecorded_and_waiter_sites_are_no_rows() -> None:
    builder = cb.CaptureBuilder()
    for site in builder.stats:
        site.counters["created"] = 5
    assert [lock["name"] for lock in profile(builder).to_dict()["locks"]] == ["(other)"]


def test_created_but_unused_locks_are_rows_and_unborn_ones_are_not() -> None:
    builder = cb.CaptureBuilder()
    builder.site("unused", PLACE)
    builder.site("inherited by a fork", PLACE, instances=0)
    assert [lock["name"] for lock in profile(builder).to_dict()["locks"]] == ["unused"]


def test_one_place_run_from_new_code_is_one_row() -> None:
    builder = cb.CaptureBuilder()
    for _ in range(2):
        site = builder.site("_lock", PLACE, instances=2)
        site.hold(1_000, 2_000)
        builder.wait(site, "lock", STACK, 5_000)
    builder.site("_other_lock", PLACE)
    builder.site("_lock", PLACE, lock_type=1)
    locks = profile(builder).to_dict()["locks"]
    assert [(lock["name"], lock["type"], lock["instances"]) for lock in locks] == [
        ("_lock", "lock", 4),
        ("_lock", "rlock", 1),
        ("_other_lock", "lock", 1),
    ]
    assert (locks[0]["acquisitions"], locks[0]["contended"], locks[0]["wait_s"]) == (4, 2, 1e-5)
    assert [wait["count"] for wait in locks[0]["waits"]] == [2]


def test_threads_have_their_times() -> None:
    worker = row(REPORT["threads"], name="worker-2")
    assert worker["function"] == "worker"
    assert (worker["started_s"], worker["start_latency_s"]) == (0.002, 72e-6)
    assert worker["lifetime_s"] == pytest.approx(12.25 - 0.002 - 72e-6)
    assert (worker["cpu_s"], worker["wait_s"], worker["own_gil_s"]) == (0.62, 1.9, 0.03)
    main = row(REPORT["threads"], name="MainThread")
    assert (main["start_latency_s"], main["lifetime_s"], main["cpu_s"]) == (0.0, 12.3, 0.0)


def test_uncovered_and_lost_are_reported() -> None:
    assert REPORT["uncovered"] == [
        {"what": "locks created before patching", "count": 2, "where": ["logging._lock", "app.Böse"]},
        {"what": "queue.SimpleQueue (C)", "count": 1, "where": []},
    ]
    assert REPORT["totals"]["lost"]["stacks"] == 12
    assert REPORT["totals"]["lost"]["events"] == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2**40 - 1), min_size=1, max_size=60), st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_quantiles_are_within_an_eighth(durations: list[int], fraction: float) -> None:
    counts = [0] * 304
    for ns in durations:
        counts[index_of(ns)] += 1
    rank = max(1, -(-int(fraction * len(durations) * 1000) // 1000))
    exact = sorted(durations)[rank - 1]
    estimate = Histogram(tuple(counts)).quantile_ns(fraction, max(durations))
    assert abs(estimate - exact) <= exact * 0.125
    assert estimate <= max(durations)


@pytest.mark.parametrize(("percentile", "total"), [(99.9, 1000), (55, 100), (99, 100), (29, 100)])
def test_quantiles_that_are_no_binary_fractions_take_the_rank_they_mean(percentile: float, total: int) -> None:
    counts = [0] * 304
    within = round(percentile * total / 100)
    counts[index_of(1000)], counts[index_of(10**9)] = within, total - within
    assert Histogram(tuple(counts)).quantile_ns(percentile / 100, 1e9) <= 1024


@given(st.lists(st.integers(0, 2**42), min_size=1, max_size=20))
def test_no_duration_exceeds_the_bound_and_of_one_it_is_the_bound(durations: list[int]) -> None:
    histogram = Histogram()
    for ns in durations:
        histogram = histogram.with_one(ns)
    bound = histogram.bound_ns(sum(durations))
    assert max(durations) <= bound
    assert len(durations) > 1 or bound == durations[0]
    assert histogram.floor_ns() <= max(durations)


def test_a_maximum_is_bounded_by_the_clock_of_the_histograms() -> None:
    """A clock that is slewed makes ticks longer than the calibration at the start said, here by 2 %."""
    builder = cb.CaptureBuilder(duration_ns=cb.SECOND)
    site = builder.site("_lock", PLACE)
    builder.wait(site, "lock", STACK, 100 * cb.MS)
    before = profile(builder)
    builder.wait(site, "lock", STACK, *[9_400_000] * 1000)
    builder.duration_ns += 10 * cb.SECOND
    after = profile(builder)
    slewed = [replace(one, process=replace(one.process, tick_s=one.process.tick_s * 0.98)) for one in (before, after)]
    (lock,) = subtract(slewed[1], slewed[0]).locks
    assert 9.4 <= lock.stats.wait_max_ticks / cb.TICKS_PER_NS / cb.MS <= 9.5


def test_quantile_of_the_longest_waits_is_their_maximum() -> None:
    counts = [0] * 303 + [3]
    assert Histogram(tuple(counts)).quantile_ns(0.5, 5e12) == 5e12
    assert Histogram().quantile_ns(0.5, 0) == 0


def grown(builder: cb.CaptureBuilder) -> tuple[Profile, Profile, Profile]:
    """Before, after, and what must lie between, as if recorded alone."""
    before = profile(builder)
    site = builder.stats[3]
    alone = cb.CaptureBuilder()
    fresh = alone.site("_lock", PLACE)
    for target, to in ((builder, site), (alone, fresh)):
        to.hold(1_000, 3_000, times=7)
        target.wait(to, "lock", STACK, 2_000, 40_000, gil_ns=500)
        target.wait(to, "event", STACK, 9_000)
        target.wait(to, "semaphore", [("new", "/srv/new.py", 1)], 11_000)
    builder.duration_ns += 2 * cb.SECOND
    return before, profile(builder), profile(alone)


def test_difference_is_exact() -> None:
    builder = cb.CaptureBuilder(duration_ns=cb.SECOND)
    site = builder.site("_lock", PLACE)
    site.hold(10 * cb.MS, 500, times=3)
    builder.wait(site, "lock", STACK, 30 * cb.MS)
    builder.wait(site, "event", STACK, 8 * cb.MS)
    builder.lost[cb.STACKS] = 2
    before, after, alone = grown(builder)
    between = subtract(after, before)
    assert between.process.duration_s == 2
    assert between.to_dict()["process"]["started"] == "2026-11-22T16:00:01.123456Z"
    assert between.lost["stacks"] == 0
    mine, expected = between.locks[0].stats, alone.locks[0].stats
    assert (mine.hold_max_is_bound, mine.wait_max_is_bound) == (True, True)
    unlike = {"hold_max_ticks": 0, "wait_max_ticks": 0, "hold_max_is_bound": False, "wait_max_is_bound": False}
    assert replace(mine, **unlike) == replace(expected, **unlike)
    # The maxima of before are higher: what is left is the bucket's edge.
    assert expected.hold_max_ticks <= mine.hold_max_ticks <= 1.125 * expected.hold_max_ticks
    assert expected.wait_max_ticks <= mine.wait_max_ticks <= 1.125 * expected.wait_max_ticks
    for rows, wanted in [(between.idle, alone.idle), (between.resources, alone.resources)]:
        assert [(row.key, row.count, row.wait_ticks) for row in rows] == [
            (row.key, row.count, row.wait_ticks) for row in wanted
        ]


def test_events_are_a_sequence() -> None:
    builder = cb.CaptureBuilder(grown=True)
    site = builder.site("_lock", PLACE)
    for number in range(5):
        builder.event(site, STACK, number * cb.MS, 9 * cb.MS)
    of = profile(builder)
    rows = list(of.events)
    assert [row.sequence for row in rows] == [1, 2, 3, 4, 5]
    assert [of.events[place] for place in range(-5, 5)] == rows * 2
    assert list(of.events[3:0:-2]) == [rows[3], rows[1]]
    assert of.events == profile(builder).events != of.events[:4]
    assert list(reversed(of.events)) == rows[::-1]
    with pytest.raises(IndexError):
        of.events[5]


def test_difference_that_starts_beyond_the_calendar_starts_at_its_end() -> None:
    builder = cb.CaptureBuilder(duration_ns=0)
    builder.ns_per_tick = 2**64 - 1
    before = profile(builder)
    before = replace(before, process=replace(before.process, duration_ticks=2**64 - 1))
    assert subtract(profile(builder), before).to_dict()["process"]["started"] == "9999-12-31T23:59:59.999999Z"


def test_difference_of_blame_and_events() -> None:
    builder = cb.CaptureBuilder(duration_ns=cb.SECOND, grown=True)
    site = builder.site("_lock", PLACE)
    site.hold(500)
    builder.wait(site, "lock", STACK, 9 * cb.MS)
    builder.blame(site, HOLDER, 5 * cb.MS, 3 * cb.MS)
    builder.blame(site, OTHER_HOLDER, cb.MS)
    builder.event(site, STACK, 0, 9 * cb.MS)
    before = profile(builder)
    builder.blame(site, HOLDER, 2 * cb.MS, waiters=4, gil_ns=7_000, handoff_ns=8_000)
    builder.event(site, STACK, cb.SECOND - cb.MS, cb.SECOND + cb.MS)
    builder.duration_ns = 3 * cb.SECOND
    between = subtract(profile(builder), before)
    lock = between.locks[0]
    assert [(row.frame.function, row.holds, row.blame_s, row.max_s, row.waiters) for row in lock.blame] == [
        ("report", 1, 0.002, 0.002, 4)
    ]
    assert (lock.gil_s, lock.handoff_s) == (7e-6, 8e-6)
    # It began before the profile does.
    ms = cb.MS * cb.TICKS_PER_NS
    assert [(event.start_ticks, event.end_ticks) for event in between.events] == [(-ms, ms)]


def test_maximum_that_grew_is_exact() -> None:
    builder = cb.CaptureBuilder(duration_ns=cb.SECOND)
    builder.site("_lock", PLACE).hold(1_000)
    before, after, _ = grown(builder)
    lock = subtract(after, before).locks[0]
    assert (lock.hold_max_s, lock.wait_max_s, lock.waits[0].max_s) == (3e-6, 40e-6, 40e-6)


def test_difference_with_itself_is_empty() -> None:
    whole = profile(cb.example())
    nothing = subtract(whole, whole)
    assert nothing.process.duration_s == 0
    assert nothing.totals.acquisitions == nothing.totals.contended == nothing.totals.wait_ticks == 0
    assert nothing.totals.wait_max_ticks == nothing.totals.hold_max_ticks == 0
    assert (nothing.idle, nothing.resources) == ((), ())


def test_lock_that_lives_on_is_an_instance_of_the_difference_and_a_dead_one_is_not() -> None:
    builder = cb.CaptureBuilder()
    living, dead = builder.site("living", PLACE, instances=3), builder.site("dead", PLACE, instances=2)
    living.counters["destroyed"], dead.counters["destroyed"] = 1, 2
    before = profile(builder)
    living.counters["created"] += 4
    between = subtract(profile(builder), before)
    assert [(lock.name, lock.stats.created) for lock in between.locks] == [("living", 6)]


def test_threads_of_a_difference() -> None:
    builder = cb.CaptureBuilder(duration_ns=2 * cb.SECOND)
    builder.thread("ended before", "f", end_ns=cb.SECOND)
    builder.thread("goes on", "f", start_ns=cb.SECOND, wait_ns=500, idle_ns=100)
    before = profile(builder)
    builder.duration_ns = 5 * cb.SECOND
    builder.threads[2] = (*builder.threads[2][:5], 2 * 700, 2 * 100, *builder.threads[2][7:])
    builder.thread("new", "g", start_ns=3 * cb.SECOND, end_ns=4 * cb.SECOND, cpu_ns=5)
    rows = subtract(profile(builder), before).to_dict()["threads"]
    assert {row["name"] for row in rows} == {"goes on", "new"}
    old, new = row(rows, name="goes on"), row(rows, name="new")
    assert (old["started_s"], old["lifetime_s"], old["wait_s"], old["idle_s"]) == (0, 3, 2e-7, 0)
    assert (new["started_s"], new["lifetime_s"], new["cpu_s"]) == (1, 1, 5e-9)


def test_profiles_of_different_recordings_have_no_difference() -> None:
    with pytest.raises(ValueError, match="different recordings"):
        subtract(profile(cb.CaptureBuilder(pid=1)), profile(cb.CaptureBuilder(pid=2)))
