"""
Another tool has put a factory of its own around `threading.Lock`: its locks are recorded, or said not to be.
"""

from __future__ import annotations

import pytest
from own_interpreter import run

HEAD = """
import sys, threading, types, tracedthread

class Traced:
    "Somebody's own lock around a lock."
    def __init__(self, inner): self.inner = inner
    def acquire(self, *args): return self.inner.acquire(*args)
    def release(self): self.inner.release()
    __enter__ = acquire
    def __exit__(self, *_): self.release()

def wrapped():
    return [row for row in tracedthread.uncovered() if "wrapped" in row["what"]]

def ours(made):
    return type(made.inner).__module__ == "_thread" and type(made.inner) is not stock["type"]

stock = {"type": type(threading.Lock()), "factory": threading.Lock}    # not by name: names are exchanged
"""


def holds(program: str) -> None:
    run(program, head=HEAD)


def test_a_factory_kept_in_a_closure_is_said_not_to_be_covered() -> None:
    holds("""
    def wrap(original):
        def Lock(): return Traced(original())
        return Lock
    threading.Lock = wrap(threading.Lock)
    assert tracedthread.patch()
    assert not ours(threading.Lock())
    row = {"what": "locks made by factories that another tool has wrapped", "count": 0, "where": ["threading.Lock"]}
    assert wrapped() == [row]
    assert row in tracedthread.snapshot().to_dict()["uncovered"]
    """)


def test_a_factory_kept_in_an_instance_of_a_class_is_said_not_to_be_covered() -> None:
    holds("""
    class Factory:
        def __init__(self, original): self.original = original
        def __call__(self): return Traced(self.original())
        def __getattribute__(self, name):
            if name == "original": return object.__getattribute__(self, name)
            raise SystemExit("ran " + name)
    threading.Lock = Factory(threading.Lock)
    assert tracedthread.patch()
    assert [row["where"] for row in wrapped()] == [["threading.Lock"]]
    assert not ours(threading.Lock())
    """)


@pytest.mark.parametrize(("kept", "where"), [("_thread.RLock", [["threading.RLock"]]), ("threading.RLock", [])])
def test_threadings_rlock_looks_up_what_it_makes_and_the_type_itself_does_not(
    kept: str, where: list[list[str]]
) -> None:
    holds(f"""
    import _thread
    def wrap(original):
        def RLock(): return Traced(original())
        return RLock
    threading.RLock = wrap({kept})
    assert tracedthread.patch()
    assert [row["where"] for row in wrapped()] == {where}
    assert isinstance(threading.RLock().inner, _thread.RLock) == (not {where})
    """)


def test_a_factory_kept_by_name_is_exchanged_and_covered() -> None:
    holds("""
    original = threading.Lock
    def Lock(): return Traced(original())
    threading.Lock = Lock
    assert tracedthread.patch()
    assert ours(threading.Lock()) and wrapped() == []
    assert tracedthread.unpatch()
    assert type(threading.Lock().inner) is stock["type"]
    """)


def test_what_wraps_ours_is_covered() -> None:
    holds("""
    assert tracedthread.patch()
    def wrap(original):
        return lambda: Traced(original())
    threading.Lock = wrap(threading.Lock)
    assert tracedthread.patch() and wrapped() == []
    assert ours(threading.Lock())
    """)


DDTRACE = """
class Wrapper:
    def __init__(self, make): self.make = make
    def __call__(self): return self.make()

class LockCollector:
    "What ddtrace's is since 3.0, as far as it wraps."
    def unpatch(self):
        {unpatch}
        threading.Lock = self.original
    def patch(self):
        {patch}
        original = self.original = threading.Lock
        def make():
            self.made = True
            return Traced(original())
        threading.Lock = Wrapper(make)

theirs = types.ModuleType("ddtrace.profiling.collector._lock")
theirs.LockCollector = LockCollector
Wrapper.__module__ = theirs.__name__
sys.modules[theirs.__name__] = theirs
collector = LockCollector()
LockCollector.fails = False
collector.patch()
other = types.ModuleType("other")
other.Lock = threading.Lock
sys.modules["other"] = other
LockCollector.fails = True
"""
FAILS = "if self.fails: raise RuntimeError('a release that nobody knows')"


