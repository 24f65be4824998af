"""Imports go down only. pyproject.toml names the floors; every module of the package stands on one of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import grimp

from tracedthread.export import FORMATS

ROOT = Path(__file__).resolve().parents[1]


def test_imports_keep_to_the_floors() -> None:
    command = "from importlinter.cli import lint_imports_command as main; main()"
    result = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_architecture_draws_these_floors() -> None:
    layers = re.findall(
        r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )[0]
    floors = [set(layer.split(" | ")) for layer in re.findall(r'"(.+)"', layers)]
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## Floors\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    drawn = [set(re.findall(r"`(\w+)(?:/|\.py)`", cell)) for cell in cells]
    assert drawn == [*floors, {"native"}]


def test_report_formats_do_not_import_each_other() -> None:
    graph = grimp.build_graph("tracedthread", cache_dir=None)
    formats = {form.module for form in FORMATS.values()}
    assert formats <= graph.modules
    for name in formats:
        assert not graph.find_modules_directly_imported_by(name) & formats, name
