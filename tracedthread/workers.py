"""
The captures of a process and of its descendants, added up: what a prefork server's one endpoint tells.

A forked child records into a capture of its own, which begins at zero, and dies when it likes. So that nothing is
missed and nothing counted twice, it sends its capture's descriptor here as the first thing it does: through a socket
that all descendants inherit. The memory behind the descriptor stays when the child is gone, killed or not; its final
totals are then added to those of all that have ended, and the descriptor is closed.

Descendants that have not sent theirs (they are not forks, have executed another program since, or closed all
descriptors) are looked for in /proc at every measurement. Of these, one that lives and dies between two measurements is
missed.
"""

from __future__ import annotations

import os
import socket
import struct
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from tracedthread import _core, _settings, layout, names
from tracedthread._original import originals
from tracedthread.capture import CaptureError
from tracedthread.measure import Measurement, Stream, with_failures
from tracedthread.procfs import Process, Refused, Unrecorded, close_ours, identify, processes, read_process
from tracedthread.shown import TOP, Shown
from tracedthread.tallier import Tallier, read_descriptor, read_own
from tracedthread.tally import EMPTY, Tally, add_to
from tracedthread.target import Target

OWN_WAIT_S = 1.0
#: Descriptors kept at most before those of the dead are looked for and closed.
KEPT_AT_MOST = 64
#: Names of locks and blamed functions kept at most of all that have ended, besides those that are shown.
NAMES_OF_ENDED = 2000
#: In this many measurements a process in which there was nothing to read is not looked into again.
PATIENCE = 8

_INT = struct.Struct("i")
_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid

Identity = tuple[int, int, int]  # pid, when the process began, when its capture did


class _Worker:
    """A capture of another process, and what was read of it last."""

    def __init__(self, pid: int, identity: Identity, fd: int, start: int, stack: int) -> None:
        self.pid = pid
        self.identity = identity
        self.fd = fd
        self.stack = stack
        self.has_executed = False
        self.is_readable = True
        self.tally = EMPTY
        self._file_is = identify(fd)
        self._tallier = Tallier(read_descriptor(fd, start))

    def read(self) -> Tally:
        """What it has counted; if it cannot be read, what was read last."""
        self.is_readable = False
        if self._is_ours():
            with suppress(OSError, CaptureError):
                tally = self._tallier.tally()
                # Nobody knows whether its own telemetry has told the events that newer ones have overwritten.
                told = {name: count for name, count in tally.dropped.items() if name not in layout.RING_NAMES}
                self.tally = tally._replace(dropped=told)
                self.is_readable = True
        return self.tally

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._is_ours():
            _close_quietly(self.fd)

    def _is_ours(self) -> bool:
        # The program may have closed it, and given its number to a file of its own.
        return identify(self.fd) == self._file_is

    def is_alive(self, table: Mapping[int, Process]) -> bool:
        process = table.get(self.pid)
        return process is not None and self.identity[1] in (process.start, 0) and not self.has_executed

    def is_at(self, stack: int) -> bool:
        """Whether it has executed nothing since; also when that is not known."""
        self.stack = self.stack or stack
        return stack in (0, self.stack)


class Group(NamedTuple):
    """What was counted by whom: by pid, `retired` for all that have ended."""

    members: dict[str, Tally]
    ended: int
    unreadable: int


