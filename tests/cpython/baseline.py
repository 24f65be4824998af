"""What CPython's tests say on stock, a file per build of an interpreter."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from pathlib import Path

Outcomes = dict[str, str]  # of a module: test id -> ok, skip, fail, error, xfail, xpass


def key() -> str:
    """Names the build of the running interpreter: its version, compiler, time of building and platform."""
    build = hashlib.sha256(f"{sys.version} {platform.machine()}".encode()).hexdigest()[:8]
    return f"{sys.implementation.name}-{platform.python_version()}-{sys.platform}-{platform.machine()}-{build}"


def write(path: Path, baseline: dict[str, Outcomes]) -> None:
    """Sorted by module and outcome, so that a difference can be read. A module without tests is one that is not shipped."""
    modules: dict[str, dict[str, list[str]]] = {}
    for module, outcomes in baseline.items():
        modules[module] = {}
        for test, outcome in sorted(outcomes.items()):
            modules[module].setdefault(outcome, []).append(test)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"python": sys.version, "modules": modules}, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Outcomes]:
    """The inverse of `write`."""
    modules = json.loads(path.read_text(encoding="utf-8"))["modules"]
    return {
        module: {test: outcome for outcome, tests in groups.items() for test in tests}
        for module, groups in modules.items()
    }


def short(outcomes: Outcomes) -> Outcomes:
    """Test names without the `test.` that all begin with."""
    return {test.removeprefix("test."): outcome for test, outcome in outcomes.items()}
