"""
A small shop: prices over HTTP, orders through a queue, shipping quotes from a thread pool, and its own customers.

    python examples/shop.py [--seconds 6] [--requests 1500]

It serves on a free port of 127.0.0.1, sends itself the same requests in every run (the seed is fixed), prints how long
they took and ends. Like many a service it was fast until somebody added a report: most prices come in a millisecond,
and one in twenty takes a hundred times as long. The quotes are as fast as ever. No log says why.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import queue
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

SEED = 20240229
SKUS = [f"sku-{number:03}" for number in range(200)]
CARRIERS = ("snail", "pigeon", "rocket")
CUSTOMERS = 8
PACKERS = 3

REPORT_PAUSE_S = 0.5
WAREHOUSE_S = 0.120  # how long the data warehouse takes to accept a report
CARRIER_S = (0.004, 0.015)  # how long a carrier takes to answer

Latencies = dict[str, list[float]]


class PriceCache:
    """Prices by article. Every request reads it, the packers change it, the report copies it out."""

    def __init__(self, prices: dict[str, int]) -> None:
        self._lock = threading.Lock()
        self._prices = prices

    def lookup(self, sku: str) -> int:
        """The price in cents."""
        with self._lock:
            return self._prices[sku]

    def adjust(self, sku: str, cents: int) -> None:
        """Demand moves the price, within limits."""
        with self._lock:
            self._prices[sku] = min(max(self._prices[sku] + cents, 100), 100_000)

    def slow_report(self, address: tuple[str, int]) -> None:
        """Send all prices to the warehouse. The lock keeps them consistent, and everybody else out, meanwhile."""
        with self._lock:
            lines = [f"{sku},{cents}" for sku, cents in self._prices.items()]
            with closing(http.client.HTTPConnection(*address)) as warehouse:
                call(warehouse, "PUT", "/warehouse", "\n".join(lines))


class Inventory:
    """What is on the shelves."""

    def __init__(self, skus: list[str], each: int) -> None:
        self._lock = threading.Lock()
        self._left = dict.fromkeys(skus, each)

    def take(self, sku: str, count: int) -> bool:
        """Whether there was enough."""
        with self._lock:
            if self._left[sku] < count:
                return False
            self._left[sku] -= count
            return True


class Shop:
    """The service behind the HTTP handler."""

    def __init__(self) -> None:
        rng = random.Random(SEED)
        self.cache = PriceCache({sku: rng.randrange(500, 50_000) for sku in SKUS})
        self.inventory = Inventory(SKUS, each=1000)
        self.orders: queue.Queue[tuple[int, str, int] | None] = queue.Queue(maxsize=50)
        self.order_numbers = itertools.count(1)
        self.pool = ThreadPoolExecutor(max_workers=6, thread_name_prefix="quotes")
        self.carrier_calls = threading.BoundedSemaphore(4)  # our contract with the carriers: four calls at a time
        self.packers = [threading.Thread(target=self.pack, name=f"packer-{n}") for n in range(PACKERS)]
        self.closing = threading.Event()
        for packer in self.packers:
            packer.start()

    def price(self, sku: str) -> dict[str, int]:
        """GET /price?sku=..."""
        return {"cents": self.cache.lookup(sku)}

    def checkout(self, sku: str, count: int) -> dict[str, int]:
        """POST /checkout?sku=...&count=...: the order is packed later."""
        cents = self.cache.lookup(sku) * count
        number = next(self.order_numbers)
        self.orders.put((number, sku, count))
        return {"order": number, "cents": cents}

    def quote(self, sku: str) -> dict[str, int]:
        """GET /quote?sku=...: ask all carriers at once, offer the cheapest."""
        offers = [self.pool.submit(self.ask_carrier, carrier, sku) for carrier in CARRIERS]
        return {"cents": min(offer.result() for offer in offers)}

    def ask_carrier(self, carrier: str, sku: str) -> int:
        """One carrier's price; stands for a call over the network."""
        rng = random.Random(f"{carrier} {sku}")
        with self.carrier_calls:
            time.sleep(rng.uniform(*CARRIER_S))
        return rng.randrange(300, 3_000)

    def pack(self) -> None:
        """A packer's day."""
        while (order := self.orders.get()) is not None:
            _number, sku, count = order
            if self.inventory.take(sku, count):
                self.cache.adjust(sku, +1)
            time.sleep(0.002)  # paper, tape, label

    def report_every(self, pause_s: float, address: tuple[str, int]) -> None:
        """The job that somebody added."""
        while not self.closing.wait(pause_s):
            self.cache.slow_report(address)

    def close(self) -> None:
        """Finish what was ordered and stop the threads."""
        self.closing.set()
        for _ in self.packers:
            self.orders.put(None)
        for packer in self.packers:
            packer.join()
        self.pool.shutdown()


