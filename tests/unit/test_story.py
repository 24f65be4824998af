"""Who is to blame, told from built profiles."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tracedthread.capture import Frame
from tracedthread.histogram import BUCKETS, Histogram, index_of
from tracedthread.profile import Process, Profile
from tracedthread.rows import BlameRow, LockRow, Stats, ThreadRow, WaitRow
from tracedthread.story import headline, judge, paragraphs, slowed

MS = 1_000_000
REPORT = (Frame("PriceCache.slow_report", "/srv/shop/prices.py", 49), Frame("report_until", "/srv/shop/prices.py", 55))
SEARCH = (
    Frame("Queue.get", "/venv/lib/python3.13/site-packages/sqlalchemy/util/queue.py", 199),
    Frame("QueuePool._do_get", "/venv/lib/python3.13/site-packages/sqlalchemy/pool/impl.py", 155),
    Frame("_GeneratorContextManager.__enter__", "/usr/lib/python3.13/contextlib.py", 141),
    Frame("Catalogue.search", "/venv/lib/python3.13/site-packages/tracedthread/examples/shop/catalogue.py", 44),
)


def wait(count: int, wait_ms: int, function: str, caller: str, kind: str = "lock") -> WaitRow:
    """Waits that took `wait_ms` together, of 121 ms at most."""
    stack = (Frame(function, "/srv/shop/prices.py", 27), Frame(caller, "/srv/shop/app.py", 99))
    return WaitRow(kind, "PriceCache._lock", stack, count, wait_ms * MS, 0, min(wait_ms, 121) * MS, 0, 0, 1e-9)


def pool_wait() -> WaitRow:
    return WaitRow("pool", "Queue.mutex", SEARCH, 135, 25_000 * MS, 0, 291 * MS, 0, 0, 1e-9)


def thread(name: str, function: str, cpu_ms: int) -> ThreadRow:
    return ThreadRow(1, 1, name, function, False, 0, 0, 0, 0, 6000 * MS, cpu_ms * MS, 0, 0, 0, 0, 1e-9)


def profile(*, wait_ms: int = 3000, contended: int = 61, own_gil_ms: int = 3, gil_ms: int = 0) -> Profile:
    """A shop of which one lock has been waited for."""
    holds = [0] * BUCKETS
    holds[index_of(600)] = 1689
    holds[index_of(123 * MS)] += 1
    stats = Stats(
        created=1,
        acquisitions=1690,
        contended=contended,
        wait_ticks=wait_ms * MS,
        wait_max_ticks=121 * MS,
        own_gil_ticks=own_gil_ms * MS,
        gil_ticks=gil_ms * MS,
        hold_max_ticks=123 * MS,
        hold=Histogram(tuple(holds)),
    )
    waits = wait(60, wait_ms - 50, "PriceCache.lookup", "price"), wait(1, 50, "PriceCache.adjust", "pack")
    blame = (
        BlameRow("PriceCache._lock", (), 0, 97 * MS, 97 * MS, 0, 1e-9),  # (other): nobody's name
        BlameRow("PriceCache._lock", REPORT, 15, 2700 * MS, 360 * MS, 45, 1e-9),
    )
    created = Frame("PriceCache.__init__", "/srv/shop/prices.py", 19)
    lock = LockRow("PriceCache._lock", "lock", created, stats, waits, 1e-9, blame)
    process = Process(71, "gunicorn", "3.13.0", 0, "exited", 0, 6000 * MS, 0, 1e-9, 1e-9)
    idle = (wait(1500, 17_000, "Orders.pack", "Thread.run", "queue.get"),)
    threads = (thread("recommender-0", "recompute_until", 800), thread("recommender-1", "recompute_until", 800))
    return Profile(process, (lock,), idle, (), (*threads, thread("packer-0", "Orders.pack", 5)), (), {})


def told(what: Profile) -> str:
    return "\n".join(paragraphs(judge(what), []))


def test_who_held_the_lock_is_named_with_the_numbers_of_the_profile() -> None:
    verdict = judge(profile())
    assert (verdict.kind, verdict.culprit, verdict.of) == ("holder", "PriceCache.slow_report", "PriceCache._lock")
    assert told(profile()).splitlines()[:4] == [
        "To blame: PriceCache.slow_report, which holds PriceCache._lock.",
        "61 waits for PriceCache._lock took 3.0 s, the longest 121 ms; 0.1 % of that was the GIL.",
        "Most of it in PriceCache.lookup (prices.py:27), 60 waits.",
        "90 % is charged to PriceCache.slow_report (prices.py:49), which held it 15 times while others waited.",
    ]


def test_a_holder_that_is_not_recorded_is_not_invented() -> None:
    [lock] = profile().locks
    text = told(replace(profile(), locks=(replace(lock, blame=lock.blame[:1]),)))
    assert "To blame: a holder that is not recorded, which holds PriceCache._lock." in text
    assert "slow_report" not in text
    assert "(other)" not in text


@pytest.mark.parametrize("gil", [{"own_gil_ms": 2000}, {"gil_ms": 2000}])
def test_where_the_gil_was_missing_no_holder_is_blamed(gil: dict[str, int]) -> None:
    verdict = judge(profile(**gil))
    assert (verdict.kind, verdict.culprit) == ("gil", "the GIL")
    text = told(profile(**gil))
    assert "slow_report" not in text
    assert "67 % of 3.0 s" in text
    assert "who used the processor: 2 threads of recompute_until, 1.6 s." in text
    assert "pack" not in text


@pytest.mark.parametrize("wait_ms", [3000, 250])
def test_where_threads_compute_most_of_the_time_no_holder_is_blamed(wait_ms: int) -> None:
    hogs = tuple(thread(f"recommender-{n}", "recompute_until", 1000) for n in range(4))
    verdict = judge(replace(profile(wait_ms=wait_ms), threads=hogs))
    assert (verdict.kind, verdict.culprit) == ("gil", "the GIL")
    starting = (thread("MainThread", "", 5000),)
    assert judge(replace(profile(wait_ms=wait_ms), threads=starting)).kind != "gil"
    many = tuple(thread(f"request-{n}", "work", 150) for n in range(16))  # each a little: they serve
    assert judge(replace(profile(wait_ms=wait_ms), threads=many)).kind == judge(profile(wait_ms=wait_ms)).kind != "gil"


def test_a_gil_that_nobody_computes_with_is_nobodys_fault_but_the_machines() -> None:
    serving = tuple(thread(f"request-{n}", "work", 150) for n in range(16))
    starved = replace(profile(gil_ms=2000), threads=serving)
    assert judge(starved).kind == "nobody"
    assert "67 % of 3.0 s of waiting for locks was for the GIL, but no thread computed for long" in told(starved)


def test_who_had_the_gil_is_not_guessed() -> None:
    text = told(replace(profile(gil_ms=2000), threads=()))
    assert "Who had the GIL is not recorded" in text


def test_a_pool_that_is_too_small_is_named_with_who_waits_for_it() -> None:
    calm = profile(wait_ms=60, contended=10)
    starved = replace(calm, resources=(pool_wait(),))
    verdict = judge(starved)
    assert (verdict.kind, verdict.culprit) == ("pool", "the QueuePool")
    text = told(starved)
    assert "135 waits for a connection of the QueuePool took 25 s, the longest 291 ms" in text
    assert "Catalogue.search (catalogue.py:44): 135 waits, 25 s." in text
    assert "Who had the connections meanwhile is not recorded" in text


def test_a_lock_that_made_threads_wait_longer_than_the_pool_comes_first() -> None:
    assert judge(replace(profile(wait_ms=30_000), resources=(pool_wait(),))).kind == "holder"


def test_other_idle_waiting_is_nobodys_fault() -> None:
    assert judge(replace(profile(), locks=())).kind == "nobody"


@pytest.mark.parametrize(
    "calm",
    [
        profile(wait_ms=250),  # little of 6 s
        profile(contended=400),  # much, but of waits that nobody notices
    ],
)
def test_little_waiting_is_nobodys_fault(calm: Profile) -> None:
    verdict = judge(calm)
    assert (verdict.kind, verdict.culprit) == ("nobody", "")
    assert headline(verdict) == "Nobody is to blame: no lock and no pool made requests slow."


def test_what_is_slow_is_told_against_the_healthy_run() -> None:
    now = {"/price": 0.12, "/quote": 0.03, "/similar": 0.009, "/search": 0.4, "/new": 1.0}
    healthy = {"/price": 0.006, "/quote": 0.02, "/similar": 0.001, "/search": 0.03}
    assert slowed(now, healthy) == ["/price 120 ms (6.0 ms when healthy)", "/search 400 ms (30 ms when healthy)"]
    assert paragraphs(judge(profile()), ["/price 120 ms"])[0] == "Slow, by p99: /price 120 ms."