def test_ddtraces_collector_wraps_what_we_exchange_and_nothing_is_left_of_us() -> None:
    holds(
        DDTRACE.format(unpatch="pass", patch="pass")
        + """
for _ in range(2):
    assert tracedthread.patch() and wrapped() == []
    assert ours(threading.Lock()) and ours(other.Lock())
    assert other.Lock is threading.Lock and type(threading.Lock) is Wrapper
    assert tracedthread.unpatch()
    assert type(threading.Lock().inner) is type(other.Lock().inner) is stock["type"]
collector.unpatch()
assert threading.Lock is stock["factory"]
"""
    )


def test_ddtraces_collector_stops_while_patched() -> None:
    holds(
        DDTRACE.format(unpatch="pass", patch="pass")
        + """
assert tracedthread.patch()
collector.unpatch()
assert type(threading.Lock()) is not stock["type"]
assert tracedthread.unpatch()
assert threading.Lock is stock["factory"]
"""
    )


@pytest.mark.parametrize(("unpatch", "patch"), [(FAILS, "pass"), ("pass", FAILS)], ids=["unpatch", "patch"])
def test_a_collector_that_fails_stays_as_it_was_and_that_is_said(unpatch: str, patch: str) -> None:
    holds(
        DDTRACE.format(unpatch=unpatch, patch=patch)
        + """
assert tracedthread.patch()
assert threading.Lock is other.Lock and type(threading.Lock) is Wrapper
with threading.Lock(): pass
assert collector.made
assert [row["where"] for row in wrapped()] == [["threading.Lock"]]
assert tracedthread.unpatch()
with threading.Lock(): pass
"""
    )


def test_what_another_has_put_around_ddtraces_wrapper_stays() -> None:
    holds(
        DDTRACE.format(unpatch="pass", patch="pass")
        + """
def wrap(original):
    return lambda: Traced(original())
outer = threading.Lock = wrap(threading.Lock)
assert tracedthread.patch()
assert threading.Lock is outer
assert [row["where"] for row in wrapped()] == [["threading.Lock"]]
"""
    )


DDTRACE_IN_PYTHON = """
import queue, time
source = '''
class ProfiledLock:
    __slots__ = ("__wrapped__",)
    def __init__(self, wrapped): self.__wrapped__ = wrapped
    def __getattr__(self, name): return getattr(self.__wrapped__, name)
    def acquire(self, *args): return self._acquire(self.__wrapped__.acquire, *args)
    def _acquire(self, acquire, *args): return acquire(*args)
    def release(self): return self.__wrapped__.release()
    def __enter__(self): return self._acquire(self.__wrapped__.__enter__)
    def __exit__(self, *args): return self.__wrapped__.__exit__(*args)
class Wrapper:
    def __init__(self, original): self.original = original
    def __call__(self): return self.make()
    def make(self):
        inner = self.original()
        return ProfiledLock(inner)
'''
theirs = {"__name__": "ddtrace.profiling.collector._lock"}
exec(compile(source, "/somewhere/ddtrace/profiling/collector/_lock.py", "exec"), theirs)
"""


def test_what_ddtraces_python_code_does_its_caller_does() -> None:
    """Its releases before the compiled ones: all locks would be made, waited for and released in one place."""
    holds(
        DDTRACE_IN_PYTHON
        + """
assert tracedthread.patch(event_threshold_ms=0)
threading.Lock = theirs["Wrapper"](threading.Lock)
class Shop:
    def __init__(self):
        self.till = threading.Lock()
        self.jobs = queue.Queue()
        self.opened = threading.Condition(threading.Lock())
shop = Shop()
def buy():
    with shop.till: pass
def serve():
    with shop.till:
        customer = threading.Thread(target=buy)
        customer.start()
        customer.join(0.05)
    customer.join()
for _ in range(20):
    serve()
customer = threading.Thread(target=lambda: shop.jobs.get())
customer.start()
time.sleep(0.01)
shop.jobs.put(1)
customer.join()
with shop.opened:
    shop.opened.notify_all()    # which tries the lock, to see whether it is held
profile = tracedthread.snapshot()
rows = {row.name: row for row in profile.locks}
assert {"Shop.till", "Shop.jobs.mutex"} <= set(rows), list(rows)
assert not [row for row in rows.values() if "ddtrace" in row.created.path]
assert not any(row.stats.failed_tries for row in rows.values())
till = rows["Shop.till"]
assert till.stats.contended
assert {cell.stack[0].function for cell in till.waits} == {"buy"}
assert [row.lock for row in profile.idle if row.kind == "queue.get"] == ["Shop.jobs.mutex"]
assert "serve" in {cell.stack[0].function for cell in till.blame}
"""
    )
