"""
Distributions that are not installed but found: their entry points, in a folder for PYTHONPATH.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
#: `opentelemetry-instrument` of this interpreter, of which a checkout's environment need not have the script.
INSTRUMENT = [
    sys.executable,
    "-c",
    "from opentelemetry.instrumentation.auto_instrumentation import run; run()",
]


def write(
    folder: Path, name: str, entry_points: Mapping[str, Mapping[str, str]], extras: Iterable[str] = ("instruments",)
) -> None:
    """Make a distribution of that name."""
    info = folder / f"{name}-0.1.0.dist-info"
    info.mkdir(parents=True)
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 0.1.0"]
    metadata += [f"Provides-Extra: {extra}" for extra in extras]
    (info / "METADATA").write_text("\n".join(metadata), encoding="utf-8")
    lines = []
    for group, points in entry_points.items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def write_ours(folder: Path) -> None:
    """Make ours, with the entry points and extras that pyproject.toml gives the wheel."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    write(folder, "tracedthread", project["entry-points"], project["optional-dependencies"])
