"""From a program to a verdict: record, check, compare, as a CI job does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from clean_environment import clean_environment

import tracedthread

ROOT = str(Path(tracedthread.__file__).resolve().parent.parent)

PROGRAM = """
import sys, threading, time

class PriceCache:
    def __init__(self):
        self._lock = threading.Lock()

cache = PriceCache()

def slow_report(seconds, ready):
    with cache._lock:
        ready.set()
        time.sleep(seconds)

def checkout(seconds):
    ready = threading.Event()
    report = threading.Thread(target=slow_report, args=(seconds, ready))
    report.start()
    ready.wait()
    with cache._lock:
        pass
    report.join()

for _ in range(3):
    checkout(float(sys.argv[1]))
"""


def tracedthread_(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracedthread", *arguments],
        cwd=folder,
        env=clean_environment(ROOT),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With quick.ttc and slow.ttc."""
    folder = tmp_path_factory.mktemp("ci")
    (folder / "program.py").write_text(PROGRAM)
    for name, seconds in (("quick", "0.01"), ("slow", "0.3")):
        assert tracedthread_(folder, "run", "-q", "-o", f"{name}.ttc", "program.py", seconds).returncode == 0
    return folder


def test_a_recording_within_its_limits_passes(folder: Path) -> None:
    limits = ["--max-wait-p99", "PriceCache._lock=50s", "--max-hold-max", "_lock=50s", "--no-deadlock", "--no-lost"]
    result = tracedthread_(folder, "check", "quick.ttc", *limits)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout


def test_a_recording_above_a_limit_fails_and_names_the_site(folder: Path) -> None:
    result = tracedthread_(folder, "check", "slow.ttc", "--max-wait-max", "PriceCache._lock=100ms")
    assert (result.returncode, result.stderr) == (1, "")
    assert "PriceCache._lock (program.py:6): longest wait was" in result.stdout
    assert f"checkout {folder}/program.py:" in result.stdout


def test_an_unknown_name_is_no_pass(folder: Path) -> None:
    result = tracedthread_(folder, "check", "quick.ttc", "--max-wait-max", "PriceCache.lock=50s")
    assert result.returncode == 2
    assert "did you mean PriceCache._lock?" in result.stdout


def test_two_recordings_are_compared_lock_by_lock(folder: Path) -> None:
    report = json.loads(tracedthread_(folder, "diff", "quick.ttc", "slow.ttc", "--json").stdout)
    (lock,) = (row for row in report["locks"] if row["name"] == "PriceCache._lock")
    assert lock["status"] == "both"
    assert lock["change"]["wait_s"] > 0.5
    result = tracedthread_(folder, "diff", "quick.ttc", "slow.ttc")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"waits? .* for PriceCache\._lock|waits for PriceCache\._lock are longer", result.stdout)


def test_a_reader_that_has_seen_enough_is_no_error(folder: Path) -> None:
    for arguments in ("diff quick.ttc slow.ttc", "check slow.ttc --max-wait-max _lock=1ns", "doctor"):
        command = f"{sys.executable} -m tracedthread {arguments} | head -c 1"
        result = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.stderr == ""


HANG = """
import threading, time
first = threading.Lock()
second = threading.Lock()
def take(one, other, both):
    with one:
        both.wait()
        with other:
            pass
both = threading.Barrier(2)
for locks in ((first, second), (second, first)):
    threading.Thread(target=take, args=(*locks, both), daemon=True).start()
time.sleep(1)
"""


def test_blame_is_that_of_the_function_that_held_the_lock(folder: Path) -> None:
    result = tracedthread_(
        folder, "check", "slow.ttc", "--max-blame", "slow_report=100ms", "--max-blame", "checkout=100ms"
    )
    assert result.returncode == 1, result.stdout
    exceeded, kept = (line for line in result.stdout.splitlines() if line.startswith(("EXCEEDED", "ok")))
    assert exceeded.startswith("EXCEEDED  --max-blame slow_report=100ms")
    assert kept.startswith("ok        --max-blame checkout=100ms")


def test_a_program_that_was_killed_in_a_deadlock_fails(folder: Path) -> None:
    (folder / "killed.py").write_text(HANG.replace("sleep(1)", "sleep(100)"))
    command = [sys.executable, "-m", "tracedthread", "run", "-q", "-o", "killed.ttc", "killed.py"]
    env = {**os.environ, "PYTHONPATH": ROOT, "TRACEDTHREAD_DEADLOCK_AFTER_S": "0.5"}
    with subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        process.kill()
    assert "tracedthread: deadlock: " in said
    # What is said has been seen twice, 100 ms apart: both waits have lasted for as long at least.
    limits = ["--max-wait-max", "killed.first=90ms", "--max-hold-max", "killed.first=90ms", "--no-deadlock"]
    result = tracedthread_(folder, "check", "killed.ttc", *limits)
    assert (result.returncode, result.stdout.count("EXCEEDED")) == (1, 3), result.stdout
    assert "--no-deadlock   measured: 1\n" in result.stdout
    result = tracedthread_(folder, "check", "killed.ttc", "--max-wait-max", "killed.first=1min")
    assert result.returncode == 2, result.stdout


def test_a_program_that_ended_in_a_deadlock_fails(folder: Path) -> None:
    (folder / "hang.py").write_text(HANG)
    tracedthread_(folder, "run", "-q", "-o", "hang.ttc", "hang.py")
    result = tracedthread_(folder, "check", "hang.ttc", "--no-deadlock")
    assert result.returncode == 1, result.stdout
    assert "waits for hang.first of" in result.stdout
    assert "waits for hang.second of" in result.stdout
    limits = ["--max-wait-max", "hang.first=10ms", "--max-hold-max", "hang.first=10ms"]
    result = tracedthread_(folder, "check", "hang.ttc", *limits)
    assert (result.returncode, result.stdout.count("EXCEEDED")) == (1, 2), "what has not ended counts"
