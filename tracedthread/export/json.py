"""
The report as JSON, schema `tracedthread.report/1`.
"""

from __future__ import annotations

import json
from typing import TextIO

from tracedthread.profile import Profile


def render(profile: Profile, stream: TextIO) -> None:
    """Write the report as one JSON object, ASCII only, so that any stream takes it."""
    stream.write(json.dumps(profile.to_dict(), indent=1) + "\n")
