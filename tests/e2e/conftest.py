"""The back ends that end to end tests send telemetry to; each test that asks has its own, in its folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from backends import Collector, Prometheus, VictoriaMetrics
from sink import Sink


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VictoriaMetrics]:
    (tmp_path / "store").mkdir()
    store = VictoriaMetrics(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    (tmp_path / "prometheus").mkdir()
    prometheus = Prometheus(tmp_path / "prometheus")
    yield prometheus
    prometheus.close()


@pytest.fixture
def collector(tmp_path: Path, store: VictoriaMetrics) -> Iterator[Collector]:
    (tmp_path / "collector").mkdir()
    collector = Collector(tmp_path / "collector", store)
    yield collector
    collector.close()
