"""
`tracedthread._thread` against the interpreter's own `_thread`: one table of programs, run on both, same outcome.

`TRACEDTHREAD_TEST_MODULE=_thread` compares the stock module with itself, to test these tests.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import importlib
import inspect
import os
import pickle
import queue
import re
import signal
import subprocess
import sys
import textwrap
import time
import types
import weakref
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tracedthread._original import originals

ROOT = Path(__file__).resolve().parents[2]
MODULE_NAME = os.environ.get("TRACEDTHREAD_TEST_MODULE", "tracedthread._thread")
OURS = importlib.import_module(MODULE_NAME)
STOCK: Any = types.ModuleType("_thread")
vars(STOCK).update(vars(originals))
BOTH = [pytest.param(STOCK, id="stock"), pytest.param(OURS, id="ours")]

NAMES = sorted(name for name in vars(STOCK) if not name.startswith("__"))
RECORDED = [
    name
    for name in (
        "LockType",
        "lock",
        "RLock",
        "allocate_lock",
        "allocate",
        "start_new_thread",
        "start_new",
        "start_joinable_thread",
        "_ThreadHandle",
        "_make_thread_handle",
        "_shutdown",
        "_set_sentinel",
        "set_name",
    )
    if name in NAMES
]
PASSED_THROUGH = [name for name in NAMES if name not in RECORDED]
TYPES = [name for name in ("LockType", "RLock", "_ThreadHandle") if name in NAMES]
METHODS = [f"{kind}.{name}" for kind in TYPES for name in sorted(vars(getattr(STOCK, kind))) if name != "__module__"]


class Index:
    """Has `__index__`, and nothing else that a number has."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Refuses:
    """Raises whatever it is asked to be."""

    def __bool__(self) -> bool:
        raise ZeroDivisionError("no truth")

    def __index__(self) -> int:
        raise ZeroDivisionError("no index")

    def __float__(self) -> float:
        raise ZeroDivisionError("no float")


class Text(str):
    """A keyword that is a str, but not exactly."""


def wait_until(true: Callable[[], bool]) -> None:
    """Poll; gives up, and fails, after half a minute."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def tasks() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def in_thread(function: Callable[[], Any]) -> Any:
    """Run in a stock thread that is gone afterwards; give the function's result, or raise what it raised."""
    results: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
    before = tasks()

    def run() -> None:
        try:
            results.put((True, function()))
        except BaseException as exc:
            results.put((False, exc))

    STOCK.start_new_thread(run, ())
    good, value = results.get(timeout=30)
    wait_until(lambda: tasks() <= before)
    if good:
        return value
    raise value


def normalised(text: str, idents: dict[int, str]) -> str:
    for ident, name in idents.items():
        text = text.replace(str(ident), name)
    text = text.replace("module 'tracedthread._thread' has no", "module '_thread' has no")
    if sys.version_info < (3, 11):
        # Ours is FASTCALL, for the tuple of the stock VARARGS costs 10 ns a `with`; 3.10 words this one error by convention.
        text = re.sub(r"^R?[Ll]ock\.__exit__\(\) takes no keyword", "__exit__() takes no keyword", text)
    text = re.sub(r"ident=\d+", "ident=N", text)
    text = re.sub(r"owner=\d+", "owner=N", text)
    return re.sub(r"0x[0-9a-f]+", "0x", text)


def outcomes(module: Any, program: str) -> list[Any]:
    """What each step of a program gives: steps are separated by ` | `; those that begin with `other:` run in another thread."""
    idents = {STOCK.get_ident(): "ME"}
    space = {
        "m": module,
        "lock": module.allocate_lock(),
        "rlock": module.RLock(),
        "me": STOCK.get_ident(),
        "nop": lambda *args, **kwargs: None,
        "copy": copy,
        "gc": gc,
        "pickle": pickle,
        "weakref": weakref,
        "inspect": inspect,
        "Index": Index,
        "Fraction": Fraction,
        "Refuses": Refuses,
        "Text": Text,
        "nan": float("nan"),
        "inf": float("inf"),
    }

    def elsewhere(source: str) -> Any:
        idents.setdefault(STOCK.get_ident(), "OTHER")  # the next such thread may get another one
        return eval(source, space)

    def step(source: str) -> Any:
        try:
            if source.startswith("other:"):
                value = in_thread(lambda: elsewhere(source[6:].strip()))
            elif source.startswith("do:"):
                exec(source[3:].strip(), space)
                value = None
            else:
                value = eval(source, space)
        except BaseException as exc:
            return ("raises", type(exc), normalised(str(exc), idents), type(exc.__cause__), type(exc.__context__))
        space["last"] = value
        return ("gives", type(value).__name__, normalised(repr(value), idents))

    results = [step(source.strip()) for source in program.split(" | ")]
    state = [normalised(repr(space[name]), idents) for name in ("lock", "rlock")]
    space.clear()
    return [*results, state]


def check(program: str) -> list[Any]:
    expected = outcomes(STOCK, program)
    assert outcomes(OURS, program) == expected
    return expected


# ---- names ----------------------------------------------------------------------------------------------------------


def test_the_names_are_those_of_the_stock_module() -> None:
    stock = importlib.import_module("_thread")
    assert [name for name in dir(OURS) if not name.startswith("__")] == [
        name for name in dir(stock) if not name.startswith("__")
    ]
    assert sorted(name for name in dir(stock) if not name.startswith("__")) == NAMES
    assert OURS.__doc__ == stock.__doc__


def test_a_star_import_gives_the_same_names() -> None:
    ours: dict[str, Any] = {}
    stock: dict[str, Any] = {}
    exec(f"from {MODULE_NAME} import *", ours)
    exec("from _thread import *", stock)
    assert set(ours) == set(stock)


