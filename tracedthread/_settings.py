"""
What the environment asks for: the switches that keep tracedthread out, and the TRACEDTHREAD_* settings.

A value that cannot be read costs one line on stderr and the default; it never stops a program.

    TRACEDTHREAD_DISABLED=1              stay out: `_thread` is stock, the native code is not loaded
    OTEL_SDK_DISABLED=true               the same
    OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=tracedthread,...   the same
    TRACEDTHREAD_ENABLE=1                record from the start of every interpreter that has our `.pth`
    TRACEDTHREAD_OUTPUT=FILE             where the capture goes; %p is the process id (default: memory)
    TRACEDTHREAD_CAPTURE_BYTES=N         its size; k, M or G may follow (default: about 8M)
    TRACEDTHREAD_EVENT_THRESHOLD_MS=N    waits at least this long are also kept one by one (default: 1)
    TRACEDTHREAD_DEADLOCK_AFTER_S=N      waits this long look for a deadlock they are part of; 0: none does (default: 5)
    TRACEDTHREAD_FOLLOW_FORK=1           forked children record to files beside it
    TRACEDTHREAD_AUDIT_TRAIL=1           keep who started which thread, from where and when

Of telemetry, which is told only once OpenTelemetry or Prometheus is set up:

    TRACEDTHREAD_SPAN_THRESHOLD_MS=N         waits at least this long in a sampled trace become spans (default: 1)
    TRACEDTHREAD_ROOT_SPAN_THRESHOLD_MS=N    waits at least this long outside any trace become spans (default: 100)
    TRACEDTHREAD_SPANS_PER_SECOND=N          no more than these, the longest; 0: none (default: 1000)
    TRACEDTHREAD_METRICS_TOP=N               locks with metrics of their own, the worst ones (default: 20)
    TRACEDTHREAD_THREAD_START_LOGS=1         thread starts are OpenTelemetry log events
    TRACEDTHREAD_OTLP_HISTOGRAMS=0           no histograms by OTLP beside the program's own metrics, or with 1: do
    TRACEDTHREAD_OTLP=1                      `tracedthread run` exports by OTLP: its --otlp
    TRACEDTHREAD_OTLP_ENDPOINT=URL           where to: its --otlp-endpoint (default: what OTEL_EXPORTER_OTLP_* say)
    TRACEDTHREAD_PROMETHEUS_LISTEN=ADDR:PORT where it serves metrics: its --prometheus-listen
    TRACEDTHREAD_PYROSCOPE_URL=URL           where blame is pushed as a profile: its --pyroscope-url
    TRACEDTHREAD_PYROSCOPE_HEADERS=K=V,K=V   more headers for that, values percent-encoded, such as X-Scope-OrgID=shop
    TRACEDTHREAD_PYROSCOPE_INTERVAL_S=N      how often (default: 15)
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

__all__ = [
    "MAX_SECONDS",
    "MIN_CAPTURE_BYTES",
    "NEXT_DISTRO",
    "audit_trail",
    "capture_bytes",
    "deadlock_after_s",
    "disabled_by",
    "event_threshold_ms",
    "follow_fork",
    "metrics_top",
    "otlp",
    "otlp_endpoint",
    "otlp_histograms",
    "output",
    "parse_address",
    "parse_bytes",
    "parse_push_url",
    "parse_url",
    "prometheus_listen",
    "pyroscope_headers",
    "pyroscope_interval_s",
    "pyroscope_url",
    "root_span_threshold_ms",
    "say",
    "span_threshold_ms",
    "spans_per_second",
    "thread_start_logs",
    "write",
]

#: Below this a capture has no room for anything that helps.
MIN_CAPTURE_BYTES = 192 * 1024
#: More could not be read back; see `capture.MAX_BYTES`.
MAX_CAPTURE_BYTES = 1 << 30
MAX_SECONDS = 1e9

#: Which distro of OpenTelemetry `opentelemetry-instrument` was asked for, from `otel.environment` to `otel.distro`.
NEXT_DISTRO = "_TRACEDTHREAD_OTEL_PYTHON_DISTRO"

_FALSE = ("", "0", "false", "no", "off")
_TRUE = ("1", "true", "yes", "on")


_said: set[tuple[int, str]] = set()


def say(text: str) -> None:
    """
    Print one line on stderr, if there is one to print on, and the same one only once.

    (Up to 3.12 `.pth` files of a virtual environment are run twice.)
    """
    line = f"tracedthread: {' '.join(text.split())}\n"
    if (os.getpid(), line) in _said:
        return
    _said.add((os.getpid(), line))
    try:  # noqa: SIM105  contextlib is not loaded by every start
        write(sys.stderr, line)
    except Exception:  # closed, full, or something of the program's own: it must not fail over our line
        pass


def write(stream: TextIO | None, text: str) -> None:
    """
    Write to a standard stream past its buffer.

    What a buffer cannot get rid of at exit changes the exit status to 120.

    Raises:
        OSError, ValueError: It cannot be written to.
    """
    if stream is None:
        return
    flush = getattr(stream, "flush", lambda: None)
    flush()
    try:
        descriptor = stream.fileno()
    except (OSError, AttributeError, ValueError):  # the program has put something of its own in its place
        stream.write(text)
        flush()
        return
    data = text.encode(stream.encoding or "utf-8", "backslashreplace")
    while data:
        data = data[os.write(descriptor, data) :]


def disabled_by() -> str | None:
    """The switch that keeps tracedthread out, as `NAME=value`, or None."""
    value = os.environ.get("TRACEDTHREAD_DISABLED", "")
    if value.strip().lower() not in _FALSE:  # anything else: someone wants us out
        return f"TRACEDTHREAD_DISABLED={value}"
    value = os.environ.get("OTEL_SDK_DISABLED", "")
    if value.strip().lower() == "true":  # the specification knows no other word
        return f"OTEL_SDK_DISABLED={value}"
    value = os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "")
    if {"tracedthread", "*"} & {name.strip() for name in value.split(",")}:
        return f"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS={value}"
    return None


def follow_fork() -> bool:
    """Whether forked children get files of their own."""
    return _flag("TRACEDTHREAD_FOLLOW_FORK")


def audit_trail() -> bool:
    """Whether thread starts are kept one by one."""
    return _flag("TRACEDTHREAD_AUDIT_TRAIL")


def output() -> str | None:
    """The capture's path (%p not yet replaced), or None for memory."""
    return os.environ.get("TRACEDTHREAD_OUTPUT") or None


