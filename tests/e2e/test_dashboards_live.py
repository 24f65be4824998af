"""
The shop under load, with one fault after the other, on real back ends: what the dashboards show, which alerts fire.

Its metrics go both ways: Prometheus, which has the alerts, reads the endpoint; and by OTLP over a collector they come to
VictoriaMetrics. The alerts are those of the file, with all times divided by 50.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from backends import Collector, Prometheus, Store, VictoriaMetrics, answers, free_ports, wait_for
from clean_environment import clean_environment
from panels import ALERTS, ROOT, asked_by, queries, quickened

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        not all(map(find_spec, ("flask", "gunicorn", "sqlalchemy"))), reason="the shop's needs: make test has them"
    ),
]

LOCK = "PriceCache._lock"
WAITED, TAKEN = "wait_duration_seconds_sum", "acquisitions_total"
FASTER = 50
WINDOW = "6s"  # what `[5m]` becomes
EXPECTED = {
    "report": {"TracedThreadLockSlow", "TracedThreadWaitShare"},
    "hog": {"TracedThreadGilShare"},
    "pool": {"TracedThreadPoolSaturated"},
}
FIRE_S = 60
# Panels of the Overview.
P99 = "The slowest wait in a hundred (p99)"
BLAMED = "Functions that made others wait"
GIL = "Share of waiting that is the GIL"
RESOURCES = "Threads waiting for permits, room and connections"


class Seen(NamedTuple):
    """What was seen in one phase."""

    firing: dict[str, list[dict[str, str]]]
    panels: dict[str, list[tuple[dict[str, str], float]]]  # of the Overview, by title


class Run(NamedTuple):
    """What became of the service."""

    phases: dict[str, Seen]
    empty: dict[str, list[str]]  # by name of the data base: what gave no data while the service ran
    waited_s: float  # for LOCK, by the report
    stores: dict[str, Store]
    began: float


@contextmanager
def started(command: list[str], folder: Path, name: str, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def alarmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    rules = folder / "quickened.yaml"
    rules.write_text(quickened(ALERTS.read_text(encoding="utf-8"), FASTER), encoding="utf-8")
    prometheus = Prometheus(folder, rules)
    yield prometheus
    prometheus.close()


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory, store: VictoriaMetrics) -> Iterator[Collector]:
    collector = Collector(tmp_path_factory.mktemp("collector"), store, quiet=True)
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def run(
    alarmed: Prometheus, collector: Collector, store: VictoriaMetrics, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    folder = tmp_path_factory.mktemp("shop")
    port, metrics = free_ports(2)
    shop = f"http://127.0.0.1:{port}"
    alarmed.scrape(f"127.0.0.1:{metrics}")
    env = clean_environment(ROOT) | {
        "SHOP_BIND": f"127.0.0.1:{port}",
        "SHOP_DATABASE_URL": f"sqlite:///{folder / 'shop.db'}",
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        "TRACEDTHREAD_METRICS_TOP": "100",  # else a lock without a wait may be among the others at first
    }
    command = [sys.executable, "-m", "tracedthread", "run", "-q", "--follow-fork", "-o", "shop.ttc"]
    command += ["--otlp-endpoint", collector.endpoint, f"--prometheus-listen=127.0.0.1:{metrics}"]
    command += ["-m", "gunicorn", "-c", str(ROOT / "examples" / "shop" / "gunicorn.conf.py"), "examples.shop.app:app"]
    customers = [sys.executable, "-m", "examples.shop.load", "--url", shop]
    phases = {}
    stores: dict[str, Store] = {"prometheus": alarmed, "victoria-metrics": store}
    with started(command, folder, "shop", env):
        wait_for("shop", lambda: answers(f"{shop}/health"))
        waited, taken = (f'tracedthread_lock_{what}{{tracedthread_lock_name="{LOCK}"}}' for what in (WAITED, TAKEN))
        began = time.time()
        subprocess.run([*customers, "--seconds", "1", "--requests", "50"], cwd=folder, env=env, timeout=60, check=True)
        for base in (alarmed, store):  # so that what is counted from now on is growth
            wait_for(f"{LOCK} in {type(base).__name__}", lambda base=base: base.ask(taken))
        # 150 a second: with a slow report, at 100 the share of waiting came to 5 % on a fast machine, which is the threshold.
        with started([*customers, "--seconds", "0", "--requests", "9000"], folder, "load", env):
            time.sleep(15)  # longer than a range and a `for` together
            phases["healthy"] = _look(alarmed)
            for fault, expected in EXPECTED.items():
                _switch(shop, fault, "1")
                wait_for(f"{expected} in {fault}", lambda e=expected: e <= set(alarmed.firing()), timeout_s=FIRE_S)
                phases[fault] = _look(alarmed)
                _switch(shop, fault, "0")
            empty = {name: _unanswered(base, time.time() - began) for name, base in stores.items()}
        final = _settled(alarmed, waited)
        wait_for("the last of it by OTLP", lambda: _sum(store.ask(waited)) == pytest.approx(final, rel=1e-9))
        seconds = sum(_waited_s(path, env) for path in folder.glob("shop*.ttc"))
    return Run(phases, empty, seconds, stores, began)


def _look(prometheus: Prometheus) -> Seen:
    shown: dict[str, list[tuple[dict[str, str], float]]] = {}
    for query in queries():
        if query.dashboard == "overview":
            text = query.filled(lock=LOCK, interval=WINDOW, shown=WINDOW)
            shown.setdefault(query.panel, []).extend(prometheus.ask(text))
    return Seen(prometheus.firing(), shown)


def _unanswered(base: Store, since_s: float) -> list[str]:
    """The queries of panels, and the series of alerts, that there is no data for."""
    shown = f"{int(since_s) + 10}s"
    asked = [
        (f"{query.dashboard} / {query.panel}", query.filled(lock=LOCK, interval=shown, shown=shown))
        for query in queries()
        if query.datasource == "prometheus"
    ]
    rules = ALERTS.read_text(encoding="utf-8")
    asked += [("an alert", name) for name in re.findall(r"\b(tracedthread_\w+(?:\{[^}]*\})?)(?=\[|\) >)", rules)]
    assert len(asked) > 50
    return [f"{where}: {promql}" for where, promql in asked if not base.ask(promql)]


def _switch(shop: str, fault: str, on: str) -> None:
    request = urllib.request.Request(f"{shop}/faults/{fault}?on={on}", method="PUT")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)[fault] is (on == "1")


def _settled(base: Store, promql: str) -> float:
    """The sum, once two looks with a scrape between them agree: the last request is over."""
    last = -1.0
    while (value := _sum(base.ask(promql))) != last:
        last = value
        time.sleep(2.5)
    return value


def _waited_s(capture: Path, env: dict[str, str]) -> float:
    command = [sys.executable, "-m", "tracedthread", "report", str(capture), "--format", "json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    return float(sum(lock["wait_s"] for lock in json.loads(done.stdout)["locks"] if lock["name"] == LOCK))


def _sum(series: list[tuple[dict[str, str], float]]) -> float:
    return sum(value for _, value in series)


# -- every query --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prometheus", "victoria-metrics"])
def test_every_query_of_every_panel_and_alert_is_answered(run: Run, name: str) -> None:
    assert not run.empty[name], "\n".join(run.empty[name])


# -- faults -------------------------------------------------------------------------------------------------------------


def test_a_healthy_service_fires_no_alert(run: Run) -> None:
    assert run.phases["healthy"].firing == {}


@pytest.mark.parametrize("fault", EXPECTED)
def test_each_fault_fires_its_alert(run: Run, fault: str) -> None:
    assert set(run.phases[fault].firing) >= EXPECTED[fault]
    others = {"report": {"TracedThreadPoolSaturated"}, "hog": {"TracedThreadPoolSaturated"}, "pool": set[str]()}
    assert not set(run.phases[fault].firing) & (others[fault] | {"TracedThreadDeadlock", "TracedThreadLockTimeouts"})


def test_the_report_is_shown_as_a_slow_lock_with_its_culprit(run: Run) -> None:
    slow = run.phases["report"].firing["TracedThreadLockSlow"]
    assert [labels["tracedthread_lock_name"] for labels in slow] == [LOCK]
    blamed = run.phases["report"].panels[BLAMED]
    worst, _ = max(blamed, key=lambda row: row[1])
    assert worst["tracedthread_lock_name"] == LOCK
    assert worst["tracedthread_blamed_function"] == "PriceCache.slow_report"
    p99 = {labels["tracedthread_lock_name"]: value for labels, value in run.phases["report"].panels[P99]}
    assert p99[LOCK] > 0.1


def test_the_hog_is_shown_as_the_gils_share(run: Run) -> None:
    assert _sum(run.phases["hog"].panels[GIL]) > 1 / 3
    assert _sum(run.phases["report"].panels[GIL]) < 0.5


def test_the_pool_is_shown_as_threads_that_wait_for_a_connection(run: Run) -> None:
    def waiting(phase: str) -> float:
        shown: list[tuple[dict[str, Any], float]] = run.phases[phase].panels[RESOURCES]
        return _sum([row for row in shown if row[0]["tracedthread_wait_kind"] == "pool"])

    assert waiting("pool") > 1
    assert waiting("healthy") < 0.1


# -- numbers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prometheus", "victoria-metrics"])
@pytest.mark.parametrize("panel", ["Waited since the processes began", "Waited in the time shown"])
def test_the_report_and_the_panels_agree(run: Run, name: str, panel: str) -> None:
    base = run.stores[name]
    (query,) = asked_by("lock", panel)
    # As of the newest sample: between two of them, increase() has to guess.
    newest = f'timestamp(tracedthread_lock_acquisitions_total{{tracedthread_lock_name="{LOCK}"}})'
    at = max(value for _, value in base.ask(f"last_over_time(({newest})[5m:1s])"))
    shown = f"{int(at - run.began) + 60}s"
    ((_, value),) = base.ask(query.filled(lock=LOCK, shown=shown), at)
    assert run.waited_s > 1
    assert value == pytest.approx(run.waited_s, rel=0.01)
