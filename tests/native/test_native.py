"""
The Python-free core in plain C: built with no sanitizer, under TSan and under ASan with UBSan, and run.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "native"
CORE = sorted(path for path in NATIVE.glob("*.c") if not path.name.startswith("py_"))
FLAGS = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", f"-I{NATIVE}", f"-I{HERE}"]
SANITIZERS = {
    "plain": ["-O2"],
    "tsan": ["-fsanitize=thread"],
    "asan": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}
FULL = os.environ.get("TRACEDTHREAD_STRESS") == "full"
SEEDS = {"plain": 200 if FULL else 20, "tsan": 40 if FULL else 5, "asan": 40 if FULL else 5}
OPERATIONS = {"plain": 100_000_000, "tsan": 400_000, "asan": 4_000_000}
ROUNDS = {"plain": 400, "tsan": 60, "asan": 100}
THREADS = {"plain": 10_000, "tsan": 1_000, "asan": 2_000}


@pytest.fixture(params=SANITIZERS)
def sanitizer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Path]]:
    """The object files of the core under a sanitizer, compiled once for all programs."""

    @functools.cache
    def compiled(sanitizer: str) -> list[Path]:
        folder = tmp_path_factory.mktemp(sanitizer)
        command = ["gcc", *FLAGS, *SANITIZERS[sanitizer], "-c", *map(str, CORE)]
        subprocess.run(command, check=True, timeout=300, cwd=folder)
        return sorted(folder.glob("*.o"))

    return compiled


@pytest.fixture
def build(core: Callable[[str], list[Path]], sanitizer: str, tmp_path: Path) -> Callable[[str], Path]:
    """Builds the program of that name under the sanitizer."""

    def build(name: str) -> Path:
        program = tmp_path / f"{name}-{sanitizer}"
        objects = map(str, core(sanitizer))
        command = [
            "gcc",
            *FLAGS,
            *SANITIZERS[sanitizer],
            str(HERE / f"{name}.c"),
            *objects,
            "-o",
            str(program),
            "-pthread",
        ]
        subprocess.run(command, check=True, timeout=300)
        return program

    return build


def run(program: Path, *arguments: object) -> str:
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}
    result = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, timeout=110, env=environment, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_lock(build: Callable[[str], Path], sanitizer: str) -> None:
    program = build("test_lock")
    output = run(program, OPERATIONS[sanitizer])
    print(output)
    assert output.endswith("ok\n")
    assert run(program, OPERATIONS[sanitizer] // 20, "no TSC").endswith("ok\n")


def test_blame(build: Callable[[str], Path], sanitizer: str) -> None:
    output = run(build("test_blame"), SEEDS[sanitizer])
    print(output)
    assert output.endswith("ok\n")


def test_carry(build: Callable[[str], Path]) -> None:
    assert run(build("test_carry")).endswith("ok\n")


def test_capture(build: Callable[[str], Path], tmp_path: Path) -> None:
    program = build("test_capture")
    assert run(program).endswith("ok\n")
    assert run(program, tmp_path).endswith("ok\n")


def test_deadlock(build: Callable[[str], Path]) -> None:
    assert run(build("test_deadlock")).endswith("ok\n")


def test_handle(build: Callable[[str], Path], sanitizer: str) -> None:
    program = build("test_handle")
    assert run(program, ROUNDS[sanitizer]).endswith("ok\n")


def test_pool(build: Callable[[str], Path]) -> None:
    assert run(build("test_pool")).endswith("ok\n")


def test_thread(build: Callable[[str], Path], sanitizer: str) -> None:
    program = build("test_thread")
    assert run(program, THREADS[sanitizer]).endswith("ok\n")


def test_core_knows_no_python() -> None:
    assert CORE, NATIVE
    for path in [*CORE, *(path.with_suffix(".h") for path in CORE)]:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        assert "Python.h" not in text and not re.search(r"\bpy_", text), path