def capture_bytes() -> int | None:
    """The capture's size in bytes, or None for the default."""
    value = os.environ.get("TRACEDTHREAD_CAPTURE_BYTES", "")
    if not value:
        return None
    try:
        return parse_bytes(value)
    except ValueError as exc:
        say(f"TRACEDTHREAD_CAPTURE_BYTES: {exc}; using the default")
        return None


def event_threshold_ms() -> float | None:
    """From how many milliseconds on a wait is kept as an event, or None for the default."""
    return _number("TRACEDTHREAD_EVENT_THRESHOLD_MS", 1e9, "milliseconds")


def deadlock_after_s() -> float | None:
    """After how many seconds of waiting a thread looks for a deadlock, 0 for never, or None for the default."""
    return _number("TRACEDTHREAD_DEADLOCK_AFTER_S", MAX_SECONDS, "seconds")


def span_threshold_ms(given: object = None) -> float:
    """
    From how many milliseconds on a wait inside a sampled trace becomes a span.

    Args:
        given: By who sets us up, in code or in a file; None: what the environment says. So for the next ones.
    """
    return _number_or("TRACEDTHREAD_SPAN_THRESHOLD_MS", given, 1.0, "milliseconds")


def root_span_threshold_ms(given: object = None) -> float:
    """From how many milliseconds on a wait outside any trace becomes a span, of a trace of its own."""
    return _number_or("TRACEDTHREAD_ROOT_SPAN_THRESHOLD_MS", given, 100.0, "milliseconds")


def spans_per_second(given: object = None) -> int:
    """How many spans there may be a second; 0: none."""
    return int(_number_or("TRACEDTHREAD_SPANS_PER_SECOND", given, 1000.0, "spans"))


def metrics_top(given: object = None) -> int:
    """How many locks have metrics of their own."""
    return int(_number_or("TRACEDTHREAD_METRICS_TOP", given, 20.0, "locks"))


def thread_start_logs(given: object = None) -> bool:
    """Whether thread starts are told as log events."""
    if isinstance(given, bool):
        return given
    return _flag("TRACEDTHREAD_THREAD_START_LOGS", None if given is None else str(given))


def otlp_histograms(given: object = None) -> bool | None:
    """Whether histograms are exported beside a MeterProvider of the program; None: if that seems to use OTLP."""
    if isinstance(given, bool):
        return given
    value = os.environ.get("TRACEDTHREAD_OTLP_HISTOGRAMS", "") if given is None else str(given)
    return _flag("TRACEDTHREAD_OTLP_HISTOGRAMS", value) if value else None


def otlp() -> bool:
    """Whether TRACEDTHREAD_OTLP, or an endpoint, asks to export."""
    return _flag("TRACEDTHREAD_OTLP") or otlp_endpoint() is not None


def otlp_endpoint() -> str | None:
    """Where to export to, or None for what the variables of OpenTelemetry say."""
    return _text("TRACEDTHREAD_OTLP_ENDPOINT", parse_url, "exporting to where OTEL_EXPORTER_OTLP_ENDPOINT says")


def prometheus_listen() -> str | None:
    """Where to serve metrics, as ADDR:PORT, or None for nowhere."""
    return _text("TRACEDTHREAD_PROMETHEUS_LISTEN", parse_address, "serving no metrics")


def pyroscope_url(given: object = None) -> str | None:
    """Where to push profiles to, or None for nowhere."""
    return _text("TRACEDTHREAD_PYROSCOPE_URL", parse_push_url, "pushing no profiles", given)


def pyroscope_headers() -> dict[str, str]:
    """What is sent with each push, beside what is always sent."""
    text = os.environ.get("TRACEDTHREAD_PYROSCOPE_HEADERS", "")
    try:
        return parse_headers(text)
    except ValueError as exc:
        say(f"TRACEDTHREAD_PYROSCOPE_HEADERS: {exc}; sending none of them")
        return {}


