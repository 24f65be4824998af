"""
Other processes' captures that cannot be had: counted and shown, and none of it takes anything from the sum.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import capture_builder as cb
import pytest

import tracedthread
from tracedthread import _core, names, shown, workers
from tracedthread.capture import CaptureError
from tracedthread.procfs import Process, Refused, Unrecorded, processes
from tracedthread.shown import OTHERS
from tracedthread.tally import PoolTally
from tracedthread.workers import Workers

ME = os.getpid()


@pytest.fixture
def group() -> Iterator[Workers]:
    assert tracedthread.patch()
    group = Workers(_core.load(), top=1000)
    yield group
    group.close()
    tracedthread.unpatch()


def states(group: Workers) -> dict[str, Any]:
    points = group.measure()
    return {point.attributes[0]: point.value for point in points if point.metric is names.WORKERS}


def acquisitions(group: Workers, lock: str) -> Any:
    return sum(
        point.value  # type: ignore[misc]
        for point in group.measure()
        if point.metric is names.ACQUISITIONS and point.attributes[0] == lock
    )


def capture_of(path: Path, pid: int, *, start: int = 1, holds: int = 3) -> int:
    """A descriptor of another process's capture."""
    builder = cb.CaptureBuilder(pid=pid)
    builder.process_start = start
    builder.site("Foreign._lock", ("Foreign.__init__", "/srv/foreign.py", 3)).hold(1000, times=holds)
    path.write_bytes(builder.build())
    return os.open(path, os.O_RDONLY)


def test_alone_it_is_the_process_itself(group: Workers) -> None:
    assert states(group) == {"living": 1, "ended": 0, "unreadable": 0}
    assert [label for label, _ in group.measure_each()] == [str(ME)]
    assert group.failures == 0


