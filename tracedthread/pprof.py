"""
The format of pprof, and of what reads its files (Pyroscope, Parca, Grafana): the sample types, the period type and the
period of Go's mutex profile, so that tools which know that one know this one.

Who made others wait is sampled at the release of the lock, as in Go. The lock is a label: `pprof -tagfocus=lock=NAME`.

Sources: proto/profile.proto in github.com/google/pprof; printCountCycleProfile in Go's runtime/pprof.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped, unused-ignore]

from tracedthread.capture import Frame

__all__ = ["encode"]

#: Name of the lock; a stack, innermost first, never empty; how often; nanoseconds.
Sample = tuple[str, Sequence[Frame], int, int]

# The messages and fields of profile.proto that are written here, by their numbers. No package on PyPI keeps the
# definitions up to date, so they are declared to protobuf. A name in capitals is a message, `*` means repeated.
_PROTO = {
    "Profile": "1 *sample_type ValueType, 2 *sample Sample, 3 *mapping Mapping, 4 *location Location, "
    "5 *function Function, 6 *string_table string, 9 time_nanos int64, 10 duration_nanos int64, "
    "11 period_type ValueType, 12 period int64, 13 *comment int64, 14 default_sample_type int64",
    "ValueType": "1 type int64, 2 unit int64",
    "Sample": "1 *location_id uint64, 2 *value int64, 3 *label Label",
    "Label": "1 key int64, 2 str int64",
    "Mapping": "1 id uint64, 5 filename int64, 7 has_functions bool, 8 has_filenames bool, 9 has_line_numbers bool",
    "Location": "1 id uint64, 2 mapping_id uint64, 4 *line Line",
    "Line": "1 function_id uint64, 2 line int64",
    "Function": "1 id uint64, 2 name int64, 4 filename int64",
}
_PACKAGE = "perftools.profiles"


def encode(samples: Iterable[Sample], *, program: str, started_ns: int, duration_ns: int, side: str = "blame") -> bytes:
    """
    A profile, compressed; of the same samples the same bytes.

    Args:
        started_ns: Unix time.
        side: Said in a comment: `blame` or `waits`.
    """
    message = _Builder(_profile_type()).build(samples, program, started_ns, duration_ns, side)
    # No time and no name in gzip's header.
    return gzip.compress(message.SerializeToString(), mtime=0)


def _profile_type() -> Any:
    """The class of Profile, from a pool of its own: another package may have brought the same messages."""
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="profile.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _PROTO.items():
        message = file.message_type.add(name=name)
        for declaration in fields.split(", "):
            number, field, kind = declaration.split()
            is_repeated = field.startswith("*")
            message.field.add(
                name=field.lstrip("*"),
                number=int(number),
                label=field_type.LABEL_REPEATED if is_repeated else field_type.LABEL_OPTIONAL,
                type=field_type.TYPE_MESSAGE if kind in _PROTO else getattr(field_type, f"TYPE_{kind.upper()}"),
                type_name=f".{_PACKAGE}.{kind}" if kind in _PROTO else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    profile_descriptor = pool.FindMessageTypeByName(f"{_PACKAGE}.Profile")
    return message_factory.GetMessageClass(profile_descriptor)


class _Builder:
    def __init__(self, profile_type: Any) -> None:
        self.message = profile_type()
        self.strings = {"": 0}
        self.functions: dict[tuple[str, str], int] = {}
        self.locations: dict[Frame, int] = {}

    def build(self, samples: Iterable[Sample], program: str, started_ns: int, duration_ns: int, side: str) -> Any:
        message = self.message
        message.mapping.add(
            id=1,
            filename=self.string(program),
            # Nothing is left for pprof to look up.
            has_functions=True,
            has_filenames=True,
            has_line_numbers=True,
        )
        for name, unit in (("contentions", "count"), ("delay", "nanoseconds")):
            message.sample_type.add(type=self.string(name), unit=self.string(unit))
        message.period_type.type = self.string("contentions")
        message.period_type.unit = self.string("count")
        message.period = 1
        message.time_nanos = started_ns
        message.duration_nanos = duration_ns
        message.comment.append(self.string(f"tracedthread: {side}"))
        lock_key = self.string("lock")
        for lock, stack, times, ns in samples:
            target = message.sample.add(location_id=[self.location(frame) for frame in stack], value=[times, ns])
            target.label.add(key=lock_key, str=self.string(lock or "(unnamed)"))
        message.string_table.extend(self.strings)
        return message

    def string(self, text: str) -> int:
        return self.strings.setdefault(text, len(self.strings))

    def location(self, frame: Frame) -> int:
        known = self.locations.get(frame)
        if known is None:
            known = self.locations[frame] = len(self.locations) + 1
            location = self.message.location.add(id=known, mapping_id=1)
            location.line.add(function_id=self.function(frame.function, frame.path), line=frame.line)
        return known

    def function(self, name: str, path: str) -> int:
        known = self.functions.get((name, path))
        if known is None:
            known = self.functions[name, path] = len(self.functions) + 1
            # Without `system_name`: pprof takes a name like `<module>` for C++ where the two are the same.
            self.message.function.add(id=known, name=self.string(name), filename=self.string(path))
        return known
