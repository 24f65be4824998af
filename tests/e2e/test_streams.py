"""Verbs whose output cannot be written say so, and never with an exit status that means something else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from clean_environment import clean_environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("streams")
    command = [sys.executable, "-m", "tracedthread", "run", "-q", "-o", "app.ttc", "program.py"]
    (folder / "program.py").write_text("import threading\nlock = threading.Lock()\nwith lock: pass\n")
    subprocess.run(command, cwd=folder, env=clean_environment(str(ROOT)), check=True, timeout=60)
    return str(folder / "app.ttc")


VERBS = {
    "report": ["report", "FILE"],
    "report, binary": ["report", "FILE", "-f", "pprof"],
    "report, page": ["report", "FILE", "-f", "html"],
    "check": ["check", "FILE", "--no-lost"],
    "diff": ["diff", "FILE", "FILE"],
    "diff, json": ["diff", "FILE", "FILE", "--json"],
    "doctor": ["doctor", "--json"],
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("to", "why"), [(">/dev/full", "No space left on device"), (">&-", "is closed"), (">&- 2>&-", ""), ("2>&-", "")]
)
def test_output_that_cannot_be_written(recording: str, verb: str, to: str, why: str) -> None:
    words = [recording if word == "FILE" else word for word in VERBS[verb]]
    command = ["sh", "-c", f'exec "$@" {to}', "sh", sys.executable, "-m", "tracedthread", *words]
    done = subprocess.run(
        command,
        capture_output=True,
        env=clean_environment(str(ROOT)),
        timeout=60,
        check=False,
        cwd=Path(recording).parent,
    )
    expected = (2,) if to.startswith(">") else (0, 1) if verb == "doctor" else (0,)
    assert done.returncode in expected, done
    lines = done.stderr.decode().splitlines()
    assert lines[-1:] == ([f"tracedthread: standard output: {why}"] if why else [])
    assert "Traceback" not in done.stderr.decode()
