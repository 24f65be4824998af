"""
A flame graph's tree: the lock first, then its stacks from the root, in few enough nodes to be drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tracedthread.capture import Frame
from tracedthread.export.sides import Sample

if TYPE_CHECKING:
    from tracedthread.export.html.data import Names


class _Node:
    __slots__ = ("children", "ns", "times")

    def __init__(self) -> None:
        self.ns = 0
        self.times = 0
        self.children: dict[Frame, _Node] = {}


def tree(samples: Iterable[Sample], names: Names, most: int) -> dict[str, Any]:
    """
    Args:
        most: Nodes; the lightest are left out.
    Returns:
        `nodes`: depth, frame, ns and times of every node, one after the other, in preorder and heaviest first. At depth
        0 is the lock, a frame without a file. `total`: ns. `stacks`: how many there are. `left`: nodes that are left
        out, and ns of the heaviest of them.
    """
    root = _Node()
    stacks = 0
    for sample in samples:
        stacks += 1
        root.ns += sample.ns
        node = root
        for frame in (Frame(sample.lock or "(unnamed)", "", 0), *reversed(sample.stack)):
            child = node.children.get(frame)
            if child is None:
                child = node.children[frame] = _Node()
            child.ns += sample.ns
            child.times += sample.times
            node = child
    weights = sorted(_weights(root), reverse=True)
    # A node weighs at most what its parent does, so no parent is left out before its children.
    heaviest_left = weights[most] if len(weights) > most else -1
    flat: list[int] = []
    kept = _flatten(root, heaviest_left, names, flat)
    return {"nodes": flat, "total": root.ns, "stacks": stacks, "left": [len(weights) - kept, max(0, heaviest_left)]}


def _weights(root: _Node) -> list[int]:
    weights, pending = [], [root]
    while pending:
        for child in pending.pop().children.values():
            weights.append(child.ns)
            pending.append(child)
    return weights


def _flatten(root: _Node, heavier_than: int, names: Names, flat: list[int]) -> int:
    """Append the nodes; how many."""
    kept = 0
    pending = [(0, frame, node) for frame, node in _lightest_first(root)]
    while pending:
        depth, frame, node = pending.pop()
        if node.ns > heavier_than:
            kept += 1
            flat += (depth, names.frame(frame), node.ns, node.times)
            pending += [(depth + 1, inner, child) for inner, child in _lightest_first(node)]
    return kept


def _lightest_first(node: _Node) -> list[tuple[Frame, _Node]]:
    return sorted(node.children.items(), key=lambda pair: (pair[1].ns, pair[0]))
