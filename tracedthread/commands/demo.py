"""
`tracedthread demo`: a small shop, healthy and with three faults, and what its recordings say about each.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import argparse
    from argparse import _SubParsersAction

    from tracedthread.incident import Incident

# Modules of ours that bring in threading are imported where they are used: this file is also loaded for the help of a
# `run` that is about to patch it.

NO_STORY = 1

FAULTS = {
    "report": "a report on all prices, every quarter of a second",
    "hog": "recommendations are recomputed all the time, in threads",
    "pool": "one connection to the database for all",
}


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="record a bundled service with three faults and tell who is to blame for each",
        description="Run a small shop under gunicorn and load, healthy and with each of three faults, recorded, and "
        "tell what is slow and who is to blame. Needs the extra: pip install 'tracedthread[demo]'.",
    )
    parser.add_argument("-o", "--output", metavar="PAGE", help="the report (default: report.html in a new folder)")
    parser.add_argument("--force", action="store_true", help="overwrite PAGE and the recordings beside it")
    parser.add_argument("--fault", choices=FAULTS, action="append", help="only this one (may be repeated)")
    parser.add_argument("--seed", type=int, default=1, help="of the customers' wishes (default: 1)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long the load lasts, each time (default: 3)")
    parser.add_argument("--requests", type=int, default=900, help="how many requests it makes (default: 900)")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """
    Run the verb.

    Returns:
        0 if each recording of a fault shows somebody to blame; else, after one line on the standard error, 1, or 2 if
        something is missing or may not be written.
    """
    from tracedthread.export.streams import emit, refuse
    from tracedthread.incident import HEALTHY, missing

    if lacking := missing():
        return refuse(f"the demo needs {', '.join(lacking)}: pip install 'tracedthread[demo]'")
    faults = list(dict.fromkeys(args.fault or FAULTS))
    page = Path(args.output) if args.output is not None else _new_folder() / "report.html"
    if not page.name:
        return refuse(str(page), "is a folder; -o is the page's file")
    recordings = {fault: page.with_name(f"shop-{fault}.ttc") for fault in (HEALTHY, *faults)}
    for path in (page, *recordings.values()):
        # What was there before must not be told as this run's story.
        try:
            if args.force:
                path.unlink(missing_ok=True)
            elif os.path.lexists(path):
                return refuse(f"{path} exists; --force overwrites it")
        except (OSError, ValueError) as exc:
            return refuse(str(path), exc)
    status = 0

    def show(_: TextIO) -> None:
        nonlocal status
        status = _demonstrate(faults, recordings, page, args)

    try:
        emit(show)
    finally:
        if args.output is None and not any(page.parent.iterdir()):
            page.parent.rmdir()
    return status


def _new_folder() -> Path:
    import tempfile

    return Path(tempfile.mkdtemp(prefix="tracedthread-demo-"))


def _demonstrate(faults: list[str], recordings: dict[str, Path], page: Path, args: argparse.Namespace) -> int:
    """Play all incidents, tell each, and write the report of one."""
    from tracedthread.capture import CaptureError
    from tracedthread.export import render
    from tracedthread.export.streams import refuse, say
    from tracedthread.incident import HEALTHY, CannotPlay, play
    from tracedthread.story import judge, paragraphs, slowed

    load = {"seed": args.seed, "seconds": args.seconds, "requests": args.requests}
    shown = faults[0]  # of which the page is
    unexplained = []
    played: dict[str, Incident] = {}
    for fault, recording in recordings.items():
        print(f"\n{_title(fault)}", flush=True)
        try:
            played[fault] = incident = play(fault, recording, **load)
        except (CannotPlay, CaptureError, OSError) as exc:
            say(exc)
            return NO_STORY
        except KeyboardInterrupt:
            say("interrupted")
            return NO_STORY
        verdict = judge(incident.profile)
        slow = slowed(incident.p99_s, played[HEALTHY].p99_s)
        if fault == HEALTHY:
            print("\n" + textwrap.indent(incident.table, "   ") + "\n")
        elif verdict.kind == "nobody":
            unexplained.append(fault)
        _write(paragraphs(verdict, slow))
    try:
        with page.open("w", encoding="utf-8") as stream:
            render(played[shown].profile, "html", stream)
    except OSError as exc:
        return refuse(str(page), exc)
    _next_commands(page, shown, recordings[shown])
    sys.stdout.flush()
    if unexplained:
        say(f"nobody to blame in this recording: {', '.join(unexplained)}")
        return NO_STORY
    return 0


def _title(fault: str) -> str:
    if fault not in FAULTS:
        return "The shop, healthy"
    return f"With the fault `{fault}`: {FAULTS[fault]}"


def _write(texts: list[str]) -> None:
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    for text in texts:
        print(textwrap.fill(text, width, initial_indent="   ", subsequent_indent="     "), flush=True)


def _next_commands(page: Path, fault: str, recording: Path) -> None:
    rows = [
        (f"`{fault}`, as a page", str(page)),
        ("the same as text", f"tracedthread report {shlex.quote(str(recording))}"),
        ("your own program", "tracedthread run -o app.ttc app.py"),
    ]
    print("\nNext")
    for purpose, command in rows:
        print(f"   {purpose + ':':<22}{command}")
