"""Settings from the environment: what is read, what is said of what cannot be, and that the README lists them all."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tracedthread import _settings

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"

NUMBERS = [
    ("TRACEDTHREAD_SPAN_THRESHOLD_MS", _settings.span_threshold_ms, 1.0),
    ("TRACEDTHREAD_ROOT_SPAN_THRESHOLD_MS", _settings.root_span_threshold_ms, 100.0),
    ("TRACEDTHREAD_SPANS_PER_SECOND", _settings.spans_per_second, 1000),
    ("TRACEDTHREAD_METRICS_TOP", _settings.metrics_top, 20),
]


@pytest.fixture(autouse=True)
def nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_settings, "_said", set())


@pytest.mark.parametrize(("name", "read", "default"), NUMBERS)
def test_number_is_read_from_the_environment_or_from_what_is_given(
    name: str, read: Callable[..., float], default: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name, raising=False)
    assert read() == default
    monkeypatch.setenv(name, "7")
    assert read() == 7
    assert read(0) == 0
    assert read("8") == 8


@pytest.mark.parametrize("bad", ["many", "-1", "nan", "inf", "1e12"])
@pytest.mark.parametrize(("name", "read", "default"), NUMBERS)
def test_bad_number_costs_one_line_and_the_default(
    name: str,
    read: Callable[..., float],
    default: float,
    bad: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, bad)
    assert read() == read() == default
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(rf"tracedthread: {name}: '{re.escape(bad)}' is not a number of \w+; using the default\n", err)


@pytest.mark.parametrize("bad", [object(), [], {"a": 1}, "x"])
def test_what_a_configuration_file_gives_wrongly_costs_one_line_too(
    bad: object, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _settings.spans_per_second(bad) == 1000
    assert capfd.readouterr().err.count("\n") == 1


def test_switches(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for name, read in (
        ("TRACEDTHREAD_THREAD_START_LOGS", _settings.thread_start_logs),
        ("TRACEDTHREAD_OTLP", _settings.otlp),
    ):
        for value, expected in (("", False), ("1", True), ("off", False), ("perhaps", False)):
            monkeypatch.setenv(name, value)
            assert read() is expected, (name, value)
    assert capfd.readouterr().err.count("'perhaps' is neither 1 nor 0; using 0") == 2
    assert _settings.thread_start_logs(True) is True
    assert _settings.thread_start_logs("yes") is True


def test_an_endpoint_asks_to_export(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("TRACEDTHREAD_OTLP", raising=False)
    monkeypatch.setenv("TRACEDTHREAD_OTLP_ENDPOINT", "http://collector:4318/")
    assert _settings.otlp_endpoint() == "http://collector:4318"
    assert _settings.otlp()
    for path in ("/v1/traces", "/v1/metrics/", "/v1/logs"):  # each signal is sent to its own
        monkeypatch.setenv("TRACEDTHREAD_OTLP_ENDPOINT", f"http://collector:4318{path}")
        assert _settings.otlp_endpoint() == "http://collector:4318"
    monkeypatch.setenv("TRACEDTHREAD_OTLP_ENDPOINT", "collector:4318")
    assert _settings.otlp_endpoint() is None
    assert not _settings.otlp()
    assert "'collector:4318' is not a URL" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9464", "127.0.0.1:9464"),
        (":9464", "127.0.0.1:9464"),
        ("0.0.0.0:9464", "0.0.0.0:9464"),
        ("localhost:0", "localhost:0"),
        ("[::1]:9464", "[::1]:9464"),
    ],
)
def test_address(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEDTHREAD_PROMETHEUS_LISTEN", text)
    assert _settings.prometheus_listen() == expected


@pytest.mark.parametrize("text", ["host", "host:", "host:port", "::1:9464", "host:65536", "host:-1", "host:1e3"])
def test_bad_address_serves_nothing(
    text: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACEDTHREAD_PROMETHEUS_LISTEN", text)
    assert _settings.prometheus_listen() is None
    assert "is not ADDR:PORT; serving no metrics" in capfd.readouterr().err


def names(text: str) -> set[str]:
    return set(re.findall(r"\bTRACEDTHREAD_[A-Z_]+\b", text))


def test_readme_has_a_row_for_every_setting() -> None:
    source = (ROOT / "tracedthread" / "_settings.py").read_text(encoding="utf-8")
    table = "".join(re.findall(r"^\| `TRACEDTHREAD_[^|]*", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert names(table) == names(source)
    code = source.partition('"""')[2]
    documentation, _, code = code.partition('"""')
    start = (ROOT / "tracedthread" / "_site" / "sitecustomize.py").read_text(encoding="utf-8")
    assert names(documentation) == names(code) | names(start)
