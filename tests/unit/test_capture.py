"""
The reader against the layout in native/capture.h, and against captures that are damaged in every way.
"""

from __future__ import annotations

import os
import re
import struct
import time
from pathlib import Path
from typing import Any

import capture_builder as cb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracedthread
from tracedthread import _core, layout
from tracedthread.capture import Capture, CaptureError
from tracedthread.histogram import BUCKETS, index_of, lower_edge_ns
from tracedthread.profile import Profile

HEADER_FILE = Path(__file__).parents[2] / "native" / "capture.h"
LAYOUTS: list[layout.Layout[Any]] = [
    layout.HEADER,
    layout.SECTION,
    layout.FRAME,
    layout.STACK,
    layout.SITE,
    layout.SITE_STATS,
    layout.CELL,
    layout.THREAD,
    layout.EVENT,
    layout.BLAME_CELL,
    layout.START,
    layout.CONTENDED_LOCK,
    layout.TOTALS_RECORD,
    layout.POOL,
]
RECORDS = [
    layout.Header,
    layout.Section,
    layout.FrameRecord,
    layout.StackRecord,
    layout.SiteRecord,
    layout.StatsRecord,
    layout.CellRecord,
    layout.ThreadRecord,
    layout.EventRecord,
    layout.BlameRecord,
    layout.StartRecord,
    layout.ContendedRecord,
    layout.TotalsRecord,
    layout.PoolRecord,
]
VALID = cb.example().build()


@pytest.fixture(scope="module")
def ffi() -> Any:
    cffi = pytest.importorskip("cffi")
    ffi = cffi.FFI()
    text = re.sub(r"//[^\n]*", "", HEADER_FILE.read_text())
    ffi.cdef(re.sub(r"(?m)^\s*#.*$", "", text))
    return ffi


def _flat_fields(ctype: Any, at: int = 0, prefix: str = "") -> list[tuple[str, int]]:
    fields = []
    for name, field in ctype.fields:
        if field.type.kind == "struct":
            fields += _flat_fields(field.type, at + field.offset, f"{prefix}{name}_")
        else:
            fields.append((prefix + name, at + field.offset))
    return fields


@pytest.mark.parametrize(
    ("mine", "record"), list(zip(LAYOUTS, RECORDS, strict=True)), ids=[mine.name for mine in LAYOUTS]
)
def test_layout_is_that_of_the_header(ffi: Any, mine: layout.Layout[Any], record: Any) -> None:
    assert mine.size == ffi.sizeof(mine.name)
    names = ["count" if name == "waits" else name for name in record._fields]
    assert list(zip(names, mine.offsets())) == _flat_fields(ffi.typeof(mine.name))


def test_every_struct_of_the_header_is_read() -> None:
    declared = set(re.findall(r"^\} (tt_\w+);", HEADER_FILE.read_text(), re.MULTILINE))
    assert declared - {"tt_anchor"} == {mine.name for mine in LAYOUTS}


def test_constants_are_those_of_the_header(ffi: Any) -> None:
    lib = ffi.dlopen(None)
    assert (layout.ABI, BUCKETS) == (lib.TT_ABI, lib.TT_HISTOGRAM_BUCKETS)
    assert [getattr(lib, f"TT_{name.upper()}") for name in layout.SECTION_NAMES] == list(range(lib.TT_SECTIONS))
    kinds = [getattr(lib, f"TT_KIND_{name.upper().replace('.', '_')}") for name in layout.KINDS]
    assert kinds == list(range(lib.TT_KINDS))
    assert (layout.SITE_UNRECORDED, layout.SITE_WAITER, layout.SITE_OTHER, layout.SITE_FIRST) == (
        lib.TT_SITE_UNRECORDED,
        lib.TT_SITE_WAITER,
        lib.TT_SITE_OTHER,
        lib.TT_SITE_FIRST,
    )
    assert (layout.STATE_RUNNING, layout.STATE_EXITED) == (lib.TT_STATE_RUNNING, lib.TT_STATE_EXITED)
    assert (lib.TT_LOCK, lib.TT_RLOCK) == (0, 1)
    assert (lib.TT_THREAD_FREE, lib.TT_THREAD_ENDED) == (layout.THREAD_FREE, layout.THREAD_ENDED)
    assert (lib.TT_ACQUIRED, lib.TT_TIMEOUT, lib.TT_INTERRUPTED) == (0, 1, 2)


