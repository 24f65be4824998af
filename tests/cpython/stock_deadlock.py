"""
python/cpython#125451 made certain: "ended", or a deadlock of a ProcessPoolExecutor's own two threads after 2 s.

The thread that feeds the pool's queue has taken the last work item away and is about to ask for the executor's lock, when
the executor's manager, which sees no item left, takes that lock and joins the feeder. Here the feeder pauses in between.
"""

import faulthandler
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor


class PausesWhenEmpty(dict):  # type: ignore[type-arg]
    """The executor's work items."""

    def pop(self, *args):  # type: ignore[no-untyped-def]
        item = super().pop(*args)
        if not self:
            time.sleep(0.5)
        return item


def main() -> None:
    faulthandler.dump_traceback_later(2, exit=True)
    executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    executor._pending_work_items = executor._call_queue.pending_work_items = PausesWhenEmpty()  # type: ignore[attr-defined]
    executor.submit(lambda: None)  # a function without a name cannot be pickled
    time.sleep(0.2)  # until the feeder has taken the item
    executor.shutdown()
    print("ended", flush=True)


if __name__ == "__main__":
    main()
