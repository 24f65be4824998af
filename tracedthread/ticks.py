"""
The capture's clock for those who watch a running process: ticks as unix time.
"""

from __future__ import annotations

from bisect import bisect_right

from tracedthread.capture import MIN_SLOPE_NS
from tracedthread.layout import Header

__all__ = ["Clock"]

# So many are kept. Between them times are exact, before them nearly so.
_ANCHORS = 128


class Clock:
    """
    Ticks as unix time.

    Between two anchors the processor's counter and the monotonic clock run evenly. How far the wall clock is from the
    monotonic one is taken from the newest anchor, so that a wait keeps its length when the wall clock is set.
    """

    def __init__(self, header: Header) -> None:
        self._calibrated = header.ns_per_tick / 2**32
        self._ticks = [header.first_ticks]
        self._monotonic_ns = [header.first_monotonic_ns]
        self._slopes = [self._calibrated]  # from each anchor to the next one, or on
        self._offset_ns = header.first_wall_ns - header.first_monotonic_ns

    def advance(self, header: Header) -> None:
        """Take note of the newest anchor."""
        self._offset_ns = header.last_wall_ns - header.last_monotonic_ns
        elapsed_ns = header.last_monotonic_ns - self._monotonic_ns[-1]
        elapsed_ticks = header.last_ticks - self._ticks[-1]
        if elapsed_ns < MIN_SLOPE_NS or elapsed_ticks <= 0:
            return
        slope = elapsed_ns / elapsed_ticks
        if not 0.8 < slope / self._calibrated < 1.25:
            slope = self._calibrated
        self._slopes[-1] = slope
        self._ticks.append(header.last_ticks)
        self._monotonic_ns.append(header.last_monotonic_ns)
        self._slopes.append(slope)
        if len(self._ticks) > _ANCHORS:
            for known in (self._ticks, self._monotonic_ns, self._slopes):
                del known[1]
            span = self._ticks[1] - self._ticks[0]
            self._slopes[0] = (self._monotonic_ns[1] - self._monotonic_ns[0]) / span

    def unix_ns(self, ticks: int) -> int:
        """When that was, nanoseconds since 1970."""
        at = max(0, bisect_right(self._ticks, ticks) - 1)
        return self._monotonic_ns[at] + round((ticks - self._ticks[at]) * self._slopes[at]) + self._offset_ns

    def seconds(self, ticks: int) -> float:
        """How long that is."""
        return round(ticks * self._slopes[-1] * 1e-9, 9)
