"""
Another process's capture: finding it, and copying it, without stopping the process and without its help.

Three doors lead to it, and each asks for other rights:

    /proc/PID/fd/N           the memfd's descriptor: what `ps` of one's own processes needs, PTRACE_MODE_READ
    the file's path          found in /proc/PID/maps: the same, and the file's own permissions
    /proc/PID/map_files/...  CAP_CHECKPOINT_RESTORE; when the descriptor is closed, or the file deleted
    /proc/PID/mem            PTRACE_MODE_ATTACH, which Yama restricts; memory that no file is behind

Whatever is found is only taken for the process's own capture when its header says so: a forked child inherits its
parent's descriptors.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

from tracedthread import layout
from tracedthread.capture import Capture
from tracedthread.procfs import Refused, Status, Unrecorded, read_status, switched_off, why_no_memory, why_refused

MEMFD = "/memfd:tracedthread (deleted)"


class Mapping(NamedTuple):
    """A line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    offset: int
    path: str


class Target:
    """
    An open capture of a running process; a context manager.

    Raises:
        Refused: There is no such process, it records nothing, or a right is missing.
    """

    def __init__(self, pid: int) -> None:
        self.status = read_status(pid)
        try:
            self._fd, self._mapping = _open_door(self.status)
        except (FileNotFoundError, ProcessLookupError):
            raise Refused(f"process {pid} has just ended") from None

    def copy(self) -> Capture:
        """
        What the capture holds now.

        Raises:
            OSError: The process has ended, and its memory with it.
            CaptureError: The capture is damaged.
        """
        if self._mapping is None:
            return Capture.from_descriptor(self._fd)
        return Capture.from_range(self._fd, self._mapping.start, self._mapping.end - self._mapping.start)

    @property
    def place(self) -> tuple[int, int]:
        """The open file that the capture is in, and where it begins there."""
        return self._fd, self._mapping.start if self._mapping else 0

    def look_again(self) -> Status:
        """The process's status now."""
        self.status = read_status(self.status.pid)
        return self.status

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._fd)


def _open_door(status: Status) -> tuple[int, Mapping | None]:
    """A descriptor of the capture, or of the process's memory and where in it the capture lies."""
    pid = status.pid
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        raise Refused(why_refused(status)) from None
    # First what needs no lock of the process's address space, which a thread stuck in the kernel may hold.
    for name in descriptors:
        path = f"/proc/{pid}/fd/{name}"
        if _link(path) == MEMFD and (fd := _open_capture(path, status)) is not None:
            return fd, None
    try:
        mappings = [mapping for mapping in _mappings(pid) if _may_be_capture(mapping)]
    except PermissionError:
        raise Refused(why_refused(status)) from None
    for mapping in mappings:
        for path in _paths(pid, mapping):
            if (fd := _open_capture(path, status)) is not None:
                return fd, None
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        if any(_is_surely_capture(mapping) for mapping in mappings):
            raise Refused(why_no_memory(status)) from None
        raise Refused(_why_nothing(pid, memory_read=False)) from None
    for mapping in mappings:
        if _is_capture_of(memory, mapping.start, mapping.end - mapping.start, status):
            return memory, mapping
    os.close(memory)
    raise Unrecorded(_why_nothing(pid, memory_read=True))


def _why_nothing(pid: int, *, memory_read: bool) -> str:
    if (switch := switched_off(pid)) is not None:
        return f"process {pid} is not recorded: its environment says {switch}"
    hidden = (
        "" if memory_read else " (or it is a forked child without a free descriptor, and its memory may not be read)"
    )
    how = "start it with `tracedthread run`, or call tracedthread.patch() in it"
    return f"process {pid} is not recorded{hidden}: {how}"


def _mappings(pid: int) -> Iterator[Mapping]:
    with open(f"/proc/{pid}/maps", "rb") as file:
        for line in file.read().splitlines():
            fields = line.split(None, 5)
            start, _, end = fields[0].partition(b"-")
            path = os.fsdecode(fields[5]).replace("\\012", "\n") if len(fields) > 5 else ""
            yield Mapping(int(start, 16), int(end, 16), fields[1].decode(), int(fields[2], 16), path)


def _may_be_capture(mapping: Mapping) -> bool:
    """By what /proc/PID/maps says: a whole file, shared, or private memory, and large enough for one."""
    large = mapping.end - mapping.start >= layout.HEADER.size
    if mapping.permissions == "rw-s":
        return large and mapping.offset == 0 and mapping.path.startswith("/")
    return large and mapping.permissions == "rw-p" and not mapping.path


def _is_surely_capture(mapping: Mapping) -> bool:
    return mapping.path == MEMFD or mapping.path.removesuffix(" (deleted)").endswith(".ttc")


def _paths(pid: int, mapping: Mapping) -> list[str]:
    if not mapping.path:
        return []
    exact = f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"
    # A path may by now lead to another file: the header tells.
    return [exact] if mapping.path.endswith(" (deleted)") else [f"/proc/{pid}/root{mapping.path}", exact]


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _open_capture(path: str, status: Status) -> int | None:
    """A descriptor, if the file at `path` is this process's capture."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a device may do something
            return None
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    if _is_capture_of(fd, 0, os.fstat(fd).st_size, status):
        return fd
    os.close(fd)
    return None


def _is_capture_of(fd: int, start: int, size: int, status: Status) -> bool:
    try:
        data = os.pread(fd, min(size, layout.HEADER.size), start)
    except (OSError, OverflowError):  # [vsyscall] and the like
        return False
    if len(data) < layout.HEADER.size or not data.startswith(layout.MAGIC):
        return False
    header = layout.HEADER.read(data)
    # 0: the process could not read its own stat.
    return header.pid == status.own_pid and header.process_start in (status.start, 0)
