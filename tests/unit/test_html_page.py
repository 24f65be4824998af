"""
The page as a file: what is in it, what is left out of it, and that nothing in it can do harm. `tests/e2e/test_html.py`
opens it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import capture_builder as cb
import pytest

from tracedthread.capture import Capture, Frame
from tracedthread.export.html import MAX_BYTES, render
from tracedthread.export.html.data import LIMITS, Names, page_data
from tracedthread.export.html.tree import tree
from tracedthread.export.sides import Sample, samples
from tracedthread.pools import PoolRow
from tracedthread.profile import Profile
from tracedthread.rows import BlameRow, LockRow, Stats, WaitRow

NASTY = "</script><img src=x onerror=alert(1)>\u202e'\"&\x00\ud7ff"


def profile(builder: cb.CaptureBuilder) -> Profile:
    return Profile.from_capture(Capture.from_buffer(builder.build()))


SHOP = profile(cb.example(grown=True))
# Of ten tasks one waits and nine have begun, one of which runs; the worst waited 0.5 s. In ticks of a microsecond.
POOL = PoolRow("reports", 1, 2, 1, 1, 10, 8, 0, 0, 2, 900_000, 500_000, 1_800_000, 700_000, 1e-6)


class Page(HTMLParser):
    """Text of elements by tag, and every attribute."""

    def __init__(self, of: Profile) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.is_open = False
        stream = io.StringIO()
        render(of, stream)
        self.source = stream.getvalue()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.is_open = True

    def handle_endtag(self, tag: str) -> None:
        self.is_open = False

    def handle_data(self, data: str) -> None:
        if not self.is_open:
            return
        tag, attributes = self.tags[-1]
        name = f"{tag}#{attributes['id']}" if "id" in attributes else tag
        self.texts[name] = self.texts.get(name, "") + data

    @property
    def data(self) -> dict[str, Any]:
        return dict(json.loads(self.texts["script#data"]))


def nasty() -> Profile:
    builder = cb.CaptureBuilder(grown=True)
    builder.program = NASTY.replace("\x00", "").encode()[:120]
    site = builder.site(NASTY, (NASTY, "/srv/" + NASTY, 1))
    stack = [(NASTY, "/srv/" + NASTY, 2)]
    builder.thread(NASTY, NASTY, wait_ns=1)
    builder.wait(site, "lock", stack, cb.MS)
    builder.wait(site, "queue.put", stack, cb.MS, waker=stack)
    builder.blame(site, stack, cb.MS)
    builder.event(site, stack, 0, cb.MS, thread=1, holder=1, release=stack)
    builder.note(json.dumps({"what": NASTY, "count": 1, "where": [NASTY]}))
    return replace(profile(builder), pools=(replace(POOL, name=NASTY),))


def test_nothing_in_the_page_is_asked_from_elsewhere() -> None:
    page = Page(SHOP)
    for tag, attributes in page.tags:
        assert tag not in ("img", "iframe", "object", "embed", "base"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style", (tag, name)  # the policy would refuse it
            if name in ("src", "href", "action"):
                assert (value or "").startswith(("#", "data:,")), value
    assert not re.search(r"https?://|@import|url\(", page.source)
    assert page.source.isascii()


def test_policy_lets_run_only_what_is_in_the_page() -> None:
    page = Page(SHOP)
    [policy] = [attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes]
    for tag in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.texts[tag].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in (policy or "")
    assert (policy or "").startswith("default-src 'none'; ")
    assert "unsafe" not in (policy or "")


def test_hostile_names_stay_text() -> None:
    page, usual = Page(nasty()), Page(SHOP)
    assert [tag for tag, _ in page.tags if tag not in ("li", "code")] == [
        tag for tag, _ in usual.tags if tag not in ("li", "code")
    ]
    assert NASTY.replace("\x00", "\ufffd").replace("\u202e", "\ufffd") in page.data["texts"]
    assert "\u202e" not in json.dumps(page.data, ensure_ascii=False)


def test_script_writes_text_only() -> None:
    script = Page(SHOP).texts["script"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)


def decoded(flame: dict[str, Any]) -> list[tuple[int, int, int, int]]:
    flat = flame["nodes"]
    return [(flat[i], flat[i + 1], flat[i + 2], flat[i + 3]) for i in range(0, len(flat), 4)]


@pytest.mark.parametrize("waits", [False, True])
def test_flame_graph_has_every_stack_below_its_lock(waits: bool) -> None:
    names = Names(100)
    flame = tree(samples(SHOP, waits=waits), names, 1_000)
    nodes = decoded(flame)
    frames = list(names.frames)
    assert flame["left"] == [0, 0]
    assert flame["stacks"] == len(samples(SHOP, waits=waits))
    roots = [(frames[frame].function, ns) for depth, frame, ns, _ in nodes if depth == 0]
    assert roots == sorted(roots, key=lambda root: -root[1])
    assert sum(ns for _, ns in roots) == flame["total"]
    if not waits:
        assert [(depth, frames[frame].function, ns, times) for depth, frame, ns, times in nodes[:3]] == [
            (0, "PriceCache._lock", 3_805_950_000, 19),
            (1, "report_loop", 3_793_950_000, 15),
            (2, "PriceCache.slow_report", 3_793_950_000, 15),
        ]


def test_flame_graph_leaves_out_the_lightest_and_says_so() -> None:
    def frame(*path: int) -> Frame:
        return Frame(".".join(map(str, path)), "f.py", 1)

    stacks = [(frame(a, b), frame(a)) for a in range(20) for b in range(20)]
    of = [Sample("_lock", stack, 1, 1 + index) for index, stack in enumerate(stacks)]
    flame = tree(of, Names(100), 50)
    nodes = decoded(flame)
    assert len(nodes) + flame["left"][0] == 1 + 20 + 400
    assert 0 < len(nodes) <= 50
    assert all(ns > flame["left"][1] for _, _, ns, _ in nodes)
    assert flame["total"] == sum(sample.ns for sample in of)
    path: list[int] = []
    for depth, _, ns, _ in nodes:  # whoever is there has its callers there, and is no heavier than they
        assert depth <= len(path)
        path[depth:] = [ns]
        assert depth == 0 or ns <= path[depth - 1]


def test_tables_that_are_cut_say_by_how_much() -> None:
    data = page_data(SHOP, LIMITS._replace(locks=2, rows=1, places=1))
    assert len(data["locks"]) == 2
    left, waited = data["left"]["locks"]
    assert left == len(SHOP.locks) - 2
    assert waited == pytest.approx(sum(lock.wait_s for lock in SHOP.locks[2:]))
    assert data["locks"][0]["more"] == [1, 2]
    assert (len(data["threads"]), data["left"]["threads"]) == (1, sum(thread.threads for thread in SHOP.threads[1:]))
    assert (len(data["uncovered"]), data["left"]["uncovered"]) == (1, 1)
    assert [len(data["idle"]["rows"]), data["idle"]["left"]] == [1, [2, 12.107]]
    assert data["lost"] == {"stacks": 12}


def test_pools_are_told_and_cut_like_the_rest() -> None:
    of = replace(SHOP, pools=(POOL, replace(POOL, name="mail", queue_ticks=40_000)))
    data = page_data(of, LIMITS._replace(rows=1))
    [(name, *numbers)] = data["pools"]
    assert data["texts"][name] == "reports"
    assert numbers == [9, 1, POOL.queue_quantile_s(0.5), POOL.queue_quantile_s(0.99), 0.5, 1.8, 0.7, 2]
    assert data["left"]["pools"] == [1, 0.04]
    assert page_data(SHOP, LIMITS)["pools"] == []


FIELDS = 12


def test_timeline_has_waits_with_their_holders() -> None:
    data = page_data(SHOP, LIMITS)
    lines, texts = data["timeline"], data["texts"]
    threads = [texts[number] for number in lines["threads"]]
    waits = [lines["waits"][i : i + FIELDS] for i in range(0, len(lines["waits"]), FIELDS)]
    assert len(waits) == lines["events"] == len(SHOP.events)
    assert lines["left"] == [0, 0, 0]
    assert not any(lines["bins"])
    thread, start, length, gil, kind_class, kind, lock, outcome, stack, holder, released, was = waits[3]
    assert (threads[thread], start, length, gil, kind_class) == ("worker-1", 4_000_000, 119_000, 40, 2)
    assert (texts[kind], texts[lock], texts[outcome]) == ("lock", "PriceCache._lock", "acquired")
    assert threads[holder] == "report"
    innermost = [texts[data["frames"][3 * lines["stacks"][number][0]]] for number in (stack, released, was)]
    assert innermost == ["PriceCache.fast_lookup", "PriceCache.slow_report", "PriceCache._load"]
    assert {threads[number] for number in lines["holds"][::6]} == {"report", "worker-1", "worker-2"}


def many_events() -> Profile:
    builder = cb.CaptureBuilder(grown=True, duration_ns=8 * cb.SECOND)
    site = builder.site("_lock", ("create", "/srv/app.py", 1))
    for number in range(8):
        builder.thread(f"thread-{number}", "run")
    for number in range(400):
        kind = ("lock", "queue.get")[number % 2]
        start = number * 10 * cb.MS
        end = start + (number % 50 + 1) * cb.MS // 10 + (kind == "queue.get") * cb.SECOND
        builder.event(site, (), start, end, kind=kind, lock=number % 3, thread=1 + number % 8)
    return profile(builder)


def test_timeline_keeps_the_longest_contention_and_shades_the_rest() -> None:
    of = many_events()
    lines = page_data(of, LIMITS._replace(events=100))["timeline"]
    waits = [lines["waits"][i : i + FIELDS] for i in range(0, len(lines["waits"]), FIELDS)]
    assert len(waits) == 100
    assert {wait[4] for wait in waits} == {2}
    assert lines["left"] == [300, 0, 0]
    shaded = sum(map(sum, lines["bins"])) / 1000 * 8 / 400
    contention = [event.wait_s for event in of.events if event.kind == "lock"]
    drawn = sum(wait[2] for wait in waits) / 1e6
    # Each bin is rounded up, so that nothing vanishes.
    missing = sum(contention) - drawn
    assert (
        missing - 1e-9
        <= shaded
        <= missing + 1e-9 + sum(1 for row in lines["bins"] for value in row if value) * 8 / 400 / 1000
    )


def test_timeline_without_room_for_a_thread_says_so() -> None:
    lines = page_data(many_events(), LIMITS._replace(threads=3))["timeline"]
    assert len(lines["threads"]) == 3
    assert lines["left"] == [250, 250, 5]


def test_page_of_a_huge_profile_is_small() -> None:
    names = [f"{number:05}" + "x" * 5_000 for number in range(3_000)]
    stacks = [tuple(Frame(names[(n * 7 + i) % 3_000], f"/srv/{n}", n) for i in range(12)) for n in range(3_000)]

    def lock(number: int) -> LockRow:
        wait = WaitRow("lock", names[number], stacks[number], 1, 10**6 + number, 0, 5, 0, 0, 1e-9)
        blame = BlameRow(names[number], stacks[-number], 1, 10**6, 5, 1, 1e-9)
        stats = Stats(created=1, acquisitions=5, contended=1, wait_ticks=wait.wait_ticks)
        return LockRow(names[number], "lock", stacks[number][0], stats, (wait,), 1e-9, blame=(blame,))

    page = Page(replace(SHOP, locks=tuple(map(lock, range(3_000)))))
    assert len(page.source) <= MAX_BYTES
    data = page.data
    assert data["left"]["locks"][0] + len(data["locks"]) == 3_000
    assert data["totals"]["contended"] == 3_000
    assert max(map(len, data["texts"])) == data["left"]["names"] + 1


def test_lifetimes_in_a_killed_process_are_marked_unless_the_end_is_known() -> None:
    builder = cb.CaptureBuilder(state=1, pid=2**22 + 1)
    builder.thread("open", "run")
    builder.thread("over", "run", end_ns=2 * cb.SECOND)
    data = page_data(profile(builder), LIMITS)
    assert {data["texts"][row[0]]: row[-1] for row in data["threads"]} == {"open": False, "over": True}
