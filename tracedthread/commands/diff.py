"""
`tracedthread diff BASE NEW`: what changed between two recordings.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from tracedthread.capture import Capture, CaptureError
from tracedthread.compare import compare
from tracedthread.export.streams import emit, put, refuse
from tracedthread.profile import Profile

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "diff",
        help="show what changed between two recordings",
        description="Compare two recordings of one program. Locks are matched by name, type and the function that "
        "creates them; sums are taken per second recorded. To fail on a change, see `tracedthread check`.",
    )
    parser.add_argument("base", metavar="BASE", help="the recording to compare with")
    parser.add_argument("new", metavar="NEW", help="the recording that is looked at")
    parser.add_argument("--json", action="store_true", help="one JSON object, schema tracedthread.diff/1")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """
    Run the verb.

    Returns:
        0, whatever changed, or 2 after one line on the standard error if a file cannot be read.
    """
    profiles = []
    for file in (args.base, args.new):
        try:
            profiles.append(Profile.from_capture(Capture.open(file)))
        except (OSError, CaptureError) as exc:
            return refuse(file, exc)
    comparison = compare(*profiles)
    if args.json:
        put(json.dumps(comparison.to_dict(), indent=1) + "\n")
        return 0
    from tracedthread.export import comparison as text

    emit(lambda stream: text.render(comparison, stream))
    return 0
