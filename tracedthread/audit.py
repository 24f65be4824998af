"""
Auditing: the events that tracedthread raises for `sys.addaudithook`, and the trail of thread starts that it keeps.

The trail says who started which function in which thread, from where and when. It holds names and places, never the
values of arguments, and lies in the capture, so that it is there after a crash too: `tracedthread report FILE
--threads` shows it. The newest 4,096 starts are kept; how many were overwritten is counted as lost.

    tracedthread.patch(audit_trail=True)        # or TRACEDTHREAD_AUDIT_TRAIL=1, or tracedthread run --audit-trail
    ...
    for start in tracedthread.snapshot().starts:
        print(start.parent, "started", start.function, "at", start.frame)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tracedthread import _core

__all__ = ["EVENTS", "keep_trail"]

#: Audit events by name, and their arguments.
EVENTS: Mapping[str, tuple[str, ...]] = {
    # The interpreter's own events, raised by our thread start once each, with the caller's own objects and before
    # anything exists; an exception of a hook is the start's. The first also up to 3.11, where stock raises none; from
    # 3.13 on threading.Thread.start raises the second instead.
    "_thread.start_new_thread": ("function", "args", "kwargs"),  # kwargs: None if not given
    "_thread.start_joinable_thread": ("function", "daemon", "handle"),  # handle: None if not given
    "tracedthread.patch": ("path",),  # of the capture, as asked for; None: memory
    "tracedthread.unpatch": (),
    "tracedthread.audit_trail": ("on",),
}


def keep_trail(on: bool = True) -> bool:
    """
    Start or stop keeping the audit trail, in the middle of a recording.

    Returns:
        Whether there is a recording to keep it in; without one nothing is done.

    Raises the audit event `tracedthread.audit_trail` with argument `on`.
    """
    sys.audit("tracedthread.audit_trail", on)
    core = _core.loaded()
    if core is None or not core.is_open:
        return False
    core.lib.tt_trail_set(on)
    return True
