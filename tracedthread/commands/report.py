"""
`tracedthread report FILE`: what a recording says.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from tracedthread.capture import Capture, CaptureError
from tracedthread.export import FORMATS, SUFFIXES, form_of, render
from tracedthread.export.extra import MissingExtra
from tracedthread.export.streams import emit, refuse, say
from tracedthread.profile import Profile

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_ONE_SIDED = [name for name, form in FORMATS.items() if form.has_sides]


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "report",
        help="show what a recording says",
        description="Show who waited, where and for how long. FILE may still be being recorded.",
    )
    parser.add_argument("file", metavar="FILE", help="a recording, as made by `tracedthread run -o FILE`")
    parser.add_argument(
        "-f", "--format", choices=list(FORMATS), help="default: what OUT ends in (.html, .pb.gz, …), else text"
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="write to OUT instead of the standard output")
    parser.add_argument(
        "--waits",
        action="store_true",
        help=f"who waited instead of who made them wait, in {' and '.join(_ONE_SIDED)}",
    )
    parser.add_argument(
        "--threads",
        action="store_true",
        help="all threads: who started them where, what they waited, and the audit trail (the same as -f threads)",
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """
    Run the verb.

    Returns:
        0, or 2 after one line on the standard error if FILE cannot be read, the form not be made or OUT not be written.
    """
    was_enabled = gc.isenabled()
    gc.disable()  # nothing here makes cycles, and the collector would visit a million rows time and again
    try:
        return _report(args)
    finally:
        if was_enabled:
            gc.enable()


def _report(args: argparse.Namespace) -> int:
    if args.output is not None and _is_same_file(args.file, args.output):
        return refuse(args.output, "this is the recording itself")
    named = form_of(args.output) if args.output is not None else None
    if args.threads and args.format not in (None, "threads"):
        return refuse("--threads", f"is a form of its own, and -f asks for {args.format}")
    if args.threads and named not in (None, "text"):
        return refuse("--threads", f"is text, and {args.output} asks for {named}")
    form = args.format or named or "text"
    if args.threads:
        form = "threads"
    elif args.output is not None and args.format is None and named is None and (suffix := _suffix(args.output)):
        return refuse(args.output, f"no form has the suffix {suffix}, but {', '.join(SUFFIXES)}; or choose one by -f")
    if args.waits and not FORMATS[form].has_sides:
        return refuse("--waits", f"only for {' and '.join(_ONE_SIDED)}")
    if args.output is None and FORMATS[form].is_binary and sys.stdout and sys.stdout.isatty():
        return refuse("standard output", f"is a terminal, and {form} is binary; -o OUT writes it to a file")
    try:
        profile = Profile.from_capture(Capture.open(args.file))
    except (OSError, CaptureError) as exc:
        return refuse(args.file, exc)
    if FORMATS[form].has_sides and not args.waits and profile.totals.contended and not profile.blame_s:
        say(args.file, "nobody to blame is recorded; --waits shows who waited")
    try:
        if args.output is None:
            _print(profile, form, args.waits)
            return 0
        data = _rendered(profile, form, args.waits)
    except MissingExtra as exc:
        return refuse(form, exc)
    except CaptureError as exc:
        return refuse(args.file, exc)
    try:
        with open(args.output, "wb") as file:
            file.write(data)
    except OSError as exc:
        return refuse(args.output, exc)
    return 0


def _is_same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one of them does not exist
        return False


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1]


def _rendered(profile: Profile, form: str, waits: bool) -> bytes:
    """The whole report, so that a failure leaves no half of it."""
    if FORMATS[form].is_binary:
        binary = io.BytesIO()
        render(profile, form, binary, waits=waits)
        return binary.getvalue()
    text = io.StringIO()
    render(profile, form, text, waits=waits)
    return text.getvalue().encode()


def _print(profile: Profile, form: str, waits: bool) -> None:
    def show(stream: TextIO) -> None:
        render(profile, form, stream.buffer if FORMATS[form].is_binary else stream, waits=waits)

    emit(show)
