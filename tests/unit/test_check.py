"""`tracedthread check`: limits are kept, exceeded, or cannot be judged; never a pass for want of data."""

from __future__ import annotations

import json
from pathlib import Path

import capture_builder as cb
import pytest

from tracedthread.__main__ import main
from tracedthread.capture import Capture
from tracedthread.export.plain import explain
from tracedthread.limits import MEASURES, Limit, parse_duration, parse_share, selected
from tracedthread.profile import Profile, subtract
from tracedthread.unfinished import pending
from tracedthread.verdict import judge

CACHE = "/srv/shop/cache.py"
LOOKUP = [("PriceCache.fast_lookup", CACHE, 63), ("checkout", "/srv/shop/app.py", 20)]
REPORT = [("slow_report", CACHE, 118), ("main", "/srv/shop/app.py", 50)]


def shop() -> tuple[cb.CaptureBuilder, cb.Site]:
    """100 waits of 2 ms and one of 50 ms for PriceCache._lock, all because of slow_report; nobody waits elsewhere."""
    builder = cb.CaptureBuilder(grown=True)
    lock = builder.site("PriceCache._lock", ("PriceCache.__init__", CACHE, 41))
    lock.hold(1_000, times=899)
    lock.hold(2 * cb.MS, times=101)
    builder.wait(lock, "lock", LOOKUP, *[2 * cb.MS] * 100, 50 * cb.MS)
    builder.blame(lock, REPORT, *[2 * cb.MS] * 100, 50 * cb.MS)
    session = builder.site("Session._lock", ("Session.__init__", "/srv/shop/session.py", 7))
    session.hold(5_000, times=10)
    builder.site("Spare._lock", ("Spare.__init__", "/srv/shop/spare.py", 1))
    return builder, lock


def profile(builder: cb.CaptureBuilder) -> Profile:
    return Profile.from_capture(Capture.from_buffer(builder.build()))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(tmp_path, shop()[0])


def save(folder: Path, builder: cb.CaptureBuilder) -> Path:
    path = folder / "app.ttc"
    path.write_bytes(builder.build())
    return path


@pytest.mark.parametrize(
    ("option", "kept", "exceeded"),
    [
        ("--max-wait-p99", "PriceCache._lock=3ms", "PriceCache._lock=1.5ms"),
        ("--max-wait-max", "PriceCache._lock=50ms", "PriceCache._lock=49.9ms"),
        ("--max-wait-total", "PriceCache._lock=250ms", "PriceCache._lock=249ms"),
        ("--max-hold-p99", "PriceCache._lock=3ms", "PriceCache._lock=1 ms"),
        ("--max-hold-max", "PriceCache._lock=2ms", "PriceCache._lock=1999µs"),
        ("--max-blame", "slow_report=0.25s", "slow_report=249ms"),
        ("--max-contended", "PriceCache._lock=10.1%", "PriceCache._lock=10 %"),
    ],
)
def test_every_limit_is_kept_up_to_its_value_and_exceeded_above(
    file: Path, capsys: pytest.CaptureFixture[str], option: str, kept: str, exceeded: str
) -> None:
    assert main(["check", str(file), option, kept]) == 0
    assert capsys.readouterr().out.startswith("ok ")
    assert main(["check", str(file), option, exceeded]) == 1
    out = capsys.readouterr().out
    assert out.startswith("EXCEEDED ")
    assert "at most" not in out.splitlines()[0], "it is known exactly, or to the percentile's 12.5 %"
    assert f"{option} {exceeded}" in out
    assert "slow_report /srv/shop/cache.py:118" in out, "the site that is to blame is named"


def test_failure_names_limit_measurement_and_stacks(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(file), "--max-wait-max", "PriceCache._lock=5ms"]) == 1
    out = capsys.readouterr().out
    assert "PriceCache._lock (cache.py:41): longest wait was 50.0 ms, the limit is 5.00 ms" in out
    assert "waited 250 ms in 101 waits, at most 50 ms, in" in out
    assert "PriceCache.fast_lookup /srv/shop/cache.py:63" in out
    assert "checkout /srv/shop/app.py:20" in out
    assert "made others wait 250 ms in 101 holds" in out
    assert out.endswith("1 checked: 1 exceeded, 0 not known\n")