@pytest.mark.parametrize("name", PASSED_THROUGH)
def test_what_is_not_recorded_is_the_stock_object(name: str) -> None:
    assert getattr(OURS, name) is getattr(STOCK, name)


@pytest.mark.skipif(MODULE_NAME == "_thread", reason="nothing is ours")
@pytest.mark.parametrize("name", RECORDED)
def test_what_is_recorded_is_ours(name: str) -> None:
    assert getattr(OURS, name) is not getattr(STOCK, name)


def test_names_are_synonyms_where_they_are_in_the_stock_module() -> None:
    for left, right in combinations(RECORDED, 2):
        same = getattr(STOCK, left) is getattr(STOCK, right)
        assert (getattr(OURS, left) is getattr(OURS, right)) == same, (left, right)
        equal = getattr(STOCK, left) == getattr(STOCK, right)
        assert (getattr(OURS, left) == getattr(OURS, right)) == equal, (left, right)


def test_the_type_made_is_the_type_named() -> None:
    for make in ("allocate_lock", "allocate"):
        assert type(getattr(OURS, make)()) is OURS.LockType
    assert type(OURS.RLock()) is OURS.RLock


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize(
    "attribute", ["__doc__", "__text_signature__", "__module__", "__name__", "__qualname__", "__call__"]
)
def test_attributes_of_functions_and_types(name: str, attribute: str) -> None:
    theirs = check(f"type(m.{name}) | m.{name} | m.{name}.{attribute} | type(m.{name}.{attribute})")
    assert theirs[0][0] == "gives"


@pytest.mark.parametrize("name", RECORDED + METHODS)
def test_signature(name: str) -> None:
    check(
        f"inspect.signature(m.{name}) | inspect.getdoc(m.{name}) | inspect.isbuiltin(m.{name}) | inspect.isroutine(m.{name})"
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "attribute", ["__doc__", "__text_signature__", "__name__", "__qualname__", "__objclass__", "__module__"]
)
def test_attributes_of_methods(name: str, attribute: str) -> None:
    kind, method = name.split(".")
    bound = f"{'lock' if kind == 'LockType' else 'rlock'}.{method}"
    check(f"type(m.{name}) | m.{name} | m.{name}.{attribute} | {bound}.{attribute} | type({bound})")


@pytest.mark.parametrize("kind", TYPES)
def test_types_have_the_same_members_and_bases(kind: str) -> None:
    ours, stock = getattr(OURS, kind), getattr(STOCK, kind)
    assert sorted(set(vars(ours)) - {"__weaklistoffset__"}) == sorted(set(vars(stock)) - {"__weaklistoffset__"})
    assert set(dir(ours)) - {"__weaklistoffset__"} == set(dir(stock)) - {"__weaklistoffset__"}
    assert ours.__mro__ == (ours, object)
    assert ours.__bases__ == stock.__bases__
    assert ours.__dictoffset__ == stock.__dictoffset__ == 0
    assert ours.__itemsize__ == stock.__itemsize__
    assert type(ours) is type(stock)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("flag", [7, 8, 9, 10, 20], ids=["no instances", "immutable", "heap", "base", "abstract"])
def test_types_have_the_same_flags(kind: str, flag: int) -> None:
    ours, stock = getattr(OURS, kind), getattr(STOCK, kind)
    assert ours.__flags__ >> flag & 1 == stock.__flags__ >> flag & 1


# ---- acquire: every argument ----------------------------------------------------------------------------------------

# On a held lock these come back soon.
SHORT_ARGUMENTS = """
False; 0; 0.0; ''; [] ; None; False, -1; False, -1.0; 0, -1; blocking=False; blocking=0; blocking=False, timeout=-1
timeout=0; timeout=0.0; timeout=-0.0; timeout=0.001; True, 0; True, 0.0; True, 0.001; 1, 0.001; True, False; 2, 0
True, 1e-9; True, 1e-300; True, Index(0); True, Fraction(1, 1000); blocking=True, timeout=0.001; timeout=0, blocking=1
False, 0; False, 1; False, -2; False, nan; False, inf; False, None; False, 'x'; 0, timeout=0.5; timeout=1, blocking=False
True, -2; True, -0.5; True, -1e-300; True, -1e100; True, nan; True, inf; True, -inf; True, 1e100; True, m.TIMEOUT_MAX + 1
True, m.TIMEOUT_MAX * 2; True, 1e10; True, 9223372037; True, 2**62; True, 2**63; True, 2**64; True, 2**200; True, -2**200
True, None; True, '1'; True, b'1'; True, 1j; True, []; True, object(); True, Refuses(); Refuses(); Refuses(), 0; 2.5, 0; 'x', 0
b'', 0; (), 0; None, 0; 2**31, 0; -2**31 - 1, 0; 2**80, 0; -2**80, 0; Index(1), 0; Index(0), 0; Index(2**40), 0; object(), 0
1, 2, 3; 1, 0, 3; *range(5); foo=1; True, foo=1; True, 0, foo=1; blocking=1, foo=1; timeout=0, foo=1; True, blocking=True
True, 0, timeout=0; True, 0, blocking=True; True, 0, blocking=True, timeout=0; **{'': 1}; **{'Blocking': 0}; **{'blocking ': 0}
**{Text('blocking'): False}; **{Text('timeout'): 0}; **{1: 2}; **{'timeout': -1, 'blocking': 0}; *[False]; *(), **{'timeout': 0}
blocking=None; blocking='', timeout=-1; timeout=None; timeout='0'; timeout=Index(0); timeout=True, blocking=False
"""
# On a held lock these wait for ever; a free one is had at once.
LONG_ARGUMENTS = """
 ; True; 1; 2; -1; True, -1; True, -1.0; 1, -1; timeout=-1; timeout=-1.0; blocking=True; blocking=1, timeout=-1; True, True
True, m.TIMEOUT_MAX; True, 9223372036; True, 1e9; timeout=m.TIMEOUT_MAX; 'x'; 2.5; [1]; object(); b'x'; 1j; 2**31; 2**31 - 1
-2**31; -2**31 - 1; 2**80; -2**80; Index(1); Index(5), -1; nan; inf; True, Index(-1); True, Fraction(-1); blocking='no'
timeout=Index(-1); Index(0); **{Text('timeout'): -1}; **{Text('blocking'): True}
"""


