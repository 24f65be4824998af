"""
Running a program that abuses locks: in an interpreter of its own, never for ever, with every thread's traceback if it hangs or dies.

Programs are plain text. They begin patched, with what they all need imported; `FULL` says whether to go on for long.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FULL = os.environ.get("TRACEDTHREAD_STRESS") == "full"
LIMIT_S = 600 if FULL else 60

HEAD = f"""
import faulthandler
faulthandler.enable()
faulthandler.dump_traceback_later({LIMIT_S - 5}, exit=True)
import tracedthread
assert tracedthread.patch(PATCH), "not patched"
import _thread, gc, os, queue, random, signal, sys, threading, time, weakref
FULL = {FULL}
stock = tracedthread.originals
def rows(*names):
    "The rows of the program's locks with these names; all of them by name."
    locks = [row for row in tracedthread.snapshot().locks if row.created.path == "<string>"]
    found = {{row.name.split(".")[-1]: row for row in locks}}
    return found if not names else [found[name] for name in names]
def run_all(*functions):
    "Each in a thread; what one raises, raises here."
    failed = []
    def guarded(function):
        try:
            function()
        except BaseException as exc:
            failed.append(exc)
    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    if failed:
        raise failed[0]
"""


def run(
    program: str, *flags: str, patch: str = "", cwd: Path = ROOT, status: int = 0, env: dict[str, str] | None = None
) -> str:
    """
    Run it; it must end with that status and say nothing on stderr.

    Args:
        flags: For the interpreter.
        patch: Arguments of `tracedthread.patch()`.
    Returns:
        What it printed.
    """
    source = HEAD.replace("PATCH", patch) + textwrap.dedent(program)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", *flags, "-c", source],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=LIMIT_S + 5)
    except subprocess.TimeoutExpired as exc:
        out, err = f"{exc.stdout!r}", f"{exc.stderr!r}\nit hangs"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and whom it forked
        process.wait()
    assert (process.returncode, err) == (status, ""), f"{process.returncode}\n{out}\n{err}"
    return out
