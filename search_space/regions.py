"""Regions as loops: is a region legal at this length, and if so, how does it run?

:func:`resolve` is the one judge of legality. A region R with a chunk dimension for each node is
legal when

1. for every edge u -> v inside R, the rule at v maps v's dimension to u's;
2. every argument from outside is sliced at the mapped dimension, or taken whole;
3. R is convex: no path leaves R and comes back (recomputed nodes excepted, whose originals stay
   outside);
4. all chunk dimensions share one *extent*: node v's chunk dimension has ``extent * factor(v)``
   positions, and a pass over units ``[s, e)`` computes positions ``[s * factor, e * factor)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_space.dim_rules import Flow, Probe, flow
from search_space.errors import IllegalRegion
from search_space.graph import ALIAS, FRESH, LEAVES, Path, Ref, SizedGraph, walk_arguments
from search_space.layout import Layout, is_dense
from search_space.plan import Region
from search_space.relayout import is_relaid, output_layout


@dataclass(frozen=True, slots=True)
class LoopInput:
    """A tensor from outside that the loop's body takes.

    With a ``dim``, pass ``[s, e)`` takes positions ``[s * factor, e * factor)`` of it; with
    ``dim`` None it is taken whole, and ``factor`` is 0.
    """

    node: int
    dim: int | None
    factor: int


@dataclass(frozen=True)
class Loop:
    """A legal region at one length, ready to be costed and to be generated.

    Attributes:
        graph: where it is legal.
        region: what was resolved.
        extent: the number of units that the loop runs over; chunk sizes are counted in them.
        factors: for each of ``region.nodes``, positions of its chunk dimension per unit.
        flows: for each of ``region.nodes``, how it runs on a slice.
        inputs: tensors from outside, each once per way of slicing, by first use.
        outputs: the members that are used outside, ascending.
    """

    graph: SizedGraph
    region: Region
    extent: int
    factors: tuple[int, ...]
    flows: tuple[Flow, ...]
    inputs: tuple[LoopInput, ...]
    outputs: tuple[int, ...]

    @cached_property
    def owned(self) -> NDArray[np.int64]:
        """The members that run here alone, ascending; recomputed ones have originals outside."""
        again = set(self.region.recomputed)
        return np.array([node for node in self.region.nodes if node not in again], np.int64)

    @cached_property
    def kept(self) -> dict[object, Any]:
        """What others work out of a loop once, by who does."""
        return {}

    @cached_property
    def first_owned(self) -> int:
        return int(self.owned[0])

    @cached_property
    def entering(self) -> tuple[int, ...]:
        """The nodes whose tensors enter from outside, weights and the caller's left out;
        ascending."""
        nodes = {source.node for source in self.inputs}
        return tuple(sorted(n for n in nodes if self.graph.nodes[n].kind not in LEAVES))

    @cached_property
    def spared(self) -> tuple[int, ...]:
        """The nodes outside that this loop's members do without: originals of those recomputed, and
        arguments that no slice of the op needs."""
        members = set(self.owned.tolist())
        entering = set(self.entering)
        refs = {ref for node in self.region.nodes for _, ref in self.graph.nodes[node].refs}
        return tuple(sorted((refs | set(self.region.recomputed)) - members - entering))

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        """How each output lies."""
        return tuple(output_layout(self.graph, node) for node in self.outputs)

    @cached_property
    def relaid(self) -> frozenset[int]:
        """The outputs that do not lie as captured although they could."""
        return frozenset(node for node in self.outputs if is_relaid(self.graph, node))

    @cached_property
    def donors(self) -> Mapping[int, tuple[int, ...]]:
        """Per output, the sliced inputs of its very form: shape, strides, dtype and slicing; none
        where some output may be a view of an input. Whether one may take the other's storage is a
        question of the whole plan; see :mod:`search_space.storages`."""
        nodes = self.graph.nodes
        members = {node: place for place, node in enumerate(self.region.nodes)}
        for node in self.outputs:
            while node in members and ALIAS in nodes[node].traits:
                node = nodes[node].refs[0][1]
            if node not in members or FRESH not in nodes[node].traits:
                return {}
        found = {}
        for output in self.outputs:
            tensor, place = nodes[output].output, members[output]
            if tensor.dtype.startswith("complex"):  # conjugation is a mark on the donor that stays
                continue
            if output in self.relaid or not is_dense(Layout(tensor.shape, tensor.strides)):
                continue
            cut = (self.region.dims[place], self.factors[place])
            found[output] = tuple(
                source.node
                for source in self.inputs
                if (source.dim, source.factor) == cut
                and nodes[source.node].kind not in LEAVES
                and nodes[source.node].output == tensor
                and not is_relaid(self.graph, source.node)
            )
        return {output: donors for output, donors in found.items() if donors}

    def passes(self, chunk_size: int) -> int:
        """How many passes the loop makes; the last may be smaller."""
        return -(-self.extent // chunk_size)

    def chunk_shape(self, member: int, output: int, chunk_size: int) -> tuple[int, ...]:
        """The shape of a member's output in one pass. ``member`` counts in ``region.nodes``."""
        shape = list(self.graph.nodes[self.region.nodes[member]].outputs[output].shape)
        shape[self.region.dims[member]] = self.factors[member] * chunk_size
        return tuple(shape)


