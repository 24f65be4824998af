"""
What /proc tells everybody about a process, and why it does not tell us more.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from socket import socket
from typing import NamedTuple, Protocol

CAP_SYS_PTRACE = 19
# Handlers of these do nothing to locks: KeyboardInterrupt's, faulthandler's and the C library's own.
_HARMLESS_SIGNALS = frozenset({2, 4, 6, 7, 8, 11, 32, 33})
_SWITCHES = (b"TRACEDTHREAD_DISABLED", b"OTEL_SDK_DISABLED", b"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS")


class SupportsFileno(Protocol):
    """Something open."""

    def fileno(self) -> int: ...  # noqa: D102


class Refused(Exception):
    """Why a process cannot be looked into. The message is one line."""


class Unrecorded(Refused):
    """There is nothing to look into."""


@dataclass(frozen=True)
class Status:
    """
    A process, as /proc/PID/status and stat show it to everybody.

    Args:
        pid: As we see it.
        own_pid: As the process sees it itself; in a container another.
        uids, gids: Real, effective and saved.
        start: Field 22 of its stat, which tells a reused pid from the same process.
        state: One letter: R running, S sleeping, T stopped, Z zombie, ...
        threads: Of the operating system, recorded or not.
        handled_signals: Whether it has handlers that may do something to locks.
        asleep: How often each thread has gone to sleep, by id, if all of them sleep; None if one runs, is about to, or
            is stopped.
    """

    pid: int
    own_pid: int
    start: int
    state: str
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    capabilities: int
    threads: int
    handled_signals: bool
    asleep: frozenset[tuple[str, str]] | None

    @property
    def is_stopped(self) -> bool:
        """By SIGSTOP, or by a debugger."""
        return self.state in ("T", "t")


class Process(NamedTuple):
    """
    A line of the list of all processes.

    Args:
        start: Field 22 of its stat, which tells a reused pid.
        stack: Where its stack begins, field 28; 0: not told. A fork keeps it, and exec changes it where addresses are
            randomised.
    """

    parent: int
    start: int
    stack: int = 0


def read_process(pid: int) -> Process | None:
    """
    Look at a process; None if it has ended, also if its parent has yet to look, or is hidden.

    Raises:
        OSError: It cannot be looked at for want of a descriptor or of memory: it may well be alive.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read(4096).rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    if len(fields) <= 25 or fields[0] in (b"Z", b"X"):
        return None
    return Process(int(fields[1]), int(fields[19]), int(fields[25]))


def processes() -> dict[int, Process]:
    """
    All processes that /proc shows, but those that have ended and whose parent has yet to look.

    None at all where one cannot be looked at for want of a descriptor or of memory: it may well be alive.
    """
    found: dict[int, Process] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return found
    for name in names:
        if not name.isdigit():
            continue
        try:
            process = read_process(int(name))
        except OSError:
            return {}
        if process is not None:
            found[int(name)] = process
    return found


def read_status(pid: int) -> Status:
    """
    Look at a process.

    Raises:
        Refused: There is none, it has ended, or /proc does not show it.
    """
    try:
        lines = _read_lines(f"/proc/{pid}/status")
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, field 2, is in parentheses and may hold anything, also parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        raise Refused(_why_absent(pid)) from None
    except OSError as exc:
        raise Refused(f"process {pid} cannot be looked at: {exc.strerror}") from None
    try:
        status = Status(
            pid=pid,
            own_pid=int(lines.get("NSpid", str(pid)).split()[-1]),
            start=int(fields[19]),
            state=fields[0].decode(),
            uids=tuple(map(int, lines["Uid"].split()[:3])),
            gids=tuple(map(int, lines["Gid"].split()[:3])),
            capabilities=int(lines.get("CapPrm", "0"), 16),
            threads=int(lines["Threads"]),
            handled_signals=any(
                int(lines.get("SigCgt", "0"), 16) >> (number - 1) & 1
                for number in range(1, 65)
                if number not in _HARMLESS_SIGNALS
            ),
            asleep=_asleep(pid),
        )
        if int(lines["Tgid"]) != pid:
            raise Refused(f"{pid} is a thread of process {int(lines['Tgid'])}: give the process")
    except (KeyError, IndexError, ValueError):
        raise Refused(f"process {pid} cannot be looked at: /proc/{pid}/status is not as expected") from None
    if status.state in ("Z", "X"):
        raise Refused(f"process {pid} has ended; its parent has not fetched its status yet")
    return status


