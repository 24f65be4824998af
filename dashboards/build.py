"""
Makes `json/*.json`, which Grafana reads, of the dashboards in Python.

    python -m dashboards.build
"""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from . import lock, overview, threads

FOLDER = Path(__file__).with_name("json")
DASHBOARDS = {"overview": overview.build, "lock": lock.build, "threads": threads.build}


def render(name: str) -> str:
    """The file's text."""
    return JSONEncoder(sort_keys=True, indent=2).encode(DASHBOARDS[name]().build()) + "\n"


def main() -> None:
    """Write them all."""
    FOLDER.mkdir(exist_ok=True)
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(render(name), encoding="utf-8")


if __name__ == "__main__":
    main()