def table(text: str) -> list[str]:
    return [cell.strip() for line in text.splitlines() if line.strip() or line == " " for cell in line.split(";")]


@pytest.mark.parametrize("arguments", table(SHORT_ARGUMENTS + LONG_ARGUMENTS))
def test_acquire_of_a_free_lock(arguments: str) -> None:
    check(f"lock.acquire({arguments}) | lock.locked() | lock.acquire(False) | lock.release()")
    check(f"lock.acquire_lock({arguments}) | lock.locked_lock() | lock.release_lock()")
    check(f"rlock.acquire({arguments}) | rlock._is_owned() | rlock.release()")
    check(f"rlock.acquire() | rlock.acquire({arguments}) | rlock.release() | rlock._is_owned() | rlock.release()")
    check(f"lock.__enter__({arguments}) | lock.locked()")
    check(f"rlock.__enter__({arguments}) | rlock._is_owned()")


@pytest.mark.parametrize("arguments", table(SHORT_ARGUMENTS))
def test_acquire_of_a_held_lock(arguments: str) -> None:
    check(f"lock.acquire() | lock.acquire({arguments}) | lock.locked() | lock.release() | lock.locked()")
    check(f"lock.acquire() | lock.acquire_lock({arguments}) | lock.locked()")
    check(f"lock.acquire() | other: lock.acquire({arguments}) | lock.locked()")
    check(f"rlock.acquire() | other: rlock.acquire({arguments}) | rlock._is_owned() | rlock.release()")
    check(f"other: rlock.acquire() | rlock.acquire({arguments}) | rlock._is_owned()")


# ---- everything else of locks ---------------------------------------------------------------------------------------

ANY_ARGUMENTS = [
    "",
    "1",
    "None",
    "None, None",
    "None, None, None",
    "1, 2, 3",
    "1, 2, 3, 4",
    "a=1",
    "1, a=1",
    "*range(9)",
]
NO_ARGUMENT_METHODS = [
    name for name in METHODS if name.split(".")[1] not in ("__doc__", "__new__", "__enter__", "acquire", "acquire_lock")
]


@pytest.mark.parametrize("arguments", ANY_ARGUMENTS)
@pytest.mark.parametrize("name", NO_ARGUMENT_METHODS)
def test_methods_with_any_arguments(name: str, arguments: str) -> None:
    kind, method = name.split(".")
    this = "lock" if kind == "LockType" else "rlock"
    check(f"{this}.{method}({arguments})")
    check(f"{this}.acquire() | {this}.{method}({arguments}) | {this}.acquire(False)")
    check(f"{this}.acquire() | other: {this}.{method}({arguments}) | {this}.acquire(False)")
    check(
        f"m.{name}({arguments}) | m.{name}({this}) | m.{name}(m.{kind}) | m.{name}(lock, {arguments}) | m.{name}(rlock, {arguments})"
    )


