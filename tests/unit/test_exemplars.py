"""Which slow wait stands for a bucket."""

from __future__ import annotations

from tracedthread.buckets import BOUNDS
from tracedthread.exemplars import Exemplar, Exemplars

WAIT = "tracedthread.lock.wait.duration"
LOCK = ("cache", "lock")


def exemplar(value_s: float, number: int) -> Exemplar:
    return Exemplar(value_s, trace_id=number, span_id=number, time_ns=number)


def test_the_newest_of_a_bucket_is_found() -> None:
    kept = Exemplars()
    for number, value_s in enumerate((0.002, 0.003, 0.02), start=1):
        kept.add(WAIT, LOCK, exemplar(value_s, number))
    assert kept.within(WAIT, LOCK, 0.001, 0.005) == exemplar(0.003, 2)
    assert kept.within(WAIT, LOCK, 0.01, 0.05) == exemplar(0.02, 3)
    assert kept.within(WAIT, LOCK, 0.05, 0.1) is None


def test_a_bucket_ends_with_its_upper_bound_and_begins_above_the_lower_one() -> None:
    kept = Exemplars()
    kept.add(WAIT, LOCK, exemplar(0.005, 1))
    assert kept.within(WAIT, LOCK, 0.001, 0.005) is not None
    assert kept.within(WAIT, LOCK, 0.005, 0.01) is None


def test_on_either_side_of_each_bound_there_is_room_for_one() -> None:
    for bound in BOUNDS:
        kept = Exemplars()
        below, above = exemplar(bound * 0.999, 1), exemplar(bound * 1.001, 2)
        kept.add(WAIT, LOCK, below)
        kept.add(WAIT, LOCK, above)
        assert kept.within(WAIT, LOCK, 0.0, bound) == below
        assert kept.within(WAIT, LOCK, bound, float("inf")) == above


def test_series_are_told_apart_by_metric_and_attributes() -> None:
    kept = Exemplars()
    kept.add(WAIT, LOCK, exemplar(0.002, 1))
    assert kept.within(WAIT, ("cache", "rlock"), 0, 1) is None
    assert kept.within("tracedthread.lock.hold.duration", LOCK, 0, 1) is None
    assert kept.within(WAIT, LOCK, 0, float("inf")) == exemplar(0.002, 1)


def test_their_number_is_bounded() -> None:
    kept = Exemplars(max_series=3)
    for number in range(5):
        kept.add(WAIT, (str(number),), exemplar(0.002, number))
    assert [kept.within(WAIT, (str(number),), 0, 1) is not None for number in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    kept.clear()
    assert kept.within(WAIT, ("4",), 0, 1) is None
