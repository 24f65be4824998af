"""
The names under which waits are told to the world: metrics, spans, attributes. Dashboards and alerts select by them.

Units are UCUM's, durations seconds. What OpenTelemetry's semantic conventions name is named so; all else stands under
`tracedthread.`, as they ask of names that are not theirs.

Source: https://opentelemetry.io/docs/specs/semconv/general/naming/, .../general/metrics/, .../registry/attributes/
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["METRICS", "SCHEMA_URL", "SCOPE", "Metric"]

#: The instrumentation scope of all that is told.
SCOPE = "tracedthread"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"


class Metric(NamedTuple):
    """
    What is known of a metric before it is measured.

    Args:
        kind: `histogram`, `counter` (monotonic) or `updown`.
        attributes: The names of its attributes; few values each, never a thread's id.
    """

    name: str
    kind: str
    unit: str
    description: str
    attributes: tuple[str, ...]


LOCK_NAME = "tracedthread.lock.name"
POOL_NAME = "tracedthread.thread_pool.name"
LOCK_SITE = "tracedthread.lock.site"
LOCK_TYPE = "tracedthread.lock.type"
WAIT_KIND = "tracedthread.wait.kind"
WAIT_OUTCOME = "tracedthread.wait.outcome"
WAIT_OWN_GIL = "tracedthread.wait.gil.time"
BLAMED_FUNCTION = "tracedthread.blamed.function"
LINK_TYPE = "tracedthread.link.type"  # holder, waker

# Of the waiter's own thread and place: the conventions' names. Of the holder's, of who gave a permit or room, and of a
# thread that was started: the same below ours.
THREAD_ID, THREAD_NAME = "thread.id", "thread.name"
FUNCTION, FILE, LINE, STACK = "code.function.name", "code.file.path", "code.line.number", "code.stacktrace"
HOLDER, WAKER, STARTED = "tracedthread.holder.", "tracedthread.waker.", "tracedthread.started."

# On server spans: the request's bill, seconds.
REQUEST_WAIT = "tracedthread.lock.wait.time"
REQUEST_GIL = "tracedthread.gil.wait.time"
REQUEST_BLOCKED_OTHERS = "tracedthread.lock.blocked_others.time"

SPAN = "lock.wait"
THREAD_START_EVENT = "tracedthread.thread.start"

_LOCK = (LOCK_NAME, LOCK_TYPE)
WAIT_DURATION = Metric(
    "tracedthread.lock.wait.duration", "histogram", "s", "How long threads waited for locks.", (LOCK_NAME, WAIT_KIND)
)
HOLD_DURATION = Metric("tracedthread.lock.hold.duration", "histogram", "s", "How long locks were held.", _LOCK)
START_DURATION = Metric(
    "tracedthread.thread.start.duration", "histogram", "s", "From asking for a thread to its first instruction.", ()
)
ACQUISITIONS = Metric("tracedthread.lock.acquisitions", "counter", "{acquisition}", "Locks obtained.", _LOCK)
CONTENTIONS = Metric("tracedthread.lock.contentions", "counter", "{contention}", "Waits for locks.", _LOCK)
TIMEOUTS = Metric(
    "tracedthread.lock.timeouts", "counter", "{timeout}", "Waits for locks ended by their timeout.", _LOCK
)
BLAME_TIME = Metric(
    "tracedthread.lock.blame.time",
    "counter",
    "s",
    "Time that others waited because this function held the lock.",
    (LOCK_NAME, BLAMED_FUNCTION),
)
HANDOFF_TIME = Metric(
    "tracedthread.lock.handoff.time",
    "counter",
    "s",
    "Waiting while the lock was free and whose turn it was still slept.",
    (LOCK_NAME,),
)
GIL_WAIT_TIME = Metric(
    "tracedthread.gil.wait.time", "counter", "s", "Waiting for locks that was really for the GIL.", (LOCK_NAME,)
)
_RESOURCE = (LOCK_NAME, WAIT_KIND)  # semaphore, queue.put, pool
RESOURCE_WAITS = Metric(
    "tracedthread.resource.waits", "counter", "{wait}", "Waits for a permit, for room or for a connection.", _RESOURCE
)
RESOURCE_WAIT_TIME = Metric(
    "tracedthread.resource.wait.time",
    "counter",
    "s",
    "Time that threads waited for a permit, for room or for a connection.",
    _RESOURCE,
)
STARTS = Metric("tracedthread.thread.starts", "counter", "{thread}", "Threads started.", ())
DROPPED = Metric(
    "tracedthread.capture.dropped_records",
    "counter",
    "{record}",
    "What the recording had no room for, or telemetry no budget.",
    ("tracedthread.capture.section",),
)
DEADLOCKS = Metric(
    "tracedthread.deadlocks", "counter", "{deadlock}", "Cycles of threads that wait for each other for ever.", ()
)
WAITERS = Metric("tracedthread.lock.waiter.count", "updown", "{thread}", "Threads that wait for locks now.", _LOCK)
THREADS = Metric("tracedthread.thread.count", "updown", "{thread}", "Threads that are alive.", ())

_POOL = (POOL_NAME,)
POOL_QUEUE_DURATION = Metric(
    "tracedthread.thread_pool.queue.duration",
    "histogram",
    "s",
    "How long tasks were in a thread pool's queue before a worker began them.",
    _POOL,
)
POOL_QUEUE_SIZE = Metric(
    "tracedthread.thread_pool.queue.size", "updown", "{task}", "Tasks that no worker has begun yet.", _POOL
)
POOL_BUSY = Metric("tracedthread.thread_pool.worker.busy", "updown", "{thread}", "Workers at a task now.", _POOL)
POOL_LIMIT = Metric(
    "tracedthread.thread_pool.worker.limit", "updown", "{thread}", "Workers that there can be at most.", _POOL
)

# For readers that take no histogram from us: the user's MeterProvider has no way in for one. `lock.contentions` and
# `thread.starts` are the counts of the other two.
WAIT_TIME = Metric("tracedthread.lock.wait.time", "counter", "s", "Time that threads waited for locks.", _LOCK)
HOLD_TIME = Metric("tracedthread.lock.hold.time", "counter", "s", "Time that locks were held.", _LOCK)
HOLDS = Metric("tracedthread.lock.holds", "counter", "{hold}", "Holds of locks that are over.", _LOCK)
START_TIME = Metric(
    "tracedthread.thread.start.time", "counter", "s", "From asking for threads to their first instruction.", ()
)

POOL_QUEUE_TIME = Metric(
    "tracedthread.thread_pool.queue.time", "counter", "s", "Time that tasks were in a thread pool's queue.", _POOL
)
POOL_TASKS = Metric(
    "tracedthread.thread_pool.tasks", "counter", "{task}", "Tasks of a thread pool that a worker has begun.", _POOL
)

WORKERS = Metric(
    "tracedthread.worker.count",
    "updown",
    "{process}",
    "Processes whose recordings are summed up: `living`, `ended`, and those that could not be read: `unreadable`.",
    ("tracedthread.worker.state",),
)

METRICS = (
    WAIT_DURATION,
    HOLD_DURATION,
    START_DURATION,
    ACQUISITIONS,
    CONTENTIONS,
    TIMEOUTS,
    BLAME_TIME,
    HANDOFF_TIME,
    GIL_WAIT_TIME,
    RESOURCE_WAITS,
    RESOURCE_WAIT_TIME,
    STARTS,
    DEADLOCKS,
    DROPPED,
    WAITERS,
    THREADS,
    POOL_QUEUE_DURATION,
    POOL_QUEUE_SIZE,
    POOL_BUSY,
    POOL_LIMIT,
)

SUMS = (WAIT_TIME, HOLD_TIME, HOLDS, START_TIME, POOL_QUEUE_TIME, POOL_TASKS)

#: Upper bounds of the exported histograms, seconds. Each is moved to the nearest edge of the native buckets.
BOUNDS = (1e-6, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
