"""
Programs that patch run in interpreters of their own, with a few ways to make somebody wait.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from clean_environment import clean_environment

ROOT = Path(__file__).resolve().parents[2]

HEAD = """
import tracedthread
assert tracedthread.patch(event_threshold_ms=0)
import os, sys, threading, time
from tracedthread import _core, recorder
from tracedthread.capture import Capture
from tracedthread.live import Live

lock = threading.Lock()

def until(condition):
    for _ in range(5000):
        if condition():
            return
        time.sleep(0.001)
    raise AssertionError("that never happened")

def who_waits(kinds=range(10)):
    "Names of the threads that wait now; of kinds as in `layout.KINDS`."
    threads = Capture.from_buffer(_core.loaded().copy()).threads()
    return {record.label.split(b"\\0")[0].decode() for record in threads if record.wait_since and record.wait_kind in kinds}

def wait_once(lock=lock, name="waiter", wrap=lambda wait: wait(), seconds=0.002):
    "Another thread waits for the lock, which the calling one has. Returns stamps around the wait's begin and its end."
    stamps = {}
    def acquire():
        stamps["before"] = time.time_ns()
        lock.acquire()
        stamps["after"] = time.time_ns()
        lock.release()
    with lock:
        thread = threading.Thread(target=wrap, args=(acquire,), name=name)
        thread.start()
        until(lambda: name in who_waits())
        stamps["waits"] = time.time_ns()
        time.sleep(seconds)
        stamps["still"] = time.time_ns()
    thread.join()
    return stamps

def is_ours(name):
    "Whether a lock of that name is the tests': on a busy machine there are waits for those of thread starts and Events, too."
    return name.split(".")[-1] in ("lock", "again", "in_the_way")

def new(live):
    return [event for event in live.new_events() if is_ours(event.lock.name)]

class Told:
    "A sink that keeps what it is told."
    def __init__(self):
        self.events, self.starts, self.contexts, self.looks, self.closed = [], [], {}, 0, []
    def tick(self, events, starts, contexts, lost):
        self.looks += 1
        self.events += [event for event in events if is_ours(event.lock.name)]
        self.starts += starts
        self.contexts = dict(contexts)
    def close(self, timeout_s):
        self.closed.append(timeout_s)
    def names(self):
        return [event.waiter.name for event in self.events]
"""

FORK = """
def in_child(work):
    "What `work` says, in a forked child that then ends as programs do."
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.write(writer, repr(work()).encode())
        sys.exit(7)
    os.close(writer)
    with open(reader) as file:
        said = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    return said
"""


def run(program: str, *, env: dict[str, str] | None = None, head: str = HEAD, code: int = 0, stderr: str = "") -> str:
    """
    What the program prints.

    Args:
        code: How it must end.
        stderr: What must be in there; if nothing, nothing may be.
    """
    result = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(ROOT, **(env or {})),
        check=False,
    )
    assert result.returncode == code, result.stderr
    assert stderr in result.stderr if stderr else not result.stderr, result.stderr
    return result.stdout