PROGRAMS = """
lock | lock.acquire() | lock | repr(lock) | str(lock) | format(lock) | format(lock, 'x') | ascii(lock) | lock.release() | lock
rlock | rlock.acquire() | rlock | rlock.acquire() | rlock | str(rlock) | rlock.release() | rlock.release() | rlock
rlock.acquire() | other: rlock | other: repr(rlock)
other: lock.acquire() | lock.locked() | lock.release() | lock.locked() | lock.release()
other: rlock.acquire() | rlock.release() | rlock._release_save() | rlock | rlock._is_owned()
lock.release() | lock.release_lock() | lock.acquire() | lock.release() | lock.release()
rlock.release() | rlock.acquire() | rlock.release() | rlock.release()
rlock._release_save() | rlock.acquire() | rlock.acquire() | rlock._release_save()[0] | rlock | rlock._acquire_restore((2, me)) | rlock
rlock.acquire() | rlock._release_save() == (1, me) | rlock._is_owned() | rlock.acquire() | rlock._release_save() == (1, me)
rlock._recursion_count() | rlock.acquire() | rlock.acquire() | rlock._recursion_count() | other: rlock._recursion_count()
rlock.locked() | rlock.acquire() | rlock.locked() | other: rlock.locked() | rlock.release() | rlock.locked()
rlock._is_owned() | rlock.acquire() | rlock._is_owned() | other: rlock._is_owned() | rlock.release() | rlock._is_owned()
rlock._acquire_restore((1, me)) | rlock.release() | rlock.release()
rlock._acquire_restore((3, me)) | rlock | rlock.release() | rlock.release() | rlock.release() | rlock.release()
rlock._acquire_restore((1, 12345)) | rlock | rlock._is_owned() | rlock.release() | rlock._at_fork_reinit() | rlock
rlock._acquire_restore((0, me)) | rlock | rlock._is_owned() | rlock.release() | rlock._at_fork_reinit() | rlock.acquire() | rlock
rlock._acquire_restore((0, 0)) | rlock | rlock.release() | rlock._at_fork_reinit() | rlock.acquire() | rlock
rlock._acquire_restore() | rlock._acquire_restore(1) | rlock._acquire_restore(None) | rlock._acquire_restore(()) | rlock
rlock._acquire_restore((1,)) | rlock._at_fork_reinit() | rlock._acquire_restore((1, 2, 3)) | rlock._acquire_restore([1, me]) | rlock._acquire_restore(1, me) | rlock
rlock._acquire_restore(('a', me)) | rlock._at_fork_reinit() | rlock._acquire_restore((1, 'a')) | rlock._at_fork_reinit() | rlock._acquire_restore((1.5, me)) | rlock
rlock._acquire_restore((1, None)) | rlock._at_fork_reinit() | rlock._acquire_restore((2**64, me)) | rlock._at_fork_reinit() | rlock._acquire_restore((1, 2**70)) | rlock
rlock._acquire_restore((-1, me)) | rlock | rlock._at_fork_reinit()
rlock._acquire_restore((1, -1)) | rlock | rlock._at_fork_reinit()
rlock._acquire_restore((Index(1), Index(me))) | rlock | rlock._at_fork_reinit()
rlock._acquire_restore((2**63 - 1, me)) | rlock | rlock._at_fork_reinit()
rlock._acquire_restore((2**64 - 2, me)) | rlock.acquire() | rlock.acquire() | rlock.acquire(False) | rlock.__enter__() | rlock
rlock._acquire_restore((2**64 - 1, me)) | rlock.acquire() | rlock.acquire(timeout=1) | rlock.release() | rlock.acquire() | rlock
rlock._acquire_restore(a=1) | rlock._release_save(1) | rlock._is_owned(1) | rlock.release(1) | rlock.release(a=1)
lock._at_fork_reinit() | lock.acquire() | lock._at_fork_reinit() | lock | lock.acquire(False) | lock.release() | lock.release()
lock.acquire() | other: lock._at_fork_reinit() | lock | lock.acquire(False)
rlock._at_fork_reinit() | rlock.acquire() | rlock.acquire() | rlock._at_fork_reinit() | rlock | rlock.release() | rlock.acquire()
rlock.acquire() | other: rlock._at_fork_reinit() | rlock._is_owned() | other: rlock.acquire(False) | rlock._is_owned()
lock.__enter__() | lock.__exit__(None, None, None) | lock.__exit__(None, None, None) | lock.__exit__(1, 2, 3)
rlock.__enter__() | rlock.__enter__() | rlock.__exit__(None, None, None) | rlock.__exit__(None, None, None) | rlock.__exit__(1, 2, 3)
lock.__enter__(blocking=True) | lock.__enter__(False) | lock.__enter__(timeout=0)
rlock.__enter__(blocking=True) | rlock.__enter__(False) | rlock.__enter__(timeout=0) | rlock
do: with lock as x: pass | x | do: with rlock as y, rlock as z: held = repr(rlock) | y | z | held
do: with lock: 1 / 0 | lock | do: with rlock: 1 / 0 | rlock
do: with lock: lock.release() | lock | do: with rlock: rlock.release() | rlock
m.LockType() | m.LockType(1) | m.LockType(a=1) | m.LockType(*range(3)) | type(lock)()
m.LockType.__new__(m.LockType) | m.LockType.__new__() | m.LockType.__new__(int) | m.LockType.__new__(m.LockType, 1)
object.__new__(m.LockType) | object.__new__(m.RLock) | object.__init__(lock) | object.__init__(lock, 1)
lock.__init__() | lock.__init__(1) | rlock.__init__() | rlock.__init__(1) | rlock.__init__(a=1)
m.RLock() | m.RLock(1) | m.RLock(a=1) | m.RLock(1, 2, b=3) | m.RLock.__new__(m.RLock) | m.RLock.__new__(m.RLock, 1) | m.RLock.__new__(int)
m.allocate_lock(1) | m.allocate_lock(a=1) | m.allocate(1) | m.allocate(1, 2) | m.allocate() | m.allocate_lock()
m.LockType.acquire() | m.LockType.acquire(1) | m.LockType.acquire(object()) | m.LockType.acquire(rlock) | m.RLock.acquire(lock)
m.LockType.__repr__(1) | m.RLock.__repr__(lock) | m.LockType.__enter__() | m.RLock.__exit__(lock, 1, 2, 3)
lock.foo | lock.foo = 1 | do: lock.foo = 1 | do: del lock.acquire | do: lock.acquire = 1 | lock.__dict__ | vars(lock)
rlock.foo | do: rlock.foo = 1 | do: del rlock.acquire | do: rlock.release = 1 | rlock.__dict__ | vars(rlock)
do: lock.__class__ = int | do: lock.__class__ = m.RLock | do: rlock.__class__ = m.LockType | do: lock.__doc__ = 1 | do: del lock.__doc__
do: m.LockType.foo = 1 | do: m.LockType.acquire = None | do: del m.LockType.acquire | do: m.LockType.__doc__ = '' | do: m.LockType.__name__ = 'x'
do: m.RLock.foo = 1; del m.RLock.foo | do: m.LockType.__module__ = 'x' | do: m.LockType.__qualname__ = 'x' | do: m.LockType.__bases__ = ()
do: class L(m.LockType): pass | type('L', (m.LockType,), {}) | do: class L(m.RLock, m.LockType): pass
do: class L(m.RLock, dict): pass | do: class L(m.RLock, Exception): pass | do: class L(int, m.RLock): pass
isinstance(lock, m.LockType) | isinstance(rlock, m.RLock) | isinstance(rlock, m.LockType) | issubclass(m.RLock, m.LockType)
lock == lock | lock != lock | lock == m.allocate_lock() | lock == 1 | hash(lock) == hash(lock) | hash(lock) == object.__hash__(lock)
lock < lock | lock <= 1 | lock + 1 | len(lock) | lock[0] | lock() | iter(lock) | -lock | int(lock) | lock in lock
rlock == rlock | rlock == m.RLock() | hash(rlock) == object.__hash__(rlock) | rlock < rlock | len(rlock) | rlock() | iter(rlock)
bool(lock) | bool(rlock) | lock.acquire() | bool(lock) | len({lock, rlock, lock}) | {lock: 1}[lock] | [lock].index(lock)
copy.copy(lock) | copy.deepcopy(lock) | copy.copy(rlock) | copy.deepcopy(rlock) | copy.deepcopy([lock]) | copy.deepcopy({'a': rlock})
lock.__reduce__() | lock.__reduce_ex__(2) | lock.__reduce_ex__(4) | lock.__getstate__() | rlock.__reduce__() | rlock.__reduce_ex__(2) | rlock.__getstate__()
[pickle.dumps(lock, n) for n in (0,)] | pickle.dumps(lock, 1) | pickle.dumps(lock, 2) | pickle.dumps(lock, 5) | pickle.dumps({'x': lock})
pickle.dumps(rlock, 0) | pickle.dumps(rlock, 1) | pickle.dumps(rlock, 2) | pickle.dumps(rlock, 5)
weakref.ref(lock)() is lock | weakref.ref(rlock)() is rlock | weakref.getweakrefcount(lock) | weakref.proxy(lock).locked() | weakref.ref(m.LockType)() is m.LockType
do: seen = []; x = m.allocate_lock(); r = weakref.ref(x, seen.append); del x | r() | len(seen)
do: seen = []; x = m.RLock(); x.acquire(); r = weakref.ref(x, seen.append); del x | r() | len(seen)
do: x = m.allocate_lock(); x.acquire(); r = weakref.WeakKeyDictionary({x: 1}); del x | len(r)
lock.__sizeof__() > 0 | lock.__dir__() == dir(type(lock)) | set(dir(lock)) == set(dir(m.LockType)) | lock.__class__ is m.LockType
lock.acquire.__self__ is lock | lock.acquire == lock.acquire | lock.acquire is lock.acquire | lock.acquire.__name__ | repr(lock.acquire)
do: f = lock.acquire | f() | f(False) | do: g = lock.release; del lock | g() | g() | do: lock = None
do: class C: make = m.allocate_lock | C().make() | C.make() | C().make(1)
do: class C: make = m.LockType | C().make() | do: class D: make = m.RLock | D().make() | D.make()
do: class C: make = m.start_new_thread | C().make() | C().make(1, 2)
getattr(m.LockType, '__weaklistoffset__', 0) is None | m.LockType.__weakref__ | m.LockType.__dict__['foo']
m.LockType | m.RLock | repr(m.LockType) | m.LockType.__name__ | m.LockType.__qualname__ | m.LockType.__module__ | m.LockType.__text_signature__
m.RLock.__init_subclass__() | m.LockType.__subclasshook__(int) | m.LockType.__class_getitem__(1) | m.LockType[int] | m.LockType | None
"""


