"""Who buys this also buys that: a model in pure Python, and the threads that recompute it."""

from __future__ import annotations

import math
import random
import threading

HELPERS = 4  # "one for each core"

Vector = list[float]


class Recommender:
    """The articles most like another, by which customers bought them."""

    def __init__(self, skus: list[str], seed: int) -> None:
        rng = random.Random(seed)
        self._bought: dict[str, Vector] = {sku: [rng.random() for _customer in range(50)] for sku in skus}
        self._model: dict[str, list[str]] = {}

    def similar(self, sku: str) -> list[str]:
        """The three best, as the model has them."""
        return self._model.get(sku, [])

    def recompute(self, sku: str) -> None:
        """Compare an article with all others."""
        mine = self._bought[sku]
        scores = {other: cosine(mine, vector) for other, vector in self._bought.items() if other != sku}
        self._model[sku] = sorted(scores, key=lambda other: -scores[other])[:3]

    def recompute_until(self, stopping: threading.Event) -> None:
        """Keep the model fresh. Somebody has taken the pause out."""
        while True:
            for sku in self._bought:
                if stopping.is_set():
                    return
                self.recompute(sku)


def cosine(one: Vector, other: Vector) -> float:
    """Of the angle between two vectors."""
    dot = sum(a * b for a, b in zip(one, other))
    return dot / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))
