"""
A profile for pprof, and for what reads its files: Go's mutex profile, of Python's locks.
"""

from __future__ import annotations

from typing import BinaryIO

from tracedthread.export.extra import damage_refused, load
from tracedthread.export.sides import SIDES, samples
from tracedthread.profile import Profile


def render(profile: Profile, stream: BinaryIO, *, waits: bool = False) -> None:
    """
    Write blame, or who waited.

    Raises:
        MissingExtra: protobuf is not installed.
        CaptureError: A number of a damaged capture is not one that the form has.
    """
    process = profile.process
    encode = load("tracedthread.pprof").encode
    with damage_refused():
        data = encode(
            samples(profile, waits=waits),
            program=process.program,
            started_ns=process.started_ns,
            duration_ns=round(process.duration_s * 1e9),
            side=SIDES[waits],
        )
    stream.write(data)
