"""What the dashboards in dashboards/json ask, with the variables filled in as Grafana does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
JSON = ROOT / "dashboards" / "json"
ALERTS = ROOT / "dashboards" / "alerts" / "tracedthread.yaml"
NAMES = sorted(path.stem for path in JSON.glob("*.json"))


class Query(NamedTuple):
    """One of a panel."""

    dashboard: str
    panel: str
    text: str
    datasource: str

    def filled(self, *, lock: str, interval: str = "1m", shown: str = "5m") -> str:
        """
        As it goes to the data base when all jobs and instances are chosen.

        Args:
            interval: `$__rate_interval`.
            shown: `$__range`.
        """
        values = {"job": ".*", "instance": ".*", "lock": lock, "__rate_interval": interval, "__range": shown}
        return re.sub(r"\$(\w+)", lambda match: values[match[1]], self.text)


def load(name: str) -> dict[str, Any]:
    """A dashboard as it is in its file."""
    return dict(json.loads((JSON / f"{name}.json").read_text(encoding="utf-8")))


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Its panels, without the rows' titles."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries() -> Iterator[Query]:
    """Of all panels."""
    for name in NAMES:
        for panel in panels(load(name)):
            for target in panel["targets"]:
                text = target.get("expr") or target["query"]
                yield Query(name, panel["title"], text, target["datasource"]["uid"])


def asked_by(dashboard: str, panel: str) -> list[Query]:
    """The queries of one panel."""
    found = [query for query in queries() if (query.dashboard, query.panel) == (dashboard, panel)]
    assert found, f"{dashboard} has no panel {panel!r}"
    return found


def quickened(rules: str, times: int) -> str:
    """
    The alerts, as they would be in a world where everything happens so many times as fast: ranges `[5m]` and `for: 5m` are
    divided, thresholds stay.
    """

    def divided(match: re.Match[str]) -> str:
        seconds = int(match[2]) * {"s": 1, "m": 60, "h": 3600}[match[3]]
        assert seconds % times == 0, match[0]
        return f"{match[1]}{seconds // times}s"

    return re.sub(r"(\[|for: )(\d+)([smh])\b", divided, rules)
