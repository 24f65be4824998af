"""The Pythons of this machine that the tests can run on: CPython 3.10 or newer, with a GIL, with venv and its headers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from glob import glob

ABOUT = """
import importlib.util, json, os, platform, sys, sysconfig
include = sysconfig.get_path("include")
print(json.dumps({
    "name": platform.python_implementation(),
    "version": platform.python_version(),
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "optimised": "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    or "deb_system" in sysconfig.get_scheme_names(),  # Debian profiles its builds by other means than configure
    "debug": bool(sysconfig.get_config_var("Py_DEBUG")),
    "lacks": [what for what, found in {
        "ensurepip": importlib.util.find_spec("ensurepip"),
        "headers": os.path.exists(os.path.join(include, "Python.h")),
    }.items() if not found],
}))
"""


@dataclass(frozen=True)
class Python:
    """
    An interpreter.

    Attributes:
        version: 3.13.0; the tests keep one of each.
        command: What starts it.
        prefix: What comes before every command that uses it: nothing, or the way into a Debian folder.
        is_optimised: Built with profile-guided optimisation.
    """

    version: str
    command: str
    prefix: tuple[str, ...] = ()
    is_optimised: bool = False

    @property
    def minor(self) -> tuple[int, int]:
        """(3, 13)."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    @property
    def venv_python(self) -> str:
        """The interpreter of the environment that `make build` makes."""
        return f".venv/{self.version}/bin/python"

    def __str__(self) -> str:
        where = " ".join([*self.prefix[-1:], self.command])
        return f"{self.version} ({where}{', optimised build' if self.is_optimised else ''})"


def examine(command: str, prefix: tuple[str, ...] = ()) -> tuple[Python | None, str]:
    """The interpreter behind a command, or why it is of no use."""
    try:
        result = subprocess.run(
            [*prefix, command, "-I", "-c", ABOUT], capture_output=True, text=True, timeout=60, check=True
        )
        about = json.loads(result.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None, "does not run, or is far too old"
    python = Python(about["version"], command, prefix, about["optimised"])
    if about["name"] != "CPython" or python.minor < (3, 10):
        return None, f"is {about['name']} {python.version}"
    if about["free_threaded"] or about["debug"]:
        return None, "is a free-threaded or a debug build"
    if about["lacks"]:
        return None, f"lacks {' and '.join(about['lacks'])}"
    return python, ""


def find() -> tuple[list[Python], list[str]]:
    """
    Those of pyenv, those on PATH and the system's own; one of each version.

    Returns:
        The interpreters, oldest first, and a line for each that was passed over.
    """
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    candidates = sorted(glob(f"{pyenv}/versions/*/bin/python"))
    candidates += ["/usr/bin/python3", *filter(None, (shutil.which(f"python3.{minor}") for minor in range(10, 16)))]
    pythons: dict[str, Python] = {}
    passed_over = []
    for command in candidates:
        if not os.path.exists(command) or "/shims/" in command:
            continue
        python, reason = examine(command)
        if python is None:
            passed_over.append(f"{command} {reason}")
        else:
            pythons.setdefault(python.version, python)
    return sorted(
        pythons.values(), key=lambda python: [int(part) for part in python.version.split(".")[:2]]
    ), passed_over
