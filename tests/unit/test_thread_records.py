"""
What is on record about threads: who started them, where, when, what they cost and waited for, under their newest name.

Nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tracedthread
from tracedthread.rows import ThreadRow

ROOT = Path(__file__).resolve().parents[2]
HELPER = """
#include <pthread.h>
typedef int (*callback)(int);
static callback function;
static void *run(void *argument)
{
    for (int i = 0; i < (int)(long)argument; i++) function(i);
    return 0;
}
/* Calls `f` so many times in a thread of its own, and waits for its end. */
int in_pthread(callback f, int times)
{
    pthread_t thread;
    function = f;
    if (pthread_create(&thread, 0, run, (void *)(long)times)) return -1;
    return pthread_join(thread, 0);
}
"""


@pytest.fixture(autouse=True)
def recording() -> Iterator[None]:
    assert tracedthread.patch()
    yield
    tracedthread.unpatch()


def row(name: str) -> ThreadRow:
    (found,) = [row for row in tracedthread.snapshot().threads if row.name == name]
    return found


def rows(prefix: str) -> list[ThreadRow]:
    return [row for row in tracedthread.snapshot().threads if row.name.startswith(prefix)]


def program(code: str) -> Any:
    """What it prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


def test_where_by_whom_and_when_a_thread_was_started() -> None:
    gate = threading.Event()
    seen: dict[str, tuple[int, int]] = {}

    def inner() -> None:
        seen["inner"] = threading.get_ident(), threading.get_native_id()
        gate.wait()

    def outer() -> None:
        seen["outer"] = threading.get_ident(), threading.get_native_id()
        thread = threading.Thread(target=inner, name="records: inner")
        thread.start()
        thread.join()

    thread = threading.Thread(target=outer, name="records: outer")
    thread.start()
    while len(seen) < 2:
        time.sleep(0.001)
    alive = {name: row(f"records: {name}") for name in ("inner", "outer")}
    gate.set()
    thread.join()
    ended = {name: row(f"records: {name}") for name in ("inner", "outer")}
    for name in ("inner", "outer"):
        one, other = alive[name], ended[name]
        assert (one.ident, one.native_id) == (other.ident, other.native_id) == seen[name]
        assert one.alive
        assert not other.alive
        assert one.start_ticks == other.start_ticks
        assert one.latency_ticks == other.latency_ticks > 0
        assert 0 < one.lifetime_ticks < other.lifetime_ticks
        assert other.end_ticks > other.start_ticks + other.latency_ticks
        assert other.cpu_s > 0
        assert other.function.split(".")[-1] == name
        assert other.created.path == __file__
    assert ended["outer"].parent == "MainThread"
    assert ended["inner"].parent == "records: outer"
    assert [frame.function.split(".")[-1] for frame in ended["inner"].stack] == ["outer"]
    assert ended["outer"].created.function.endswith("test_where_by_whom_and_when_a_thread_was_started")
    assert ended["outer"].created.line + 1 == _line_of(
        test_where_by_whom_and_when_a_thread_was_started, "while len(seen)"
    )
    assert ended["inner"].started_ticks > ended["outer"].started_ticks
    assert ended["inner"].lifetime_ticks < ended["outer"].lifetime_ticks


