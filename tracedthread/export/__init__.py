"""
The forms a profile can be written in: one module each, with a function `render`, and one line in `FORMATS`.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import IO, Any, NamedTuple

from tracedthread.profile import Profile


class Form(NamedTuple):
    """
    One form.

    Args:
        module: Where `render(profile, stream)` is. Named, not imported: rich takes longer to import than most reports
            to write.
        suffixes: File names that end like this choose the form. Of several that fit, the longest wins.
        is_binary: `render` writes bytes.
        has_sides: `render` takes `waits=True` to show who waited, instead of who made them wait.
    """

    module: str
    suffixes: tuple[str, ...]
    is_binary: bool = False
    has_sides: bool = False


FORMATS = {
    "text": Form("tracedthread.export.text", (".txt",)),
    "threads": Form("tracedthread.export.threads", ()),
    "json": Form("tracedthread.export.json", (".json",)),
    "html": Form("tracedthread.export.html", (".html", ".htm")),
    "collapsed": Form("tracedthread.export.collapsed", (".collapsed", ".folded"), has_sides=True),
    "pprof": Form("tracedthread.export.pprof", (".pb.gz", ".pb", ".pprof"), is_binary=True, has_sides=True),
    "speedscope": Form("tracedthread.export.speedscope", (".speedscope.json", ".speedscope")),
    "perfetto": Form("tracedthread.export.perfetto", (".pftrace", ".perfetto-trace"), is_binary=True),
}

SUFFIXES = tuple(suffix for form in FORMATS.values() for suffix in form.suffixes)


def form_of(path: str | os.PathLike[str]) -> str | None:
    """The form that a file's name asks for; None if it asks for none."""
    name = os.path.basename(os.fspath(path)).lower()
    fitting = [(len(suffix), form) for form, of in FORMATS.items() for suffix in of.suffixes if name.endswith(suffix)]
    return max(fitting)[1] if fitting else None


def render(profile: Profile, form: str, stream: IO[Any], *, waits: bool = False) -> None:
    """
    Write `profile` to `stream` in one of `FORMATS`.

    Args:
        stream: Takes bytes if the form is binary, else text.
        waits: Show who waited, in a form that shows one side.

    Raises:
        KeyError: There is no such form.
        MissingExtra: A package is missing that the form needs.
        CaptureError: What the form has no room for can only be damage.
        OSError: The stream cannot be written.
    """
    chosen = FORMATS[form]
    options = {"waits": waits} if chosen.has_sides else {}
    import_module(chosen.module).render(profile, stream, **options)
