"""Programs that Python is a part of: its main thread need not be the process's."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import tracedthread

ROOT = Path(tracedthread.__file__).resolve().parent.parent
LIMIT_S = 60

PRELUDE = """
import sys
import tracedthread
def records():
    from tracedthread import _core
    from tracedthread.capture import Capture
    return Capture.from_buffer(_core.loaded().copy())
def hold():
    "Where the caller's stack has been seen by a thread that waits for its lock."
    import threading
    lock = threading.Lock()
    def wait(): lock.acquire(timeout=0.1)
    with lock:
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
    capture = records()
    (event,) = [event for event in capture.events() if capture.stack(event.stack)[0].function.endswith("wait")]
    return [frame.function for frame in capture.stack(event.holder_stack)]
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/e2e/embedding.c, built for this interpreter."""
    library = sysconfig.get_config_var("LDLIBRARY") or ""
    folder = Path(sysconfig.get_config_var("LIBDIR") or "")
    if not library.endswith(".so") or not (folder / library).exists():
        pytest.skip("this interpreter has no shared library")
    built = tmp_path_factory.mktemp("embedding") / "embedding"
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    include = sysconfig.get_path("include", vars={"base": sys.base_prefix})
    source = str(Path(__file__).with_name("embedding.c"))
    link = [str(folder / library), f"-Wl,-rpath,{folder}", "-pthread"]
    subprocess.run([*compiler, "-o", str(built), f"-I{include}", source, *link], check=True, timeout=LIMIT_S)
    return built


def run(program: Path, *sources: str) -> None:
    """What Python's main thread runs, then the process's main thread, then the first one again."""
    paths = [str(ROOT), *filter(None, sys.path[1:])]
    result = subprocess.run(
        [str(program), PRELUDE + sources[0], *sources[1:]],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env={**os.environ, "PYTHONHOME": sys.base_prefix, "PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), result.stderr


def test_main_thread_is_python_s(program: Path) -> None:
    run(
        program,
        """
sys.modules.pop("threading", None)  # it knows the name; at start-up it is not there yet
assert tracedthread.patch(event_threshold_ms=0)
names = [record.label.rstrip(b"\\0") for record in records().threads()]
assert names[1:] == [b"MainThread"], names
stack = hold()
assert "hold" in stack, stack
""",
        "",
        "",
    )


@pytest.mark.parametrize("more", [[], ["early"]])
def test_thread_state_that_is_only_there_for_a_call_is_not_kept(program: Path, more: list[str]) -> None:
    run(
        program,
        "import threading",
        """
assert tracedthread.patch(event_threshold_ms=0)
stack = hold()
assert stack == ["(still held)"], stack
""",
        "",
        *more,
    )
