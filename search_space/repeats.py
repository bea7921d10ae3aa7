"""Where a graph repeats: which regions occur again some places further on.

Models are stacks of equal layers. What has been found out about a region in one layer holds in all
layers that are alike, and this module tells where, without looking at the region's rules again. A
region's copy ``shift`` places further on is *the same* when, node by node over the whole stretch
from its first node to its last,

1. op, constants and tensors agree, and so do the tensors that the node takes;
2. arguments from inside the stretch have moved with it; those from outside may be others, weights
   too, but what was one tensor is one tensor again, and what were two are two;
3. the same of the region's nodes are used outside of it, by the same kinds of ops.

Recomputed nodes may stay, as a mask that all layers share does, or move along, as a norm does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
        self._refs = np.array([ref for node in graph.nodes for _, ref in node.refs], np.int64)
        counts = (len(node.refs) for node in graph.nodes)
        self._starts = np.array([0, *accumulate(counts)], np.int64)

    def occurrences(self, loop: Loop, anchors: Sequence[int]) -> tuple[Region, list[int]]:
        """Where the loop's region occurs among these anchors, ascending ones beyond its own.

        Returns:
            The region, with ``shared`` filled in, and the anchors at which its copies end; each is
            the region shifted.
        """
        region = loop.region
        found: list[int] = []
        wired = np.zeros(0, np.bool_)
        for place, anchor in enumerate(anchors):
            if found:
                if not len(wired):
                    wired = self._wired(region, np.array(anchors, np.int64))
                if not wired[place]:
                    continue
                if self._steps(region, found[-1], anchor):
                    found.append(anchor)
                    continue
            copy = self._compare(loop, anchor - region.anchor)
            if copy is not None and (not found or copy.shared == region.shared):
                region = replace(region, shared=copy.shared)
                found.append(anchor)
        return region, found

    def _steps(self, region: Region, before: int, anchor: int) -> bool:
        """Whether the stretch of the copy that ends at ``before`` occurs again at ``anchor``: every
        node between looks alike and is read by the like. Quick, since all regions share the
        comparison; which arguments are one tensor is for :meth:`_wired` to tell."""
        moved = before - region.anchor
        first = next(node for node in region.nodes if node not in region.shared)
        return self._alike(first + moved, before, anchor - before)

    def _wired(self, region: Region, anchors: Indices) -> NDArray[np.bool_]:
        """At which anchors the nodes' arguments have the region's own pattern, all anchors at once.

        Arguments from inside have moved along, or stayed where the region shares them. Those from
        outside, weights too, are one tensor where they were one, others where they were others,
        and none is the copy's own. Where the nodes do not look alike the answer means nothing.
        """
        slots = _Slots.of(self._graph, region)
        moves = (anchors - region.anchor)[:, None]
        readers = np.minimum(slots.readers + moves * slots.moving, len(self._graph.nodes) - 1)
        refs = self._refs.take(self._starts[readers] + slots.places, mode="clip")
        alike: NDArray[np.bool_] = np.all(
            refs[:, slots.inner] == slots.refs[slots.inner] + moves * slots.along, axis=1
        )
        outer = refs[:, slots.outer]
        alike &= np.all(outer == outer[:, slots.same], axis=1)
        distinct = np.sort(outer[:, slots.heads], axis=1)
        alike &= np.all(distinct[:, 1:] != distinct[:, :-1], axis=1)
        own = np.zeros(len(self._graph.nodes), np.bool_)
        own[[node for node in region.nodes if node not in region.shared]] = True
        origin = distinct - moves
        alike &= ~np.any(own[np.maximum(origin, 0)] & (origin >= 0), axis=1)
        return alike & ~np.isin(distinct, region.shared).any(axis=1)

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


@dataclass(frozen=True)
class _Slots:
    """The arguments of a region's nodes.

    Attributes:
        readers, places, refs: of each argument: who reads it, where among its arguments, and what.
        moving: 1 where the reader moves along with a copy, 0 where it is shared.
        inner: which of them are the region's own nodes...
        along: ...and of those, 1 for what moves along, 0 for what is shared.
        outer: which of them are not.
        same: of the outer ones, the first that is the same tensor, by place in ``outer``.
        heads: the places in ``outer`` of such first ones.
    """

    readers: Indices
    places: Indices
    refs: Indices
    moving: Indices
    inner: Indices
    along: Indices
    outer: Indices
    same: Indices
    heads: Indices

    @classmethod
    def of(cls, graph: SizedGraph, region: Region) -> _Slots:
        nodes, shared = set(region.nodes), set(region.shared)
        rows = [
            (node, place, ref, node not in shared)
            for node in region.nodes
            for place, (_, ref) in enumerate(graph.nodes[node].refs)
        ]
        inner = [number for number, row in enumerate(rows) if row[2] in nodes]
        outer = [number for number, row in enumerate(rows) if row[2] not in nodes]
        first: dict[int, int] = {}
        for place, number in enumerate(outer):
            first.setdefault(rows[number][2], place)
        columns = np.array(rows, np.int64).reshape(-1, 4).T
        return cls(
            readers=columns[0],
            places=columns[1],
            refs=columns[2],
            moving=columns[3],
            inner=np.array(inner, np.int64),
            along=np.array([rows[number][2] not in shared for number in inner], np.int64),
            outer=np.array(outer, np.int64),
            same=np.array([first[rows[number][2]] for number in outer], np.int64),
            heads=np.array(list(first.values()), np.int64),
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
