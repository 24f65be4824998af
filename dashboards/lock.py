"""One lock: how long it is waited for and held, who waits and who is to blame, and the traces that prove it."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.builders.dashboard import Row

from tracedthread import names

from .panels import board, curves, heat, number, query, traces, variable
from .promql import FUNCTION, ONE_LOCK, RATE, increase, label, legend, quantile, rate, series, total

WAITED = rate(names.WAIT_DURATION, part="sum", chosen=ONE_LOCK)


def build() -> dashboard.Dashboard:
    """The dashboard."""
    chosen = f'{series(names.ACQUISITIONS)}{{job=~"$job",instance=~"$instance"}}'
    locks = f"label_values({chosen}, {label(names.LOCK_NAME)})"
    return board(
        "lock",
        "tracedthread: Lock",
        "One lock, by its name: all locks that one line of code creates. Who waits for it, and because of whom.",
        variable("lock", "Lock", locks, every=False),
        Row("How bad is it?"),
        number(
            "Waited since the processes began",
            "Exact, to the last scrape; how much of it is recent is in the next number.",
            total(names.WAIT_DURATION, part="sum", chosen=ONE_LOCK),
            unit="s",
        ),
        number(
            "Waited in the time shown",
            "Compare before and after a change; the panel below says whose fault it is.",
            increase(names.WAIT_DURATION, part="sum", chosen=ONE_LOCK),
            unit="s",
        ),
        number(
            "Waits an acquisition",
            "More than one in five: make the holds shorter, or use several locks. Waits that gave up count, too.",
            f"{rate(names.CONTENTIONS, chosen=ONE_LOCK)} / {rate(names.ACQUISITIONS, chosen=ONE_LOCK)}",
            unit="percentunit",
            red=0.2,
        ),
        number(
            "Part of the time that it is held",
            "Close to 100 % it limits throughput, whatever the number of threads: do less while holding it.",
            rate(names.HOLD_DURATION, part="sum", chosen=ONE_LOCK),
            unit="percentunit",
            red=0.7,
        ),
        Row("Victims against culprits"),
        curves(
            "Victims: threads waiting, on average",
            "The panel beside it says why: its parts add up to this.",
            query(WAITED, "waiting"),
            red=1,
        ),
        curves(
            "Culprits: because of whom",
            "Open the function on top: something in it, most often I/O, belongs outside of the `with` block.",
            query(rate(names.BLAME_TIME, FUNCTION, chosen=ONE_LOCK), legend(FUNCTION)),
            query(rate(names.GIL_WAIT_TIME, chosen=ONE_LOCK), "the GIL", ref="B"),
            query(rate(names.HANDOFF_TIME, chosen=ONE_LOCK), "being handed over", ref="C"),
            red=1,
            stacked=True,
        ),
        Row("Waits and holds"),
        heat(
            "How long threads waited",
            "Two bands, one of them slow: one of the holders is slow. Points are requests; click for a trace.",
            increase(names.WAIT_DURATION, "le", part="bucket", chosen=ONE_LOCK, over=RATE),
        ),
        heat(
            "How long it was held",
            "A slow band here is the reason for the waits: it is the culprit's, named above.",
            increase(names.HOLD_DURATION, "le", part="bucket", chosen=ONE_LOCK, over=RATE),
        ),
        curves(
            "Wait: half of them, the slowest of a hundred",
            "Above 100 ms users notice: click on a point for the trace of a request that waited so long.",
            query(quantile(0.99, names.WAIT_DURATION, chosen=ONE_LOCK), "p99", exemplars=True),
            query(quantile(0.5, names.WAIT_DURATION, chosen=ONE_LOCK), "p50", ref="B"),
            unit="s",
            red=0.1,
        ),
        curves(
            "Hold: half of them, the slowest of a hundred",
            "A p99 far above the p50 is one code path among many: look for it among the culprits.",
            query(quantile(0.99, names.HOLD_DURATION, chosen=ONE_LOCK), "p99"),
            query(quantile(0.5, names.HOLD_DURATION, chosen=ONE_LOCK), "p50", ref="B"),
            unit="s",
            red=0.1,
        ),
        curves(
            "Waiting now, and giving up",
            "Threads that give up mean a stuck holder: `tracedthread dump PID` shows where it is.",
            query(total(names.WAITERS, chosen=ONE_LOCK), "waiting now"),
            query(rate(names.TIMEOUTS, chosen=ONE_LOCK), "timeouts per second", ref="B"),
        ),
        traces(
            "Waits, as spans",
            "Each is a victim; its link leads to the holder's span, `Profiles` to the stacks of all holders.",
            f'{{ name = "{names.SPAN}" && span.{names.LOCK_NAME} = "$lock" }}',
        ),
    )
