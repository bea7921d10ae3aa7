"""Region classes: regions that are the same up to position, decided once and applied everywhere.

48 equal layers then cost what one costs. Two regions are of one class when a shift maps one on the
other, and their ops, constants, shapes, chunk dimensions, escaping nodes, and the pattern of their
outside arguments (sliced, whole, equal to each other, weight or intermediate) agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from search_space.graph import LEAVES, Argument, Ref, SizedGraph, map_arguments
from search_space.plan import Choice, Region
from search_space.regions import Loop

Form = tuple[tuple[Region, ...], int, tuple[tuple[Region, ...], ...]]
"""What tells one class's choices from another's: regions, the fixed outer chunk size of a nested
class (else 0), and the regions inside."""


@dataclass(frozen=True)
class RegionClass:
    """Regions of one class in one graph at one length.

    A *nested* class has loops inside its loops: the outer chunk size is fixed then, and the size
    that is chosen is that of the first inner class.

    Attributes:
        key: 12 hexadecimal digits, the same wherever the class occurs.
        loops: the occurrences, ascending and disjoint; all have one extent.
        high_bytes: alive at one occurrence's own peak when it runs whole, counting only what
            enters, leaves and arises in it.
        low_bytes: the same in small chunks (a sixteenth of the extent).
        inner: of a nested class, the classes inside, in the graph of the body.
        outer_size: of a nested class, the units that a pass of the outer loops takes.
    """

    key: str
    loops: tuple[Loop, ...]
    high_bytes: int
    low_bytes: int
    inner: tuple[RegionClass, ...] = ()
    outer_size: int = 0

    @property
    def regions(self) -> tuple[Region, ...]:
        return tuple(loop.region for loop in self.loops)

    @property
    def saves_bytes(self) -> int:
        """How much less is alive around one occurrence in small chunks than whole."""
        return self.high_bytes - self.low_bytes

    @property
    def extent(self) -> int:
        """Units that the loop whose size is chosen runs over; chunk sizes are counted in them."""
        return self.inner[0].extent if self.inner else self.loops[0].extent

    @cached_property
    def form(self) -> Form:
        """The same as :func:`choice_form` of the class's choices."""
        return self.regions, self.outer_size, tuple(one.regions for one in self._inside)

    @cached_property
    def _inside(self) -> tuple[RegionClass, ...]:
        """The inner classes with regions as a choice names them: by place in the outer region."""
        by = len(self.loops[0].inputs)
        return tuple(
            replace(one, loops=tuple(
                replace(loop, region=loop.region.renumbered(-by)) for loop in one.loops
            ))
            for one in self.inner
        )  # fmt: skip

    def choice(self, size: int) -> Choice:
        """The class run in chunks of ``size`` units."""
        if not self.inner:
            return Choice(self.regions, size)
        return Choice(self.regions, self.outer_size, self.inner_choices(size, self._inside))

    def inner_choices(
        self, size: int, classes: Sequence[RegionClass] | None = None
    ) -> tuple[Choice, ...]:
        """What runs inside, at a size of the first inner class; the others make as many passes.

        Args:
            classes: to be named in place of ``inner``.
        """
        found = [
            one.choice(max(1, -(-one.extent * size // self.extent)))
            for one in (self.inner if classes is None else classes)
        ]
        return tuple(sorted(found, key=lambda choice: choice.regions[0].nodes))


def choice_form(choice: Choice) -> Form:
    """Which class a choice is of: that with this ``form``."""
    inner = tuple(one.regions for one in choice.inner)
    return choice.regions, choice.chunk_size if inner else 0, inner


def chosen_size(choice: Choice) -> int:
    """The size that was chosen: ``item.choice(chosen_size(choice)) == choice``."""
    return choice.inner[0].chunk_size if choice.inner else choice.chunk_size


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
