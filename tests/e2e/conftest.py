"""The back ends that end to end tests send telemetry to; each module that asks has its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from backends import Collector, Prometheus, VictoriaMetrics
from sink import Sink


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VictoriaMetrics]:
    store = VictoriaMetrics(tmp_path_factory.mktemp("store"))
    yield store
    store.close()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"))
    yield prometheus
    prometheus.close()


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory, store: VictoriaMetrics) -> Iterator[Collector]:
    collector = Collector(tmp_path_factory.mktemp("collector"), store)
    yield collector
    collector.close()
