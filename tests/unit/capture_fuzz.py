"""
Damages captures in every way and reads them: only `CaptureError` may come of it, soon, in little memory.

    python tests/unit/capture_fuzz.py --seed 1 --cases 1000000 [FILE ...]

Everything follows from the seed and the number of the case, which a failure names. The process limits its own memory.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where it is a program and nothing is installed

import capture_builder as cb

from tracedthread import layout
from tracedthread.capture import Capture, CaptureError
from tracedthread.compare import compare
from tracedthread.export import FORMATS, render
from tracedthread.export.plain import explain
from tracedthread.limits import MEASURES, Limit
from tracedthread.profile import Profile, subtract
from tracedthread.unfinished import deadlocks, pending
from tracedthread.verdict import judge

MEMORY_BYTES = 768 << 20
CASE_S = 10
#: All forms take many times as long as all the rest; a difference twice as long.
FORMS_EVERY, DIFFERENCE_EVERY = 100, 20

LIMITS = [Limit(measure, "*", 1e-6) for measure in MEASURES.values()]

_WORDS = (0, 1, 2, 3, 4, 7, 8, 255, 256, 4096, 65535, 2**16, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
_LONGS = (*_WORDS, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1)


def small() -> bytes:
    """One lock, one wait, one thread, which waits: most of its bytes mean something."""
    builder = cb.CaptureBuilder(spare=1, grown=True)
    lock = builder.site("Cache.lock", ("Cache.__init__", "cache.py", 4), lock_type=1)
    lock.hold(500, 2 * cb.MS)
    places = [("get", "cache.py", 9), ("main", "app.py", 2)]
    builder.wait(lock, "rlock", places, 3 * cb.MS, gil_ns=10_000)
    builder.wait(lock, "queue.put", places, 5 * cb.MS)
    builder.wait(lock, "lock", (), 4_000, other=True)
    builder.thread("worker", "run", start_ns=5, latency_ns=70_000, end_ns=9 * cb.MS, wait_ns=3 * cb.MS)
    builder.event(lock, places, 100, 3 * cb.MS)
    builder.note('{"what": "import locks", "count": 3, "where": ["a", "b"]}')
    builder.blame(lock, places, 2 * cb.MS, gil_ns=9_000, handoff_ns=500)
    builder.thread("stuck", "run", start_ns=5)
    builder.waits_for(2, 0xABC0, lock, since_ns=50, places=places)
    builder.contended(0xABC0, lock, 2, owner_at=places, released_at=places)
    return builder.build()


class Mutator:
    """
    Makes damaged copies of one capture.

    Args:
        data: A valid capture.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        header = layout.HEADER.read(data)
        table = header.header_size, header.section_count * layout.SECTION.size
        self.sections = list(layout.SECTION.iterate(data[table[0] : sum(table)], layout.SECTION.size))
        self.table = table[0]
        # (offset, length, how much of each record): a histogram is large and says little.
        self.spans = [(0, layout.HEADER.size, 1, 1), (*table, 1, 1)]
        for section in self.sections:
            if used := min(section.used, section.capacity) * section.record_size:
                known = {layout.STATS: 128, layout.POOLS: 104}.get(section.id, section.record_size)
                self.spans.append((section.offset, used, section.record_size, known))

    def _at(self, rng: random.Random) -> int:
        """A byte that means something."""
        offset, length, stride, known = rng.choice(self.spans)
        if rng.random() < 0.1:
            known = stride
        return min(offset + rng.randrange(max(1, length // stride)) * stride + rng.randrange(known), len(self.data) - 1)

    def mutate(self, rng: random.Random) -> bytes:
        """A copy with one to six damages."""
        data = bytearray(self.data)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
            rng.choice(_DAMAGES)(self, data, rng)
            if not data:
                break
        return bytes(data)

    def flip(self, data: bytearray, rng: random.Random) -> None:
        """One to three bits."""
        at = self._at(rng)
        if at < len(data):
            data[at] ^= rng.choice((1 << rng.randrange(8), rng.randrange(1, 256)))

    def word(self, data: bytearray, rng: random.Random) -> None:
        """Four bytes."""
        self._put(data, self._at(rng) // 4 * 4, "<I", rng.choice(_WORDS))

    def long(self, data: bytearray, rng: random.Random) -> None:
        """Eight bytes."""
        self._put(data, self._at(rng) // 8 * 8, "<Q", rng.choice(_LONGS))

    def nudge(self, data: bytearray, rng: random.Random) -> None:
        """A reference or count that is slightly off."""
        at = self._at(rng) // 4 * 4
        if at + 4 <= len(data):
            value = struct.unpack_from("<I", data, at)[0] + rng.choice((-2, -1, 1, 2, 8))
            self._put(data, at, "<I", value & 0xFFFFFFFF)

    def entry(self, data: bytearray, rng: random.Random) -> None:
        """A field of the section table."""
        at = self.table + rng.randrange(len(self.sections)) * layout.SECTION.size
        name = rng.randrange(6)
        value = rng.choice((*_LONGS, *(section[name] for section in self.sections), rng.randrange(len(self.data))))
        if name < 4:
            self._put(data, at + 8 * name, "<Q", value)
        else:
            self._put(data, at + 32 + 4 * (name - 4), "<I", value & 0xFFFFFFFF)

    def swap(self, data: bytearray, rng: random.Random) -> None:
        """Two entries of the section table change places."""
        size = layout.SECTION.size
        one, two = (self.table + rng.randrange(len(self.sections)) * size for _ in range(2))
        data[one : one + size], data[two : two + size] = data[two : two + size], data[one : one + size]

    def truncate(self, data: bytearray, rng: random.Random) -> None:
        """A part is missing at the end; sometimes the header does not know better."""
        del data[rng.randrange(len(data)) :]
        if rng.random() < 0.5:
            self._put(data, 16, "<Q", len(data))

    def copy(self, data: bytearray, rng: random.Random) -> None:
        """Bytes from elsewhere."""
        length, source, target = rng.choice((4, 8, 24, 64, 200)), self._at(rng), self._at(rng)
        part = data[source : source + length]
        if target + len(part) <= len(data):
            data[target : target + len(part)] = part

    def fill(self, data: bytearray, rng: random.Random) -> None:
        """A stretch of one byte."""
        length, at = rng.choice((4, 16, 64, 512)), self._at(rng)
        end = min(at + length, len(data))
        if at < end:
            data[at:end] = bytes([rng.choice((0, 0xFF, 0x20, 0x7B))]) * (end - at)

    @staticmethod
    def _put(data: bytearray, at: int, form: str, value: int) -> None:
        if at + struct.calcsize(form) <= len(data):
            struct.pack_into(form, data, at, value)


_DAMAGES: tuple[Callable[[Mutator, bytearray, random.Random], None], ...] = (
    *(Mutator.flip, Mutator.word, Mutator.long, Mutator.nudge, Mutator.entry) * 3,
    Mutator.swap,
    Mutator.truncate,
    Mutator.copy,
    Mutator.fill,
)


def read(data: bytes, *, difference: bool, forms: bool) -> bool:
    """Everything that a reader does; whether the capture was accepted."""
    try:
        capture = Capture.from_buffer(data)
        profile = Profile.from_capture(capture)
        capture.events()
        capture.starts()
        list(capture.blame())
        list(capture.contended())
        unfinished = pending(capture)
        deadlocks(capture)
        capture.tick_s, capture.end_ticks, capture.lost  # noqa: B018
    except CaptureError as exc:
        assert "\n" not in str(exc)
        return False
    json.dumps(profile.to_dict(), allow_nan=False)
    if difference:
        json.dumps(subtract(profile, profile).to_dict(), allow_nan=False)
        json.dumps(compare(profile, profile).to_dict(), allow_nan=False)
        for verdict in judge(profile, LIMITS, unfinished):
            explain(verdict)
    for name, form in FORMATS.items() if forms else ():
        try:
            render(profile, name, io.BytesIO() if form.is_binary else io.StringIO())
        except CaptureError as exc:
            assert form.is_binary
            assert "\n" not in str(exc)
    return True


def run(bases: list[bytes], seed: int, cases: int, first: int = 0) -> dict[str, float]:
    """
    Read `cases` damaged captures.

    Raises:
        AssertionError: A case ended otherwise than it may; named with its traceback.
    """
    mutators = [Mutator(base) for base in bases]
    accepted, slowest = 0, 0.0
    for case in range(first, first + cases):
        rng = random.Random(f"{seed}/{case}")
        data = rng.choice(mutators).mutate(rng)
        began = time.process_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, CASE_S)  # of processor time: a busy machine is no hang
        try:
            accepted += read(data, difference=case % DIFFERENCE_EVERY == 0, forms=case % FORMS_EVERY == 0)
        except BaseException:
            raise AssertionError(f"seed {seed}, case {case}:\n{traceback.format_exc()}") from None
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        slowest = max(slowest, time.process_time() - began)
    return {"cases": cases, "accepted": accepted, "slowest_s": round(slowest, 3)}


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to repeat one")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="more captures to damage")
    args = parser.parse_args()

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {CASE_S} s")

    signal.signal(signal.SIGVTALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    # The small one twice: it is read three times as fast, and a damage to it seldom misses.
    bases = [small(), small(), cb.example().build(), *(file.read_bytes() for file in args.files)]
    result = run(bases, args.seed, args.cases, args.first)
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(json.dumps(result))


if __name__ == "__main__":
    main()
