"""`tracedthread demo` and whom it blames."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tracedthread.capture import Capture
from tracedthread.commands.demo import FAULTS
from tracedthread.incident import HEALTHY, NEEDS, missing, play
from tracedthread.profile import Profile
from tracedthread.story import headline, judge, slowed

ROOT = Path(__file__).parents[2]
LOAD = {"seconds": 1.5, "requests": 450}
FLAGS = [f"--{name}={value}" for name, value in LOAD.items()]

needs_shop = pytest.mark.skipif(
    bool(missing()) and not os.environ.get("CI"), reason="the shop's packages: make build has them (group `demo`)"
)


@needs_shop
def test_what_the_shop_needs_and_its_faults_are_the_same_everywhere() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extra, group = re.findall(r"^demo = \[.*\n((?:    .*\n)+)\]", project, re.MULTILINE)
    wanted = re.findall(r'"(.+)"', extra)
    assert re.findall(r'"(.+)"', group) == wanted
    assert (ROOT / "examples" / "shop" / "requirements.txt").read_text(encoding="utf-8").splitlines()[1:4] == wanted
    assert [re.split("[<>=]", requirement)[0] for requirement in wanted] == list(NEEDS)
    assert tuple(FAULTS) == import_module("examples.shop.faults").NAMES


BLAMED = {
    HEALTHY: "Nobody is to blame: no lock and no pool made requests slow.",
    "report": "To blame: PriceCache.slow_report, which holds PriceCache._lock.",
    "hog": "To blame: the GIL, not a holder of ",
    "pool": "To blame: the QueuePool, which has too few connections.",
}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python with `arguments`, from the checkout's directory."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "tracedthread", "demo", *arguments, **environment)


@pytest.fixture
def one_at_a_time() -> Iterator[None]:
    """One hog at a time: what it does to the machine is not the story of another shop."""
    with Path(tempfile.gettempdir(), f"tracedthread-shop-{os.getuid()}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@needs_shop
@pytest.mark.alone
@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("seed", range(1, 11))
def test_the_right_one_is_blamed_for_each_fault_and_nobody_where_there_is_none(seed: int, tmp_path: Path) -> None:
    played = {fault: play(fault, tmp_path / "shop.ttc", seed=seed, **LOAD) for fault in (HEALTHY, *FAULTS)}
    verdicts = {fault: judge(incident.profile) for fault, incident in played.items()}
    for fault, verdict in verdicts.items():
        assert headline(verdict).startswith(BLAMED[fault]), (fault, verdict)
        assert not any(played[fault].profile.lost.values())
    assert any("PriceCache.slow_report (prices.py:" in line for line in verdicts["report"].lines)
    assert any("4 threads of Recommender.recompute_until" in line for line in verdicts["hog"].lines)
    assert any(line.startswith("Catalogue.search (catalogue.py:") for line in verdicts["pool"].lines)
    slow = slowed(played["pool"].p99_s, played[HEALTHY].p99_s)
    assert any(line.startswith("/search ") for line in slow), slow


@needs_shop
@pytest.mark.alone
def test_demo_tells_what_is_slow_and_who_is_to_blame_and_writes_the_page(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = demo("-o", str(page), *FLAGS)
    assert (done.returncode, done.stderr) == (0, "")
    healthy, report, hog, pool = (part for part in done.stdout.split("\n\n") if "lame" in part)
    assert BLAMED[HEALTHY] in healthy
    assert BLAMED["report"] in report
    assert "Slow, by p99: " in report
    assert BLAMED["hog"] in hog
    assert BLAMED["pool"] in pool
    assert str(page) in done.stdout
    assert "PriceCache.slow_report" in page.read_text(encoding="ascii")
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.html",
        *(f"shop-{fault}.ttc" for fault in (HEALTHY, *FAULTS)),
    }
    profile = Profile.from_capture(Capture.open(tmp_path / "shop-report.ttc"))
    assert profile.process.state == "exited"
    assert profile.locks[0].name == "PriceCache._lock"
    assert profile.locks[0].hold_max_s >= 0.120


@needs_shop
def test_a_fault_that_had_no_time_exits_with_1_and_says_so(tmp_path: Path) -> None:
    done = demo("-o", str(tmp_path / "a.html"), "--fault", "pool", "--seconds", "0.1", "--requests", "0")
    assert done.returncode == 1
    assert done.stderr == "tracedthread: nobody to blame in this recording: pool\n"


@needs_shop
def test_a_page_that_cannot_be_written_exits_with_2_and_says_so(tmp_path: Path) -> None:
    page = tmp_path / f"{'a' * 300}.html"
    done = demo("-o", str(page), "--fault", "pool", "--seconds", "0.1", "--requests", "0")
    assert (done.returncode, done.stderr) == (2, f"tracedthread: {page}: File name too long\n")


@needs_shop
@pytest.mark.parametrize("name", [".", "/"])
def test_a_page_that_is_a_folder_exits_with_2_and_says_so(name: str) -> None:
    done = demo("-o", name)
    assert (done.returncode, done.stderr) == (2, f"tracedthread: {name}: is a folder; -o is the page's file\n")


@needs_shop
def test_a_folder_is_not_overwritten_with_force_either(tmp_path: Path) -> None:
    (tmp_path / "a.html").mkdir()
    done = demo("-o", str(tmp_path / "a.html"), "--force")
    assert (done.returncode, done.stderr) == (2, f"tracedthread: {tmp_path / 'a.html'}: Is a directory\n")


@needs_shop
def test_no_recording_exits_with_1_and_one_plain_line(tmp_path: Path) -> None:
    done = demo("-o", str(tmp_path / "a.html"), *FLAGS, TRACEDTHREAD_DISABLED="1")
    assert done.returncode == 1
    assert done.stderr == "tracedthread: the shop ran, but was not recorded\n"
    assert list(tmp_path.iterdir()) == []


@needs_shop
def test_a_shop_that_cannot_open_exits_with_1_and_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['sqlalchemy.pool'] = None")
    done = demo("-o", str(tmp_path / "a.html"), *FLAGS, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("tracedthread: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_what_the_shop_needs_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys; sys.modules['flask'] = None; sys.modules['gunicorn'] = None"
    )
    done = demo(PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "tracedthread: the demo needs flask, gunicorn: pip install 'tracedthread[demo]'\n"


@needs_shop
@pytest.mark.parametrize("name", ["report.html", "shop-healthy.ttc"])
def test_an_existing_file_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    done = demo("-o", str(tmp_path / "report.html"))
    assert (done.returncode, (tmp_path / name).read_text()) == (2, "mine")
    assert done.stderr == f"tracedthread: {tmp_path / name} exists; --force overwrites it\n"
