"""Threads: how many, how fast they start, and the pools they work in."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.builders.dashboard import Row

from tracedthread import names

from .panels import board, curves, heat, query
from .promql import (
    POOL,
    RATE,
    increase,
    legend,
    quantile,
    rate,
    total,
)


def build() -> dashboard.Dashboard:
    """The dashboard."""
    return board(
        "threads",
        "tracedthread: Threads",
        "How many threads there are, how fast they start, and their pools.",
        Row("Threads"),
        curves(
            "Alive",
            "A curve that only rises is a leak of threads: `tracedthread run --audit-trail` names who starts them.",
            query(total(names.THREADS, "job", "instance"), legend("job", "instance")),
        ),
        curves(
            "Started per second",
            "More than ten a second cost more than they bring: use a pool.",
            query(rate(names.STARTS, "job", "instance"), legend("job", "instance")),
            red=10,
        ),
        curves(
            "From asking for a thread to its first instruction",
            "Above 10 ms new threads wait for the GIL or a processor: see the share of the GIL on the Overview.",
            query(quantile(0.99, names.START_DURATION), "p99"),
            query(quantile(0.5, names.START_DURATION), "p50", ref="B"),
            unit="s",
            red=0.01,
        ),
        heat(
            "How long threads took to start",
            "A band that moves up: the machine has too little CPU, or one thread keeps the GIL.",
            increase(names.START_DURATION, "le", part="bucket", over=RATE),
        ),
        Row("Thread pools"),
        curves(
            "Workers busy, and how many there may be",
            "Busy at the limit, tasks queue: more workers if they wait for I/O, a process pool if they compute.",
            query(total(names.POOL_BUSY, POOL), f"{legend(POOL)} busy"),
            query(total(names.POOL_LIMIT, POOL), f"{legend(POOL)} limit", ref="B"),
        ),
        curves(
            "Tasks in the queue",
            "A queue that only grows ends in memory or timeouts: let callers wait, or refuse work.",
            query(total(names.POOL_QUEUE_SIZE, POOL), legend(POOL)),
        ),
        curves(
            "A task's time in the queue",
            "That is added to every request that uses the pool: enlarge it, or do less in its tasks.",
            query(quantile(0.99, names.POOL_QUEUE_DURATION, POOL), f"{legend(POOL)} p99"),
            query(quantile(0.5, names.POOL_QUEUE_DURATION, POOL), f"{legend(POOL)} p50", ref="B"),
            unit="s",
            red=0.1,
        ),
        curves(
            "Tasks begun per second",
            "Fewer while the queue grows: the tasks have become slower; look at what they wait for on the Overview.",
            query(rate(names.POOL_QUEUE_DURATION, POOL, part="count"), legend(POOL)),
        ),
    )
