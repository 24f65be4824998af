"""
The ends of processes that never come to `atexit`: children of multiprocessing, and of billiard, its copy in Celery.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["at_end_of_child"]


def at_end_of_child(owner: object, end: Callable[[], object], priority: int) -> None:
    """
    Let a forked child call this at its end; to be called in `after_in_child`, and does nothing in children of others.

    They end by os._exit, after the finalizers of their own; those made before `_run_after_forkers` do not last.

    Args:
        owner: Without it the call is not made.
        priority: The higher comes first; below zero after the child's own.
    """
    for name in ("multiprocessing.util", "billiard.util"):
        if (util := sys.modules.get(name)) is not None:
            util.register_after_fork(owner, _Registration(util, end, priority))


class _Registration:
    def __init__(self, util: object, end: Callable[[], object], priority: int) -> None:
        self._util = util
        self._end = end
        self._priority = priority

    def __call__(self, _: object) -> None:
        self._util.Finalize(None, self._end, exitpriority=self._priority)  # type: ignore[attr-defined]
