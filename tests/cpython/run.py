"""
CPython's own tests, with every lock and thread of theirs ours. Same tests, same outcomes as without the patch.

    PYTHON tests/cpython/run.py --mode A|B [--short] [MODULE...]
    PYTHON tests/cpython/run.py --baseline        write baselines/<this interpreter's build>.json from a run on stock

PYTHON is one with cffi installed; the extension is built in place. The tests run in an environment of their own (made in
build/cpython) in which there is nothing but the standard library and, for a patched run, a folder with the package.

Mode A patches in the process that runs the tests, before it imports threading. Mode B patches through a `.pth` file, and
so also in every Python process that the tests start.

There is no list of tests that may fail. A test with another outcome than on stock is run once more; if the outcome is then
the right one, it is reported as flaky, and counted as passed. A crash, a hang, a missing or an additional test is final.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = Path(os.environ.get("TRACEDTHREAD_CACHE", ROOT / "build")) / "cpython"

SHORT = (
    "test_thread test_threading test_threading_local test_threadsignals test_queue test_fork1 test_audit "
    "test_threadedtempfile test_sched test_importlib.test_locks test_importlib.test_threaded_import test_functools "
    "test_logging test_tempfile test_contextlib test_socketserver test_asyncio.test_locks test_asyncio.test_threads"
).split()
LONG = ["test_concurrent_futures"]
NOT_SHIPPED = 4  # exit code of child.py

Outcomes = dict[str, str]  # of a module: test id -> ok, skip, fail, error, xfail, xpass


def key() -> str:
    """Names the build of the running interpreter: its version, compiler, time of building and platform."""
    build = hashlib.sha256(f"{sys.version} {platform.machine()}".encode()).hexdigest()[:8]
    return f"{sys.implementation.name}-{platform.python_version()}-{sys.platform}-{platform.machine()}-{build}"


@dataclass
class Run:
    """One process: what it said of each test, and how it ended."""

    outcomes: Outcomes = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
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
            command = [self.python, "-u", "-X", "faulthandler", HERE / "child.py", self.mode, self.path, module, out, *tests]
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
                _kill_group(process)
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


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def measure(environment: Environment, modules: Iterable[str], timeout_s: float) -> dict[str, Outcomes]:
    """The outcomes on stock. What fails is run once more, alone: a flaky failure is nothing to compare with."""
    baseline: dict[str, Outcomes] = {}
    for module in modules:
        run = environment.run(module, timeout_s)
        if not run.shipped:
            print(f"  {module}: not shipped", flush=True)
            continue
        if run.trouble:
            sys.exit(f"{run.log[-3000:]}\n{module} on stock: {run.trouble}")
        failed = [test for test, outcome in run.outcomes.items() if outcome in ("fail", "error")]
        if failed:
            run.outcomes |= environment.run(module, timeout_s, failed).outcomes
        baseline[module] = short(run.outcomes)
        bad = [test for test in failed if run.outcomes[test] in ("fail", "error")]
        print(f"  {module}: {len(run.outcomes)} tests, {run.seconds:.1f} s" + "".join(f"\n    fails: {t}" for t in bad), flush=True)
    return baseline


def write_baseline(path: Path, baseline: dict[str, Outcomes]) -> None:
    """Sorted by module and outcome, so that a difference can be read."""
    modules: dict[str, dict[str, list[str]]] = {}
    for module, outcomes in baseline.items():
        for test, outcome in sorted(outcomes.items()):
            modules.setdefault(module, {}).setdefault(outcome, []).append(test)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"python": sys.version, "modules": modules}, indent=1) + "\n", encoding="utf-8")


def read_baseline(path: Path) -> dict[str, Outcomes]:
    """The inverse of `write_baseline`."""
    modules = json.loads(path.read_text(encoding="utf-8"))["modules"]
    return {
        module: {test: outcome for outcome, tests in groups.items() for test in tests} for module, groups in modules.items()
    }


def short(outcomes: Outcomes) -> Outcomes:
    """Test names without the `test.` that all begin with."""
    return {test.removeprefix("test."): outcome for test, outcome in outcomes.items()}


def find_baseline(modules: list[str], timeout_s: float) -> dict[str, Outcomes]:
    """That of this interpreter's build: from the repository, or measured before on this machine, or measured now."""
    kept, cached = HERE / "baselines" / f"{key()}.json", WORK / key() / "baseline.json"
    known: dict[str, Outcomes] = {}
    asked: set[str] = set()
    if kept.exists():
        return read_baseline(kept)
    if cached.exists():
        known = read_baseline(cached)
        asked = set(json.loads((cached.parent / "asked.json").read_text()))
    missing = [module for module in modules if module not in asked]
    if missing:
        print(f"no baseline for {key()}: running {len(missing)} modules on stock first", flush=True)
        known |= measure(Environment("none"), missing, timeout_s)
        write_baseline(cached, known)
        (cached.parent / "asked.json").write_text(json.dumps(sorted(asked | set(missing))))
    return known


