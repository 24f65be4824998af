"""
Writes synthetic captures, laid out as native/capture.h says, independently of the reader's own tables.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

TICKS_PER_NS = 2
MS = 1_000_000
SECOND = 1_000 * MS
FIRST_TICKS = 1_000_000_007
FIRST_MONOTONIC_NS = 5_000 * SECOND
FIRST_WALL_NS = 1_795_363_200_123_456_789  # 2026-11-22T16:00:00.123456789Z

STRINGS, FRAMES, STACKS, SITES, STATS, CELLS, THREADS, EVENTS, NOTES, BLAME, STARTS, CONTENDED = range(12)
KINDS = [
    "lock",
    "rlock",
    "condition",
    "event",
    "semaphore",
    "queue.get",
    "queue.put",
    "barrier",
    "future",
    "join",
    "pool",
]
BUCKETS = 304
RECORD_SIZES = [1, 16, 8, 24, 128 + 16 * BUCKETS, 64, 88, 64, 1]  # of the first version, without blame
GROWN_RECORD_SIZES = [1, 16, 8, 32, 192 + 16 * BUCKETS, 72, 216, 88, 1, 40, 200, 48]
FIXED_SITES = 3

Place = tuple[str, str, int]  # function, path, line


def bucket(ns: int) -> int:
    """The histogram bucket of a duration, by search."""
    edges = list(range(8)) + [(8 + part) << octave for octave in range(37) for part in range(8)]
    return max(index for index, edge in enumerate(edges) if edge <= ns)


class Site:
    """Counters of one site, in ticks."""

    def __init__(self, site_id: int, lock_type: int) -> None:
        self.id = site_id
        self.type = lock_type
        names = "created destroyed acquisitions contended timeouts interrupted failed_tries hold_ticks hold_max_ticks"
        names += " wait_ticks wait_max_ticks own_gil_ticks gil_ticks handoff_ticks waiters pending_hold"
        self.counters = dict.fromkeys(names.split(), 0)
        self.holds_untimed = 0
        self.hold_histogram = [0] * BUCKETS
        self.wait_histogram = [0] * BUCKETS

    def hold(self, *holds_ns: int, times: int = 1) -> None:
        """Acquire, hold and release, `times` times each."""
        for ns in holds_ns:
            self.counters["acquisitions"] += times
            self.counters["hold_ticks"] += ns * TICKS_PER_NS * times
            self.counters["hold_max_ticks"] = max(self.counters["hold_max_ticks"], ns * TICKS_PER_NS)
            self.hold_histogram[bucket(ns)] += times

    def pack(self) -> bytes:
        """tt_site_stats."""
        histograms = (*self.hold_histogram, *self.wait_histogram)
        return struct.pack("<16Q304Q304QQ56x", *self.counters.values(), *histograms, self.holds_untimed)


class CaptureBuilder:
    """
    A capture in the making. Times are given in nanoseconds from the start of the recording.

    Args:
        spare: Records (bytes for strings) of free room in each section.
        duration_ns: Between the two anchors.
        grown: With the fields and sections that the first version did not have: blame, wakers, holders, fingerprints.
    """

    def __init__(
        self, *, duration_ns: int = 10 * SECOND, spare: int = 4, state: int = 2, pid: int = 71, grown: bool = False
    ) -> None:
        self.duration_ns = duration_ns
        self.spare = spare
        self.state = state
        self.pid = pid
        self.pid_space = 0
        self.process_start = 1
        self.program = b"app.py"
        self.python = b"3.13.0"
        self.abi = 1
        self.ns_per_tick = 2**32 // TICKS_PER_NS
        self.record_sizes = list(GROWN_RECORD_SIZES if grown else RECORD_SIZES)
        self.lost = [0] * len(self.record_sizes)
        self.strings = bytearray(4)
        self.known_strings: dict[bytes, int] = {b"": 0}
        self.frames = [(0, 0, 0, 0)]
        self.stacks = [(0, 0)]
        self.sites = [(0, 0, 0, 0, 0, 0, 0)] * FIXED_SITES
        self.stats = [Site(index, 0) for index in range(FIXED_SITES)]
        self.cells: dict[tuple[int, int, int, bool], list[int]] = {(0, 0, k, True): [0] * 6 for k in range(len(KINDS))}
        self.wakers: dict[tuple[int, int, int, bool], int] = {}
        self.blames: dict[tuple[int, int], list[int]] = {(0, 0): [0] * 4}
        self.threads = [(0,) * 13]
        self.thread_tails = [(0, b"", 0)]  # generation, label, blamed ticks
        self.waits_now: dict[int, tuple[int, ...]] = {}
        self.locks_now = [(0,) * 10]
        self.generation = 0
        self.paused_ns = 0
        self.recording = 1
        self.events: list[bytes] = []
        self.events_written = 0
        self.event_capacity: int | None = None
        self.notes = bytearray()

    @staticmethod
    def ticks(ns: int) -> int:
        """A moment on the capture's clock."""
        return FIRST_TICKS + ns * TICKS_PER_NS

    def string(self, text: str | bytes) -> int:
        """The reference of an interned string."""
        data = text.encode() if isinstance(text, str) else text
        if data not in self.known_strings:
            self.known_strings[data] = len(self.strings)
            self.strings += _prefixed(data)
        return self.known_strings[data]

    def stack(self, places: Iterable[Place]) -> int:
        """The reference of an interned stack, given innermost first."""
        node = 0
        for function, path, line in reversed(list(places)):
            frame = (self.string(path), self.string(function), line, 0)
            if frame not in self.frames:
                self.frames.append(frame)
            record = (node, self.frames.index(frame))
            if record not in self.stacks[1:]:
                self.stacks.append(record)
            node = self.stacks.index(record, 1)
        return node

    def site(self, name: str, created: Place, *, lock_type: int = 0, instances: int = 1, fingerprint: int = 0) -> Site:
        """A new site."""
        function, path, line = created
        place = (self.string(path), self.string(function), line)
        self.sites.append((self.string(name), *place, lock_type, 0, fingerprint))
        site = Site(len(self.stats), lock_type)
        site.counters["created"] = instances
        self.stats.append(site)
        return site

    def wait(
        self,
        site: Site,
        kind: str,
        places: Iterable[Place],
        *waits_ns: int,
        gil_ns: int = 0,
        timeouts: int = 0,
        waker: Iterable[Place] = (),
        other: bool = False,
    ) -> None:
        """Waits from one stack, the GIL's part of each being `gil_ns`; `other`: no room was left for their cell."""
        number = KINDS.index(kind)
        key = (0, 0, number, True) if other else (site.id, self.stack(places), number, False)
        cell = self.cells.setdefault(key, [0] * 6)
        self.wakers[key] = self.stack(waker)
        for ns in waits_ns:
            ticks = ns * TICKS_PER_NS
            cell[0] += 1
            cell[1] += ticks
            cell[2] += gil_ns * TICKS_PER_NS
            cell[3] = max(cell[3], ticks)
            if kind in ("lock", "rlock"):
                site.counters["contended"] += 1
                site.counters["wait_ticks"] += ticks
                site.counters["wait_max_ticks"] = max(site.counters["wait_max_ticks"], ticks)
                site.counters["own_gil_ticks"] += gil_ns * TICKS_PER_NS
                site.wait_histogram[bucket(ns)] += 1
        cell[4] += timeouts
        if kind in ("lock", "rlock"):
            site.counters["timeouts"] += timeouts

    def blame(
        self,
        site: Site,
        places: Iterable[Place],
        *blames_ns: int,
        waiters: int = 1,
        gil_ns: int = 0,
        handoff_ns: int = 0,
        other: bool = False,
    ) -> None:
        """
        Holds released at one place, each of which made `waiters` threads wait so long together.

        `gil_ns` and `handoff_ns`, of all of them, go to the site. `other`: no room was left for their cell.
        """
        cell = self.blames.setdefault((0, 0) if other else (site.id, self.stack(places)), [0] * 4)
        for ns in blames_ns:
            ticks = ns * TICKS_PER_NS
            cell[0] += 1
            cell[1] += ticks
            cell[2] = max(cell[2], ticks)
            cell[3] += waiters
        site.counters["gil_ticks"] += gil_ns * TICKS_PER_NS
        site.counters["handoff_ticks"] += handoff_ns * TICKS_PER_NS

    def thread(
        self,
        name: str,
        function: str,
        *,
        start_ns: int = 0,
        latency_ns: int = 0,
        end_ns: int = 0,
        cpu_ns: int = 0,
        wait_ns: int = 0,
        idle_ns: int = 0,
        resource_ns: int = 0,
        gil_ns: int = 0,
        generation: int = 0,
        label: str = "",
        blamed_ns: int = 0,
    ) -> None:
        """A thread; without `latency_ns` it was not started by us, without `end_ns` it is alive."""
        start = self.ticks(start_ns)
        number = len(self.threads)
        self.thread_tails.append((generation, label.encode(), blamed_ns * TICKS_PER_NS))
        self.threads.append(
            (
                140_000_000_000_000 + number,
                start,
                start + latency_ns * TICKS_PER_NS if latency_ns else 0,
                self.ticks(end_ns) if end_ns else 0,
                cpu_ns,
                wait_ns * TICKS_PER_NS,
                idle_ns * TICKS_PER_NS,
                resource_ns * TICKS_PER_NS,
                gil_ns * TICKS_PER_NS,
                70 + number,
                self.string(name),
                self.string(function),
                3 if end_ns else 2,
            )
        )

    def waits_for(
        self,
        thread: int,
        lock: int,
        site: Site | None = None,
        *,
        kind: str = "lock",
        since_ns: int = 0,
        timed: bool = False,
        places: Iterable[Place] = (),
    ) -> None:
        """A wait in progress; `thread` is counted from 1, in the order of `thread()`."""
        place = (site.id if site else 0, self.stack(places), KINDS.index(kind), timed)
        self.waits_now[thread] = (self.ticks(since_ns), lock, *place)

    def contended(
        self,
        lock: int,
        site: Site,
        owner: int = 0,
        *,
        generation: int = 0,
        held_since_ns: int | None = 0,
        entered: bool = False,
        owner_at: Iterable[Place] = (),
        released_at: Iterable[Place] = (),
    ) -> None:
        """A lock that somebody waits for; `owner` is counted from 1, in the order of `thread()`."""
        since = 0 if held_since_ns is None else self.ticks(held_since_ns)
        stacks = (self.stack(owner_at), self.stack(released_at))
        self.locks_now.append((lock, since, site.id, site.type, owner, generation, *stacks, 1, entered))

    def event(
        self,
        site: Site,
        places: Iterable[Place],
        start_ns: int,
        end_ns: int,
        *,
        kind: str = "lock",
        outcome: int = 0,
        gil_ns: int = 0,
        lock: int = 0xABC0,
        thread: int = 0,
        generation: int = 0,
        holder: int = 0,
        holder_generation: int = 0,
        release: Iterable[Place] = (),
        holder_at: Iterable[Place] = (),
        context: int = 0,
        holder_context: int = 0,
    ) -> None:
        """A slow wait, into the ring. `thread` and `holder` are counted from 1, in the order of `thread()`."""
        self.events_written += 1
        record = struct.pack(
            "<4Q3I2HQ8I",
            self.events_written,
            self.ticks(start_ns),
            self.ticks(end_ns),
            gil_ns * TICKS_PER_NS,
            site.id,
            self.stack(places),
            thread,
            KINDS.index(kind),
            outcome,
            lock,
            generation,
            holder,
            holder_generation,
            self.stack(release),
            self.stack(holder_at),
            0,
            context,
            holder_context,
        )
        self.events.append(record)

    def note(self, text: str | bytes) -> None:
        """A note, as it is."""
        self.notes += _prefixed(text.encode() if isinstance(text, str) else text)

    def sections(self) -> list[tuple[bytes, int, int]]:
        """Bytes, capacity and used of every section."""
        cells = [
            struct.pack("<4I6Q2I", *key[:3], 0, *counters, self.wakers.get(key, 0), 0)
            for key, counters in self.cells.items()
        ]
        records: dict[int, list[bytes]] = {
            FRAMES: [struct.pack("<4I", *frame) for frame in self.frames],
            STACKS: [struct.pack("<2I", *stack) for stack in self.stacks],
            SITES: [struct.pack("<6IQ", *site[:6], *(site[6:] or (0,))) for site in self.sites],
            STATS: [site.pack() for site in self.stats],
            CELLS: cells,
            THREADS: [
                struct.pack(
                    "<9Q4IQI12x2Q4I64sQ", *thread, 0, generation, *self.waits_now.get(number, (0,) * 6), label, blamed
                )
                for number, (thread, (generation, label, blamed)) in enumerate(zip(self.threads, self.thread_tails))
            ],
            BLAME: [struct.pack("<2I4Q", *key, *counters) for key, counters in self.blames.items()],
            STARTS: [],
            CONTENDED: [struct.pack("<2Q8I", *lock) for lock in self.locks_now],
        }
        result = []
        for section_id, size in enumerate(self.record_sizes):
            if section_id in (STRINGS, NOTES):
                data = bytes(self.strings if section_id == STRINGS else self.notes)
                result.append((data, len(data) + self.spare * 16, len(data)))
            elif section_id == EVENTS:
                capacity = self.event_capacity or len(self.events) + self.spare
                ring = [b"\0" * size] * capacity
                for index, record in enumerate(self.events):
                    ring[index % capacity] = record[:size].ljust(size, b"\0")
                result.append((b"".join(ring), capacity, self.events_written))
            else:
                # A newer writer's records are longer: what follows the known fields is not zero.
                known = GROWN_RECORD_SIZES[section_id]
                padded = [
                    record[:size].ljust(size, b"\xee" if size > known else b"\0") for record in records[section_id]
                ]
                spare = 0 if section_id == STATS else self.spare
                result.append((b"".join(padded), len(padded) + spare, len(padded)))
        return result

    def build(self) -> bytes:
        """The capture."""
        header_size, page = 312, 64
        body = bytearray()
        table = b""
        start = _aligned(header_size + 40 * len(self.record_sizes), page)
        for section_id, (data, capacity, used) in enumerate(self.sections()):
            size = self.record_sizes[section_id]
            offset = start + len(body)
            table += struct.pack("<4Q2I", offset, capacity, used, self.lost[section_id], size, section_id)
            body += data.ljust(_aligned(capacity * size, page), b"\0")
        anchors = [
            (FIRST_TICKS, FIRST_MONOTONIC_NS, FIRST_WALL_NS),
            (self.ticks(self.duration_ns), FIRST_MONOTONIC_NS + self.duration_ns, FIRST_WALL_NS + self.duration_ns),
        ]
        header = struct.pack(
            "<8s2IQ2IQ2IQ6Q Q2I128s56sQ",
            b"\x93TTC\r\n\x1a\n",
            self.abi,
            header_size,
            start + len(body),
            len(self.record_sizes),
            self.pid,
            self.process_start,
            self.state,
            1,
            self.ns_per_tick,
            *anchors[0],
            *anchors[1],
            self.paused_ns * TICKS_PER_NS,
            self.generation,
            self.recording,
            self.program,
            self.python,
            self.pid_space,
        )
        return (header + table).ljust(start, b"\0") + bytes(body)


