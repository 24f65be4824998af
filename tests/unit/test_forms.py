"""
The forms that other tools read: collapsed stacks, pprof, speedscope, Perfetto; and how a form is chosen.

pprof's and Perfetto's messages are read back through protobuf; `tests/e2e/test_html.py` opens the page.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import capture_builder as cb
import pytest

from tracedthread import pprof
from tracedthread.capture import Capture
from tracedthread.commands import report
from tracedthread.export import FORMATS, extra, form_of, render
from tracedthread.export.holds import holds
from tracedthread.layout import KINDS
from tracedthread.profile import Profile

GOLDEN = Path(__file__).parents[1] / "golden"
PLACE = ("Cache.__init__", "/srv/cache.py", 41)
WAITER = [("lookup", "/srv/cache.py", 63), ("main", "/srv/app.py", 2)]
HOLDER = [("report", "/srv/jobs.py", 118), ("main", "/srv/app.py", 3)]


def profile(builder: cb.CaptureBuilder) -> Profile:
    return Profile.from_capture(Capture.from_buffer(builder.build()))


def rendered(of: Profile, form: str, **options: bool) -> bytes:
    if FORMATS[form].is_binary:
        binary = io.BytesIO()
        render(of, form, binary, **options)
        return binary.getvalue()
    text = io.StringIO()
    render(of, form, text, **options)
    return text.getvalue().encode()


def run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    report.add_parser(parser.add_subparsers())
    args = parser.parse_args(["report", *map(str, arguments)])
    return int(args.main(args))


SHOP = profile(cb.example(grown=True))
EMPTY = profile(cb.CaptureBuilder())


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "app.ttc"
    path.write_bytes(cb.example(grown=True).build())
    return path


def hostile() -> Profile:
    builder = cb.CaptureBuilder(grown=True)
    builder.program = b"</script>\x1b[2J"
    site = builder.site("a;b 1\n<b>", ("f", "/srv/</script>.py", 1))
    stack = [("g;\x00\u202e'\"", "/srv/&.py", 2), ("<module>", "", 0)]
    builder.thread("<img onerror=x>", "h", wait_ns=1)
    builder.wait(site, "lock", stack, cb.MS)
    builder.blame(site, stack, cb.MS)
    builder.event(site, stack, 0, cb.MS, thread=1, holder=1, release=stack)
    return profile(builder)


@pytest.mark.parametrize("form", list(FORMATS))
@pytest.mark.parametrize("of", [SHOP, EMPTY, hostile(), profile(cb.example())], ids=["shop", "empty", "hostile", "old"])
def test_every_form_can_be_rendered_and_twice_the_same(form: str, of: Profile) -> None:
    assert rendered(of, form) == rendered(of, form)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.txt", "text"),
        ("a.JSON", "json"),
        ("a.html", "html"),
        ("a.folded", "collapsed"),
        ("a.collapsed", "collapsed"),
        ("a.pb.gz", "pprof"),
        ("a.pprof", "pprof"),
        ("a.pb", "pprof"),
        ("a.speedscope.json", "speedscope"),
        ("a.pftrace", "perfetto"),
        ("a.perfetto-trace", "perfetto"),
        ("a.gz", None),
        ("json", None),
        ("html.d/a", None),
    ],
)
def test_suffix_chooses_the_form(name: str, form: str | None) -> None:
    assert form_of(name) == form


def test_suffix_of_the_output_is_used_unless_a_format_is_given(recording: Path, tmp_path: Path) -> None:
    assert run(recording, "-o", tmp_path / "a.collapsed") == 0
    assert (tmp_path / "a.collapsed").read_bytes() == rendered(SHOP, "collapsed")
    assert run(recording, "-o", tmp_path / "b.json", "--format", "text") == 0
    assert (tmp_path / "b.json").read_bytes() == rendered(SHOP, "text")
    assert run(recording, "-o", tmp_path / "c.pb.gz", "--waits") == 0
    assert (tmp_path / "c.pb.gz").read_bytes() == rendered(SHOP, "pprof", waits=True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-f", "json"], "is a form of its own, and -f asks for json"),
        (["-f", "text"], "is a form of its own, and -f asks for text"),
        (["-f", "pprof", "-o", "a"], "is a form of its own, and -f asks for pprof"),
        (["-o", "a\r.html"], "is text, and a\ufffd.html asks for html"),
    ],
)
def test_threads_is_refused_in_another_form(
    arguments: list[str],
    reason: str,
    recording: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(recording.parent)
    assert run(recording, "--threads", *arguments) == 2
    assert capsys.readouterr() == ("", f"tracedthread: --threads: {reason}\n")
    assert [path.name for path in recording.parent.iterdir()] == [recording.name]


@pytest.mark.parametrize("name", ["out", "out.txt", "out.log"])
def test_threads_can_be_written_to_any_file_that_is_not_of_another_form(name: str, recording: Path) -> None:
    assert run(recording, "--threads", "-o", recording.with_name(name)) == 0
    assert recording.with_name(name).read_bytes() == rendered(SHOP, "threads")


def test_unknown_suffix_is_refused_unless_a_format_is_given(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = recording.with_name("out.svg")
    assert run(recording, "-o", out) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"tracedthread: {out}: no form has the suffix .svg, but .txt, .json, ")
    assert printed.err.count("\n") == 1
    assert not out.exists()
    assert run(recording, "-f", "text", "-o", out) == 0
    assert out.read_bytes() == rendered(SHOP, "text")


@pytest.mark.parametrize("form", [name for name, form in FORMATS.items() if not form.has_sides])
def test_waits_is_refused_where_there_is_no_choice(
    form: str, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(recording, "--format", form, "--waits") == 2
    assert capsys.readouterr() == ("", "tracedthread: --waits: only for collapsed and pprof\n")


@pytest.mark.parametrize("form", [name for name, form in FORMATS.items() if form.is_binary])
def test_binary_form_goes_to_a_pipe_but_not_to_a_terminal(
    form: str, recording: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return is_terminal

    for is_terminal in (True, False):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", Terminal(raw))
        assert run(recording, "--format", form) == (2 if is_terminal else 0)
        assert raw.getvalue() == (b"" if is_terminal else rendered(SHOP, form))
    line = f"tracedthread: standard output: is a terminal, and {form} is binary; -o OUT writes it to a file\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("form", ["pprof", "perfetto"])
def test_missing_package_is_one_line_that_names_the_extra(
    form: str, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("google.protobuf", "perfetto.protos.perfetto.trace.perfetto_trace_pb2"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "tracedthread.pprof", raising=False)  # it has what it needs
    out = tmp_path / "out"
    assert run(recording, "--format", form, "-o", out) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"tracedthread: {form}: this form needs pip install 'tracedthread[reports]' (")
    assert line.count("\n") == 1
    assert not out.exists()


def test_recording_without_blame_is_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = GOLDEN / "shop.ttc"
    assert run(path, "--format", "collapsed") == 0
    line = f"tracedthread: {path}: nobody to blame is recorded; --waits shows who waited\n"
    assert capsys.readouterr() == ("", line)
    assert run(path, "--format", "collapsed", "--waits") == 0
    assert capsys.readouterr().err == ""


def test_collapsed_stacks_are_a_line_each_root_first_with_nanoseconds() -> None:
    assert rendered(SHOP, "collapsed").decode().splitlines()[:2] == [
        "report_loop (jobs.py:44);PriceCache.slow_report (cache.py:118);[PriceCache._lock] 3793950000",
        "refresh_loop (jobs.py:31);PriceCache.refresh (cache.py:99);[PriceCache._lock] 12000000",
    ]
    waits = rendered(SHOP, "collapsed", waits=True).decode().splitlines()
    assert sum(int(line.rpartition(" ")[2]) for line in waits) == round(SHOP.to_dict()["totals"]["wait_s"] * 1e9)


def test_collapsed_stacks_of_hostile_names_are_still_a_line_each() -> None:
    [line] = rendered(hostile(), "collapsed").decode().splitlines()
    assert line == "<module>;g,\ufffd\ufffd'\" (&.py:2);[a,b 1\ufffd<b>] 1000000"


def test_collapsed_stacks_go_to_a_stream_that_is_not_utf8() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    render(hostile(), "collapsed", stream)


def test_speedscope_has_a_profile_a_side() -> None:
    document = json.loads(rendered(SHOP, "speedscope"))
    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    frames = document["shared"]["frames"]
    for side, total in zip(document["profiles"], (SHOP.blame_s, SHOP.to_dict()["totals"]["wait_s"])):
        assert (side["type"], side["unit"], side["startValue"]) == ("sampled", "nanoseconds", 0)
        assert side["endValue"] == sum(side["weights"]) == round(total * 1e9)
        assert len(side["samples"]) == len(side["weights"])
        assert all(0 <= number < len(frames) for sample in side["samples"] for number in sample)
    first = [frames[number] for number in document["profiles"][0]["samples"][0]]
    assert [frame["name"] for frame in first] == ["report_loop", "PriceCache.slow_report", "[PriceCache._lock]"]
    assert first[1] == {"name": "PriceCache.slow_report", "file": "/srv/shop/cache.py", "line": 118}


def test_speedscope_leaves_out_an_empty_side() -> None:
    assert [side["name"][:5] for side in json.loads(rendered(profile(cb.example()), "speedscope"))["profiles"]] == [
        "waits"
    ]
    assert len(json.loads(rendered(EMPTY, "speedscope"))["profiles"]) == 1


def pprof_of(of: Profile, **options: bool) -> Any:
    data = rendered(of, "pprof", **options)
    return pprof._profile_type().FromString(gzip.decompress(data))


def test_pprof_is_like_the_mutex_profile_of_go() -> None:
    message = pprof_of(SHOP)
    text = message.string_table
    assert text[0] == ""
    assert [(text[kind.type], text[kind.unit]) for kind in message.sample_type] == [
        ("contentions", "count"),
        ("delay", "nanoseconds"),
    ]
    assert (text[message.period_type.type], text[message.period_type.unit], message.period) == (
        "contentions",
        "count",
        1,
    )
    assert message.time_nanos == cb.FIRST_WALL_NS
    assert message.duration_nanos == 12_300 * cb.MS
    functions = {function.id: function for function in message.function}
    locations = {location.id: location for location in message.location}
    assert {location.mapping_id for location in message.location} == {message.mapping[0].id}
    assert 0 not in functions.keys() | locations.keys()
    worst = message.sample[0]
    lines = [locations[number].line[0] for number in worst.location_id]
    assert [(text[functions[line.function_id].name], line.line) for line in lines] == [
        ("PriceCache.slow_report", 118),
        ("report_loop", 44),
    ]
    assert list(worst.value) == [15, 3_793_950_000]
    assert [(text[label.key], text[label.str]) for label in worst.label] == [("lock", "PriceCache._lock")]
    assert sum(sample.value[1] for sample in message.sample) == round(SHOP.blame_s * 1e9)


def test_pprof_of_the_waiters_side() -> None:
    message = pprof_of(SHOP, waits=True)
    assert sum(sample.value[0] for sample in message.sample) == SHOP.totals.contended
    assert sum(sample.value[1] for sample in message.sample) == round(SHOP.to_dict()["totals"]["wait_s"] * 1e9)


def perfetto_of(of: Profile) -> Any:
    protos = extra.load("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
    return protos.Trace.FromString(rendered(of, "perfetto"))


def slices_of(trace: Any) -> list[dict[str, Any]]:
    """Slices as Perfetto pairs them: an end ends the innermost slice of its track."""
    opened: dict[int, list[dict[str, Any]]] = {}
    result = []
    for packet in trace.packet:
        event = packet.track_event
        if event.type == event.TYPE_SLICE_BEGIN:
            notes = {note.name: note.string_value for note in event.debug_annotations}
            parents = opened.setdefault(event.track_uuid, [])
            row = {"track": event.track_uuid, "name": event.name, "start": packet.timestamp, "notes": notes}
            row.update(depth=len(parents), into=list(event.terminating_flow_ids))
            parents.append(row)
        elif event.type == event.TYPE_SLICE_END:
            result.append({**opened[event.track_uuid].pop(), "end": packet.timestamp, "out": list(event.flow_ids)})
    assert not any(opened.values())
    return result


def test_perfetto_has_a_track_a_thread_with_waits_holds_and_arrows() -> None:
    trace = perfetto_of(SHOP)
    tracks = {p.track_descriptor.uuid: p.track_descriptor for p in trace.packet if p.HasField("track_descriptor")}
    names = {uuid: track.thread.thread_name for uuid, track in tracks.items() if track.HasField("thread")}
    assert sorted(names.values()) == sorted(thread.name for thread in SHOP.threads)
    assert len({track.thread.tid for track in tracks.values() if track.HasField("thread")}) == len(names)
    slices = slices_of(trace)
    waits = [row for row in slices if row["name"] == "waits for PriceCache._lock"]
    assert len(waits) == len(SHOP.events)
    # Three of the waits are by a thread that found no room in the recording.
    others = {uuid: track.name for uuid, track in tracks.items() if track.name == "(other)"}
    assert {(names | others)[row["track"]] for row in waits} == {*(f"worker-{n}" for n in range(1, 5)), "(other)"}
    wait = min((row for row in waits if row["track"] in names), key=lambda row: row["start"])
    assert wait["start"] == cb.FIRST_WALL_NS + 4 * cb.SECOND
    assert wait["notes"]["holder"] == "report"
    assert "PriceCache.slow_report cache.py:118" in wait["notes"]["released at"]
    held = [row for row in slices if row["name"] == "holds PriceCache._lock"]
    assert {names[tracks[row["track"]].parent_uuid] for row in held} == {"report", "worker-1", "worker-2"}
    woken = {flow: row for row in slices for flow in row["into"]}
    arrows = [(row, woken[flow]) for row in held for flow in row["out"]]
    assert len(arrows) == len(woken) == 7
    for hold, wait in arrows:
        assert hold["end"] == wait["start"]
        assert wait["depth"] == 1  # within the wait: it has the lock, and waits for the GIL
    counters = [p.track_event.counter_value for p in trace.packet if p.track_event.type == p.track_event.TYPE_COUNTER]
    assert (max(counters), counters[-1]) == (3, 0)


def test_perfetto_waits_of_unknown_threads_that_overlap_are_on_tracks_of_one_name() -> None:
    builder = cb.CaptureBuilder(grown=True)
    site = builder.site("one", PLACE)
    spans = [(20, 40), (10, 50), (30, 60)]
    for start, end in spans:
        builder.event(site, WAITER, start * cb.MS, end * cb.MS, kind="rlock", lock=start)
    trace = perfetto_of(profile(builder))
    waits = [row for row in slices_of(trace) if row["name"].startswith("waits")]
    assert sorted((row["end"] - row["start"]) // cb.MS for row in waits) == [20, 30, 40]
    tracks = {p.track_descriptor.uuid: p.track_descriptor for p in trace.packet if p.HasField("track_descriptor")}
    assert [tracks[row["track"]].name for row in waits] == ["(other)"] * 3


@pytest.mark.parametrize("form", ["pprof", "perfetto"])
def test_a_number_that_a_form_does_not_have_is_one_line(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    builder = cb.example(grown=True)
    builder.pid = 1 << 31  # Perfetto's are 32 bits
    builder.blame(builder.site("_lock", PLACE), HOLDER, 1)
    next(reversed(builder.blames.values()))[0] = 1 << 63  # pprof's numbers are 63 bits
    path = tmp_path / "damaged.ttc"
    path.write_bytes(builder.build())
    assert run(path, "-f", form, "-o", tmp_path / "out") == 2
    assert capsys.readouterr().err.startswith(f"tracedthread: {path}: is damaged: ")
    assert not (tmp_path / "out").exists()


def test_perfetto_trace_is_in_order_of_time() -> None:
    times = [packet.timestamp for packet in perfetto_of(SHOP).packet if packet.timestamp]
    assert times == sorted(times)


def test_perfetto_holds_that_overlap_are_on_tracks_of_one_name() -> None:
    builder = cb.CaptureBuilder(grown=True)
    one, two = builder.site("one", PLACE), builder.site("two", PLACE)
    builder.thread("holder", "f", wait_ns=1)
    builder.event(one, WAITER, 0, 20 * cb.MS, lock=1, holder=1, release=HOLDER)
    builder.event(two, WAITER, 10 * cb.MS, 30 * cb.MS, lock=2, holder=1, release=HOLDER)
    trace = perfetto_of(profile(builder))
    held = [row for row in slices_of(trace) if row["name"].startswith("holds")]
    assert [(row["depth"], row["end"] - row["start"]) for row in held] == [(0, 20 * cb.MS)] * 2
    tracks = {p.track_descriptor.uuid: p.track_descriptor for p in trace.packet if p.HasField("track_descriptor")}
    assert len({row["track"] for row in held}) == 2
    assert {tracks[row["track"]].name for row in held} == {"holder holds"}


def test_hold_starts_where_its_holder_had_waited_or_where_the_hold_before_ended() -> None:
    known = holds(SHOP.events)[:3]
    ms = cb.MS * cb.TICKS_PER_NS
    starts = [hold.start_ticks / ms for hold in known]
    ends = [hold.end_ticks / ms for hold in known]
    assert [hold.thread_name for hold in known] == ["report", "worker-1", "worker-2"]
    assert starts[0] == 4000  # the first wait's
    assert starts[1:] == ends[:2]
    assert [hold.is_exact for hold in known] == [False, True, True]
    assert [hold.woken for hold in known] == [[3], [4], [5]]  # of the first three events it is not known


def test_a_hold_after_one_that_nobody_saw_end_starts_where_somebody_began_to_wait() -> None:
    builder = cb.CaptureBuilder(grown=True)
    site = builder.site("_lock", PLACE)
    builder.thread("first", "f", wait_ns=1)
    builder.thread("second", "f", wait_ns=1)
    builder.event(site, WAITER, 0, 10 * cb.MS, lock=1, thread=2, holder=1, release=HOLDER)  # then released, for nobody
    builder.event(site, WAITER, 1_000 * cb.MS, 1_020 * cb.MS, lock=1, thread=1, holder=2, release=HOLDER)
    _, again = holds(profile(builder).events)
    assert not again.is_exact
    assert again.end_ticks - again.start_ticks == 20 * cb.MS * cb.TICKS_PER_NS


def test_waits_that_gave_up_and_one_that_did_not_tell_of_one_hold() -> None:
    last = holds(SHOP.events)[-1]
    ms = cb.MS * cb.TICKS_PER_NS
    assert (last.start_ticks, last.end_ticks) == (9_000 * ms, 9_099 * ms)
    assert last.woken == [len(SHOP.events) - 1]
    assert sum(hold.end_ticks > 9_000 * ms for hold in holds(SHOP.events)) == 1


def test_holds_are_only_of_contention() -> None:
    builder = cb.CaptureBuilder(grown=True)
    site = builder.site("_lock", PLACE)
    builder.thread("waker", "f", wait_ns=1)
    for kind in KINDS:
        builder.event(site, WAITER, 0, cb.MS, kind=kind, lock=KINDS.index(kind), holder=1, release=HOLDER)
    assert [hold.lock_id for hold in holds(profile(builder).events)] == [0, 1]
