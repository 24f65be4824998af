"""With gevent or eventlet we stand aside, whoever comes first, and their programs run as without us."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
from clean_environment import clean_environment

import tracedthread

ROOT = str(Path(tracedthread.__file__).resolve().parent.parent)
LIMIT_S = 120

GEVENT = "from gevent import monkey; monkey.patch_all()"
EVENTLET = "import eventlet; eventlet.monkey_patch()"

# Green threads take turns only if the locks are cooperative ones: with native ones this would hang.
WORK = """
    import threading, queue, time
    lock, jobs, seen = threading.Lock(), queue.Queue(), []
    def work():
        while (job := jobs.get()) is not None:
            with lock:
                time.sleep(0.001)
                seen.append(job)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads: thread.start()
    for job in range(50): jobs.put(job)
    for _ in threads: jobs.put(None)
    for thread in threads: thread.join()
    assert sorted(seen) == list(range(50))
    print("worked", type(lock).__module__)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with gevent and eventlet: this one, or a venv's."""
    if find_spec("gevent") and find_spec("eventlet"):
        return sys.executable
    folder = tmp_path_factory.mktemp("green")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=LIMIT_S)
    executable = str(folder / "bin" / "python")
    command = [sys.executable, "-m", "pip", "--python", executable, "install", "-q", "gevent", "eventlet", "cffi>=2.1"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        reason = "" if result.returncode == 0 else result.stderr.strip()[-500:]
    except subprocess.TimeoutExpired:
        reason = "pip took more than 5 minutes"
    if reason:
        warnings.warn(f"gevent and eventlet are NOT tested: they cannot be installed ({reason})", stacklevel=1)
        pytest.skip(f"gevent and eventlet cannot be installed: {reason}")
    return executable


def start(python: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-W", "ignore", *arguments],
        env=clean_environment(ROOT, **env),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def code(*parts: str) -> str:
    return "\n".join(textwrap.dedent(part) for part in parts)


@pytest.mark.parametrize(("package", "monkey"), [("gevent", GEVENT), ("eventlet", EVENTLET)])
def test_when_they_came_first_we_decline(python: str, package: str, monkey: str) -> None:
    ours = "import tracedthread\nassert tracedthread.patch() is False and not tracedthread.is_patched()"
    result = start(python, "-c", code(monkey, ours, WORK))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("worked ")
    assert result.stderr.startswith("tracedthread: not recording: ")
    assert package in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("package", "monkey"), [("gevent", GEVENT), ("eventlet", EVENTLET)])
@pytest.mark.parametrize("loaded", ["", "import threading, logging, queue, concurrent.futures"])
def test_when_they_come_later_we_step_aside(python: str, package: str, monkey: str, loaded: str) -> None:
    ours = "import tracedthread\nassert tracedthread.patch() is True"
    after = """
        import sys
        assert not tracedthread.is_patched()
        assert not any(type(finder).__module__.startswith("tracedthread") for finder in sys.meta_path)
        from tracedthread import _thread as drop_in
        ours = {id(getattr(drop_in, name)) for name in drop_in._OURS if hasattr(drop_in, name)}
        left = [(n, k) for n, m in list(sys.modules.items()) if not n.startswith("tracedthread")
                for k, v in list(vars(m).items()) if id(v) in ours]
        assert not left, left
    """
    stock = start(python, "-c", code(loaded, monkey, WORK))
    result = start(python, "-c", code(loaded, ours, monkey, "from tracedthread import _core", after, WORK))
    assert result.returncode == 0, result.stderr
    assert result.stdout == stock.stdout
    assert result.stderr == f"tracedthread: not recording: {package} patches threads; stock locks are back in place\n"


@pytest.mark.parametrize("monkey", [GEVENT, EVENTLET])
def test_run(python: str, tmp_path: Path, monkey: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(code(monkey, WORK))
    stock = start(python, str(program))
    result = start(python, "-m", "tracedthread", "run", "-q", str(program))
    assert (result.returncode, result.stdout) == (0, stock.stdout)
    assert result.stderr.count("\n") == 1


def test_asking_gevent_whether_it_has_patched_is_no_reason_to_go(python: str) -> None:
    ask = """
        import tracedthread
        assert tracedthread.patch()
        from gevent import monkey
        assert not monkey.is_module_patched("threading")
        monkey.patch_time()
        assert tracedthread.is_patched()
        tracedthread.unpatch()
        import gevent.events
        assert not gevent.events.subscribers
    """
    result = start(python, "-c", code(ask))
    assert (result.returncode, result.stderr) == (0, "")
