"""
An HTTP endpoint that answers one path: one thread, started and kept by the interpreter's own primitives.

It serves one request after the other, each within a few seconds; half a request soon makes way for the next. A forked
child does not have it, and closes what it inherits.
"""

from __future__ import annotations

import io
import os
import select
import socket
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol
from urllib.parse import urlsplit

from tracedthread import _settings, _unsignalled
from tracedthread._original import originals
from tracedthread.procfs import close_ours, identify

__all__ = ["PATH", "Server", "bind"]

PATH = "/metrics"
REQUEST_S = 3.0
#: So long a client that has not sent all of its request is waited for when another one has come.
GIVE_WAY_S = 0.5

#: Content type and body, for a query and what the client accepts.
Answer = Callable[[str, str], "tuple[str, bytes]"]


class Side(Protocol):
    """What the thread looks after as well: it calls `receive` when there is something to read, until that is False."""

    def fileno(self) -> int: ...
    def receive(self) -> bool: ...
    def close(self) -> None: ...


def bind(address: str) -> socket.socket:
    """
    A socket that listens at `ADDR:PORT`, `:PORT` or `PORT`; without an address it is loopback's.

    Raises:
        ValueError: It is no address.
        OSError: It is taken, or not ours.
    """
    host, _, port = _settings.parse_address(address).rpartition(":")
    family, kind, protocol, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # some kernels have it not
            # Who connects and says nothing is not even accepted, and keeps nobody up.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, round(REQUEST_S))
        listener.bind(where)
        listener.listen(16)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


class Server:
    """
    The endpoint.

    Args:
        listener: Bound; from now on the server's.
        side: Likewise.

    Attributes:
        listener: As given.
        failures: Requests that were not served.
    """

    def __init__(self, listener: socket.socket, answer: Answer, side: Side) -> None:
        self.answer = answer
        self.failures = 0
        self._side = side
        self.listener = listener
        self._listener_is = identify(listener)
        self._connection: socket.socket | None = None
        self._connection_is = self._listener_is
        self._ended = originals.allocate_lock()
        self._ended.acquire()
        self._pid = os.getpid()
        _live.add(self)
        _unsignalled.start(self._run)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self.listener.getsockname()[:2]
        return host, port

    def close(self, timeout_s: float = 1.0) -> None:
        """Listen no more. Does nothing in a forked child."""
        if self._pid != os.getpid() or self not in _live:
            return
        _live.discard(self)
        if identify(self.listener) == self._listener_is:
            with suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        if self._ended.acquire(timeout=timeout_s):
            self._side.close()
        close_ours(self.listener, self._listener_is)

    def _run(self) -> None:
        listener, side = self.listener.fileno(), self._side.fileno()
        poll = select.poll()  # not select(), which knows no descriptor above 1023
        poll.register(listener, select.POLLIN)
        poll.register(side, select.POLLIN)
        try:
            while True:
                ready = {fd for fd, _ in poll.poll()}
                if side in ready and not self._side.receive():
                    poll.unregister(side)
                if listener in ready:
                    # The program may have closed it, and given its number to a socket of its own.
                    if self not in _live or identify(self.listener) != self._listener_is:
                        return
                    try:
                        self._serve()
                    except Exception:
                        self.failures += 1
                        time.sleep(0.1)  # no descriptor is free, say: do not spin
        finally:
            self._ended.release()

    def _serve(self) -> None:
        connection, client = self.listener.accept()
        self._connection, self._connection_is = connection, identify(connection)
        try:
            connection.settimeout(REQUEST_S)
            _Handler(connection, client, self)  # type: ignore[arg-type]  # which is no server of the library's
        except Exception:  # gone, too slow, or talks something else
            self.failures += 1
        finally:
            self._connection = None
            connection.close()

    def _after_fork(self) -> None:
        close_ours(self.listener, self._listener_is)
        if self._connection is not None:
            close_ours(self._connection, self._connection_is)
        self._connection = None


class _InTime(io.RawIOBase):
    """What a client sends within REQUEST_S, however slowly, or until others have waited for it for GIVE_WAY_S."""

    def __init__(self, connection: socket.socket, listener: socket.socket) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + REQUEST_S
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._others = listener.fileno()
        self._poll.register(self._others, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while (left := self._deadline - time.monotonic()) > 0:
            ready = {fd for fd, _ in self._poll.poll(left * 1000)}
            if self._others in ready:
                self._deadline = min(self._deadline, time.monotonic() + GIVE_WAY_S)
                self._poll.unregister(self._others)
            if self._connection.fileno() in ready:
                return self._connection.recv_into(buffer)
        raise TimeoutError


class _Handler(BaseHTTPRequestHandler):
    """One request, one answer."""

    server: Server  # type: ignore[assignment]
    server_version = "tracedthread"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_InTime(self.connection, self.server.listener), 8192)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path != PATH:
            self.send_error(404, f"Metrics are at {PATH}")
            return
        try:
            content_type, body = self.server.answer(url.query, self.headers.get("Accept", ""))
        except Exception:
            self.server.failures += 1
            self.send_error(500)
            return
        self.connection.settimeout(REQUEST_S)
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: stderr is the program's."""


_live: weakref.WeakSet[Server] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for server in list(_live):
        server._after_fork()
        _live.discard(server)


os.register_at_fork(after_in_child=_after_fork_in_child)
