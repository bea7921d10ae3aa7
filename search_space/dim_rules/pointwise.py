"""Elementwise ops: every argument is sliced where it lines up with the output.

One rule serves all ops that carry torch's ``pointwise`` tag; those that lack it stand here by name.
"""

from __future__ import annotations

from search_space.dim_rules.base import Flow, Query, aligned, rule


@rule(
    "aten.__and__", "aten.__or__", "aten.__xor__", "aten.where", "aten.clone", "aten._to_copy",
    "aten.to", "aten.contiguous", "aten.dropout", "aten.alias", "aten.detach",
    "aten.lift_fresh_copy", "aten.masked_fill", "aten.logical_and", "aten.logical_or",
    "aten.logical_not", "aten.relu", "aten.relu6", "aten.silu", "aten.gelu",
    "aten.hardtanh", "aten.elu", "aten.selu", "aten.leaky_relu", "aten.mish", "aten.softplus",
    "aten.hardswish", "aten.hardsigmoid", "aten.clamp", "aten.square", "aten.nan_to_num",
    "aten.rsub", "aten.floor_divide", "aten.polar", "aten.complex", "aten._conj",
    "aten.resolve_conj", "aten.resolve_neg", "aten.real", "aten.imag", "aten._prelu_kernel",
    "aten.log_sigmoid", "aten.isclose", "aten.divide", "aten.multiply", "aten.subtract",
    "aten.negative", "aten.absolute", "aten.special_erf", "aten.special_expm1", "aten.fix",
)  # fmt: skip
def pointwise(query: Query) -> Flow | None:
    """Slices each argument at the broadcast-aligned dimension."""
    if query.node.op == "aten.dropout.default" and query.argument(2, "train") is not False:
        return None
    slices = tuple(s for path, index in query.node.refs for s in aligned(query, path, index))
    return Flow(slices) if slices else None


@rule("aten.type_as", "aten.to.other")
def like_another(query: Query) -> Flow | None:
    """Only the first argument's positions are read; of the other, its dtype."""
    path, index = query.node.refs[0]
    return Flow(aligned(query, path, index))


@rule("aten.copy")
def copied(query: Query) -> Flow | None:
    """Functional ``copy``: the second argument's values in the first one's shape and dtype."""
    return pointwise(query)


@rule("aten.fill.Tensor", "aten.fill.Scalar")
def filled_like(query: Query) -> Flow | None:
    """One value in the first argument's shape."""
    path, index = query.node.refs[0]
    slices = aligned(query, path, index)
    return Flow(slices) if slices else None


@rule("aten.isin.Tensor_Tensor", "aten.isin.Tensor_Scalar")
def isin(query: Query) -> Flow | None:
    """Each element is looked for in a second tensor, taken whole."""
    path, index = query.node.refs[0]
    return Flow(aligned(query, path, index)) if path == (0,) else None
