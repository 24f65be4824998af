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
    """
    Args:
        rest: The way on from here, outermost first, as long as all that came here went it to its end: most nodes of a
            large profile are never looked at, and so never made.
    """

    __slots__ = ("children", "ns", "rest", "times")

    def __init__(self, ns: int = 0, times: int = 0, rest: tuple[Frame, ...] = ()) -> None:
        self.ns = ns
        self.times = times
        self.rest = rest
        self.children: dict[Frame, _Node] = {}

    def unfold(self) -> None:
        """Make the next node of `rest`."""
        if self.rest:
            self.children[self.rest[0]] = _Node(self.ns, self.times, self.rest[1:])
            self.rest = ()

    def add(self, way: tuple[Frame, ...], ns: int, times: int) -> None:
        """Add to all nodes on a way, this one excepted."""
        node = self
        for depth, frame in enumerate(way, 1):
            child = node.children.get(frame)
            if child is None:
                node.children[frame] = _Node(ns, times, way[depth:])
                return
            if child.rest:
                child.unfold()
            child.ns += ns
            child.times += times
            node = child


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
        root.add((Frame(sample.lock or "(unnamed)", "", 0), *reversed(sample.stack)), sample.ns, sample.times)
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
            weights += [child.ns] * (1 + len(child.rest))
            if child.children:
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
    node.unfold()
    return sorted(node.children.items(), key=lambda pair: (pair[1].ns, pair[0]))