def _prefixed(data: bytes) -> bytes:
    return (struct.pack("<I", len(data)) + data).ljust(_aligned(4 + len(data), 4), b"\0")


def _aligned(size: int, to: int) -> int:
    return (size + to - 1) // to * to


def example(*, grown: bool = False) -> CaptureBuilder:
    """
    A small shop: a slow report job holds the lock of a cache that request threads want. 12.3 s, fixed.

    With `grown`, it is also recorded who made them wait.
    """
    builder = CaptureBuilder(duration_ns=12_300 * MS, grown=grown)
    cache, app, queue_user = "/srv/shop/cache.py", "/srv/shop/app.py", "/srv/shop/jobs.py"
    library = "/usr/lib/python3.13/"
    serve = [
        ("Handler.do_GET", app, 88),
        ("BaseHTTPRequestHandler.handle_one_request", library + "http/server.py", 436),
        ("BaseHTTPRequestHandler.handle", library + "http/server.py", 450),
        ("BaseRequestHandler.__init__", library + "socketserver.py", 766),
    ]
    lookup = [("PriceCache.fast_lookup", cache, 63), ("checkout", app, 20), *serve]
    refresh = [("PriceCache.refresh", cache, 97), ("refresh_loop", queue_user, 31)]

    lock = builder.site("PriceCache._lock", ("PriceCache.__init__", cache, 41))
    lock.hold(*[400, 500, 650, 900] * 5, times=600)
    lock.hold(*[118 * MS, 121 * MS, 124 * MS] * 15)
    waits = [(20 + 3 * index) * MS for index in range(34)]
    builder.wait(lock, "lock", lookup, *waits, *[119 * MS] * 8, *[122 * MS] * 3, gil_ns=1_900_000)
    builder.wait(lock, "lock", refresh, 81 * MS, 119 * MS, 12 * MS, gil_ns=300_000, timeouts=1)
    builder.wait(lock, "lock", [("Stats.total", app, 140), *serve], 800_000, 950_000)

    registry = builder.site("Registry.lock", ("Registry.__init__", app, 12), lock_type=1, instances=3)
    registry.hold(300, 350, 2_000, times=5_000)
    builder.wait(registry, "rlock", [("Registry.find", app, 55), *serve], 40_000, 55_000, 130_000, gil_ns=20_000)

    mutex = builder.site("jobs", ("<module>", queue_user, 9), instances=1)
    mutex.hold(900, 1_100, times=420)
    worker = [("worker", queue_user, 16), ("run_pool", queue_user, 5)]
    builder.wait(mutex, "queue.get", worker, *[90 * MS] * 410)
    builder.wait(mutex, "queue.put", [("submit", queue_user, 30), *serve], *[4 * MS] * 12)
    builder.wait(mutex, "lock", worker, 7_000, 9_000)

    ready = builder.site("Service.ready", ("Service.__init__", app, 30))
    ready.hold(700, times=6)
    builder.wait(ready, "event", [("main", app, 201), ("<module>", app, 210)], 5_000 * MS, 7_100 * MS)
    other = builder.stats[2]
    other.counters["created"] = 7
    other.hold(250, times=40)
    builder.wait(other, "lock", (), 15_000, other=True)
    builder.wait(other, "condition", (), 3 * MS, 4 * MS, other=True)

    builder.thread("MainThread", "", idle_ns=12_100 * MS)
    for number in range(1, 5):
        builder.thread(
            f"worker-{number}",
            "worker",
            start_ns=number * MS,
            latency_ns=70_000 + number * 1_000,
            end_ns=12_250 * MS,
            cpu_ns=310 * MS * number,
            wait_ns=number * 950 * MS,
            idle_ns=9_200 * MS - number * 900 * MS,
            resource_ns=12 * MS,
            gil_ns=number * 15 * MS,
        )
    for start in range(3):
        builder.event(lock, lookup, start * SECOND, start * SECOND + 119 * MS)
    builder.note('{"what": "locks created before patching", "count": 2, "where": ["logging._lock", "app.Böse"]}')
    builder.note("{not json")
    builder.note('{"what": "queue.SimpleQueue (C)", "count": 1, "where": []}')
    builder.lost[STACKS] = 12
    if grown:
        _blame_example(builder, lock, registry, lookup)
    return builder


