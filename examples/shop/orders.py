"""The work queue: checkout puts orders in, packers take them out."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from typing import NamedTuple

from .catalogue import Catalogue
from .prices import PriceCache

PACKERS = 3


class Order(NamedTuple):
    """So many of an article."""

    number: int
    sku: str
    pieces: int


class Orders:
    """Takes orders at once and has them packed later."""

    def __init__(self, catalogue: Catalogue, prices: PriceCache) -> None:
        self._catalogue, self._prices = catalogue, prices
        self._numbers = itertools.count(1)
        self.orders: queue.Queue[Order | None] = queue.Queue(maxsize=50)
        self._packers = [threading.Thread(target=self.pack, name=f"packer-{number}") for number in range(PACKERS)]
        for packer in self._packers:
            packer.start()

    def place(self, sku: str, pieces: int) -> int:
        """The number of a new order."""
        order = Order(next(self._numbers), sku, pieces)
        self.orders.put(order)
        return order.number

    def pack(self) -> None:
        """A packer's day."""
        while (order := self.orders.get()) is not None:
            if self._catalogue.take(order.sku, order.pieces):
                self._prices.adjust(order.sku, +1)
            time.sleep(0.002)  # paper, tape, label

    def close(self) -> None:
        """Pack what was ordered and stop."""
        for _ in self._packers:
            self.orders.put(None)
        for packer in self._packers:
            packer.join()
