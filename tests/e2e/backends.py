"""
Real back ends: an OpenTelemetry Collector, a VictoriaMetrics and a Prometheus, as tests/backends/fetch.sh got them.

The collector takes OTLP by gRPC and HTTP, gives all of it to a `Sink` of the test, metrics also to VictoriaMetrics, and
writes everything into its log in words. Prometheus reads the endpoints of services and keeps exemplars.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sink import Sink

FOLDER = Path(__file__).resolve().parents[2] / "build" / "backends"
START_S = 30


def program(name: str) -> str:
    """Its path; where it cannot be had the test is skipped and says so, but in CI it fails."""
    path = FOLDER / name
    if not path.exists():
        reason = f"NOT TESTED AGAINST A REAL BACK END: no {path}. `make backends` gets it (Debian, two minutes)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return str(path)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_for(what: str, ready: Callable[[], Any], *, timeout_s: float = START_S) -> Any:
    """What `ready` gives, once that is true."""
    deadline = time.monotonic() + timeout_s
    while not (result := ready()):
        assert time.monotonic() < deadline, f"no {what} after {timeout_s:.0f} s"
        time.sleep(0.05)
    return result


class Backend:
    """A process with a log, that is ready when `url` answers."""

    def __init__(self, command: list[str], folder: Path, ready: Callable[[], bool]) -> None:
        self.log = folder / "log"
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            wait_for(command[0], lambda: self.process.poll() is not None or ready())
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")[-2000:]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill it: that is how back ends go."""
        self.process.kill()
        self.process.wait()


def answers(url: str) -> bool:
    """Whether there is a server behind it, and it says 200 or that it does not know the place."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code in (404, 405)
    except OSError:
        return False


class Store(Backend):
    """A data base of metrics that PromQL is asked of."""

    url: str

    def latest(self, selector: str) -> list[tuple[dict[str, str], float]]:
        """Labels and newest value of each series, also of those that have ended."""
        result = self._get("query", query=f"last_over_time({selector}[1h])")["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def ask(self, promql: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """
        Labels and value of each series in the answer.

        Args:
            at: When, since 1970; default: now.
        """
        result = self._get("query", query=promql, **({} if at is None else {"time": str(at)}))["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def _get(self, what: str, **parameters: str) -> Any:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]


class VictoriaMetrics(Store):
    """
    It takes OTLP, and names metrics as Prometheus would.

    Attributes:
        endpoint: For OTLP/HTTP, without `/v1/metrics`.
    """

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.endpoint = f"{self.url}/opentelemetry"
        command = [
            program("victoria-metrics"),
            f"-httpListenAddr=127.0.0.1:{port}",
            "-storageDataPath=data",
            "-opentelemetry.usePrometheusNaming",
            "-search.latencyOffset=0s",  # what has come is to be seen at once
            "-search.disableCache",
        ]
        super().__init__(command, folder, lambda: answers(f"{self.url}/health"))


class Prometheus(Store):
    """
    It reads the endpoints that it is told of, each second, and keeps exemplars.

    Args:
        rules: A file of alerts, which it looks at each second.
    """

    def __init__(self, folder: Path, rules: Path | None = None) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._targets = folder / "targets.json"
        self._targets.write_text("[]", encoding="utf-8")
        scrape = {"job_name": "scraped", "file_sd_configs": [{"files": [str(self._targets)]}]}
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)] if rules is not None else [],
            "scrape_configs": [scrape],
            "storage": {"exemplars": {"max_exemplars": 100_000}},
        }
        (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
        command = [
            program("prometheus"),
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
        ]
        super().__init__(command, folder, lambda: answers(f"{self.url}/-/ready"))

    def scrape(self, address: str) -> None:
        """Read this endpoint's /metrics from now on."""
        new = self._targets.with_suffix(".new")
        new.write_text(json.dumps([{"targets": [address]}]), encoding="utf-8")
        new.replace(self._targets)

    def firing(self) -> dict[str, list[dict[str, str]]]:
        """Labels of the alerts that fire now, by name."""
        found: dict[str, list[dict[str, str]]] = {}
        for alert in self._get("alerts")["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert["labels"])
        return found

    def exemplars(self, promql: str) -> list[tuple[float, dict[str, str]]]:
        """Value and labels of each exemplar that is kept."""
        now = time.time()
        data = self._get("query_exemplars", query=promql, start=str(now - 3600), end=str(now + 60))
        return [(float(one["value"]), one["labels"]) for series in data for one in series["exemplars"]]


class Collector(Backend):
    """
    An OpenTelemetry Collector.

    Args:
        quiet: It only passes metrics on to the store: neither words in its log nor anything in the sink.

    Attributes:
        endpoint, grpc_endpoint: For OTLP/HTTP and OTLP/gRPC.
        sink: Has all that it gave on.
    """

    def __init__(self, folder: Path, store: VictoriaMetrics | None = None, *, quiet: bool = False) -> None:
        self.sink = Sink()
        http, grpc = free_ports(2)
        self.endpoint, self.grpc_endpoint = f"http://127.0.0.1:{http}", f"http://127.0.0.1:{grpc}"
        at_once = {"sending_queue": {"enabled": False}, "compression": "none"}
        exporters: dict[str, Any] = {
            "debug": {"verbosity": "basic" if quiet else "detailed"},
        }
        if not quiet:
            exporters["otlp_http/sink"] = {"endpoint": self.sink.endpoint, **at_once}
        kept = list(exporters)
        if store is not None:
            exporters["otlp_http/store"] = {"endpoint": store.endpoint, **at_once}
        pipelines = {
            "traces": {"receivers": ["otlp"], "exporters": kept},
            "logs": {"receivers": ["otlp"], "exporters": kept},
            "metrics": {"receivers": ["otlp"], "exporters": list(exporters)},
        }
        protocols = {"http": {"endpoint": f"127.0.0.1:{http}"}, "grpc": {"endpoint": f"127.0.0.1:{grpc}"}}
        config = {
            "receivers": {"otlp": {"protocols": protocols}},
            "exporters": exporters,
            "service": {"pipelines": pipelines},
        }
        (folder / "collector.yaml").write_text(json.dumps(config), encoding="utf-8")
        try:
            super().__init__([program("otelcol"), "--config=collector.yaml"], folder, lambda: answers(self.endpoint))
        except BaseException:
            self.sink.close()
            raise

    def close(self) -> None:
        super().close()
        self.sink.close()