def _line_of(function: Callable[[], Any], text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    first = function.__code__.co_firstlineno
    return next(n for n in range(first, len(lines)) if text in lines[n - 1])


def test_a_thread_started_without_threading_has_a_record() -> None:
    import _thread

    before = {row.key for row in tracedthread.snapshot().threads}
    done = threading.Event()

    def bare() -> None:
        done.set()

    ident = _thread.start_new_thread(bare, ())
    done.wait()
    (one,) = [row for row in tracedthread.snapshot().threads if row.ident == ident and row.key not in before]
    assert (one.name, one.function.split(".")[-1], one.parent) == ("", "bare", "MainThread")
    assert one.latency_ticks > 0


def test_the_processor_time_of_a_busy_thread_grows_while_it_lives() -> None:
    stop: list[bool] = []

    def spin() -> None:
        while not stop:
            pass

    thread = threading.Thread(target=spin, name="records: busy")
    thread.start()
    readings = [row("records: busy").cpu_ns]
    while len(readings) < 4:
        if (now := row("records: busy").cpu_ns) != readings[-1]:
            readings.append(now)
    stop.append(True)
    thread.join()
    assert sorted(readings) == readings
    assert row("records: busy").cpu_ns >= readings[-1] > 0


def test_names_follow_the_thread_whoever_gives_them() -> None:
    steps = [threading.Event() for _ in range(4)]
    at = threading.Barrier(2)

    def named() -> None:
        at.wait()
        steps[0].wait()
        threading.current_thread().name = "records: by itself"
        at.wait()
        steps[1].wait()
        at.wait()
        threading.current_thread().name = "records: last"

    thread = threading.Thread(target=named)
    thread.name = "records: before its start"
    thread.start()
    at.wait()
    row("records: before its start")
    steps[0].set()
    at.wait()
    row("records: by itself")
    thread.name = "records: by another"
    row("records: by another")
    steps[1].set()
    at.wait()
    thread.join()
    row("records: last")
    thread.name = "records: too late"
    assert rows("records: too late") == []
    for name in ("before its start", "by itself", "by another"):
        assert rows(f"records: {name}") == []


@pytest.mark.skipif(sys.version_info < (3, 14), reason="set_name came with 3.14")
def test_the_name_that_a_bare_thread_gives_itself() -> None:
    import _thread

    done = threading.Event()

    def named() -> None:
        _thread.set_name("records: bare")
        done.set()

    _thread.start_new_thread(named, ())
    done.wait()
    assert row("records: bare").function.endswith("named")


def test_what_a_thread_waits_for_is_in_its_row() -> None:
    busy = threading.Lock()
    gate = threading.Event()
    permits = threading.Semaphore(0)

    def waits() -> None:
        assert not busy.acquire(timeout=0.02)
        assert not gate.wait(0.03)
        assert not permits.acquire(timeout=0.04)

    with busy:
        thread = threading.Thread(target=waits, name="records: waits")
        thread.start()
        thread.join()
    one = row("records: waits")
    assert one.wait_s >= 0.02
    assert one.idle_s >= 0.03
    assert one.resource_s >= 0.04
    assert one.lifetime_s >= one.wait_s + one.idle_s + one.resource_s >= 0.09
    assert one.wait_count >= 1


@pytest.mark.parametrize("timeout", [None, 20, 0.01])
def test_joining_is_idle_waiting_of_kind_join(timeout: float | None) -> None:
    gate = threading.Event()

    def joins() -> None:
        held.join(timeout)

    def held_up() -> None:
        gate.wait(0.05 if timeout != 0.01 else None)

    with tracedthread.record() as rec:
        held = threading.Thread(target=held_up)
        joiner = threading.Thread(target=joins, name=f"records: joins {timeout}")
        held.start()
        joiner.start()
        joiner.join()
        gate.set()
        held.join()
    assert rec.profile is not None
    waits = [wait for wait in rec.profile.idle if any(frame.function.split(".")[-1] == "joins" for frame in wait.stack)]
    assert [wait.kind for wait in waits] == ["join"]
    assert waits[0].timeouts == (1 if timeout == 0.01 else 0)
    (one,) = [row for row in rec.profile.threads if row.name == f"records: joins {timeout}"]
    assert one.idle_ticks >= waits[0].wait_ticks > 0
    assert one.wait_ticks == 0
    assert one.wait_count == 0


def test_the_wait_at_the_end_of_the_program_is_a_join(tmp_path: Path) -> None:
    file = tmp_path / "app.ttc"
    code = f"""if True:
        import tracedthread, time
        assert tracedthread.patch(path={str(file)!r})
        import threading
        threading.Thread(target=time.sleep, args=(0.1,)).start()
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    from tracedthread.capture import Capture
    from tracedthread.profile import Profile

    profile = Profile.from_capture(Capture.open(file))
    # Thread.start itself waits for the event `_started`.
    assert [(wait.kind, wait.count) for wait in profile.idle if wait.kind != "event"] == [("join", 1)]
    (main,) = [row for row in profile.threads if row.name == "MainThread"]
    assert main.idle_s > 0
    assert main.wait_ticks == 0
    assert profile.to_dict()["totals"]["wait_s"] == 0


@pytest.fixture(scope="module")
def in_pthread(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[int], Any], int], None]:
    """Runs a function in a thread that Python knows nothing of."""
    folder = tmp_path_factory.mktemp("helper")
    (folder / "helper.c").write_text(HELPER)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-pthread", "-o", str(folder / "helper.so"), str(folder / "helper.c")], check=True
    )
    library = ctypes.CDLL(str(folder / "helper.so"))
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)

    def call(function: Callable[[int], Any], times: int) -> None:
        wrapped = kind(lambda n: int(function(n) is not None))
        assert library.in_pthread(wrapped, times) == 0

    return call


def test_a_thread_of_a_c_library_has_one_record_from_its_first_contact_to_its_end(in_pthread: Any) -> None:
    lock = threading.Lock()
    seen: set[tuple[int, int]] = set()
    before = {row.key for row in tracedthread.snapshot().threads}
    alive: list[ThreadRow] = []

    def contact(n: int) -> None:
        seen.add((threading.get_ident(), threading.get_native_id()))
        lock.acquire(timeout=0.001)
        if n == 2:
            alive.extend(row for row in tracedthread.snapshot().threads if row.key not in before)

    with lock:
        in_pthread(contact, 3)
    ((ident, native_id),) = seen
    (one,) = [row for row in tracedthread.snapshot().threads if row.key not in before]
    assert [row.key for row in alive] == [one.key]
    assert alive[0].alive
    assert not one.alive
    assert (one.ident, one.native_id) == (ident, native_id)
    assert (one.parent, one.stack, one.latency_ticks) == ("", (), 0)
    assert one.end_ticks > one.start_ticks
    assert one.cpu_s > 0
    assert one.wait_count == 3
    assert one.wait_s >= 0.003


def test_a_thread_that_a_c_librarys_thread_starts_has_it_for_a_parent(in_pthread: Any) -> None:
    def contact(n: int) -> None:
        threading.current_thread().name = "records: foreign"
        child = threading.Thread(target=int, name="records: child of a foreign one")
        child.start()
        child.join()
        tracedthread.snapshot()  # which brings names up to date

    in_pthread(contact, 1)
    assert row("records: child of a foreign one").parent == "records: foreign"
    assert not row("records: foreign").alive


def test_the_main_thread_has_a_record_from_the_start() -> None:
    result = program("""
        import tracedthread, json
        assert tracedthread.patch()
        import threading
        first = tracedthread.snapshot().threads
        threading.current_thread().name = "renamed"
        print(json.dumps([[r.to_dict() for r in first], [r.to_dict() for r in tracedthread.snapshot().threads],
                          threading.get_ident(), threading.get_native_id()]))
    """)
    (first,), (second,), ident, native_id = result
    assert first["name"] == "MainThread"
    assert second["name"] == "renamed"
    for one in (first, second):
        assert (one["ident"], one["native_id"], one["alive"], one["parent"]) == (ident, native_id, True, "")
        assert one["cpu_s"] > 0
    assert second["cpu_s"] >= first["cpu_s"]


def test_more_threads_than_records_and_exact_totals() -> None:
    result = program("""
        import tracedthread, json
        assert tracedthread.patch()
        import threading
        counted = threading.Lock()
        counted.acquire()
        def work():
            counted.acquire(timeout=1e-6)
        for _ in range(50):
            threads = [threading.Thread(target=work) for _ in range(100)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        print(json.dumps(tracedthread.snapshot().to_dict()))
    """)
    threads = result["threads"]
    (lock,) = [row for row in result["locks"] if row["name"].endswith("counted")]
    (other,) = [row for row in threads if row["name"] == "(other)"]
    assert lock["timeouts"] == 5000
    assert sum(row["threads"] for row in threads) == 5001
    assert other["threads"] == 5001 - (len(threads) - 1) > 0
    assert sum(row["waits"] for row in threads) == sum(row["contended"] for row in result["locks"]) >= 5000
    assert sum(row["wait_s"] for row in threads) == pytest.approx(result["totals"]["wait_s"], rel=1e-6)
    assert sum(row["idle_s"] for row in threads) == pytest.approx(
        sum(row["wait_s"] for row in result["idle"]), rel=1e-6
    )
    assert other["cpu_s"] > 0
    assert result["totals"]["lost"].get("threads", 0) == 0


def test_a_recording_counts_only_what_threads_did_in_it() -> None:
    held = threading.Lock()
    held.acquire()
    steps = [threading.Event() for _ in range(2)]
    at = threading.Barrier(2)

    def works() -> None:
        for step in steps:
            held.acquire(timeout=0.02)
            at.wait()
            step.wait()

    thread = threading.Thread(target=works, name="records: spans")
    thread.start()
    at.wait()
    with tracedthread.record() as rec:
        steps[0].set()
        at.wait()
    steps[1].set()
    thread.join()
    assert rec.profile is not None
    (one,) = [row for row in rec.profile.threads if row.name == "records: spans"]
    assert (one.wait_count, one.threads, one.alive) == (1, 1, True)
    assert row("records: spans").wait_count == 2


def test_nothing_is_recorded_while_paused() -> None:
    tracedthread.pause()
    try:
        thread = threading.Thread(target=int, name="records: paused")
        thread.start()
        thread.join()
    finally:
        tracedthread.resume()
    assert rows("records: paused") == []
