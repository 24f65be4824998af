"""`compare` and `tracedthread diff`: two recordings, matched lock by lock, per second recorded."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import capture_builder as cb
import pytest

from tracedthread.__main__ import main
from tracedthread.capture import Capture
from tracedthread.compare import Comparison, compare
from tracedthread.export import comparison as text
from tracedthread.export.terminal import WIDTH
from tracedthread.profile import Profile

CACHE = "/srv/shop/cache.py"


def recording(
    *,
    seconds: int = 10,
    line: int = 41,
    folder: str = "/srv/shop",
    wait_ms: int = 20,
    waits: int = 50,
    blamed: str = "slow_report",
    more: str = "",
) -> cb.CaptureBuilder:
    """`waits` waits of `wait_ms` for PriceCache._lock; `more` names another lock that is waited for."""
    builder = cb.CaptureBuilder(duration_ns=seconds * cb.SECOND, grown=True)
    path = f"{folder}/cache.py"
    lock = builder.site("PriceCache._lock", ("PriceCache.__init__", path, line))
    lock.hold(wait_ms * cb.MS, times=waits)
    lock.hold(500, times=1000 - waits)
    builder.wait(lock, "lock", [("fast_lookup", path, line + 20)], *[wait_ms * cb.MS] * waits)
    builder.blame(lock, [(blamed, path, line + 70)], *[wait_ms * cb.MS] * waits)
    if more:
        other = builder.site(more, ("f", f"{folder}/other.py", 3))
        other.hold(80 * cb.MS, times=2)
        builder.wait(other, "lock", [("g", f"{folder}/other.py", 9)], 80 * cb.MS)
    return builder


def profile(builder: cb.CaptureBuilder) -> Profile:
    return Profile.from_capture(Capture.from_buffer(builder.build()))


def compared(base: cb.CaptureBuilder, new: cb.CaptureBuilder) -> Comparison:
    return compare(profile(base), profile(new))


def test_a_recording_compared_with_itself_has_no_change() -> None:
    of = compared(recording(), recording())
    (change,) = of.locks
    assert change.status == "both"
    assert change.base == change.new
    assert change.wait_per_s_change == 0
    assert of.worse == ()
    assert of.caveats() == []
    assert text.sentences(of) == ["No lock is waited for notably more or less than before."]
    assert set(of.to_dict()["locks"][0]["change"].values()) == {0}


def test_locks_match_although_lines_and_folders_moved() -> None:
    of = compared(recording(), recording(line=99, folder="/home/dev/shop"))
    assert [change.status for change in of.locks] == ["both"]


def test_the_fingerprint_that_a_capture_stores_goes_before_what_can_be_computed() -> None:
    base, new = recording(), recording()
    for builder, name in ((base, "PriceCache._lock"), (new, "Prices.mutex")):
        builder.sites[3] = (builder.string(name), *builder.sites[3][1:6], 0xFEED)
    of = compared(base, new)
    assert [(change.status, change.row.name, change.row.fingerprint) for change in of.locks] == [
        ("both", "Prices.mutex", "000000000000feed")
    ]


def test_sums_are_compared_per_second_and_the_rest_as_it_is() -> None:
    of = compared(recording(seconds=10), recording(seconds=40, waits=100, wait_ms=40))
    (change,) = of.locks
    assert change.base is not None
    assert change.new is not None
    assert (change.base.wait_s, change.base.wait_per_s) == (1.0, 0.1)
    assert (change.new.wait_s, change.new.wait_per_s) == (4.0, 0.1)
    assert (change.base.blame_per_s, change.new.blame_per_s) == (0.1, 0.1)
    assert (change.base.hold_per_s, change.new.hold_per_s) == pytest.approx((0.1, 0.1), rel=0.01)
    assert (change.base.acquisitions_per_s, change.new.acquisitions_per_s) == (100, 25)
    assert (change.base.contended_share, change.new.contended_share) == (0.05, 0.1)
    assert (change.base.wait_p99_s, change.new.wait_p99_s) == pytest.approx((0.02, 0.04), rel=0.125)
    assert (change.base.wait_max_s, change.new.wait_max_s) == (0.02, 0.04)
    assert of.worse == ()
    assert of.caveats() == ["The recordings differ in length: sums are compared per second recorded."]


def test_pauses_are_not_recorded_time() -> None:
    builder = recording(seconds=10)
    data = bytearray(builder.build())
    at = 8 + 4 + 4 + 8 + 4 + 4 + 8 + 4 + 4 + 8 + 6 * 8
    data[at : at + 8] = (5 * cb.SECOND * cb.TICKS_PER_NS).to_bytes(8, "little")
    paused = Profile.from_capture(Capture.from_buffer(data))
    (change,) = compare(paused, profile(recording(seconds=10))).locks
    assert change.base is not None
    assert change.base.wait_per_s == pytest.approx(0.2)


def test_new_and_vanished_locks_are_told_apart() -> None:
    of = compared(recording(more="Old.lock"), recording(more="Young.lock"))
    assert {change.row.name: change.status for change in of.locks} == {
        "PriceCache._lock": "both",
        "Old.lock": "gone",
        "Young.lock": "new",
    }
    by_name: dict[str, Any] = {row["name"]: row for row in of.to_dict()["locks"]}
    assert by_name["Old.lock"]["new"] is by_name["Old.lock"]["change"] is None
    assert by_name["Young.lock"]["base"] is None
    assert text.sentences(of) == ["New, with waits: Young.lock.", "Gone, with waits: Old.lock."]


def test_two_lines_of_a_function_that_make_locks_of_one_name_are_one() -> None:
    base = recording()
    again = base.site("PriceCache._lock", ("PriceCache.__init__", CACHE, 45))
    again.hold(100, times=1000)
    of = compared(base, recording())
    (change,) = of.locks
    assert change.base is not None
    assert change.base.acquisitions == 2000


def test_functions_that_are_blamed_for_more_come_first() -> None:
    of = compared(recording(), recording(blamed="refresh", wait_ms=40))
    assert [(one.function, one.base_per_s, one.new_per_s) for one in of.worse] == [("refresh", 0.0, 0.2)]
    assert [one.function for one in of.blame] == ["refresh", "slow_report"]
    assert of.blame[1].change_per_s == -0.1
    assert of.to_dict()["blame"][0]["change"] == {"blame_s": 2.0, "blame_per_s": 0.2}
    assert "More blamed than before: refresh (cache.py)." in text.sentences(of)


def test_longer_waits_are_said_also_when_they_are_fewer() -> None:
    of = compared(recording(), recording(waits=5, wait_ms=200))
    assert text.sentences(of)[0] == (
        "The waits for PriceCache._lock are longer: p99 200 ms (was 20 ms); together 100 ms in each second "
        "(was 100 ms)."
    )


def test_blame_is_summed_over_lines_and_callers() -> None:
    base = recording()
    lock = base.stats[3]
    base.blame(lock, [("slow_report", CACHE, 999), ("other_caller", CACHE, 1)], 500 * cb.MS)
    of = compared(base, recording())
    (change,) = of.blame
    assert (change.base_holds, change.new_holds) == (51, 50)
    assert (change.base_s, change.new_s) == (1.5, 1.0)


def test_what_limits_a_conclusion_is_said() -> None:
    base, new = recording(), recording()
    base.lost[cb.SITES] = 2
    new.program = b"other.py"
    new.stats[3].counters["waiters"] = 1
    caveats = compared(base, new).caveats()
    assert len(caveats) == 3
    assert "different names" in caveats[0]
    assert "In the base recording some locks found no room" in caveats[1]
    assert "In the new recording some waits had not ended" in caveats[2]
    empty = recording()
    empty.duration_ns = 0
    assert "without duration" in compared(recording(), empty).caveats()[0]


def test_the_length_of_a_killed_recording_is_called_a_minimum() -> None:
    base, new = recording(), recording()
    assert compared(base, new).caveats() == []
    new.state, new.pid = 1, 2**22 + 1
    (caveat,) = compared(base, new).caveats()
    assert caveat.startswith("The new recording was not closed")
    assert "at least" in caveat


def note(*locks: str, threads: str) -> str:
    """On a deadlock; each thread has the lock before the one it waits for."""
    edges = [
        {"thread": f"{threads}-{at}", "for": lock, "created": f"app.py:{at}", "held_by": f"{threads}-{at + 1}"}
        for at, lock in enumerate(locks)
    ]
    return json.dumps({"deadlock": {"length": len(edges), "threads": edges}})


def test_a_deadlock_that_is_new_comes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, new = recording(), recording()
    base.note(note("A", "B", threads="old"))
    new.note(note("B", "A", threads="young"))
    assert compared(base, new).new_deadlocks == (), "these are the same locks"
    new.note(note("A", "C", threads="young"))
    files = [save(tmp_path / "base.ttc", base), save(tmp_path / "new.ttc", new)]
    assert main(["diff", *files]) == 0
    out = capsys.readouterr().out
    assert out.startswith("New deadlock: `young-0` waits for `A` (app.py:0), held by `young-1`;")
    assert out.count("deadlock") == 1
    assert main(["diff", "--json", *files]) == 0
    (deadlock,) = json.loads(capsys.readouterr().out)["new_deadlocks"]
    assert [step["lock"] for step in deadlock["threads"]] == ["A", "C"]


def test_a_recording_without_blame_is_named() -> None:
    base = recording()
    base.blames = {(0, 0): [0] * 4}
    assert compared(base, recording()).caveats() == [
        "The base recording, of an older version, does not say who is to blame."
    ]


def save(path: Path, builder: cb.CaptureBuilder) -> str:
    path.write_bytes(builder.build())
    return str(path)


def test_diff_prints_what_changed_and_ends_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save(tmp_path / "base.ttc", recording())
    new = save(tmp_path / "new.ttc", recording(seconds=20, wait_ms=100, blamed="refresh"))
    assert main(["diff", base, new]) == 0
    out = capsys.readouterr().out
    assert "! The recordings differ in length" in out
    sentence = "Threads wait more for PriceCache._lock: 250 ms in each second (was 100 ms); p99 100 ms (was 20"
    assert sentence in " ".join(out.split())
    assert "PriceCache._lock  base  100 ms" in out
    assert "cache.py:41       new   250 ms" in out
    assert "refresh cache.py" in out
    assert "0 → 50" in out
    assert max(map(len, out.splitlines())) <= WIDTH


def test_diff_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, new = save(tmp_path / "base.ttc", recording()), save(tmp_path / "new.ttc", recording(wait_ms=30))
    assert main(["diff", base, new, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "tracedthread.diff/1"
    assert report["base"]["recorded_s"] == report["new"]["recorded_s"] == 10.0
    (lock,) = report["locks"]
    assert lock["change"]["wait_per_s"] == pytest.approx(0.05)


def test_an_unreadable_file_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = save(tmp_path / "good.ttc", recording()), tmp_path / "bad.ttc"
    bad.write_bytes(b"hello")
    assert main(["diff", good, str(bad)]) == 2
    assert capsys.readouterr().err == f"tracedthread: {bad}: not a capture\n"
    assert main(["diff", str(tmp_path / "none"), good]) == 2


def test_names_in_a_recording_cannot_steer_the_terminal() -> None:
    base, new = recording(more="\x1b[2Jx"), recording(blamed="\x1b]0;y\x07")
    new.program = b"\x1bapp"
    out = io.StringIO()
    text.render(compared(base, new), out)
    assert set(out.getvalue()) & set("\x1b\x07") == set()


def test_many_locks_are_cut_short_and_counted() -> None:
    builder = recording()
    for index in range(40):
        lock = builder.site(f"Lock{index}", ("f", "a.py", index))
        lock.hold(5)
        builder.wait(lock, "lock", [("g", "a.py", 1)], 3_000 * (index + 1))
    out = io.StringIO()
    text.render(compared(builder, recording()), out)
    assert "and 29 more locks" in out.getvalue()
    assert len(out.getvalue().splitlines()) < 60
