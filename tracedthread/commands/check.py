"""
`tracedthread check FILE --max-wait-p99 'PriceCache._lock=5ms' ...`: does a recording keep to limits? For CI.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, NamedTuple

from tracedthread.capture import Capture, CaptureError
from tracedthread.export.clean import clean
from tracedthread.export.plain import explain, measured
from tracedthread.export.streams import BAD_INPUT, put, refuse
from tracedthread.export.units import duration
from tracedthread.layout import RING_NAMES
from tracedthread.limits import MEASURES, Limit, Measure
from tracedthread.profile import Profile
from tracedthread.unfinished import deadlocks, pending
from tracedthread.verdict import judge, was_used

if TYPE_CHECKING:
    from argparse import _SubParsersAction
    from collections.abc import Callable

# Between two copies of a capture that is being recorded.
PAUSE_S = 0.05
EXCEEDED = 1

_HELP = {
    "wait-p99": "99 %% of the waits for these locks are at most so long (known to 12.5 %%)",
    "wait-max": "every wait for these locks is at most so long",
    "wait-total": "all waits for these locks together",
    "hold-p99": "99 %% of the holds of these locks are at most so long (known to 12.5 %%)",
    "hold-max": "every hold of these locks is at most so long",
    "blame": "the time that others waited because of holds that these functions ended",
    "contended": "the share of the attempts to take these locks that had to wait",
}

_EPILOG = """\
NAME is a lock's name as in the report, for --max-blame that of a function: the exact
one; else, with * ? or [ in it, a pattern; else what names end in after a dot (`_lock`
selects `PriceCache._lock`). Each one that is selected has to keep to the limit.
Durations have a unit: 200us, 5ms, 1.5s. Every option may be given more than once.

exit status:
  0  all limits are kept
  1  some are not: what was measured, and the stacks, are printed
  2  something cannot be judged: a name selects nothing, nothing was recorded, what
     would have to be known was lost, FILE is unreadable, or the output cannot
     be written. 2 goes before 1.
"""


class _Answer(NamedTuple):
    """How one line of the verdict ends."""

    question: str
    outcome: str  # a key of _OUTCOMES
    detail: list[str]
    value: str = ""


# By urgency: the highest number is the exit status.
_OUTCOMES = {"ok": 0, "EXCEEDED": EXCEEDED, "UNKNOWN": BAD_INPUT}


# Sections of the recording without which a deadlock may have gone unseen.
_TELL_OF_DEADLOCKS = {
    "notes": "what a process notes about deadlocks",
    "threads": "some of the threads",
    "contended": "some of the locks that threads waited for",
}


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "check",
        help="fail if a recording exceeds limits, for CI",
        description="Hold a recording against limits.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="a recording, as made by `tracedthread run -o FILE`")
    for name, measure in MEASURES.items():
        parser.add_argument(
            f"--max-{name}",
            dest="limits",
            action="append",
            type=_parser_of(measure, name),
            metavar="NAME=SHARE" if measure.is_share else "NAME=TIME",
            help=_HELP[name],
        )
    parser.add_argument("--no-deadlock", action="store_true", help="no deadlock was noticed")
    parser.add_argument("--no-lost", action="store_true", help="everything found room in the recording")
    parser.set_defaults(main=main, parser=parser)


def main(args: argparse.Namespace) -> int:
    """
    Run the verb.

    Returns:
        0, 1 or 2, as the help says.
    """
    if not (args.limits or args.no_deadlock or args.no_lost):
        args.parser.error("no limit is given")
    try:
        capture = Capture.open(args.file)
        profile = Profile.from_capture(capture)
        unfinished = pending(capture)
        cycles = deadlocks(capture, _again(capture, args.file)) if args.no_deadlock else []
    except (OSError, CaptureError) as exc:
        return refuse(args.file, exc)
    if not was_used(profile):
        return refuse(args.file, "no lock was used, so there is nothing to check")
    options, limits = zip(*args.limits) if args.limits else ((), ())
    answers = [
        _Answer(
            f"--max-{option}",
            "UNKNOWN" if verdict.problem else "EXCEEDED" if verdict.exceeded else "ok",
            explain(verdict),
            measured(verdict),
        )
        for option, verdict in zip(options, judge(profile, limits, unfinished))
    ]
    if args.no_deadlock:
        answers.append(_no_deadlock(cycles, profile))
    if args.no_lost:
        answers.append(_no_lost(profile))
    _print(answers, _pauses(profile))
    return max(_OUTCOMES[answer.outcome] for answer in answers)


def _parser_of(measure: Measure, name: str) -> Callable[[str], tuple[str, Limit]]:
    def parse(text: str) -> tuple[str, Limit]:
        try:
            return f"{name} {clean(text)}", Limit.parse(measure, text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(clean(str(exc))) from None

    return parse


def _again(capture: Capture, file: str) -> Capture | None:
    """A second copy of what is still being recorded: in one alone, two threads may seem to wait for each other."""
    if not capture.may_run:
        return None
    time.sleep(PAUSE_S)
    return Capture.open(file)


def _no_deadlock(cycles: list[str], profile: Profile) -> _Answer:
    detail = [clean(cycle) for cycle in cycles]
    lost = [what for section, what in _TELL_OF_DEADLOCKS.items() if profile.lost.get(section)]
    if lost and not detail:
        detail = [f"cannot be judged: {what} found no room in the recording" for what in lost]
        return _Answer("--no-deadlock", "UNKNOWN", detail, "unknown")
    return _Answer("--no-deadlock", "EXCEEDED" if detail else "ok", detail, str(len(detail)))


def _no_lost(profile: Profile) -> _Answer:
    # What rings have overwritten is not lost: they keep the newest, and no count or sum needs them.
    lost = {name: number for name, number in profile.lost.items() if number and name not in RING_NAMES}
    detail = [f"no room was left for {number:,} {name}" for name, number in lost.items()]
    return _Answer("--no-lost", "EXCEEDED" if lost else "ok", detail, str(sum(lost.values())))


def _pauses(profile: Profile) -> str:
    """What is not in the recording because it was paused, one line; empty if it was not."""
    process = profile.process
    if not process.paused_ticks:
        return ""
    paused, lasted = process.paused_s, process.duration_s
    return f"note: recording was paused for {duration(paused)} of {duration(lasted)}; what happened then is not judged"


def _print(answers: list[_Answer], note: str) -> None:
    lines = []
    for answer in answers:
        lines.append(f"{answer.outcome:<9} {answer.question}   measured: {answer.value}")
        lines += [f"          {line}" for line in answer.detail]
    if note:
        lines.append(note)
    failed = sum(answer.outcome == "EXCEEDED" for answer in answers)
    unknown = sum(answer.outcome == "UNKNOWN" for answer in answers)
    lines.append(f"{len(answers)} checked: {failed} exceeded, {unknown} not known")
    put("\n".join(lines) + "\n")