# Before 3.14 a thread that has the lock waits for itself.
if sys.version_info >= (3, 14):
    PROGRAMS += """
rlock.acquire() | rlock._acquire_restore((1, me)) | rlock | rlock.release() | rlock.release()
rlock.acquire() | rlock.acquire() | rlock._acquire_restore((5, me)) | rlock | rlock._release_save() == (5, me) | rlock
rlock.acquire() | rlock._acquire_restore((3, 12345)) | rlock | rlock._is_owned() | rlock.release()
rlock._acquire_restore((-5, me)) | rlock._release_save() == (-5, me) | rlock
rlock._acquire_restore((0, me)) | rlock.release() | rlock._release_save() == (-1, me) | rlock
"""


@pytest.mark.parametrize("program", [line for line in PROGRAMS.splitlines() if line])
def test_program(program: str) -> None:
    check(program)


@pytest.mark.parametrize("module", BOTH)
def test_the_table_of_programs_can_see_a_difference(module: Any) -> None:
    assert outcomes(module, "lock.acquire() | lock.release() | lock.release()")[2][1:3] == (
        RuntimeError,
        "release unlocked lock",
    )


def test_rlock_subclasses_take_what_stock_subclasses_take() -> None:
    source = """\
    class Named(m.RLock):
        count = 0
        def __init__(self, name, *, extra=None):
            self.name = name
            self.extra = extra
        def acquire(self, *args, **kwargs):
            type(self).count += 1
            return super().acquire(*args, **kwargs)
    class Slotted(m.RLock):
        __slots__ = ("a",)
    class Made(m.RLock):
        def __new__(cls, *args, **kwargs):
            return super().__new__(cls)
        def __init__(self, *args, **kwargs):
            pass
    """
    head = "do: " + "exec(" + repr(textwrap.dedent(source)) + ", globals())"
    check(
        f"{head} | Named('n') | Named('n', extra=2).extra | Named() | Named(1, 2) | Slotted() | Slotted(1) | Slotted(a=1)"
    )
    check(
        f"{head} | do: n = Named('n') | n.acquire() | n.__enter__() | n | Named.count | n.release() | n._release_save() | n | vars(n)"
    )
    check(
        f"{head} | do: s = Slotted(); s.a = 5 | s.a | do: s.b = 1 | s.acquire() | s | do: n = Named('x'); n.__class__ = Made | n.acquire()"
    )
    check(
        f"{head} | Made(1, 2, c=3) | Named.__mro__[1:] == (m.RLock, object) | weakref.ref(Named('x')) is None | copy.copy(Named('x'))"
    )
    check(
        f"{head} | pickle.dumps(Named('x')) | copy.copy(Slotted()) | do: with Named('x') as x: pass | x | Named.count"
    )


