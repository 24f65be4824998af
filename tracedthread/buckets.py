"""
The buckets in which durations are told as metrics: few, and each some of the native ones, so that no count is split.
"""

from __future__ import annotations

from tracedthread import names
from tracedthread.histogram import BUCKETS, lower_edge_ns

__all__ = ["BOUNDS", "RANGES"]

_EDGES = tuple(min(range(BUCKETS), key=lambda index: abs(lower_edge_ns(index) - bound * 1e9)) for bound in names.BOUNDS)
#: Upper bounds, seconds, without the last, which is infinite: the native edges next to `names.BOUNDS`.
BOUNDS = tuple(lower_edge_ns(index) / 1e9 for index in _EDGES)
#: The native buckets in each, from and up to.
RANGES = tuple(zip((0, *_EDGES), (*_EDGES, BUCKETS)))
