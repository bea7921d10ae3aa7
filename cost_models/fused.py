"""The work of compiled code: what is computed element by element is fused into few kernels.

Products, convolutions and fused attention stay kernels of their own. All other ops that are joined
by tensors become one kernel, which reads each tensor from outside once, writes what is used
outside, and keeps all else in registers; views vanish. (A compiler may need several passes for it,
or copy what cannot be computed in place; that is left to what is learned.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from cost_models.kinds import ATTENTION, CONVOLUTION, FUSED
from cost_models.work import Work, loop_work, node_work
from search_space.graph import LEAVES, SizedGraph
from search_space.regions import Loop, arguments

Read = tuple[int, bool]
"""A node whose output is read, and whether only a pass's slice of it is."""


def fused_loop_work(loop: Loop) -> tuple[Work, ...]:
    """The work of a compiled body's kernels, see :func:`cost_models.work.loop_work`."""
    members = set(loop.region.nodes)
    flows = dict(zip(loop.region.nodes, loop.flows, strict=True))

    def reads(node: int) -> Iterator[Read]:
        slices = dict(flows[node].slices)
        for path, ref in arguments(loop.graph, node, flows[node]):
            yield ref, ref in members or path in slices

    works = dict(zip(loop.region.nodes, loop_work(loop), strict=True))
    return tuple(_kernels(loop.graph, works, reads, frozenset(loop.outputs)))


def fused_graph_work(graph: SizedGraph, nodes: Iterable[int]) -> tuple[Work, ...]:
    """The work of the kernels that a part of a graph is compiled to, run whole."""
    wanted = [node for node in nodes if graph.nodes[node].kind not in LEAVES]
    works = {node: node_work(graph, graph.nodes[node]) for node in wanted}

    def reads(node: int) -> Iterator[Read]:
        return ((ref, True) for _, ref in graph.nodes[node].refs)

    return tuple(_kernels(graph, works, reads, graph.output_nodes))


def _kernels(
    graph: SizedGraph,
    works: Mapping[int, Work],
    reads: Callable[[int], Iterator[Read]],
    outputs: frozenset[int],
) -> Iterator[Work]:
    fusible = {node for node, work in works.items() if not _stays_alone(work)}
    group = _joined(fusible, reads)
    members: dict[int, list[int]] = {}
    for node in works:
        if node in fusible:
            members.setdefault(group[node], []).append(node)
        else:
            yield works[node]
    for root, nodes in members.items():
        parts = tuple(works[node] for node in nodes if works[node].launches)
        inside = set(nodes)
        read = dict(
            one for node in nodes for one in reads(node) if one[0] not in inside
        )
        written = sum(
            t.nbytes
            for node in nodes
            if node in outputs or any(group.get(user) != root for user in graph.users[node])
            for t in graph.nodes[node].outputs
        )
        if parts:  # views alone make no kernel
            yield Work(
                sum(part.flops for part in parts),
                written + sum(graph.nodes[ref].output.nbytes for ref, cut in read.items() if cut),
                sum(graph.nodes[ref].output.nbytes for ref, cut in read.items() if not cut),
                1,
                kind=FUSED,
                parts=parts,
            )


def _stays_alone(work: Work) -> bool:
    return work.matrix is not None or work.kind in (CONVOLUTION, ATTENTION)


def _joined(
    nodes: set[int], reads: Callable[[int], Iterator[Read]]
) -> dict[int, int]:
    """Each node's group, by the first node that was found in it."""
    parent = {node: node for node in nodes}

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node in nodes:
        for ref, _ in reads(node):
            if ref in nodes:
                parent[root(ref)] = root(node)
    return {node: root(node) for node in nodes}
