"""
The bill of each request of a WSGI or ASGI application: in its response, and for its access log.

    app = tracedthread.middleware.WSGIMiddleware(app)

The response gets a header such as `Server-Timing: lock;dur=12.3, gil;dur=0.1` (milliseconds, up to the moment when it
starts), which browsers and proxies show. The application and the access log find the `tracedthread.Bill` itself, which
goes on until the request is over, in `environ["tracedthread.bill"]` or `scope["tracedthread.bill"]`. Where nothing is
recorded there is no header, and the bill is printed as `-`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
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
        if not self.server_timing or not bill.recorded:
            return self.app(environ, start_response)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            given = () if exc_info is None else (exc_info,)
            return start_response(status, [*headers, (HEADER, bill.server_timing())], *given)

        return self.app(environ, start)


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
            if message["type"] == "http.response.start" and self.server_timing and bill.recorded:
                header = (HEADER.lower().encode(), bill.server_timing().encode())
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        with bill:
            await self.app({**scope, KEY: bill}, receive, send_with_header)
