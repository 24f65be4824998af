"""A signal that the program has blocked is the program's, whatever telemetry runs beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from clean_environment import clean_environment

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import os, signal, time
wanted = {signal.SIGUSR1, signal.SIGCHLD, signal.SIGTERM}
time.sleep(0.7)  # by now all threads of ours are there
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
def fetch(expected):
    time.sleep(0.1)  # it is busy when the signal comes
    found = signal.sigtimedwait({expected}, 5)
    assert found is not None and found.si_signo == expected, (expected, found)
os.kill(os.getpid(), signal.SIGUSR1)
fetch(signal.SIGUSR1)
os.kill(os.getpid(), signal.SIGTERM)
fetch(signal.SIGTERM)
child = os.fork()
if not child:
    os._exit(0)
fetch(signal.SIGCHLD)
os.waitpid(child, 0)
signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)
print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
"""


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--prometheus-listen", ":0"],
        ["--otlp-endpoint", "http://127.0.0.1:9"],
        ["--pyroscope-url", "http://127.0.0.1:9"],
    ],
    ids=lambda options: options[0] if options else "none",
)
def test_no_thread_of_ours_takes_a_blocked_signal(options: list[str], tmp_path: Path) -> None:
    if options[:1] == ["--otlp-endpoint"]:
        pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "-m", "tracedthread", "run", "-q", *options, "program.py"]
    environment = clean_environment(str(ROOT), TRACEDTHREAD_PYROSCOPE_INTERVAL_S="0.2")
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done
