"""Where CPython's tests run: an environment with nothing but the standard library and, if patched, the package."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from baseline import Outcomes, key

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = Path(os.environ.get("TRACEDTHREAD_CACHE", ROOT / "build")) / "cpython"

NOT_SHIPPED = 4  # exit code of child.py


@dataclass
class Run:
    """One process: what it said of each test, and how it ended."""

    outcomes: Outcomes = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # test id -> why it is run neither on stock nor patched
    running: str = ""
    trouble: str = ""  # a crash or a hang, in one line
    log: str = ""
    seconds: float = 0.0
    shipped: bool = True

    def read(self, path: Path) -> bool:
        """Take in what child.py wrote. Returns whether it came to its end with the patch still in force."""
        is_complete = False
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            kind, test, message = json.loads(line)
            if kind == "end":
                self.running, is_complete = "", bool(test)
            elif kind == "start":
                self.running = test
            elif kind == "left out":
                self.left_out[test] = message
            elif self.outcomes.get(test) not in ("fail", "error"):  # a test may have several outcomes: the worst counts
                self.outcomes[test], self.messages[test] = kind, message
        return is_complete


class Environment:
    """A virtual environment without anything in it, but in mode B the `.pth`."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.folder = WORK / key() / f"venv-{mode}"
        self.path = WORK / key() / f"path-{mode}"
        self.python = self.folder / "bin" / "python"
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.folder], check=True)
        if mode == "none":
            return
        import _cffi_backend

        self.path.mkdir(parents=True)
        for target in (ROOT / "tracedthread", Path(_cffi_backend.__file__)):
            (self.path / target.name).symlink_to(target)
        if mode == "B":
            site_packages = next((self.folder / "lib").glob("python3*/site-packages"))
            lines = f"{self.path}\nimport tracedthread; tracedthread.patch()\n"
            (site_packages / "tracedthread.pth").write_text(lines, encoding="utf-8")
            self.check_children()

    def check_children(self) -> None:
        """Children are what mode B is about: see that one is patched, with the flags that tests start them with."""
        check = f"import sys; sys.path.append({str(HERE)!r}); import child; sys.exit(not child.is_in_force())"
        for flags in ([], ["-I"], ["-E"], ["-X", "dev"]):
            if subprocess.run([self.python, *flags, "-c", check], check=False).returncode:
                sys.exit(f"the .pth of {self.folder} does not patch python {' '.join(flags)}")

    def run(self, module: str, timeout_s: float, tests: Iterable[str] = ()) -> Run:
        """One module, or of it only the given tests, in a process of its own."""
        run = Run()
        with tempfile.TemporaryDirectory(prefix="tt-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            out, log = folder / "outcomes", folder / "log"
            (folder / "cwd").mkdir()
            (folder / "tmp").mkdir()
            command = [
                self.python,
                "-u",
                "-X",
                "faulthandler",
                HERE / "child.py",
                self.mode,
                self.path,
                module,
                out,
                *tests,
            ]
            keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
            env = keep | {"HOME": name, "LANG": "C.UTF-8", "TMPDIR": str(folder / "tmp"), "TZ": "UTC"}
            started = time.monotonic()
            with log.open("wb") as stream:
                process = subprocess.Popen(
                    [str(word) for word in command],
                    cwd=folder / "cwd",
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    start_new_session=True,
                )
                try:
                    code = process.wait(timeout_s)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGABRT)  # faulthandler shows where every thread is
                    time.sleep(2)
                    code = None
                kill_group(process)
            run.seconds = time.monotonic() - started
            is_complete = run.read(out)
            run.log = log.read_text(encoding="utf-8", errors="replace")
        if code == NOT_SHIPPED:
            run.shipped = False
        elif code is None:
            run.trouble = f"did not end within {timeout_s:g} s"
        elif code:
            run.trouble = f"ended with {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        elif not is_complete:
            run.trouble = "the patch is no longer in force after the tests"
        if run.trouble and run.running:
            run.trouble += f", in {run.running}"
        return run


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a session, with what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
