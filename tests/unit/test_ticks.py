"""Ticks as unix time, whatever the clocks do meanwhile."""

from __future__ import annotations

import capture_builder as build

from tracedthread import layout
from tracedthread.ticks import Clock

SECOND = 1_000_000_000
FIRST = 10**12  # ticks, of half a nanosecond as the calibration has it
MONOTONIC = 5_000 * SECOND
WALL = 1_795_363_200 * SECOND


def header(seconds: float, *, ticks_per_s: float = 2e9, wall_step_ns: int = 0) -> layout.Header:
    """The capture's header, its last anchor so long after the first."""
    ns = round(seconds * SECOND)
    blank = layout.HEADER.read(bytes(layout.HEADER.size))
    return blank._replace(
        ns_per_tick=2**32 // build.TICKS_PER_NS,
        first_ticks=FIRST,
        first_monotonic_ns=MONOTONIC,
        first_wall_ns=WALL,
        last_ticks=FIRST + round(seconds * ticks_per_s),
        last_monotonic_ns=MONOTONIC + ns,
        last_wall_ns=WALL + ns + wall_step_ns,
    )


def test_a_counter_that_is_calibrated_badly_is_corrected_by_the_anchors() -> None:
    clock = Clock(header(0))
    assert clock.unix_ns(FIRST + 2 * 10**9) == WALL + SECOND
    actual = 2e9 * 1.0001
    clock.advance(header(10, ticks_per_s=actual))
    assert abs(clock.unix_ns(FIRST + round(7 * actual)) - (WALL + 7 * SECOND)) <= 1
    assert abs(clock.unix_ns(FIRST + round(10.5 * actual)) - (WALL + 10.5 * SECOND)) <= 1
    assert clock.seconds(round(actual)) == 1.0


def test_each_stretch_has_its_own_rate() -> None:
    clock = Clock(header(0))
    clock.advance(header(1))
    later = header(2)
    later = later._replace(last_ticks=later.last_ticks + 1000)  # 500 ns late
    clock.advance(later)
    assert clock.unix_ns(FIRST + 10**9) == WALL + SECOND // 2
    assert clock.unix_ns(FIRST + 3 * 10**9 + 500) == WALL + SECOND * 3 // 2


def test_a_wall_clock_that_is_set_moves_all_and_stretches_nothing() -> None:
    clock = Clock(header(0))
    clock.advance(header(1))
    clock.advance(header(2, wall_step_ns=3600 * SECOND))
    start, end = clock.unix_ns(FIRST + 10**9), clock.unix_ns(FIRST + 4 * 10**9)
    assert end == WALL + 2 * SECOND + 3600 * SECOND
    assert end - start == 1_500_000_000


def test_absurd_and_close_anchors_say_nothing_about_the_rate() -> None:
    clock = Clock(header(0))
    clock.advance(header(0.001, ticks_per_s=4e9))
    assert clock.unix_ns(FIRST + 2 * 10**9) == WALL + SECOND
    clock.advance(header(5, ticks_per_s=1e9))  # asleep meanwhile
    assert clock.seconds(2 * 10**9) == 1.0


def test_of_very_many_anchors_the_oldest_and_the_newest_are_kept() -> None:
    clock = Clock(header(0))
    for second in range(1, 1000):
        clock.advance(header(second))
    for second in (0, 3, 500, 998, 999, 1000):
        assert clock.unix_ns(FIRST + second * 2 * 10**9) == WALL + second * SECOND
    assert len(clock._ticks) <= 128
