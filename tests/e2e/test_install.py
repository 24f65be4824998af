"""`tracedthread install`: a `.pth` that does nothing until it is asked to, and can be taken away again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from clean_environment import clean_environment

import tracedthread
from tracedthread.commands import install

ROOT = Path(tracedthread.__file__).resolve().parent.parent
LIMIT_S = 60
STATE = (
    "import sys, _thread; "
    "print('tracedthread' in sys.modules, 'threading' in sys.modules, type(_thread.allocate_lock()))"
)


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own that finds the package and cffi by a path file."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=LIMIT_S)
    packages = next((folder / "lib").glob("python3*")) / "site-packages"
    backend = Path(__import__("_cffi_backend").__file__).parent
    (packages / "paths.pth").write_text(f"{ROOT}\n{backend}\n")
    return folder


def start(venv: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(venv / "bin" / "python"), *arguments],
        env=clean_environment(**env),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_install_is_idempotent_and_uninstall_undoes_it(venv: Path) -> None:
    before = start(venv, "-c", STATE).stdout
    pth = next((venv / "lib").glob("python3*")) / "site-packages" / "tracedthread.pth"
    first = start(venv, "-m", "tracedthread", "install")
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith(f"wrote {pth}\n")
    assert len(pth.read_text().splitlines()) == 1
    again = start(venv, "-m", "tracedthread", "install")
    assert again.stdout.startswith(f"already there: {pth}\n")

    assert start(venv, "-c", STATE).stdout == before == f"False False {type(tracedthread.originals.allocate_lock())}\n"
    assert start(venv, "-c", STATE, TRACEDTHREAD_ENABLE="0").stdout == before
    active = start(
        venv, "-c", STATE + "; import tracedthread; print(tracedthread.is_patched())", TRACEDTHREAD_ENABLE="1"
    )
    assert active.stdout.startswith("True False ")
    assert active.stdout.endswith("True\n")
    assert active.stderr == ""

    removed = start(venv, "-m", "tracedthread", "uninstall")
    assert removed.stdout == f"removed {pth}\n"
    assert not pth.exists()
    nothing = start(venv, "-m", "tracedthread", "uninstall")
    assert (nothing.returncode, nothing.stdout) == (0, f"nothing to do: there is no {pth}\n")


def test_settings_reach_a_program_that_knows_nothing(venv: Path, tmp_path: Path) -> None:
    start(venv, "-m", "tracedthread", "install")
    code = "import threading; jobs = threading.Lock(); jobs.acquire(); jobs.release()"
    result = start(
        venv,
        "-c",
        code,
        TRACEDTHREAD_ENABLE="1",
        TRACEDTHREAD_OUTPUT=f"{tmp_path}/app.%p.ttc",
        TRACEDTHREAD_CAPTURE_BYTES="1M",
    )
    assert (result.returncode, result.stderr) == (0, "")
    (file,) = tmp_path.glob("app.*.ttc")
    assert file.stat().st_size <= 1 << 20
    shown = subprocess.run(
        [sys.executable, "-m", "tracedthread", "report", str(file), "--format", "json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        timeout=LIMIT_S,
    )
    locks = [lock for lock in json.loads(shown.stdout)["locks"] if lock["name"].endswith(".jobs")]
    assert [lock["acquisitions"] for lock in locks] == [1]
    start(venv, "-m", "tracedthread", "uninstall")


def test_nothing_is_said_or_broken_when_the_package_is_gone(venv: Path) -> None:
    start(venv, "-m", "tracedthread", "install")
    paths = next((venv / "lib").glob("python3*/site-packages/paths.pth"))
    kept = paths.read_text()
    try:
        paths.write_text("")
        result = start(venv, "-c", STATE, TRACEDTHREAD_ENABLE="1")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith("False False")
    finally:
        paths.write_text(kept)
        start(venv, "-m", "tracedthread", "uninstall")


def test_run_under_a_recording_that_has_begun_goes_on_in_it(venv: Path, tmp_path: Path) -> None:
    start(venv, "-m", "tracedthread", "install")
    program, output = tmp_path / "program.py", tmp_path / "late.ttc"
    program.write_text("import tracedthread; print(tracedthread.is_patched())")
    result = start(venv, "-m", "tracedthread", "run", "-o", str(output), str(program), TRACEDTHREAD_ENABLE="1")
    assert (result.returncode, result.stdout) == (0, "True\n")
    assert result.stderr.startswith(f"tracedthread: -o {output} is not used: this process records to memory already")
    assert not output.exists()
    start(venv, "-m", "tracedthread", "uninstall")


def test_disabled_wins_over_enabled(venv: Path) -> None:
    start(venv, "-m", "tracedthread", "install")
    result = start(
        venv,
        "-c",
        "import tracedthread; print(tracedthread.is_patched())",
        TRACEDTHREAD_ENABLE="1",
        TRACEDTHREAD_DISABLED="1",
    )
    assert (result.stdout, result.stderr) == ("False\n", "")
    start(venv, "-m", "tracedthread", "uninstall")


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    pth = tmp_path / "tracedthread.pth"
    pth.write_text("/somewhere/else\n")
    with pytest.raises(OSError, match="not written by tracedthread"):
        install.install(str(pth))
    with pytest.raises(OSError, match="not written by tracedthread"):
        install.uninstall(str(pth))
    assert pth.read_text() == "/somewhere/else\n"
    pth.unlink()
    (tmp_path / "target").write_text(install.LINE)
    pth.symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="not written by tracedthread"):
        install.uninstall(str(pth))


def test_a_folder_that_cannot_be_written_is_one_line(venv: Path) -> None:
    code = """
        import sys, sysconfig
        from tracedthread.commands import install
        install.pth_path = lambda user=False: "/proc/nowhere/tracedthread.pth"
        from tracedthread.__main__ import main
        raise SystemExit(main(["install"]))
    """
    result = start(venv, "-c", textwrap.dedent(code))
    assert result.returncode == 1
    assert result.stderr.startswith("tracedthread: ")
    assert result.stderr.count("\n") == 1


def test_user_site_where_there_is_none(venv: Path) -> None:
    result = start(venv, "-m", "tracedthread", "install", "--user")
    assert (result.returncode, result.stdout) == (1, "")
    assert "user's site-packages" in result.stderr


def test_output_that_cannot_be_written_is_one_line(venv: Path) -> None:
    for verb in ("install", "uninstall"):
        with open("/dev/full", "wb") as full:
            result = subprocess.run(
                [str(venv / "bin" / "python"), "-m", "tracedthread", verb],
                env=clean_environment(),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        assert result.returncode == 2
        assert result.stderr == "tracedthread: standard output: No space left on device\n"