def make_handler(shop: Shop) -> type[BaseHTTPRequestHandler]:
    """HTTP in front of `shop`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            arguments = {name: values[0] for name, values in parse_qs(url.query).items()}
            if url.path == "/price":
                self.answer(shop.price(arguments["sku"]))
            elif url.path == "/quote":
                self.answer(shop.quote(arguments["sku"]))
            elif url.path == "/checkout":
                self.answer(shop.checkout(arguments["sku"], int(arguments["count"])))
            else:
                self.send_error(404)

        do_POST = do_GET

        def do_PUT(self) -> None:  # the warehouse, which is somebody else's and slow
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(WAREHOUSE_S)
            self.answer({})

        def answer(self, body: dict[str, int]) -> None:
            text = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_arguments: object) -> None:
            pass

    return Handler


def call(connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None) -> None:
    """One request and the whole of its answer."""
    connection.request(method, path, body)
    response = connection.getresponse()
    response.read()
    if response.status != 200:
        raise RuntimeError(f"{method} {path}: {response.status} {response.reason}")


def customer(
    number: int,
    address: tuple[str, int],
    requests: int,
    seconds: float,
    closing: threading.Event,
    latencies: Latencies,
) -> None:
    """One customer: `requests` requests at random moments of `seconds`, the same in every run."""
    rng = random.Random(SEED + number)
    connection = http.client.HTTPConnection(*address)
    opened = time.monotonic()
    for due in sorted(rng.uniform(0, seconds) for _ in range(requests)):
        time.sleep(max(opened + due - time.monotonic(), 0))
        if closing.is_set():
            break
        sku = rng.choice(SKUS)
        endpoint = rng.choices(["/price", "/checkout", "/quote"], weights=[70, 20, 10])[0]
        method = "POST" if endpoint == "/checkout" else "GET"
        started = time.perf_counter()
        call(connection, method, f"{endpoint}?sku={sku}&count={rng.randint(1, 3)}")
        latencies[endpoint].append(time.perf_counter() - started)
    connection.close()


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that `percent` of `values` do not exceed."""
    return sorted(values)[max(0, -int(-len(values) * percent // 100) - 1)]


def main() -> None:
    """Open the shop, let the customers in, close it, say how it went."""
    parser = argparse.ArgumentParser(description="A small shop under its own load.")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long the customers come (default: 6)")
    parser.add_argument("--requests", type=int, default=1500, help="how many requests they make (default: 1500)")
    options = parser.parse_args()

    shop = Shop()
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(shop))
    address = ("127.0.0.1", server.server_port)
    acceptor = threading.Thread(target=server.serve_forever, args=(0.05,), name="acceptor")
    reporter = threading.Thread(target=shop.report_every, args=(REPORT_PAUSE_S, address), name="reporter")
    latencies: Latencies = {"/price": [], "/checkout": [], "/quote": []}
    customers = []
    for n in range(CUSTOMERS):
        share = options.requests // CUSTOMERS + (n < options.requests % CUSTOMERS)
        arguments = (n, address, share, options.seconds, shop.closing, latencies)
        customers.append(threading.Thread(target=customer, name=f"customer-{n}", args=arguments))
    for thread in (acceptor, reporter, *customers):
        thread.start()
    try:
        for thread in customers:
            thread.join()
    except KeyboardInterrupt:
        shop.closing.set()
        for thread in customers:
            thread.join()
    shop.close()
    reporter.join()
    server.shutdown()
    acceptor.join()
    server.server_close()

    print(f"{'endpoint':<12}{'requests':>9}{'p50':>11}{'p99':>11}")
    for endpoint, took in latencies.items():
        if took:
            p50, p99 = (percentile(took, percent) * 1e3 for percent in (50, 99))
            print(f"{endpoint:<12}{len(took):>9}{p50:>8.1f} ms{p99:>8.1f} ms")


if __name__ == "__main__":
    main()
