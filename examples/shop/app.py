"""HTTP in front of the shop, for any WSGI server; `open` in each worker starts what has threads, `close` ends it."""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path

from flask import Flask, abort, request

from .catalogue import Catalogue
from .faults import Faults
from .orders import Orders
from .prices import PriceCache
from .quotes import Quotes
from .recommendations import Recommender

SEED = 20240229  # of the goods, which are always the same
SKUS = [f"sku-{number:03}" for number in range(200)]
WORDS = ("anvil", "bucket", "candle", "drum", "easel", "funnel", "gong", "hammock")


class Shop:
    """All departments."""

    def __init__(self, url: str) -> None:
        rng = random.Random(SEED)
        titles = {sku: f"{rng.choice(WORDS)} with {rng.choice(WORDS)}" for sku in SKUS}
        self.catalogue = Catalogue(url, titles)
        self._folder = tempfile.TemporaryDirectory(prefix="shop-")
        price_list = Path(self._folder.name, "prices.json")
        price_list.write_text(json.dumps({sku: rng.randrange(500, 50_000) for sku in SKUS}), encoding="utf-8")
        self.prices = PriceCache(price_list)
        self.recommender = Recommender(SKUS, SEED)
        self.quotes = Quotes(self.prices)
        self.orders = Orders(self.catalogue, self.prices)
        self.faults = Faults(self.prices, self.recommender, self.catalogue)

    def close(self) -> None:
        """No new customers may come any more."""
        self.faults.close()
        self.orders.close()
        self.quotes.close()
        self.catalogue.close()
        self._folder.cleanup()


class ShopApp(Flask):
    """The WSGI application."""

    _shop: Shop | None = None

    @property
    def shop(self) -> Shop:
        """
        The departments.

        Raises:
            RuntimeError: Nobody has called `open` in this process.
        """
        if self._shop is None:
            raise RuntimeError("the shop is not open: see gunicorn.conf.py")
        return self._shop

    def open(self) -> None:
        """To be called in the worker: threads do not survive a fork."""
        self._shop = Shop(os.environ.get("SHOP_DATABASE_URL", "sqlite:///shop.db"))
        for name in filter(None, os.environ.get("SHOP_FAULTS", "").split(",")):
            self._shop.faults.switch(name.strip(), True)

    def close(self) -> None:
        """To be called when no request runs any more."""
        if self._shop is not None:
            self._shop.close()


app = ShopApp(__name__)


@app.get("/health")
def health() -> dict[str, str]:
    """Whether the shop is open."""
    app.shop.faults.state()
    return {"status": "ok"}


@app.get("/price")
def price() -> dict[str, int]:
    """What an article costs."""
    return {"cents": app.shop.prices.lookup(sku())}


@app.get("/search")
def search() -> dict[str, list[str]]:
    """Articles by a word in their title."""
    return {"skus": app.shop.catalogue.search(request.args["q"])}


@app.get("/quote")
def quote() -> dict[str, int]:
    """What it costs to send an article."""
    return {"cents": app.shop.quotes.cheapest(sku())}


@app.get("/similar")
def similar() -> dict[str, list[str]]:
    """What else to buy."""
    return {"skus": app.shop.recommender.similar(sku())}


@app.post("/checkout")
def checkout() -> dict[str, int]:
    """Order an article; it is packed later."""
    count = request.args.get("count", 1, int)
    cents = app.shop.prices.lookup(sku()) * count
    return {"order": app.shop.orders.place(sku(), count), "cents": cents}


@app.get("/faults")
def faults() -> dict[str, bool]:
    """Which faults are on."""
    return app.shop.faults.state()


@app.put("/faults/<name>")
def switch_fault(name: str) -> dict[str, bool]:
    """Turn a fault on or off."""
    on = request.args["on"]
    if on not in ("0", "1"):
        abort(400)
    try:
        app.shop.faults.switch(name, on == "1")
    except KeyError:
        abort(404)
    return app.shop.faults.state()


def sku() -> str:
    """The article that the request is about."""
    name = request.args["sku"]
    if name not in SKUS:
        abort(404)
    return name
