"""What shipping costs: all carriers are asked at once, in a thread pool."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

from .prices import PriceCache

CARRIERS = ("snail", "pigeon", "rocket")
CARRIER_S = (0.004, 0.015)  # how long a carrier takes to answer


class Quotes:
    """Offers for shipping."""

    def __init__(self, prices: PriceCache, workers: int = 8) -> None:
        self._prices = prices
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="quotes")

    def cheapest(self, sku: str) -> int:
        """In cents."""
        offers = [self._pool.submit(self.offer, carrier, sku) for carrier in CARRIERS]
        return min(offer.result() for offer in offers)

    def offer(self, carrier: str, sku: str) -> int:
        """One carrier's price, with the insurance."""
        return ask_carrier(carrier, sku) + self._prices.lookup(sku) // 100

    def close(self) -> None:
        """Let the calls in progress end."""
        self._pool.shutdown()


def ask_carrier(carrier: str, sku: str) -> int:
    """One carrier's price; stands for a call over the network."""
    rng = random.Random(f"{carrier} {sku}")
    time.sleep(rng.uniform(*CARRIER_S))
    return rng.randrange(300, 3_000)
