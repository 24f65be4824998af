"""
`tracedthread dump PID`: who waits for whom in a running process, also when it hangs or is stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING

from tracedthread.capture import CaptureError
from tracedthread.dump import Dump
from tracedthread.export import blockers
from tracedthread.export.streams import emit, put, refuse
from tracedthread.procfs import Refused
from tracedthread.target import Target

if TYPE_CHECKING:
    from argparse import _SubParsersAction

DEADLOCK = 1
# Between the two copies. What a thread of a live program does takes less.
PAUSE_S = 0.02


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "dump",
        help="show who waits for whom in a running process, and its deadlocks",
        description="Show who waits for whom in a recorded process, which may hang or be stopped. The process is "
        "neither stopped nor asked. Exit status: 1 when there is a deadlock, 2 when the process cannot be looked into, "
        "or the output not be written.",
    )
    parser.add_argument("pid", metavar="PID", type=int, help="a process that runs under tracedthread")
    parser.add_argument("--json", action="store_true", help="one JSON object, schema tracedthread.dump/1")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """
    Run the verb.

    Returns:
        0; 1 when there is a deadlock; 2 after one line on the standard error if the process cannot be looked into.
    """
    try:
        dump = look(args.pid)
    except Refused as exc:
        return refuse(exc)
    except (OSError, CaptureError) as exc:
        return refuse(f"the recording of process {args.pid} cannot be read", exc)
    if args.json:
        put(json.dumps(dump.to_dict(), indent=1) + "\n")
    else:
        emit(lambda stream: blockers.render(dump, stream))
    return DEADLOCK if dump.deadlocks else 0


def look(pid: int) -> Dump:
    """
    Copy a process's capture twice and say what both have in common.

    Raises:
        Refused: There is no such process, it records nothing, or a right is missing.
        OSError: It has ended meanwhile.
        CaptureError: Its capture is damaged.
    """
    with Target(pid) as target:
        before, first = target.status, target.copy()
        time.sleep(PAUSE_S)
        second = target.copy()
        return Dump.from_copies(first, second, before, target.look_again())
