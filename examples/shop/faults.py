"""
Three faults, each apart from the others; SHOP_FAULTS=report,hog has some from the start, PUT /faults/hog?on=1 later.

- `report`: `PriceCache.slow_report` keeps the price cache's lock while it talks to the warehouse.
- `hog`: threads compute recommendations in pure Python all the time, and the GIL is theirs.
- `pool`: one connection to the database for all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from .catalogue import Catalogue
from .prices import PriceCache
from .recommendations import HELPERS, Recommender

NAMES = ("report", "hog", "pool")


class Background:
    """Threads that run `work` between `switch(True)` and `switch(False)`."""

    def __init__(self, work: Callable[[threading.Event], None], name: str, count: int = 1) -> None:
        self._work, self._name, self._count = work, name, count
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def switch(self, on: bool) -> None:
        """Start them, or stop them and wait for their end."""
        if on:
            self._stopping = stopping = threading.Event()
            for number in range(self._count):
                thread = threading.Thread(target=self._work, args=(stopping,), name=f"{self._name}-{number}")
                thread.start()
                self._threads.append(thread)
        else:
            self._stopping.set()
            while self._threads:
                self._threads.pop().join()


class Faults:
    """The switches. Any thread may use them."""

    def __init__(self, prices: PriceCache, recommender: Recommender, catalogue: Catalogue) -> None:
        self._switches: Mapping[str, Callable[[bool], None]] = {
            "report": Background(prices.report_until, "reporter").switch,
            "hog": Background(recommender.recompute_until, "recommender", HELPERS).switch,
            "pool": catalogue.be_short_of_connections,
        }
        self._lock = threading.Lock()
        self._on = dict.fromkeys(NAMES, False)

    def state(self) -> dict[str, bool]:
        """Which are on."""
        return dict(self._on)

    def switch(self, name: str, on: bool) -> None:
        """
        Turn one on or off.

        Raises:
            KeyError: There is no such fault.
        """
        switch = self._switches[name]
        with self._lock:
            if self._on[name] != on:
                switch(on)
                self._on[name] = on

    def close(self) -> None:
        """All off, and their threads at an end."""
        for name in NAMES:
            self.switch(name, False)
