"""
The forms a profile can be written in: one module each, with `render(profile, stream)`, and one line in `FORMATS`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TextIO

from tracedthread.profile import Profile

# Modules are named, not imported: rich takes longer to import than most reports to write.
FORMATS = {
    "text": "tracedthread.export.text",
    "json": "tracedthread.export.json",
}


def render(profile: Profile, form: str, stream: TextIO) -> None:
    """
    Write `profile` to `stream` in one of `FORMATS`.

    Raises:
        KeyError: There is no such form.
        OSError: The stream cannot be written.
    """
    import_module(FORMATS[form]).render(profile, stream)