def resolve(graph: SizedGraph, region: Region, probe: Probe | None = None) -> Loop:
    """The region as a loop.

    Raises:
        IllegalRegion: it cannot run as one in this graph; the message names the node and the rule.
    """
    count = len(graph.nodes)
    if region.nodes[0] < 0 or region.nodes[-1] >= count:
        raise IllegalRegion(f"the region leaves the graph of {count} nodes")
    members = {node: place for place, node in enumerate(region.nodes)}
    flows = []
    for node, dim in zip(region.nodes, region.dims, strict=True):
        found = flow(graph, node, dim, probe)
        if found is None:
            raise IllegalRegion(
                f"{graph.nodes[node].label} ({graph.nodes[node].op}) cannot be sliced at {dim}"
            )
        flows.append(found)
    scales = _scales(graph, region, members, flows)
    # one unit: the smallest step at which every node's slice starts at a whole position
    steps = dict(zip(region.nodes, (found.step for found in flows), strict=True))
    unit = lcm(*((scale / steps[node]).denominator for node, scale in scales.items()))
    seed_size = graph.nodes[region.anchor].output.shape[region.dims[-1]]
    if seed_size % unit:
        raise IllegalRegion(f"{seed_size} positions do not divide into units of {unit}")
    extent = seed_size // unit
    factors = tuple(int(scales[node] * unit) for node in region.nodes)
    for node, dim, factor in zip(region.nodes, region.dims, factors, strict=True):
        for tensor in graph.nodes[node].outputs:
            if tensor.shape[dim] != extent * factor:
                raise IllegalRegion(
                    f"{graph.nodes[node].label}: dimension {dim} has {tensor.shape[dim]} "
                    f"positions, not {extent} x {factor}"
                )
    inputs = _inputs(graph, region, members, flows, factors, extent)
    _check_convex(graph, region, members)
    # the original of a recomputed node may run outside, where it counts as any other user
    kept = members.keys() - set(region.recomputed)
    outputs = tuple(
        node
        for node in region.nodes
        if node in kept
        and (node in graph.output_nodes or any(user not in kept for user in graph.users[node]))
    )
    if not outputs:
        raise IllegalRegion("nothing outside uses what the region computes")
    if any(graph.nodes[node].several for node in outputs):
        raise IllegalRegion("a node with several outputs is used outside; take its parts inside")
    _check_layouts(graph, outputs, kept)
    return Loop(graph, region, extent, factors, tuple(flows), inputs, outputs)


def arguments(graph: SizedGraph, node: int, found: Flow) -> tuple[tuple[Path, int], ...]:
    """The tensor arguments of a flow's op, by path: those it gives, or the node's own."""
    if found.args is None and found.kwargs is None:
        return graph.nodes[node].refs
    own = graph.nodes[node]
    args = own.args if found.args is None else found.args
    kwargs = own.kwargs if found.kwargs is None else found.kwargs
    return tuple(
        (path, value.index)
        for path, value in walk_arguments(args, kwargs)
        if isinstance(value, Ref)
    )


