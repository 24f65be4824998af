"""
tracedthread: where Python threads wait, for how long, and because of whom.

    import tracedthread

    tracedthread.patch()                # as early as possible; or: tracedthread run app.py
    ...
    profile = tracedthread.snapshot()   # what was recorded so far

    with tracedthread.record() as rec:  # what is recorded in here
        work()
    print(rec.profile.to_dict() if rec.profile else "could not record")

    with tracedthread.bill() as b:      # what this thread waits in here
        work()
    print(b.wait_s)
"""

from __future__ import annotations

import os

from ._original import originals
from .billing import Bill, bill, current_thread_stats
from .patch import begin_recording, end_recording, is_patched, patch, pause, resume, uncovered, unpatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from .profile import Profile

__all__ = [
    "Bill",
    "Profile",
    "Recording",
    "__version__",
    "bill",
    "current_thread_stats",
    "is_patched",
    "originals",
    "patch",
    "pause",
    "record",
    "resume",
    "snapshot",
    "uncovered",
    "unpatch",
]

__version__ = "0.1.0"


def snapshot() -> Profile:
    """
    What this process has recorded so far, at one moment; recording goes on.

    Raises:
        RuntimeError: Nothing was ever recorded in this process.
    """
    from . import _core

    core = _core.loaded()
    if core is None or not core.is_open:
        raise RuntimeError("nothing was recorded: tracedthread.patch() has not been called, or could not patch")
    from .capture import Capture  # after the check: where patch() declined, an import may well fail too
    from .profile import Profile

    return Profile.from_capture(Capture.from_buffer(core.copy()).of_running())


class Recording:
    """
    A stretch of time, as a context manager; made by `record()`.

    Attributes:
        profile: What was recorded between entering and leaving; until then, when recording was not possible (a line on
            the standard error has said why), and in a process forked meanwhile, None.
    """

    def __init__(self) -> None:
        self.profile: Profile | None = None
        self._before: Profile | None = None
        self._pid = 0

    def __enter__(self) -> Recording:
        self.profile = None
        recording = begin_recording()
        self._pid = os.getpid() if recording else 0
        try:
            self._before = snapshot() if recording else None
        except BaseException:  # there will be no __exit__
            end_recording(self._pid)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        before, self._before = self._before, None
        try:
            if before is not None and self._pid == os.getpid():
                from .profile import subtract

                self.profile = subtract(snapshot(), before)
        except Exception as error:  # the block's own exception or exit must pass
            from ._settings import say

            say(f"record() has no profile: {error!r}")
        finally:
            end_recording(self._pid)


def record() -> Recording:
    """
    Record what happens inside a `with` block.

    Patches on entry if needed, and then unpatches on exit, of several at the same time on the last one's. Only locks
    that are created while patched are seen, so patch early when it is the waits of long-lived locks that matter.

        with tracedthread.record() as rec:
            work()
        if rec.profile is not None:
            print(rec.profile.totals)
    """
    return Recording()


def __getattr__(name: str) -> object:
    if name == "Profile":  # `profile` needs dataclasses, which costs more than the rest of a start together
        from .profile import Profile

        return Profile
    if name in ("audit", "middleware"):
        from importlib import import_module

        return import_module(f"tracedthread.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "Profile", "audit", "middleware"})
