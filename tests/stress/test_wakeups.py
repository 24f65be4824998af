"""Waiters that leave by timeout, signal or exception never take a wake-up with them."""

from __future__ import annotations

import pytest
from abuse import LIMIT_S, run

pytestmark = pytest.mark.timeout(LIMIT_S + 60)

# A wake-up is lost when the lock is free and the thread that waits for it without a timeout never gets it.
LEAVING_BY_TIMEOUT = """
    lock = MAKE()
    rounds = 15000 if FULL else 1200
    leavers = 3
    orders = [queue.SimpleQueue() for _ in range(leavers + 1)]
    reports = queue.SimpleQueue()

    def leaver(order):
        while (timeout := order.get()) is not None:
            if lock.acquire(timeout=timeout):
                lock.release()
            reports.put("left")

    def stayer(order):
        while order.get() is not None:
            lock.acquire()
            lock.release()
            reports.put("stayed")

    def direct():
        choose = random.Random(1)
        for n in range(rounds):
            lock.acquire()
            timeout = choose.choice([0.0002, 0.0005, 0.001])
            for order in choose.sample(orders, len(orders)):
                order.put(timeout)
            time.sleep(choose.uniform(0.5, 1.1) * timeout)
            lock.release()
            for _ in orders:
                reports.get(timeout=20)    # queue.Empty: somebody still waits for a lock that is free
        for order in orders:
            order.put(None)

    run_all(direct, lambda: stayer(orders[0]), *[lambda o=o: leaver(o) for o in orders[1:]])
    row, = rows("lock")
    assert row.stats.waiters == 0
    assert row.stats.timeouts > rounds / 20, f"too few left by timeout: {row.stats.timeouts}"
    assert row.stats.contended - row.stats.timeouts > rounds / 20, "too few got it"
"""

LEAVING_BY_EXCEPTION = """
    class Alarm(Exception): pass
    armed = False  # or an alarm in front of the stayer's order would take the order away
    def ring(*args):
        if armed:
            raise Alarm
    signal.signal(signal.SIGALRM, ring)
    lock = MAKE()
    rounds = 6000 if FULL else 500
    orders = [queue.SimpleQueue(), queue.SimpleQueue()]
    held, reports = queue.SimpleQueue(), queue.SimpleQueue()

    def holder():
        while (pause := orders[0].get()) is not None:
            lock.acquire()
            held.put(1)
            time.sleep(pause)
            lock.release()
            held.put(2)

    def stayer():
        while orders[1].get() is not None:
            lock.acquire()
            lock.release()
            reports.put(1)

    def mine():
        return lock._is_owned() if hasattr(lock, "_is_owned") else lock.locked()

    threads = [threading.Thread(target=holder), threading.Thread(target=stayer)]
    for thread in threads: thread.start()
    choose, left = random.Random(2), 0
    for n in range(rounds):
        pause = choose.choice([0.0003, 0.0006, 0.001])
        orders[0].put(pause)
        held.get(timeout=20)
        try:
            signal.setitimer(signal.ITIMER_REAL, choose.uniform(0.5, 1.2) * pause)
            if n % 2:
                orders[1].put(1)
            armed = True
            lock.acquire()
            signal.setitimer(signal.ITIMER_REAL, 0)
            lock.release()
        except Alarm:
            left += 1
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        held.get(timeout=20)
        if not n % 2:
            orders[1].put(1)
        try:
            reports.get(timeout=0.15)
        except queue.Empty:
            # The alarm may have rung between our acquire() and release(): then it is ours. Else a starved thread takes its time.
            if mine():
                lock.release()
            reports.get(timeout=20)  # or a wake-up was lost
        if mine():
            lock.release()
    for order in orders: order.put(None)
    for thread in threads: thread.join()
    row, = rows("lock")
    assert left > rounds / 20, f"too few alarms: {left}"
    assert left < rounds, "nobody got it"
    assert row.stats.waiters == 0
    assert row.stats.interrupted > 0
"""

