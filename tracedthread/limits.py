"""
Limits on what was recorded: how they are written, and which locks or functions they are about.

    PriceCache._lock=5ms     a name, `=`, and a duration (ns, us or µs, ms, s, min) or, for shares, a percentage

A name is that of a lock, or of a function where blame is limited. It selects

1. what is called exactly so; if nothing is,
2. with `*`, `?` or `[` in it: what matches as a file name would in a shell, upper and lower case told apart;
3. else what ends in it after a dot: `_lock` selects `PriceCache._lock` and `Session._lock`, but not `my_lock`.

Each of those selected has to keep to the limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_DURATION = re.compile(_NUMBER + r"\s*(ns|us|µs|μs|ms|s|min)", re.ASCII)
_SHARE = re.compile(_NUMBER + r"\s*%", re.ASCII)
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
# Longer than anything that is recorded, and still a number that can be worked with.
_MAX_DURATION_S = 1e9


@dataclass(frozen=True)
class Measure:
    """
    What a limit is about.

    Args:
        of: `wait`, `hold`, `contended` (the share of the attempts to take it that had to wait) or `blame` (of a
            function: the time that others waited because of its holds).
        percentile: 0 < percentile <= 100 of the waits or holds, 100 being the longest; None for their sum.
    """

    of: str
    percentile: float | None = None

    @property
    def is_share(self) -> bool:
        """Whether limits are percentages, not durations."""
        return self.of == "contended"

    def __str__(self) -> str:
        if self.of == "contended":
            return "share of attempts that had to wait"
        if self.of == "blame":
            return "waiting that it is to blame for"
        if self.percentile is None:
            return f"total {self.of}"
        return f"longest {self.of}" if self.percentile == 100 else f"p{self.percentile:g} of the {self.of}s"


#: What `tracedthread check --max-NAME` can limit.
MEASURES = {
    "wait-p99": Measure("wait", 99),
    "wait-max": Measure("wait", 100),
    "wait-total": Measure("wait"),
    "hold-p99": Measure("hold", 99),
    "hold-max": Measure("hold", 100),
    "blame": Measure("blame"),
    "contended": Measure("contended"),
}


@dataclass(frozen=True)
class Limit:
    """
    At most so much.

    Args:
        name: Selects locks, or functions where the measure is blame.
        most: Seconds, or a share of 1.
    """

    measure: Measure
    name: str
    most: float

    @classmethod
    def parse(cls, measure: Measure, text: str) -> Limit:
        """
        Read `NAME=VALUE`.

        Raises:
            ValueError: It is something else. The message is one line.
        """
        name, equals, value = text.rpartition("=")
        if not equals or not name.strip():
            raise ValueError(f"{text!r} is not NAME={'5%' if measure.is_share else '5ms'}")
        return cls(measure, name.strip(), parse_share(value) if measure.is_share else parse_duration(value))


def parse_duration(text: str) -> float:
    """
    Seconds, from text such as `5ms`, `1.5 s` or `200 µs`.

    Raises:
        ValueError: It is none, or has no unit.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a duration such as 5ms, 200us or 1.5s")
    value = round(float(found[1]) * _UNITS[found[2]], 12)  # 0.3 ms is no more than 300 µs
    if value > _MAX_DURATION_S:
        raise ValueError(f"{text!r} is too long")
    return value


def parse_share(text: str) -> float:
    """
    A share of 1, from text such as `5%`.

    Raises:
        ValueError: It is none.
    """
    found = _SHARE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a percentage such as 5%")
    if (value := float(found[1])) > 100:
        raise ValueError(f"{text!r} is more than all")
    return round(value / 100, 12)


def selected(name: str, known: Iterable[str]) -> set[str]:
    """Which of the `known` names a limit's `name` is about."""
    known = set(known)
    if name in known:
        return {name}
    if is_pattern(name):
        return {one for one in known if fnmatchcase(one, name)}
    return {one for one in known if one.endswith("." + name)}


def is_pattern(name: str) -> bool:
    """Whether a name is to be matched, not found."""
    return any(character in name for character in "*?[")
