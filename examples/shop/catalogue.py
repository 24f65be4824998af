"""The articles, in a database: SQLite, or what SHOP_DATABASE_URL names."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, create_engine, event, insert, select, update
from sqlalchemy.pool import QueuePool

ENOUGH = 20  # connections: more than there are threads that may want one
TOO_FEW = 1
RANKING_S = 0.020  # how long the ranking service takes to answer

metadata = MetaData()
articles = Table(
    "articles",
    metadata,
    Column("sku", String(20), primary_key=True),
    Column("title", String(80), nullable=False),
    Column("left", Integer, nullable=False),
)


class Catalogue:
    """Search, and what is on the shelves."""

    def __init__(self, url: str, titles: dict[str, str]) -> None:
        self._usual, self._scarce = connect(url, ENOUGH), connect(url, TOO_FEW)
        self._engine = self._usual
        metadata.create_all(self._engine)
        with self._engine.begin() as connection:
            if connection.execute(select(articles.c.sku).limit(1)).first() is None:
                rows = [{"sku": sku, "title": title, "left": 1_000_000} for sku, title in titles.items()]
                connection.execute(insert(articles), rows)

    def be_short_of_connections(self, on: bool) -> None:
        """Take connections from the small pool from now on, or from the usual one; those in use go back to theirs."""
        self._engine = self._scarce if on else self._usual

    def search(self, word: str) -> list[str]:
        """Articles with `word` in their title, the best first."""
        found = select(articles.c.sku).where(articles.c.title.contains(word)).order_by(articles.c.sku)
        with self._engine.connect() as connection:
            return rank(list(connection.execute(found).scalars()))

    def take(self, sku: str, count: int) -> bool:
        """Whether there was enough."""
        enough = articles.c.sku == sku, articles.c.left >= count
        with self._engine.begin() as connection:
            taken = connection.execute(update(articles).where(*enough).values(left=articles.c.left - count))
            return bool(taken.rowcount)

    def close(self) -> None:
        """Hang up."""
        self._usual.dispose()
        self._scarce.dispose()


def rank(skus: list[str]) -> list[str]:
    """The best first; stands for a call over the network."""
    time.sleep(RANKING_S)
    return sorted(skus, key=lambda sku: sku[::-1])


def connect(url: str, connections: int) -> Engine:
    """An engine whose pool has so many connections and no more."""
    engine = create_engine(url, poolclass=QueuePool, pool_size=connections, max_overflow=0)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", set_up_sqlite)
    return engine


def set_up_sqlite(connection: Any, _record: object) -> None:
    """Readers do not wait for a writer, and nobody for the disk: this is a demonstration."""
    for pragma in ("busy_timeout = 10000", "journal_mode = WAL", "synchronous = OFF"):
        connection.execute(f"PRAGMA {pragma}").close()
