"""Where a graph repeats: which regions occur again some places further on.

Models are stacks of equal layers. What has been found out about a region in one layer holds in all
layers that are alike, and this module tells where, without looking at the region's rules again. A
region's copy ``shift`` places further on is *the same* when, node by node over the whole stretch
from its first node to its last,

1. op, constants and tensors agree, and so do the tensors that the node takes;
2. arguments from inside the stretch have moved with it; those from outside may be others, but what
   was one tensor is one tensor again (weights stand for themselves);
3. the same of the region's nodes are used outside of it, by the same kinds of ops.

Recomputed nodes may stay, as a mask that all layers share does, or move along, as a norm does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from search_space.graph import LEAVES, Argument, Ref, SizedGraph, SizedNode, map_arguments
from search_space.plan import Region
from search_space.regions import Loop, LoopInput

Indices = NDArray[np.int64]


class Repeats:
    """Answers about one graph; what has been compared is kept."""

    def __init__(self, graph: SizedGraph) -> None:
        self._graph = graph
        forms = [hash(_form(graph, node)) for node in graph.nodes]
        around = [
            hash((form, tuple((user - index, forms[user]) for user in graph.users[index])))
            for index, form in enumerate(forms)
        ]
        sources = [
            [ref for _, ref in node.refs if graph.nodes[ref].kind not in LEAVES]
            for node in graph.nodes
        ]
        self._forms = np.array(forms, np.int64)
        self._around = np.array(around, np.int64)
        self._sources = np.array([ref for refs in sources for ref in refs], np.int64)
        self._ends = np.array([0, *accumulate(len(refs) for refs in sources)], np.int64)
        self._differ: dict[int, Indices] = {}
        self._rereads: dict[Region, tuple[Indices, Indices, NDArray[np.bool_]]] = {}

    def occurrences(self, loop: Loop, anchors: Sequence[int]) -> tuple[Region, list[int]]:
        """Where the loop's region occurs among these anchors, ascending ones beyond its own.

        Returns:
            The region, with ``shared`` filled in, and the anchors at which its copies end; each is
            the region shifted.
        """
        region = loop.region
        found: list[int] = []
        for anchor in anchors:
            if found and self._steps(region, found[-1], anchor):
                found.append(anchor)
                continue
            copy = self._compare(loop, anchor - loop.region.anchor)
            if copy is not None and (not found or copy.shared == region.shared):
                region = replace(region, shared=copy.shared)
                found.append(anchor)
        return region, found

    def _steps(self, region: Region, before: int, anchor: int) -> bool:
        """Whether the copy that ends at ``before`` occurs again at ``anchor``: every node between
        looks alike and all arguments moved or stayed as the region's did. Quick, since all regions
        share the comparison."""
        shift = anchor - before
        moved = before - region.anchor
        first = next(node for node in region.nodes if node not in region.shared)
        if shift <= 0 or not self._alike(first + moved, before, shift):
            return False
        if not region.recomputed:
            return True
        readers, places, stays = self._again(region)
        own = self._sources[self._ends[readers + moved] + places]
        copy = self._sources[self._ends[readers + moved + shift] + places]
        return np.array_equal(copy - own, np.where(stays, 0, shift))

    def _again(self, region: Region) -> tuple[Indices, Indices, NDArray[np.bool_]]:
        """The arguments that a region computes again: reader, place among its arguments, and
        whether the node stays. Readers that stay themselves are left out."""
        if region not in self._rereads:
            rows = [
                (node, place, ref in region.shared)
                for node in region.nodes
                if node not in region.shared
                for place, ref in enumerate(self._refs(node))
                if ref in region.recomputed
            ]
            readers, places, stays = zip(*rows, strict=True)
            self._rereads[region] = np.array(readers), np.array(places), np.array(stays)
        return self._rereads[region]

    def _refs(self, node: int) -> list[int]:
        found: list[int] = self._sources[self._ends[node] : self._ends[node + 1]].tolist()
        return found

    def _alike(self, first: int, last: int, shift: int) -> bool:
        if last + shift >= len(self._forms):
            return False
        if shift not in self._differ:
            self._differ[shift] = np.concatenate([[0], np.cumsum(self._differences(shift))])
        differ = self._differ[shift]
        return bool(differ[last + 1] == differ[first])

    def _differences(self, shift: int) -> NDArray[np.bool_]:
        """For each node that has one ``shift`` places further on, whether they differ."""
        count = len(self._forms) - shift
        sizes = np.diff(self._ends)
        alike = (self._around[:count] == self._around[shift:]) & (sizes[:count] == sizes[shift:])
        differ: NDArray[np.bool_] = ~alike
        nodes = np.flatnonzero(alike & (sizes[:count] > 0))
        if len(nodes):
            lengths = sizes[nodes]
            owner = np.repeat(nodes, lengths)
            inner = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            moved = (
                self._sources[self._ends[owner + shift] + inner]
                - self._sources[self._ends[owner] + inner]
            )
            differ[owner[(moved != shift) & (moved != 0)]] = True
        return differ

    def _compare(self, loop: Loop, shift: int) -> Region | None:
        """The region's copy at a distance, by comparing both, argument by argument."""
        graph, region = self._graph, loop.region
        last = region.anchor + shift
        if last >= len(graph.nodes) or self._forms[region.anchor] != self._forms[last]:
            return None
        again = set(region.recomputed)
        place = {node: node + shift for node in region.nodes if node not in again}
        others: dict[int, int] = {}
        for node in reversed(region.nodes):  # users before what they use
            to = place.get(node)
            if to is None or not 0 <= to < len(graph.nodes) or self._forms[node] != self._forms[to]:
                return None
            for (_, ref), (_, other) in zip(
                graph.nodes[node].refs, graph.nodes[to].refs, strict=True
            ):
                if ref in again and graph.nodes[other].kind not in LEAVES:
                    if place.setdefault(ref, other) != other or other not in (ref, ref + shift):
                        return None
                elif ref in place:
                    if place[ref] != other:
                        return None
                elif others.setdefault(ref, other) != other:
                    return None
        if len(set(others.values())) != len(others) or set(others.values()) & set(place.values()):
            return None
        shared = tuple(node for node in region.recomputed if place[node] == node)
        copy = replace(region, shared=shared).shifted(shift)
        first = min(node for node in region.nodes if node not in shared)
        span = slice(first, region.anchor + 1), slice(first + shift, last + 1)
        if not np.array_equal(self._forms[span[0]], self._forms[span[1]]):
            return None
        if not self._inner_edges_moved(first, region.anchor, shift):
            return None
        return copy if self._gives_out(region, loop.outputs, copy, shift) else None

    def _inner_edges_moved(self, first: int, last: int, shift: int) -> bool:
        """Whether all arguments from inside a stretch moved with it: its paths are the same."""
        before = self._sources[self._ends[first] : self._ends[last + 1]]
        after = self._sources[self._ends[first + shift] : self._ends[last + shift + 1]]
        if len(before) != len(after):
            return False
        inner, inner_after = before >= first, after >= first + shift
        return bool(
            np.array_equal(inner, inner_after) and np.all((after - before)[inner] == shift)
        )

    def _gives_out(
        self, region: Region, outputs: Sequence[int], copy: Region, shift: int
    ) -> bool:
        """Whether a copy's nodes that are used outside are the region's, used by the same ops."""
        graph = self._graph
        for own, outer in ((region, 0), (copy, shift)):
            kept = set(own.nodes) - set(own.recomputed)
            found = {
                node - outer for node in kept
                if node in graph.output_nodes or any(u not in kept for u in graph.users[node])
            }  # fmt: skip
            if found != set(outputs):
                return False
        return all(
            {self._forms[user] for user in graph.users[node]}
            == {self._forms[user] for user in graph.users[node + shift]}
            for node in outputs
        )


