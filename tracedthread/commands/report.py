"""
`tracedthread report FILE`: what a recording says.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from typing import TYPE_CHECKING

from tracedthread.capture import Capture, CaptureError
from tracedthread.export import FORMATS, render
from tracedthread.profile import Profile

if TYPE_CHECKING:
    from argparse import _SubParsersAction

BAD_INPUT = 2


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "report",
        help="show what a recording says",
        description="Show who waited, where and for how long. FILE may still be being recorded.",
    )
    parser.add_argument("file", metavar="FILE", help="a recording, as made by `tracedthread run -o FILE`")
    parser.add_argument("-f", "--format", choices=list(FORMATS), default="text", help="default: text")
    parser.add_argument("-o", "--output", metavar="OUT", help="write to OUT instead of the standard output")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """
    Run the verb.

    Returns:
        0, or 2 after one line on the standard error if FILE cannot be read or OUT not be written.
    """
    try:
        profile = Profile.from_capture(Capture.open(args.file))
    except (OSError, CaptureError) as exc:
        return _refuse(args.file, exc)
    if args.output is None:
        return _print(profile, args.format)
    text = io.StringIO()
    render(profile, args.format, text)
    try:
        if os.path.exists(args.output) and os.path.samefile(args.file, args.output):
            raise CaptureError("this is the recording itself")
        with open(args.output, "w", encoding="utf-8") as file:
            file.write(text.getvalue())
    except (OSError, CaptureError) as exc:
        return _refuse(args.output, exc)
    return 0


def _print(profile: Profile, form: str) -> int:
    try:
        render(profile, form, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough. The interpreter flushes once more at exit, so that has to go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as exc:
        return _refuse("standard output", exc)
    return 0


def _refuse(what: str, exc: Exception) -> int:
    reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    # One line whatever the file is called.
    what = "".join(character if character.isprintable() else "?" for character in what)
    sys.stderr.write(f"tracedthread: {what}: {reason}\n")
    return BAD_INPUT
