"""
One test module of CPython in this process; run.py starts it, once per module.

    child.py MODE PATH MODULE OUT [TEST...]

MODE is `none` (stock), `A` (patch here and now) or `B` (the `.pth` of this interpreter's environment has patched already).
PATH is the folder to import tracedthread from. Each line of OUT is a JSON list: ["start", id], [outcome, id, message], or
at the very end ["end", in force, ""].
"""

import sys


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

    # Without test_deadlock: it needs a free processor to kill a pool in time, and hangs now and then on stock locks.
    suite = unittest.TestSuite(
        test
        for test in leaves(unittest.defaultTestLoader.loadTestsFromName(f"test.{module}"))
        if "DeadlockTest" not in name(test) and (not wanted or name(test) in wanted)
    )
    unittest.TextTestRunner(resultclass=Result, verbosity=2).run(suite)
    put("end", mode == "none" or is_in_force(), "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
