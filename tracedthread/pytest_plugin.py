"""
The pytest plugin: limits on a test's locks, and a recording of a whole run.

    @pytest.mark.limit_lock_wait("5 ms", lock="PriceCache._lock", percentile=99)
    @pytest.mark.limit_lock_hold("10 ms", lock="PriceCache._lock")           # the longest: percentile=100
    def test_checkout(): ...

What counts is what all threads do while the test's own function runs, without its fixtures' set-up and teardown. A
limit that cannot be judged is an error of the test, never a pass: the locks are stock ones, the name is unknown, or
nobody took the lock.

    pytest --tracedthread [--tracedthread-output FILE]

records the whole run, from before the first conftest.py is read. Without the flag nothing is patched unless a selected
test has a marker, and then only once the tests are collected: locks that modules create when they are imported are seen
with the flag only.

Nothing of the recording is imported until it is used. `-p no:tracedthread` turns all of it off.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tracedthread.limits import Limit
    from tracedthread.profile import Profile
    from tracedthread.unfinished import Pending

MARKERS = {"limit_lock_wait": "wait", "limit_lock_hold": "hold"}
MAX_LOCKS = 5
#: What calls a test; stacks are shown up to there.
RUNNERS = ("/_pytest/", "/pluggy/")

_ERROR = "tracedthread_error"  # an attribute of test reports


class Unjudged(Exception):
    """A limit that cannot be judged: an error, whatever the test did. The message is all that is shown."""


class _Run:
    """
    What this process does for one pytest run.

    Attributes:
        whole: Record all of it.
        patched: By us, so that we unpatch at the end.
        output: The file that is recorded to.
        lines: Of the summary, by process: "" for this one, else the name of an xdist worker.
    """

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        self.patched = False
        self.output: str | None = None
        self.lines: dict[str, list[str]] = {}

    def patch(self) -> None:
        """
        Patch if that was not done; what keeps us from it is said when it matters.

        Raises:
            pytest.UsageError: This process records to another file.
        """
        from tracedthread import is_patched, patch

        before = is_patched()
        try:
            self.patched = patch(path=self.output, force=self.output is not None) and not before
        except (RuntimeError, ValueError) as exc:
            raise pytest.UsageError(f"--tracedthread-output {self.output}: {exc}") from None

    def unpatch(self) -> None:
        """Undo `patch`."""
        if self.patched:
            from tracedthread import unpatch

            self.patched = False
            unpatch()


_RUN = pytest.StashKey[_Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flags."""
    group = parser.getgroup("tracedthread", "tracedthread: where threads wait")
    group.addoption("--tracedthread", action="store_true", help="record the whole run, and sum it up at the end")
    group.addoption(
        "--tracedthread-output",
        metavar="FILE",
        help="record to FILE, overwriting it (a worker of xdist: to FILE with its name before the suffix)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Patch before any conftest.py is imported."""
    options = early_config.known_args_namespace
    whole = (options.tracedthread or options.tracedthread_output is not None) and not _is_controller(options)
    run = early_config.stash[_RUN] = _Run(whole)
    if whole:
        if options.tracedthread_output is not None:
            run.output = _output(options.tracedthread_output)
        run.patch()


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    for name, what in MARKERS.items():
        config.addinivalue_line(
            "markers",
            f'{name}(limit, *, lock, percentile=100): fail if the {what}s of `lock` exceed `limit`, such as "5 ms", '
            "while the test runs; an error if that cannot be judged",
        )
    if _RUN not in config.stash:  # -p on a command line that pytest did not read itself
        config.stash[_RUN] = _Run(False)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave `_thread` as it was."""
    if (run := config.stash.get(_RUN, None)) is not None:
        run.unpatch()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Patch for the markers of the tests that are going to run, early enough for fixtures of any scope."""
    if any(item.get_closest_marker(name) for item in session.items for name in MARKERS):
        session.config.stash[_RUN].patch()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse what cannot be judged before anything of the test runs."""
    if not _limits(item):
        return
    from tracedthread import is_patched

    if not is_patched():
        raise Unjudged(_why_not_recorded())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Hold what happens while the test runs against its limits; a test that fails by itself is left alone."""
    limits = _limits(item)
    if not limits:
        return (yield)
    from tracedthread.profile import subtract

    before, _ = _read()
    result = yield
    after, unfinished = _read()
    inside = subtract(after, before)
    if inside.process.paused_ticks:  # unpatched time counts, too
        raise Unjudged("the limits of this test cannot be judged: recording was paused or undone while it ran")
    _judge(inside, unfinished, limits)
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """An unjudged limit is an error, also of a test that is expected to fail."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, Unjudged):
        report.outcome = "failed"
        report.__dict__.pop("wasxfail", None)
        report.longrepr = str(call.excinfo.value)
        setattr(report, _ERROR, True)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Count it as an error."""
    return ("error", "E", "ERROR") if getattr(report, _ERROR, False) else None


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Sum the recording up; a worker of xdist hands its sum to the controller."""
    run = session.config.stash[_RUN]
    if not run.whole:
        return
    lines = run.lines[""] = _summary(run)
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["tracedthread"] = lines


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker of xdist has summed up."""
    lines = getattr(node, "workeroutput", {}).get("tracedthread")
    if node.config.getoption("tracedthread") or node.config.getoption("tracedthread_output") is not None:
        missing = ["This worker ended without a summary."]
        node.config.stash[_RUN].lines[node.gateway.id] = lines if lines is not None else missing


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the sums."""
    run = config.stash[_RUN]
    for worker, lines in sorted(run.lines.items()):
        terminalreporter.section(f"tracedthread: {worker}" if worker else "tracedthread")
        for line in lines:
            terminalreporter.line(line)


def _is_controller(options: Any) -> bool:
    """Whether xdist runs the tests in other processes."""
    starts_workers = bool(getattr(options, "numprocesses", None) or getattr(options, "tx", None))
    return starts_workers and "PYTEST_XDIST_WORKER" not in os.environ


def _output(path: str) -> str:
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    root, suffix = os.path.splitext(path)
    return f"{root}.{worker}{suffix}" if worker else path


def _limits(item: pytest.Item) -> list[Limit]:
    """
    The limits of a test's markers, also of those of its class and module; each of them has to be kept.

    Raises:
        Unjudged: A marker is written wrongly.
    """
    if not any(item.get_closest_marker(name) for name in MARKERS):
        return []
    return [_limit(marker) for name in MARKERS for marker in item.iter_markers(name)]


def _limit(marker: pytest.Mark) -> Limit:
    from tracedthread.limits import Limit, Measure, parse_duration

    def read(limit: str, *, lock: str, percentile: float = 100) -> Limit:
        if not isinstance(limit, str) or not isinstance(lock, str) or not lock.strip():
            raise TypeError("limit and lock are strings")
        if isinstance(percentile, bool) or not isinstance(percentile, (int, float)) or not 0 < percentile <= 100:
            raise TypeError(f"percentile is a number above 0, up to 100, not {percentile!r}")
        return Limit(Measure(MARKERS[marker.name], percentile), lock.strip(), parse_duration(limit))

    try:
        return read(*marker.args, **marker.kwargs)
    except (TypeError, ValueError) as exc:
        reason = str(exc).replace("_limit.<locals>.read() ", "").rstrip(".")
        reason += "" if reason.endswith("?") else "."
        usage = f'@pytest.mark.{marker.name}("5 ms", lock="PriceCache._lock", percentile=99)'
        raise Unjudged(f"{marker.name}: {reason} Write {usage}.") from None


def _why_not_recorded() -> str:
    from tracedthread import _settings

    why = _settings.disabled_by() or "patching was declined, a line on stderr says why, or was undone"
    return f"the limits of this test cannot be judged, because its locks are not recorded: {why}"


def _read() -> tuple[Profile, tuple[Pending, ...]]:
    from tracedthread import _core, is_patched
    from tracedthread.capture import Capture
    from tracedthread.profile import Profile
    from tracedthread.unfinished import pending

    core = _core.loaded()
    if core is None or not is_patched():
        raise Unjudged(_why_not_recorded())
    capture = Capture.from_buffer(core.copy()).of_running()
    return Profile.from_capture(capture), pending(capture)


def _judge(profile: Profile, unfinished: tuple[Pending, ...], limits: list[Limit]) -> None:
    from tracedthread.export.clean import clean
    from tracedthread.export.plain import amount, explain, measured
    from tracedthread.verdict import judge

    verdicts = judge(profile, limits, unfinished)
    problems = [
        f"the limit on {clean(verdict.limit.name)} cannot be judged: {clean(verdict.problem)}"
        for verdict in verdicts
        if verdict.problem
    ]
    if problems:
        problems.append(
            "Only locks that are created after patching are recorded. Without --tracedthread that happens when all "
            "tests are collected, so locks that modules create on import are not seen."
        )
        raise Unjudged("\n".join(problems))
    lines = []
    for verdict in verdicts:
        if verdict.exceeded:
            limit = verdict.limit
            most, was = amount(limit, limit.most), measured(verdict)
            lines.append(f"Test was limited to {most} as the {limit.measure} of {clean(limit.name)}, but it was {was}")
            lines += [f"  {line}" for line in explain(verdict, below=RUNNERS)]
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


def _summary(run: _Run) -> list[str]:
    """A few lines on the whole recording; never an error, the tests are what matters."""
    from tracedthread import is_patched

    if not is_patched():
        return [f"not recorded: {_why_not_recorded().rpartition('recorded: ')[2]}"]
    try:
        profile, _ = _read()
        from tracedthread.export.clean import clean
        from tracedthread.export.findings import findings
        from tracedthread.export.units import count, duration
    except Exception as exc:
        return [f"no summary: {type(exc).__name__}: {exc}"]
    lines = [clean(sentence) for sentence in findings(profile)]
    waited = [lock for lock in profile.locks if lock.stats.contended]
    lines += [
        clean(
            f"  {lock.name or '(unnamed)'} ({lock.created.file}:{lock.created.line}): "
            f"{count(lock.stats.contended, 'wait')}, {duration(lock.wait_s)} together, "
            f"p99 {duration(lock.wait_quantile_s(0.99))}, the longest {duration(lock.wait_max_s)}"
        )
        for lock in waited[:MAX_LOCKS]
    ]
    if len(waited) > MAX_LOCKS:
        lines.append(f"  and {count(len(waited) - MAX_LOCKS, 'more lock')} that threads waited for")
    if run.output is not None:
        from shlex import quote

        lines.append(f"recorded to {run.output}; next: tracedthread report {quote(run.output)}")
    return lines
