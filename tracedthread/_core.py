"""
The native code: loaded when first asked for, checked, told what it must know of the standard library, and its capture.

Nothing here is on a hot path. Everything that can go wrong in an environment is raised as `Unavailable`, one line for
people; the floors above turn it into that line on stderr and a program that runs on stock.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

__all__ = ["ABI", "Core", "Subinterpreter", "Target", "Unavailable", "load", "loaded"]

#: TT_ABI of native/capture.h, which this package was written for.
ABI = 1

_PACKAGE = os.path.dirname(os.path.abspath(__file__))

# Ours that can stand in the stack of a recorded thread.
_OWN_FILES = ("__init__.py", "__main__.py", "patch.py", "_launch.py", "commands/run.py")

# Other tools' files: what is done there, with locks of theirs around others', their callers do.
# ddtrace's is compiled in its newest releases, and has no frames then.
_WRAPPER_FILES = ("*/ddtrace/profiling/collector/_lock.py",)

_CONDITION_WAIT, _CONDITION_PROBE, _POOL_MAKER = -1, -2, -3

# (file, qualified name of the code) -> the kind of waiting that goes on below it. Queue.join and Condition.wait_for are
# plain waits on a condition.
_ROLES = {
    ("threading.py", "Event.wait"): "event",
    ("threading.py", "Semaphore.acquire"): "semaphore",
    ("threading.py", "Barrier.wait"): "barrier",
    ("threading.py", "Barrier._enter"): "barrier",
    ("threading.py", "Barrier._wait"): "barrier",
    ("threading.py", "Thread.join"): "join",
    ("threading.py", "Thread._wait_for_tstate_lock"): "join",  # up to 3.12; also below _shutdown
    ("threading.py", "_shutdown"): "join",
    ("queue.py", "Queue.get"): "queue_get",
    ("queue.py", "_PySimpleQueue.get"): "queue_get",
    ("queue.py", "Queue.put"): "queue_put",
    ("concurrent/futures/_base.py", "Future.result"): "future",
    ("concurrent/futures/_base.py", "Future.exception"): "future",
    ("concurrent/futures/_base.py", "wait"): "future",
    ("concurrent/futures/_base.py", "as_completed"): "future",
}

# The same for packages, which can lie anywhere: these wait for a connection that somebody else has.
_PACKAGE_ROLES = {
    ("*/sqlalchemy/util/queue.py", "Queue.get"): "pool",
    ("*/psycopg_pool/pool.py", "WaitingClient.wait"): "pool",
    ("*/urllib3/connectionpool.py", "HTTPConnectionPool._get_conn"): "pool",
    ("*/redis/connection.py", "BlockingConnectionPool.get_connection"): "pool",
}
# A copy of `queue` as far as a reader is concerned.
_PACKAGE_HIDDEN = ("*/sqlalchemy/util/queue.py",)


class Unavailable(Exception):
    """Why recording cannot start, in one line."""


class Subinterpreter(Unavailable):
    """Only the main interpreter is recorded. No news: every subinterpreter runs `.pth` files, and there can be many."""


class Target:
    """
    A file to record to.

    Attributes:
        path: Absolute, `%p` replaced by this process's id.
        pattern: With a `%p` for the children's.

    Raises:
        OSError: The path is relative to a current directory that is gone.
        ValueError: It has a null byte.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        absolute = os.path.abspath(os.fsdecode(path))
        if "\0" in absolute:
            raise ValueError("embedded null byte")
        root, suffix = os.path.splitext(absolute)
        self.pattern = absolute if "%p" in absolute else f"{root}.%p{suffix}"
        self.path = absolute.replace("%p", str(os.getpid()))

    def of_child(self) -> Target:
        """Where the calling process, a forked child, records: `app.<pid>.ttc` beside `app.ttc`."""
        return Target(self.pattern)


