"""
Tasks of ThreadPoolExecutors: what is counted, and that the executor is what it was.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread as stock
import gc
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import tracedthread
from tracedthread import _core, names
from tracedthread.measure import Board, HistogramValue
from tracedthread.pools import PoolRow
from tracedthread.tallier import read_own

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def patched() -> Iterator[None]:
    was = tracedthread.is_patched()
    assert tracedthread.patch()
    yield
    if not was:
        tracedthread.unpatch()


def pool(name: str) -> PoolRow:
    (row,) = [row for row in tracedthread.snapshot().pools if row.name == name]
    return row


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def run_python(code: str, *, timeout: float = 60) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


# ---- what is counted --------------------------------------------------------------------------------------------------


def test_tasks_in_the_queue_and_busy_workers_are_counted_while_they_are() -> None:
    gate = threading.Event()
    with ThreadPoolExecutor(2, "counted") as executor:
        tasks = [executor.submit(gate.wait) for _ in range(5)]
        until(lambda: pool("counted").busy == 2)
        row = pool("counted")
        assert (row.submitted, row.queued, row.busy, row.ended, row.limit) == (5, 3, 2, 0, 2)
        time.sleep(0.05)
        gate.set()
        assert all(task.result(30) for task in tasks)
    row = pool("counted")
    assert (row.submitted, row.queued, row.busy, row.ended, row.dropped) == (5, 0, 0, 5, 0)
    assert (row.tasks, sum(row.queue.counts), row.untimed, row.executors) == (5, 5, 0, 1)
    assert row.queue_s >= 3 * 0.05
    assert 0.05 <= row.queue_quantile_s(0.99) <= row.queue_max_s
    assert row.busy_s >= 2 * 0.05
    assert 0.05 <= row.full_s <= row.busy_s


def test_time_of_a_pool_with_a_free_worker_is_not_full() -> None:
    with ThreadPoolExecutor(2, "half") as executor:
        executor.submit(time.sleep, 0.05).result()
    row = pool("half")
    assert (row.full_s, row.ended) == (0, 1)
    assert row.busy_s >= 0.05


def test_cancelled_tasks_are_dropped_and_no_part_of_the_histogram() -> None:
    gate = threading.Event()
    with ThreadPoolExecutor(1, "cancelled") as executor:
        first = executor.submit(gate.wait)
        until(lambda: pool("cancelled").busy == 1)
        later = executor.submit(gate.wait)
        assert later.cancel()
        gate.set()
        with pytest.raises(CancelledError):
            later.result()
        assert first.result()
    del later, first
    until(lambda: pool("cancelled").dropped == 1)
    row = pool("cancelled")
    assert (row.submitted, row.tasks, row.queued, sum(row.queue.counts)) == (2, 1, 0, 1)


def test_tasks_that_shutdown_cancels_are_dropped() -> None:
    gate = threading.Event()
    executor = ThreadPoolExecutor(1, "shut")
    executor.submit(gate.wait)
    until(lambda: pool("shut").busy == 1)
    for _ in range(3):
        executor.submit(gate.wait)
    executor.shutdown(wait=False, cancel_futures=True)
    gate.set()
    until(lambda: pool("shut").ended == 1)
    row = pool("shut")
    assert (row.submitted, row.dropped, row.queued, row.busy) == (4, 3, 0, 0)


def test_executors_without_a_name_are_one_pool() -> None:
    before = sum(row.ended for row in tracedthread.snapshot().pools if row.name == "ThreadPoolExecutor")
    for _ in range(3):
        with ThreadPoolExecutor(1) as executor:
            executor.submit(int).result()
    assert pool("ThreadPoolExecutor").ended == before + 3
    assert not [row for row in tracedthread.snapshot().pools if row.name.startswith("ThreadPoolExecutor-")]


def test_executor_of_asyncio_is_one() -> None:
    async def main() -> str:
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    assert asyncio.run(main()).startswith("asyncio")
    assert pool("asyncio").ended >= 1


def test_limit_is_that_of_executors_that_live_and_nothing_keeps_them_alive() -> None:
    one, two = ThreadPoolExecutor(3, "limits"), ThreadPoolExecutor(4, "limits")
    for executor in (one, two):
        executor.submit(int).result()
    assert (pool("limits").limit, pool("limits").executors) == (7, 2)
    gone = weakref.ref(one)
    del one, executor
    gc.collect()
    assert gone() is None
    until(lambda: pool("limits").limit == 4)
    assert pool("limits").limit_max == 7
    two.shutdown()


def test_ten_thousand_executors_leave_nothing_behind() -> None:
    script = """
import gc, resource
import tracedthread
tracedthread.patch()
from concurrent.futures import ThreadPoolExecutor
import concurrent.futures.thread as stock
def submit(number, prefix):
    executor = ThreadPoolExecutor(1, prefix)
    executor._adjust_thread_count = lambda: None
    executor.submit(int)
