"""
`tracedthread demo`: records the bundled shop and says in plain sentences what its report teaches.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tracedthread.capture import Capture, CaptureError
from tracedthread.export import render
from tracedthread.export.findings import blamed_by_place, summed_by_place
from tracedthread.export.units import count, duration, percent
from tracedthread.profile import Profile

if TYPE_CHECKING:
    import argparse
    from argparse import _SubParsersAction
    from contextlib import AbstractContextManager

    from tracedthread.capture import Frame
    from tracedthread.rows import BlameRow, LockRow, WaitRow

    Paragraph = tuple[str, list[str]]  # running text, and rows under it

# subprocess, tempfile and importlib.resources are imported where they are used: they bring in threading, and this file
# is also loaded for the help of a `run` that is about to patch it.

NO_STORY = 1
BAD_INPUT = 2

NOTICEABLE_S = 0.010  # a wait that the user of a service can tell from none
MAX_CULPRITS = 3
TIMEOUT_S = 120.0  # for the shop, beyond the time its load takes

_STDLIB = re.compile(r"/lib/python3\.\d+/(?!site-packages/|dist-packages/)")


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="record a bundled program and explain what its report teaches",
        description="Run a small HTTP service under its own load, record it, show the report and explain it.",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="the recording (default: in a new temporary folder)")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long the load lasts (default: 6)")
    parser.add_argument("--requests", type=int, default=1500, help="how many requests it makes (default: 1500)")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """
    Run the verb.

    Returns:
        0 if the recording shows a lock that made requests slow; else, after one line on the standard error, 1, or 2 if
        the recording may not be written there.
    """
    if args.output is None:
        import tempfile

        output = Path(tempfile.mkdtemp(prefix="tracedthread-demo-"), "shop.ttc")
    else:
        output = Path(args.output)
        # What was there before must not be told as this run's story, so it is not left to `run` to refuse.
        if args.force:
            output.unlink(missing_ok=True)
        elif os.path.lexists(output):
            return _refuse(f"{output} exists; --force overwrites it", BAD_INPUT)
    try:
        return _demonstrate(output, args)
    except BrokenPipeError:
        # The reader has seen enough. The interpreter flushes once more at exit, so that has to go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        if args.output is None and not output.exists():
            output.parent.rmdir()


def _demonstrate(output: Path, args: argparse.Namespace) -> int:
    """Record the shop, print its report and the lessons."""
    print(f"A small shop, {args.requests:,} requests in {args.seconds:g} s, recorded in {output}:\n", flush=True)
    with _shop() as program:
        trouble = _record(program, output, args)
    if trouble is not None:
        return _refuse(trouble, NO_STORY)
    try:
        profile = Profile.from_capture(Capture.open(output))
    except CaptureError as exc:
        return _refuse(f"{output}: {exc}", NO_STORY)
    print()
    render(profile, "text", sys.stdout)
    if not tell(profile, sys.stdout):
        return _refuse("no lock made requests slow in this recording", NO_STORY)
    _next_commands(output)
    sys.stdout.flush()
    return 0


def _refuse(reason: str, code: int) -> int:
    sys.stderr.write(f"tracedthread: {reason}\n")
    return code


def _shop() -> AbstractContextManager[Path]:
    """The program, from the installed package or else from the checkout."""
    from contextlib import nullcontext
    from importlib.resources import as_file, files

    try:
        return as_file(files("tracedthread.examples") / "shop.py")
    except ModuleNotFoundError:
        return nullcontext(Path(__file__).parents[2] / "examples" / "shop.py")


def _record(program: Path, output: Path, args: argparse.Namespace) -> str | None:
    """Run `program` in a process of its own, as a user would. What went wrong, or None."""
    import subprocess

    command = [sys.executable, "-m", "tracedthread", "run", "-q", "-o", str(output), str(program)]
    command += ["--seconds", str(args.seconds), "--requests", str(args.requests)]
    try:
        status = subprocess.run(command, timeout=args.seconds + TIMEOUT_S, check=False).returncode
    except subprocess.TimeoutExpired:
        return "the shop did not end in time"
    except KeyboardInterrupt:
        return "interrupted"
    if status:
        return f"the shop ended with exit code {status}"
    return None if output.exists() else "the shop ran, but was not recorded"


def tell(profile: Profile, stream: TextIO) -> bool:
    """
    Write what `profile` teaches.

    Returns:
        Whether there is a lesson: some lock made somebody wait noticeably long.
    """
    worst = profile.locks[0] if profile.locks else None
    if worst is None or worst.wait_max_s < NOTICEABLE_S:
        return False
    culprits = [row for row in blamed_by_place(worst.blame) if row.stack][:MAX_CULPRITS]
    paragraphs = [_who(worst, profile)]
    if culprits:
        paragraphs.append(_because(worst, culprits))
    paragraphs += [_where(worst), _why(worst, culprits), _gil(worst)]
    if profile.resources:
        paragraphs.append(_resources(profile))
    if profile.idle:
        paragraphs.append(_idle(profile))
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    stream.write("\nWhat to learn from it\n")
    for number, (text, rows) in enumerate(paragraphs, start=1):
        lines = textwrap.wrap(text, width, initial_indent=f"{number}. ", subsequent_indent="   ")
        for row in rows:
            lines += textwrap.wrap(row, width, initial_indent="     ", subsequent_indent="       ")
        stream.writelines(f"{line}\n" for line in ("", *lines))
    return True


def _who(lock: LockRow, profile: Profile) -> Paragraph:
    everything = sum(row.wait_s for row in profile.locks)
    text = (
        f"One lock made threads slow: {lock.name}, created in {_place(lock.created)}. "
        f"{count(lock.stats.contended, 'wait')} for it took {duration(lock.wait_s)} together, "
        f"{percent(lock.wait_s, everything)} of all waiting for locks; the longest {duration(lock.wait_max_s)}. "
        "Compare that with the p99 that the shop printed first: those are the requests that waited."
    )
    return text, []


def _where(lock: LockRow) -> Paragraph:
    callers: dict[Frame, dict[str, None]] = {}
    for wait in lock.waits:
        callers.setdefault(wait.frame, {}).update(dict.fromkeys(frame.function for frame in wait.stack[1:2]))
    rows = []
    for wait in summed_by_place(lock.waits):
        row = f"{_place(wait.frame)}: {_sum(wait)}, up to {duration(wait.max_s)}"
        names = ", ".join(callers[wait.frame])
        rows.append(f"{row}; called by {names}" if names else row)
    return "Where the waiters stood, worst first:", rows


def _why(lock: LockRow, culprits: list[BlameRow]) -> Paragraph:
    median, longest = lock.hold_quantile_s(0.5), lock.hold_max_s
    holds = f"half of its {count(lock.stats.acquisitions, 'hold')} were over within {duration(median)}"
    if longest < 20 * median:
        shape = f"The lock is held long as a rule: {holds}, the longest took {duration(longest)}."
    else:
        shape = (
            f"The lock is held briefly as a rule and, now and then, far too long: {holds}, the longest took "
            f"{duration(longest)}. One slow path makes all the fast ones wait."
        )
    return f"{shape} {_advice(lock, culprits)}", []


def _advice(lock: LockRow, culprits: list[BlameRow]) -> str:
    work = "that could be done after letting go: a call to another service, a file, a long loop"
    if not culprits:
        return f"Look at each place that takes {lock.name} for work {work}."
    return f"Look at what {culprits[0].frame.function} does while it has {lock.name} for work {work}."


def _because(lock: LockRow, culprits: list[BlameRow]) -> Paragraph:
    """Whose holds made the others wait, worst first."""
    callers: dict[Frame, dict[str, None]] = {}
    for blame in lock.blame:
        callers.setdefault(blame.frame, {}).update(dict.fromkeys(frame.function for frame in blame.stack[1:2]))
    rows = []
    for blame in culprits:
        row = f"{_place(blame.frame)}: {count(blame.holds, 'hold')}, {duration(blame.blame_s)}"
        row += f", up to {duration(blame.max_s)} by one"
        names = ", ".join(callers[blame.frame])
        rows.append(f"{row}; called by {names}" if names else row)
    text = (
        f"Because of whom: {percent(culprits[0].blame_s, lock.wait_s)} of that waiting is charged to "
        f"{culprits[0].frame.function}, which had {lock.name} meanwhile. A hold is charged with the time of each "
        "thread that waited for it, so it can cost more than it lasts. Where the lock was released:"
    )
    return text, rows


def _gil(lock: LockRow) -> Paragraph:
    both_s = lock.own_gil_s + lock.gil_s
    small = both_s < lock.wait_s / 10
    verdict = "so the GIL is not what made these threads slow" if small else "so a busy thread played its part"
    text = (
        f"{percent(both_s, lock.wait_s)} of that waiting ({duration(both_s)}) was for the GIL alone: the lock was "
        f"the waiter's already, or its owner could not go on with it yet; {verdict}."
    )
    return text, []


def _resources(profile: Profile) -> Paragraph:
    text = (
        f"{duration(profile.resource_s)} went into waiting for a permit or for room in a queue. Somebody chose these "
        "limits for a reason; where one hurts, raise it, or be done faster with what it limits:"
    )
    return text, _by_kind(profile.resources)


def _idle(profile: Profile) -> Paragraph:
    text = (
        f"{duration(profile.idle_s)} of idle waiting are no trouble: workers waiting for work, callers waiting for a "
        "result. They are kept apart from contention, so that they never hide it:"
    )
    return text, _by_kind(profile.idle)


def _by_kind(waits: tuple[WaitRow, ...]) -> list[str]:
    """A row a kind of waiting, with the functions that waited most."""
    kinds: dict[str, list[WaitRow]] = {}
    for wait in waits:
        kinds.setdefault(wait.kind, []).append(wait)
    sums = {kind: sum(wait.wait_s for wait in rows) for kind, rows in kinds.items()}
    lines = []
    for kind in sorted(sums, key=lambda kind: -sums[kind]):
        functions = list(dict.fromkeys(_own_function(wait) for wait in kinds[kind]))
        more = f" and {len(functions) - 3} more" if len(functions) > 3 else ""
        lines.append(f"{kind}: {duration(sums[kind])}, in {', '.join(functions[:3])}{more}")
    return lines


def _own_function(wait: WaitRow) -> str:
    """The program's function, not the library's that waits for it (`Future.result`)."""
    return next((frame.function for frame in wait.stack if not _STDLIB.search(frame.path)), wait.frame.function)


def _place(frame: Frame) -> str:
    return f"{frame.function} ({frame.file}:{frame.line})"


def _sum(wait: WaitRow) -> str:
    return f"{count(wait.count, 'wait')}, {duration(wait.wait_s)}"


def _next_commands(output: Path) -> None:
    file = shlex.quote(str(output))
    rows = [
        ("the report again", f"tracedthread report {file}"),
        ("as a page, with graphs", f"tracedthread report {file} -o shop.html"),
        ("the same for a script", f"tracedthread report {file} --format json"),
        ("your own program", "tracedthread run -o app.ttc app.py"),
    ]
    print("\nNext")
    for purpose, command in rows:
        print(f"     {purpose + ':':<24}{command}")