def _scales(
    graph: SizedGraph, region: Region, members: dict[int, int], flows: list[Flow]
) -> dict[int, Fraction]:
    """Positions of each member's chunk dimension per position of the anchor's."""
    scales: dict[int, Fraction] = {region.anchor: Fraction(1)}
    # users come after their arguments, so one backward sweep reaches every ancestor of the anchor;
    # siblings that meet only through a shared outside tensor are joined through its slicing
    outside: dict[tuple[int, int], Fraction] = {}
    pending = list(reversed(region.nodes))
    while pending:
        stuck = []
        for node in pending:
            place = members[node]
            slices = dict(flows[place].slices)
            reads = [(i, slices[p]) for p, i in arguments(graph, node, flows[place]) if p in slices]
            if node not in scales:
                joined = [
                    outside[i, s.dim] / s.ratio for i, s in reads
                    if i not in members and (i, s.dim) in outside
                ]  # fmt: skip
                joined += [scales[i] / s.ratio for i, s in reads if i in scales]
                if not joined:
                    stuck.append(node)
                    continue
                scales[node] = joined[0]
            for index, slice_ in reads:
                scale = scales[node] * slice_.ratio
                if index in members:
                    if region.dims[members[index]] != slice_.dim:
                        raise IllegalRegion(
                            f"{graph.nodes[node].label} needs {graph.nodes[index].label} sliced at "
                            f"{slice_.dim}, the region slices it at {region.dims[members[index]]}"
                        )
                    if scales.setdefault(index, scale) != scale:
                        raise IllegalRegion(
                            f"{graph.nodes[index].label} would be sliced at two rates"
                        )
                else:
                    outside.setdefault((index, slice_.dim), scale)
        if len(stuck) == len(pending):
            raise IllegalRegion(
                f"{graph.nodes[stuck[0]].label} shares no sliced tensor with the rest of the region"
            )
        pending = stuck
    return scales


def _inputs(
    graph: SizedGraph,
    region: Region,
    members: dict[int, int],
    flows: list[Flow],
    factors: tuple[int, ...],
    extent: int,
) -> tuple[LoopInput, ...]:
    found: dict[LoopInput, None] = {}
    for place, node in enumerate(region.nodes):
        slices = dict(flows[place].slices)
        for path, index in arguments(graph, node, flows[place]):
            wanted = slices.get(path)
            if index in members:
                if wanted is None:
                    raise IllegalRegion(
                        f"{graph.nodes[node].label} needs the whole of {graph.nodes[index].label}"
                    )
                continue
            if wanted is None:
                found.setdefault(LoopInput(index, None, 0))
                continue
            factor = factors[place] * wanted.ratio
            if factor.denominator != 1:
                raise IllegalRegion(f"{graph.nodes[index].label} would be sliced between positions")
            size = graph.nodes[index].output.shape[wanted.dim]
            if size != extent * factor:
                raise IllegalRegion(
                    f"{graph.nodes[index].label}: dimension {wanted.dim} has {size} positions, "
                    f"not {extent} x {factor}"
                )
            found.setdefault(LoopInput(index, wanted.dim, int(factor)))
    several = [i.node for i in found if graph.nodes[i.node].several]
    if several:
        raise IllegalRegion(f"{graph.nodes[several[0]].label} has several outputs; take its parts")
    return tuple(found)


def _check_layouts(graph: SizedGraph, outputs: tuple[int, ...], kept: set[int]) -> None:
    """A view that leaves the loop becomes a dense tensor of its own; views of it taken outside were
    captured for its old strides."""
    for node in outputs:
        tensor = graph.nodes[node].output
        if is_dense(Layout(tensor.shape, tensor.strides)):
            continue
        if any(n > 1 and step == 0 for n, step in zip(tensor.shape, tensor.strides, strict=True)):
            # dense it would have another order, and so would what is computed of it outside
            raise IllegalRegion(f"{graph.nodes[node].label} is broadcast, and used outside")
        for user in graph.users[node]:
            if user not in kept and ALIAS in graph.nodes[user].traits:
                raise IllegalRegion(
                    f"{graph.nodes[node].label} is no dense tensor, and viewed outside by "
                    f"{graph.nodes[user].label}"
                )


def _check_convex(graph: SizedGraph, region: Region, members: dict[int, int]) -> None:
    kept = set(members) - set(region.recomputed)
    first = region.nodes[0]
    after: set[int] = set()  # outside nodes (and outside originals) that depend on a kept member
    for index in range(first, region.nodes[-1] + 1):
        node = graph.nodes[index]
        if node.kind in LEAVES:
            continue
        refs = {ref for _, ref in node.refs}
        if index in members and (refs - members.keys()) & after:
            late = min((refs - members.keys()) & after)
            raise IllegalRegion(
                f"{node.label} depends on {graph.nodes[late].label}, which is outside and depends "
                "on the region"
            )
        if index not in kept and (refs & kept or refs & after):
            after.add(index)
