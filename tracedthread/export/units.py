"""
Numbers as people read them.
"""

from __future__ import annotations


def duration(value_s: float, *, digits: int = 2) -> str:
    """A number and a unit: `5.4 s`, `120 ms`, `17 min`; with the usual two digits never wider than seven characters."""
    if value_s <= 0:
        return "0"
    for factor, unit in ((1e9, "ns"), (1e6, "µs"), (1e3, "ms"), (1, "s")):
        value = value_s * factor
        # What would be rounded up to 1000 belongs to the next unit.
        if value < 999.5:
            whole = len(f"{value:.{max(0, digits - 1)}f}".split(".")[0])
            return f"{value:.{0 if unit == 'ns' else max(0, digits - whole)}f} {unit}"
    if value_s < 3600 * 2:
        return f"{value_s / 60:.0f} min"
    return f"{value_s / 3600:.0f} h" if value_s < 3.6e8 else f"{value_s:.0e} s"


def percent(part: float, whole: float) -> str:
    """The share of `part`, to be read: `2 %`, `0.4 %`, `<0.1 %`, `0`."""
    if not part or not whole:
        return "0"
    value = 100.0 if part == whole else 100 * part / whole
    if value < 0.95:
        return "<0.1 %" if value < 0.05 else f"{value:.1f} %"
    # 99.9 % is not all of it.
    return f"{value:.0f} %" if value < 99 else "99 %" if value < 100 else "100 %"


def count(number: int, what: str) -> str:
    """`1 wait`, `45 waits`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def short(number: int) -> str:
    """A count for a table, seven characters at most up to 10^15: `12,045`, `3.4 M`."""
    for factor, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M")):
        if number >= factor:
            value = number / factor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{number:,}"
