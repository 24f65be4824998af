"""
Exporters keep quiet, and nobody else does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk")

ROOT = Path(__file__).resolve().parents[2]


def test_a_child_that_is_forked_during_an_export_is_heard() -> None:
    program = """
    import logging, os, threading
    from tracedthread.otel.hush import hush, watch
    logger = logging.getLogger("urllib3")
    watch()

    def is_heard():
        return bool(logger.filter(logging.makeLogRecord({})))

    def others_are_heard():
        found = []
        for _ in range(3):  # they get the number of the thread that exported
            thread = threading.Thread(target=lambda: found.append(is_heard()))
            thread.start()
            thread.join()
        return all(found)

    def export():
        with hush():
            inside.set()
            over.wait()

    inside, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=export)
    thread.start()
    inside.wait()
    with hush():
        if os.fork() == 0:
            os._exit(is_heard() + 2 * (not others_are_heard()))
        status = os.wait()[1]
    over.set()
    thread.join()
    assert status == 0, status
    assert is_heard()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
