"""
Programs that hang, and programs that do not although they look like it: what test_dump.py looks into.

Each is run with this in front; `go(f, ...)` starts daemon threads named after their functions, `hang()` says that it is
time to look and keeps the main thread busy.
"""

from __future__ import annotations

PRELUDE = """
import os, queue, random, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor, wait
Lock, RLock, Condition, Thread = threading.Lock, threading.RLock, threading.Condition, threading.Thread
def go(*functions):
    threads = [Thread(target=f, name=f.__name__, daemon=True) for f in functions]
    for t in threads: t.start()
    return threads
def say(): print(os.getpid(), flush=True)
def hang():
    say()
    while True: time.sleep(0.01)
def ring(locks, meet=None):
    # Thread i holds lock i and wants the next one.
    meet = threading.Barrier(len(locks))
    def member(i):
        with locks[i]:
            meet.wait()
            with locks[(i + 1) % len(locks)]: pass
    for i in range(len(locks)): Thread(target=member, args=(i,), name=f"member-{i}", daemon=True).start()
"""

# Name: (program, threads in each of its deadlocks).
DEADLOCKS: dict[str, tuple[str, list[int]]] = {
    "AB-BA": ("ring([Lock(), Lock()]); hang()", [2]),
    "AB-BA, RLocks": ("ring([RLock(), RLock()]); hang()", [2]),
    "AB-BA, one an RLock": ("ring([RLock(), Lock()]); hang()", [2]),
    "AB-BA, Conditions": ("ring([Condition(), Condition(Lock())]); hang()", [2]),
    "AB-BA twice": ("ring([Lock(), Lock()]); ring([Lock(), RLock()]); hang()", [2, 2]),
    "AB-BA by acquire()": (
        """
a, b, meet = Lock(), Lock(), threading.Barrier(2)
def first(): a.acquire(); meet.wait(); b.acquire()
def second(): b.acquire(); meet.wait(); a.acquire()
go(first, second); hang()
""",
        [2],
    ),
    "AB-BA, the RLock held twice": (
        """
a, b, meet = RLock(), Lock(), threading.Barrier(2)
def first():
    with a, a:
        meet.wait()
        with b: pass
def second():
    with b:
        meet.wait()
        with a: pass
go(first, second); hang()
""",
        [2],
    ),
    "AB-BA of the main thread": (
        """
a, b, meet = Lock(), Lock(), threading.Barrier(2)
def other():
    with b:
        meet.wait()
        with a: pass
go(other)
with a:
    meet.wait(); say()
    with b: pass
""",
        [2],
    ),
    "AB-BA while the main thread waits for the others to end": (
        (
            "def f(i):\n  with l[i]:\n    m.wait()\n    with l[1 - i]: pass\n"
            "l, m = [Lock(), Lock()], threading.Barrier(2)\nfor i in (0, 1): Thread(target=f, args=(i,)).start()\nsay()"
        ),
        [2],
    ),
    "AB-BA in an exit handler": (
        """
import atexit
a, b, meet = Lock(), Lock(), threading.Barrier(2)
def other():
    with b:
        meet.wait()
        with a: pass
go(other)
@atexit.register
def at_exit():
    with a:
        meet.wait(); say()
        with b: pass
""",
        [2],
    ),
    "AB-BA in a forked child": (
        "pid = os.fork()\nif pid == 0: ring([Lock(), Lock()]); hang()\nos.waitpid(pid, 0)",
        [2],
    ),
    "AB-BA in a pool": (
        """
a, b, meet = Lock(), Lock(), threading.Barrier(2)
def task(one, other):
    with one:
        meet.wait()
        with other: pass
pool = ThreadPoolExecutor(8)
pool.submit(task, a, b); pool.submit(task, b, a); hang()
""",
        [2],
    ),
    "AB-BA with others behind it": (
        """
locks = [Lock(), Lock()]; ring(locks); time.sleep(0.1)
own = Lock()
def behind():
    with own, locks[0]: pass
def far_behind():
    with own: pass
go(behind); time.sleep(0.1); go(far_behind); hang()
""",
        [2],
    ),
    "of oneself": ("l = Lock()\nwith l:\n  say()\n  with l: pass", [1]),
    "of oneself, by acquire()": ("l = Lock(); l.acquire(); say(); l.acquire()", [1]),
    "of oneself, others go on": ("l = Lock()\ndef f():\n  with l:\n    with l: pass\ngo(f); hang()", [1]),
    "of oneself, in a queue's mutex": ("q = queue.Queue()\ndef f():\n  with q.mutex: q.put(1)\ngo(f); hang()", [1]),
    "of oneself, in a signal handler": (
        """
l = Lock()
def handler(*_):
    with l: pass
signal.signal(signal.SIGALRM, handler)
with l:
    say(); signal.setitimer(signal.ITIMER_REAL, 0.01)
    while True: time.sleep(0.01)
""",
        [1],
    ),
    "of oneself, in __del__": (
        """
l = Lock()
class Resource:
    def __del__(self):
        with l: pass
def f():
    r = Resource()
    with l: del r
go(f); hang()
""",
        [1],
    ),
    "join under a lock": (
        """
l, ready = Lock(), threading.Event()
def worker():
    ready.wait()
    with l: pass
(t,) = go(worker)
with l:
    ready.set(); say(); t.join()
""",
        [2],
    ),
    "join under an RLock": (
        "l = RLock()\ndef f():\n  with l: pass\nt = Thread(target=f)\nwith l:\n  t.start(); say(); t.join()",
        [2],
    ),
    "join under a lock, by acquire(), nobody else": (
        "l = Lock()\ndef f():\n  with l: pass\nt = Thread(target=f)\nl.acquire(); t.start(); say(); t.join()",
        [2],
    ),
    "threads that join each other": (
        """
threads, ready = [], threading.Event()
def join(i): ready.wait(); threads[1 - i].join()
threads += [Thread(target=join, args=(i,), daemon=True) for i in (0, 1)]
for t in threads: t.start()
ready.set(); hang()
""",
        [2],
    ),
    "join of a thread that joins a pool under a lock": (
        """
l, ready = Lock(), threading.Event()
def task():
    ready.wait()
    with l: pass
def outer():
    with l: ready.set(); worker.join()
worker = Thread(target=task, daemon=True); worker.start()
go(outer); hang()
""",
        [2],
    ),
    **{f"{n} locks": (f"ring([Lock() for _ in range({n})]); hang()", [n]) for n in (3, 4, 9, 30)},
    **{
        f"{n} philosophers": (
            (
                f"forks = [Lock() for _ in range({n})]\ngate = threading.Barrier({n})\n"
                "def eat(i):\n  while True:\n    with forks[i]:\n      gate.wait()\n"
                f"      with forks[(i + 1) % {n}]: pass\n"
                f"for i in range({n}): Thread(target=eat, args=(i,), daemon=True).start()\nhang()"
            ),
            [n],
        )
        for n in (3, 5, 8)
    },
    **{
        f"transfers between {n} accounts, seed {seed}": (
            f"""
random.seed({seed})
accounts = [Lock() for _ in range({n})]
def transfer():
    numbers = random.Random(random.random())
    while True:
        one, other = numbers.sample(accounts, 2)
        with one:
            time.sleep(0.001)
            with other: pass
go(*[transfer] * {n * 2}); hang()
""",
            [],  # of how many threads is up to chance
        )
        for n in (2, 3, 4)
        for seed in range(3)
    },
}

