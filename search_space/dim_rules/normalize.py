"""Ops that mix one dimension, or a group, and leave the others alone."""

from __future__ import annotations

from search_space.dim_rules.base import Flow, Query, Slice, along_first, normalized, rule
from search_space.graph import Path


@rule(
    "aten.softmax", "aten.log_softmax", "aten._softmax", "aten._log_softmax", "aten.cumsum",
    "aten.cumprod", "aten.logcumsumexp",
)  # fmt: skip
def one_dimension(query: Query) -> Flow | None:
    """The dimension named second is mixed."""
    return along_first(query, normalized(query.argument(1, "dim"), query.rank))


@rule("aten.sort", "aten.topk", "aten.argsort")
def ordered(query: Query) -> Flow | None:
    """Ordered along one dimension, the last unless named."""
    place = 2 if query.node.op.startswith("aten.topk") else 1
    if query.node.op.endswith(".stable"):
        place += 1
    return along_first(query, normalized(query.argument(place, "dim", -1), query.rank))


@rule("aten.diff")
def diff(query: Query) -> Flow | None:
    """Differences along one dimension; what is put before and after is sliced alike."""
    if query.dim == normalized(query.argument(2, "dim", -1), query.rank):
        return None
    return Flow(tuple((path, Slice(query.dim)) for path, _ in query.node.refs))


@rule("aten.layer_norm", "aten.rms_norm", "aten.native_layer_norm")
def layer_norm(query: Query) -> Flow | None:
    """The trailing normalised dimensions are mixed."""
    inner = query.node.args[1]
    if not isinstance(inner, tuple) or query.node.several:
        return None
    return along_first(query, *range(query.rank - len(inner), query.rank))


@rule("aten._fused_rms_norm")
def fused_norm(query: Query) -> Flow | None:
    """Has several outputs of different rank."""
    return None


@rule("aten.group_norm")
def group_norm(query: Query) -> Flow | None:
    """Batches are independent; groups of channels and positions are mixed."""
    return along_first(query, *range(1, query.rank))


@rule("aten.batch_norm", "aten._native_batch_norm_legit_no_training")
def batch_norm(query: Query) -> Flow | None:
    """With stored statistics, everything is elementwise; channels slice the statistics."""
    if query.node.several or query.argument(5, "training", False) is not False:
        return None
    slices: list[tuple[Path, Slice]] = [((0,), Slice(query.dim))]
    if query.dim == 1:
        slices += [(path, Slice(0)) for path, _ in query.node.refs[1:]]
    return Flow(tuple(slices))


@rule("aten.glu")
def glu(query: Query) -> Flow | None:
    """Halves of one dimension are multiplied."""
    return along_first(query, normalized(query.argument(1, "dim", -1), query.rank))


@rule("aten.triu", "aten.tril")
def triangle(query: Query) -> Flow | None:
    """Batches of matrices; rows and columns would move the diagonal."""
    return along_first(query, query.rank - 1, query.rank - 2)
