"""
Text that is safe to write: a recording names what the program named, and none of it may steer a terminal.
"""

from __future__ import annotations

import re
from typing import TextIO

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Without control characters and marks of direction."""
    return _CONTROL.sub("\ufffd", text)


def write(text: str, stream: TextIO) -> None:
    """Write `text`; what the stream's encoding lacks becomes a question mark."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))
