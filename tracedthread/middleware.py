"""
The bill of each request of a WSGI or ASGI application: in its response, on its span, and for its access log.

    app = tracedthread.middleware.WSGIMiddleware(app)

The response gets a header such as `Server-Timing: lock;dur=12.3, gil;dur=0.1` (milliseconds, up to the moment when it
starts), which browsers and proxies show. The application and the access log find the `tracedthread.Bill` itself, which
goes on until the request is over, in `environ["tracedthread.bill"]` or `scope["tracedthread.bill"]`. Where nothing is
recorded there is no header, and the bill is printed as `-`.

If the program uses OpenTelemetry, the span around us, or else the server's span that the application makes itself, has
the bill as `tracedthread.lock.wait.time`, `tracedthread.gil.wait.time` and `tracedthread.lock.blocked_others.time`: up
to the end of the request, or of the span if that is earlier.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping, Sized
from typing import Any

from tracedthread.billing import Bill

__all__ = ["ASGIMiddleware", "WSGIMiddleware"]

KEY = "tracedthread.bill"
HEADER = "Server-Timing"

_Start = Callable[..., Any]
_WSGI = Callable[[dict[str, Any], _Start], Iterable[bytes]]
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_ASGI = Callable[[MutableMapping[str, Any], _Receive, _Send], Awaitable[None]]


class WSGIMiddleware:
    """
    Bills what the request's thread waits.

    The bill is never closed: what reads it when the response has been sent, such as an access log, finds all of it. For
    gunicorn: `--access-logformat '%(r)s %(s)s %({tracedthread.bill}e)s'`.

    Args:
        app: The application.
        server_timing: Whether to add the header; one that the application sends itself stays.

    Source: PEP 3333.
    """

    def __init__(self, app: _WSGI, *, server_timing: bool = True) -> None:
        self.app = app
        self.server_timing = server_timing

    def __call__(self, environ: dict[str, Any], start_response: _Start) -> Iterable[bytes]:
        """Handle a request."""
        environ[KEY] = bill = Bill().__enter__()
        if not bill.recorded:
            return self.app(environ, start_response)
        span = _Span(bill)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            span.response_starts()
            given = () if exc_info is None else (exc_info,)
            if self.server_timing:
                headers = [*headers, (HEADER, bill.server_timing())]
            return start_response(status, headers, *given)

        try:
            body = self.app(environ, start)
        finally:
            span.tell()
        file_wrapper = environ.get("wsgi.file_wrapper")
        is_done = isinstance(body, (list, tuple)) or (isinstance(file_wrapper, type) and isinstance(body, file_wrapper))
        if is_done or not span.is_recording():
            return body
        return _SizedBody(body, span) if isinstance(body, Sized) else _Body(body, span)


class ASGIMiddleware:
    """
    Bills what the event loop's thread waits while the request is under way.

    A loop that waits keeps all its requests waiting, so each of them is billed for it. What an endpoint does in other
    threads (a thread pool) is not in this bill: use `tracedthread.bill()` there.

    Args:
        app: The application.
        server_timing: Whether to add the header; one that the application sends itself stays.

    Source: https://asgi.readthedocs.io/en/latest/specs/www.html
    """

    def __init__(self, app: _ASGI, *, server_timing: bool = True) -> None:
        self.app = app
        self.server_timing = server_timing

    async def __call__(self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send) -> None:
        """Handle a request, a websocket or what else there is."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        bill = Bill()

        async def send_with_header(message: _Message) -> None:
            if message["type"] == "http.response.start" and bill.recorded:
                span.response_starts()
                if self.server_timing:
                    header = (HEADER.lower().encode(), bill.server_timing().encode())
                    message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        with bill:
            span = _Span(bill)
            try:
                await self.app({**scope, KEY: bill}, receive, send_with_header)
            finally:
                span.tell()


class _Span:
    """The request's span, if there is one, and what it is told."""

    def __init__(self, bill: Bill) -> None:
        self._bill = bill
        self._span = _current_span()

    def is_recording(self) -> bool:
        """Whether there is one that listens."""
        return _is_recording(self._span)

    def response_starts(self) -> None:
        """The last moment at which a span that was made inside the application is sure to be seen."""
        if self._span is None:
            span = _current_span()
            # Of the sending of this message there may be a span, too.
            if getattr(getattr(span, "kind", None), "name", "") == "SERVER":
                self._span = span
        self.tell()

    def tell(self) -> None:
        """Put the bill so far on it."""
        if self._bill.recorded and self.is_recording():
            with contextlib.suppress(Exception):  # telemetry's; the request goes on
                self._span.set_attributes(self._bill.attributes())


def _current_span() -> Any:
    # Who uses OpenTelemetry has it loaded.
    trace = sys.modules.get("opentelemetry.trace")
    with contextlib.suppress(Exception):  # it is just being imported; or see `tell`
        span = None if trace is None else trace.get_current_span()
        return span if _is_recording(span) else None
    return None


def _is_recording(span: Any) -> bool:
    with contextlib.suppress(Exception):
        return span is not None and bool(span.is_recording())
    return False


class _Body:
    """A body that is made while it is sent."""

    def __init__(self, body: Iterable[bytes], span: _Span) -> None:
        self._body = body
        self._span = span

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """The request is over."""
        try:
            if (close := getattr(self._body, "close", None)) is not None:
                close()
        finally:
            self._span.tell()


class _SizedBody(_Body):
    """One with a length; where that is 1, servers may say how long the response is."""

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]
