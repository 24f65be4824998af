"""`tracedthread doctor`: each sentence is true, and what is wrong decides the exit status."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import capture_builder as cb
import pytest
from clean_environment import clean_environment

from tracedthread import checkup
from tracedthread.checkup import NOTE, OK, WRONG, Finding
from tracedthread.commands import doctor

ROOT = str(Path(checkup.__file__).resolve().parent.parent)


def run(*arguments: str, **env: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Exit status, and the findings by topic."""
    result = subprocess.run(
        [sys.executable, "-m", "tracedthread", "doctor", "--json", *arguments],
        env=clean_environment(ROOT, **env),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert report["schema"] == "tracedthread.doctor/1"
    assert report["ok"] == (result.returncode == 0) == all(one["state"] != WRONG for one in report["findings"])
    topics: dict[str, list[dict[str, Any]]] = {}
    for one in report["findings"]:
        topics.setdefault(one["topic"], []).append(one)
    return result.returncode, topics


def test_a_host_where_all_is_well(tmp_path: Path) -> None:
    status, topics = run(TRACEDTHREAD_ENABLE="1", TRACEDTHREAD_OUTPUT=str(tmp_path / "not made.ttc"))
    assert status == 0
    assert topics["python"][0]["data"]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert [one["state"] for one in topics["patching"] if one["sentence"] == "Patching works."] == [OK]
    operations = {one["data"]["operation"]: one["data"] for one in topics["cost"]}
    assert set(operations) == {"with lock", "with rlock", "Lock()", "thread"}
    for data in operations.values():
        assert data["rounds"] >= 7
        assert data["stock_ns"] > 0
        assert data["ours_ns"] > 0
        assert data["ratio"] > 0
    assert topics["clock"][0]["data"]["clock"] in ("tsc", "clock_gettime")
    assert any(
        "queue.SimpleQueue waits (implemented in C), other than" in one["sentence"] for one in topics["coverage"]
    )
    assert [one["state"] for one in topics["back end"]] == [NOTE]
    assert os.listdir(tmp_path) == [], "the doctor's patient is not the program that is to be recorded"


def test_another_tracedthread_where_it_is_started_is_not_examined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tracedthread").mkdir()
    (tmp_path / "tracedthread" / "__init__.py").write_text("raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    assert "Patching works." in [one.sentence for one in checkup.of_host()]


@pytest.mark.parametrize("switch", ["TRACEDTHREAD_DISABLED=1", "OTEL_SDK_DISABLED=true"])
def test_a_switch_that_keeps_us_out_is_wrong_and_named(switch: str) -> None:
    status, topics = run(**dict([switch.split("=")]))
    assert status == 1
    assert [(one["state"], one["sentence"]) for one in topics["patching"][:1]] == [
        (WRONG, f"Nothing is recorded, because {switch} is set.")
    ]
    assert "cost" not in topics


def test_a_setting_that_cannot_be_read_is_wrong() -> None:
    status, topics = run(TRACEDTHREAD_CAPTURE_BYTES="a lot")
    assert status == 1
    wrong = [one["sentence"] for one in topics["patching"] if one["state"] == WRONG]
    assert len(wrong) == 1
    assert wrong[0].startswith("TRACEDTHREAD_CAPTURE_BYTES: 'a lot' is not a number of bytes")


def sentences(findings: Any, state: str) -> list[str]:
    return [finding.sentence for finding in findings if finding.state == state]


def test_what_patching_says_when_it_declines_is_the_reason() -> None:
    found = {"switch": None, "patched": False}
    said = "tracedthread: not recording: no native code for this interpreter (nothing)\n"
    findings = list(checkup._patching(found, "other\n" + said))
    assert sentences(findings, WRONG) == ["Nothing can be recorded: no native code for this interpreter (nothing)."]


@pytest.mark.parametrize(
    ("clock", "source", "machine", "reason"),
    [
        ("clock_gettime", "kvm-clock", "x86_64", "its clocksource is kvm-clock"),
        ("clock_gettime", "", "x86_64", "its clocksource is not known"),
        ("clock_gettime", "tsc", "x86_64", "did not pass its test"),
        ("clock_gettime", "arch_sys_counter", "aarch64", "there is no other on aarch64"),
        ("tsc", "tsc", "x86_64", "the processor's counter (TSC)"),
    ],
)
def test_the_clock_is_named_with_the_reason(clock: str, source: str, machine: str, reason: str) -> None:
    found = {"clock": clock, "clocksource": source, "ns_per_tick": 0.4, "python": {"machine": machine}}
    finding = checkup._clock(found)
    assert reason in finding.sentence
    assert finding.state == (OK if clock == "tsc" else NOTE)


def test_what_a_recording_lost_is_wrong_and_rings_are_none(tmp_path: Path) -> None:
    builder = cb.example()
    path = tmp_path / "app.ttc"
    path.write_bytes(builder.build())
    findings = list(checkup.of_file(str(path)))
    assert sentences(findings, WRONG) == [
        "No room was left for 12 stacks: their totals are in (other). Record with a larger --capture-size."
    ]
    assert any("app.py, which has ended" in sentence for sentence in sentences(findings, OK))
    assert any("locks created before patching: 2 (logging._lock" in sentence for sentence in sentences(findings, NOTE))
    builder.lost[cb.STACKS] = 0
    builder.event_capacity = 1
    path.write_bytes(builder.build())
    findings = list(checkup.of_file(str(path)))
    assert sentences(findings, WRONG) == []
    assert "Nothing was lost: everything found room." in sentences(findings, OK)
    assert any("The 2 oldest events made room" in sentence for sentence in sentences(findings, NOTE))


def test_a_recording_of_nothing_or_no_recording_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "app.ttc"
    path.write_bytes(cb.CaptureBuilder().build())
    assert len(sentences(checkup.of_file(str(path)), WRONG)) == 1
    path.write_bytes(b"text")
    assert sentences(checkup.of_file(str(path)), WRONG) == [f"{path} cannot be read: not a capture."]
    assert sentences(checkup.of_file("none"), WRONG) == ["none cannot be read: No such file or directory."]


def test_a_name_of_a_file_begins_a_sentence_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("app.ttc").write_bytes(cb.example().build())
    assert next(iter(checkup.of_file("app.ttc"))).sentence.startswith("app.ttc holds 12.3 s")


@pytest.mark.parametrize("target", ["none.ttc", str(2**22 + 1), "9" * 5000])
def test_what_cannot_be_read_is_said_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    def measure() -> list[Finding]:
        raise AssertionError("nobody waits for this")

    monkeypatch.setattr(doctor, "of_host", measure)
    assert doctor.main(argparse.Namespace(target=target, json=False)) == 1
    out = capsys.readouterr().out
    assert target in out
    assert [line[:4] for line in out.splitlines()] == ["!!  ", "1 th"]


def test_a_process_that_records_is_looked_into(tmp_path: Path) -> None:
    code = "import tracedthread, threading; tracedthread.patch(); x = threading.Lock(); x.acquire(); print(1, flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": ROOT}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        findings = list(checkup.of_process(process.pid))
        process.communicate(b"\n")
    assert f"Process {process.pid} holds" in findings[0].sentence
    assert "which still runs" in findings[0].sentence
    assert len(sentences(checkup.of_process(process.pid), WRONG)) == 1, "it has ended"


def test_a_back_end_is_tried_where_it_is_configured() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for address in (f"http://127.0.0.1:{port}", f"127.0.0.1:{port}", f"http://user:secret@127.0.0.1:{port}/v1"):
            (finding,) = checkup.of_back_ends({"OTEL_EXPORTER_OTLP_ENDPOINT": address})
            assert finding.state == OK
            assert finding.sentence == f"The OTLP back end at 127.0.0.1:{port} accepts connections."
            assert "secret" not in json.dumps(finding.to_dict())
    (finding,) = checkup.of_back_ends({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"})
    assert finding.state == WRONG
    assert "cannot be reached: Connection refused" in finding.sentence


def test_pyroscope_is_tried_where_it_is_configured() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        _, finding = checkup.of_back_ends({"TRACEDTHREAD_PYROSCOPE_URL": f"http://user:secret@127.0.0.1:{port}/x"})
        assert (finding.state, finding.sentence) == (OK, f"Pyroscope at 127.0.0.1:{port} accepts connections.")
        assert "secret" not in json.dumps(finding.to_dict())
    _, finding = checkup.of_back_ends({"TRACEDTHREAD_PYROSCOPE_URL": f"http://127.0.0.1:{port}"})
    assert finding.state == WRONG
    _, finding = checkup.of_back_ends({"TRACEDTHREAD_PYROSCOPE_URL": "secret"})
    assert finding.sentence == "TRACEDTHREAD_PYROSCOPE_URL is not a URL such as http://localhost:4040."


@pytest.mark.parametrize("address", ["http://", "http://[::1", "http://host:port", ":4317"])
def test_what_is_no_address_is_wrong(address: str) -> None:
    (finding,) = checkup.of_back_ends({"OTEL_EXPORTER_OTLP_ENDPOINT": address})
    assert (finding.topic, finding.state) == ("back end", WRONG)


def test_without_a_back_end_that_is_a_note() -> None:
    (finding,) = checkup.of_back_ends({})
    assert finding.state == NOTE


def test_text_has_a_line_for_each_finding_and_the_sum(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "of_host", lambda: [Finding("python", OK, "Fine.")])
    monkeypatch.setattr(doctor, "of_back_ends", lambda _: [Finding("back end", NOTE, "None.\x1b")])
    args = argparse.Namespace(target=None, json=False)
    assert doctor.main(args) == 0
    assert capsys.readouterr().out == "ok    Fine.\nnote  None.\ufffd\nAll is well.\n"
    monkeypatch.setattr(doctor, "of_host", lambda: [Finding("python", WRONG, "Bad.")])
    assert doctor.main(args) == 1
    assert capsys.readouterr().out.endswith("1 thing is wrong: see !!\n")
