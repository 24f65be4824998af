"""`tracedthread install` and `uninstall`: a `.pth` that can switch recording on in every start of an interpreter."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tracedthread.export.streams import put, say

if TYPE_CHECKING:
    import argparse

__all__ = ["add_parser", "install", "pth_path", "uninstall"]

NAME = "tracedthread.pth"

# One line, run by `site` at every start: it must do nothing and cost nothing unless asked to, and never fail. `site`
# has `os` already. patch() says by itself why it does not record; what else goes wrong (we are gone) is not said.
LINE = (
    "import os; os.environ.get('TRACEDTHREAD_ENABLE') == '1' and "
    r"exec('try:\n from tracedthread import patch\n patch()\nexcept Exception: pass')"
    "\n"
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare both verbs."""
    for verb, main, text in (
        ("install", install_main, "let TRACEDTHREAD_ENABLE=1 record every program of this interpreter"),
        ("uninstall", uninstall_main, "undo install"),
    ):
        parser = subparsers.add_parser(verb, help=text, description=f"{text[0].upper()}{text[1:]}.")
        parser.add_argument("--user", action="store_true", help="in the user's site-packages")
        parser.set_defaults(main=main, parser=parser)


def pth_path(*, user: bool = False) -> str:
    """
    Where the file goes for the running interpreter.

    Raises:
        OSError: The interpreter does not read the user's site-packages.
    """
    if user:
        import site

        if not site.ENABLE_USER_SITE:
            raise OSError("this interpreter does not use the user's site-packages (a venv, or python -s)")
        return os.path.join(site.getusersitepackages(), NAME)
    import sysconfig

    return os.path.join(sysconfig.get_path("purelib"), NAME)


def install(path: str) -> bool:
    """
    Write the file.

    Returns:
        False if it is there already, as it should be.
    Raises:
        OSError: It cannot be written, or something else is in its place.
    """
    if os.path.lexists(path):
        if _is_ours(path):
            return False
        raise OSError(f"{path} is there and was not written by tracedthread")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}"  # not *.pth: an interpreter that starts now must not read half a line
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(LINE)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return True


def uninstall(path: str) -> bool:
    """
    Remove the file.

    Returns:
        False if there is none.
    Raises:
        OSError: It cannot be removed, or is not ours.
    """
    if not os.path.lexists(path):
        return False
    if not _is_ours(path):
        raise OSError(f"{path} was not written by tracedthread")
    os.unlink(path)
    return True


def _is_ours(path: str) -> bool:
    # Of any version of this package: they all begin so.
    if os.path.islink(path):
        return False
    with open(path, encoding="utf-8", errors="replace") as file:
        return "TRACEDTHREAD_ENABLE" in file.readline(1000)


def install_main(args: argparse.Namespace) -> int:
    """Write the file and say so."""
    try:
        path = pth_path(user=args.user)
        is_new = install(path)
    except OSError as exc:
        return _fail(exc)
    put(
        f"{'wrote' if is_new else 'already there:'} {path}\n"
        "It does nothing until TRACEDTHREAD_ENABLE=1 is set; then programs of this interpreter are recorded.\n"
        "TRACEDTHREAD_OUTPUT=/somewhere/app.%p.ttc says where to. Undo with: tracedthread uninstall\n"
    )
    return 0


def uninstall_main(args: argparse.Namespace) -> int:
    """Remove the file and say so."""
    try:
        path = pth_path(user=args.user)
        was_there = uninstall(path)
    except OSError as exc:
        return _fail(exc)
    put(f"removed {path}\n" if was_there else f"nothing to do: there is no {path}\n")
    return 0


def _fail(exc: OSError) -> int:
    say(f"{exc.strerror}: {exc.filename}" if exc.strerror else str(exc))
    return 1
