"""Dimension flow rules, op by op. :func:`flow` is the one way in.

Each module beside this one holds a family of rules and registers them when imported.
"""

from __future__ import annotations

from collections.abc import Callable

from search_space.dim_rules import (
    attention,
    convolution,
    creation,
    indexing,
    matmul,
    normalize,
    pointwise,
    reduce,
    views,
)
from search_space.dim_rules.base import Flow, Query, Slice, find_rule, known_ops
from search_space.graph import LEAVES, OPAQUE, POINTWISE, RANDOM, SizedGraph

__all__ = ["Flow", "Probe", "Query", "Slice", "find_rule", "flow", "known_ops"]

_FAMILIES = (
    attention, convolution, creation, indexing, matmul, normalize, pointwise, reduce, views,
)  # fmt: skip

Probe = Callable[[Query], Flow | None]
"""A rule of last resort for ops without one of their own; see ``search_space.probe``."""


def flow(graph: SizedGraph, index: int, dim: int, probe: Probe | None = None) -> Flow | None:
    """How the node at ``index`` runs when its output is sliced at ``dim``; None where it cannot.

    Random ops, ops with side effects and leaves never can. An op without a rule is asked of
    ``probe``, where one is given, and otherwise cannot.
    """
    node = graph.nodes[index]
    if node.kind in LEAVES or OPAQUE in node.traits or RANDOM in node.traits:
        return None
    if any(dim >= len(t.shape) or t.shape[dim] < 2 for t in node.outputs):
        return None
    found = find_rule(node.op)
    if found is None and POINTWISE in node.traits:
        found = pointwise.pointwise
    query = Query(graph, node, dim)
    if found is not None:
        return found(query)
    return probe(query) if probe is not None else None
