"""The runner of CPython's tests does not let anything pass that differs from stock."""

from __future__ import annotations

from pathlib import Path

import baseline
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
