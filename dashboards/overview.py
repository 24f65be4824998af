"""The first look: is contention hurting me, which lock, whose fault, how much is the GIL, what is saturated."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.builders.dashboard import Row

from tracedthread import names

from .panels import FULL, THIRD, board, curves, number, query, ranking
from .promql import (
    FUNCTION,
    KIND,
    LOCK,
    POOL,
    RATE,
    SECTION,
    increase,
    legend,
    quantile,
    rate,
    top,
    total,
)

WAITED = rate(names.WAIT_DURATION, part="sum")
GIL_SHARE = f"{rate(names.GIL_WAIT_TIME)} / {WAITED}"


def build() -> dashboard.Dashboard:
    """The dashboard."""
    return board(
        "overview",
        "tracedthread: Overview",
        "Where threads wait and because of whom. From the top: is there a problem, which lock, and what is saturated.",
        Row("Is contention hurting me?"),
        number(
            "Threads' time spent waiting for locks",
            "More than a twentieth of all threads' time: see below which lock it is, and look at that.",
            f"{WAITED} / {total(names.THREADS)}",
            unit="percentunit",
            red=0.05,
        ),
        number(
            "Of that, for the GIL",
            "Much of the waiting is for the GIL: look for a thread that computes in pure Python, not for a lock.",
            GIL_SHARE,
            unit="percentunit",
            red=0.33,
        ),
        number(
            "Deadlocks",
            "Threads wait for each other for ever: keep what `tracedthread dump PID` says, then restart the process.",
            total(names.DEADLOCKS),
            red=1,
        ),
        number(
            "Telemetry lost",
            "What is shown is incomplete: the table's row at the bottom says of what; give the recording more room.",
            increase(names.DROPPED),
            red=1,
        ),
        curves(
            "Threads waiting, on average",
            "So many threads do nothing but wait for a lock: above one, requests queue up; go to the lock on top.",
            query(top(10, rate(names.WAIT_DURATION, LOCK, part="sum")), legend(LOCK)),
            red=1,
            stacked=True,
        ),
        curves(
            "The slowest wait in a hundred (p99)",
            "This is added to your own p99: above 100 ms, find what is done while the lock is held and move it out.",
            query(top(10, quantile(0.99, names.WAIT_DURATION, LOCK)), legend(LOCK)),
            unit="s",
            red=0.1,
        ),
        Row("Which lock, and whose fault?"),
        ranking(
            "Locks that were waited for longest",
            "Start with the first row; click on its name to see who held it.",
            top(10, increase(names.WAIT_DURATION, LOCK, part="sum")),
            columns={LOCK: "Lock", "Value": "Waited"},
        ),
        ranking(
            "Functions that made others wait",
            "The first row names the code to change: it holds this lock while it does something slow.",
            top(10, increase(names.BLAME_TIME, LOCK, FUNCTION)),
            columns={LOCK: "Lock", FUNCTION: "Held by", "Value": "Others waited"},
        ),
        curves(
            "Why threads waited",
            "Held: shorten the holds. GIL: find the thread that computes. Handed over: take the lock less often.",
            query(rate(names.BLAME_TIME), "held by others"),
            query(rate(names.GIL_WAIT_TIME), "for the GIL", ref="B"),
            query(rate(names.HANDOFF_TIME), "being handed over", ref="C"),
            stacked=True,
        ),
        curves(
            "Share of waiting that is the GIL",
            "Above a third it is not the locks: profile the CPU, move the work to a process, or release the GIL in it.",
            query(GIL_SHARE, "GIL"),
            unit="percentunit",
            red=0.33,
        ),
        curves(
            "Waits ended by their timeout, per second",
            "Somebody gave up: who holds the lock on top is stuck or slow; `tracedthread dump PID` shows where.",
            query(rate(names.TIMEOUTS, LOCK), legend(LOCK)),
            red=0.1,
        ),
        curves(
            "Threads waiting for permits, room and connections",
            "What is named is too small, or is kept for too long: enlarge it, or give it back earlier.",
            query(top(10, rate(names.RESOURCE_WAIT_TIME, KIND, LOCK)), legend(KIND, LOCK)),
            red=1,
            stacked=True,
        ),
        Row("What is saturated?"),
        curves(
            "Thread pools: workers busy",
            "All workers busy all the time: more workers if they wait for I/O, less work if they compute.",
            query(f"{total(names.POOL_BUSY, POOL)} / {total(names.POOL_LIMIT, POOL)}", legend(POOL)),
            unit="percentunit",
            red=0.9,
            span=THIRD,
        ),
        curves(
            "Thread pools: a task's time in the queue (p99)",
            "Tasks wait for a worker: look at the pool on the Threads dashboard.",
            query(quantile(0.99, names.POOL_QUEUE_DURATION, POOL), legend(POOL)),
            unit="s",
            red=0.1,
            span=THIRD,
        ),
        curves(
            "Threads",
            "A number that only grows is a leak of threads: see who starts them with `tracedthread run --audit-trail`.",
            query(total(names.THREADS), "alive"),
            query(total(names.WAITERS), "waiting for a lock now", ref="B"),
            span=THIRD,
        ),
        curves(
            "Telemetry lost, by what",
            "The runbook TracedThreadTelemetryLost says for each section which setting gives it more room.",
            query(increase(names.DROPPED, SECTION, over=RATE), legend(SECTION)),
            red=1,
            span=FULL,
        ),
    )
