"""
One test module of CPython in this process; run.py starts it, once per module.

    child.py MODE PATH MODULE OUT [TEST...]

MODE is `none` (stock), `A` (patch here and now) or `B` (the `.pth` of this interpreter's environment has patched already).
PATH is the folder to import tracedthread from. Each line of OUT is a JSON list: ["start", id, ""], [outcome, id, message],
["left out", id, why], or at the very end ["end", in force, ""].
"""

import sys

# Deadlocks of the standard library's own, whatever its locks are made of, between ProcessPoolExecutor's threads. A test
# that runs into one by chance says nothing of ours, and takes all those after it with it.
STOCK_DEADLOCKS = [
    # part of a test's id, the versions, where it is written down
    ("DeadlockTest", lambda version: True, "needs a free processor to kill a pool in time"),
    (
        "ProcessPoolShutdownTest.test_processes_terminate",
        lambda version: (3, 12) <= version < (3, 12, 8) or (3, 13) <= version < (3, 13, 1),
        "python/cpython#125451, mended in 3.12.8 and 3.13.1",
    ),
]


def why_left_out(test: str, version: tuple[int, ...] = sys.version_info[:3]) -> str:
    """Why this test is run neither on stock nor patched; empty if it is run."""
    return next((why for part, is_in, why in STOCK_DEADLOCKS if part in test and is_in(version)), "")


def is_in_force() -> bool:
    """Whether a new lock is ours, and the package says so too."""
    import _thread

    import tracedthread
    from tracedthread import _core

    core = _core.loaded()
    return core is not None and tracedthread.is_patched() and type(_thread.allocate_lock()) is core.types.lock


def main() -> int:
    mode, path, module, out = sys.argv[1:5]
    wanted = set(sys.argv[5:])
    if mode == "A":
        assert "threading" not in sys.modules, "something has imported threading before us"
        sys.path.append(path)
        import tracedthread

        tracedthread.patch()
    if mode != "none" and not is_in_force():
        print("the patch is not in force", file=sys.stderr)
        return 3

    import importlib.util
    import json
    import unittest

    sys.argv[1:] = []
    if importlib.util.find_spec(f"test.{module}") is None:
        print(f"this interpreter does not ship test.{module}", file=sys.stderr)
        return 4
    stream = open(out, "w", encoding="utf-8", buffering=1)  # noqa: SIM115

    def put(*row: object) -> None:
        stream.write(json.dumps(row) + "\n")

    def name(test: unittest.TestCase) -> str:
        return type(test).id(test)  # some tests have an attribute of that name

    class Result(unittest.TextTestResult):
        """Writes down every outcome at once, so that a crash loses none."""

        def startTest(self, test: unittest.TestCase) -> None:
            put("start", name(test), "")
            super().startTest(test)

        def addSuccess(self, test: unittest.TestCase) -> None:
            super().addSuccess(test)
            put("ok", name(test), "")

        def addError(self, test, err) -> None:  # type: ignore[no-untyped-def]
            super().addError(test, err)
            put("error", name(test), self.errors[-1][1][-2000:])

        def addFailure(self, test, err) -> None:  # type: ignore[no-untyped-def]
            super().addFailure(test, err)
            put("fail", name(test), self.failures[-1][1][-2000:])

        def addSkip(self, test: unittest.TestCase, reason: str) -> None:
            super().addSkip(test, reason)
            put("skip", name(test), reason)

        def addExpectedFailure(self, test, err) -> None:  # type: ignore[no-untyped-def]
            super().addExpectedFailure(test, err)
            put("xfail", name(test), "")

        def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
            super().addUnexpectedSuccess(test)
            put("xpass", name(test), "")

        def addSubTest(self, test, subtest, err) -> None:  # type: ignore[no-untyped-def]
            super().addSubTest(test, subtest, err)
            if err is not None:
                put("fail", name(test), f"{subtest}: {self._exc_info_to_string(err, test)[-2000:]}")  # type: ignore[attr-defined]

    def leaves(suite):  # type: ignore[no-untyped-def]
        for test in suite:
            if isinstance(test, unittest.TestSuite):
                yield from leaves(test)
            else:
                yield test

    suite = unittest.TestSuite()
    for test in leaves(unittest.defaultTestLoader.loadTestsFromName(f"test.{module}")):
        if why := why_left_out(name(test)):
            put("left out", name(test), why)
        elif not wanted or name(test) in wanted:
            suite.addTest(test)
    unittest.TextTestRunner(resultclass=Result, verbosity=2).run(suite)
    put("end", mode == "none" or is_in_force(), "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