def test_options_repeat_and_one_that_is_exceeded_is_enough(file: Path) -> None:
    kept, exceeded = ["--max-wait-max", "Session._lock=1ms"], ["--max-wait-max", "PriceCache._lock=1ms"]
    assert main(["check", str(file), *kept, *kept]) == 0
    assert main(["check", str(file), *kept, *exceeded, *kept]) == 1


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("PriceCache._lock", {"PriceCache._lock"}),
        ("_lock", {"_lock"}),
        ("lock", {"Session.lock", "shop.Pool.lock"}),
        ("Pool.lock", {"shop.Pool.lock"}),
        ("P*._lock", {"PriceCache._lock", "P[0]._lock"}),
        ("P[0]._lock", {"P[0]._lock"}),
        ("p*._lock", set()),
        ("ool.lock", set()),
        ("", set()),
    ],
)
def test_names_are_exact_or_patterns_or_ends(name: str, found: set[str]) -> None:
    known = ["PriceCache._lock", "P[0]._lock", "_lock", "Session.lock", "shop.Pool.lock"]
    assert selected(name, known) == found


def test_each_of_those_selected_is_checked(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(file), "--max-hold-max", "_lock=1us"]) == 1
    out = capsys.readouterr().out
    assert "PriceCache._lock (cache.py:41): longest hold" in out
    assert "Session._lock (session.py:7): longest hold" in out
    assert "Spare._lock" not in out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--max-wait-max", "PriceCach._lock=5ms"], "no lock is called PriceCach._lock; did you mean PriceCache._lock"),
        (["--max-wait-max", "x*=5ms"], "no lock is called x*; "),
        (["--max-blame", "slow_reprot=5ms"], "no function is called slow_reprot; did you mean slow_report?"),
        (["--max-wait-max", "Spare._lock=5ms"], "Spare._lock was created, but nobody has taken it"),
    ],
)
def test_a_name_that_selects_nothing_measured_is_no_pass(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    assert main(["check", str(file), *arguments]) == 2
    assert reason in capsys.readouterr().out
    assert main(["check", str(file), *arguments, "--max-wait-max", "PriceCache._lock=1ms"]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--max-wait-max", "PriceCache._lock"],
        ["--max-wait-max", "=5ms"],
        ["--max-wait-max", "PriceCache._lock=5"],
        ["--max-wait-max", "PriceCache._lock=5 parsecs"],
        ["--max-wait-max", "PriceCache._lock=-5ms"],
        ["--max-wait-max", "PriceCache._lock=5%"],
        ["--max-wait-max", f"PriceCache._lock={'9' * 400}s"],
        ["--max-contended", "PriceCache._lock=5ms"],
        ["--max-contended", "PriceCache._lock=101%"],
    ],
)
def test_what_is_no_limit_is_refused(file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check", str(file), *arguments])
    assert caught.value.code == 2
    assert "usage: tracedthread check" in capsys.readouterr().err


def test_an_unreadable_file_or_one_without_locks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limit = ["--max-wait-max", "*=5ms"]
    assert main(["check", str(tmp_path / "none.ttc"), *limit]) == 2
    assert capsys.readouterr().err.endswith("none.ttc: No such file or directory\n")
    (tmp_path / "text").write_text("hello")
    assert main(["check", str(tmp_path / "text"), *limit]) == 2
    assert main(["check", str(save(tmp_path, cb.CaptureBuilder(grown=True))), *limit, "--no-lost"]) == 2
    assert capsys.readouterr().err.endswith("no lock was used, so there is nothing to check\n")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("5ms", 0.005), ("5 ms", 0.005), (" 1.5s ", 1.5), ("200us", 2e-4), ("200µs", 2e-4), ("200 μs", 2e-4)],
        *[("100ns", 1e-7), ("2min", 120), (".5s", 0.5), ("0ms", 0)],
    ],
)
def test_durations_as_people_write_them(text: str, value: float) -> None:
    assert parse_duration(text) == pytest.approx(value)