def _read_lines(path: str) -> dict[str, str]:
    with open(path, "rb") as file:
        text = file.read().decode("utf-8", "replace")
    return dict(line.partition(":")[::2] for line in text.split("\n"))


def _asleep(pid: int) -> frozenset[tuple[str, str]] | None:
    threads = set()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            lines = _read_lines(f"/proc/{pid}/task/{thread}/status")
            if not lines["State"].strip().startswith("S"):
                return None
            threads.add((thread, lines["voluntary_ctxt_switches"]))
    except (OSError, KeyError):
        return None
    return frozenset(threads)


def _why_absent(pid: int) -> str:
    if not os.path.exists("/proc/self/status"):
        return "there is no /proc here, through which processes are looked into"
    try:
        os.kill(pid, 0)
    except PermissionError:
        return f"process {pid} is of another user, and /proc hides it (hidepid): run this as that user or as root"
    except (ProcessLookupError, OverflowError):
        return f"there is no process {pid}"
    except OSError:
        pass
    return f"/proc does not show process {pid}"


def why_refused(status: Status) -> str:
    """The right that is missing, after the kernel has refused to open the process's descriptors or mappings."""
    pid, ours = status.pid, _own_status()
    uid, own_uid = status.uids[1], ours.uids[1]
    if ours.capabilities >> CAP_SYS_PTRACE & 1:
        return (
            f"process {pid} may not be read although you have CAP_SYS_PTRACE: it is in a user namespace that is not "
            "yours, or a security module forbids it"
        )
    needed = "run this as root (with CAP_SYS_PTRACE)"
    if own_uid == 0:
        needed = "root lacks CAP_SYS_PTRACE here, give it that (`docker run --cap-add SYS_PTRACE`)"
    if set(status.uids) != {own_uid}:
        return f"process {pid} runs as uid {uid}, you are uid {own_uid}: run this as uid {uid}, or {needed}"
    if set(status.gids) != {ours.gids[1]}:
        return f"process {pid} runs as gid {status.gids[1]}, you are gid {ours.gids[1]}: {needed}"
    if _owner(f"/proc/{pid}/maps") != uid:
        return f"process {pid} is not dumpable (it has changed its user, or asked for that with prctl): {needed}"
    if status.capabilities & ~ours.capabilities:
        return f"process {pid} has capabilities that you lack: {needed}"
    return f"process {pid} may not be read: it is in another user namespace, or a security module forbids it; {needed}"


def why_no_memory(why_no_file: str) -> str:
    """The right that is missing, after the kernel has refused to open the process's memory but not its mappings."""
    as_root = "run this as root (with CAP_SYS_PTRACE)"
    scope = _yama_scope()
    who = {1: f"only its parents may: {as_root}", 2: f"only root may: {as_root}", 3: "nobody may"}
    way = f"kernel.yama.ptrace_scope is {scope}, {who[scope]}" if scope in who else as_root
    return f"{why_no_file}; nor may you read its memory: {way}"


def switched_off(pid: int) -> str | None:
    """The switch in the process's environment that keeps tracedthread out, as `NAME=value`."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = dict(item.partition(b"=")[::2] for item in file.read(1 << 20).split(b"\0"))
    except OSError:
        return None
    for name in _SWITCHES:
        value = variables.get(name, b"").decode("utf-8", "replace").strip()
        off = value.lower() not in ("", "0", "false", "no", "off")
        if name == _SWITCHES[1]:
            off = value.lower() == "true"
        elif name == _SWITCHES[2]:
            off = bool({"tracedthread", "*"} & {item.strip() for item in value.split(",")})
        if off:
            return f"{name.decode()}={value if value.isprintable() else '?'}"
    return None


def _own_status() -> Status:
    status = read_status(os.getpid())
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        effective = next((line.split()[1] for line in file if line.startswith("CapEff:")), "0")
    return Status(**{**vars(status), "capabilities": int(effective, 16)})


def _owner(path: str) -> int:
    """Of a process that is not dumpable, root."""
    try:
        return os.stat(path).st_uid
    except OSError:
        return -1


def _yama_scope() -> int:
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def identify(file: SupportsFileno | int) -> tuple[int, int] | None:
    """Which file or socket is open, whatever its number; None if it is not open any more."""
    try:
        status = os.fstat(file if isinstance(file, int) else file.fileno())
    except OSError:
        return None
    return status.st_dev, status.st_ino


def close_ours(ours: socket, known: tuple[int, int] | None) -> None:
    """Close a socket that was `known` as this one, unless its number is by now that of something of the program's."""
    if identify(ours) == known:
        ours.close()
    else:
        ours.detach()
