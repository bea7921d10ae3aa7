"""Dimension flow rules, op by op. :func:`flow` is the one way in.

Each module beside this one holds a family of rules and registers them when imported.
"""

from __future__ import annotations

import logging
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
    resampling,
    views,
)
from search_space.dim_rules.base import Flow, Query, Slice, find_rule, known_ops
from search_space.graph import (
    LEAVES,
    OPAQUE,
    POINTWISE,
    RANDOM,
    Ref,
    SizedGraph,
    walk_arguments,
)

log = logging.getLogger("autochunk")

__all__ = ["Flow", "Probe", "Query", "Slice", "find_rule", "flow", "known_ops"]

_FAMILIES = (
    attention, convolution, creation, indexing, matmul, normalize, pointwise, reduce,
    resampling, views,
)  # fmt: skip

Probe = Callable[[Query], Flow | None]
"""A rule of last resort for ops without one of their own; see ``search_space.probe``."""


def flow(graph: SizedGraph, index: int, dim: int, probe: Probe | None = None) -> Flow | None:
    """How the node at ``index`` runs when its output is sliced at ``dim``; None where it cannot.

    Random ops, ops with side effects and leaves never can. An op without a rule is asked of
    ``probe``, where one is given, and otherwise cannot.
    """
    found = graph.flows.get((index, dim), _UNASKED)
    if found is _UNASKED:
        found = graph.flows[index, dim] = _by_rule(graph, index, dim)
    if found is _UNKNOWN:
        return probe(Query(graph, graph.nodes[index], dim)) if probe is not None else None
    return found if isinstance(found, Flow) else None


_UNASKED, _UNKNOWN = object(), object()
"""Stand for answers: nobody has asked yet, and no rule knows the op."""


def _by_rule(graph: SizedGraph, index: int, dim: int) -> object:
    """What the rules say: a flow, None where slicing is not legal, or ``_UNKNOWN``."""
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
        try:
            answer = found(query)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            # arguments that are not where or what the rule takes them to be: not understood
            log.debug("autochunk: %s (%s): %r", node.label, node.op, error)
            return None
        return answer if answer is None or _fits_arguments(query, answer) else None
    return _UNKNOWN


def _fits_arguments(query: Query, answer: Flow) -> bool:
    """Whether every slice is of a tensor argument that the call really has there, and that has the
    dimension and the positions. One that is given by keyword stands elsewhere than a rule expects,
    and would be taken whole unnoticed."""
    if answer.args is None and answer.kwargs is None:
        given = dict(query.node.refs)
    else:
        args = query.node.args if answer.args is None else answer.args
        kwargs = query.node.kwargs if answer.kwargs is None else answer.kwargs
        walked = walk_arguments(args, kwargs)
        given = {path: value.index for path, value in walked if isinstance(value, Ref)}
    size = query.shape[query.dim]
    for path, wanted in answer.slices:
        if path not in given:
            return False
        shape = query.tensor(given[path]).shape
        if not 0 <= wanted.dim < len(shape) or shape[wanted.dim] != size * wanted.ratio:
            return False
    return True
