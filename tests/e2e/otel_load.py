"""
Requests that wait for each other's lock, for a given time: what test_otel_failures.py exports the waits of.

Prints, as one JSON object: the requests that were served, the longest of them, and how much memory the process had
(resident, bytes) a third of the way and at the end. It knows nothing of tracedthread.
"""

import json
import sys
import threading
import time

THREADS = 6


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def main(seconds: float, held_s: float) -> None:
    lock = threading.Lock()
    counts = [0] * THREADS
    longest = [0.0] * THREADS
    began = time.monotonic()

    def serve(number: int) -> None:
        while (now := time.monotonic()) < began + seconds:
            with lock:
                time.sleep(held_s)
            counts[number] += 1
            longest[number] = max(longest[number], time.monotonic() - now)

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 3)
    early = resident()
    for thread in threads:
        thread.join()
    result = {"served": sum(counts), "longest_s": max(longest), "early_bytes": early, "late_bytes": resident()}
    print(json.dumps(result), flush=True)


main(float(sys.argv[1]), float(sys.argv[2]))