def compare(environment: Environment, module: str, expected: Outcomes | None, timeout_s: float) -> dict[str, int]:
    """Run a module under the patch and print every difference. Returns how many tests passed, failed, ..."""
    run = environment.run(module, timeout_s)
    count = {"passed": 0, "failed": 0, "skipped": 0, "flaky": 0}
    problems: list[str] = []
    if not run.shipped or expected is None:
        if run.shipped or expected is not None:
            count["failed"], problems = 1, ["shipped, but not in the baseline, or the other way round"]
        print(f"  {module:38} {problems[0] if problems else 'not shipped with this interpreter'}", flush=True)
        return count
    got = short(run.outcomes)
    long_names = {test.removeprefix("test."): test for test in run.outcomes}
    if run.trouble:
        count["failed"] += 1
        problems += [f"FAILED {run.trouble}", *run.log[-6000:].splitlines()]
    differ = [test for test, outcome in expected.items() if test in got and got[test] != outcome]
    again = environment.run(module, timeout_s, [long_names[test] for test in differ]) if differ and not run.trouble else Run()
    second = short(again.outcomes)
    for test, outcome in expected.items():
        if test not in got:
            count["failed"] += 1
            problems.append(f"FAILED {test}: not run ({outcome} on stock)")
        elif got[test] == outcome or second.get(test) == outcome:
            count["skipped" if outcome == "skip" else "passed"] += 1
            if got[test] != outcome:
                count["flaky"] += 1
                problems.append(f"FLAKY: PASSED ON RETRY {test}: first {got[test]}, {outcome} on stock and when retried")
                problems += run.messages[long_names[test]].splitlines()
        else:
            count["failed"] += 1
            problems.append(f"FAILED {test}: {got[test]}, twice; {outcome} on stock")
            problems += run.messages[long_names[test]].splitlines()
    for test in got.keys() - expected.keys():
        count["failed"] += 1
        problems.append(f"FAILED {test}: {got[test]}; not run on stock")
    print(f"  {module:38} {_summary(count)}, {run.seconds:.1f} s", flush=True)
    for line in problems:
        print(f"      {line}", flush=True)
    return count


def _summary(count: dict[str, int]) -> str:
    return f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("A", "B"), default="A")
    parser.add_argument("--baseline", action="store_true", help="run on stock, and keep the outcomes in the repository")
    parser.add_argument("--short", action="store_true", help="without the modules that take minutes")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS", help="for a module (default: 600)")
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    args = parser.parse_args()
    modules = args.modules or (SHORT if args.short else SHORT + LONG)

    print(f"CPython's own tests on {key()}, {'on stock' if args.baseline else f'mode {args.mode}'}", flush=True)
    started = time.monotonic()
    if args.baseline:
        write_baseline(HERE / "baselines" / f"{key()}.json", measure(Environment("none"), modules, args.timeout))
        print(f"{time.monotonic() - started:.0f} s")
        return 0
    baseline = find_baseline(modules, args.timeout)
    environment = Environment(args.mode)
    total: dict[str, int] = {}
    for module in modules:
        for name, number in compare(environment, module, baseline.get(module), args.timeout).items():
            total[name] = total.get(name, 0) + number
    print(f"Python {platform.python_version()}, mode {args.mode}, {time.monotonic() - started:.0f} s")
    if total["flaky"]:
        print(f"!!! {total['flaky']} of the passed are FLAKY: they passed on retry only, see above")
    print(_summary(total))
    return 1 if total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
