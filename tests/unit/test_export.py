"""
The report's forms and the verb that writes them, against golden files.

The golden capture stays readable for ever: it is never made anew. After a deliberate change of a form, the two outputs
are: `python -m tracedthread report tests/golden/shop.ttc [--format json] -o …`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import capture_builder as cb
import pytest

from tracedthread.capture import Capture
from tracedthread.commands import report
from tracedthread.export import FORMATS, render
from tracedthread.export.findings import findings
from tracedthread.export.units import count, duration, percent, short
from tracedthread.pools import PoolRow
from tracedthread.profile import Profile

GOLDEN = Path(__file__).parents[1] / "golden"
CAPTURE = GOLDEN / "shop.ttc"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def profile(builder: cb.CaptureBuilder) -> Profile:
    return Profile.from_capture(Capture.from_buffer(builder.build()))


def text(of: Profile) -> str:
    stream = io.StringIO()
    render(of, "text", stream)
    return stream.getvalue()


def run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    report.add_parser(parser.add_subparsers())
    args = parser.parse_args(["report", *map(str, arguments)])
    return int(args.main(args))


@pytest.mark.parametrize(("form", "golden"), [("text", "shop.txt"), ("json", "shop.json")])
def test_golden_capture_gives_the_golden_report(
    form: str, golden: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = (GOLDEN / golden).read_text(encoding="utf-8")
    assert run(CAPTURE, "--format", form) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (expected, "")
    assert run(CAPTURE, "--format", form, "-o", tmp_path / "out") == 0
    assert (tmp_path / "out").read_text(encoding="utf-8") == expected
    assert capsys.readouterr().out == ""


def test_recording_with_blame_gives_the_golden_report() -> None:
    assert text(profile(cb.example(grown=True))) == (GOLDEN / "shop_blame.txt").read_text(encoding="utf-8")


def test_golden_capture_is_what_the_builder_makes() -> None:
    assert Profile.from_capture(Capture.open(CAPTURE)) == profile(cb.example())


def test_colours_only_in_a_terminal_and_not_under_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in text(profile(cb.example()))
    terminal = Terminal()
    render(profile(cb.example()), "text", terminal)
    assert "\x1b[" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    render(profile(cb.example()), "text", terminal)
    assert "\x1b" not in terminal.getvalue()


def test_width_is_a_hundred_columns_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert 90 < max(map(len, text(profile(cb.example())).splitlines())) <= 100


@pytest.mark.parametrize("columns", [40, 60, 80, 99, 100, 200])
def test_narrow_terminal_has_fewer_columns_but_whole_names_and_numbers(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    render(profile(cb.example(grown=True)), "text", terminal)
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    table = next(line for line in lines if line.startswith("PriceCache._lock  "))
    assert " 3.9 s" in table
    assert (" 5.5 s" in table, "958 ns" in table) == (columns >= 80, columns >= 98)


def output_of(form: str, of: Profile) -> str:
    stream = io.StringIO()
    render(of, form, stream)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["text", "threads"])
def test_waiting_for_a_permit_is_not_idle(form: str) -> None:
    builder = cb.CaptureBuilder()
    builder.thread("worker", "run", wait_ns=cb.MS, idle_ns=2 * cb.MS, resource_ns=30 * cb.MS)
    lines = output_of(form, profile(builder)).splitlines()
    heads = next(line for line in lines if line.startswith("thread "))
    row = next(line for line in lines if line.startswith("worker"))
    for head, value in [("idle", "2.0 ms"), ("permit", "30 ms")]:
        assert row[: heads.index(head) + len(head)].endswith(f" {value}")


@pytest.mark.parametrize("form", ["text", "threads"])
def test_thread_of_a_killed_process_lived_at_least_so_long_unless_its_end_is_known(form: str) -> None:
    builder = cb.CaptureBuilder(state=1, pid=2**22 + 1)
    builder.thread("open", "run")
    builder.thread("over", "run", end_ns=2 * cb.SECOND)
    output = output_of(form, profile(builder))
    assert ("\u2265 10 s" in output, "\u2265 2.0 s" in output, " 2.0 s" in output) == (True, False, True)


def test_share_of_the_gil_is_the_owners_and_the_waiters() -> None:
    builder = cb.CaptureBuilder(grown=True)
    site = builder.site("_lock", ("f", "a.py", 1))
    builder.wait(site, "lock", [("h", "a.py", 3)], 100 * cb.MS, gil_ns=20 * cb.MS)
    builder.blame(site, [("g", "a.py", 2)], 20 * cb.MS, gil_ns=60 * cb.MS)
    row = next(line for line in text(profile(builder)).splitlines() if line.startswith("_lock "))
    assert row.endswith(" 80 %")


def test_threads_without_a_line_are_counted_one_by_one() -> None:
    [thread, *_] = profile(cb.example()).threads
    lines = [replace(thread, native_id=number, wait_ticks=100 - number) for number in range(12)]
    lines[-1] = replace(lines[-1], threads=4_000)  # those that found no room
    assert "and 4,001 more threads that waited" in text(replace(profile(cb.example()), threads=tuple(lines)))


def test_names_of_threads_are_whole_where_no_terminal_is_narrow() -> None:
    builder = cb.CaptureBuilder()
    name = "a_thread_with_a_name_" * 3
    builder.thread(name, "a_function_with_a_name_" * 9)
    line = next(line for line in output_of("threads", profile(builder)).splitlines() if line.startswith(name))
    assert line.startswith(name + " ")


def test_first_sentence_names_the_worst_wait() -> None:
    assert findings(profile(cb.example()))[0] == (
        "`PriceCache.fast_lookup` (cache.py:63) waited 3.7 s in 45 waits for `PriceCache._lock`; for 2 % of "
        "that it had the lock, but not the GIL."
    )


def test_blame_is_told_first() -> None:
    sentences = findings(profile(cb.example(grown=True)))
    assert sentences[0] == (
        "`PriceCache.slow_report` (cache.py:118) held `PriceCache._lock` 15 times while others wanted it and made on "
        "average 3 threads wait at a time, 3.8 s in all; 2 % of all waiting for it was the GIL."
    )
    assert sentences[1].startswith("`PriceCache.fast_lookup` (cache.py:63) waited")


@pytest.mark.parametrize(
    ("waiters", "told"),
    [
        (
            [2, 2],
            "held `_lock` 2 times while others wanted it and made on average 2 threads wait at a time, 60 ms in all.",
        ),
        ([2, 3, 3], "made on average 2.7 threads wait at a time, 90 ms in all."),
        ([1, 1], "made 1 thread wait at a time, 60 ms in all."),
        ([1], "held `_lock` 1 time while others wanted it and made 1 thread wait 30 ms."),
        ([4], "held `_lock` 1 time while others wanted it and made 4 threads wait 30 ms in all."),
        ([0], "and made threads wait 30 ms in all."),  # they gave up before it was over
    ],
)
def test_number_of_threads_that_a_hold_made_wait(waiters: list[int], told: str) -> None:
    builder = cb.CaptureBuilder(grown=True)
    site = builder.site("_lock", ("f", "a.py", 1))
    for number in waiters:
        builder.blame(site, [("g", "a.py", 2)], 30 * cb.MS, waiters=number)
    builder.wait(site, "lock", [("h", "a.py", 3)], 30 * cb.MS)
    assert findings(profile(builder))[0].endswith(told)


def test_waits_that_gave_up_are_not_taken_for_threads() -> None:
    builder = cb.CaptureBuilder(grown=True)
    site = builder.site("_lock", ("f", "a.py", 1))
    builder.wait(site, "lock", [("h", "a.py", 3)], *[10 * cb.MS] * 3, timeouts=3)  # all of them by one thread
    builder.blame(site, [("g", "a.py", 2)], 30 * cb.MS, waiters=3)
    assert findings(profile(builder))[0].endswith("1 time while others wanted it and made threads wait 30 ms in all.")


def test_much_gil_is_told() -> None:
    builder = cb.CaptureBuilder(grown=True)
    site = builder.site("_lock", ("f", "a.py", 1))
    builder.wait(site, "lock", [("h", "a.py", 3)], 100 * cb.MS, gil_ns=20 * cb.MS)
    builder.blame(site, [("g", "a.py", 2)], 20 * cb.MS, gil_ns=60 * cb.MS)
    sentences = findings(profile(builder))
    assert "80 % of all waiting for it was the GIL" in sentences[0]
    assert any(
        "80 % of the waiting for `_lock` was for the GIL: its owner waited for it for 60 %" in s for s in sentences
    )


def test_shares_of_the_waiting_are_told_and_what_is_not_over_too() -> None:
    builder = cb.CaptureBuilder(grown=True)
    site = builder.site("_lock", ("f", "a.py", 1))
    builder.wait(site, "lock", [("h", "a.py", 3)], 100 * cb.MS, gil_ns=10 * cb.MS)
    builder.blame(site, [("g", "a.py", 2)], 50 * cb.MS, gil_ns=20 * cb.MS, handoff_ns=5 * cb.MS)
    output = " ".join(text(profile(builder)).split())
    assert (
        "Of the waiting for _lock: 50 % while it was held, 20 % while its owner waited for the GIL, 5 % between two "
        "owners, 10 % for the own GIL, 15 % in holds that are not over." in output
    )


def test_no_contention_is_said_plainly() -> None:
    builder = cb.CaptureBuilder()
    assert findings(profile(builder)) == ["No lock was used."]
    builder.site("_lock", ("f", "a.py", 1)).hold(100, times=1_234)
    assert findings(profile(builder)) == [
        "No thread had to wait for a lock: 1,234 acquisitions of locks created at 1 place, none contended."
    ]
    assert "Where threads waited" not in text(profile(builder))


def test_threads_that_still_wait_are_named() -> None:
    builder = cb.CaptureBuilder()
    builder.site("_lock", ("f", "a.py", 1)).counters["waiters"] = 2
    assert findings(profile(builder)) == ["2 threads still waited for `_lock` when this was read."]


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("running", "`late` has waited 4.0 s so far for `_lock` in `g` (b.py:7)."),
        ("exited", "`late` had waited 4.0 s for `_lock` in `g` (b.py:7) when the recording ended."),
        (
            "killed",
            "`late` was waiting for `_lock` in `g` (b.py:7) when the recording ended; for how long is not known.",
        ),
    ],
)
def test_wait_that_is_not_over_is_told(state: str, told: str) -> None:
    builder = cb.CaptureBuilder(state=1, pid=2**22 + 1, grown=True)
    site = builder.site("_lock", ("f", "/srv/a.py", 1))
    site.counters["waiters"] = 1
    builder.thread("late", "run")
    builder.waits_for(1, 0xABC0, site, since_ns=6 * cb.SECOND, places=[("g", "/srv/b.py", 7)])
    read = profile(builder)
    if state != "killed":
        waiting = tuple(replace(wait, elapsed_ticks=4 * cb.SECOND * cb.TICKS_PER_NS) for wait in read.waiting)
        read = replace(read, process=replace(read.process, state=state), waiting=waiting)
    assert findings(read) == [told]


def open_waits(kinds: list[tuple[str, str]], **options: int) -> cb.CaptureBuilder:
    """Threads `late-1`, ... that wait, each for another (kind, name) and a second longer than the next."""
    builder = cb.CaptureBuilder(grown=True, **options)
    for number, (kind, name) in enumerate(kinds, 1):
        builder.thread(f"late-{number}", "run")
        site = builder.site(name, ("f", "/srv/a.py", number))
        builder.waits_for(number, 0xABC0, site, kind=kind, since_ns=number * cb.SECOND, places=[("g", "/srv/b.py", 7)])
    return builder


@pytest.mark.parametrize(
    ("kind", "what"),
    [("semaphore", "a permit of `slots`"), ("queue.put", "room in `slots`"), ("pool", "a connection of `slots`")],
)
@pytest.mark.parametrize(
    ("state", "told"),
    [
        (2, "`late-1` had waited 9.0 s for {} in `g` (b.py:7) when the recording ended."),
        (1, "`late-1` was waiting for {} in `g` (b.py:7) when the recording ended; for how long is not known."),
    ],
)
def test_wait_for_a_permit_or_for_room_that_is_not_over_is_told(kind: str, what: str, state: int, told: str) -> None:
    builder = open_waits([(kind, "slots")], state=state, pid=2**22 + 1)
    assert told.format(what) in findings(profile(builder))


def test_longest_waits_for_permits_are_told_one_by_one_and_the_others_counted() -> None:
    builder = open_waits([("semaphore", "slots")] * 5)
    sentences = findings(profile(builder))
    assert [sentence.split(" had")[0] for sentence in sentences[:3]] == ["`late-1`", "`late-2`", "`late-3`"]
    assert sentences[3] == "2 more threads still waited for a permit or for room when this was read."


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("condition", "a notification of `it`"),
        ("event", "the event `it`"),
        ("queue.get", "an item of `it`"),
        ("barrier", "the others at `it`"),
        ("future", "a result"),
        ("join", "the end of a thread"),
    ],
)
def test_waits_for_work_that_are_not_over_are_told_in_one_sentence(kind: str, what: str) -> None:
    assert findings(profile(open_waits([(kind, "it")])))[-1] == (
        f"1 thread still waited for work or for news, which may be as it should: `late-1` for 9.0 s for {what} in "
        "`g` (b.py:7)."
    )
    assert findings(profile(open_waits([(kind, "it"), ("event", "that")])))[-1] == (
        "2 threads still waited for work or for news, which may be as it should: the longest, `late-1`, for 9.0 s for "
        f"{what} in `g` (b.py:7)."
    )


def test_length_of_a_wait_that_is_not_over_goes_up_to_the_end_of_the_recording() -> None:
    builder = cb.CaptureBuilder(grown=True)
    builder.thread("late", "run")
    builder.waits_for(1, 0xABC0, builder.site("_lock", ("f", "a.py", 1)), since_ns=6 * cb.SECOND)
    assert [wait.elapsed_s for wait in profile(builder).waiting] == [4]


def test_longest_waits_that_are_not_over_are_told_before_shorter_ones_that_are() -> None:
    builder = cb.CaptureBuilder(grown=True)
    site = builder.site("_lock", ("f", "/srv/a.py", 1))
    builder.wait(site, "lock", [("h", "a.py", 3)], 100 * cb.MS)
    site.counters["waiters"] = 5
    for number in range(5):
        builder.thread(f"late-{number}", "run")
        builder.waits_for(number + 1, 0xABC0, site, since_ns=(9 - number) * cb.SECOND, places=[("g", "/srv/b.py", 7)])
    sentences = findings(profile(builder))
    assert [sentence.split(" had")[0] for sentence in sentences[:3]] == ["`late-4`", "`late-3`", "`late-2`"]
    assert sentences[3] == "2 more threads still waited for `_lock` when this was read."
    assert sentences[4].startswith("`h` (a.py:3) waited 100 ms")


def test_lock_that_is_only_waited_for_stands_before_those_without_waits() -> None:
    builder = cb.CaptureBuilder(grown=True)
    builder.site("long", ("f", "a.py", 1)).hold(9 * cb.SECOND)
    builder.site("stuck", ("f", "a.py", 2)).counters["waiters"] = 2
    output = text(profile(builder))
    assert [lock.name for lock in profile(builder).locks] == ["stuck", "long"]
    row = next(line for line in output.splitlines() if line.startswith("stuck "))
    assert " 2 open " in row


@pytest.mark.parametrize(
    ("paused_ns", "sentence"), [(0, ""), (900_000, ""), (4 * cb.SECOND, "paused for 4.0 s of 12 s")]
)
def test_a_pause_is_said_first_and_holds_are_compared_with_the_rest(paused_ns: int, sentence: str) -> None:
    builder = cb.example(grown=True)
    builder.paused_ns = paused_ns
    of = profile(builder)
    said = f"Recording was {sentence}; what happened then is not in these numbers."
    for form in ("text", "threads", "html"):
        stream = io.StringIO()
        render(of, form, stream)
        assert (said in stream.getvalue()) == bool(sentence)
    assert (findings(of)[0] == said) == bool(sentence)
    held = next(line for line in findings(of) if "of the time altogether" in line)
    share = of.locks[0].hold_s / (12.3 - paused_ns / cb.SECOND)
    assert f"for {100 * share:.0f} % of the time" in held


@pytest.mark.parametrize(
    ("paused_ns", "share"),
    [(0, ", 20 % of the time"), (6 * cb.SECOND, ", 50 % of the time"), (9 * cb.SECOND, "")],
)
def test_full_pool_is_compared_with_the_time_recorded(paused_ns: int, share: str) -> None:
    builder = cb.CaptureBuilder(duration_ns=10 * cb.SECOND)
    builder.paused_ns = paused_ns
    pool = PoolRow("mail", 1, 2, 0, 0, 10, 10, 0, 0, 2, 900_000, 500_000, 3_000_000, 2_000_000, 1e-6)
    sentences = findings(replace(profile(builder), pools=(pool,)))
    assert any(line.endswith(f": all workers were busy for 2.0 s{share}.") for line in sentences), sentences


def test_deadlock_says_where_its_threads_stand() -> None:
    builder = cb.CaptureBuilder(grown=True)
    for number, name in enumerate(["one", "two"], 1):
        builder.thread(name, "run")
        site = builder.site(f"lock_{name}", ("f", "/srv/a.py", number))
        site.counters["waiters"] = 1
        builder.waits_for(number, 0xABC0 + number, site, since_ns=7 * cb.SECOND, places=[("g", "/srv/b.py", number)])
    steps = [
        {"thread": "one", "for": "lock_one", "created": "a.py:1", "held_by": "two"},
        {"thread": "two", "for": "lock_two", "created": "a.py:2", "held_by": "one"},
    ]
    builder.note(json.dumps({"deadlock": {"length": 2, "threads": steps}}))
    (sentence,) = findings(profile(builder))
    assert sentence.endswith(
        "held by `one`. Where they stand: `one` in `g` (b.py:1) for 3.0 s, `two` in `g` (b.py:2) for 3.0 s."
    )


def test_share_of_all_the_time_is_not_told_where_its_length_is_not_known() -> None:
    told = []
    for state in (1, 2):
        builder = cb.CaptureBuilder(state=state, pid=2**22 + 1)
        builder.site("_lock", ("f", "a.py", 1)).hold(cb.SECOND)
        told.append(findings(profile(builder))[-1])
    assert told == [
        "`_lock` was held for up to 1.0 s at a time.",
        "`_lock` was held for up to 1.0 s at a time and for 10 % of the time altogether.",
    ]


@pytest.mark.parametrize(("for_locks", "is_told"), [(0, True), (29, True), (31, False)])
def test_more_waiting_for_permits_than_for_locks_is_told_first(for_locks: int, is_told: bool) -> None:
    builder = cb.CaptureBuilder()
    site = builder.site("_lock", ("f", "a.py", 1))
    site.hold(100)
    if for_locks:
        builder.wait(site, "lock", [("h", "a.py", 3)], for_locks * cb.MS)
    builder.wait(builder.site("pool", ("f", "a.py", 5)), "semaphore", [("g", "a.py", 4)], 10 * cb.MS, 20 * cb.MS)
    assert (
        findings(profile(builder))[0].startswith("Threads waited 30 ms for permits or for room, more than for locks")
        == is_told
    )
    assert (
        any("30 ms of it in `g` (a.py:4), in 2 waits for `pool` (semaphore)." in s for s in findings(profile(builder)))
        == is_told
    )


def test_lock_without_a_name_shows_its_place_once() -> None:
    builder = cb.CaptureBuilder()
    builder.site("a.py:1", ("Cache.__init__", "/srv/a.py", 1)).hold(100)
    output = text(profile(builder))
    assert (output.count("a.py:1"), output.count("Cache.__init__")) == (1, 1)


def test_killed_process_is_pointed_out() -> None:
    builder = cb.CaptureBuilder(state=1, pid=2**22 + 1)
    assert "ended without closing its recording" in text(profile(builder))


def test_names_from_the_program_cannot_steer_the_terminal() -> None:
    builder = cb.CaptureBuilder()
    builder.program = b"\x1b[2Jevil\r"
    site = builder.site("\x1b]0;title\x07[bold]x[/bold]", ("f\nf", "a\u202eb.py", 1))
    builder.wait(site, "lock", [("g\x9b2J", "c.py", 1)], 5_000)
    builder.thread("\x1b[31m", "h\x00")
    builder.note('{"what": "\\u001b[1m", "count": 1, "where": ["\\r\\n"]}')
    output = text(profile(builder))
    assert not set(output) & set("\x1b\r\x07\x9b\x00\u202e")
    assert "[bold]x[/bold]" in output


def test_stream_that_is_not_utf8_gets_the_report() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    render(profile(cb.example()), "text", stream)
    render(profile(cb.example()), "json", stream)


@pytest.mark.parametrize(
    ("value_s", "expected"),
    [
        (0, "0"),
        (1e-9, "1 ns"),
        (42e-9, "42 ns"),
        (999.4e-9, "999 ns"),
        (999.6e-9, "1.0 µs"),
        (1.24e-3, "1.2 ms"),
        (9.96e-3, "10 ms"),
        (0.12, "120 ms"),
        (5.4, "5.4 s"),
        (999, "999 s"),
        (1020, "17 min"),
        (90_000, "25 h"),
    ],
)
def test_durations_read_well(value_s: float, expected: str) -> None:
    assert duration(value_s) == expected
    assert len(duration(value_s)) <= 7


def test_shares_and_counts_read_well() -> None:
    shares = [(0, "0"), (1, "<0.1 %"), (9, "0.1 %"), (94, "0.9 %"), (96, "1 %"), (200, "2 %"), (9_999, "99 %")]
    assert [percent(part, 10_000) for part, _ in shares] == [expected for _, expected in shares]
    assert (percent(7, 7), percent(1, 0)) == ("100 %", "0")
    assert [short(number) for number in (0, 999_999, 3_440_000, 12 * 10**9)] == ["0", "999,999", "3.4 M", "12 G"]
    assert (count(1, "wait"), count(4500, "wait")) == ("1 wait", "4,500 waits")


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad\n.ttc"
    bad.write_bytes(CAPTURE.read_bytes()[:5000])
    for path, reason in [
        (bad, f"truncated: 5000 of {CAPTURE.stat().st_size} bytes"),
        (tmp_path / "none", "No such file or directory"),
        (tmp_path, "not a capture: it is a directory"),
    ]:
        assert run(path) == 2
        printed = capsys.readouterr()
        shown = str(path).replace("\n", "\ufffd")
        assert (printed.out, printed.err) == ("", f"tracedthread: {shown}: {reason}\n")


def test_unwritable_output_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "none" / "out"
    assert run(CAPTURE, "-o", out) == 2
    assert capsys.readouterr().err == f"tracedthread: {out}: No such file or directory\n"


def test_output_never_replaces_the_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "app.ttc"
    path.write_bytes(CAPTURE.read_bytes())
    assert run(path, "-o", path) == 2
    assert capsys.readouterr().err == f"tracedthread: {path}: this is the recording itself\n"
    assert path.read_bytes() == CAPTURE.read_bytes()


@pytest.mark.parametrize("form", list(FORMATS))
def test_broken_pipe_is_quiet(form: str) -> None:
    code = (
        "import argparse, sys\n"
        "from tracedthread.commands import report\n"
        f"options = dict(format={form!r}, output=None, threads=False, waits={FORMATS[form].has_sides})\n"
        f"sys.exit(report.main(argparse.Namespace(file={str(CAPTURE)!r}, **options)))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=writing,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_json_report_needs_neither_rich_nor_the_native_code() -> None:
    code = (
        "import argparse, sys\n"
        "from tracedthread.commands import report\n"
        f"report.main(argparse.Namespace(file={str(CAPTURE)!r}, format='json', output=None, waits=False, threads=False))\n"
        "print(sorted({'rich', 'tracedthread._native', 'tracedthread._types'} & set(sys.modules)), file=sys.stderr)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, timeout=60, check=True)
    assert done.stderr == b"[]\n"
    assert json.loads(done.stdout) == Profile.from_capture(Capture.open(CAPTURE)).to_dict()