for number in range(10_000):
    submit(number, "many-%d" % number)
    if number == 2_000:
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
gc.collect()
rows = tracedthread.snapshot().pools
assert sum(row.submitted for row in rows) == sum(row.dropped for row in rows) == 10_000, rows
assert sum(row.limit for row in rows) == 0
assert sum(row.executors for row in rows) == 10_000
assert len(rows) == 64 and "(other)" in {row.name for row in rows}
assert tracedthread.snapshot().lost["pools"] == 10_000 - 63
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8192
"""
    run_python(script)


def test_executor_at_the_address_of_one_that_its_own_finalizer_used_is_another() -> None:
    class Last(ThreadPoolExecutor):
        def __del__(self) -> None:
            self.submit(int).result()  # the first task: we meet it when it is about to go

    for turn in range(50):
        executor = Last(1, "finalized")
        del executor
        with ThreadPoolExecutor(1, "successor") as successor:
            successor.submit(int).result()
        assert pool("successor").submitted == turn + 1
    assert pool("finalized").submitted == 50


def test_difference_of_two_moments_has_what_came_between() -> None:
    with ThreadPoolExecutor(1, "moments") as executor:
        executor.submit(time.sleep, 0.05).result()
        with tracedthread.record() as rec:
            for _ in range(3):
                executor.submit(int).result()
        until(lambda: pool("moments").ended == 4)
    assert rec.profile is not None
    (row,) = [row for row in rec.profile.pools if row.name == "moments"]
    assert (row.submitted, sum(row.queue.counts)) == (3, 3)
    assert row.to_dict()["limit"] == 1


def test_paused_recording_counts_no_tasks() -> None:
    gate = threading.Event()
    with ThreadPoolExecutor(1, "paused") as executor:
        executor.submit(gate.wait)
        until(lambda: pool("paused").busy == 1)
        waits = executor.submit(int)  # begins after the pause
        tracedthread.pause()
        unseen = executor.submit(int)
        tracedthread.resume()
        gate.set()
        assert (waits.result(), unseen.result()) == (0, 0)
    row = pool("paused")
    assert (row.submitted, row.tasks, row.untimed, row.queued, row.busy) == (2, 2, 1, 0, 0)


def test_metrics_are_told_with_the_pools_name() -> None:
    gate = threading.Event()
    with ThreadPoolExecutor(1, "told") as executor:
        executor.submit(gate.wait)
        until(lambda: pool("told").busy == 1)
        executor.submit(gate.wait)
        points = [point for point in Board(read_own(_core.load())).measure() if point.attributes == ("told",)]
        gate.set()
    values = {point.metric: point.value for point in points}
    queue = values.pop(names.POOL_QUEUE_DURATION)
    assert isinstance(queue, HistogramValue)
    assert queue.total == 1
    assert values == {names.POOL_QUEUE_SIZE: 1, names.POOL_BUSY: 1, names.POOL_LIMIT: 1}
    assert all(point.labels == {"tracedthread.thread_pool.name": "told"} for point in points)


# ---- nothing else changes ---------------------------------------------------------------------------------------------


def test_class_of_items_is_exchanged_and_put_back() -> None:
    ours = stock._WorkItem
    original = ours.__mro__[1]
    assert (ours.__name__, ours.__qualname__, ours.__module__) == ("_WorkItem", "_WorkItem", stock.__name__)
    assert repr(ours) == repr(original)
    assert tracedthread.unpatch()
    assert stock._WorkItem is original
    with ThreadPoolExecutor(1, "unpatched") as executor:
        assert executor.submit(int).result() == 0
    assert not [row for row in tracedthread.snapshot().pools if row.name == "unpatched"]
    assert tracedthread.patch()
    assert stock._WorkItem is ours


def test_traceback_and_stack_of_a_task_are_those_of_stock() -> None:
    def fail() -> None:
        raise KeyError("".join(line for line in traceback.format_stack() if "tracedthread" in line))

    def seen() -> tuple[list[str], str]:
        with ThreadPoolExecutor(1, "fails") as executor:
            error = executor.submit(fail).exception()
        assert isinstance(error, KeyError)
        frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        return frames, error.args[0]

    ours = seen()
    tracedthread.unpatch()
    assert ours == seen()
    tracedthread.patch()


def test_wrong_calls_of_submit_raise_what_stock_raises() -> None:
    def messages() -> list[str]:
        result = []
        with ThreadPoolExecutor(1, "wrong") as executor:
            for call in (
                executor.submit,
                lambda: executor.submit(int, 1, base=2, x=3).result(),  # type: ignore[call-overload]
                stock._WorkItem,
                lambda: stock._WorkItem(1, 2, 3, 4, 5, 6, 7, 8, 9, ten=10),
            ):
                with pytest.raises(TypeError) as caught:
                    call()
                result.append(str(caught.value))
        with pytest.raises(RuntimeError) as refused:
            executor.submit(int)
        return [*result, str(refused.value)]

    ours = messages()
    tracedthread.unpatch()
    assert ours == messages()
    tracedthread.patch()


def test_task_keeps_nothing_alive_when_it_is_over() -> None:
    class Big:
        pass

    argument = Big()
    gone = weakref.ref(argument)
    with ThreadPoolExecutor(1, "keeps") as executor:
        assert executor.submit(lambda one: one is not None, argument).result()
        del argument
        until(lambda: gc.collect() >= 0 and gone() is None)


def test_initializer_and_subclasses_work() -> None:
    local = threading.local()

    class Sub(ThreadPoolExecutor):
        def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            return super().submit(function, *args, **kwargs)

    with Sub(1, "sub", initializer=lambda: setattr(local, "value", 5)) as executor:
        assert executor.submit(lambda: local.value).result() == 5
    assert pool("sub").ended == 1


def test_item_whose_init_is_not_called_runs() -> None:
    class Item(stock._WorkItem):
        def __init__(self, future: Future[int]) -> None:
            self.future = future
            self.fn, self.args, self.kwargs = int, (), {}
            self.task = (int, (), {})

    class Context:
        def run(self, task: Any) -> Any:
            function, args, kwargs = task
            return function(*args, **kwargs)

    future: Future[int] = Future()
    Item(future).run(*([Context()] if sys.version_info >= (3, 14) else []))
    assert future.result() == 0


def test_process_pools_are_none_of_ours() -> None:
    script = """
