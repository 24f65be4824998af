"""
The environment that tests start programs in: whatever somebody has set for theirs stays outside.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_PREFIXES = ("TRACEDTHREAD_", "OTEL_", "PYTHON", "COVERAGE", "DD_", "SENTRY_", "SHOP_")


def clean_environment(*paths: str | Path, **more: str) -> dict[str, str]:
    """
    The environment without settings of ours, of Python, of others that watch programs and of the shop.

    Args:
        paths: Where Python looks for modules besides, the checkout for instance.
        more: Set above all.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_PREFIXES)}
    if paths:
        clean["PYTHONPATH"] = os.pathsep.join(map(str, paths))
    return clean | more
