"""
The report as one page that needs nothing else: no network, no other file, no code but ours.

Names in a recording are hostile until proven otherwise. In the markup they are escaped; in the data they are JSON
without a `<`; the script writes them with `textContent` only; and a Content-Security-Policy lets run nothing but the
script and the style that are in the page, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from typing import TextIO

from tracedthread import __version__
from tracedthread.export.clean import clean
from tracedthread.export.findings import findings
from tracedthread.export.html.data import LIMITS, page_data
from tracedthread.profile import Profile

# Browsers open more, but people also mail it.
MAX_BYTES = 5_000_000
_ROOM = 4_800_000  # for the data; the rest is markup
_SCRIPTS = ("units.js", "canvas.js", "table.js", "flame.js", "timeline.js", "page.js")
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def render(profile: Profile, stream: TextIO) -> None:
    """Write the page, ASCII only, so that any stream takes it."""
    scripts = "\n".join(_read(name) for name in _SCRIPTS)
    # Other than ASCII is only in strings and comments, where JavaScript can spell it.
    scripts = re.sub(r"[^\x00-\x7f]", lambda character: f"\\u{ord(character[0]):04x}", scripts)
    script = f'"use strict";\n(() => {{\n{scripts}}})();\n'
    style = _read("page.css")
    parts = {
        "policy": f"default-src 'none'; img-src data:; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'",
        "title": _escaped(f"{profile.process.program or '?'} \u2013 tracedthread"),
        "program": _escaped(profile.process.program or "?"),
        "state": _escaped(profile.process.state),
        "facts": _escaped(_facts(profile)),
        "findings": "\n".join(f"<li>{_sentence(text)}</li>" for text in findings(profile)),
        "version": _escaped(__version__),
        "style": style,
        "script": script,
        "data": _data(profile),
    }
    # In one pass: what is filled in is not looked at again.
    page = _PLACE.sub(lambda place: parts[place[1]], _read("page.html"))
    stream.write(page.encode("ascii", "xmlcharrefreplace").decode())


def _data(profile: Profile) -> str:
    """The data as JSON for a script element, cut down until there is room for it."""
    limits = LIMITS
    while True:
        text = json.dumps(page_data(profile, limits), separators=(",", ":"), allow_nan=False)
        text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
        if len(text) <= _ROOM or limits.names <= 8:
            return text
        limits = limits.halved()


def _facts(profile: Profile) -> str:
    process = profile.process
    return f"pid {process.pid} \u00b7 Python {process.python} \u00b7 {process.started:%Y-%m-%d %H:%M:%S} UTC"


def _sentence(text: str) -> str:
    """What stands in backquotes is code."""
    parts = enumerate(text.split("`"))
    return "".join(f"<code>{_escaped(part)}</code>" if index % 2 else _escaped(part) for index, part in parts)


def _escaped(text: str) -> str:
    return html.escape(clean(text))


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
