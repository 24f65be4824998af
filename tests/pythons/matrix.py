"""
Every Python there is: the project's tests, and CPython's own tests under the patch. `make test-all` and .ci/run start it.

    python3 tests/pythons/matrix.py [--lanes 2] [--at-least 4] [--only 3.13] [--without-pytest VERSION]

CPython's tests run in mode B (patched through a `.pth`, children too); on the oldest version and on 3.14 (or the newest
there is) also in mode A (patched in process). B covers more; A patches after `site` and what it imports. The oldest
version is the one that has the private interfaces of before 3.13 and runs `.pth` lines twice in an environment; 3.14
is the newest release with the thread handles and starts workers by forkserver. What has to do with OpenTelemetry runs
once more on the oldest version, with the oldest releases of OpenTelemetry.

The logs are in build/matrix. The exit code is 1 if anything failed or fewer than --at-least interpreters were tested.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from find import Python, examine, find

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DEBIAN = ROOT / "build" / "debian"
LOGS = ROOT / "build" / "matrix"
BOTH_MODES_ON = (3, 14)  # and on the oldest
# `make test` has run these, and they depend on no version: the core without Python, the pure-Python reader fed with damaged
# captures, our forms in browsers and viewers, the wheel's contents, documents, dashboards; the demo's shop and its stories,
# telemetry from process to process and others' tools beside us, for which the environments of the others lack what `demo`
# and `services` bring.
SAME_FOR_ALL = (
    "tests/native",
    "tests/unit/test_capture_fuzz.py",
    "tests/test_docs.py",
    "tests/test_packaging.py",
    "tests/e2e/test_demo.py",
    "tests/e2e/test_html.py",
    "tests/e2e/test_shop.py",
    "tests/e2e/test_viewers.py",
    "tests/e2e/test_beside.py",
    "tests/e2e/test_bill_spans.py",
    "tests/e2e/test_dashboards.py",
    "tests/e2e/test_dashboards_live.py",
    "tests/e2e/test_instrument.py",
    "tests/e2e/test_processes.py",
    "tests/e2e/test_pyroscope_push.py",
    "tests/e2e/test_otel_backends.py",
    "tests/e2e/test_otel_failures.py",
    "tests/e2e/test_otel_traps.py",
)
# Pure Python above interfaces that others test on each version: a minute and a half that the versions between can do without.
ON_OLDEST_AND_NEWEST = ("tests/e2e/test_pytest_plugin.py",)


@dataclass
class Task:
    """A command on an interpreter; `weight` seconds, roughly, to start with the longest."""

    python: Python
    name: str
    command: list[str]
    weight: int
    timeout_s: int = 1500
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return LOGS / f"{self.python.version}-{self.name.replace(' ', '-')}.log"

    def run(self) -> None:
        """Run it, and take the numbers from its closing line. One that does not count is a failure."""
        started = time.monotonic()
        with self.log.open("w", encoding="utf-8") as log:
            try:
                code = subprocess.run(
                    [*self.python.prefix, *self.command],
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=self.timeout_s,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                log.write(f"did not end within {self.timeout_s} s\n")
                code = -1
        self.seconds = time.monotonic() - started
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        closing = next((line for line in reversed(lines) if re.search(r"\d+ (passed|failed|error)", line)), "")
        numbers = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", closing)}
        self.passed, self.skipped = numbers.get("passed", 0), numbers.get("skipped", 0)
        self.failed = numbers.get("failed", 0) + numbers.get("error", 0)
        if (code or not self.passed) and not self.failed:
            self.failed = 1

    def say(self) -> str:
        """One line; of a failed one, with the end of its log."""
        verdict = "FAILED" if self.failed else "ok"
        line = f"{verdict:6} {self.python.version:8} {self.name:10} {self.seconds:5.0f} s  "
        line += f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        text = self.log.read_text(encoding="utf-8", errors="replace")
        loud = [text_line for text_line in text.splitlines() if "FLAKY" in text_line]
        if self.failed:
            loud = text[-6000:].splitlines()
        return "\n".join([line, *(f"       | {text_line}" for text_line in loud)])

    def what_failed(self) -> list[str]:
        """The names of its tests that did, a line each; where it names none, the end of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        named = [line.strip()[:300] for line in lines if re.match(r"\s*(FAILED|ERROR) ", line)]
        return [f"{self.python.version} {self.name}: {line}" for line in named or lines[-3:]] if self.failed else []


