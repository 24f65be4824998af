"""The pytest plugin: limits as markers, a recording of a run; what cannot be judged is an error, never a pass."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import tracedthread
from tracedthread.capture import Capture
from tracedthread.profile import Profile

pytest_plugins = ["pytester"]

ROOT = str(Path(tracedthread.__file__).resolve().parent.parent)

SHOP = """
import threading, time
import pytest

class PriceCache:
    def __init__(self):
        self._lock = threading.Lock()

def slow_report(cache, seconds, ready):
    with cache._lock:
        ready.set()
        time.sleep(seconds)

def checkout(cache, seconds):
    ready = threading.Event()
    report = threading.Thread(target=slow_report, args=(cache, seconds, ready))
    report.start()
    ready.wait()
    with cache._lock:
        pass
    report.join()
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> object:
    """Runs pytest in a process of its own on a file of tests; the classes above are there."""
    for name in list(os.environ):
        if name.startswith(("TRACEDTHREAD_", "OTEL_", "PYTEST_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", ROOT)
    monkeypatch.setenv("COLUMNS", "200")

    def start(tests: str, *arguments: str, plugin: bool = True) -> pytest.RunResult:
        pytester.makepyfile(SHOP + tests)
        loaded = ["-p", "no:ddtrace", *(["-p", "tracedthread.pytest_plugin"] if plugin else [])]
        return pytester.runpytest_subprocess(*loaded, "-p", "no:cacheprovider", *arguments)

    return start


def test_a_wait_above_its_limit_fails_and_names_site_and_stacks(run) -> None:
    result = run("""
@pytest.mark.limit_lock_wait("5 ms", lock="PriceCache._lock", percentile=99)
def test_checkout():
    checkout(PriceCache(), 0.1)
""")
    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([
        "Test was limited to 5.00 ms as the p99 of the waits of PriceCache._lock, but it was * ms",
        "  PriceCache._lock (*.py:6): p99 of the waits was * ms, the limit is 5.00 ms",
        "*waited * in 1 wait, at most * ms, in",
        "*checkout */test_a_wait_above_its_limit_fails_and_names_site_and_stacks.py:*",
        "*test_checkout *",
    ])  # fmt: skip
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*pluggy/_manager*")


def test_limits_that_are_kept_pass(run) -> None:
    run("""
pytestmark = pytest.mark.limit_lock_hold("50 s", lock="_lock")

@pytest.mark.limit_lock_wait("50 s", lock="PriceCache._lock", percentile=99.9)
@pytest.mark.limit_lock_wait("50 s", lock="Price*")
def test_checkout():
    checkout(PriceCache(), 0.02)
""").assert_outcomes(passed=1)


def test_a_hold_above_its_limit_fails(run) -> None:
    result = run("""
@pytest.mark.limit_lock_hold("10 ms", lock="PriceCache._lock")
def test_checkout():
    checkout(PriceCache(), 0.05)
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["Test was limited to 10.0 ms as the longest hold of PriceCache._lock*"])


def test_only_what_happens_inside_the_test_counts(run) -> None:
    run("""
@pytest.fixture(scope="module")
def cache():
    cache = PriceCache()
    checkout(cache, 0.2)
    yield cache
    checkout(cache, 0.2)

def test_slow_without_limit(cache):
    checkout(cache, 0.2)

@pytest.mark.limit_lock_wait("100 ms", lock="PriceCache._lock")
@pytest.mark.limit_lock_hold("100 ms", lock="PriceCache._lock")
def test_quick(cache):
    with cache._lock:
        pass
""").assert_outcomes(passed=2)


def test_an_unknown_lock_or_one_that_nobody_takes_is_an_error_that_says_what_is_seen(run) -> None:
    result = run("""
@pytest.mark.limit_lock_wait("5 s", lock="PriceCash._lock")
def test_unknown():
    PriceCache()._lock.acquire()

@pytest.mark.limit_lock_wait("5 s", lock="Session._lock")
def test_unused():
    class Session:
        def __init__(self): self._lock = threading.Lock()
    Session()
""")
    result.assert_outcomes(errors=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([
        "*ERROR at call of test_unknown*",
        "*no lock is called PriceCash._lock; did you mean PriceCache._lock?*",
        "Only locks that are created after patching*",
        "*ERROR at call of test_unused*",
        "*Session._lock was created, but nobody has taken it*",
    ])  # fmt: skip


def test_a_lock_from_before_patching_is_an_error_without_the_flag_and_known_with_it(run) -> None:
    tests = """
cache = PriceCache()

@pytest.mark.limit_lock_wait("1 ms", lock="PriceCache._lock")
def test_checkout():
    checkout(cache, 0.05)
"""
    run(tests).assert_outcomes(errors=1)
    run(tests, "--tracedthread").assert_outcomes(failed=1)


def test_an_expected_failure_does_not_hide_what_cannot_be_judged(run) -> None:
    result = run("""
@pytest.mark.xfail
@pytest.mark.limit_lock_wait("5 s", lock="nothing")
def test_unknown(): pass

@pytest.mark.xfail
@pytest.mark.limit_lock_wait("1 ms", lock="PriceCache._lock")
def test_slow():
    checkout(PriceCache(), 0.05)
""")
    result.assert_outcomes(errors=1, xfailed=1)


def test_a_test_that_fails_or_skips_by_itself_is_left_alone(run) -> None:
    result = run("""
@pytest.mark.limit_lock_wait("5 s", lock="nothing")
def test_fails():
    assert 1 + 1 == 3

@pytest.mark.limit_lock_wait("5 s", lock="nothing")
def test_skips():
    pytest.skip("no")
""")
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(["E*assert (1 + 1) == 3"])


WRONG = [
    "",
    '"5 ms"',
    '"5", lock="a"',
    '5, lock="a"',
    '"5 ms", lock=""',
    '"5 ms", lock=7',
    '"5 ms", "a"',
    '"5 ms", lock="a", percentile=0',
    '"5 ms", lock="a", percentile=101',
    '"5 ms", lock="a", percentile="99"',
    '"5 ms", lock="a", quantile=99',
    '"5 ms", lock="a", percentil=99',
]


def test_a_marker_that_is_written_wrongly_is_an_error_of_setup(run) -> None:
    tests = "".join(
        f"""
@pytest.mark.limit_lock_wait({arguments})
def test_{index}():
    print("it " + "ran")
"""
        for index, arguments in enumerate(WRONG)
    )
    result = run(tests, "-s")
    result.assert_outcomes(errors=len(WRONG))
    for index in range(len(WRONG)):
        result.stdout.fnmatch_lines([
            f"*ERROR at setup of test_{index} *",
            "limit_lock_wait: *[!.?][.?] Write @pytest.mark.limit_lock_wait(*",
        ])  # fmt: skip
    result.stdout.no_fnmatch_line("limit_lock_wait: *limit_lock_wait*Write*")
    result.stdout.no_fnmatch_line("*it ran*")


@pytest.mark.parametrize("switch", ["TRACEDTHREAD_DISABLED=1", "OTEL_SDK_DISABLED=true"])
def test_an_unpatched_run_is_an_error_of_those_with_limits_only(run, monkeypatch, switch: str) -> None:
    monkeypatch.setenv(*switch.split("="))
    result = run(
        """
def test_other(): pass

@pytest.mark.limit_lock_wait("5 s", lock="PriceCache._lock")
def test_checkout():
    checkout(PriceCache(), 0.01)
""",
        "--tracedthread",
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*not recorded: " + switch])


def test_a_test_that_unpatches_is_an_error(run) -> None:
    run("""
import tracedthread
@pytest.mark.limit_lock_wait("5 s", lock="PriceCache._lock")
def test_checkout():
    tracedthread.unpatch()
""").assert_outcomes(errors=1)


@pytest.mark.parametrize("way", ["pause resume", "unpatch patch"])
def test_a_test_that_stops_recording_for_a_while_is_an_error(run, way: str) -> None:
    off, on = way.split()
    result = run(f"""
@pytest.mark.limit_lock_wait("1 us", lock="PriceCache._lock")
def test_checkout():
    import tracedthread
    cache = PriceCache()
    checkout(cache, 0)
    tracedthread.{off}()
    checkout(cache, 0.05)
    tracedthread.{on}()
""")
    result.stdout.fnmatch_lines(["*cannot be judged: recording was paused or undone while it ran*"])
    result.assert_outcomes(errors=1)


def test_a_hold_from_before_the_test_hides_none_that_goes_on(run) -> None:
    result = run("""
@pytest.fixture
def cache():
    cache = PriceCache()
    cache._lock.acquire()
    return cache
@pytest.mark.limit_lock_hold("5 s", lock="PriceCache._lock")
def test_hands_over(cache):
    cache._lock.release()
    cache._lock.acquire()
@pytest.mark.limit_lock_hold("5 s", lock="PriceCache._lock")
def test_ends_it(cache):
    cache._lock.release()
""")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*1 of the holds of PriceCache._lock had not ended*"])


def test_a_pause_before_the_test_does_not_matter(run) -> None:
    run("""
import tracedthread
@pytest.fixture
def cache():
    cache = PriceCache()
    cache._lock.acquire()
    tracedthread.pause()
    cache._lock.release()
    cache._lock.acquire()
    tracedthread.resume()
    yield cache
@pytest.mark.limit_lock_hold("5 s", lock="PriceCache._lock")
def test_checkout(cache):
    cache._lock.release()
    checkout(cache, 0)
""").assert_outcomes(passed=1)


def test_nothing_is_patched_or_imported_unless_it_is_asked_for(run) -> None:
    run("""
import sys, _thread
def test_stock():
    assert type(_thread.allocate_lock()).__module__ == "_thread"
    ours = {name for name in sys.modules if name.startswith("tracedthread")}
    assert not ours & {"tracedthread.profile", "tracedthread.limits", "tracedthread.verdict", "tracedthread._native"}
    assert not sys.modules["tracedthread"].is_patched()
""").assert_outcomes(passed=1)
    run("""
import tracedthread
def test_patched_for_the_other():
    assert tracedthread.is_patched()
@pytest.mark.limit_lock_wait("5 s", lock="x")
def test_x():
    x = threading.Lock()
    x.acquire()
""").assert_outcomes(passed=2)
    run(
        """
import tracedthread
def test_stock():
    assert not tracedthread.is_patched()
@pytest.mark.limit_lock_wait("5 s", lock="x")
def test_x(): pass
""",
        "-k",
        "stock",
    ).assert_outcomes(passed=1, deselected=1)


def test_the_flag_records_the_whole_run_from_before_conftest(run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import threading\nclass Early: lock = threading.Lock()\nwith Early.lock: pass\n")
    result = run("def test_checkout(): checkout(PriceCache(), 0.05)", "--tracedthread-output", "run.ttc")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([
        "*= tracedthread =*",
        "*checkout* waited * in 1 wait for *PriceCache._lock*",
        "  PriceCache._lock (*.py:6): 1 wait, * together, p99 *, the longest *",
        "recorded to run.ttc; next: tracedthread report run.ttc",
    ])  # fmt: skip
    profile = Profile.from_capture(Capture.open(pytester.path / "run.ttc"))
    names = {lock.name: lock for lock in profile.locks}
    assert names["Early.lock"].stats.acquisitions == 1
    assert names["PriceCache._lock"].stats.contended == 1
    assert profile.process.state == "exited"
    again = run("def test_nothing(): pass", "--tracedthread-output", "run.ttc")
    again.assert_outcomes(passed=1)
    profile = Profile.from_capture(Capture.open(pytester.path / "run.ttc"))
    assert "PriceCache._lock" not in {lock.name for lock in profile.locks}


def test_the_summary_says_that_recording_was_paused(run) -> None:
    result = run(
        """
def test_paused():
    import tracedthread
    tracedthread.pause()
    checkout(PriceCache(), 0.05)
    tracedthread.resume()
""",
        "--tracedthread",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*= tracedthread =*", "Recording was paused for * of *; what happened then is not in*"]
    )


def test_a_run_that_records_elsewhere_already_is_refused(run, monkeypatch, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(early="import tracedthread\ntracedthread.patch()\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([ROOT, str(pytester.path)]))
    result = run("def test_x(): pass", "-p", "early", "--tracedthread-output", "x.ttc")
    if result.ret == 0:  # our hook came first
        pytest.skip("the plugin was not early")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--tracedthread-output x.ttc: this process records to memory already*"])


def test_workers_of_xdist_record_and_judge_for_themselves(run, pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    result = run(
        """
@pytest.mark.limit_lock_wait("5 ms", lock="PriceCache._lock")
def test_slow():
    checkout(PriceCache(), 0.1)

@pytest.mark.limit_lock_wait("50 s", lock="PriceCache._lock")
def test_quick():
    checkout(PriceCache(), 0.01)

@pytest.mark.limit_lock_wait("50 s", lock="nothing")
def test_unknown(): pass
""",
        "-n",
        "2",
        "--tracedthread-output",
        "run.ttc",
    )
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at call of test_unknown*", "*= tracedthread: gw0 =*", "recorded to run.gw0.ttc*"]
    )
    result.stdout.fnmatch_lines(["*= tracedthread: gw1 =*", "recorded to run.gw1.ttc*"])
    assert sorted(path.name for path in pytester.path.glob("*.ttc")) == ["run.gw0.ttc", "run.gw1.ttc"]


def install(folder: Path) -> None:
    """What an installed package would have, so that pytest finds the plugin by itself."""
    metadata = folder / "tracedthread_test-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tracedthread-test\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("[pytest11]\ntracedthread = tracedthread.pytest_plugin\n")


def test_the_entry_point_is_found_and_can_be_turned_off(run, monkeypatch, pytester: pytest.Pytester) -> None:
    install(pytester.path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([ROOT, str(pytester.path)]))
    tests = """
@pytest.mark.limit_lock_wait("5 s", lock="nothing")
def test_unknown(): pass
"""
    run(tests, "--strict-markers", plugin=False).assert_outcomes(errors=1)
    run(tests, "--tracedthread", plugin=False).assert_outcomes(errors=1)
    off = run(tests, "-p", "no:tracedthread", plugin=False)
    off.assert_outcomes(passed=1, warnings=1)
    assert run(tests, "-p", "no:tracedthread", "--strict-markers", plugin=False).ret != 0


def test_a_run_in_this_process_leaves_thread_as_it_was(pytester: pytest.Pytester) -> None:
    was = tracedthread.is_patched()
    pytester.makepyfile(
        SHOP
        + """
@pytest.mark.limit_lock_wait("5 ms", lock="PriceCache._lock")
def test_checkout():
    checkout(PriceCache(), 0.1)
"""
    )
    pytester.runpytest_inprocess("-p", "tracedthread.pytest_plugin", "-p", "no:cacheprovider").assert_outcomes(failed=1)
    assert tracedthread.is_patched() == was


def test_the_project_declares_the_entry_point() -> None:
    text = (Path(ROOT) / "pyproject.toml").read_text()
    assert '[project.entry-points.pytest11]\ntracedthread = "tracedthread.pytest_plugin"\n' in text
    assert sys.version_info >= (3, 10)
