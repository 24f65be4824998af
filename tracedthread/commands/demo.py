"""`tracedthread demo`: records the bundled shop and says in plain sentences what its report teaches."""

from __future__ import annotations

import sys

# Nothing else is imported up here: `tracedthread run` may load this file before it has patched anything, and
# `subprocess` and `tempfile` would bring in `threading`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Any, TextIO

    Report = dict[str, Any]  # Profile.to_dict(), or a row of it
    Paragraph = tuple[str, list[str]]  # running text, and rows under it

NOTICEABLE_S = 0.010  # a wait that the user of a service can tell from none
TIMEOUT_S = 120.0  # beyond the shop's own run time


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "demo",
        help="record a bundled shop and explain what its report teaches",
        description="Runs a small HTTP service under its own load, recorded, shows the report and explains it.",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="keep the recording here (default: a temporary folder)")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long the load lasts (default: 6)")
    parser.add_argument("--requests", type=int, default=1500, help="how many requests it makes (default: 1500)")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """
    Run the shop, print its report and the lessons.

    Returns:
        0 if the recording shows a lock that made requests slow; 1 if it does not, or there is none; 2 if it may not be
        written.
    """
    import os
    import tempfile
    from pathlib import Path

    output = Path(args.output or Path(tempfile.mkdtemp(prefix="tracedthread-demo-")) / "shop.ttc")
    if args.force:
        output.unlink(missing_ok=True)
    elif os.path.lexists(output):
        print(f"tracedthread: {output} exists; --force overwrites it", file=sys.stderr)
        return 2
    print(f"A small shop opens for {args.seconds:g} s, {args.requests} requests, recorded in {output}\n", flush=True)
    with _shop() as program:
        status = _record(program, output, args)
    if status:
        print(f"tracedthread: the shop ended with exit code {status}", file=sys.stderr)
        return 1

    from tracedthread.profile import Profile

    from tracedthread.capture import Capture, CaptureError
    from tracedthread.export import text

    try:
        profile = Profile.from_capture(Capture.open(output))
    except (CaptureError, OSError) as error:
        print(f"tracedthread: the demo has no recording: {error}", file=sys.stderr)
        return 1
    print()
    text.render(profile, sys.stdout)
    found = tell(profile.to_dict(), sys.stdout)
    if found:
        _next_commands(output)
    else:
        print("tracedthread: no lock made requests slow in this recording", file=sys.stderr)
    return 0 if found else 1


def _shop() -> AbstractContextManager[Path]:
    """The program, from the installed package or else from the checkout."""
    from contextlib import nullcontext
    from importlib.resources import as_file, files
    from pathlib import Path

    try:
        return as_file(files("tracedthread.examples") / "shop.py")
    except ModuleNotFoundError:
        return nullcontext(Path(__file__).parents[2] / "examples" / "shop.py")


def _record(program: Path, output: Path, args: argparse.Namespace) -> int:
    """Run `program` in a process of its own, as a user would, and return its exit code."""
    import subprocess

    command = [sys.executable, "-m", "tracedthread", "run", "-q", "-o", str(output)]
    command += [str(program), "--seconds", str(args.seconds), "--requests", str(args.requests)]
    try:
        return subprocess.run(command, timeout=args.seconds + TIMEOUT_S, check=False).returncode
    except subprocess.TimeoutExpired:
        return 1


def tell(report: Report, stream: TextIO) -> bool:
    """
    Write what `report` teaches.

    Args:
        report: What `Profile.to_dict()` gives.
    Returns:
        Whether there is a lesson: some lock made somebody wait noticeably long.
    """
    worst = max(report["locks"], key=lambda lock: lock["wait_s"], default=None)
    if worst is None or worst["wait_max_s"] < NOTICEABLE_S:
        return False
    paragraphs = [_who(worst, report["totals"]), _where(worst), _why(worst), _gil(worst)]
    if report["idle"]:
        paragraphs.append(_idle(report))
    stream.write("\nWhat to learn from it\n")
    for number, (text, rows) in enumerate(paragraphs, start=1):
        stream.write("\n" + _wrapped(text, f"{number}. "))
        stream.writelines(f"     {row}\n" for row in rows)
    return True