class Workers:
    """
    The calling process and its descendants. Any thread may ask; nothing is ever raised.

    Args:
        top: How many locks are shown at first.
        dropped: What telemetry of this process had to drop, by section.
    """

    def __init__(
        self, core: _core.Core, *, top: int = TOP, dropped: Callable[[], Mapping[str, int]] | None = None
    ) -> None:
        self._core, self._dropped = core, dropped
        self._stack = 0
        with suppress(OSError):
            self._stack = own.stack if (own := read_process(os.getpid())) is not None else 0
        self._own = Tallier(read_own(core), in_place=True)
        self._last_own = EMPTY
        self._lock = originals.allocate_lock()
        self._shown = Shown(top)
        self._sum = Stream(self._shown)
        self._each: dict[str, Stream] = {}
        self._known: dict[Identity, _Worker] = {}
        self._retired, self._ended = EMPTY, 0
        self._refused: dict[tuple[int, int], tuple[bool, int]] = {}  # pid and start: not allowed to; for how long yet
        self._sweep_at = KEPT_AT_MOST
        self._newest: list[Measurement] = []
        self._newest_each: list[tuple[str, list[Measurement]]] = []
        self.failures = 0
        self._has_said_why = False
        self._inbox, self._outbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._inbox.setblocking(False)
        self._outbox.setblocking(False)
        # A child in a pid namespace of its own does not know the pid that it has here.
        self._inbox.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        # The program may close them, and give their numbers to sockets of its own.
        self._inbox_is, self._outbox_is = identify(self._inbox), identify(self._outbox)
        _live.add(self)

    def fileno(self) -> int:
        """A descriptor that can be read when a child has just begun; then call `receive`."""
        return self._inbox.fileno()

    def measure(self) -> list[Measurement]:
        """The points of all metrics, of all processes together."""
        self._measure()
        return self._newest

    def measure_each(self) -> list[tuple[str, list[Measurement]]]:
        """The same for each: its pid, or `retired` for all that have ended, and its points."""
        self._measure()
        return self._newest_each

    def receive(self) -> bool:
        """Take what children have sent. Returns False when nothing can come any more."""
        if self._lock.acquire(timeout=OWN_WAIT_S):
            try:
                if not self._receive():
                    return False
                if len(self._known) > self._sweep_at:
                    self._retire(processes())
                    self._sweep_at = max(KEPT_AT_MOST, 2 * len(self._known))
            except OSError:
                self.failures += 1
            finally:
                self._lock.release()
        return True

    def close(self) -> None:
        """Let go of all descriptors."""
        _live.discard(self)
        for worker in self._known.values():
            worker.close()
        self._known = {}
        close_ours(self._inbox, self._inbox_is)
        close_ours(self._outbox, self._outbox_is)

    def _measure(self) -> None:
        if not self._lock.acquire(timeout=OWN_WAIT_S):
            return
        try:
            group = self._read()
            total = EMPTY
            for tally in group.members.values():
                total = total.plus(tally)
            self._shown.update(total)
            dropped = with_failures(self._dropped(), self.failures) if self._dropped is not None else {}
            mine = str(os.getpid())
            points = self._sum.measure(total, self._more(total, group.members[mine], dropped))
            living = len(group.members) - ("retired" in group.members)
            for state, count in (("living", living), ("ended", group.ended), ("unreadable", group.unreadable)):
                points.append(Measurement(names.WORKERS, (state,), count, total.start_ns))
            each = []
            streams: dict[str, Stream] = {}
            for label, tally in group.members.items():
                stream = streams[label] = self._each.get(label) or Stream(self._shown)
                each.append((label, stream.measure(tally, dropped if label == mine else None)))
            self._newest, self._newest_each, self._each = points, each, streams
        except Exception as exc:
            self._fail(exc)
        finally:
            self._lock.release()

    def _fail(self, exc: Exception) -> None:
        self.failures += 1
        if not self._has_said_why:  # each time it may be another record that is damaged
            self._has_said_why = True
            _settings.say(f"no metrics of this process: {exc}")

    @staticmethod
    def _more(total: Tally, own: Tally, dropped: Mapping[str, int]) -> dict[str, int]:
        """What this process's telemetry dropped, in place of its capture's own count, in the sum over all."""
        return {
            section: total.dropped.get(section, 0) - own.dropped.get(section, 0) + count
            for section, count in dropped.items()
        }

    def _read(self) -> Group:
        try:
            self._last_own = self._own.tally()
        except (OSError, CaptureError) as exc:
            self._fail(exc)
        self._receive()
        table = processes()
        unreadable = self._discover(table) if os.getpid() in table else 0
        self._retire(table)
        members = {str(os.getpid()): self._last_own}
        for worker in self._known.values():
            label, tally = str(worker.pid), worker.read()
            add_to(members, label, tally)
            unreadable += not worker.is_readable
        if self._ended:
            members["retired"] = self._retired
        return Group(members, self._ended, unreadable)

    def _retire(self, table: Mapping[int, Process]) -> None:
        if os.getpid() not in table:  # /proc is not ours to look into, and nobody would seem to live
            return
        for worker in [worker for worker in self._known.values() if not worker.is_alive(table)]:
            self._retired = self._retired.plus(worker.read().ended())
            self._ended += 1
            worker.close()
            del self._known[worker.identity]
            gone = self._retired
            if max(len(gone.locks), len(gone.blame), len(gone.resources), len(gone.pools)) > NAMES_OF_ENDED:
                self._shown.update(self._retired)
                self._retired = self._shown.without_others(self._retired)

    def _receive(self) -> bool:
        while True:
            if identify(self._inbox) != self._inbox_is:
                return False
            try:
                # Not by socket.recv_fds, which forgets its flags: what the program executes would have them, too.
                room = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_LEN(_INT.size)
                message, ancillary, _, _ = self._inbox.recvmsg(16, room, socket.MSG_CMSG_CLOEXEC)
            except (BlockingIOError, InterruptedError):
                return True
            sent = {kind: data for _, kind, data in ancillary}
            # 0: there is none for it here; /proc does not show it, either.
            sender = _CREDENTIALS.unpack(sent[socket.SCM_CREDENTIALS])[0] if socket.SCM_CREDENTIALS in sent else 0
            for (fd,) in _INT.iter_unpack(sent.get(socket.SCM_RIGHTS, b"")):
                self._take(fd, 0, sender or None, self._stack)  # a fork's is where its parent's is
            if not message:  # nobody has the other end any more
                return False

    def _discover(self, table: Mapping[int, Process]) -> int:
        """Take the captures of descendants that have not sent theirs; how many could not be read."""
        unreadable = 0
        known = {(worker.pid, worker.identity[1]): worker for worker in self._known.values()}
        refused: dict[tuple[int, int], tuple[bool, int]] = {}
        for pid in _descendants(os.getpid(), table):
            who = pid, table[pid].start
            stack, worker = table[pid].stack, known.get(who)
            if worker is not None and worker.is_at(stack):
                continue
            is_forbidden, patience = self._refused.get(who, (False, 0))
            if patience == 0:
                try:
                    self._take(*Target(pid).place, pid, stack)
                    if worker is not None:  # unless it was the same that has been taken
                        worker.has_executed = not worker.is_at(stack)
                    continue
                except Unrecorded:
                    is_forbidden, patience = False, PATIENCE
                    if worker is not None:
                        worker.has_executed = True
                except Refused:
                    is_forbidden, patience = True, PATIENCE
                except OSError:
                    continue
            refused[who] = is_forbidden, patience - 1
            unreadable += is_forbidden
        self._refused = refused
        return unreadable

    def _take(self, fd: int, start: int, pid: int | None, stack: int = 0) -> None:
        """Keep a descriptor, which from now on is ours, unless what it leads to is known or no capture."""
        try:
            header = layout.HEADER.read(read_descriptor(fd, start)(0, layout.HEADER.size))
            identity = header.pid, header.process_start, header.first_ticks
            if (known := self._known.get(identity)) is not None:
                known.stack = stack or known.stack
            elif header.magic == layout.MAGIC and identity != self._own.identity:
                worker = _Worker(header.pid if pid is None else pid, identity, fd, start, stack)
                self._known[identity] = worker
                self._each.pop(str(worker.pid), None)  # of a process that had the number before
                return
        except (OSError, CaptureError):
            pass
        os.close(fd)

    def _after_fork(self) -> None:
        """In a child: send our own capture, and let go of what is the parent's."""
        try:
            if identify(self._outbox) == self._outbox_is and (fd := _own_descriptor(self._core)) is not None:
                try:
                    socket.send_fds(self._outbox, [b"capture"], [fd], socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
                finally:
                    os.close(fd)
        except OSError:
            pass  # too many at once, or nobody is there any more: it is looked for in /proc
        self._lock = originals.allocate_lock()
        for worker in self._known.values():
            worker.close()
        self._known = {}
        close_ours(self._inbox, self._inbox_is)


def _own_descriptor(core: _core.Core) -> int | None:
    """A new descriptor of the process's own capture."""
    if (fd := core.lib.tt_capture_descriptor()) >= 0:
        return os.dup(fd)
    # Without one it is a file, or private memory, and then the path is still the parent's, who knows it.
    return os.open(core.path, os.O_RDONLY | os.O_CLOEXEC) if core.path is not None else None


def _close_quietly(fd: int) -> None:
    with suppress(OSError):
        os.close(fd)


def _descendants(root: int, table: Mapping[int, Process]) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.parent, []).append(pid)
    found: list[int] = []
    todo = [root]
    while todo:
        for pid in children.pop(todo.pop(), ()):
            found.append(pid)
            todo.append(pid)
    return found


_live: weakref.WeakSet[Workers] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for workers in list(_live):
        workers._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
