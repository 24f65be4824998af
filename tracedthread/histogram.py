"""
Log-linear histograms of durations: 8 buckets an octave, edges in nanoseconds.

The first 8 buckets hold 0 … 7 ns; then every power of two is cut into 8 equal parts, so that a bucket is at most 12.5 %
wide. The last one also holds everything longer (18 minutes). The same edges as tt_histogram_bucket in native/clock.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from operator import add

BUCKETS = 304


def index_of(ns: int) -> int:
    """The bucket that `ns` falls into."""
    if ns < 8:
        return max(ns, 0)
    exponent = ns.bit_length() - 1
    return min((exponent - 2) * 8 + ((ns >> (exponent - 3)) & 7), BUCKETS - 1)


def lower_edge_ns(index: int) -> int:
    """The shortest duration in a bucket."""
    return index if index < 8 else (8 + index % 8) << (index // 8 - 1)


@dataclass(frozen=True)
class Histogram:
    """
    Durations by bucket. Exact: every hold and every wait is in one.

    Args:
        counts: One count per bucket, or nothing at all when every count is zero.
    """

    counts: tuple[int, ...] = ()

    @classmethod
    def from_bytes(cls, data: bytes) -> Histogram:
        """The histogram in `data`, little-endian uint64 counts."""
        # Most histograms are empty; to see that needs no unpacking.
        return cls(struct.unpack(f"<{BUCKETS}Q", data)) if data.strip(b"\0") else EMPTY

    def with_one(self, ns: int) -> Histogram:
        """These durations and one more."""
        counts = list(self.counts or (0,) * BUCKETS)
        counts[index_of(ns)] += 1
        return Histogram(tuple(counts))

    def __add__(self, other: Histogram) -> Histogram:
        if not other.counts:
            return self
        if not self.counts:
            return other
        return Histogram(tuple(map(add, self.counts, other.counts)))

    def __sub__(self, other: Histogram) -> Histogram:
        """What came after `other` was taken."""
        if not other.counts:
            return self
        if self.counts == other.counts or not self.counts:
            return EMPTY
        return Histogram(tuple(max(0, mine - theirs) for mine, theirs in zip(self.counts, other.counts)))

    def quantile_ns(self, fraction: float, max_ns: float) -> float:
        """
        The duration that `fraction` of all durations do not exceed, off by at most 12.5 %.

        Args:
            fraction: 0 … 1.
            max_ns: The longest duration, which is known exactly.
        """
        total = sum(self.counts)
        if total == 0:
            return 0.0
        rank = min(max(round(fraction * total, 6), 1.0), float(total))  # 0.999 may be a little more than that
        below = 0
        for index, count in enumerate(self.counts):
            if count and below + count >= rank:
                if index == BUCKETS - 1:
                    return max_ns
                lower, upper = lower_edge_ns(index), lower_edge_ns(index + 1)
                if index < 8:
                    return min(float(lower), max_ns)
                return min(lower + (upper - lower) * (rank - below) / count, max_ns)
            below += count
        return max_ns

    def floor_ns(self) -> float:
        """The longest of these is at least so long: the lower edge of the highest bucket in use."""
        return float(lower_edge_ns(max(self._highest(), 0)))

    def bound_ns(self, sum_ns: float) -> float:
        """
        A duration that none of these exceeds.

        The upper edge of the highest bucket in use, or what the sum leaves for one if all others lasted no longer than
        the lower edges of their buckets.

        Args:
            sum_ns: Of all durations, by the clock of the buckets.
        """
        highest, lower = self._highest(), self.floor_ns()
        upper = float("inf") if highest == BUCKETS - 1 else float(lower_edge_ns(highest + 1))
        at_least_ns = sum(lower_edge_ns(index) * count for index, count in enumerate(self.counts))
        return max(lower, min(upper, sum_ns - (at_least_ns - lower)))  # in a damaged capture they may not fit

    def bound_ticks(self, sum_ticks: int, bucket_tick_s: float) -> float:
        """As `bound_ns`, in ticks; `bucket_tick_s` is as in Process."""
        tick_ns = bucket_tick_s * 1e9
        return self.bound_ns(sum_ticks * tick_ns) / tick_ns

    def _highest(self) -> int:
        """The highest bucket in use; -1 if none is."""
        return max((index for index, count in enumerate(self.counts) if count), default=-1)


EMPTY = Histogram()