def test_magic_is_that_of_the_header() -> None:
    assert r'"\x93TTC\r\n\x1a\n"' in HEADER_FILE.read_text()
    assert layout.MAGIC == b"\x93TTC\r\n\x1a\n"


def test_buckets_are_an_eighth_of_an_octave_wide() -> None:
    assert [index_of(lower_edge_ns(index)) for index in range(BUCKETS)] == list(range(BUCKETS))
    assert [index_of(lower_edge_ns(index + 1) - 1) for index in range(BUCKETS - 1)] == list(range(BUCKETS - 1))
    assert all(lower_edge_ns(index + 1) <= 1.125 * lower_edge_ns(index) for index in range(8, BUCKETS))
    assert index_of(2**63) == BUCKETS - 1
    assert all(index_of(ns) == cb.bucket(ns) for ns in (0, 1, 7, 8, 9, 15, 16, 17, 1000, 10**6, 10**12, 2**50))


def read(data: bytes) -> dict[str, Any]:
    return Profile.from_capture(Capture.from_buffer(data)).to_dict()


def patched(offset: int, form: str, *values: int, data: bytes = VALID) -> bytes:
    changed = bytearray(data)
    struct.pack_into("<" + form, changed, offset, *values)
    return bytes(changed)


def section_at(section_id: int) -> int:
    return 312 + 40 * section_id


def section(section_id: int, data: bytes = VALID) -> tuple[int, ...]:
    return struct.unpack_from("<4Q2I", data, section_at(section_id))


def test_file_and_buffer_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "app.ttc"
    path.write_bytes(VALID)
    from_file = Profile.from_capture(Capture.open(path))
    assert from_file == Profile.from_capture(Capture.from_buffer(VALID))
    assert from_file == Profile.from_capture(Capture.from_buffer(memoryview(bytearray(VALID))))


def test_strings_and_stacks_are_resolved() -> None:
    capture = Capture.from_buffer(VALID)
    assert (capture.program, capture.python) == ("app.py", "3.13.0")
    assert {capture.string(site.name) for site in capture.sites()} >= {"", "PriceCache._lock", "jobs"}
    stack = next(capture.stack(cell.stack) for cell in capture.cells() if cell.stack)
    assert [str(frame) for frame in stack[:2]] == ["PriceCache.fast_lookup cache.py:63", "checkout app.py:20"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a capture: it is empty"),
        (b"\x7fELF" + bytes(5000), "not a capture"),
        (b"\x93TT", "truncated: 3 bytes, the header alone has 312"),
        (VALID[:311], "truncated: 311 bytes, the header alone has 312"),
        (VALID[:-1], f"truncated: {len(VALID) - 1} of {len(VALID)} bytes"),
        (patched(8, "I", 7), "the capture has ABI 7, this tracedthread reads ABI 1"),
        (patched(12, "I", 311), "corrupt header: header_size 311"),
        (patched(16, "Q", 2**64 - 1), f"truncated: {len(VALID)} of {2**64 - 1} bytes"),
        (patched(16, "Q", 10), "corrupt header: header_size 312"),
        (patched(24, "I", 2**32 - 1), f"corrupt header: {2**32 - 1} sections"),
        (patched(40, "I", 9), "corrupt header: state 9"),
        (patched(48, "Q", 0), "corrupt header: the clock does not advance (ns_per_tick is 0)"),
        (patched(section_at(cb.CELLS), "Q", 2**64 - 1), "corrupt section table: cells lies outside of the capture"),
        (patched(section_at(cb.CELLS) + 8, "Q", 2**64 - 1), "corrupt section table: cells lies outside of the capture"),
        (patched(section_at(cb.CELLS), "Q", 0), "corrupt section table: cells lies outside of the capture"),
        (patched(section_at(cb.CELLS) + 16, "Q", 2**63), f"corrupt section table: cells uses {2**63} of "),
        (patched(section_at(cb.CELLS) + 32, "I", 63), "corrupt section table: cells of 63 bytes a record"),
        (patched(section_at(cb.CELLS) + 32, "I", 65), "corrupt section table: cells of 65 bytes a record"),
        (patched(section_at(cb.STRINGS) + 32, "I", 2), "corrupt section table: strings of 2 bytes a record"),
        (patched(section_at(cb.CELLS) + 36, "I", cb.SITES), "corrupt section table: sites twice"),
        (patched(section(cb.STACKS)[0] + 8, "I", 1), "corrupt stacks: 1 is called by 1"),
        (patched(section(cb.STACKS)[0] + 12, "I", 999), "corrupt stacks: 1 refers to frame 999 of "),
        (patched(section(cb.SITES)[0] + 72, "I", 2**32 - 4), "corrupt strings: reference 4294967292 of "),
        (patched(section(cb.SITES)[0] + 72, "I", 6), "corrupt strings: reference 6 of "),
        (patched(section(cb.STRINGS)[0] + 4, "I", 2**31), "corrupt strings: 2147483648 bytes at 4 of "),
        (patched(section(cb.SITES)[0] + 72 + 16, "I", 2), "corrupt sites: 3 is of type 2"),
        (patched(section(cb.CELLS)[0] + 64 * 11, "I", 99), "corrupt cells: 11 refers to site 99 of 7"),
        (patched(section(cb.CELLS)[0] + 64 * 11 + 4, "I", 9999), "corrupt stacks: reference 9999 of "),
        (patched(section(cb.CELLS)[0] + 64 * 11 + 8, "I", 11), "corrupt cells: 11 is of kind 11"),
        (patched(section(cb.THREADS)[0] + 88 + 84, "I", 4), "corrupt threads: 1 is in state 4"),
    ],
)
def test_damage_is_one_clear_line(data: bytes, reason: str) -> None:
    with pytest.raises(CaptureError) as caught:
        read(data)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