def pyroscope_interval_s() -> float:
    """Seconds from one push to the next."""
    return max(0.1, _number_or("TRACEDTHREAD_PYROSCOPE_INTERVAL_S", None, 15.0, "seconds"))


def _number(name: str, limit: float, unit: str, given: object = None) -> float | None:
    value = os.environ.get(name, "") if given is None else given
    if value == "":
        return None
    try:
        number = float(str(value))
    except ValueError:
        number = -1.0
    if not 0 <= number < limit:
        say(f"{name}: {value!r} is not a number of {unit}; using the default")
        return None
    return number


def _number_or(name: str, given: object, default: float, unit: str) -> float:
    number = _number(name, 1e9, unit, given)
    return default if number is None else number


def _text(name: str, parse: Callable[[str], str], consequence: str, given: object = None) -> str | None:
    value = os.environ.get(name, "") if given is None else str(given)
    if not value:
        return None
    try:
        return parse(value)
    except ValueError as exc:
        say(f"{name}: {exc}; {consequence}")
        return None


def parse_address(text: str) -> str:
    """
    Read `ADDR:PORT`, `:PORT` or `PORT`; without an address it is loopback's. An IPv6 address stands in brackets.

    Raises:
        ValueError: Not one.
    """
    address, _, port = text.strip().rpartition(":")
    is_plain = ":" not in address or (address[:1], address[-1:]) == ("[", "]")
    if not (is_plain and port.isascii() and port.isdigit() and int(port[:6]) < 65536):
        raise ValueError(f"{text!r} is not ADDR:PORT")
    return f"{address or '127.0.0.1'}:{int(port)}"


def parse_url(text: str) -> str:
    """
    Read where OTLP goes, such as `http://localhost:4318`; without a slash, or the path of one signal, at its end.

    Raises:
        ValueError: Not a URL of http or https.
    """
    url = text.strip().rstrip("/")
    for signal in ("traces", "metrics", "logs"):
        url = url.removesuffix(f"/v1/{signal}").rstrip("/")
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in ("http", "https") or not rest or any(character.isspace() for character in rest):
        raise ValueError(f"{text!r} is not a URL such as http://localhost:4318")
    return url


def parse_push_url(text: str) -> str:
    """
    Read where profiles go, such as `http://localhost:4040`; without a slash, or the path of a push, at its end.

    Raises:
        ValueError: Not a URL of http or https. It does not show it: there may be a password in it.
    """
    url = text.strip().rstrip("/")
    for path in ("/push.v1.PusherService/Push", "/ingest"):
        url = url.removesuffix(path).rstrip("/")
    scheme, _, rest = url.partition("://")
    address = rest.partition("/")[0].rpartition("@")[2]
    host, colon, port = address.rpartition(":") if address[-1:] != "]" else (address, "", "")
    is_port = not colon or (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536)
    is_plain = url.isprintable() and not set(" ?#") & set(url)
    if scheme.lower() not in ("http", "https") or not (host if colon else address) or not (is_port and is_plain):
        raise ValueError("not a URL such as http://localhost:4040")
    return f"{scheme.lower()}://{rest}"


def parse_headers(text: str) -> dict[str, str]:
    """
    Read `NAME=VALUE,NAME=VALUE`, values percent-encoded, as OTEL_EXPORTER_OTLP_HEADERS is written.

    Raises:
        ValueError: Not that. It shows no value: there may be a password in it.
    """
    from urllib.parse import unquote

    found = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        name, equals, value = pair.partition("=")
        name, value = name.strip(), unquote(value.strip())
        if not (equals and name.isascii() and name.replace("-", "").replace("_", "").isalnum()):
            raise ValueError("not NAME=VALUE,NAME=VALUE")
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"the value of {name} cannot be in a header")
        found[name] = value
    return found


def parse_bytes(text: str) -> int:
    """
    Read a size such as `16M`, `512k` or `1048576`.

    Raises:
        ValueError: Not a size, or outside of what a capture can be.
    """
    digits, factor = text.strip(), 1
    for suffix, power in (("k", 10), ("m", 20), ("g", 30)):
        for ending in (suffix + "ib", suffix + "b", suffix):
            if digits.lower().endswith(ending):
                digits, factor = digits[: -len(ending)].rstrip(), 1 << power
                break
        if factor > 1:
            break
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{text!r} is not a number of bytes")
    size = int(digits[:20]) * factor
    if not MIN_CAPTURE_BYTES <= size <= MAX_CAPTURE_BYTES:
        raise ValueError(f"{text!r} is not between {MIN_CAPTURE_BYTES // 1024}k and {MAX_CAPTURE_BYTES >> 30}G")
    return size


def _flag(name: str, given: str | None = None) -> bool:
    value = (os.environ.get(name, "") if given is None else given).strip().lower()
    if value in _TRUE:
        return True
    if value not in _FALSE:
        say(f"{name}: {value!r} is neither 1 nor 0; using 0")
    return False