@pytest.mark.parametrize("module", BOTH)
def test_cycles_through_subclasses_are_collected(module: Any) -> None:
    class Cyclic(module.RLock):  # type: ignore[misc]
        pass

    instance = Cyclic()
    instance.me = instance
    instance.acquire()
    dead = weakref.ref(instance)
    del instance
    gc.collect()
    assert dead() is None
    dead_type = weakref.ref(Cyclic)
    del Cyclic
    gc.collect()
    assert dead_type() is None


@pytest.mark.parametrize("module", BOTH)
def test_locks_die_held_and_waited_on(module: Any) -> None:
    for make in (module.allocate_lock, module.RLock):
        for _ in range(1000):
            lock = make()
            lock.acquire()
            dead = weakref.ref(lock)
            del lock
            assert dead() is None


@pytest.mark.parametrize("module", BOTH)
def test_a_waiter_keeps_the_lock_alive(module: Any) -> None:
    lock = module.allocate_lock()
    lock.acquire()
    done: queue.SimpleQueue[bool] = queue.SimpleQueue()
    box = [lock]
    before = tasks()
    STOCK.start_new_thread(lambda: done.put(box.pop().acquire(True, 0.05)), ())
    dead = weakref.ref(lock)
    del lock
    assert done.get(timeout=30) is False
    wait_until(lambda: tasks() <= before)
    assert dead() is None


@pytest.mark.parametrize("module", BOTH)
@pytest.mark.parametrize("timeout", ["TIMEOUT_MAX", "TIMEOUT_MAX - 1", "2.0**31", "2.0**32 + 1", "4e9"])
def test_long_timeouts_wait(module: Any, timeout: str) -> None:
    seconds = eval(timeout, {"TIMEOUT_MAX": module.TIMEOUT_MAX})
    for lock in (module.allocate_lock(), module.RLock()):
        lock.acquire()
        got: queue.SimpleQueue[bool] = queue.SimpleQueue()

        def wait(lock: Any = lock, got: Any = got) -> None:
            got.put(lock.acquire(True, seconds))
            lock.release()

        before = tasks()
        STOCK.start_new_thread(wait, ())
        with pytest.raises(queue.Empty):
            got.get(timeout=0.03)
        lock.release()
        assert got.get(timeout=30) is True
        wait_until(lambda before=before: tasks() <= before)  # type: ignore[misc]


@pytest.mark.parametrize("module", BOTH)
def test_locks_work_in_finalizers(module: Any) -> None:
    log: list[str] = []

    class Owner:
        def __init__(self) -> None:
            self.lock = module.allocate_lock()
            self.rlock = module.RLock()
            self.me = self
            self.lock.acquire()

        def __del__(self) -> None:
            fresh = module.allocate_lock()
            with fresh, self.rlock, self.rlock:
                log.append(f"{self.lock.locked()} {self.lock.acquire(False)} {self.lock.acquire(True, 0.001)}")
            self.lock.release()
            log.append(f"{self.lock.locked()}")

    for _ in range(50):
        Owner()
    gc.collect()
    assert log == ["True False False", "False"] * 50


def test_locks_resurrected_by_a_finalizer_work() -> None:
    saved: list[Any] = []

    class Phoenix(OURS.RLock):  # type: ignore[misc,name-defined]
        def __del__(self) -> None:
            saved.append(self)

    Phoenix().acquire()
    gc.collect()
    (lock,) = saved
    assert lock._is_owned()
    lock.release()
    assert lock.acquire(False)


# ---- threads --------------------------------------------------------------------------------------------------------

START_PROGRAMS = """
m.start_new_thread() | m.start_new_thread(nop) | m.start_new_thread(nop, (), {}, 1) | m.start_new_thread(function=nop, args=())
m.start_new_thread(1, ()) | m.start_new_thread(None, ()) | m.start_new_thread(nop, []) | m.start_new_thread(nop, None) | m.start_new_thread(nop, 1)
m.start_new_thread(nop, (), None) | m.start_new_thread(nop, (), []) | m.start_new_thread(nop, (), 1) | m.start_new_thread(1, 1, 1)
m.start_new_thread(nop, 1, 1) | m.start_new_thread(nop, (), a=1) | m.start_new_thread(*range(9)) | m.start_new_thread(a=1)
m.start_new() | m.start_new(nop) | m.start_new(1, ()) | m.start_new(nop, []) | m.start_new(nop, (), None)
m.start_joinable_thread() | m.start_joinable_thread(1) | m.start_joinable_thread(nop, 1) | m.start_joinable_thread(nop, handle=1) | m.start_joinable_thread(None)
m.start_joinable_thread(nop, None, True, 4) | m.start_joinable_thread(nop, foo=1) | m.start_joinable_thread(function=1) | m.start_joinable_thread(nop, daemon=Refuses())
do: h = m._ThreadHandle() | m.start_joinable_thread(nop, h) is h | h.join() | h.is_done() | m.start_joinable_thread(nop, h) | m.start_joinable_thread(nop, handle=h)
do: h = m.start_joinable_thread(function=nop, handle=None, daemon=False) | type(h) is m._ThreadHandle | h.join() | h.join(1) | h.is_done() | h
do: h = m.start_joinable_thread(nop) | h.ident > 0 | h.join(timeout=5) | h.is_done() | m.start_joinable_thread(nop).join(-1)
m.stack_size() | m.stack_size(1) | m.stack_size(-1) | m.stack_size(32767) | m.stack_size('x') | m.stack_size(1.5) | m.stack_size(None) | m.stack_size()
m.stack_size(2**63) | m.stack_size(2**200) | m.stack_size(1, 2) | m.stack_size(size=0) | m.stack_size(-2**63) | m.stack_size()
m.stack_size(32768) | m.stack_size() | m.stack_size(262144) | m.stack_size(4095) | m.stack_size(0) | m.stack_size()
m.interrupt_main(-1) | m.interrupt_main(0) | m.interrupt_main(65) | m.interrupt_main(64) | m.interrupt_main('x') | m.interrupt_main(1, 2) | m.interrupt_main(signum=2)
m.interrupt_main(2**80) | m.interrupt_main(None) | m.interrupt_main(1.5) | m.interrupt_main(9) | m.interrupt_main(10) | m.interrupt_main(17)
m.exit() | m.exit(1) | m.exit(a=1) | m.exit_thread() | m.exit_thread(1) | m.exit(None)
m.get_ident() == me | m.get_ident(1) | m.get_native_id() > 0 | m.get_native_id(1) | m.TIMEOUT_MAX | m.error | m.error is RuntimeError | m._count(1)
"""


