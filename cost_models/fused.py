"""The work of compiled code: what is computed element by element is fused into few kernels.

Products, convolutions and fused attention stay kernels of their own. All other ops that tensors
join become one kernel, as far as none of those stands between them: it reads what comes from
outside once, writes what is used outside, and keeps all else in registers; views vanish. (A
compiler may need several passes for it, or copy what cannot be computed in place; that is left to
what is learned.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from cost_models.kinds import ATTENTION, CONVOLUTION, FUSED
from cost_models.work import Work, loop_work
from search_space.graph import ALIAS, LEAVES, SizedGraph
from search_space.regions import Loop, arguments

Read = tuple[int, bool]
"""A node whose output is read, and whether only a pass's slice of it is."""


def fused_loop_work(loop: Loop) -> tuple[Work, ...]:
    """The work of a compiled body's kernels, see :func:`cost_models.work.loop_work`."""
    members = set(loop.region.nodes)
    flows = dict(zip(loop.region.nodes, loop.flows, strict=True))
    outputs = set(loop.outputs)

    def reads(node: int) -> Iterator[Read]:
        slices = dict(flows[node].slices)
        for path, ref in arguments(loop.graph, node, flows[node]):
            yield ref, ref in members or path in slices

    def leaves(node: int) -> bool:
        # (what is recomputed is used outside too, but not from here)
        return node in outputs

    works = dict(zip(loop.region.nodes, loop_work(loop), strict=True))
    return tuple(_Fusion(loop.graph, works, reads, leaves).kernels(loop.region.nodes))


def fused_graph_work(
    graph: SizedGraph, nodes: Collection[int], works: Mapping[int, Work]
) -> tuple[Work, ...]:
    """The work of the kernels that a part of a graph is compiled to, run whole.

    Args:
        works: of those nodes at least, each run whole.
    """
    wanted = {node for node in nodes if graph.nodes[node].kind not in LEAVES}

    def reads(node: int) -> Iterator[Read]:
        return ((ref, True) for _, ref in graph.nodes[node].refs)

    def leaves(node: int) -> bool:
        return node in graph.output_nodes or any(user not in wanted for user in graph.users[node])

    own = {node: works[node] for node in wanted}
    every = [node.index for node in graph.nodes if node.kind not in LEAVES]
    return tuple(_Fusion(graph, own, reads, leaves).kernels(every))


@dataclass(frozen=True)
class _Fusion:
    """Nodes with their work, how they read, and which of them are used outside."""

    graph: SizedGraph
    works: Mapping[int, Work]
    reads: Callable[[int], Iterator[Read]]
    leaves: Callable[[int], bool]

    def kernels(self, order: Iterable[int]) -> Iterator[Work]:
        """The kernels' work.

        Args:
            order: the nodes and what stands between them, arguments before their users.
        """
        group = self._groups(order)
        members: dict[int, list[int]] = defaultdict(list)
        for node, work in self.works.items():
            if node in group:
                members[group[node]].append(node)
            else:
                yield work
        for nodes in members.values():
            parts = tuple(self.works[node] for node in nodes if self.works[node].launches)
            if parts:  # views alone make no kernel
                yield self._kernel(set(nodes), parts)

    def _groups(self, order: Iterable[int]) -> dict[int, int]:
        """The group of each node that is fused, by one of its nodes: those that are joined by
        tensors, with as many products on the longest way to each."""
        parent: dict[int, int] = {}
        depth: dict[int, int] = {}

        def root(node: int) -> int:
            while parent[node] != node:
                parent[node] = parent[parent[node]]
                node = parent[node]
            return node

        for node in order:
            work = self.works.get(node)
            # what is not among the nodes runs in a loop
            before = (
                [ref for ref, _ in self.reads(node)]
                if work is not None
                else [ref for _, ref in self.graph.nodes[node].refs]
            )
            depth[node] = max((depth.get(ref, 0) for ref in before), default=0)
            if work is None or _stays_alone(work):
                depth[node] += 1
                continue
            parent[node] = node
            for ref in before:
                if ref in parent and depth[ref] == depth[node]:
                    parent[root(ref)] = root(node)
        return {node: root(node) for node in parent}

    def _is_view(self, node: int) -> bool:
        own = self.graph.nodes[node]
        return ALIAS in own.traits or own.op == "getitem"

    def _kernel(self, inside: set[int], parts: tuple[Work, ...]) -> Work:
        nodes = self.graph.nodes
        read: dict[Read, int] = defaultdict(int)
        written: set[int] = set()
        for node in inside:
            for ref, is_cut in () if self._is_view(node) else self.reads(node):
                # (of what is read through views, what they show)
                size, source = nodes[ref].output.nbytes, ref
                while source in inside and self._is_view(source):
                    source, is_cut = next(self.reads(source))
                if source not in inside:
                    entire = nodes[source].output.nbytes
                    read[source, is_cut] = min(read[source, is_cut] + size, entire)
            if self.leaves(node) or any(
                user in self.works and user not in inside for user in self.graph.users[node]
            ):
                written.add(self.graph.base[node])
        stored = sum(t.nbytes for node in written & inside for t in nodes[node].outputs)
        return Work(
            sum(part.flops for part in parts),
            stored + sum(size for (_, is_cut), size in read.items() if is_cut),
            sum(size for (_, is_cut), size in read.items() if not is_cut),
            1,
            kind=FUSED,
            parts=parts,
        )


def _stays_alone(work: Work) -> bool:
    return work.matrix is not None or work.kind in (CONVOLUTION, ATTENTION)
