"""
Pyroscope as far as pushes go, for tests: takes them apart as the real one does, and can be as bad as a real one.

It refuses what the real one refuses: no name, no service, labels twice, no id, a profile without a sample type, or one
whose strings do not begin with the empty one.
"""

from __future__ import annotations

import base64
import gzip
import json
import threading
import uuid
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from tracedthread.pprof import _profile_type

PATH = "/push.v1.PusherService/Push"


class Push(NamedTuple):
    """
    A push as it was stored.

    Args:
        samples: Contentions and delay by lock and stack, innermost first.
    """

    labels: dict[str, str]
    types: list[str]
    from_ns: int
    until_ns: int
    samples: dict[tuple[str, tuple[str, ...]], tuple[int, int]]
    raw: bytes


def profile_types(message: Any, name: str) -> list[str]:
    """What Grafana selects by: name, sample type and unit, period type and unit."""
    text = message.string_table
    period = f"{text[message.period_type.type]}:{text[message.period_type.unit]}"
    return [f"{name}:{text[one.type]}:{text[one.unit]}:{period}" for one in message.sample_type]


class FakePyroscope:
    """
    Listens on loopback until the end of the `with`.

    Attributes:
        status, raw: What it answers, unless a path begins with `/well`; `raw` instead of HTTP.
        keeps: Whether it stores what it answers badly.
        pushes: What was stored.
        headers: Of each request.
        gate: While it is not set, nothing is answered.
    """

    def __init__(self, status: int = 200, *, raw: bytes | None = None, page: bool = False) -> None:
        self.status, self.raw, self.page = status, raw, page
        self.keeps = False
        self.pushes: list[Push] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.refused: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.paths.append(self.path)
                outer.headers.append(dict(self.headers))
                status = 200 if self.path.startswith("/well") else outer.status
                if status == 200 or outer.keeps:
                    try:
                        outer.pushes += take(self.path, self.headers["Content-Type"], body)
                    except (AssertionError, KeyError, ValueError) as exc:
                        outer.refused.append(repr(exc))
                        status = 400
                outer.gate.wait(60)
                if outer.raw is not None:
                    self.wfile.write(outer.raw)
                    return
                self.send_response(status)
                self.send_header("Content-Type", "text/html" if outer.page else "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # who has gone, has not waited for an answer

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Gone: who connects is refused from now on."""
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> FakePyroscope:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def total(self, lock: str | None = None) -> tuple[int, int]:
        """Contentions and delay of all pushes, of all locks or one."""
        found = [value for push in self.pushes for key, value in push.samples.items() if lock in (None, key[0])]
        return sum(holds for holds, _ in found), sum(ns for _, ns in found)


def take(path: str, content_type: str, body: bytes) -> list[Push]:
    """What is stored of a request."""
    assert path.endswith(PATH) and content_type == "application/json"
    pushes = []
    for series in json.loads(body)["series"]:
        names = [label["name"] for label in series["labels"]]
        assert len(set(names)) == len(names)
        labels = {label["name"]: label["value"] for label in series["labels"]}
        assert labels["service_name"] and labels["__name__"].isidentifier()
        assert len(bytes.fromhex(labels["__session_id__"])) == 8
        for sample in series["samples"]:
            uuid.UUID(sample["ID"])
            raw = base64.b64decode(sample["rawProfile"], validate=True)
            message = _profile_type().FromString(gzip.decompress(raw))
            assert message.string_table[0] == "" and message.sample_type and message.sample
            pushes.append(
                Push(
                    labels,
                    profile_types(message, labels["__name__"]),
                    message.time_nanos,
                    message.time_nanos + message.duration_nanos,
                    _samples(message),
                    raw,
                )
            )
    return pushes


def _samples(message: Any) -> dict[tuple[str, tuple[str, ...]], tuple[int, int]]:
    text = message.string_table
    functions = {function.id: text[function.name] for function in message.function}
    frames = {location.id: functions[location.line[0].function_id] for location in message.location}
    contentions: Counter[Any] = Counter()
    delays: Counter[Any] = Counter()
    for sample in message.sample:
        assert len(sample.value) == len(message.sample_type)
        (lock,) = [text[label.str] for label in sample.label if text[label.key] == "lock"]
        key = lock, tuple(frames[location] for location in sample.location_id)
        contentions[key] += sample.value[0]
        delays[key] += sample.value[1]
    return {key: (contentions[key], delays[key]) for key in contentions}