@settings(max_examples=400, deadline=2000)
@given(
    flips=st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(1, 255)), max_size=12),
    in_table=st.lists(st.tuples(st.integers(8, 312 + 40 * 9 - 1), st.integers(1, 255)), max_size=3),
    length=st.one_of(st.none(), st.integers(0, len(VALID))),
)
def test_any_damage_is_read_or_refused(
    flips: list[tuple[int, int]], in_table: list[tuple[int, int]], length: int | None
) -> None:
    data = bytearray(VALID)
    for at, bits in flips + in_table:
        data[at] ^= bits
    try:
        read(bytes(data[:length]))
    except CaptureError as exc:
        assert "\n" not in str(exc)


@settings(max_examples=300, deadline=2000)
@given(
    section_id=st.integers(0, 8),
    at=st.floats(0, 1, exclude_max=True),
    value=st.sampled_from([0, 1, 2, 7, 255, 2**16, 2**31, 2**32 - 1]),
)
def test_any_wrong_reference_or_count_is_read_or_refused(section_id: int, at: float, value: int) -> None:
    offset, _, used, _, size, _ = section(section_id)
    word = int(min(used, 40) * size * at) // 4 * 4 if used * size >= 4 else 0
    try:
        read(patched(offset + word, "I", value))
    except CaptureError as exc:
        assert "\n" not in str(exc)


def test_truncation_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "app.ttc"
    for length in [*range(0, 1000, 37), *range(1000, len(VALID), 2999)]:
        path.write_bytes(VALID[:length])
        with pytest.raises(CaptureError):
            Capture.open(path)


def test_overlapping_strings_do_not_unfold() -> None:
    builder = cb.CaptureBuilder()
    for index in range(200):
        builder.site(f"name {index}", ("f", "a.py", index))
    # Every fourth byte begins a string that reaches to the end.
    data = bytearray(1 << 20)
    for at in range(4, 4 * 400, 4):
        struct.pack_into("<I", data, at, len(data) - at - 4)
    builder.strings = data
    builder.sites = builder.sites[:3] + [(4 + 4 * i, 0, 0, 0, 0, 0) for i in range(200)]
    with pytest.raises(CaptureError, match="they overlap"):
        read(builder.build())


