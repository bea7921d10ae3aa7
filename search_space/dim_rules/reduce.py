"""Reductions: the dimensions that remain can be sliced."""

from __future__ import annotations

from search_space.dim_rules.base import Flow, Query, Slice, normalized_all, rule

# where the reduced dimensions and keepdim stand among the arguments, by overload
_PLACES = {
    "aten.sum.dim_IntList": (1, 2),
    "aten.mean.dim": (1, 2),
    "aten.amax.default": (1, 2),
    "aten.amin.default": (1, 2),
    "aten.argmax.default": (1, 2),
    "aten.argmin.default": (1, 2),
    "aten.max.dim": (1, 2),
    "aten.min.dim": (1, 2),
    "aten.prod.dim_int": (1, 2),
    "aten.any.dim": (1, 2),
    "aten.all.dim": (1, 2),
    "aten.logsumexp.default": (1, 2),
    "aten.var.correction": (1, 3),
    "aten.std.correction": (1, 3),
    "aten.var.dim": (1, 3),
    "aten.std.dim": (1, 3),
    "aten.linalg_vector_norm.default": (2, 3),
    "aten.norm.ScalarOpt_dim": (2, 3),
}


@rule(*_PLACES)
def reduction(query: Query) -> Flow | None:
    """Maps the output's dimension past the reduced ones."""
    place, keep_place = _PLACES[query.node.op]
    source = query.tensor(query.node.refs[0][1]).shape
    reduced = set(normalized_all(query.argument(place, "dim"), len(source)))
    if query.argument(keep_place, "keepdim", False):
        if query.dim in reduced:
            return None
        return Flow((((0,), Slice(query.dim)),))
    kept = [d for d in range(len(source)) if d not in reduced]
    return Flow((((0,), Slice(kept[query.dim])),))
