"""
CPython's own tests, with every lock and thread of theirs ours. Same tests, same outcomes as without the patch.

    PYTHON tests/cpython/run.py --mode A|B [--short] [MODULE...]
    PYTHON tests/cpython/run.py --baseline [MODULE...]
                                                  write baselines/<this interpreter's build>.json from a run on stock

PYTHON is one with cffi installed; the extension is built in place. The tests run in an environment of their own (made in
build/cpython) in which there is nothing but the standard library and, for a patched run, a folder with the package.

Mode A patches in the process that runs the tests, before it imports threading. Mode B patches through a `.pth` file, and
so also in every Python process that the tests start.

There is no list of tests that may fail. A test with another outcome than on stock is run once more; if the outcome is then
the right one, it is reported as flaky, and counted as passed. A crash, a hang, a missing or an additional test is final.
What deadlocks now and then on stock is run on neither side, and said (STOCK_DEADLOCKS in child.py).
"""

from __future__ import annotations

import argparse
import fcntl
import platform
import signal
import sys
import time
from collections.abc import Iterable

import baseline as stock
from baseline import Outcomes, key, short
from environment import HERE, WORK, Environment, Run

SHORT = [
    "test_thread",
    "test_threading",
    "test_threading_local",
    "test_threadsignals",
    "test_queue",
    "test_fork1",
    "test_audit",
    "test_threadedtempfile",
    "test_sched",
    "test_importlib.test_locks",
    "test_importlib.test_threaded_import",
    "test_functools",
    "test_logging",
    "test_tempfile",
    "test_contextlib",
    "test_socketserver",
    "test_asyncio.test_locks",
    "test_asyncio.test_threads",
]
LONG = ["test_concurrent_futures"]
# Threads in subinterpreters, which keep the stock module beside a patched main one. Called differently by version.
INTERPRETERS = [
    "test_interpreters",
    "test__interpreters",
    "test__interpchannels",
    "test__xxsubinterpreters",
    "test__xxinterpchannels",
]


def measure(environment: Environment, modules: Iterable[str], timeout_s: float) -> dict[str, Outcomes]:
    """The outcomes on stock. What fails is run once more, alone: a flaky failure is nothing to compare with."""
    baseline: dict[str, Outcomes] = {}
    for module in modules:
        run = environment.run(module, timeout_s)
        if not run.shipped:
            print(f"  {module}: not shipped", flush=True)
            baseline[module] = {}
            continue
        if run.trouble:
            sys.exit(f"{run.log[-3000:]}\n{module} on stock: {run.trouble}")
        failed = [test for test, outcome in run.outcomes.items() if outcome in ("fail", "error")]
        if failed:
            run.outcomes |= environment.run(module, timeout_s, failed).outcomes
        baseline[module] = short(run.outcomes)
        bad = [test for test in failed if run.outcomes[test] in ("fail", "error")]
        print(
            f"  {module}: {len(run.outcomes)} tests, {run.seconds:.1f} s" + "".join(f"\n    fails: {t}" for t in bad),
            flush=True,
        )
    return baseline


def find_baseline(modules: list[str], timeout_s: float) -> dict[str, Outcomes]:
    """That of this interpreter's build: from the repository, and what is missing there as measured on this machine."""
    kept, cached = HERE / "baselines" / f"{key()}.json", WORK / key() / "baseline.json"
    known = stock.read(kept) if kept.exists() else {}
    if not set(modules) - known.keys():
        return known
    cached.parent.mkdir(parents=True, exist_ok=True)
    with cached.with_suffix(".lock").open("w") as lock:  # two modes may ask at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        measured = stock.read(cached) if cached.exists() else {}
        missing = [module for module in modules if module not in known | measured]
        if missing:
            print(f"no baseline for {key()}: running {len(missing)} modules on stock first", flush=True)
            measured |= measure(Environment("none"), missing, timeout_s)
            stock.write(cached, measured)
    return known | measured


def compare(environment: Environment, module: str, expected: Outcomes, timeout_s: float) -> dict[str, int]:
    """Run a module under the patch and print every difference. Returns how many tests passed, failed, ..."""
    run = environment.run(module, timeout_s)
    count = {"passed": 0, "failed": 0, "skipped": 0, "flaky": 0}
    problems: list[str] = []
    if not run.shipped or not expected:
        if run.shipped or expected:
            count["failed"], problems = 1, ["shipped, but not in the baseline, or the other way round"]
        print(f"  {module:38} {problems[0] if problems else 'not shipped with this interpreter'}", flush=True)
        return count
    got = short(run.outcomes)
    long_names = {test.removeprefix("test."): test for test in run.outcomes}
    if run.trouble:
        count["failed"] += 1
        problems += [f"FAILED {run.trouble}", *run.log[-6000:].splitlines()]
    differ = [test for test, outcome in expected.items() if test in got and got[test] != outcome]
    again = (
        environment.run(module, timeout_s, [long_names[test] for test in differ])
        if differ and not run.trouble
        else Run()
    )
    second = short(again.outcomes)
    for test, outcome in expected.items():
        if test not in got:
            count["failed"] += 1
            problems.append(f"FAILED {test}: not run ({outcome} on stock)")
        elif got[test] == outcome or second.get(test) == outcome:
            count["skipped" if outcome == "skip" else "passed"] += 1
            if got[test] != outcome:
                count["flaky"] += 1
                problems.append(
                    f"FLAKY: PASSED ON RETRY {test}: first {got[test]}, {outcome} on stock and when retried"
                )
                problems += run.messages[long_names[test]].splitlines()
        else:
            count["failed"] += 1
            problems.append(f"FAILED {test}: {got[test]}{', twice' if test in second else ''}; {outcome} on stock")
            problems += run.messages[long_names[test]].splitlines()
    for test in got.keys() - expected.keys():
        count["failed"] += 1
        problems.append(f"FAILED {test}: {got[test]}; not run on stock")
    print(f"  {module:38} {_summary(count)}, {run.seconds:.1f} s", flush=True)
    for why in dict.fromkeys(run.left_out.values()):
        number = sum(reason == why for reason in run.left_out.values())
        print(f"      LEFT OUT {number} that deadlock now and then on stock: {why}", flush=True)
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
    # A shell without job control ignores these in what it starts with `&`, and the tests would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    modules = args.modules or (SHORT if args.short else SHORT + LONG + INTERPRETERS)

    print(f"CPython's own tests on {key()}, {'on stock' if args.baseline else f'mode {args.mode}'}", flush=True)
    started = time.monotonic()
    if args.baseline:
        kept = HERE / "baselines" / f"{key()}.json"
        known = stock.read(kept) if args.modules and kept.exists() else {}
        stock.write(kept, known | measure(Environment("none"), modules, args.timeout))
        print(f"{time.monotonic() - started:.0f} s")
        return 0
    baseline = find_baseline(modules, args.timeout)
    environment = Environment(args.mode)
    total: dict[str, int] = {}
    for module in modules:
        for name, number in compare(environment, module, baseline.get(module, {}), args.timeout).items():
            total[name] = total.get(name, 0) + number
    print(f"Python {platform.python_version()}, mode {args.mode}, {time.monotonic() - started:.0f} s")
    if total["flaky"]:
        print(f"!!! {total['flaky']} of the passed are FLAKY: they passed on retry only, see above")
    print(_summary(total))
    return 1 if total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