def test_shares_as_people_write_them() -> None:
    assert [parse_share(text) for text in ("5%", "12.5 %", "100%")] == [0.05, 0.125, 1]
    assert Limit.parse(MEASURES["wait-max"], "a=b=5ms") == Limit(MEASURES["wait-max"], "a=b", 0.005)


def test_blame_of_a_function_that_hurt_nobody_is_zero_if_it_was_seen(file: Path) -> None:
    assert main(["check", str(file), "--max-blame", "checkout=1ns"]) == 0
    assert main(["check", str(file), "--max-blame", "main=1ns"]) == 0, "it calls slow_report, but did not release"


def test_blame_of_any_function_is_kept_when_nobody_waited(tmp_path: Path) -> None:
    builder = cb.CaptureBuilder(grown=True)
    builder.site("a", ("f", "a.py", 1)).hold(5)
    path = str(save(tmp_path, builder))
    assert main(["check", path, "--max-blame", "*=1ms"]) == 0
    assert main(["check", path, "--max-blame", "slow*=1ms"]) == 2


def test_blame_that_found_no_room_could_be_of_the_function(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builder, lock = shop()
    builder.wait(lock, "lock", LOOKUP, 100 * cb.MS)
    builder.blame(lock, (), 100 * cb.MS, other=True)
    path = str(save(tmp_path, builder))
    assert main(["check", path, "--max-blame", "slow_report=300ms"]) == 2
    assert "whose holds caused another 0.1 s of waiting is not known" in capsys.readouterr().out
    assert main(["check", path, "--max-blame", "slow_report=400ms"]) == 0
    assert main(["check", path, "--max-blame", "slow_report=200ms"]) == 1


@pytest.mark.parametrize("nobody", ["(unknown)", "(still held)"])
def test_blame_of_nobody_that_is_known_could_be_of_the_function(tmp_path: Path, nobody: str) -> None:
    """Its frame found no room, or the hold was not over."""
    builder, lock = shop()
    builder.wait(lock, "lock", LOOKUP, 100 * cb.MS)
    builder.blame(lock, [(nobody, "", 0), *REPORT[1:]], 100 * cb.MS)
    path = str(save(tmp_path, builder))
    assert main(["check", path, "--max-blame", "slow_report=300ms"]) == 2
    assert main(["check", path, "--max-blame", "slow_report=400ms"]) == 0
    assert main(["check", path, "--max-blame", "*=300ms"]) == 2
    assert main(["check", path, "--max-blame", "slow_report=200ms"]) == 1


def test_attempts_that_gave_up_are_no_acquisitions_that_waited(tmp_path: Path) -> None:
    builder = cb.CaptureBuilder(grown=True)
    lock = builder.site("a", ("f", "a.py", 1))
    lock.hold(5, times=21)
    builder.wait(lock, "lock", LOOKUP, *[cb.MS] * 21, timeouts=21)
    path = str(save(tmp_path, builder))
    assert main(["check", path, "--max-contended", "a=50%"]) == 0
    assert main(["check", path, "--max-contended", "a=49%"]) == 1


def test_attempts_in_progress_count_once(tmp_path: Path) -> None:
    """One thread has the lock, three wait for it, when the process is killed."""
    builder = cb.CaptureBuilder(grown=True, state=1, pid=2**22 + 1)
    lock = builder.site("a", ("f", "a.py", 1))
    lock.counters["acquisitions"], lock.counters["waiters"] = 1, 3
    builder.thread("holder", "work")
    for number in range(3):
        builder.thread(f"stuck {number}", "work")
        builder.waits_for(2 + number, 0xABC0, lock, places=LOOKUP)
    path = str(save(tmp_path, builder))
    assert main(["check", path, "--max-contended", "a=74%"]) == 1
    assert main(["check", path, "--max-contended", "a=75%"]) == 0


def test_a_recording_without_blame_cannot_be_judged_on_it(tmp_path: Path) -> None:
    builder = cb.CaptureBuilder()
    lock = builder.site("a", ("f", "a.py", 1))
    lock.hold(5)
    builder.wait(lock, "lock", LOOKUP, 100 * cb.MS)
    path = str(save(tmp_path, builder))
    assert main(["check", path, "--max-blame", "*=50ms"]) == 2
    assert main(["check", path, "--max-blame", "*=100ms"]) == 0


def test_locks_that_found_no_room_could_be_the_one_that_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    builder, _ = shop()
    other = builder.stats[2]
    other.counters["created"] = 3
    other.hold(9 * cb.MS)
    builder.wait(other, "lock", LOOKUP, *[60 * cb.MS] * 5, *[1_000] * 5000)
    path = str(save(tmp_path, builder))
    assert main(["check", path, "--max-wait-max", "PriceCache._lock=50ms"]) == 0, (
        "created by C code: no room was missing"
    )
    builder.lost[cb.SITES] = 3
    path = str(save(tmp_path, builder))
    for option, unknown, kept in (("max", "50ms", "60ms"), ("p99", "50ms", "60ms"), ("total", "0.25s", "0.4s")):
        limit = f"--max-wait-{option}"
        assert main(["check", path, limit, f"PriceCache._lock={unknown}"]) == 2
        assert "locks found no room" in capsys.readouterr().out
        assert main(["check", path, limit, f"PriceCache._lock={kept}"]) == 0
    assert main(["check", path, "--max-contended", "PriceCache._lock=50%"]) == 2


def test_a_lock_that_found_no_room_is_not_taken_for_a_slip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builder, _ = shop()
    path = str(save(tmp_path, builder))
    assert main(["check", path, "--max-wait-max", "PriceCash._lock=1s"]) == 2
    assert "did you mean PriceCache._lock" in capsys.readouterr().out
    builder.lost[cb.SITES] = 3
    path = str(save(tmp_path, builder))
    assert main(["check", path, "--max-wait-max", "PriceCash._lock=1s"]) == 2
    out = capsys.readouterr().out
    assert "no lock is called PriceCash._lock, but 3 locks found no room in the recording" in out
    assert "did you mean" not in out


@pytest.mark.parametrize(
    ("most", "exceeded", "unknown"), [("28ms", True, False), ("28.5ms", False, True), ("29.3ms", False, False)]
)
@pytest.mark.parametrize("of", ["wait", "hold"])
def test_a_maximum_that_is_known_to_a_bucket_is_judged_beyond_its_edges(
    of: str, most: str, exceeded: bool, unknown: bool
) -> None:
    """The bucket of both is from 27.26 ms to 29.36 ms, so the longer one lasted 29.24 ms at most, and half of all at least."""
    builder, lock = shop()
    lock.hold(100 * cb.MS)
    builder.wait(lock, "lock", LOOKUP, 100 * cb.MS)
    before = profile(builder)
    for ns in (27_500_000, 29 * cb.MS):
        lock.hold(ns)
        builder.wait(lock, "lock", LOOKUP, ns)
    builder.duration_ns += cb.SECOND
    limit = Limit.parse(MEASURES[f"{of}-max"], f"PriceCache._lock={most}")
    (verdict,) = judge(subtract(profile(builder), before), [limit])
    assert (bool(verdict.exceeded), bool(verdict.problem)) == (exceeded, unknown)
    if unknown:
        assert f"the longest {of} of PriceCache._lock was between 28.2 ms and 29.2 ms" in verdict.problem
    if exceeded:
        assert f"longest {of} was at most 29.2 ms, the limit is 28.0 ms" in explain(verdict)[0]


def test_of_a_single_hold_after_a_longer_one_the_length_is_known() -> None:
    builder, lock = shop()
    lock.hold(100 * cb.MS)
    before = profile(builder)
    lock.hold(29 * cb.MS)
    builder.duration_ns += cb.SECOND
    limits = [Limit.parse(MEASURES["hold-max"], f"PriceCache._lock={most}") for most in ("28.9ms", "29ms")]
    above, kept = judge(subtract(profile(builder), before), limits)
    assert (bool(above.exceeded), bool(kept.exceeded), above.problem, kept.problem) == (True, False, "", "")


def test_what_found_no_room_before_a_stretch_may_be_slow_in_it() -> None:
    builder, _ = shop()
    builder.lost[cb.SITES] = 3
    before = profile(builder)
    builder.stats[2].hold(9 * cb.MS)
    builder.wait(builder.stats[2], "lock", LOOKUP, 60 * cb.MS)
    builder.duration_ns += cb.SECOND
    inside = subtract(profile(builder), before)
    assert inside.lost["sites"] == 0
    (verdict,) = judge(inside, [Limit.parse(MEASURES["wait-max"], "PriceCache._lock=50ms")])
    assert "locks found no room in the recording" in verdict.problem
    (verdict,) = judge(inside, [Limit.parse(MEASURES["wait-max"], "B._lock=50ms")])
    assert verdict.problem.startswith("no lock is called B._lock, but locks or their names found no room")


@pytest.mark.parametrize(("most", "known"), [("28ms", False), ("28.5ms", False), ("50ms", True)])
def test_what_found_no_room_may_be_as_slow_as_is_not_excluded(most: str, known: bool) -> None:
    builder, lock = shop()
    builder.lost[cb.SITES] = 3
    other = builder.stats[2]
    builder.wait(other, "lock", LOOKUP, 100 * cb.MS)
    before = profile(builder)
    lock.hold(1_000)
    builder.wait(other, "lock", LOOKUP, 27_500_000, 29 * cb.MS)
    builder.duration_ns += cb.SECOND
    limit = Limit.parse(MEASURES["wait-max"], f"PriceCache._lock={most}")
    (verdict,) = judge(subtract(profile(builder), before), [limit])
    assert bool(verdict.problem) is not known, verdict


@pytest.mark.parametrize("section", [cb.THREADS, cb.CONTENDED, cb.NOTES])
def test_a_deadlock_may_be_among_what_found_no_room(section: int, tmp_path: Path) -> None:
    builder, _ = shop()
    builder.lost[section] = 1
    assert main(["check", str(save(tmp_path, builder)), "--no-deadlock"]) == 2


def test_no_lost_names_what_was_lost_and_minds_no_ring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builder, lock = shop()
    builder.event_capacity = 1
    for start in range(3):
        builder.event(lock, LOOKUP, start, start + cb.MS)
    assert main(["check", str(save(tmp_path, builder)), "--no-lost"]) == 0
    builder.lost[cb.CELLS] = 7
    assert main(["check", str(save(tmp_path, builder)), "--no-lost"]) == 1
    assert "no room was left for 7 cells" in capsys.readouterr().out


NOTE = """{"deadlock": {"threads": [
    {"thread": "t-AB", "ident": 1, "kind": "lock", "for": "B", "created": "app.py:12", "held_by": "t-BA"},
    {"thread": "t-BA", "ident": 2, "kind": "lock", "for": "A", "created": "app.py:11", "held_by": "t-AB"}]}}"""


def test_no_deadlock_reads_what_the_process_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builder, _ = shop()
    assert main(["check", str(save(tmp_path, builder)), "--no-deadlock"]) == 0
    builder.lost[cb.NOTES] = 1
    assert main(["check", str(save(tmp_path, builder)), "--no-deadlock"]) == 2
    builder.note(NOTE)
    assert main(["check", str(save(tmp_path, builder)), "--no-deadlock"]) == 1
    assert "deadlock: t-AB waits for B of t-BA, t-BA waits for A of t-AB" in capsys.readouterr().out
    assert main(["check", str(save(tmp_path, builder)), "--max-wait-max", "PriceCache._lock=1s"]) == 0, "not asked"


@pytest.mark.parametrize("note", ["3", '{"threads": 3}', '{"threads": [1, {}]}', "{}", "null"])
def test_a_note_on_a_deadlock_of_any_form_counts(tmp_path: Path, note: str) -> None:
    builder, _ = shop()
    builder.note(f'{{"deadlock": {note}}}')
    assert main(["check", str(save(tmp_path, builder)), "--no-deadlock"]) == 1


def test_a_wait_in_progress_without_a_time_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builder, lock = shop()
    lock.counters["waiters"] = 1
    path = str(save(tmp_path, builder))
    for limit in ("--max-wait-max", "--max-wait-p99"):
        assert main(["check", path, limit, "PriceCache._lock=50ms"]) == 2
        assert "1 of the waits of PriceCache._lock had not ended" in capsys.readouterr().out
    assert main(["check", path, "--max-blame", "slow_report=1s"]) == 2
    assert main(["check", path, "--max-wait-max", "PriceCache._lock=1ms"]) == 1
    assert main(["check", path, "--max-wait-max", "Session._lock=1ms", "--max-hold-max", "PriceCache._lock=2ms"]) == 0


def test_a_wait_in_progress_counts_for_as_long_as_it_has_lasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    builder, lock = shop()
    lock.counters["waiters"] = 1
    builder.thread("stuck", "work")
    builder.waits_for(1, 0xABC0, lock, since_ns=builder.duration_ns - 2_000 * cb.MS, places=LOOKUP)
    path = str(save(tmp_path, builder))
    assert main(["check", path, "--max-wait-max", "PriceCache._lock=1.9s"]) == 1
    out = capsys.readouterr().out
    assert "longest wait was 2.00 s" in out
    assert "stuck had waited for 2.0 s when this was read, in" in out
    assert main(["check", path, "--max-wait-max", "PriceCache._lock=2.1s"]) == 0
    assert main(["check", path, "--max-wait-total", "PriceCache._lock=2.2s"]) == 1
    assert main(["check", path, "--max-blame", "slow_report=2s"]) == 2, "whose hold it is, is not known"


def killed() -> tuple[cb.CaptureBuilder, cb.Site]:
    """One thread has held the lock for 3 s or longer, another has waited for 2 s or longer: 9 s is the newest stamp."""
    builder, lock = shop()
    builder.state, builder.pid, builder.duration_ns = 1, 2**22 + 1, 9 * cb.SECOND
    lock.counters["waiters"] = 1
    lock.counters["acquisitions"] += 1
    builder.thread("holder", "work")
    builder.thread("stuck", "work")
    builder.contended(0xABC0, lock, 1, held_since_ns=6 * cb.SECOND, owner_at=REPORT)
    builder.waits_for(2, 0xABC0, lock, since_ns=7 * cb.SECOND, places=LOOKUP)
    return builder, lock


@pytest.mark.parametrize(
    ("option", "most", "status"),
    [
        ("--max-wait-max", "PriceCache._lock=1.9s", 1),
        ("--max-wait-max", "PriceCache._lock=1min", 2),
        ("--max-wait-max", "*=1min", 2),
        ("--max-wait-total", "PriceCache._lock=2.2s", 1),
        ("--max-wait-total", "PriceCache._lock=1min", 2),
        ("--max-hold-max", "PriceCache._lock=2.9s", 1),
        ("--max-hold-max", "PriceCache._lock=1min", 2),
        ("--max-hold-max", "*=1min", 2),
        ("--max-blame", "slow_report=200ms", 1),
        ("--max-blame", "slow_report=1min", 2),
        ("--max-wait-max", "Session._lock=1ms", 0),
        ("--max-contended", "PriceCache._lock=50%", 0),
    ],
)
def test_what_a_killed_process_was_at_lasted_for_nobody_knows_how_long(
    tmp_path: Path, option: str, most: str, status: int
) -> None:
    assert main(["check", str(save(tmp_path, killed()[0])), option, most]) == status


def test_a_lower_bound_is_called_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(save(tmp_path, killed()[0]))
    main(["check", path, "--max-wait-max", "PriceCache._lock=1s", "--max-hold-max", "PriceCache._lock=1min"])
    out = capsys.readouterr().out
    assert "longest wait was at least 2.00 s, the limit is 1.00 s" in out
    assert "stuck had waited for at least 2.0 s when it was cut off, in" in out
    assert "measured: at least 3.00 s" in out
    assert "a hold of PriceCache._lock was in progress when the process was cut off" in out


def test_a_hold_in_progress_without_a_time_is_no_pass_but_for_patterns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    builder, lock = shop()
    lock.counters["acquisitions"] += 1
    path = str(save(tmp_path, builder))
    assert main(["check", path, "--max-hold-max", "PriceCache._lock=1min"]) == 2
    assert "1 of the holds of PriceCache._lock had not ended" in capsys.readouterr().out
    assert main(["check", path, "--max-hold-max", "*=1min", "--max-wait-max", "PriceCache._lock=1min"]) == 0
    assert "left out: 1 of the holds of PriceCache._lock had not ended" in capsys.readouterr().out
    assert main(["check", path, "--max-hold-max", "PriceCache._lock=1us"]) == 1


def test_a_hold_in_progress_counts_where_somebody_waits_for_the_lock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    builder, lock = shop()
    lock.counters["acquisitions"] += 1
    builder.thread("holder", "work")
    builder.contended(0xABC0, lock, 1, held_since_ns=builder.duration_ns - 3_000 * cb.MS, owner_at=REPORT)
    path = str(save(tmp_path, builder))
    assert main(["check", path, "--max-hold-max", "PriceCache._lock=2.9s"]) == 1
    out = capsys.readouterr().out
    assert "longest hold was 3.00 s" in out
    assert "holder had held it for 3.0 s when this was read, in" in out
    assert main(["check", path, "--max-hold-max", "PriceCache._lock=3.1s"]) == 0


def test_a_hold_that_ended_untimed_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builder, lock = shop()
    lock.counters["acquisitions"] += 2
    lock.holds_untimed = 2
    path = str(save(tmp_path, builder))
    assert main(["check", path, "--max-hold-max", "PriceCache._lock=1min"]) == 0
    assert "left out: 2 holds of PriceCache._lock, how long is not known" in capsys.readouterr().out
    assert main(["check", path, "--max-wait-max", "PriceCache._lock=1min"]) == 0
    assert "left out" not in capsys.readouterr().out
    lock.counters["acquisitions"] += 1
    path = str(save(tmp_path, builder))
    assert main(["check", path, "--max-hold-max", "PriceCache._lock=1min"]) == 2
    assert "1 of the holds of PriceCache._lock had not ended" in capsys.readouterr().out


def test_a_hold_that_a_child_was_born_with_hides_none_of_its_own(tmp_path: Path) -> None:
    builder, lock = shop()
    builder.contended(0xABC0, lock, held_since_ns=-100 * cb.MS)
    assert main(["check", str(save(tmp_path, builder)), "--max-hold-max", "PriceCache._lock=1min"]) == 0
    lock.counters["acquisitions"] += 1
    assert main(["check", str(save(tmp_path, builder)), "--max-hold-max", "PriceCache._lock=1min"]) == 2


def test_a_hold_in_a_part_of_a_recording_hides_no_other_that_goes_on() -> None:
    builder, lock = shop()
    lock.counters["acquisitions"] += 1
    before = profile(builder)
    lock.hold(cb.MS)  # which ends the one from before; and another one begins
    builder.duration_ns += cb.SECOND
    (verdict,) = judge(subtract(profile(builder), before), [Limit.parse(MEASURES["hold-max"], "PriceCache._lock=1s")])
    assert "1 of the holds of PriceCache._lock had not ended" in verdict.problem


def test_a_lock_that_is_held_all_the_time_is_held() -> None:
    builder, lock = shop()
    lock.counters["acquisitions"] += 1
    before = profile(builder)
    builder.duration_ns += cb.SECOND
    builder.contended(0xABC0, lock, held_since_ns=0)
    pending_now = pending(Capture.from_buffer(builder.build()))
    inside = subtract(profile(builder), before)
    limits = [Limit.parse(MEASURES[name], "PriceCache._lock=0.9s") for name in ("hold-max", "wait-max")]
    hold, wait = judge(inside, limits, pending_now)
    assert (hold.problem, [reading.value for reading in hold.exceeded]) == ("", [1.0])
    assert "nobody has taken it" in wait.problem


def test_pauses_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builder, _ = shop()
    limit = ["--max-hold-max", "PriceCache._lock=1min"]
    main(["check", str(save(tmp_path, builder)), *limit])
    assert "paused" not in capsys.readouterr().out
    builder.paused_ns = 2 * cb.SECOND
    assert main(["check", str(save(tmp_path, builder)), *limit]) == 0
    assert "note: recording was paused for 2.0 s of 10 s; what happened then is not judged\n" in capsys.readouterr().out


def test_a_hold_that_began_before_the_recording_counts(tmp_path: Path) -> None:
    builder = cb.CaptureBuilder(grown=True)
    lock = builder.site("early", ("f", "a.py", 1))
    lock.hold(5 * cb.MS)
    lock.counters["acquisitions"] = 0
    path = str(save(tmp_path, builder))
    assert main(["check", path, "--max-hold-max", "early=1ms"]) == 1
    assert main(["check", path, "--max-hold-max", "early=6ms"]) == 0


def test_a_deadlock_at_the_end_is_found_without_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builder, first = shop()
    second = builder.site("Session._lock", ("f", "a.py", 1))
    for name, lock, address, other in (("t-AB", second, 0xB, 2), ("t-BA", first, 0xA, 1)):
        builder.thread(name, name)
        builder.waits_for(3 - other, address, lock, places=LOOKUP)
        builder.contended(address, lock, other)
    path = str(save(tmp_path, builder))
    assert main(["check", path, "--no-deadlock"]) == 1
    out = capsys.readouterr().out
    assert "t-AB waits for Session._lock of t-BA" in out
    assert "t-BA waits for PriceCache._lock of t-AB" in out


def test_one_deadlock_that_several_threads_tell_of_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builder, first = shop()
    second = builder.site("Session._lock", ("f", "a.py", 1))
    for name, lock, address, other in (("t-AB", second, 0xB, 2), ("t-BA", first, 0xA, 1)):
        builder.thread(name, name)
        builder.waits_for(3 - other, address, lock, places=LOOKUP)
        builder.contended(address, lock, other)
    edges = [
        {"thread": name, "ident": ident, "kind": "lock", "for": lock, "held_by": holder}
        for name, (ident, *_), lock, holder in (
            ("t-BA", builder.threads[2], "PriceCache._lock", "t-AB"),
            ("t-AB", builder.threads[1], "Session._lock", "t-BA"),
        )
    ]
    for threads in (edges, edges[::-1], edges[:1]):
        builder.note(json.dumps({"deadlock": {"length": 2, "threads": threads}}))
    builder.note(NOTE)
    assert main(["check", str(save(tmp_path, builder)), "--no-deadlock"]) == 1
    assert "--no-deadlock   measured: 2\n" in capsys.readouterr().out, "and another one"


def test_names_in_a_recording_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builder = cb.CaptureBuilder(grown=True)
    lock = builder.site("\x1b[2Jlock", ("f\n", "a.py", 1))
    lock.hold(5)
    builder.wait(lock, "lock", [("g\x07", "/srv/\x1b]0;x\x07/a.py", 2)], cb.MS)
    assert main(["check", str(save(tmp_path, builder)), "--max-wait-max", "*=1us"]) == 1
    assert set(capsys.readouterr().out) & set("\x1b\x07") == set()