def _blame_example(builder: CaptureBuilder, lock: Site, registry: Site, lookup: list[Place]) -> None:
    jobs = "/srv/shop/jobs.py"
    report = [("PriceCache.slow_report", "/srv/shop/cache.py", 118), ("report_loop", jobs, 44)]
    waited = lock.counters["wait_ticks"] - lock.counters["own_gil_ticks"]
    gil, handoff, few = 1_500_000, 900_000, 12 * MS
    share = (waited // TICKS_PER_NS - gil - handoff - few) // 15
    builder.blame(lock, report, *[share] * 15, waiters=3, gil_ns=gil, handoff_ns=handoff)
    builder.blame(lock, [("PriceCache.refresh", "/srv/shop/cache.py", 99), ("refresh_loop", jobs, 31)], *[few // 4] * 4)
    waited = registry.counters["wait_ticks"] - registry.counters["own_gil_ticks"]
    builder.blame(registry, [("Registry.find", "/srv/shop/app.py", 57)], waited // TICKS_PER_NS // 3)
    builder.blame(registry, (), waited // TICKS_PER_NS - waited // TICKS_PER_NS // 3, other=True)
    blamed = share * 15
    builder.thread("report", "report_loop", start_ns=MS, latency_ns=60_000, idle_ns=6_000 * MS, blamed_ns=blamed)
    # One after the other: the report, then each waiter, whom the one before wakes.
    for start in (4 * SECOND, 8 * SECOND):
        for turn, (waiter, holder) in enumerate([(2, 6), (3, 2), (4, 3)]):
            builder.event(
                lock,
                lookup,
                start + turn * MS,
                start + 119 * MS + turn * 100_000,
                gil_ns=40_000,
                thread=waiter,
                holder=holder,
                release=lookup if turn else report,
                holder_at=() if turn else [("PriceCache._load", "/srv/shop/cache.py", 131), *report],
            )
    builder.event(lock, lookup, 9 * SECOND, 9 * SECOND + 50 * MS, outcome=1, thread=5, holder=6, holder_at=report)
    builder.event(lock, lookup, 9 * SECOND, 9 * SECOND + 99 * MS, thread=2, holder=6, release=report)
