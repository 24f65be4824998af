"""The price cache, and the report on it that somebody added."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

FRESH_S = 0.020  # a new price list is noticed within this time
REPORT_PAUSE_S = 0.25
WAREHOUSE_S = 0.120  # how long the data warehouse takes to accept a report


class PriceCache:
    """Prices by article, from a file. Most requests read it, the packers change it, the report copies it out."""

    def __init__(self, price_list: Path) -> None:
        self._lock = threading.Lock()
        self._price_list = price_list
        self._version = 0  # when the file was written
        self._checked_s = 0.0
        self._prices: dict[str, int] = {}

    def lookup(self, sku: str) -> int:
        """The price in cents."""
        with self._lock:
            self._refresh()
            return self._prices[sku]

    def adjust(self, sku: str, cents: int) -> None:
        """Demand moves the price, within limits."""
        with self._lock:
            self._refresh()
            self._prices[sku] = min(max(self._prices[sku] + cents, 100), 100_000)

    def _refresh(self) -> None:
        """Read the file again if it is another one: a matter of microseconds, once in a while."""
        now_s = time.monotonic()
        if now_s - self._checked_s > FRESH_S:
            self._checked_s = now_s
            version = self._price_list.stat().st_mtime_ns
            if version != self._version:
                self._version = version
                self._prices = json.loads(self._price_list.read_text(encoding="utf-8"))

    def slow_report(self) -> None:
        """Send all prices to the warehouse. The lock keeps them consistent, and everybody else out, meanwhile."""
        with self._lock:
            send_to_warehouse("\n".join(f"{sku},{cents}" for sku, cents in self._prices.items()))

    def report_until(self, stopping: threading.Event) -> None:
        """The job that somebody added."""
        while not stopping.wait(REPORT_PAUSE_S):
            self.slow_report()


def send_to_warehouse(_lines: str) -> None:
    """Stands for an upload over the network."""
    time.sleep(WAREHOUSE_S)
