"""Region classes: regions that are the same up to position, decided once and applied everywhere.

48 equal layers then cost what one costs. Two regions are of one class when a shift maps one on the
other, and their ops, constants, shapes, chunk dimensions, escaping nodes, and the pattern of their
outside arguments (sliced, whole, equal to each other, weight or intermediate) agree.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from search_space.graph import LEAVES, Argument, Ref, SizedGraph, map_arguments
from search_space.plan import Region
from search_space.regions import Loop


@dataclass(frozen=True)
class RegionClass:
    """Regions of one class in one graph at one length.

    Attributes:
        key: 12 hexadecimal digits, the same wherever the class occurs.
        loops: the occurrences, ascending and disjoint; all have one extent.
        high_bytes: alive at one occurrence's own peak when it runs whole, counting only what
            enters, leaves and arises in it.
        low_bytes: the same in small chunks (a sixteenth of the extent).
    """

    key: str
    loops: tuple[Loop, ...]
    high_bytes: int
    low_bytes: int

    @property
    def regions(self) -> tuple[Region, ...]:
        return tuple(loop.region for loop in self.loops)

    @property
    def saves_bytes(self) -> int:
        """How much less is alive around one occurrence in small chunks than whole."""
        return self.high_bytes - self.low_bytes

    @property
    def extent(self) -> int:
        """Units that the loop runs over; chunk sizes are counted in them."""
        return self.loops[0].extent


def class_key(loop: Loop) -> str:
    """The class of a region, as a hash of all that :mod:`search_space.classes` names."""
    graph, region = loop.graph, loop.region
    members = {node: place for place, node in enumerate(region.nodes)}
    outside: dict[int, int] = {}

    def relative(value: Argument) -> Argument:
        if not isinstance(value, Ref):
            return value
        if value.index in members:
            return ("member", members[value.index])
        number = outside.setdefault(value.index, len(outside))
        kind = "leaf" if graph.nodes[value.index].kind in LEAVES else "node"
        tensor = graph.nodes[value.index].output
        return ("outside", number, kind, str(tensor.shape), str(tensor.strides), tensor.dtype)

    rows = []
    for place, index in enumerate(region.nodes):
        node = graph.nodes[index]
        rows.append((
            index if index in region.shared else index - region.anchor,
            node.op,
            tuple(map_arguments(value, relative) for value in node.args),
            tuple((name, map_arguments(value, relative)) for name, value in node.kwargs),
            tuple((t.shape, t.strides, t.dtype) for t in node.outputs),
            region.dims[place],
            index in region.recomputed,
            index in loop.outputs,
        ))  # fmt: skip
    inputs = tuple((outside.get(i.node, -1), i.dim, i.factor) for i in loop.inputs)
    text = repr((loop.extent, rows, inputs))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def seed_groups(graph: SizedGraph, rounds: int = 4) -> list[tuple[int, ...]]:
    """Op nodes grouped by what they look like: op, constants, shapes, and the same of their
    arguments ``rounds`` levels back. Nodes of one group are likely seeds of one class."""
    own: list[int] = []
    for node in graph.nodes:
        def blank(value: Argument) -> Argument:
            return "ref" if isinstance(value, Ref) else value

        op = node.op if node.kind not in LEAVES else node.kind
        args = tuple(map_arguments(value, blank) for value in node.args)
        own.append(hash((op, repr(args), tuple((t.shape, t.dtype) for t in node.outputs))))
    seen = own
    for _ in range(rounds):
        seen = [
            hash((own[node.index], tuple(seen[ref] for _, ref in node.refs)))
            for node in graph.nodes
        ]  # fmt: skip
    groups: dict[int, list[int]] = {}
    for node in graph.nodes:
        if node.kind not in LEAVES:
            groups.setdefault(seen[node.index], []).append(node.index)
    return [tuple(group) for group in groups.values()]
