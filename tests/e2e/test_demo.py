"""`tracedthread demo` and the program it records."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tracedthread.commands import demo

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "examples" / "shop.py"
LOAD = ["--seconds", "2", "--requests", "500"]

STORY: dict[str, Any] = {
    "totals": {"wait_s": 4.0, "idle_s": 17.0},
    "locks": [
        {
            "name": "PriceCache._lock",
            "created": {"file": "/srv/shop.py", "line": 45, "function": "PriceCache.__init__"},
            "acquisitions": 1690,
            "contended": 61,
            "wait_s": 3.0,
            "wait_max_s": 0.121,
            "own_gil_s": 0.003,
            "hold_p50_s": 6e-7,
            "hold_max_s": 0.1234,
            "waits": [
                {
                    "function": "PriceCache.lookup",
                    "file": "/srv/shop.py",
                    "line": 51,
                    "count": count,
                    "wait_s": 1.0 * count / 30,
                    "max_s": 0.121,
                    "stack": ["PriceCache.lookup shop.py:51", f"{caller} shop.py:99"],
                }
                for count, caller in ((60, "Shop.price"), (1, "Shop.checkout"))
            ],
        }
    ],
    "idle": [{"kind": "queue.get", "function": "Shop.pack", "wait_s": 17.0}],
}


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


def told(report: dict[str, Any]) -> str:
    """What `tell` writes, in one line."""
    stream = io.StringIO()
    assert demo.tell(report, stream)
    return " ".join(stream.getvalue().split())


def test_the_story_is_told_with_the_numbers_of_the_report() -> None:
    text = told(STORY)
    assert "PriceCache._lock, created in PriceCache.__init__ (shop.py:45)" in text
    assert "61 waits for it took 3 s together, 75 % of all waiting for locks; the longest 121 ms" in text
    assert "PriceCache.lookup (shop.py:51): 61 waits, 2.03 s, up to 121 ms; called by Shop.price, Shop.checkout" in text
    assert "half of its 1,690 holds were over within 600 ns, the longest took 123 ms" in text
    assert "0.1 % of that waiting (3 ms)" in text
    assert "queue.get: 17 s, in Shop.pack" in text


def test_a_lock_that_is_always_held_long_is_told_so() -> None:
    report = copy.deepcopy(STORY)
    report["locks"][0]["hold_p50_s"] = 0.1
    assert "held long as a rule" in told(report)


def test_a_busy_gil_is_told_so() -> None:
    report = copy.deepcopy(STORY)
    report["locks"][0]["own_gil_s"] = 2.0
    assert "a busy thread played its part" in told(report)


@pytest.mark.parametrize("locks", [[], [{**STORY["locks"][0], "wait_max_s": 0.001}]])
def test_no_noticeable_wait_is_no_story(locks: list[dict[str, Any]]) -> None:
    stream = io.StringIO()
    assert not demo.tell({**STORY, "locks": locks}, stream)
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
    assert "tracedthread: the demo has no recording" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("mine")
    done = run("-m", "tracedthread", "demo", "-o", str(file))
    assert (done.returncode, file.read_text()) == (2, "mine")
    assert done.stderr == f"tracedthread: {file} exists; --force overwrites it\n"