def _who(lock: Report, totals: Report) -> Paragraph:
    created = lock["created"]
    text = (
        f"One lock made threads slow: {lock['name']}, created in {created['function']} ({_place(created)}). "
        f"{_count(lock['contended'], 'wait')} for it took {_time(lock['wait_s'])} together, "
        f"{_share(lock['wait_s'], totals['wait_s'])} of all waiting for locks; the longest {_time(lock['wait_max_s'])}."
    )
    return text, []


def _where(lock: Report) -> Paragraph:
    rows: dict[tuple[str, str], list[Any]] = {}
    for wait in lock["waits"]:
        row = rows.setdefault((wait["function"], _place(wait)), [0, 0.0, 0.0, {}])
        row[0] += wait["count"]
        row[1] += wait["wait_s"]
        row[2] = max(row[2], wait["max_s"])
        row[3].update(dict.fromkeys(frame.rsplit(" ", 1)[0] for frame in wait["stack"][1:2]))
    lines = [
        f"{function} ({place}): {_count(count, 'wait')}, {_time(wait_s)}, up to {_time(max_s)}"
        + (f"; called by {', '.join(callers)}" if callers else "")
        for (function, place), (count, wait_s, max_s, callers) in sorted(rows.items(), key=lambda row: -row[1][1])
    ]
    return "Where the waiters stood, worst first:", lines


def _why(lock: Report) -> Paragraph:
    median, longest = lock["hold_p50_s"], lock["hold_max_s"]
    holds = f"half of its {_count(lock['acquisitions'], 'hold')} were over within {_time(median)}"
    if longest < 20 * median:
        shape = f"The lock is held long as a rule: {holds}, the longest took {_time(longest)}."
    else:
        shape = (
            f"The lock is held briefly as a rule and, now and then, far too long: {holds}, the longest took "
            f"{_time(longest)}. One slow path makes all the fast ones wait."
        )
    advice = (
        f"Look at each place that takes {lock['name']} for work that could be done after letting go: "
        "a call to another service, a file, a long loop. This version records how long a lock was held and who waited "
        "for it; it does not yet record which function held it."
    )
    return f"{shape} {advice}", []


def _gil(lock: Report) -> Paragraph:
    share = lock["own_gil_s"] / lock["wait_s"]
    verdict = "so the GIL is not what made these threads slow" if share < 0.1 else "so a busy thread played its part"
    text = (
        f"{_share(lock['own_gil_s'], lock['wait_s'])} of that waiting ({_time(lock['own_gil_s'])}) came after the "
        f"waiter had got the lock, when it had only the GIL left to wait for, {verdict}."
    )
    return text, []


def _idle(report: Report) -> Paragraph:
    kinds: dict[str, float] = {}
    functions: dict[str, list[str]] = {}
    for wait in report["idle"]:
        kinds[wait["kind"]] = kinds.get(wait["kind"], 0.0) + wait["wait_s"]
        names = functions.setdefault(wait["kind"], [])
        if wait["function"] not in names:
            names.append(wait["function"])
    lines = [
        f"{kind}: {_time(seconds)}, in {', '.join(functions[kind][:3])}"
        for kind, seconds in sorted(kinds.items(), key=lambda item: -item[1])
    ]
    text = (
        f"{_time(report['totals']['idle_s'])} of idle waiting are no trouble: workers waiting for work, callers waiting "
        "for a result. It is listed apart from contention, so that it never hides it:"
    )
    return text, lines


def _next_commands(output: Path) -> None:
    import shlex

    file = shlex.quote(str(output))
    print("\nNext")
    rows = [
        (f"tracedthread report {file}", "the report again"),
        (f"tracedthread report {file} --format json", "the same for a script"),
        ("tracedthread run -o app.ttc app.py", "your own program"),
    ]
    width = max(len(command) for command, _ in rows)
    for command, purpose in rows:
        print(f"     {command:<{width}}   # {purpose}")


def _place(row: Report) -> str:
    return f"{row['file'].rsplit('/', 1)[-1]}:{row['line']}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole if whole else 0:.3g} %"


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def _wrapped(paragraph: str, prefix: str) -> str:
    import textwrap

    lines = textwrap.wrap(paragraph, 100, initial_indent=prefix, subsequent_indent=" " * len(prefix))
    return "".join(f"{line}\n" for line in lines)
