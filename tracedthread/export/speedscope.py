"""
A file for https://www.speedscope.app, with two profiles: who made others wait, and who waited.

Source: https://www.speedscope.app/file-format-schema.json (profiles of type "sampled").
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TextIO

from tracedthread import __version__
from tracedthread.capture import Frame
from tracedthread.export.sides import Sample, samples
from tracedthread.profile import Profile

_TITLES = {False: "blame: who made others wait", True: "waits: who waited"}


def render(profile: Profile, stream: TextIO) -> None:
    """Write both sides, ASCII only, so that any stream takes it."""
    frames: dict[Frame, int] = {}

    def number(frame: Frame) -> int:
        return frames.setdefault(frame, len(frames))

    sides = [(side, samples(profile, waits=side)) for side in (False, True)]
    # A profile without a sample opens as a blank page.
    sides = [pair for pair in sides if pair[1]] or sides[:1]
    document = {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "name": f"{profile.process.program} {profile.process.pid}",
        "exporter": f"tracedthread {__version__}",
        "activeProfileIndex": 0,
        "profiles": [_profile(_TITLES[side], of, number) for side, of in sides],
        "shared": {"frames": []},
    }
    document["shared"] = {"frames": [_frame(frame) for frame in frames]}
    stream.write(json.dumps(document) + "\n")


def _profile(title: str, of: list[Sample], number: Callable[[Frame], int]) -> dict[str, Any]:
    return {
        "type": "sampled",
        "name": title,
        "unit": "nanoseconds",
        "startValue": 0,
        "endValue": sum(sample.ns for sample in of),
        # The lock is the innermost frame.
        "samples": [
            [*map(number, reversed(sample.stack)), number(Frame(f"[{sample.lock or 'unnamed'}]", "", 0))]
            for sample in of
        ],
        "weights": [sample.ns for sample in of],
    }


def _frame(frame: Frame) -> dict[str, Any]:
    return {"name": frame.function, **({"file": frame.path, "line": frame.line} if frame.path else {})}