def transplant(loop: Loop, region: Region) -> Loop:
    """A region's loop as that of its copy. It serves analysis; its flows are the first's, so that
    code is generated from regions that have been resolved themselves."""
    if region.nodes == loop.region.nodes:
        return replace(loop, region=region)
    graph = loop.graph
    place = dict(zip(_moving(loop.region), _moving(region), strict=True))
    place.update((node, node) for node in region.shared)
    others: dict[int, int] = {}
    for node, to in place.items():
        for (_, ref), (_, other) in zip(graph.nodes[node].refs, graph.nodes[to].refs, strict=True):
            others[ref] = other
    return Loop(
        graph,
        region,
        loop.extent,
        loop.factors,
        loop.flows,
        tuple(LoopInput(others[i.node], i.dim, i.factor) for i in loop.inputs),
        tuple(place[node] for node in loop.outputs),
    )


def _moving(region: Region) -> list[int]:
    return [node for node in region.nodes if node not in region.shared]


def _form(graph: SizedGraph, node: SizedNode) -> tuple[object, ...]:
    """What a node looks like, whatever it is connected to."""

    def blank(value: Argument) -> Argument:
        if not isinstance(value, Ref):
            return value
        source = graph.nodes[value.index]
        kind = "leaf" if source.kind in LEAVES else "node"
        return (kind, repr(source.outputs))

    return (
        node.op if node.kind not in LEAVES else node.kind,
        repr([map_arguments(value, blank) for value in node.args]),
        repr([(name, map_arguments(value, blank)) for name, value in node.kwargs]),
        node.outputs,
        node.index in graph.output_nodes,
    )
