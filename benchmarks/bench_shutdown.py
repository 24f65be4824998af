"""
How much later a program ends because its telemetry is exported: by a healthy collector, and by one in trouble.

    python benchmarks/bench_shutdown.py [--rounds 9] [--no-gate]

A program with some waits prints a line as its last act; timed is from there until the process is gone, against the same
program recorded without export. The ways take turns. Exit status 1 if a budget is exceeded.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import threading, time
lock = threading.Lock()
def hold():
    for _ in range(20):
        with lock: time.sleep(0.005)
threads = [threading.Thread(target=hold) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("done", flush=True)
"""
LIMIT_S = 60
HEALTHY_MS, TROUBLED_MS = 200.0, 2000.0


def handler(status: int, delay_s: float) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(delay_s)
            with contextlib.suppress(OSError):  # the client has gone
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextlib.contextmanager
def collector(status: int = 200, delay_s: float = 0.0) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(status, delay_s))
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def ending_ms(program: Path, *options: str) -> float:
    command = [sys.executable, "-m", "tracedthread", "run", "-q", *options, program.name]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("TRACEDTHREAD_", "OTEL_"))}
    env["TRACEDTHREAD_ROOT_SPAN_THRESHOLD_MS"] = "1"
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=program.parent, env=env, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        said = process.stdout.readline()
        printed = time.perf_counter()
        status = process.wait(LIMIT_S)
        took_ms = (time.perf_counter() - printed) * 1e3
        errors = process.stderr.read()
    # What is not delivered is said; that nothing is exported at all must not pass for quick.
    assert (said, status) == ("done\n", 0) and "no telemetry" not in errors, errors
    return took_ms


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="turns of each (default: %(default)s)")
    parser.add_argument("--no-gate", action="store_true", help="exit 0 whatever comes out")
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, {options.rounds} rounds, load {os.getloadavg()[0]:.1f}\n")
    with (
        tempfile.TemporaryDirectory() as folder,
        collector() as healthy,
        collector(503) as refusing,
        collector(delay_s=10) as slow,
        socket.socket() as full,
    ):
        program = Path(folder, "program.py")
        program.write_text(PROGRAM, encoding="utf-8")
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # accepted by nobody
        port = full.getsockname()[1]
        ways: dict[str, tuple[str | None, float]] = {
            "not exported": (None, 0.0),
            "healthy": (healthy, HEALTHY_MS),
            "down": ("http://127.0.0.1:1", TROUBLED_MS),
            "503": (refusing, TROUBLED_MS),
            "answers after 10 s": (slow, TROUBLED_MS),
            "never answers": (f"http://127.0.0.1:{port}", TROUBLED_MS),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, (endpoint, _) in ways.items():
                times[way].append(ending_ms(program, *([f"--otlp-endpoint={endpoint}"] if endpoint else [])))
    print(f"{'ms from the last line to the end':34} {'median':>7} {'most':>7} {'added':>7}  budget")
    missed = False
    for way, (endpoint, budget) in ways.items():
        line = f"{way:34} {statistics.median(times[way]):7.1f} {max(times[way]):7.1f}"
        if endpoint is not None:
            added = statistics.median(ours - plain for ours, plain in zip(times[way], times["not exported"]))
            missed |= added > budget
            line += f" {added:7.1f}  <= {budget:.0f} {'ok' if added <= budget else 'MISSED'}"
        print(line, flush=True)
    return 1 if missed and not options.no_gate else 0


if __name__ == "__main__":
    sys.exit(main())
