"""
What recording and exporting cost a service: requests a second, and the slowest of a hundred requests.

    python benchmarks/bench_service.py [--rounds 24] [--seconds 3] [--only flask] [--no-gate]

Flask and Django under gunicorn's gthread worker, eight threads that share a cache, each of them three times: plain;
under `tracedthread run` with everything exported (OTLP each second, a Prometheus endpoint that is read each second);
and with ddtrace's lock profiler, nothing else of ddtrace's. The load is closed: eight connections that ask again when
they are answered. The three take turns in each round, in another order each time; every few rounds all are started
anew. Reported is the geometric mean over the rounds of the ratio to the plain service, with a bootstrapped 95 %
confidence interval over the rounds. A budget that lies inside the interval is neither kept nor missed: inconclusive.
So is any after fewer than ten rounds, of which no interval can be made. Exit status 1 if one is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from service_load import Load, load

HERE = Path(__file__).resolve().parent
NEEDS = ("flask", "django", "gunicorn", "ddtrace", "opentelemetry-exporter-otlp-proto-http", "prometheus-client")
THREADS = 8
RESAMPLED = 10_000
ROUNDS_AT_LEAST = 10
START_S = 60
SERVICES = {"flask": "service_apps:flask_application()", "django": "service_apps:django_application()"}
# What only one side exports: metrics and waits tracedthread, profiles ddtrace.
PROOF = ("/v1/metrics", "lock.wait", "/profiling/v1/input")
SIDES = ("plain", "tracedthread", "ddtrace locks")


class Budget(NamedTuple):
    """A limit of a ratio."""

    limit: float
    at_least: bool

    def verdict(self, low: float, high: float, rounds: int) -> str:
        """Given a confidence interval, and of how many rounds it is."""
        if rounds < ROUNDS_AT_LEAST:
            return "inconclusive"
        if (low >= self.limit) if self.at_least else (high <= self.limit):
            return "ok"
        if (high < self.limit) if self.at_least else (low > self.limit):
            return "MISSED"
        return "inconclusive"

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:.2f}"


class Turn(NamedTuple):
    """One side in one round."""

    load: Load
    cpu_s: float  # of the service's processes

    @property
    def per_second(self) -> float:
        return self.load.per_second

    @property
    def p99_s(self) -> float:
        return self.load.percentile(99)

    @property
    def cpu_per_request_s(self) -> float:
        return self.cpu_s / len(self.load.latencies)


MEASURES: dict[str, tuple[Callable[[Turn], float], Budget | None]] = {
    "requests/s": (lambda turn: turn.per_second, Budget(0.98, at_least=True)),
    "p99": (lambda turn: turn.p99_s, Budget(1.02, at_least=False)),
    "processor time": (lambda turn: turn.cpu_per_request_s, None),
}


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """The geometric mean, and where that of the population lies with 95 % confidence: bootstrap, percentiles."""
    logs = [math.log(ratio) for ratio in ratios]
    chance = random.Random(1)
    means = sorted(sum(chance.choices(logs, k=len(logs))) / len(logs) for _ in range(RESAMPLED))
    low, high = means[int(RESAMPLED * 0.025)], means[int(RESAMPLED * 0.975) - 1]
    return math.exp(sum(logs) / len(logs)), math.exp(low), math.exp(high)


class Service:
    """One side, running."""

    def __init__(self, side: str, application: str, sink: str) -> None:
        self.port, self._metrics_port = _free_port(), _free_port()
        gunicorn = ["-k", "gthread", "--threads", str(THREADS), "--keep-alive", "60", "--log-level", "warning"]
        gunicorn += ["--bind", f"127.0.0.1:{self.port}", application]
        python = [sys.executable, "-m"]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("TRACEDTHREAD_", "OTEL_", "DD_"))}
        env |= {"SERVICE_TRACES": sink, "OTEL_METRIC_EXPORT_INTERVAL": "1000"}
        env["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [env.get("PYTHONPATH")])])
        self._ended = threading.Event()
        command = [*python, "gunicorn", *gunicorn]
        if side == "tracedthread":
            listen = f"--prometheus-listen=127.0.0.1:{self._metrics_port}"
            command = [
                *python,
                "tracedthread",
                "run",
                "-q",
                f"--otlp-endpoint={sink}",
                listen,
                "-m",
                "gunicorn",
                *gunicorn,
            ]
        elif side == "ddtrace locks":
            off = ("TRACE", "PROFILING_STACK", "PROFILING_MEMORY", "PROFILING_HEAP", "INSTRUMENTATION_TELEMETRY")
            env |= {f"DD_{name}_ENABLED": "false" for name in off}
            env |= {"DD_PROFILING_ENABLED": "true", "DD_PROFILING_LOCK_ENABLED": "true", "DD_TRACE_AGENT_URL": sink}
            command = [*python, "ddtrace.commands.ddtrace_run", *command]
        self._process = subprocess.Popen(command, cwd=HERE, env=env)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise
        if side == "tracedthread":
            threading.Thread(target=self._scrape, daemon=True).start()

    def turn(self, seconds: float) -> Turn:
        """Load it."""
        before = self._cpu_s()
        result = load(self.port, "/prices", connections=THREADS, seconds=seconds)
        return Turn(result, self._cpu_s() - before)

    def close(self) -> None:
        self._ended.set()
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                load(self.port, "/prices", connections=1, seconds=0.1)
                return
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError(f"{self._process.args!r} does not serve") from None
                time.sleep(0.1)

    def _scrape(self) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._metrics_port}/metrics", headers={"Accept": "application/openmetrics-text"}
        )
        while not self._ended.wait(1.0):
            with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:
                answer.read()

    def _cpu_s(self) -> float:
        """Of gunicorn's master and its worker."""
        pids = [self._process.pid]
        for pid in pids:
            pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split())
        ticks = 0
        for pid in pids:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _sink() -> Iterator[str]:
    command = [sys.executable, str(HERE / "service_load.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def measure(application: str, options: argparse.Namespace, sides: tuple[str, ...]) -> dict[str, list[Turn]]:
    """The turns of each side."""
    turns: dict[str, list[Turn]] = {side: [] for side in sides}
    chance = random.Random(2)
    with _sink() as sink:
        while len(turns["plain"]) < options.rounds:
            with contextlib.ExitStack() as stack:
                services: dict[str, Service] = {}
                for side in sides:
                    services[side] = Service(side, application, sink)
                    stack.callback(services[side].close)
                for service in services.values():
                    service.turn(options.seconds / 2)  # what is compiled or specialised late is by now
                for _ in range(min(options.restart, options.rounds - len(turns["plain"]))):
                    for side in chance.sample(sides, len(sides)):
                        turns[side].append(services[side].turn(options.seconds))
        with urllib.request.urlopen(sink, timeout=10) as answer:
            taken = json.load(answer)
    for what in PROOF:
        if not taken.get(what):
            raise RuntimeError(f"no {what} was exported, so nothing was measured: {taken}")
    return turns


def missing() -> list[str]:
    """Packages that are needed and not installed."""
    found = []
    for name in NEEDS:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found.append(name)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=24, help="turns of each side (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load in a turn (default: %(default)s)")
    parser.add_argument("--restart", type=int, default=6, help="rounds between two starts (default: %(default)s)")
    parser.add_argument("--only", choices=SERVICES, help="one of the services")
    parser.add_argument("--no-gate", action="store_true", help="exit 0 whatever comes out")
    options = parser.parse_args()
    if lacking := missing():
        print(f"not measured: no {', '.join(lacking)}. pip install --group bench; pip install {' '.join(lacking)}")
        return 2
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in NEEDS)
    print(f"Python {sys.version.split()[0]}, {versions}")
    machine = f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"
    print(f"{options.rounds} rounds of {options.seconds:g} s, {machine}\n")
    missed = False
    for name, application in SERVICES.items():
        if options.only not in (None, name):
            continue
        turns = measure(application, options, SIDES)
        plain = turns["plain"]
        total = sum(len(turn.load.latencies) for side in turns.values() for turn in side)
        middle = sorted(plain, key=lambda turn: turn.per_second)[len(plain) // 2]
        print(f"{name}: {total} requests; plain {middle.per_second:.0f}/s, p99 {middle.p99_s * 1e3:.1f} ms")
        for side in SIDES[1:]:
            for what, (value, budget) in MEASURES.items():
                ratios = [value(turn) / value(base) for turn, base in zip(turns[side], plain)]
                mean, low, high = interval(ratios)
                line = f"  {side:14} {what:15} {mean:6.3f}  95 % {low:.3f}-{high:.3f}"
                if budget is not None and side == "tracedthread":
                    verdict = budget.verdict(low, high, len(ratios))
                    missed |= verdict == "MISSED"
                    line += f"  {budget!s:8} {verdict}"
                print(line, flush=True)
    print(f"\nload {os.getloadavg()[0]:.1f}")
    return 1 if missed and not options.no_gate else 0


if __name__ == "__main__":
    sys.exit(main())