@pytest.mark.parametrize(("refusal", "unreadable"), [(Refused, 1), (Unrecorded, 0)])
def test_what_may_not_be_read_is_counted_and_not_tried_each_time(
    group: Workers, refusal: type[Refused], unreadable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def target(pid: int) -> None:
        tried.append(pid)
        raise refusal("no")

    monkeypatch.setattr(workers, "Target", target)
    monkeypatch.setattr(workers, "processes", lambda: {ME: Process(1, 5), 4242: Process(ME, 7)})
    for _ in range(workers.PATIENCE):
        assert states(group) == {"living": 1, "ended": 0, "unreadable": unreadable}
    assert tried == [4242]
    states(group)
    assert tried == [4242, 4242]


def test_where_proc_hides_others_nobody_is_taken_for_dead(
    group: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group._take(capture_of(tmp_path / "a", 4242), 0, None)
    monkeypatch.setattr(workers, "processes", dict)
    assert states(group) == {"living": 2, "ended": 0, "unreadable": 0}
    assert acquisitions(group, "Foreign._lock") == 3


def test_a_worker_that_cannot_be_read_any_more_stays_as_it_was(
    group: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "processes", lambda: {ME: Process(1, 5), 4242: Process(ME, 1)})
    group._take(capture_of(tmp_path / "a", 4242), 0, None)
    assert acquisitions(group, "Foreign._lock") == 3
    os.truncate(tmp_path / "a", 100)
    assert acquisitions(group, "Foreign._lock") == 3
    assert states(group) == {"living": 2, "ended": 0, "unreadable": 1}
    monkeypatch.setattr(workers, "processes", lambda: {ME: Process(1, 5)})
    assert acquisitions(group, "Foreign._lock") == 3
    assert states(group) == {"living": 1, "ended": 1, "unreadable": 0}


def test_a_pid_that_is_used_again_is_another_process(
    group: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "Target", lambda pid: (_ for _ in ()).throw(Unrecorded("no")))
    monkeypatch.setattr(workers, "processes", lambda: {ME: Process(1, 5), 4242: Process(ME, 2)})
    group._take(capture_of(tmp_path / "a", 4242), 0, None)
    assert acquisitions(group, "Foreign._lock") == 3
    assert states(group) == {"living": 1, "ended": 1, "unreadable": 0}


def test_a_pid_that_is_used_again_begins_its_series_anew(
    group: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> dict[str, Any]:
        points = dict(group.measure_each())["4242"]
        return {point.attributes[0]: point.value for point in points if point.metric is names.ACQUISITIONS}

    monkeypatch.setattr(workers, "processes", lambda: {ME: Process(1, 5), 4242: Process(ME, 1)})
    monkeypatch.setattr(group._shown, "update", lambda _: None)
    group._take(capture_of(tmp_path / "a", 4242, holds=100), 0, None)
    assert told() == {OTHERS: 100}
    group._shown.functions["Foreign._lock"] = set()
    assert told() == {OTHERS: 100, "Foreign._lock": 0}
    monkeypatch.setattr(workers, "processes", lambda: {ME: Process(1, 5), 4242: Process(ME, 2)})
    group._take(capture_of(tmp_path / "b", 4242, start=2, holds=7), 0, None)
    assert told() == {"Foreign._lock": 7}
    assert group.failures == 0


def timeouts(group: Workers) -> dict[Any, Any]:
    return {(p.metric.name, p.attributes): p.value for p in group.measure() if p.metric is names.TIMEOUTS}


def test_pools_that_only_the_dead_had_are_few_and_add_up(
    group: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker calls its pool after itself."""
    own = {point.attributes[0] for point in group.measure() if point.metric is names.POOL_QUEUE_DURATION}
    monkeypatch.setattr(workers, "NAMES_OF_ENDED", len(own) + 10)
    monkeypatch.setattr(shown, "POOLS", len(own) + 3)
    monkeypatch.setattr(workers, "processes", lambda: {ME: Process(1, 5)})
    read = workers._Worker.read
    second = PoolTally(queue=10**9 << 32, queued=1)
    monkeypatch.setattr(workers._Worker, "read", lambda self: read(self)._replace(pools={f"pool{self.pid}": second}))
    for number in range(1, 41):
        group._take(capture_of(tmp_path / "ended", 5000 + number), 0, None)
        points = [point for point in group.measure() if point.metric is names.POOL_QUEUE_DURATION]
        told = {p.attributes[0]: p.value.sum_s for p in points if p.attributes[0] not in own}  # type: ignore[union-attr]
        shown_ones = {f"pool{5000 + one}": 1.0 for one in range(1, min(number, 3) + 1)}
        assert told == {**shown_ones, **({OTHERS: number - 3.0} if number > 3 else {})}
    assert len(group._retired.pools) <= len(own) + 20
    sizes = [point for point in group.measure() if point.metric is names.POOL_QUEUE_SIZE]
    assert {point.value for point in sizes if point.attributes[0] not in own} == {0}


def test_memory_of_names_that_only_the_dead_had_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker has locks of names that no other has, the second of which somebody waited for."""
    monkeypatch.setattr(workers, "NAMES_OF_ENDED", 10)
    monkeypatch.setattr(workers, "processes", lambda: {ME: Process(1, 5)})
    assert tracedthread.patch()
    group = Workers(_core.load(), top=1)
    try:
        before = timeouts(group)
        of_this_process = sum(before.values())
        of_this_process_waits = sum(p.value for p in group.measure() if p.metric is names.RESOURCE_WAITS)
        for number in range(1, 41):
            builder = cb.CaptureBuilder(pid=5000 + number)
            builder.site(f"idle{number}", ("f", "/srv/a.py", number)).hold(1000)
            busy = builder.site(f"busy{number}", ("g", "/srv/b.py", number))
            builder.wait(busy, "lock", [("h", "/srv/b.py", number)], number * 10**9, timeouts=1)
            builder.wait(busy, "semaphore", [("h", "/srv/b.py", number)], 10**9)
            builder.blame(busy, [(f"f{number}", "/srv/b.py", number)], 10**9)
            (tmp_path / "ended").write_bytes(builder.build())
            group._take(os.open(tmp_path / "ended", os.O_RDONLY), 0, None)
            now = timeouts(group)
            assert sum(now.values()) == of_this_process + number
            assert all(now[series] >= value for series, value in before.items())
            before = now
        assert states(group) == {"living": 1, "ended": 40, "unreadable": 0}
        assert len(group._retired.locks) <= 20
        assert len(group._retired.blame) <= 20
        assert len(group._retired.resources) <= 20
        waits = sum(p.value for p in group.measure() if p.metric is names.RESOURCE_WAITS)
        assert waits == of_this_process_waits + 40
        assert group.failures == 0
    finally:
        group.close()
        tracedthread.unpatch()


def test_the_same_capture_twice_counts_once_and_leaves_no_descriptor(group: Workers, tmp_path: Path) -> None:
    group._take(capture_of(tmp_path / "a", 4242), 0, None)
    before = len(os.listdir("/proc/self/fd"))
    group._take(capture_of(tmp_path / "a", 4242), 0, None)
    (tmp_path / "b").write_bytes(b"no capture at all" * 100)
    group._take(os.open(tmp_path / "b", os.O_RDONLY), 0, None)
    assert len(os.listdir("/proc/self/fd")) == before
    assert acquisitions(group, "Foreign._lock") == 3


def test_what_telemetry_dropped_is_this_processs(tmp_path: Path) -> None:
    assert tracedthread.patch()
    group = Workers(_core.load(), dropped=lambda: {"spans": 4})
    try:
        group._take(capture_of(tmp_path / "a", 4242), 0, None)
        found = {p.attributes[0]: p.value for p in group.measure() if p.metric is names.DROPPED}
        assert found["spans"] == 4
    finally:
        group.close()
        tracedthread.unpatch()


def test_events_that_a_child_has_overwritten_are_not_called_lost(tmp_path: Path) -> None:
    assert tracedthread.patch()
    group = Workers(_core.load(), dropped=lambda: {"events": 2})
    builder = cb.CaptureBuilder(pid=4242, grown=True)
    site = builder.site("Foreign._lock", ("Foreign.__init__", "/srv/foreign.py", 3))
    builder.event_capacity = 4
    for at in range(10):
        builder.event(site, [("f", "/srv/foreign.py", 9)], at, at + 1)
    builder.lost[cb.SITES] = 7
    (tmp_path / "a").write_bytes(builder.build())
    try:
        group._take(os.open(tmp_path / "a", os.O_RDONLY), 0, None)
        found = {p.attributes[0]: p.value for p in group.measure() if p.metric is names.DROPPED}
        assert (found["events"], found["sites"]) == (2, 7)
    finally:
        group.close()
        tracedthread.unpatch()


def test_a_measurement_that_fails_is_counted_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tracedthread.patch()
    group = Workers(_core.load(), dropped=lambda: {"failures": 1})
    monkeypatch.setattr(group._own, "tally", lambda: (_ for _ in ()).throw(CaptureError("corrupt header")))
    try:
        found = {p.attributes[0]: p.value for p in group.measure() if p.metric is names.DROPPED}
        assert found["failures"] == 2
        assert "no metrics of this process: corrupt header" in capsys.readouterr().err
        monkeypatch.setattr(group._own, "tally", lambda: (_ for _ in ()).throw(CaptureError("corrupt strings: 7")))
        group.measure()
        assert capsys.readouterr().err == ""  # said once, whatever it is the next time
    finally:
        group.close()
        tracedthread.unpatch()


def test_for_want_of_descriptors_nobody_dies(group: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = processes()[child.pid].start
    group._take(capture_of(tmp_path / "a", child.pid, start=start), 0, None)
    assert acquisitions(group, "Foreign._lock") == 3
    stock = open

    def starved(path: Any, *args: Any, **options: Any) -> Any:
        if path == f"/proc/{child.pid}/stat":
            raise OSError(errno.EMFILE, "Too many open files")
        return stock(path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", starved)
        assert processes() == {}
        assert acquisitions(group, "Foreign._lock") == 3
        assert states(group)["ended"] == 0
    assert acquisitions(group, "Foreign._lock") == 3
    child.communicate(b"\n", timeout=30)
    assert acquisitions(group, "Foreign._lock") == 3
    assert states(group)["ended"] == 1


def test_without_proc_what_is_known_is_told(group: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group._take(capture_of(tmp_path / "a", 4242), 0, None)
    listdir = os.listdir

    def none(path: str) -> list[str]:
        if path == "/proc":
            raise FileNotFoundError(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", none)
    monkeypatch.setattr(group, "_sweep_at", 0)
    assert group.receive()
    assert acquisitions(group, "Foreign._lock") == 3
    assert states(group) == {"living": 2, "ended": 0, "unreadable": 0}
    assert group.failures == 0


def test_what_is_sent_is_not_inherited_by_what_the_program_executes(group: Workers, tmp_path: Path) -> None:
    fd = capture_of(tmp_path / "a", 4242)
    socket.send_fds(group._outbox, [b"capture"], [fd])
    os.close(fd)
    assert group.receive()
    (worker,) = group._known.values()
    assert not os.get_inheritable(worker.fd)


class Found:
    """A process's capture, when it is looked for."""

    def __init__(self, fd: int) -> None:
        self.place = fd, 0


def test_a_process_that_executes_something_is_looked_into_again(
    group: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks = {4242: 1000}
    monkeypatch.setattr(workers, "processes", lambda: {ME: Process(1, 5), 4242: Process(ME, 1, stacks[4242])})
    monkeypatch.setattr(workers, "Target", lambda pid: Found(capture_of(tmp_path / "a", pid)))
    for stack in (1000, 0, 2000, 2000):  # 0: not told now; then it is another, but leads to the same capture
        stacks[4242] = stack
        assert acquisitions(group, "Foreign._lock") == 3
        assert states(group) == {"living": 2, "ended": 0, "unreadable": 0}

    def refuse(pid: int) -> None:
        raise Refused("no")

    stacks[4242] = 3000
    monkeypatch.setattr(workers, "Target", refuse)
    assert acquisitions(group, "Foreign._lock") == 3
    assert states(group) == {"living": 2, "ended": 0, "unreadable": 1}  # nobody knows what became of it
    group._refused.clear()
    monkeypatch.setattr(workers, "Target", lambda pid: (_ for _ in ()).throw(Unrecorded("no")))
    assert acquisitions(group, "Foreign._lock") == 3
    assert states(group) == {"living": 1, "ended": 1, "unreadable": 0}


def test_who_has_sent_a_capture_the_kernel_says(group: Workers, tmp_path: Path) -> None:
    fd = capture_of(tmp_path / "a", 1)  # its own pid, in its namespace
    socket.send_fds(group._outbox, [b"capture"], [fd])
    os.close(fd)
    assert group.receive()
    assert [(worker.pid, worker.identity[0]) for worker in group._known.values()] == [(ME, 1)]


def test_when_the_program_has_closed_the_sending_end_nothing_spins(group: Workers) -> None:
    group._outbox.close()
    assert not group.receive()


def test_numbers_that_the_program_has_given_to_its_own_files_stay_theirs(tmp_path: Path) -> None:
    assert tracedthread.patch()
    group = Workers(_core.load())
    group._take(capture_of(tmp_path / "a", 4242), 0, None)
    group._take(capture_of(tmp_path / "b", 4243, holds=1), 0, None)
    one, other = group._known.values()
    files = [group._inbox.fileno(), group._outbox.fileno(), one.fd, other.fd]
    for fd in files:
        own = os.open(tmp_path / "own", os.O_RDWR | os.O_CREAT)
        os.dup2(own, fd)
        os.close(own)
    group.measure()
    assert group._known == {}  # they are not alive
    group.close()
    for fd in files:
        os.close(fd)  # or else: Bad file descriptor
    tracedthread.unpatch()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_lets_the_programs_own_files_be(tmp_path: Path) -> None:
    assert tracedthread.patch()
    group = Workers(_core.load())
    group._take(capture_of(tmp_path / "a", 4242), 0, None)
    (worker,) = group._known.values()
    own = [os.dup(group._inbox.fileno()), os.dup(worker.fd)]
    files = [group._inbox.fileno(), worker.fd]
    theirs = os.open(tmp_path / "own", os.O_RDWR | os.O_CREAT)
    for fd in files:
        os.dup2(theirs, fd)
    os.close(theirs)
    if (child := os.fork()) == 0:
        os._exit(sum(not os.path.exists(f"/proc/self/fd/{fd}") for fd in files))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for fd, to in zip(own, files):
        os.dup2(fd, to)
        os.close(fd)
    group.close()
    tracedthread.unpatch()


def test_the_list_of_processes_has_us_and_our_parent() -> None:
    table = processes()
    assert table[ME].parent == os.getppid()
    assert table[ME].start > 0
