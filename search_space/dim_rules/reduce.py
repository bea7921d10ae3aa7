"""Reductions: the dimensions that remain can be sliced."""

from __future__ import annotations

from search_space.dim_rules.base import Flow, Query, Slice, normalized_all, rule

# where the reduced dimensions and keepdim stand among the arguments, by overload; None: no such
_PLACES: dict[str, tuple[int | None, int | None]] = {
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
    "aten.norm.ScalarOpt_dim_dtype": (2, 3),
    "aten.nansum.default": (1, 2),
    "aten.nanmean.default": (1, 2),
    "aten.any.dims": (1, 2),
    "aten.all.dims": (1, 2),
    "aten.sum.default": (None, None),
    "aten.mean.default": (None, None),
    "aten.prod.default": (None, None),
    "aten.max.default": (None, None),
    "aten.min.default": (None, None),
    "aten.any.default": (None, None),
    "aten.all.default": (None, None),
    "aten.median.dim": (1, 2),
    "aten.nanmedian.dim": (1, 2),
    "aten.mode.default": (1, 2),
    "aten.kthvalue.default": (2, 3),
    "aten.count_nonzero.dim_IntList": (1, None),
    "aten.var_mean.correction": (1, 3),
    "aten.std_mean.correction": (1, 3),
    "aten.std.default": (None, None),
    "aten.var.default": (None, None),
}
_LAST = frozenset({"aten.median.dim", "aten.nanmedian.dim", "aten.mode.default",
                   "aten.kthvalue.default"})  # fmt: skip
"""Those that reduce the last dimension unless told another."""


@rule(*_PLACES)
def reduction(query: Query) -> Flow | None:
    """Maps the output's dimension past the reduced ones."""
    place, keep_place = _PLACES[query.node.op]
    if place is None:
        return None
    source = query.tensor(query.node.refs[0][1]).shape
    default = -1 if query.node.op in _LAST else None
    reduced = set(normalized_all(query.argument(place, "dim", default), len(source)))
    if keep_place is not None and query.argument(keep_place, "keepdim", False):
        if query.dim in reduced:
            return None
        return Flow((((0,), Slice(query.dim)),))
    kept = [d for d in range(len(source)) if d not in reduced]
    if len(kept) != query.rank:
        return None
    return Flow((((0,), Slice(kept[query.dim])),))
