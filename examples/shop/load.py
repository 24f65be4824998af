"""
Customers for the shop, the same in every run with one seed.

    python -m examples.shop.load --url http://127.0.0.1:8000 [--seed 1] [--seconds 6] [--requests 1500]

It prints how long requests took. `--seconds 0` goes on for ever, in rounds of a minute.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import random
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CUSTOMERS = 16
MIX = {"/price": 50, "/search": 20, "/checkout": 15, "/quote": 10, "/similar": 5}
WORDS = ("anvil", "bucket", "candle", "drum", "easel", "funnel", "gong", "hammock")
ROUND_S = 60.0
TIMEOUT_S = 30.0


@dataclass
class Outcome:
    """Seconds a request took, by endpoint; and those that were answered by anything but 200, or not at all."""

    latencies: dict[str, list[float]] = field(default_factory=lambda: {endpoint: [] for endpoint in MIX})
    failed: int = 0

    def table(self) -> str:
        """p50 and p99 by endpoint."""
        lines = [f"{'endpoint':<12}{'requests':>9}{'p50':>11}{'p99':>11}"]
        for endpoint, took in self.latencies.items():
            if took:
                p50, p99 = (percentile(took, percent) * 1e3 for percent in (50, 99))
                lines.append(f"{endpoint:<12}{len(took):>9}{p50:>8.1f} ms{p99:>8.1f} ms")
        return "\n".join([*lines, *([f"{self.failed} failed"] if self.failed else [])])


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of `values` do not exceed."""
    return sorted(values)[max(0, -int(-len(values) * percent // 100) - 1)]


def load(url: str, *, seed: int = 1, seconds: float = 6.0, requests: int = 1500) -> Outcome:
    """
    Send requests at random moments of `seconds`; those that a slow shop leaves no time for are not sent.

    Args:
        url: Where the shop is, as in `http://127.0.0.1:8000`.
        requests: Shared out among the customers, who each wait for an answer before they ask again.
    """
    outcome = Outcome()
    customers = []
    for number in range(CUSTOMERS):
        share = requests // CUSTOMERS + (number < requests % CUSTOMERS)
        arguments = (url, random.Random(f"{seed} {number}"), share, seconds, outcome)
        customers.append(threading.Thread(target=shop_around, name=f"customer-{number}", args=arguments, daemon=True))
    for customer in customers:
        customer.start()
    for customer in customers:
        customer.join()
    return outcome


def shop_around(url: str, rng: random.Random, requests: int, seconds: float, outcome: Outcome) -> None:
    """One customer."""
    began = time.monotonic()
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)) as connection:
        for due in sorted(rng.uniform(0, seconds) for _ in range(requests)):
            time.sleep(max(began + due - time.monotonic(), 0))
            if time.monotonic() > began + seconds:
                break
            [endpoint] = rng.choices(list(MIX), weights=list(MIX.values()))
            path = f"{endpoint}?sku=sku-{rng.randrange(200):03}&q={rng.choice(WORDS)}&count={rng.randint(1, 3)}"
            started = time.perf_counter()
            try:
                connection.request("POST" if endpoint == "/checkout" else "GET", path)
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                outcome.failed += 1
                time.sleep(0.05)  # not to spin while the shop is down
                continue
            if response.status == 200:
                outcome.latencies[endpoint].append(time.perf_counter() - started)
            else:
                outcome.failed += 1


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Customers for the shop, the same in every run with one seed.")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the shop is (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the customers' wishes (default: 1)")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long they come, 0: for ever (default: 6)")
    parser.add_argument("--requests", type=int, default=1500, help="how many they make in that time (default: 1500)")
    options = parser.parse_args()
    if options.seconds > 0:
        outcome = load(options.url, seed=options.seed, seconds=options.seconds, requests=options.requests)
        print(outcome.table(), flush=True)
        return
    for seed in itertools.count(options.seed):
        outcome = load(options.url, seed=seed, seconds=ROUND_S, requests=options.requests)
        print(outcome.table(), flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
