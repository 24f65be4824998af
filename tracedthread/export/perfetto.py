"""
A trace for https://ui.perfetto.dev: a track a thread with its slow waits, below it what it held, arrows from the
release of a lock to the waiter that it woke, and how many waited for each lock.

Only what is in the ring of events can be shown: waits longer than a threshold, the newest.

Source: TrackEvent, TrackDescriptor and ClockSnapshot in protos/perfetto/trace of github.com/google/perfetto, which
PyPI's `perfetto` carries.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from heapq import heappop, heappush, heapreplace
from typing import Any, BinaryIO

from tracedthread.capture import Frame
from tracedthread.events import EventRow
from tracedthread.export.extra import damage_refused, load
from tracedthread.export.holds import Hold, holds, obtained_ticks
from tracedthread.layout import CONTENTION_KINDS, RESOURCE_KINDS
from tracedthread.profile import Profile

_SEQUENCE = 1  # every packet is of one writer
_REALTIME, _BOOTTIME = 1, 6  # protos/perfetto/common/builtin_clock.proto
_PROCESS_TRACK = 1


def render(profile: Profile, stream: BinaryIO) -> None:
    """
    Write the trace.

    Raises:
        MissingExtra: perfetto is not installed.
        CaptureError: A number of a damaged capture is not one that the form has.
    """
    protos = load("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
    with damage_refused():
        data = _Trace(protos, profile).build().SerializeToString()
    stream.write(data)


class _Trace:
    def __init__(self, protos: Any, profile: Profile) -> None:
        self.protos = protos
        self.profile = profile
        self.trace = protos.Trace()
        self.next_track = _PROCESS_TRACK + 1
        self.tracks: dict[Hashable, int] = {}
        self.lanes: dict[Hashable, list[tuple[int, int]]] = {}
        # By time at the end, and within one moment in this order: what nests, nests by it, and arrows end after they
        # start.
        self.packets: list[tuple[int, Callable[[Any], None]]] = []

    def build(self) -> Any:
        self._process()
        for thread in self.profile.threads:
            self._thread(thread.key, thread.name, thread.native_id)
        self._counters()
        self._holds()
        self._waits()
        for ns, fill in sorted(self.packets, key=lambda packet: packet[0]):
            packet = self._packet()
            packet.timestamp = ns
            fill(packet.track_event)
        return self.trace

    def _packet(self) -> Any:
        return self.trace.packet.add(trusted_packet_sequence_id=_SEQUENCE)

    def _process(self) -> None:
        process = self.profile.process
        packet = self._packet()
        packet.sequence_flags = self.protos.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        # Timestamps are wall time. Said to be both clocks, they show as such.
        for clock in (_BOOTTIME, _REALTIME):
            packet.clock_snapshot.clocks.add(clock_id=clock, timestamp=process.started_ns)
        descriptor = self._packet().track_descriptor
        descriptor.uuid = _PROCESS_TRACK
        descriptor.process.pid = process.pid
        descriptor.process.process_name = process.program

    def _track(self, key: Hashable, parent: int, name: str = "") -> Any:
        """The descriptor of a new track."""
        descriptor = self._packet().track_descriptor
        descriptor.uuid = self.tracks[key] = self.next_track
        descriptor.parent_uuid = parent
        if name:
            descriptor.name = name
        self.next_track += 1
        return descriptor

    def _thread(self, key: Hashable, name: str, native_id: int) -> int:
        if key not in self.tracks:
            if native_id:
                thread = self._track(key, _PROCESS_TRACK).thread
                thread.pid, thread.tid, thread.thread_name = self.profile.process.pid, native_id, name
            else:
                self._track(key, _PROCESS_TRACK, name)
        return self.tracks[key]

    def _lane(self, of: Hashable, start_ticks: int, end_ticks: int) -> int:
        """
        One of the tracks of one name and one parent, which Perfetto shows as one, that is free from then on.

        The slices of a track have to nest. Asked for in the order of `start_ticks`.
        """
        free_from = self.lanes.setdefault(of, [])  # a heap of the times and tracks
        if free_from and free_from[0][0] <= start_ticks:
            lane = free_from[0][1]
            heapreplace(free_from, (end_ticks, lane))
        else:
            lane = len(free_from)
            heappush(free_from, (end_ticks, lane))
        return lane

    def _ns(self, ticks: int) -> int:
        return self.profile.process.started_ns + round(ticks * self.profile.process.tick_s * 1e9)

    def _begin(
        self, track: int, name: str, ticks: int, category: str, notes: dict[str, str] | None = None, ended_flow: int = 0
    ) -> None:
        """Begin a slice; `ended_flow` is the arrow that ends there."""

        def fill(event: Any) -> None:
            event.type, event.track_uuid, event.name = self.protos.TrackEvent.TYPE_SLICE_BEGIN, track, name
            event.categories.append(category)
            if ended_flow:
                event.terminating_flow_ids.append(ended_flow)
            for key, value in (notes or {}).items():
                event.debug_annotations.add(name=key, string_value=value)

        self.packets.append((self._ns(ticks), fill))

    def _end(self, track: int, ticks: int, flows: Iterable[int] = ()) -> None:
        """End the innermost slice; `flows` are the arrows that start there."""

        def fill(event: Any) -> None:
            event.type, event.track_uuid = self.protos.TrackEvent.TYPE_SLICE_END, track
            event.flow_ids.extend(flows)

        self.packets.append((self._ns(ticks), fill))

    def _waits(self) -> None:
        """Those of one thread nest: within a wait, a signal handler may wait. Of unknown ones, one overlaps another."""
        in_order = sorted(enumerate(self.profile.events), key=lambda pair: (pair[1].start_ticks, -pair[1].end_ticks))
        for index, event in in_order:
            key = event.thread
            if key is None:
                key = (None, event.thread_name, self._lane(event.thread_name, event.start_ticks, event.end_ticks))
            track = self._thread(key, event.thread_name or "threads that are not known any more", 0)
            self._wait(track, index, event)

    def _wait(self, track: int, index: int, event: EventRow) -> None:
        is_contention = event.kind in CONTENTION_KINDS
        category = "lock" if is_contention else "resource" if event.kind in RESOURCE_KINDS else "idle"
        what = event.lock or "(unnamed)"
        notes = {"kind": event.kind, "outcome": event.outcome, "lock": f"{what} at {event.lock_id:#x}"}
        notes["stack"] = _lines(event.stack)
        if event.holder_name:
            notes["holder"] = event.holder_name
        if event.release_stack:
            notes["released at"] = _lines(event.release_stack)
        if event.holder_stack:
            notes["holder was at"] = _lines(event.holder_stack)
        verb = "waits for" if is_contention else event.kind
        self._begin(track, f"{verb} {what}", event.start_ticks, category, notes)
        if is_contention and event.outcome == "acquired":
            # Also without any time in it: the arrow from the release ends here.
            name = "has it, waits for the GIL" if event.own_gil_ticks else "has it"
            flow = index + 1 if event.holder is not None else 0
            self._begin(track, name, obtained_ticks(event), "gil", ended_flow=flow)
            self._end(track, event.end_ticks)
        self._end(track, event.end_ticks)

    def _holds(self) -> None:
        """Those of one thread overlap as they like, so that it may need several tracks."""
        for hold in sorted(holds(self.profile.events), key=lambda hold: hold.start_ticks):
            key = (hold.thread, self._lane(hold.thread, hold.start_ticks, hold.end_ticks))
            if key not in self.tracks:
                # With its name in it: a thread that has not waited has no other track that would say it.
                self._track(key, self._thread(hold.thread, hold.thread_name, 0), f"{hold.thread_name} holds".lstrip())
            self._hold(self.tracks[key], hold)

    def _hold(self, track: int, hold: Hold) -> None:
        notes = {"lock": f"{hold.lock or '(unnamed)'} at {hold.lock_id:#x}"}
        notes["start"] = "exact" if hold.is_exact else "when somebody began to wait; the hold may have begun before"
        if hold.release_stack:
            notes["released at"] = _lines(hold.release_stack)
        if hold.holder_stack:
            notes["was at"] = _lines(hold.holder_stack)
        self._begin(track, f"holds {hold.lock or '(unnamed)'}", hold.start_ticks, "hold", notes)
        self._end(track, hold.end_ticks, [index + 1 for index in hold.woken])

    def _counters(self) -> None:
        """How many of the waits that are here go on at a time, by lock name."""
        changes: dict[str, list[tuple[int, int]]] = {}
        for event in self.profile.events:
            if event.kind in CONTENTION_KINDS:
                of_lock = changes.setdefault(event.lock, [])
                heappush(of_lock, (event.start_ticks, 1))
                heappush(of_lock, (obtained_ticks(event), -1))
        for lock, of_lock in changes.items():
            descriptor = self._track(("waiters", lock), _PROCESS_TRACK, f"waiters of {lock or '(unnamed)'}")
            descriptor.counter.unit_name = "slow waiters"
            waiters = 0
            while of_lock:
                ticks, change = heappop(of_lock)
                waiters += change
                if not of_lock or of_lock[0][0] != ticks:
                    self._count(self.tracks["waiters", lock], ticks, waiters)

    def _count(self, track: int, ticks: int, waiters: int) -> None:
        def fill(event: Any) -> None:
            event.type, event.track_uuid = self.protos.TrackEvent.TYPE_COUNTER, track
            event.counter_value = waiters

        self.packets.append((self._ns(ticks), fill))


def _lines(stack: tuple[Frame, ...]) -> str:
    return "\n".join(map(str, stack))