import tracedthread
tracedthread.patch()
from concurrent.futures import ProcessPoolExecutor
if __name__ == "__main__":
    import multiprocessing
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert list(executor.map(abs, range(5))) == list(range(5))
    assert tracedthread.snapshot().pools == ()
"""
    run_python(script)


def test_fork_counts_from_zero_and_tasks_of_the_parent_do_not_count_in_the_child() -> None:
    script = """
import os, threading, warnings
warnings.simplefilter("ignore")
import tracedthread
tracedthread.patch()
from concurrent.futures import ThreadPoolExecutor
gate = threading.Event()
executor = ThreadPoolExecutor(2, "forked")
def fork():
    pid = os.fork()
    if pid == 0:
        assert tracedthread.snapshot().pools == (), tracedthread.snapshot().pools
        with ThreadPoolExecutor(1, "forked") as own:
            own.submit(int).result()
        (row,) = tracedthread.snapshot().pools
        assert (row.submitted, row.ended, row.queued, row.busy, row.limit) == (1, 1, 0, 0, 1), row
        os._exit(0)
    return pid
pid = executor.submit(fork).result()
assert os.waitpid(pid, 0)[1] == 0
executor.shutdown()
(row,) = tracedthread.snapshot().pools
assert (row.submitted, row.ended, row.queued, row.busy) == (1, 1, 0, 0), row
"""
    run_python(script)


def test_executor_that_was_made_before_a_fork_works_in_the_child() -> None:
    script = """
import os
import tracedthread
tracedthread.patch()
from concurrent.futures import ThreadPoolExecutor
executor = ThreadPoolExecutor(2, "inherited")
executor._adjust_thread_count = lambda: None
executor.submit(int)
if (pid := os.fork()) == 0:
    item = executor._work_queue.get()
    del executor._adjust_thread_count
    assert executor.submit(int).result() == 0
    (row,) = tracedthread.snapshot().pools
    assert (row.submitted, row.tasks, row.dropped, row.limit, row.executors) == (1, 1, 0, 2, 1), row
    del item
    (row,) = tracedthread.snapshot().pools
    assert (row.submitted, row.dropped) == (1, 0)
    executor.shutdown()
    del executor
    (row,) = tracedthread.snapshot().pools
    assert row.limit == 0
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    run_python(script)


def test_exit_with_pending_tasks_runs_them_all() -> None:
    script = """
import tracedthread
tracedthread.patch()
import time
from concurrent.futures import ThreadPoolExecutor
executor = ThreadPoolExecutor(1, "pending")
for number in range(5):
    executor.submit(lambda n=number: (time.sleep(0.01), print(n)))
"""
    assert run_python(script).split() == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("first", ["import tracedthread; tracedthread.patch()", "import concurrent.futures.thread"])
def test_it_does_not_matter_what_is_imported_first(first: str) -> None:
    script = f"""
{first}
import tracedthread
tracedthread.patch()
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(1, "order") as executor:
    executor.submit(int).result()
(row,) = tracedthread.snapshot().pools
assert (row.name, row.ended) == ("order", 1)
"""
    run_python(script)


def test_patching_imports_no_executor() -> None:
    out = run_python("import sys, tracedthread; tracedthread.patch(); print('concurrent.futures' in sys.modules)")
    assert out == "False\n"
