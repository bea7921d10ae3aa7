"""Graphs of any depth: one captured layer repeated, as plain data."""

from __future__ import annotations

from dataclasses import replace

from search_space.graph import LEAVES, Argument, Ref, SizedGraph, SizedNode, map_arguments


def repeated(graph: SizedGraph, first: int, length: int, times: int) -> SizedGraph:
    """The graph with its nodes ``[first, first + length)``, one layer, there ``times`` times.

    The layer reads the previous one (whatever stands up to ``length`` before it) and what all
    layers share (whatever stands before that); weights stand for themselves in every copy.
    """
    by = (times - 1) * length
    nodes = list(graph.nodes[: first + length])
    for copy in range(1, times):
        for node in graph.nodes[first : first + length]:
            nodes.append(_moved(graph, node, copy * length, first - length))
    for node in graph.nodes[first + length :]:
        nodes.append(_moved(graph, node, by, first))

    def move(value: Argument) -> Argument:
        late = isinstance(value, Ref) and value.index >= first
        return Ref(value.index + by) if isinstance(value, Ref) and late else value

    outputs = tuple(map_arguments(value, move) for value in graph.outputs)
    return SizedGraph(tuple(nodes), outputs, graph.bindings, graph.fingerprint)


def _moved(graph: SizedGraph, node: SizedNode, by: int, since: int) -> SizedNode:
    """A node moved on, with its references to nodes at ``since`` or later."""

    def move(value: Argument) -> Argument:
        if not isinstance(value, Ref) or value.index < since:
            return value
        return value if graph.nodes[value.index].kind in LEAVES else Ref(value.index + by)

    refs = tuple(
        (path, moved.index)
        for path, ref in node.refs
        if isinstance(moved := move(Ref(ref)), Ref)
    )
    return replace(
        node,
        index=node.index + by,
        label=f"{node.label}_{by}",
        args=tuple(map_arguments(value, move) for value in node.args),
        kwargs=tuple((name, map_arguments(value, move)) for name, value in node.kwargs),
        refs=refs,
    )
