"""
One profile to Pyroscope: where to, as who, and what became of it.

It goes to `push.v1.PusherService/Push`, Connect's call in JSON, which Grafana Alloy takes, too. There the name of a
profile is a label, so that what Grafana has to look for is certain: `mutex:delay:nanoseconds:contentions:count` and
`mutex:contentions:count:contentions:count`.

Sources: api/push/v1/push.proto and pkg/distributor/distributor.go in github.com/grafana/pyroscope.
"""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Mapping
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from socket import SOCK_STREAM, getaddrinfo, socket
from urllib.parse import unquote, urlsplit

from tracedthread import __version__
from tracedthread.procfs import identify

__all__ = ["Lost", "NotTaken", "Pusher"]

PATH = "/push.v1.PusherService/Push"
#: An answer is `{}`; of what another server says no more is read.
_ANSWER_BYTES = 1 << 16
# Whoever answers so has kept nothing. Of other errors that is not known, or another attempt is of no use.
_NOT_TAKEN = (401, 403, 404, 408, 425, 429, 503)
_MAX_LABEL = 1024


class NotTaken(Exception):
    """It has certainly not arrived, and may be sent again. The message says why, and shows no secret."""


class Lost(Exception):
    """It was refused, or nobody knows whether it has arrived: sent again it might count twice."""


class Pusher:
    """
    Pushes to one server, each time over a connection of its own, so that no process has another one's.

    Args:
        url: As `_settings.parse_push_url` gives it; what stands before an `@` is a user's name and password.
        headers: More of them, such as the tenant.

    Attributes:
        shown: The URL without secrets.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(url)
        self._is_secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port
        self._path = parts.path.rstrip("/") + PATH
        self.shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._headers = {"User-Agent": f"tracedthread/{__version__}", "Content-Type": "application/json"}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        self._headers.update(headers or {})
        self._headers["Connection"] = "close"
        self._open: tuple[socket, tuple[int, int] | None] | None = None
        # What would be imported at the first push, is now: at exit it would be too late.
        "localhost".encode("idna")
        self._tls = None
        if self._is_secure:
            import ssl

            self._tls = ssl.create_default_context()

    def push(self, profile: bytes, labels: Mapping[str, str], timeout_s: float) -> None:
        """
        Push a profile.

        Args:
            labels: Of the series.
            timeout_s: For the connection, and again for each piece of the answer.

        Raises:
            NotTaken: As it says.
            Lost: As it says.
        """
        series = [{"name": name, "value": value[:_MAX_LABEL]} for name, value in labels.items()]
        # A sample without an id was refused by some releases.
        sample = {"rawProfile": base64.b64encode(profile).decode(), "ID": str(uuid.uuid4())}
        body = json.dumps({"series": [{"labels": series, "samples": [sample]}]}).encode()
        try:
            with closing(self._connection(timeout_s)) as connection:
                status, content_type = self._exchange(connection, body)
        finally:
            self._open = None
        if 300 <= status < 400 or status in _NOT_TAKEN:
            raise NotTaken(f"HTTP {status}")
        if status != 200:
            raise Lost(f"HTTP {status}")
        if not content_type.startswith("application/json"):  # anything answers a POST with a page
            raise Lost("what answers is not Pyroscope")

    def after_fork(self) -> None:
        """In a child: close what a push of the parent's has open here, too. That goes on there."""
        opened, self._open = self._open, None
        if opened is not None and identify(opened[0]) == opened[1]:  # else the number is something else's by now
            with suppress(OSError):
                os.close(opened[0].detach())  # `close` would wait for the answer's file to be closed

    def _connection(self, timeout_s: float) -> HTTPConnection:
        connection: HTTPConnection
        if self._is_secure:
            connection = HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._tls)
        else:
            connection = HTTPConnection(self._host, self._port, timeout=timeout_s)
        try:
            connection.sock = self._connect(connection.port, timeout_s)
        except (OSError, ValueError) as exc:  # ValueError: no such name can be
            raise NotTaken(_in_words(exc)) from None
        return connection

    def _connect(self, port: int, timeout_s: float) -> socket:
        # Not by the library: a fork has to know of the socket while it is still being connected.
        failure = OSError("no address")
        for family, kind, protocol, _, address in getaddrinfo(self._host, port, type=SOCK_STREAM):
            connected = self._keep(socket(family, kind, protocol))
            try:
                connected.settimeout(timeout_s)
                connected.connect(address)
                if self._tls is not None:
                    secure = self._tls.wrap_socket(connected, server_hostname=self._host, do_handshake_on_connect=False)
                    connected = self._keep(secure)
                    secure.do_handshake()
                return connected
            except OSError as exc:
                connected.close()
                failure = exc
        raise failure

    def _keep(self, opened: socket) -> socket:
        self._open = opened, identify(opened)
        return opened

    def _exchange(self, connection: HTTPConnection, body: bytes) -> tuple[int, str]:
        try:
            connection.request("POST", self._path, body, self._headers)
            response = connection.getresponse()
            response.read(_ANSWER_BYTES)
        except (OSError, HTTPException, ValueError) as exc:
            raise Lost(_in_words(exc)) from None
        return response.status, response.headers.get("Content-Type", "").lower()


def _in_words(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    if isinstance(exc, OSError):
        return (exc.strerror or type(exc).__name__).lower()
    return "what answers does not speak HTTP" if isinstance(exc, HTTPException) else type(exc).__name__
