"""The runner of CPython's tests does not let anything pass that differs from stock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import baseline
import child
import environment
import pytest
import run
from environment import Run

EXPECTED = {"test_x.T.test_a": "ok", "test_x.T.test_b": "skip"}


class Pretended:
    """Gives the prepared runs, one after the other."""

    def __init__(self, *runs: Run) -> None:
        self.runs = list(runs)
        self.asked: list[list[str]] = []

    def run(self, module: str, timeout_s: float, tests: list[str] | tuple[str, ...] = ()) -> Run:
        self.asked.append(list(tests))
        return self.runs.pop(0)


def outcome(a: str | None = "ok", b: str | None = "skip", *, trouble: str = "", **more: str) -> Run:
    outcomes = {"test.test_x.T.test_a": a, "test.test_x.T.test_b": b} | {
        f"test.{name}": how for name, how in more.items()
    }
    there = {test: how for test, how in outcomes.items() if how}
    return Run(outcomes=there, messages=dict.fromkeys(there, "said"), trouble=trouble)


def compared(*runs: Run, expected: dict[str, str] = EXPECTED) -> dict[str, int]:
    return run.compare(Pretended(*runs), "test_x", expected, 1)  # type: ignore[arg-type]


def test_the_same_is_passed() -> None:
    assert compared(outcome()) == {"passed": 1, "failed": 0, "skipped": 1, "flaky": 0}


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param([outcome("fail"), outcome("fail", None)], id="fails"),
        pytest.param([outcome("skip"), outcome("skip", None)], id="skips"),
        pytest.param([outcome(b="ok"), outcome(None, "ok")], id="no longer skips"),
        pytest.param([outcome(None)], id="is not run"),
        pytest.param([outcome(new="ok")], id="is new"),
        pytest.param([outcome(trouble="ended with SIGSEGV")], id="crashes at the end"),
        pytest.param([outcome("fail", trouble="did not end"), outcome()], id="hangs: no second try"),
        pytest.param([Run(shipped=False)], id="is not found"),
    ],
)
def test_what_differs_is_failed(runs: list[Run]) -> None:
    assert compared(*runs)["failed"] >= 1


def test_a_module_that_is_not_in_the_baseline_is_failed() -> None:
    assert compared(outcome(), expected={})["failed"] == 1


def test_what_passes_on_retry_is_said_loudly(capsys: pytest.CaptureFixture[str]) -> None:
    pretended = Pretended(outcome("fail"), outcome("ok", None))
    count = run.compare(pretended, "test_x", EXPECTED, 1)  # type: ignore[arg-type]
    assert count == {"passed": 1, "failed": 0, "skipped": 1, "flaky": 1}
    assert pretended.asked == [[], ["test.test_x.T.test_a"]]
    assert "FLAKY: PASSED ON RETRY test_x.T.test_a" in capsys.readouterr().out


def test_a_baseline_comes_back_as_written(tmp_path: Path) -> None:
    written = {"test_x": EXPECTED, "test_not_shipped": {}}
    baseline.write(tmp_path / "b.json", written)
    assert baseline.read(tmp_path / "b.json") == written


@pytest.mark.parametrize(("mode", "is_refused"), [("none", False), ("A", False), ("B", True)])
def test_the_patch_must_be_in_force(
    mode: str, is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "WORK", tmp_path)
    monkeypatch.setattr(environment.Environment, "check_children", lambda self: None)
    tried = environment.Environment(mode)
    for pth in tried.folder.glob("lib/python3*/site-packages/*.pth"):
        pth.write_text(f"{tried.path}\n", encoding="utf-8")
    result = tried.run("test_sched", 60)
    assert result.shipped
    assert result.trouble == ("ended with exit code 3" if is_refused else "")
    assert bool(result.outcomes) != is_refused


def test_what_is_left_out_deadlocks_on_stock(tmp_path: Path) -> None:
    test = "test.test_concurrent_futures.test_shutdown.ProcessPoolSpawnProcessPoolShutdownTest.test_processes_terminate"
    # Isolated, without what the environment may patch. Its worker outlives it, and so no pipe is read to its end.
    command = [sys.executable, "-I", Path(__file__).with_name("stock_deadlock.py")]
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        try:
            process.wait(30)
        finally:
            environment.kill_group(process)
    said = log.read_text(encoding="utf-8")
    is_deadlocked = "in _on_queue_feeder_error" in said
    assert is_deadlocked != ("ended" in said), said
    assert bool(child.why_left_out(test)) == is_deadlocked


@pytest.mark.parametrize(
    ("version", "is_left_out"),
    [((3, 11, 9), False), ((3, 12, 7), True), ((3, 12, 8), False), ((3, 13, 0), True), ((3, 13, 1), False)],
)
def test_a_test_is_left_out_only_where_it_deadlocks(version: tuple[int, ...], is_left_out: bool) -> None:
    test = "test_concurrent_futures.test_shutdown.ProcessPoolForkProcessPoolShutdownTest.test_processes_terminate"
    assert bool(child.why_left_out(test, version)) == is_left_out
    assert not child.why_left_out(test.replace("terminate", "end"), version)


def test_what_is_left_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    ran = outcome()
    ran.left_out = {"test.test_x.T.test_c": "because"}
    assert compared(ran)["failed"] == 0
    assert "LEFT OUT 1 that deadlock now and then on stock: because" in capsys.readouterr().out
