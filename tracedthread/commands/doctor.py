"""
`tracedthread doctor [PID | FILE]`: whether recording works here, what it costs, and what it cannot see.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING

from tracedthread.checkup import WRONG, Finding, of_back_ends, of_file, of_host, of_process
from tracedthread.export.clean import clean
from tracedthread.export.streams import put

if TYPE_CHECKING:
    from argparse import _SubParsersAction
    from collections.abc import Iterable

SCHEMA = "tracedthread.doctor/1"
SICK = 1
#: More than any process has in its number, and fewer than int() refuses.
MAX_DIGITS = 20

_MARKS = {"ok": "ok  ", "note": "note", "wrong": "!!  "}


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "doctor",
        help="say whether recording works here, what it costs and what it cannot see",
        description="Look at this interpreter and host: what recording costs (measured in a fresh interpreter, about "
        "two seconds), which clock is read, what is covered, which back ends accept connections. With a PID or FILE, "
        "also at that recording: what was lost; if it cannot be read, that is all that is said. Exit status: 0 all is "
        "well, 1 something is wrong.",
    )
    parser.add_argument("target", metavar="PID | FILE", nargs="?", help="a recorded process or a recording")
    parser.add_argument("--json", action="store_true", help=f"one JSON object, schema {SCHEMA}")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """
    Run the verb.

    Returns:
        0, or 1 if something is wrong.
    """
    findings = list(_of_target(args.target))
    if all(finding.topic != "target" for finding in findings):  # else there is nothing to wait for
        findings = [*of_host(), *of_back_ends(os.environ), *findings]
    wrong = sum(finding.state == WRONG for finding in findings)
    if args.json:
        report = {"schema": SCHEMA, "ok": not wrong, "findings": [finding.to_dict() for finding in findings]}
        put(json.dumps(report, indent=1) + "\n")
    else:
        lines = [f"{_MARKS[finding.state]}  {clean(finding.sentence)}" for finding in findings]
        verdict = "All is well." if not wrong else f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong: see !!"
        put("\n".join([*lines, verdict]) + "\n")
    return SICK if wrong else 0


def _of_target(target: str | None) -> Iterable[Finding]:
    if target is None:
        return ()
    is_pid = target.isdecimal() and len(target) < MAX_DIGITS and not os.path.exists(target)
    return of_process(int(target)) if is_pid else of_file(target)
