"""Locks used where the interpreter calls back: finalizers, weak references, the collector, tracing, the limits of recursion."""

from __future__ import annotations

import pytest
from abuse import LIMIT_S, run

pytestmark = pytest.mark.timeout(LIMIT_S + 60)

CALLBACKS = """
    log = {"del": 0, "weakref": 0, "gc": 0}
    shared = threading.Lock()
    shared_rlock = threading.RLock()
    counter = threading.Lock()
    def count(what):
        with counter:
            log[what] += 1
    def use(what):
        "Everything that a lock can do, without waiting for ever on one that this very thread may hold."
        fresh = threading.Lock()
        with fresh:
            assert not fresh.acquire(False)
        if shared.acquire(False):
            shared.release()
        elif shared.acquire(timeout=0.0002):
            shared.release()
        with shared_rlock:
            with shared_rlock:
                pass
        log[what] += 1
    class Finalized:
        def __init__(self):
            self.lock = threading.Lock()
            self.rlock = threading.RLock()
            self.cycle = self
            self.lock.acquire()
        def __del__(self):
            with self.rlock:
                assert self.lock.locked()
                self.lock.release()
            use("del")
    class Node:
        pass
    def callback(phase, info):
        if phase == "stop":
            use("gc")
    gc.callbacks.append(callback)
    gc.set_threshold(20, 2, 2)
    keep = []
    end = time.monotonic() + (60 if FULL else SECONDS)
    done = [0]
    def work(seed):
        choose = random.Random(seed)
        while time.monotonic() < end:
            Finalized()
            node = Node()
            node.cycle = node
            node.ref = weakref.ref(threading.RLock())
            lock = threading.Lock()
            reference = weakref.ref(lock, lambda dead: use("weakref"))
            node.keep = reference
            weakref.finalize(lock, use, "weakref").atexit = False
            with lock:
                made = [[] for _ in range(30)]      # runs the collector inside of a hold
                if choose.random() < 0.2:
                    lock.acquire(timeout=0.0001)    # and around a recorded wait
            del lock
            with shared:
                made = [{} for _ in range(5)]
                if choose.random() < 0.05:
                    time.sleep(0.0001)
            done[0] += 1
    run_all(*[lambda i=i: work(i) for i in range(4)])
    gc.set_threshold(700, 10, 10)
    gc.callbacks.remove(callback)
    gc.collect()
    assert min(log.values()) > 20, log
    assert done[0] > 50, done
    found = rows()
    assert found["fresh"].stats.acquisitions >= sum(log.values())
    assert found["fresh"].stats.failed_tries == found["fresh"].stats.acquisitions
    assert all(row.stats.waiters == 0 for row in found.values())
    assert not shared.locked()
"""


DEBUGGING: dict[str, tuple[list[str], dict[str, str]]] = {
    "plain": ([], {}),
    "development mode": (["-X", "dev"], {}),
    "tracemalloc": (["-X", "tracemalloc=5"], {}),
    "debugging allocator": ([], {"PYTHONMALLOC": "debug"}),
    "libc's allocator": ([], {"PYTHONMALLOC": "malloc", "MALLOC_PERTURB_": "85"}),
}


@pytest.mark.parametrize("how", DEBUGGING)
def test_callbacks_may_use_locks(how: str) -> None:
    flags, env = DEBUGGING[how]
    run(CALLBACKS.replace("SECONDS", "1"), *flags, env=env)


TRACED = """
    seen = {"trace": 0}
    inner = threading.Lock()
    outer = threading.RLock()
    def trace(frame, event, arg):
        seen["trace"] += 1
        if outer.acquire(False):
            fresh = threading.Lock()
            fresh.acquire()
            fresh.acquire(timeout=0.00001)
            outer.release()
        return trace
    INSTALL
    lock = threading.Lock()
    condition = threading.Condition()
    box = queue.Queue(3)
    def work(seed):
        for n in range(60 if not FULL else 2000):
            with lock:
                pass
            lock.acquire(timeout=0.001) and lock.release()
            with condition:
                condition.notify()
                condition.wait(0.0002)
            try:
                box.put_nowait(n) if seed % 2 else box.get_nowait()
            except (queue.Full, queue.Empty):
                pass
    run_all(*[lambda i=i: work(i) for i in range(4)])
    REMOVE
    assert seen["trace"] > 500
    row, = rows("lock")
    assert row.stats.acquisitions == 8 * (60 if not FULL else 2000) - row.stats.timeouts
    assert row.stats.waiters == 0
"""


