"""
Waits for a connection of a pool are waits for a resource, whichever package the pool is of.
"""

import queue
import sqlite3
import threading
import time
from typing import Any

import pytest

import tracedthread
from tracedthread.profile import Profile
from tracedthread.rows import WaitRow

TIMEOUT_S = 0.05

# What waits in packages that need more than a test has: their files' and functions' names are all that counts.
LOOKALIKES = {
    "psycopg_pool/pool.py": """
from threading import Condition
class WaitingClient:
    def wait(self, timeout):
        condition = Condition()
        with condition:
            assert not condition.wait(timeout)
""",
    "redis/connection.py": """
from queue import LifoQueue, Empty
class BlockingConnectionPool:
    def get_connection(self, timeout):
        try:
            LifoQueue().get(block=True, timeout=timeout)
        except Empty:
            pass
""",
}


def only_wait(profile: Profile | None) -> WaitRow:
    assert profile is not None
    (row,) = profile.resources
    assert row.kind == "pool"
    # A pool's own lock is a lock like any other, and nobody waited for that.
    assert profile.totals.contended == 0
    return row


def connections(size: int, **options: float) -> Any:
    pool = pytest.importorskip("sqlalchemy.pool")
    return pool.QueuePool(
        lambda: sqlite3.connect(":memory:", check_same_thread=False), pool_size=size, max_overflow=0, **options
    )


def test_waiter_of_sqlalchemys_queue_pool_names_who_gave_the_connection_back() -> None:
    with tracedthread.record() as rec:
        pool = connections(1)
        taken = pool.connect()
        waiter = threading.Thread(target=lambda: pool.connect().close(), name="waiter")
        waiter.start()
        deadline = time.monotonic() + 30
        while not (waiting := [wait for wait in tracedthread.snapshot().waiting if wait.kind == "pool"]):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        taken.close()
        waiter.join()
        pool.dispose()
    row = only_wait(rec.profile)
    assert (row.count, row.timeouts, row.stack[0].function) == (1, 0, "QueuePool._do_get")
    assert "do_return_conn" in row.waker
    assert [(wait.thread, wait.lock) for wait in waiting] == [("waiter", row.lock)]
    assert row.lock == "QueuePool._pool.mutex"


def test_waiter_that_gives_up_has_waited_for_the_pool() -> None:
    with tracedthread.record() as rec:
        pool = connections(1, timeout=TIMEOUT_S)
        taken = pool.connect()
        with pytest.raises(Exception, match="limit of size 1"):
            pool.connect()
        taken.close()
        pool.dispose()
    row = only_wait(rec.profile)
    assert (row.count, row.timeouts) == (1, 1)
    assert row.wait_s >= TIMEOUT_S
    assert rec.profile is not None
    assert rec.profile.idle_s == 0


def test_pool_with_a_free_connection_makes_nobody_wait() -> None:
    with tracedthread.record() as rec:
        pool = connections(2)
        with pool.connect(), pool.connect():
            pass
        pool.dispose()
    assert rec.profile is not None
    assert rec.profile.resources == ()


def test_urllib3_pool_that_blocks_is_waited_for() -> None:
    urllib3 = pytest.importorskip("urllib3")
    with tracedthread.record() as rec:
        pool = urllib3.HTTPConnectionPool("localhost", maxsize=1, block=True)
        pool._get_conn()
        with pytest.raises(urllib3.exceptions.EmptyPoolError):
            pool._get_conn(timeout=TIMEOUT_S)
    assert only_wait(rec.profile).stack[0].function == "HTTPConnectionPool._get_conn"


@pytest.mark.parametrize(
    ("file", "call"),
    [
        ("psycopg_pool/pool.py", "WaitingClient().wait"),
        ("redis/connection.py", "BlockingConnectionPool().get_connection"),
    ],
)
def test_pools_of_other_packages_are_known_by_where_they_wait(file: str, call: str) -> None:
    namespace: dict[str, Any] = {}
    exec(compile(LOOKALIKES[file], f"/anywhere/lib/{file}", "exec"), namespace)
    with tracedthread.record() as rec:
        eval(call, namespace)(TIMEOUT_S)
    only_wait(rec.profile)


def test_file_of_the_same_name_elsewhere_is_no_pool() -> None:
    namespace: dict[str, Any] = {}
    exec(compile(LOOKALIKES["redis/connection.py"], "/anywhere/lib/xredis/connection.py", "exec"), namespace)
    with tracedthread.record() as rec:
        namespace["BlockingConnectionPool"]().get_connection(TIMEOUT_S)
        with pytest.raises(queue.Empty):
            queue.Queue[int]().get(timeout=TIMEOUT_S)
    assert rec.profile is not None
    assert {row.kind for row in rec.profile.idle} == {"queue.get"}
    assert rec.profile.resources == ()