class Core:
    """
    The loaded native code.

    Attributes:
        ffi, lib: of cffi; lib has the functions of native/abi.h.
        types: the module of the C types, from the same shared object.
        target: the capture's file, None for memory or when none is open.
        size: as asked for, bytes.
    """

    def __init__(self, ffi: Any, lib: Any, types: ModuleType) -> None:
        self.ffi = ffi
        self.lib = lib
        self.types: Any = types
        self.target: Target | None = None
        self.size: int | None = None

    @property
    def path(self) -> str | None:
        """Of the capture; None for memory or when none is open."""
        return self.target.path if self.target is not None else None

    @property
    def is_open(self) -> bool:
        """Whether the process has a capture."""
        return bool(self.lib.tt_capture_base() != self.ffi.NULL)

    def open(self, target: Target | None, *, force: bool = False, size: int | None = None) -> None:
        """
        Map the process's capture, or in a forked child that of the child.

        Args:
            target: A file to create; None for memory.
            size: Bytes, all sections together; None for the default.
        Raises:
            Unavailable: No capture; whatever was mapped before still is.
        """
        encoded = self.ffi.NULL if target is None else self.ffi.new("char[]", os.fsencode(target.path))
        name = (program or _program_name()).encode(errors="replace")
        python = b"%d.%d.%d" % sys.version_info[:3]
        opened = self.lib.tt_capture_open(encoded, force, self._sizes(size), name, python) == 0
        if not opened or not self.types.move_capture():
            raise Unavailable(self._error())
        self.target, self.size = target, size

    def note(self, what: str, count: int, where: list[str]) -> None:
        """Add to the capture what this recording cannot see."""
        from _json import encode_basestring_ascii as quote  # `json` itself costs 5 ms of a start

        names = ", ".join(map(quote, where))
        self.types.note_capture(f'{{"what": {quote(what)}, "count": {count}, "where": [{names}]}}'.encode())

    def refresh(self) -> None:
        """Bring names and processor times of living threads up to date in the capture."""
        self.types.refresh_threads(getattr(sys.modules.get("threading"), "_active", {}))

    def finish(self) -> None:
        """Mark the capture as ended in an orderly way."""
        if self.is_open:
            self.refresh()
            self.types.finish_capture()

    def copy(self) -> memoryview:
        """
        The capture at one moment.

        Pages that nothing was written to are not touched, neither in the mapping nor in the copy: a copy takes as much
        memory as is in use.

        Raises:
            Unavailable: There is no capture.
        """
        if not self.is_open:
            raise Unavailable("there is no capture")
        self.refresh()
        self.types.anchor_capture()
        from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

        size = self.lib.tt_capture_size()
        memory = memoryview(self.ffi.buffer(self.lib.tt_capture_base(), size))
        for _ in range(5):
            spans = self._used_spans(size)
            # One call into C that keeps the GIL (join drops it for nothing but bytes objects), so that nothing is
            # recorded in the middle.
            joined = memoryview(b"".join([memory[start:end] for start, end in spans] + [memory[:0]]))
            copied = memoryview(mmap(-1, size, MAP_PRIVATE | MAP_ANONYMOUS))  # zeros stand for what is not used
            position = 0
            for start, end in spans:
                copied[start:end] = joined[position : position + end - start]
                position += end - start
            if self._used_spans(size, copied) == spans:
                return copied
        return memoryview(b"".join([memory, memory[:0]]))

    def _used_spans(self, size: int, copied: memoryview | None = None) -> list[tuple[int, int]]:
        # Whole chunks, so that a section that grows meanwhile seldom needs a second try.
        base = self.lib.tt_capture_base() if copied is None else self.ffi.from_buffer(copied)
        header = self.ffi.cast("tt_header *", base)
        sections = self.ffi.cast("tt_section *", self.ffi.cast("char *", base) + header.header_size)
        chunk = 65536
        spans = [(0, 4096)]
        for index in range(header.section_count):
            section = sections[index]
            used = min(section.used, section.capacity) * section.record_size
            room = section.capacity * section.record_size
            end = section.offset + min(room, -(-used // chunk) * chunk)
            spans.append((min(section.offset, size), min(end, size)))
        return sorted(spans)

    def _error(self) -> str:
        text = self.lib.tt_capture_error()
        return self.ffi.string(text).decode(errors="replace") if text != self.ffi.NULL else "unknown error"

    def _sizes(self, size: int | None) -> Any:
        sizes = self.ffi.new("tt_sizes *")  # zeros: the defaults
        if size is None:
            return sizes
        # Shares of the whole; a site costs its record and its two histograms.
        shares = {"strings": 6, "frames": 4, "stacks": 4, "sites": 54, "cells": 8}
        shares |= {"threads": 6, "events": 12, "blame": 2, "starts": 2, "contended": 1, "pools": 1}
        cost = {
            "strings": 1,
            "frames": self.ffi.sizeof("tt_frame"),
            "stacks": self.ffi.sizeof("tt_stack"),
            "sites": self.ffi.sizeof("tt_site") + self.ffi.sizeof("tt_site_stats"),
            "cells": self.ffi.sizeof("tt_wait_cell"),
            "threads": self.ffi.sizeof("tt_thread_record"),
            "events": self.ffi.sizeof("tt_event"),
            "blame": self.ffi.sizeof("tt_blame_cell"),
            "starts": self.ffi.sizeof("tt_start"),
            "contended": self.ffi.sizeof("tt_contended"),
            "pools": self.ffi.sizeof("tt_pool"),
        }
        budget = size
        while True:
            for name, share in shares.items():
                setattr(sizes, name, max(4, min(budget * share // 100 // cost[name], 2**31)))
            total = self.lib.tt_capture_size_for(sizes)
            if total <= size or budget < size // 16:
                return sizes
            budget -= max(4096, total - size)


#: What captures say the program is called; None: what sys.argv says.
program: str | None = None

#: More files whose frames are hidden: the script that started `tracedthread run`. Set before the native code is loaded.
launchers: tuple[str, ...] = ()

_cores: list[Core] = []  # one, once it is loaded


def loaded() -> Core | None:
    """The native code if it was loaded."""
    return _cores[0] if _cores else None


def load() -> Core:
    """
    Load the native code, once.

    Raises:
        Unavailable: Not for this interpreter or platform, not built, or built from another version.
        Subinterpreter: This is one.
    """
    if not _cores:
        _cores.append(_load())
    return _cores[0]


def _load() -> Core:
    if sys.platform != "linux":
        raise Unavailable(f"{sys.platform} is not supported")
    if sys.implementation.name != "cpython":
        raise Unavailable(f"{sys.implementation.name} is not supported")
    import _thread

    if hasattr(_thread, "_is_main_interpreter") and not _thread._is_main_interpreter():  # 3.12
        raise Subinterpreter("this is a subinterpreter")
    try:
        from ._native import ffi, lib
    except ImportError as exc:
        raise Unavailable(f"no native code for this interpreter ({exc})") from None
    if (abi := lib.tt_abi_version()) != ABI:
        raise Unavailable(f"the native code has ABI {abi}, this package needs {ABI}: install it again")
    try:
        from . import _types as types

        types.configure(
            hidden_files=_hidden_files(), wrapper_files=_WRAPPER_FILES, roles=_roles(lib), opcodes=_opcodes()
        )
    except (ImportError, TypeError, ValueError, AttributeError) as exc:
        kind = Subinterpreter if getattr(exc, "name", None) == "subinterpreter" else Unavailable
        raise kind(f"the native types do not load ({exc})") from None
    return Core(ffi, lib, types)


def _library_file(name: str) -> str:
    # What co_filename is, or is going to be: these modules may not be imported yet, and we must not be the first to.
    module = sys.modules.get(name[:-3].replace("/", "."))
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) else os.path.join(os.path.dirname(os.__file__), name)


def _hidden_files() -> tuple[str, ...]:
    own = (os.path.join(_PACKAGE, name) for name in _OWN_FILES)
    runners = (_library_file("runpy.py"), "<frozen runpy>")  # they start every `-m`, and say nothing about it
    return (_library_file("threading.py"), _library_file("queue.py"), *_PACKAGE_HIDDEN, *runners, *launchers, *own)


def _roles(lib: Any) -> dict[tuple[str, str], int]:
    threading = _library_file("threading.py")
    places = {(_library_file(file), code): kind for (file, code), kind in _ROLES.items()} | _PACKAGE_ROLES
    roles = {place: getattr(lib, f"TT_KIND_{kind.upper()}") for place, kind in places.items()}
    roles[threading, "Condition.wait"] = _CONDITION_WAIT
    roles[threading, "Condition._is_owned"] = _CONDITION_PROBE
    roles[_library_file("concurrent/futures/thread.py"), "ThreadPoolExecutor.__init__"] = _POOL_MAKER
    return roles


def _opcodes() -> dict[str, int]:
    import opcode

    return dict(opcode.opmap)


def _program_name() -> str:
    """The program's name, no arguments."""
    argv = getattr(sys, "argv", None) or [""]
    return os.path.basename(str(argv[0])) or os.path.basename(sys.executable or "python")