@pytest.mark.parametrize("program", [line for line in START_PROGRAMS.splitlines() if line])
def test_thread_program(program: str) -> None:
    if "start_joinable_thread" in program and not hasattr(STOCK, "start_joinable_thread"):
        program = "m.start_joinable_thread"
    check(program)


def unraised(module: Any, start: Callable[[Any], Any]) -> list[tuple[Any, ...]]:
    """What `sys.unraisablehook` gets while a thread runs."""
    seen: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    frames: list[list[str]] = []

    def hook(args: Any) -> None:
        frame, names = args.exc_traceback, []
        while frame is not None:
            names.append(f"{frame.tb_frame.f_code.co_name}:{frame.tb_lineno}")
            frame = frame.tb_next
        frames.append(names)
        seen.put((args.exc_type, str(args.exc_value), args.err_msg, args.object))

    old, sys.unraisablehook = sys.unraisablehook, hook
    try:
        before = tasks()
        start(module)
        wait_until(lambda: tasks() <= before)
    finally:
        sys.unraisablehook = old
    results = []
    while not seen.empty():
        exc_type, text, message, obj = seen.get()
        results.append((exc_type, text, message and normalised(message, {}), obj, frames.pop(0)))
    return results


def fails(*args: Any, **kwargs: Any) -> None:
    raise ValueError("on purpose")


def fails_deeper() -> None:
    fails()


def fails_with_exit() -> None:
    raise SystemExit(3)


class FailingCallable:
    def __repr__(self) -> str:
        return "<failing>"

    def __call__(self) -> None:
        fails()


CALLABLES: dict[str, Any] = {
    "function": fails,
    "deeper": fails_deeper,
    "exit": fails_with_exit,
    "instance": FailingCallable(),
    "method": FailingCallable().__call__,
    "builtin": int.from_bytes,
    "type": ctypes.c_int.from_buffer,
    "ok": lambda: None,
    "keyboard": lambda: signal.default_int_handler(2, None),
    "generator": lambda: next(iter(())),
}


@pytest.mark.parametrize("name", CALLABLES)
def test_uncaught_exceptions_reach_the_unraisablehook(name: str) -> None:
    function = CALLABLES[name]
    expected = unraised(STOCK, lambda m: m.start_new_thread(function, ()))
    assert len(expected) == (0 if name in ("exit", "ok") else 1)
    assert unraised(OURS, lambda m: m.start_new_thread(function, ())) == expected
    assert unraised(OURS, lambda m: m.start_new(function, ())) == expected


@pytest.mark.skipif(not hasattr(STOCK, "start_joinable_thread"), reason="3.13")
@pytest.mark.parametrize("name", CALLABLES)
def test_uncaught_exceptions_of_joinable_threads(name: str) -> None:
    function = CALLABLES[name]
    expected = unraised(STOCK, lambda m: m.start_joinable_thread(function).join())
    assert unraised(OURS, lambda m: m.start_joinable_thread(function).join()) == expected


@pytest.mark.parametrize("module", BOTH)
def test_arguments_and_ident_reach_the_thread(module: Any) -> None:
    got: queue.SimpleQueue[Any] = queue.SimpleQueue()
    arguments = {"b": 2}

    def run(*args: Any, **kwargs: Any) -> None:
        got.put((args, kwargs, STOCK.get_ident(), sys._getframe().f_back))

    ident = module.start_new_thread(run, (1, "a"), arguments)
    args, kwargs, inner, caller = got.get(timeout=30)
    assert (args, kwargs, inner, caller) == ((1, "a"), {"b": 2}, ident, None)
    assert kwargs is not arguments
    module.start_new_thread(run, (1, "a"))
    assert got.get(timeout=30)[:2] == ((1, "a"), {})


@pytest.mark.parametrize("module", BOTH)
def test_a_thread_drops_its_function_and_arguments_at_its_end(module: Any) -> None:
    class Job:
        def __call__(self, *args: Any, **kwargs: Any) -> None:
            pass

    job, argument, keyword = Job(), Job(), Job()
    dead = [weakref.ref(x) for x in (job, argument, keyword)]
    counts = [sys.getrefcount(x) for x in (job, argument, keyword)]
    before = tasks()
    module.start_new_thread(job, (argument,), {"key": keyword})
    wait_until(lambda: tasks() <= before)
    assert [sys.getrefcount(x) for x in (job, argument, keyword)] == counts
    del job, argument, keyword
    assert [ref() for ref in dead] == [None, None, None]