def test_huge_sparse_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "huge.ttc"
    size = 1 << 40
    data = patched(16, "Q", size)
    data = patched(section_at(cb.FRAMES) + 8, "QQ", 1 << 32, 1 << 32, data=data)
    path.write_bytes(data)
    os.truncate(path, size)
    began = time.monotonic()
    with pytest.raises(CaptureError, match="too large"):
        Capture.open(path)
    assert time.monotonic() - began < 1


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="directory"):
        Capture.open(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CaptureError, match="not a regular file"):
        Capture.open(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        Capture.open(tmp_path / "none")


def test_unknown_sections_are_passed_over_and_missing_ones_are_empty() -> None:
    for section_id in range(9):
        data = patched(section_at(section_id) + 36, "I", 77)
        if section_id in (cb.STRINGS, cb.FRAMES, cb.STACKS, cb.SITES):
            with pytest.raises(CaptureError):  # what refers to them is still there
                read(data)
        else:
            assert read(data)["process"]["program"] == "app.py"
    without_any = patched(24, "I", 0)
    assert read(without_any)["locks"] == []


def test_longer_records_of_a_newer_writer_are_read() -> None:
    builder = cb.example()
    for section_id in (cb.FRAMES, cb.STACKS, cb.SITES, cb.STATS, cb.CELLS, cb.THREADS, cb.EVENTS):
        builder.record_sizes[section_id] += 24
    assert read(builder.build()) == read(VALID)


def test_longer_header_of_a_newer_writer_is_read() -> None:
    grown = bytearray(VALID[:312] + b"\xee" * 64 + VALID[312:])
    struct.pack_into("<I", grown, 12, 312 + 64)
    struct.pack_into("<Q", grown, 16, len(grown))
    for section_id in range(9):
        at = section_at(section_id) + 64
        struct.pack_into("<Q", grown, at, struct.unpack_from("<Q", grown, at)[0] + 64)
    assert read(bytes(grown)) == read(VALID)


def test_invalid_utf8_is_replaced() -> None:
    builder = cb.CaptureBuilder()
    builder.program = b"caf\xe9.py"
    site = builder.site("_lock", ("f", "a.py", 1))
    builder.sites[site.id] = (builder.string(b"\xff\xfe_lock"), *builder.sites[site.id][1:])
    report = read(builder.build())
    assert report["process"]["program"] == "caf\ufffd.py"
    assert report["locks"][0]["name"] == "\ufffd\ufffd_lock"


def test_seconds_use_the_slope_of_anchors_that_lie_apart() -> None:
    builder = cb.CaptureBuilder(duration_ns=10 * cb.MS)
    data = builder.build()
    assert Capture.from_buffer(data).tick_s == pytest.approx(0.5e-9)
    # The calibration was 10 % off.
    calibrated = patched(48, "Q", int(2**32 * 0.55), data=data)
    assert Capture.from_buffer(calibrated).tick_s == pytest.approx(0.5e-9)
    near = cb.CaptureBuilder(duration_ns=10 * cb.MS - 1)
    near.ns_per_tick = int(2**32 * 0.55)
    assert Capture.from_buffer(near.build()).tick_s == pytest.approx(0.55e-9)


@pytest.mark.parametrize(
    ("ticks", "monotonic_ns"),
    [
        (0, 2**64 - 1),
        (2**64 - 1, 2**64 - 1),
        (cb.FIRST_TICKS, cb.FIRST_MONOTONIC_NS + 10**10),
        (cb.FIRST_TICKS + 1, cb.FIRST_MONOTONIC_NS + 10**10),
        (2**64 - 1, cb.FIRST_MONOTONIC_NS + 10**10),
        (2**64 - 1, 0),
    ],
)
def test_absurd_anchors_fall_back_to_the_calibration(ticks: int, monotonic_ns: int) -> None:
    data = patched(80, "QQQ", ticks, monotonic_ns, 2**64 - 1)
    assert Capture.from_buffer(data).tick_s == pytest.approx(0.5e-9)
    assert read(data)["process"]["duration_s"] >= 0


def test_state_tells_a_killed_process_from_a_running_one() -> None:
    def state(pid: int, start: int, recorded: int = 1) -> str:
        builder = cb.CaptureBuilder(state=recorded, pid=pid)
        builder.process_start = start
        return Capture.from_buffer(builder.build()).state

    mine = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[19])
    assert state(os.getpid(), mine) == "running"
    assert state(os.getpid(), mine + 1) == "killed"  # the number was given to another process
    assert state(2**22 + 1, mine) == "killed"
    assert state(os.getpid(), mine, recorded=2) == "exited"


