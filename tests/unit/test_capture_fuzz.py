"""A damaged capture is read or refused with `CaptureError`, soon and in little memory, whatever the damage."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import capture_builder as cb
import capture_fuzz
import pytest

from tracedthread.capture import Capture

HERE = Path(__file__).parent
FULL = os.environ.get("TRACEDTHREAD_STRESS") == "full"
SEEDS, CASES = (range(1, 9), 125_000) if FULL else (range(1, 3), 8_000)

PROGRAM = """
import queue, threading, time
from concurrent.futures import ThreadPoolExecutor
class Cache:
    def __init__(self):
        self.lock, self.outer = threading.Lock(), threading.RLock()
cache, jobs = Cache(), queue.Queue(1)
def hold():
    for _ in range(3):
        with cache.lock:
            time.sleep(0.005)
        with cache.outer, cache.outer:
            time.sleep(0.002)
        jobs.put(1)
def take():
    for _ in range(6):
        jobs.get()
threads = [threading.Thread(target=target) for target in (hold, hold, take)]
for thread in threads: thread.start()
for thread in threads: thread.join()
with ThreadPoolExecutor(2, "reports") as pool:
    list(pool.map(time.sleep, [0.001] * 6))
"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As today's native code lays it out, with every section that it has."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "program.py").write_text(PROGRAM)
    command = [
        sys.executable,
        "-m",
        "tracedthread",
        "run",
        "-q",
        "--capture-size",
        "192k",
        "-o",
        "app.ttc",
        "program.py",
    ]
    subprocess.run(command, cwd=folder, env=_environment(), check=True, timeout=60)
    capture = Capture.open(folder / "app.ttc")
    assert capture.events()
    assert len(list(capture.pools())) > 1  # (other) and ours
    return folder / "app.ttc"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}


@pytest.mark.slow
@pytest.mark.timeout(3600 if FULL else 240)
@pytest.mark.parametrize("seed", SEEDS)
def test_any_damage_is_refused_in_one_line_or_read(recording: Path, seed: int) -> None:
    command = [sys.executable, capture_fuzz.__file__, "--seed", str(seed), "--cases", str(CASES), str(recording)]
    result = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    outcome = json.loads(result.stdout)
    assert outcome["cases"] == CASES
    assert CASES / 10 < outcome["accepted"] < CASES * 9 / 10, "the damages are all fatal, or none is"


def test_a_case_is_the_same_when_it_is_repeated() -> None:
    mutator = capture_fuzz.Mutator(cb.example().build())
    copies = [[mutator.mutate(random.Random(f"1/{case}")) for case in range(200)] for _ in range(2)]
    assert copies[0] == copies[1]
    assert len(set(copies[0])) > 150
