"""
Thread pools for people: a table, and a sentence about those with too few workers.
"""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from tracedthread.export.clean import clean
from tracedthread.export.terminal import heat, new_table
from tracedthread.export.units import count, duration, percent, short
from tracedthread.pools import PoolRow
from tracedthread.profile import Profile

TITLE = "Thread pools, by time that tasks waited for a worker"
LEGEND = "busy: workers' time at tasks. full: no worker was free. workers: at most so many at once."
MAX_POOLS = 8
# Less is not worth a sentence: in all, and of the time recorded without a free worker.
WORTH_S = 0.1
WORTH_FULL = 0.1


def pool_table(pools: tuple[PoolRow, ...]) -> Table:
    """One row a pool."""
    table = new_table("pool", "tasks", "queue\np50", "queue\np99", "queue\nmax", "busy", "full", "workers")
    for pool in pools[:MAX_POOLS]:
        waits = [pool.queue_quantile_s(0.5), pool.queue_quantile_s(0.99), pool.queue_max_s]
        name = Text(clean(pool.name), style="bold")
        if pool.queued:
            name.append(f"\n{count(pool.queued, 'task')} in the queue", style="yellow not bold")
        table.add_row(
            name,
            short(pool.tasks),
            *(Text(duration(wait), style=heat(wait)) for wait in waits),
            duration(pool.busy_s),
            duration(pool.full_s),
            short(pool.limit_max),
        )
    return table


def pool_sentences(profile: Profile) -> list[str]:
    """One of each pool whose tasks had to wait as all workers were busy, worst first."""
    recorded = profile.process.recorded_s
    result = []
    for pool in profile.pools:
        is_full = pool.queued > 0 and 0 < pool.limit <= pool.busy
        was_full = pool.queue_s >= WORTH_S and pool.full_s >= WORTH_FULL * recorded > 0
        if was_full:
            waited = (
                f"waited {duration(pool.queue_s)} for a worker, 99 % at most {duration(pool.queue_quantile_s(0.99))}"
            )
            full = f"all workers were busy for {duration(pool.full_s)}"
            if pool.full_s <= recorded:  # else tasks from before a pause went on in it
                full += f", {percent(pool.full_s, recorded)} of the time"
            if pool.executors > 1:
                full = f"all workers of an executor were busy for {duration(pool.full_s)} in sum"
            result.append(f"{count(pool.tasks, 'task')} of the thread pool `{pool.name}` {waited}: {full}.")
        elif is_full:
            left = f"{count(pool.queued, 'task')} waited in the queue when this was read"
            result.append(f"The thread pool `{pool.name}` had no free worker of {pool.limit}: {left}.")
    return result