@pytest.mark.parametrize("module", BOTH)
def test_a_refused_start_leaks_nothing(module: Any) -> None:
    def job() -> None: ...

    arguments = (object(),)
    counts = sys.getrefcount(job), sys.getrefcount(arguments)
    for _ in range(100):
        for bad in ((job, [arguments]), (job, arguments, None), (None, arguments), (job, arguments, 1)):
            with pytest.raises(TypeError):
                module.start_new_thread(*bad)
    del bad
    assert (sys.getrefcount(job), sys.getrefcount(arguments)) == counts


@pytest.mark.parametrize("module", BOTH)
def test_count_counts_running_threads(module: Any) -> None:
    gate = STOCK.allocate_lock()
    gate.acquire()
    inside: queue.SimpleQueue[int] = queue.SimpleQueue()

    def run() -> None:
        inside.put(module._count())
        gate.acquire()
        gate.release()

    before = module._count()
    for n in range(5):
        module.start_new_thread(run, ())
        assert inside.get(timeout=30) == before + n + 1
    gate.release()
    wait_until(lambda: module._count() == before)


def own_stack_bytes() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    attr = ctypes.create_string_buffer(256)
    base, size = ctypes.c_void_p(), ctypes.c_size_t()
    libc.pthread_self.restype = ctypes.c_void_p
    assert libc.pthread_getattr_np(ctypes.c_void_p(libc.pthread_self()), attr) == 0
    assert libc.pthread_attr_getstack(attr, ctypes.byref(base), ctypes.byref(size)) == 0
    return size.value


@pytest.mark.parametrize("module", BOTH)
@pytest.mark.parametrize("setter", BOTH)
def test_threads_run_with_the_stack_asked_for(module: Any, setter: Any) -> None:
    got: queue.SimpleQueue[int] = queue.SimpleQueue()
    old = setter.stack_size()
    starts: list[Callable[[], Any]] = [lambda: module.start_new_thread(lambda: got.put(own_stack_bytes()), ())]
    if hasattr(module, "start_joinable_thread"):
        starts.append(lambda: module.start_joinable_thread(lambda: got.put(own_stack_bytes())))
    try:
        for size in (16 << 20, 48 << 20):  # more than the default: glibc hands out a cached, bigger stack too
            setter.stack_size(size)
            # Reading resets it: without an argument, 0 is used.
            for reader in (module, STOCK, OURS):
                assert reader.stack_size(size) == size
            for start in starts:
                start()
                assert size <= got.get(timeout=30)
    finally:
        setter.stack_size(old)


@pytest.mark.parametrize("module", BOTH)
def test_thread_locals_die_with_the_thread(module: Any) -> None:
    local = module._local()
    dead: list[Any] = []

    class Thing: ...

    def run() -> None:
        local.thing = Thing()
        dead.append(weakref.ref(local.thing))

    before = tasks()
    module.start_new_thread(run, ())
    wait_until(lambda: tasks() <= before)
    wait_until(lambda: dead[0]() is None)


AUDIT = """
import sys, importlib, os, re
m = importlib.import_module({name!r})
import _thread
log, refuse = [], set()
def hook(event, args):
    if event.startswith("_thread."):
        log.append((event, [a if isinstance(a, (int, dict, tuple, str)) else re.sub("0x[0-9a-f]+", "0x", repr(a)) for a in args]))
        log.append((args[0] == job, hash(args[0]) == hash(job), getattr(args[0], "__name__", None), callable(args[0])))
        if event in refuse:
            raise MemoryError("refused")
sys.addaudithook(hook)
def attempt(function, *args, **kwargs):
    before = set(os.listdir("/proc/self/task"))
    try:
        function(*args, **kwargs)
    except Exception as exc:
        log.append((type(exc).__name__, str(exc)))
    while not set(os.listdir("/proc/self/task")) <= before:
        pass
def job(*args, **kwargs):
    log.append("ran")
def all_of_them():
    attempt(m.start_new_thread, job, ())
    attempt(m.start_new_thread, job, (1,), {{"a": 2}})
    attempt(m.start_new, job, ())
    attempt(m.start_new_thread, job, [])
    attempt(m.start_new_thread, 1, ())
    if hasattr(m, "start_joinable_thread"):
        attempt(m.start_joinable_thread, job)
        attempt(m.start_joinable_thread, job, daemon=False)
        attempt(m.start_joinable_thread, job, handle=m._ThreadHandle(), daemon=7)
        attempt(m.start_joinable_thread, 3)
        attempt(m.start_joinable_thread, job, handle=5)
all_of_them()
refuse |= {{"_thread.start_new_thread", "_thread.start_joinable_thread"}}
all_of_them()
for line in log:
    print(line)
"""


AUDITED = ["(), 'None'", "(1,), {'a': 2}", "(), 'None'"]  # args and kwargs of its starts


def test_audit_events_are_raised_once_with_the_same_arguments() -> None:
    def run(name: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", AUDIT.format(name=name)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    expected = run("_thread")
    assert "ran" in expected
    if sys.version_info < (3, 12) and MODULE_NAME != "_thread":  # stock raises none yet; ours does, as from 3.12 on
        assert "_thread.start_new_thread" not in expected
        events = [f"('_thread.start_new_thread', ['<function job at 0x>', {args}])" for args in AUDITED]
        event_lines = [f"{event}\n(True, True, 'job', True)\n" for event in events]
        errors = "('TypeError', '2nd arg must be a tuple')\n('TypeError', 'first arg must be callable')\n"
        ran = "".join(lines + "ran\n" for lines in event_lines)
        refused = "".join(lines + "('MemoryError', 'refused')\n" for lines in event_lines)
        expected = ran + errors + refused + errors
    assert run(MODULE_NAME) == expected


def test_the_module_is_a_module() -> None:
    assert isinstance(OURS, types.ModuleType)
    assert all(isinstance(name, str) for name in vars(OURS))
