"""The command line: `tracedthread VERB ...`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """
    Run a command line.

    Args:
        arguments: Without the program's name; default: sys.argv[1:].
    Returns:
        The exit status. Usage errors end with 2.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    if arguments[:1] == ["run"]:
        from .commands import run

        if (options := run.parse(arguments[1:])) is not None:
            return run.run(options)
    return _main(arguments)


def _main(arguments: list[str]) -> int:
    import argparse

    from . import __version__
    from .commands import check, demo, diff, doctor, dump, install, report, run
    from .export.streams import Unwritable, refuse

    parser = argparse.ArgumentParser(
        prog="tracedthread",
        description="See where Python threads wait, for how long, and because of whom.",
    )
    parser.add_argument("--version", action="version", version=f"tracedthread {__version__}")
    subparsers = parser.add_subparsers(metavar="VERB", required=True)
    for command in (run, report, dump, diff, check, doctor, demo, install):
        command.add_parser(subparsers)
    args, unknown = parser.parse_known_args(arguments)
    if unknown:  # the verb's usage helps more than ours
        getattr(args, "parser", parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        return int(args.main(args))
    except Unwritable as exc:
        return refuse("standard output", exc)


if __name__ == "__main__":
    sys.exit(main())