# Name: (program, what the dump warns of).
HANGS: dict[str, tuple[str, str]] = {
    "a pool waits for itself": (
        (
            "pool = ThreadPoolExecutor(2)\ndef task(): pool.submit(int).result()\n"
            "fs = [pool.submit(lambda: (time.sleep(0.1), task())) for _ in range(2)]\nsay()\nwait(fs)"
        ),
        "All 3 threads wait",
    ),
    "fork in the middle": (
        """
l, ready = Lock(), threading.Event()
def holder():
    with l: ready.set(); time.sleep(60)
go(holder); ready.wait()
pid = os.fork()
if pid == 0:
    say()
    with l: pass
os.waitpid(pid, 0)
""",
        "was held when this process was forked, by a thread that only its parent has",
    ),
    "a lock whose owner has ended": (
        "l = Lock()\ndef leaves(): l.acquire()\ngo(leaves)[0].join()\ndef f():\n  with l: pass\ngo(f); hang()",
        "has ended",  # it is known as long as no other thread has got its ident
    ),
    "an event that nobody sets": (
        "def f(): threading.Event().wait()\n(t,) = go(f); say(); t.join()",
        "All 2 threads wait",
    ),
}

_FOR = "def for_a_while():\n  end = time.monotonic() + 1.5\n  while time.monotonic() < end: yield\n"