def test_whether_a_process_of_elsewhere_runs_is_not_known() -> None:
    """Its number may be anybody's here."""
    builder = cb.CaptureBuilder(duration_ns=cb.SECOND, state=1, pid=2**22 + 1)
    builder.pid_space = 4711
    builder.thread("worker", "f", start_ns=5 * cb.SECOND)
    capture = Capture.from_buffer(builder.build())
    assert (capture.state, capture.is_cut_off) == ("unknown", True)
    assert capture.end_ticks - capture.header.first_ticks == 5 * cb.SECOND * cb.TICKS_PER_NS
    assert Capture.from_buffer(builder.build()).of_running().state == "running"
    builder.state = 2
    assert Capture.from_buffer(builder.build()).of_running().state == "exited"


def test_a_process_of_here_is_known() -> None:
    with tracedthread.record():
        core = _core.loaded()
        assert core is not None
        capture = Capture.from_buffer(core.copy())
    assert capture.header.pid_space
    assert capture.state == "running"


def test_zombie_has_been_killed() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    try:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        builder = cb.CaptureBuilder(state=1, pid=child)
        builder.process_start = int(Path(f"/proc/{child}/stat").read_bytes().rpartition(b")")[2].split()[19])
        assert Capture.from_buffer(builder.build()).state == "killed"
    finally:
        os.waitpid(child, 0)


def test_killed_capture_lasts_until_its_newest_time_stamp() -> None:
    builder = cb.CaptureBuilder(duration_ns=0, state=1, pid=2**22 + 1)
    site = builder.site("_lock", ("f", "a.py", 1))
    builder.thread("worker", "f", start_ns=3 * cb.SECOND)
    assert read(builder.build())["process"]["duration_s"] == 3
    builder.event(site, [("f", "a.py", 2)], 4 * cb.SECOND, 5 * cb.SECOND)
    report = read(builder.build())
    assert (report["process"]["state"], report["process"]["duration_s"]) == ("killed", 5)
    assert report["threads"][0]["lifetime_s"] == 2


def test_killed_capture_lasts_until_the_newest_wait_or_hold_in_progress_began() -> None:
    builder = cb.CaptureBuilder(duration_ns=0, state=1, pid=2**22 + 1, grown=True)
    site = builder.site("_lock", ("f", "a.py", 1))
    builder.thread("worker", "f", start_ns=cb.SECOND)
    builder.contended(0xA, site, 1, held_since_ns=2 * cb.SECOND)
    assert read(builder.build())["process"]["duration_s"] == 2
    builder.waits_for(1, 0xA, site, since_ns=3 * cb.SECOND)
    assert read(builder.build())["process"]["duration_s"] == 3


def test_event_ring_gives_the_newest_and_counts_the_overwritten() -> None:
    builder = cb.CaptureBuilder()
    site = builder.site("_lock", ("f", "a.py", 1))
    builder.event_capacity = 4
    for index in range(11):
        builder.event(site, [("f", "a.py", 2)], index * cb.MS, index * cb.MS + 500)
    capture = Capture.from_buffer(builder.build())
    assert [event.sequence for event in capture.events()] == [8, 9, 10, 11]
    assert capture.lost["events"] == 7


def test_torn_events_are_left_out() -> None:
    data = bytearray(VALID)
    at = section(cb.EVENTS)[0]
    data[at + 64 : at + 72] = bytes(8)  # being written
    assert [event.sequence for event in Capture.from_buffer(bytes(data)).events()] == [1, 3]
    reads = 0

    def read_twice(offset: int, length: int) -> bytes:
        nonlocal reads
        if offset == at:
            reads += 1
            if reads == 2:  # overwritten while it was copied
                data[at : at + 8] = struct.pack("<Q", 99)
        return bytes(data[offset : offset + length])

    assert [event.sequence for event in Capture(read_twice, len(data)).events()] == [3]