@pytest.mark.parametrize("what", ["trace", "profile"])
def test_tracing_and_profiling_may_use_locks(what: str) -> None:
    install = f"threading.set{what}(trace); sys.set{what}(trace)"
    remove = f"threading.set{what}(None); sys.set{what}(None)"
    run(TRACED.replace("INSTALL", install).replace("REMOVE", remove))


def test_monitoring_tools_that_replace_every_instruction() -> None:
    """sys.monitoring instruments the bytecode that sites are named from, and that frames' offsets point into."""
    run("""
    if not hasattr(sys, "monitoring"):
        sys.exit()
    tool = sys.monitoring
    tool.use_tool_id(3, "abuse")
    calls = [0]
    def on_call(*args):
        calls[0] += 1
    for event in (tool.events.CALL, tool.events.LINE, tool.events.INSTRUCTION):
        tool.register_callback(3, event, on_call)
    tool.set_events(3, tool.events.CALL | tool.events.LINE | tool.events.INSTRUCTION)
    class Cache:
        def __init__(self):
            self.monitored = threading.Lock()
    def wait(cache):
        cache.monitored.acquire(timeout=0.001)
    for _ in range(50):
        cache = Cache()
        with cache.monitored:
            wait(cache)
    tool.set_events(3, 0)
    row, = [row for row in tracedthread.snapshot().locks if row.name == "Cache.monitored"]
    assert (row.stats.acquisitions, row.stats.timeouts) == (50, 50)
    assert row.waits[0].frame.function == "wait", row.waits
    assert calls[0] > 100
    """)


def test_deep_recursion() -> None:
    run("""
    lock = threading.Lock()
    rlock = threading.RLock()
    sys.setrecursionlimit(20000)
    threading.stack_size(256 << 20)
    def down(depth):
        if depth:
            with rlock:
                return down(depth - 1)
        assert not lock.acquire(timeout=0.001)
        made = threading.Lock()
        with made:
            return made
    def endless():
        with rlock:
            endless()
    def work():
        for depth in (1, 60, 63, 64, 65, 200, 5000):
            down(depth)
        try:
            endless()
        except RecursionError:
            pass
        assert rlock.acquire(False)
        rlock.release()
        assert not rlock._is_owned()
    lock.acquire()
    run_all(work)
    run_all(work)
    sys.setrecursionlimit(1000)
    for _ in range(3):
        try:
            endless()
        except RecursionError:
            pass
    assert not rlock._is_owned()
    found = rows()
    assert found["lock"].stats.timeouts == 14
    assert found["made"].stats.acquisitions == 14
    assert 2 < max(len(wait.stack) for wait in found["lock"].waits) <= 256
    """)


def test_generators_coroutines_and_classes_make_and_wait_for_locks() -> None:
    """Frames that are not plain functions' are walked as well."""
    run("""
    import asyncio, functools, contextlib
    held = threading.Lock()
    held.acquire()
    def expire():
        held.acquire(timeout=0.0001)
    def generator():
        made = threading.Lock()
        with made:
            expire()
            yield made
            expire()
    async def coroutine():
        made = asyncio.Lock(), threading.Lock()
        async with made[0]:
            with made[1]:
                expire()
                await asyncio.sleep(0)
                expire()
        return [await other() async for _ in agen()]
    async def other():
        expire()
    async def agen():
        for _ in range(3):
            with threading.RLock():
                expire()
                yield
    @contextlib.contextmanager
    def managed():
        expire()
        yield
        expire()
    class Meta(type):
        def __call__(cls, *args):
            expire()
            return super().__call__(*args)
    class Made(metaclass=Meta):
        lock = threading.Lock()
        expire()
        def __new__(cls):
            expire()
            return super().__new__(cls)
        def __init__(self):
            expire()
            self.lock = threading.Lock()
        def __getattr__(self, name):
            expire()
            return threading.Lock()
        def __lt__(self, other):
            expire()
            return False
    for _ in range(20):
        list(generator())
        asyncio.run(coroutine())
        with managed():
            expire()
        made = Made()
        made.missing.acquire()
        sorted([made, Made()])
        [expire() for _ in range(2)]
        list(map(lambda _: expire(), range(2)))
        functools.reduce(lambda a, b: expire(), range(3))
        exec("expire()")
        eval("expire()", {"expire": functools.partial(expire)})
        (lambda: expire())()
        max(range(3), key=lambda n: expire() or n)
    row, = rows("held")
    assert row.stats.timeouts == row.stats.contended == sum(wait.count for wait in row.waits)
    assert all(wait.frame.function == "expire" for wait in row.waits)
    assert all(wait.stack[-1].function == "<module>" for wait in row.waits)
    """)
