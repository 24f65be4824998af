"""The native code's functions as Python calls them: what changes the recording keeps the GIL."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import tracedthread
from tracedthread import _core


@pytest.fixture
def core() -> Iterator[_core.Core]:
    with tracedthread.record():
        loaded = _core.loaded()
        assert loaded is not None
        yield loaded


@pytest.fixture
def turns() -> Iterator[list[int]]:
    """Counted by a thread that runs whenever this one lets go of the GIL, and at no other time."""
    counted, stop = [0], threading.Event()

    def spin() -> None:
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)

    before = sys.getswitchinterval()
    thread = threading.Thread(target=spin)
    thread.start()
    sys.setswitchinterval(1000)
    try:
        yield counted
    finally:
        sys.setswitchinterval(before)
        stop.set()
        thread.join()


CONTROLS: dict[str, Callable[[_core.Core], object]] = {
    "set_recording": lambda core: (core.types.set_recording(False), core.types.set_recording(True)),
    "anchor_capture": lambda core: core.types.anchor_capture(),
    "note_capture": lambda core: core.types.note_capture(b""),
    "move_capture": lambda core: core.types.move_capture(),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_no_other_thread_runs_while_the_recording_changes(core: _core.Core, turns: list[int], name: str) -> None:
    control = CONTROLS[name]
    ran = 0
    for _ in range(5000):
        before = turns[0]
        control(core)
        ran += turns[0] != before
    at_the_end = turns[0]
    while turns[0] == at_the_end:  # it would have
        time.sleep(0.001)
    assert ran == 0


def test_what_changes_the_recording_cannot_be_called_without_the_gil(core: _core.Core) -> None:
    for name in ("tt_recording_set", "tt_capture_anchor", "tt_capture_move", "tt_capture_note", "tt_capture_finish"):
        assert not hasattr(core.lib, name), name
    assert hasattr(core.lib, "tt_recording_get")


def test_a_note_is_bytes_and_one_without_room_is_refused(core: _core.Core) -> None:
    with pytest.raises(TypeError):
        core.types.note_capture('{"what": "text"}')
    assert core.types.note_capture(b" " * (1 << 20)) is False
    assert tracedthread.snapshot().lost["notes"] > 0


def test_a_copy_takes_as_much_memory_as_is_in_use() -> None:
    code = """
        import resource
        import tracedthread
        tracedthread.patch(capture_bytes=400 << 20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tracedthread.snapshot()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) < 40 << 10