ALARMS_DURING_WAITS = """
    handled = 0
    def ring(*args):
        global handled
        handled += 1
        with inner:
            assert inner.acquire(False)
            inner.release()
    inner = threading.RLock()
    lock = threading.Lock()
    rlock = threading.RLock()
    box = queue.Queue(2)
    signal.signal(signal.SIGALRM, ring)
    end = time.monotonic() + (30 if FULL else 2)
    done = [0, 0, 0]
    def hold():
        choose = random.Random(3)
        while time.monotonic() < end:
            with lock:
                time.sleep(choose.uniform(0, 0.003))
            with rlock, rlock:
                time.sleep(choose.uniform(0, 0.003))
            try:
                box.put(1, timeout=0.01)
                done[2] += 1
            except queue.Full:
                pass
    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads: thread.start()
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    got = took = early = 0
    while time.monotonic() < end:
        for each in (lock, rlock):
            with each:
                done[0] += 1
            begin, timeout = time.monotonic(), 0.002
            if each.acquire(timeout=timeout):
                each.release()
                took += 1
            else:
                early += time.monotonic() - begin < timeout
                done[1] += 1
        try:
            box.get(timeout=0.002)
            got += 1
        except queue.Empty:
            pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    for thread in threads: thread.join()
    assert early == 0, "a wait ended before its timeout"
    assert handled > 200, handled
    assert done[0] > 50 and got + box.qsize() == done[2]
    assert sum(row.stats.timeouts for row in rows("lock", "rlock")) == done[1]
    assert sum(row.stats.interrupted for row in rows("lock", "rlock")) == 0
"""

BARGERS = """
    # Threads that take the lock again at once do not starve a waiter, and leave it no wake-up short.
    lock = MAKE()
    stop, turns = [], [0] * 6
    def greedy(index):
        while not stop:
            for _ in range(200):
                with lock:
                    pass
            turns[index] += 1
    def patient(index):
        while not stop:
            lock.acquire()
            lock.release()
            turns[index] += 1
            time.sleep(0)
    def impatient(index):
        while not stop:
            if lock.acquire(timeout=0.0001):
                lock.release()
            turns[index] += 1
    def watch():
        time.sleep(30 if FULL else 1)
        stop.append(1)
    run_all(watch, *[lambda i=i, f=f: f(i) for i, f in enumerate([greedy, greedy, patient, patient, impatient, impatient])])
    assert min(turns) > 0, turns
    assert not lock._is_owned() if hasattr(lock, "_is_owned") else not lock.locked()
    row, = rows("lock")
    assert row.stats.waiters == 0
"""

CONDITIONS = """
    # Every notification that a waiter does not use up is still there for the next.
    condition, tokens, taken, stop = threading.Condition(), [], [0], []
    rounds = 50000 if FULL else 3000
    def taker(timeout):
        while not stop:
            with condition:
                if condition.wait_for(lambda: tokens or stop, timeout) and tokens:
                    tokens.pop()
                    taken[0] += 1
    def giver():
        choose = random.Random(4)
        for n in range(rounds):
            with condition:
                tokens.append(n)
                condition.notify()
            if n % 16 == 0:
                time.sleep(choose.uniform(0, 0.001))
        end = time.monotonic() + 20
        while taken[0] < rounds:
            assert time.monotonic() < end, f"{rounds - taken[0]} were never taken"
            time.sleep(0.001)
        with condition:
            stop.append(1)
            condition.notify_all()
    run_all(giver, lambda: taker(None), lambda: taker(None), lambda: taker(0.0003), lambda: taker(0.001))
    assert taken[0] == rounds
"""


@pytest.mark.parametrize("make", ["threading.Lock", "threading.RLock"])
def test_a_waiter_that_times_out_passes_its_wake_up_on(make: str) -> None:
    run(LEAVING_BY_TIMEOUT.replace("MAKE", make))


@pytest.mark.parametrize("make", ["threading.Lock", "threading.RLock"])
def test_a_waiter_that_a_handler_throws_out_passes_its_wake_up_on(make: str) -> None:
    run(LEAVING_BY_EXCEPTION.replace("MAKE", make))


def test_alarms_at_1_khz_shorten_no_wait_and_lose_no_count() -> None:
    run(ALARMS_DURING_WAITS)


@pytest.mark.parametrize("make", ["threading.Lock", "threading.RLock"])
def test_nobody_starves(make: str) -> None:
    run(BARGERS.replace("MAKE", make))


def test_no_notification_is_lost() -> None:
    run(CONDITIONS)
