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
    device: int
    inode: int
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
            return Capture.from_descriptor(self._fd).of_running()
        length = self._mapping.end - self._mapping.start
        return Capture.from_range(self._fd, self._mapping.start, length).of_running()

    @property
    def place(self) -> tuple[int, int]:
        """The open file that the capture is in, and where it begins there."""
        return self._fd, self._mapping.start if self._mapping else 0

    def look_again(self) -> Status:
        """
        The process's status now.

        Raises:
            Refused: It has ended; its number may be another process's by now.
        """
        status = read_status(self.status.pid)
        if status.start != self.status.start:
            raise Refused(f"process {status.pid} has just ended; another one has its number now")
        self.status = status
        return status

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
        if (fd := _open_file(mapping, status)) is not None:
            return fd, None
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        for mapping in filter(_is_surely_capture, mappings):
            raise Refused(why_no_memory(_why_no_file(pid, mapping))) from None
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
        for line in file.read().split(b"\n")[:-1]:  # of the line ends, only that is escaped in names
            fields = line.split(None, 5)
            start, _, end = fields[0].partition(b"-")
            path = os.fsdecode(fields[5]).replace("\\012", "\n") if len(fields) > 5 else ""
            major, _, minor = fields[3].partition(b":")
            device = os.makedev(int(major, 16), int(minor, 16))
            permissions, offset, inode = fields[1].decode(), int(fields[2], 16), int(fields[4])
            yield Mapping(int(start, 16), int(end, 16), permissions, offset, device, inode, path)


def _may_be_capture(mapping: Mapping) -> bool:
    """By what /proc/PID/maps says: a whole file, shared, or private memory, and large enough for one."""
    large = mapping.end - mapping.start >= layout.HEADER.size
    if mapping.permissions == "rw-s":
        return large and mapping.offset == 0 and mapping.path.startswith("/")
    return large and mapping.permissions == "rw-p" and not mapping.path


def _is_surely_capture(mapping: Mapping) -> bool:
    return mapping.path == MEMFD or mapping.path.removesuffix(" (deleted)").endswith(".ttc")


def _why_no_file(pid: int, mapping: Mapping) -> str:
    if mapping.path == MEMFD:
        return f"process {pid} has closed the descriptor of its recording"
    what = f"{mapping.path.removesuffix(' (deleted)')}, which process {pid} records to,"
    if mapping.path.endswith(" (deleted)"):
        return f"{what} is deleted"
    try:
        found = os.lstat(_path_in_root(pid, mapping))
    except OSError as exc:
        return f"{what} may not be opened: {exc.strerror}"
    if not _is_same(found, mapping):
        return f"{what} is not to be found by that name"
    return f"{what} may not be opened: it is uid {found.st_uid}'s, mode {stat.S_IMODE(found.st_mode):o}"


def _open_file(mapping: Mapping, status: Status) -> int | None:
    """A descriptor, if what is mapped is a file, and this process's capture."""
    if not mapping.path:
        return None
    if not mapping.path.endswith(" (deleted)"):
        fd = _open_capture(_path_in_root(status.pid, mapping), status, mapping)
        if fd is not None:
            return fd
    return _open_capture(f"/proc/{status.pid}/map_files/{mapping.start:x}-{mapping.end:x}", status)


def _path_in_root(pid: int, mapping: Mapping) -> str:
    # It may lead elsewhere: by now, or to somebody in another root; also by links, which lead out of that root.
    return f"/proc/{pid}/root{mapping.path}"


def _is_same(found: os.stat_result, mapping: Mapping) -> bool:
    """Whether this is the file that is mapped."""
    # overlayfs and btrfs give each file a device that is none, and that the mapping does not show.
    return found.st_ino == mapping.inode and (found.st_dev == mapping.device or os.major(found.st_dev) == 0)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _open_capture(path: str, status: Status, mapping: Mapping | None = None) -> int | None:
    """
    A descriptor, if the file at `path` is this process's capture.

    Args:
        mapping: What the file must be, where a name leads to it; None for those links in /proc that are the file.
    """
    try:
        # Looked at before it is opened, for opening a device may do something.
        place = os.open(path, os.O_PATH | os.O_CLOEXEC | (os.O_NOFOLLOW if mapping is not None else 0))
    except OSError:
        return None
    try:
        found = os.fstat(place)
        if not stat.S_ISREG(found.st_mode) or (mapping is not None and not _is_same(found, mapping)):
            return None
        fd = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    finally:
        os.close(place)
    if _is_capture_of(fd, 0, found.st_size, status):
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
