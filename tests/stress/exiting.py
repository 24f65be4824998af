"""
A program that ends at a random moment with threads starting, waiting, holding, joining and forking: `exiting.py SEED`.

What it does, and its exit status, follow from the seed; at which moment of the others each thread does its part does not.
Run by test_threads.py, as it is and with TRACEDTHREAD_DISABLED=1.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
import tracedthread

if tracedthread.patch() == ("TRACEDTHREAD_DISABLED" in os.environ):
    os._exit(77)
import _thread
import atexit
import queue
import random
import signal
import threading
import time
import warnings

warnings.simplefilter("ignore")  # that forking with threads may deadlock
seed = int(sys.argv[1])
choose = random.Random(seed)
locks = [threading.Lock(), threading.RLock()]
condition = threading.Condition()
box: "queue.Queue[int]" = queue.Queue(2)
never = threading.Event()
delay, end, code = choose.choice([0, 0, 0.0005, 0.002, 0.005]), choose.randrange(8), choose.randrange(100, 256)
late = sys.version_info >= (3, 13)  # before, nobody makes it safe to start threads while the interpreter goes away


def hold():
    for lock in locks:
        with lock:
            time.sleep(0.0002)


def wait():
    if locks[0].acquire(timeout=0.0005):
        locks[0].release()
    with condition:
        condition.wait(0.0003)
        condition.notify()
    try:
        box.put_nowait(1)
        box.get(timeout=0.0003)
    except (queue.Full, queue.Empty):
        pass
    never.wait(0.0002)


def start():
    if _thread._count() > 30:
        time.sleep(0.001)
        return
    try:
        if random.random() < 0.5:
            _thread.start_new_thread(hold, ())
        else:
            threading.Thread(target=hold, daemon=random.random() < 0.7).start()
    except RuntimeError:  # at shutdown
        time.sleep(0.001)


def join():
    thread = threading.Thread(target=time.sleep, args=(0.0005,), daemon=True)
    try:
        thread.start()
    except RuntimeError:
        time.sleep(0.001)
        return
    thread.join(random.choice([None, 0, 0.0001]))
    thread.join()


def fork():
    if not late:
        # Stock, too, hangs in the child of a thread that `threading` does not know when another held `_shutdown_locks_lock`
        # (as does the main thread for a moment at the end): `_after_fork` makes a `_MainThread`, which takes it, before renewing it.
        threading.current_thread()
    try:
        pid = os.fork()
    except (RuntimeError, OSError):  # at shutdown
        time.sleep(0.001)
        return
    if pid == 0:
        signal.alarm(20)
        status = 0
        if seed % 3:
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
            status = int(thread.is_alive())
        os._exit(status)
    if os.waitpid(pid, 0)[1]:
        os._exit(88)


def fail():
    raise ValueError("on purpose")


def leave():
    sys.exit(9)


def stuck():
    never.wait()


def forever(action):
    while True:
        action()


def a_few(action):
    for _ in range(4):
        action()


sys.unraisablehook = lambda args: None
threading.excepthook = lambda args: None
actions = [hold, wait, fork] + ([start, join] if late else [])
for _ in range(choose.randrange(1, 6)):
    kind = choose.randrange(4)
    action = choose.choice(actions)
    if kind == 0:
        threading.Thread(target=forever, args=(action,), daemon=True).start()
    elif kind == 1:
        _thread.start_new_thread(forever, (action,))
    elif kind == 2:
        threading.Thread(target=a_few, args=(choose.choice([*actions, start, join, fail, leave]),)).start()
    else:
        threading.Thread(target=stuck, daemon=True).start()
if choose.random() < 0.3:
    atexit.register(choose.choice([hold, wait, *([start, join] if late else [])]))
time.sleep(delay)

match end:
    case 0:
        sys.exit(code)
    case 1:
        os._exit(code)
    case 2:
        sys.exit("some text")
    case 3:
        raise KeyError("of the main thread")
    case 4:
        threading.Thread(target=os._exit, args=(code,)).start()
        time.sleep(20)
    case 5:
        raise SystemExit
    case 6:
        threading.Thread(target=a_few, args=(hold,)).start()