HEALTHY: dict[str, str] = {
    "one lock, eight threads": """
l = Lock()
def f():
    for _ in for_a_while():
        with l: time.sleep(0.001)
for t in go(*[f] * 8): t.join()
""",
    "locks in one order": """
a, b, c = Lock(), RLock(), Lock()
def f():
    for _ in for_a_while():
        with a, b, c: time.sleep(0.0005)
for t in go(*[f] * 6): t.join()
""",
    "a lock held for long": """
l = Lock()
def holder():
    with l: time.sleep(1.5)
def waiter():
    with l: pass
for t in go(holder, waiter, waiter, waiter): t.join()
""",
    "a lock as a gate that a third thread opens": """
gate = Lock(); gate.acquire()
def waiter(): gate.acquire()
def opener(): time.sleep(1.5); gate.release()
for t in go(waiter, opener): t.join()
""",
    "a lock as a signal to oneself": """
done = Lock(); done.acquire()
def worker(): time.sleep(1.5); done.release()
go(worker); done.acquire()
""",
    "a lock that a signal handler releases": """
done = Lock(); done.acquire()
signal.signal(signal.SIGALRM, lambda *_: done.release())
signal.setitimer(signal.ITIMER_REAL, 1.5)
done.acquire()
""",
    "ping-pong with two locks": """
ping, pong = Lock(), Lock(); pong.acquire()
def first():
    for _ in for_a_while(): ping.acquire(); time.sleep(0.001); pong.release()
def second():
    while pong.acquire(timeout=1): ping.release()
for t in go(first, second): t.join()
""",
    "AB-BA with timeouts": """
a, b = Lock(), Lock()
def f(one, other):
    for _ in for_a_while():
        with one:
            time.sleep(0.001)
            if other.acquire(timeout=random.random() / 5): other.release()
ts = [Thread(target=f, args=x) for x in ((a, b), (b, a))]
for t in ts: t.start()
for t in ts: t.join()
""",
    "AB-BA with tries": """
a, b = Lock(), Lock()
def f(one, other):
    for _ in for_a_while():
        with one:
            if other.acquire(False): time.sleep(0.001); other.release()
ts = [Thread(target=f, args=x) for x in ((a, b), (b, a))]
for t in ts: t.start()
for t in ts: t.join()
""",
    "a queue and its workers": """
q = queue.Queue(4)
def worker():
    while q.get() is not None: time.sleep(0.001)
ts = go(*[worker] * 4)
for i, _ in enumerate(for_a_while()): q.put(i)
for _ in ts: q.put(None)
for t in ts: t.join()
""",
    "a condition": """
c, items = Condition(), []
def consumer():
    for _ in for_a_while():
        with c: c.wait_for(lambda: items, timeout=0.1); items[:] = []
def producer():
    for _ in for_a_while():
        with c: items.append(1); c.notify_all()
        time.sleep(0.001)
for t in go(consumer, consumer, producer): t.join()
""",
    "a semaphore": """
s = threading.Semaphore(2)
def f():
    for _ in for_a_while():
        with s: time.sleep(0.002)
for t in go(*[f] * 6): t.join()
""",
    "a barrier": """
b = threading.Barrier(4)
def f():
    try:
        for _ in for_a_while(): b.wait(1)
    except threading.BrokenBarrierError: pass
    finally: b.abort()
for t in go(*[f] * 4): t.join()
""",
    "idle workers": """
e = threading.Event()
def f(): e.wait()
ts = go(*[f] * 4)
time.sleep(1.5); e.set()
for t in ts: t.join()
""",
    "a pool": """
with ThreadPoolExecutor(4) as pool:
    for _ in for_a_while(): list(pool.map(abs, range(50)))
""",
    "a recursive lock": """
l = RLock()
def deep(n):
    with l: return n and deep(n - 1)
def f():
    for _ in for_a_while(): deep(20)
for t in go(*[f] * 4): t.join()
""",
    "a lock taken in one thread and released in another": """
l = Lock(); handed = queue.Queue()
def giver():
    for _ in for_a_while(): l.acquire(); handed.put(1)
    handed.put(None)
def releaser():
    while handed.get(): time.sleep(0.001); l.release()
for t in go(giver, releaser): t.join()
""",
    "children by fork": """
l = Lock()
for _ in for_a_while():
    with l:
        pid = os.fork()
        if pid == 0: time.sleep(0.05); os._exit(0)
    os.waitpid(pid, 0)
""",
    "short-lived threads": """
l = Lock()
def f():
    with l: time.sleep(0.001)
for _ in for_a_while():
    for t in go(*[f] * 5): t.join()
""",
    "a join under a lock that nobody wants": """
l = Lock()
def f(): time.sleep(1.5)
(t,) = go(f)
with l: t.join()
""",
}
HEALTHY = {name: _FOR + program for name, program in HEALTHY.items()}