def gather() -> list[Python]:
    """The machine's, and 3.14 and 3.15 of the Debian folder where one can be made."""
    pythons, passed_over = find()
    for line in passed_over:
        print(f"not tested: {line}")
    versions = {python.minor for python in pythons}
    wanted = [minor for minor in (14, 15) if (3, minor) not in versions]
    if wanted and os.geteuid() == 0:
        log = LOGS / "debian.log"
        with log.open("w", encoding="utf-8") as stream:
            code = subprocess.run(
                ["bash", HERE / "debian.sh", DEBIAN],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                check=False,
            ).returncode
        if code:
            print(f"not tested: 3.14 and 3.15, no Debian folder: {log.read_text(encoding='utf-8')[-300:]}")
            return pythons
        for minor in wanted:
            python, reason = examine(f"python3.{minor}", ("bash", str(HERE / "chroot.sh"), str(DEBIAN)))
            if python:
                pythons.append(python)
            else:
                print(f"not tested: python3.{minor} of the Debian folder {reason}")
    elif wanted:
        print(f"not tested: {', '.join(f'3.{minor}' for minor in wanted)}; the Debian folder needs root")
    return pythons


def plan(pythons: list[Python], without_pytest: list[str]) -> list[Task]:
    """What to run, the longest first."""
    newest = max(python.minor for python in pythons)
    both = {pythons[0].version} | {
        python.version for python in pythons if python.minor == min(BOTH_MODES_ON, newest) and python is not pythons[0]
    }
    tasks = []
    for python in pythons:
        modes = "BA" if python.version in both else "B"
        for mode in modes:
            command = [python.venv_python, "tests/cpython/run.py", "--mode", mode]
            tasks.append(Task(python, f"CPython {mode}", command, weight=200))
        if python.version not in without_pytest:
            command = [python.venv_python, "-m", "pytest", "-p", "no:cacheprovider"]
            left_out = SAME_FOR_ALL + (() if python.minor in (pythons[0].minor, newest) else ON_OLDEST_AND_NEWEST)
            command += [f"--ignore={path}" for path in left_out]
            tasks.append(Task(python, "pytest", command, weight=500))
    oldest = pythons[0]
    if not oldest.prefix:
        command = ["bash", str(HERE / "oldest_otel.sh"), oldest.command]
        tasks.append(Task(oldest, "oldest OTel", command, weight=90))
    return sorted(tasks, key=lambda task: -task.weight)


def run_all(tasks: list[Task], lanes: int) -> None:
    """Side by side: CPython's tests mostly sleep."""
    todo, lock = list(tasks), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not todo:
                    return
                task = todo.pop(0)
            task.run()
            with lock:
                print(task.say(), flush=True)

    threads = [threading.Thread(target=work) for _ in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--at-least", type=int, default=1, metavar="N", help="fewer interpreters are a failure")
    parser.add_argument(
        "--only", action="append", default=[], metavar="VERSION", help="3.13 or 3.13.0; may be repeated"
    )
    parser.add_argument("--without-pytest", action="append", default=[], metavar="VERSION", help="it was run before")
    args = parser.parse_args()

    started = time.monotonic()
    LOGS.mkdir(parents=True, exist_ok=True)
    pythons = gather()
    if args.only:
        pythons = [p for p in pythons if any(f"{p.version}.".startswith(f"{only}.") for only in args.only)]
    print(f"Pythons: {', '.join(map(str, pythons))}", flush=True)
    ready: list[Python] = []
    tasks = [
        Task(p, "build", ["make", "-s", "build", f"PYTHON={p.command}", "GROUPS=test"], weight=0, timeout_s=600)
        for p in pythons
    ]
    for task in tasks:
        task.run()
        task.failed = 0 if (ROOT / ".venv" / task.python.version / ".native").exists() else 1
        if task.failed:
            print(task.say(), flush=True)
        else:
            ready.append(task.python)
    failed_builds = [task for task in tasks if task.failed]
    tasks = plan(ready, args.without_pytest) if ready else []
    run_all(tasks, args.lanes)

    print(f"\n{len(ready)} Pythons tested in {time.monotonic() - started:.0f} s: {', '.join(p.version for p in ready)}")
    if len(ready) < args.at_least:
        print(f"that is fewer than {args.at_least}")
    passed, failed, skipped = (sum(getattr(t, what) for t in tasks) for what in ("passed", "failed", "skipped"))
    failed += len(failed_builds) + (len(ready) < args.at_least)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    for task in (*failed_builds, *tasks):
        for line in task.what_failed():
            print(line)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
