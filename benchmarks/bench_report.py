"""
What a report of a large recording costs: 1,000 locks, 10^5 stacks and 10^6 events, read and written in each form.

    python benchmarks/bench_report.py [--only html] [--keep FILE] [--no-gate]

Method. The recording (92 MB) is synthetic and always the same, for a program takes hours to fill one. Each form is made
by a process of its own, `tracedthread report`, as a user makes it; reported is its processor time, start-up included,
and its peak of memory. `read` only copies, checks and sums up the recording.

Stacks are 16 frames deep; a lock is taken and released in four places, each of which is reached in 25 ways. Every stack
is in a wait or in a blame cell, and every event refers to three of them.
"""

from __future__ import annotations

import argparse
import os
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit"))
import capture_builder as cb

ROOT = Path(__file__).resolve().parents[1]

LOCKS, STACKS, FRAMES, THREADS, MAX_PAGE = 1_000, 100_000, 16_000, 64, 5_000_000
CALLERS = 1 << 15  # a tree with two callees a place
BUDGETS_S: dict[str, float | None] = {"read": None, "text": None, "json": None, "html": 3.0}
READ = """
import gc, sys
from tracedthread.capture import Capture
from tracedthread.profile import Profile
gc.disable()
Profile.from_capture(Capture.open(sys.argv[1]))
"""


def recording(events: int) -> bytes:
    """The bulk is put into the builder's lists as it is: interning it would take minutes."""
    rng = random.Random(1)
    builder = cb.CaptureBuilder(grown=True, spare=0, duration_ns=600 * cb.SECOND)
    places = [("serve", f"/srv/shop/module{number % 300}.py", number) for number in range(LOCKS)]
    sites = [builder.site(f"Class{n}._lock", place, instances=3) for n, place in enumerate(places)]
    for site in sites:
        site.hold(500, 20_000, 3 * cb.MS, times=1_000)
    files = [builder.string(f"/srv/shop/package{number % 40}/module{number}.py") for number in range(1_000)]
    functions = [builder.string(f"Service{number}.method_{number % 17}") for number in range(5_000)]
    builder.frames += [(files[n % 1_000], functions[n % 5_000], 1 + n // 7, 0) for n in range(FRAMES + 4 * LOCKS)]
    builder.stacks += [(node // 2, 1 + node % FRAMES) for node in range(1, CALLERS)]
    deepest = range(CALLERS // 2, CALLERS)
    stacks = range(CALLERS, CALLERS + STACKS)
    builder.stacks += [(rng.choice(deepest), 1 + FRAMES + n % (4 * LOCKS)) for n in range(STACKS)]
    for number in range(THREADS):
        builder.thread(f"worker-{number}", "Pool.run", start_ns=number, latency_ns=50_000, wait_ns=cb.SECOND)
    for number, stack in enumerate(stacks):
        site = sites[number % LOCKS]
        ticks = rng.randrange(2_000, 20_000_000)
        if number // LOCKS % 2:
            builder.cells[site.id, stack, 0, False] = [10, ticks, ticks // 20, ticks // 4, 0, 0]
            site.counters["contended"] += 10
            site.counters["wait_ticks"] += ticks
            site.wait_histogram[200] += 10
        else:
            builder.blames[site.id, stack] = [10, ticks, ticks // 4, 12]
    pack, first = struct.Struct("<4Q3I2HQ6I").pack, cb.FIRST_TICKS
    for sequence in range(1, events + 1):
        start = first + sequence * 1_200
        length = int(rng.expovariate(1 / 4_000_000)) + 2_000_000
        number = sequence % LOCKS
        site, lock = sites[number].id, 0x7F00_0000_0000 + number * 64
        stack, release, held = (stacks[number + LOCKS * rng.randrange(STACKS // LOCKS)] for _ in range(3))
        kind = 0 if sequence % 5 else 5  # one in five waits for a queue
        thread, holder, end = 1 + stack % THREADS, 1 + release % THREADS, start + length
        event = sequence, start, end, length // 30, site, stack, thread, kind, 0, lock, 0, holder, 0, release, held
        builder.events.append(pack(*event, 0))
    builder.events_written = events
    return builder.build()


def measure(command: list[str]) -> tuple[float, int]:
    """Processor time in seconds and peak of memory in bytes of a Python process, that must end well."""
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT)  # the package is imported from there
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {command}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000, help="(default: %(default)s)")
    parser.add_argument("--only", choices=list(BUDGETS_S), help="one form")
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="make the recording there, unless it is there already"
    )
    parser.add_argument("--no-gate", action="store_true", help="exit 0 whatever comes out")
    options = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        capture: Path = options.keep.resolve() if options.keep else Path(folder, "big.ttc")
        if not capture.exists():
            capture.write_bytes(recording(options.events))
        size = capture.stat().st_size / 1e6
        print(f"Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f}; recording of {size:.0f} MB")
        print(f"{'':6} {'processor time':>14} {'peak memory':>12} {'size':>10}  {'budget':>8}")
        for form, budget in BUDGETS_S.items():
            if options.only not in (None, form):
                continue
            out = Path(folder, f"report.{form}")
            command = ["-m", "tracedthread", "report", str(capture), "-f", form, "-o", str(out)]
            spent, peak = measure(["-c", READ, str(capture)] if form == "read" else command)
            size = out.stat().st_size if out.exists() else 0
            good = (budget is None or spent <= budget) and (form != "html" or size <= MAX_PAGE)
            missed |= not good
            limit, verdict = ("", "") if budget is None else (f"<= {budget:.0f} s", "ok" if good else "MISSED")
            shown = f"{size / 1e6:7.1f} MB" if size else ""
            print(f"{form:6} {spent:12.2f} s {peak / 1e6:9.0f} MB {shown:>10}  {limit:>8} {verdict}")
    return 1 if missed and not options.no_gate else 0


if __name__ == "__main__":
    sys.exit(main())