def test_capture_that_grows_while_it_is_read_is_consistent() -> None:
    before = cb.example()
    before.spare = 40
    before.stats = before.stats + [cb.Site(index, 0) for index in range(len(before.stats), 8)]
    small = before.build()
    # The same capture one site, one stack and a few strings later: everything lies where it lay.
    after = cb.example()
    after.spare = 40
    new = after.site("new lock", ("create", "/srv/new.py", 5))
    after.wait(new, "lock", [("newcomer", "/srv/new.py", 9)], 5_000)
    for number in (cb.STRINGS, cb.FRAMES, cb.STACKS, cb.SITES):
        assert len(after.sections()[number][0]) > len(before.sections()[number][0])
    capacities = [struct.unpack_from("<QQ", small, section_at(index)) for index in range(9)]
    large = bytearray(small)
    for section_id, (data, _, used) in enumerate(after.sections()):
        offset, capacity = capacities[section_id]
        assert used <= capacity or section_id == cb.EVENTS
        large[offset : offset + len(data)] = data
        struct.pack_into("<Q", large, section_at(section_id) + 16, used)
    for switch in range(40):
        calls = 0

        def growing(offset: int, length: int, switch: int = switch) -> bytes:
            nonlocal calls
            calls += 1
            return bytes((small if calls <= switch else large)[offset : offset + length])

        report = Profile.from_capture(Capture(growing, len(small))).to_dict()
        assert report["locks"][0]["name"] == "PriceCache._lock"


def test_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "app.ttc"
    path.write_bytes(VALID)
    pread, calls = os.pread, 0

    def shrinking(fd: int, length: int, offset: int) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 5:
            os.truncate(path, 1000)
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", shrinking)
    with pytest.raises(CaptureError, match="truncated while it was read"):
        Capture.open(path)


def test_malformed_notes_are_passed_over() -> None:
    builder = cb.CaptureBuilder()
    for text in ["[" * 100_000, "3", '{"what": 3, "count": 1, "where": []}', " "]:
        builder.note(text)
    builder.note(b"\xed\xb3\xbf")  # half of a surrogate pair
    builder.note('{"what": "x", "count": "many", "where": []}')
    builder.note('{"what": "half a pair: \\ud800", "count": 1, "where": ["\\udfff", 5]}')
    builder.notes += struct.pack("<I", 2**31) + b"{}"
    assert read(builder.build())["uncovered"] == [{"what": "half a pair: ?", "count": 1, "where": ["?", "5"]}]


def test_large_capture_is_read_within_a_second() -> None:
    builder = cb.CaptureBuilder(spare=0)
    for index in range(1500):
        site = builder.site(f"lock {index}", ("create", f"/srv/file{index % 50}.py", index))
        site.hold(100, 1000, times=50)
    builder.frames += [(0, 0, line, 0) for line in range(100_000)]
    builder.stacks += [(index // 2, index) for index in range(1, 100_000)]
    builder.cells.update({(3 + index % 1500, index, 0, False): [5, 10**6, 0, 10**5, 0, 0] for index in range(4000)})
    data = builder.build()
    assert len(data) > 9 << 20
    began = time.process_time()
    report = read(data)
    assert time.process_time() - began < 1
    assert len(report["locks"]) == 1500


def test_a_capture_that_unfolds_is_cut_where_native_code_stops() -> None:
    builder = cb.CaptureBuilder()
    site = builder.site("_lock", ("f", "a.py", 1))
    builder.wait(site, "lock", [("n" * 5_000, "a.py", number) for number in range(200)], cb.MS)
    (lock,) = Profile.from_capture(Capture.from_buffer(builder.build())).locks
    assert [len(frame.function) for frame in lock.waits[0].stack] == [1_024] * 64


def test_notes_end_where_nothing_was_written() -> None:
    builder = cb.CaptureBuilder()
    builder.note('{"what": "first", "count": 1, "where": []}')
    builder.note("")
    builder.note('{"what": "second", "count": 1, "where": []}')
    assert [note["what"] for note in Capture.from_buffer(builder.build()).notes()] == ["first"]


def test_a_process_knows_itself_that_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is no /proc, as after a chroot."""
    with tracedthread.record():
        monkeypatch.setattr("tracedthread.capture._pid_space", lambda: -1)
        assert tracedthread.snapshot().process.state == "running"
