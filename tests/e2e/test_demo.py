"""`tracedthread demo` and the program it records."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tracedthread.capture import Frame
from tracedthread.commands import demo
from tracedthread.histogram import BUCKETS, Histogram, index_of
from tracedthread.profile import Process, Profile
from tracedthread.rows import BlameRow, LockRow, Stats, WaitRow

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "examples" / "shop.py"
LOAD = ["--seconds", "2", "--requests", "500"]

MS = 1_000_000


def wait(count: int, wait_ms: int, function: str, caller: str, kind: str = "lock") -> WaitRow:
    """Waits that took `wait_ms` together, of 121 ms at most."""
    stack = (Frame(function, "/srv/shop.py", 51), Frame(caller, "/srv/shop.py", 99))
    return WaitRow(kind, "PriceCache._lock", stack, count, wait_ms * MS, 0, min(wait_ms, 121) * MS, 0, 0, 1e-9)


def profile(*, wait_max_ms: int = 121, own_gil_ms: int = 3, median_ns: int = 600) -> Profile:
    """A shop of which one lock has been waited for 3 s."""
    holds = [0] * BUCKETS
    holds[index_of(median_ns)] = 1689
    holds[index_of(123 * MS)] += 1
    stats = Stats(
        created=1,
        acquisitions=1690,
        contended=61,
        wait_ticks=3000 * MS,
        wait_max_ticks=wait_max_ms * MS,
        own_gil_ticks=own_gil_ms * MS,
        hold_max_ticks=123 * MS,
        hold=Histogram(tuple(holds)),
    )
    waits = wait(60, 2950, "PriceCache.lookup", "Shop.price"), wait(1, 50, "PriceCache.lookup", "Shop.checkout")
    lock = LockRow("PriceCache._lock", "lock", Frame("PriceCache.__init__", "/srv/shop.py", 45), stats, waits, 1e-9)
    other = replace(lock, name="Inventory._lock", stats=Stats(contended=2, wait_ticks=1000 * MS), waits=())
    process = Process(71, "shop.py", "3.13.0", 0, "exited", 0, 6000 * MS, 0, 1e-9)
    idle = (wait(1500, 17_000, "Shop.pack", "Thread.run", "queue.get"),)
    return Profile(process, (lock, other), idle, (), (), (), {})


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python with `arguments`, from the checkout's directory."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def told(what: Profile) -> str:
    """What `tell` writes, in one line."""
    stream = io.StringIO()
    assert demo.tell(what, stream)
    return " ".join(stream.getvalue().split())


def test_the_story_is_told_with_the_numbers_of_the_profile() -> None:
    text = told(profile())
    assert "PriceCache._lock, created in PriceCache.__init__ (shop.py:45)" in text
    assert "61 waits for it took 3.0 s together, 75 % of all waiting for locks; the longest 121 ms" in text
    assert "PriceCache.lookup (shop.py:51): 61 waits, 3.0 s, up to 121 ms; called by Shop.price, Shop.checkout" in text
    assert "now and then, far too long: half of its 1,690 holds were over within" in text
    assert "the longest took 123 ms" in text
    assert "0.1 % of that waiting (3.0 ms)" in text
    assert "queue.get: 17 s, in Shop.pack" in text


def test_the_culprit_is_named_if_it_is_recorded() -> None:
    plain = profile()
    assert "Because of whom" not in told(plain)
    assert "Look at each place that takes PriceCache._lock for work" in told(plain)
    stack = (Frame("PriceCache.slow_report", "/srv/shop.py", 58), Frame("Shop.report_every", "/srv/shop.py", 130))
    rows = [
        BlameRow("PriceCache._lock", stack, 15, 2900 * MS, 360 * MS, 45, 1e-9),
        BlameRow("PriceCache._lock", (), 0, 97 * MS, 97 * MS, 0, 1e-9),  # (other): nobody's name
    ]
    lock = replace(plain.locks[0], blame=tuple(rows))
    text = told(replace(plain, locks=(lock, *plain.locks[1:])))
    assert "97 % of that waiting is charged to PriceCache.slow_report, which had PriceCache._lock meanwhile" in text
    culprit = "PriceCache.slow_report (shop.py:58): 15 holds, 2.9 s, up to 360 ms by one; called by Shop.report_every"
    assert culprit in text
    assert "Look at what PriceCache.slow_report does while it has PriceCache._lock" in text
    assert "(other)" not in text
    only_other = replace(lock, blame=(rows[1],))
    assert "Because of whom" not in told(replace(plain, locks=(only_other, *plain.locks[1:])))


def test_a_lock_that_is_always_held_long_is_told_so() -> None:
    assert "held long as a rule" in told(profile(median_ns=100 * MS))


def test_a_busy_gil_is_told_so() -> None:
    assert "a busy thread played its part" in told(profile(own_gil_ms=2000))


@pytest.mark.parametrize("quiet", [replace(profile(), locks=()), profile(wait_max_ms=1)])
def test_no_noticeable_wait_is_no_story(quiet: Profile) -> None:
    stream = io.StringIO()
    assert not demo.tell(quiet, stream)
    assert stream.getvalue() == ""


def test_the_shop_is_plain_code_and_runs_by_itself() -> None:
    assert "tracedthread" not in SHOP.read_text()
    done = run("-X", "dev", str(SHOP), "--seconds", "0.3", "--requests", "40")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^/price +\d+ +\d+\.\d ms +\d+\.\d ms$", done.stdout, re.MULTILINE)


def test_demo_finds_the_lock_that_made_the_shop_slow(tmp_path: Path) -> None:
    file = tmp_path / "shop.ttc"
    done = run("-m", "tracedthread", "demo", "-o", str(file), *LOAD)
    assert done.returncode == 0, done.stderr
    story = done.stdout.partition("What to learn from it")[2]
    assert "PriceCache._lock" in story
    assert "PriceCache.lookup (shop.py:" in story
    assert f"tracedthread report {file}" in story

    report = json.loads(run("-m", "tracedthread", "report", str(file), "--format", "json").stdout)
    worst = report["locks"][0]
    assert worst["name"] == "PriceCache._lock"
    assert worst["hold_max_s"] >= 0.120
    assert 0.010 < worst["wait_max_s"] <= worst["hold_max_s"] * 1.5
    assert f"{worst['contended']:,} wait" in " ".join(story.split())
    assert "queue.get" in {row["kind"] for row in report["idle"]}
    assert "Shop.pack" in {row["function"] for row in report["idle"] if row["kind"] == "queue.get"}
    assert not any(report["totals"]["lost"].values())


def test_a_recording_without_the_story_exits_with_1(tmp_path: Path) -> None:
    load = ["--seconds", "0.2", "--requests", "8"]  # over before the first report
    done = run("-m", "tracedthread", "demo", "-o", str(tmp_path / "shop.ttc"), *load)
    assert done.returncode == 1
    assert done.stderr == "tracedthread: no lock made requests slow in this recording\n"


def test_no_recording_exits_with_1_and_one_plain_line(tmp_path: Path) -> None:
    load = ["--seconds", "0.2", "--requests", "8"]
    file = str(tmp_path / "shop.ttc")
    done = run("-m", "tracedthread", "demo", "-o", file, *load, TRACEDTHREAD_DISABLED="1")
    assert done.returncode == 1
    assert "tracedthread: the shop ran, but was not recorded" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("mine")
    done = run("-m", "tracedthread", "demo", "-o", str(file))
    assert (done.returncode, file.read_text()) == (2, "mine")
    assert done.stderr == f"tracedthread: {file} exists; --force overwrites it\n"
