"""
Text for programs that are run: a thread waits for a lock as often as it is told, each time long enough for a span.
"""

WAITS = """
import os, sys, threading, time

def wait(number=1):
    lock = threading.Lock()
    for _ in range(number):
        has = threading.Event()
        def hold():
            with lock:
                has.set()
                time.sleep(0.15)
        holder = threading.Thread(target=hold)
        holder.start()
        has.wait()
        with lock:
            pass
        holder.join()
"""
