"""Look-ups: positions may be sliced; what is looked up in is taken whole there."""

from __future__ import annotations

from search_space.dim_rules.base import Flow, Query, Slice, aligned, normalized, rule
from search_space.graph import Path, Ref


@rule("aten.embedding")
def embedding(query: Query) -> Flow | None:
    """Rows of a table: the indices are sliced, or the table's columns."""
    if query.dim == query.rank - 1:
        return Flow((((0,), Slice(1)),))
    return Flow((((1,), Slice(query.dim)),))


@rule("aten.index")
def index(query: Query) -> Flow | None:
    """Advanced indexing with whole-number tensors in adjacent places.

    The broadcast indices' dimensions stand in the output where the first index stood; dimensions
    before and after pass through.
    """
    places = query.node.args[1]
    if not isinstance(places, tuple):
        return None
    source = query.tensor(query.node.refs[0][1]).shape
    used = [place for place, value in enumerate(places) if isinstance(value, Ref)]
    if not used or used != list(range(used[0], used[-1] + 1)):
        return None
    tensors = [query.tensor(value.index) for value in places if isinstance(value, Ref)]
    if any(tensor.dtype in ("bool", "uint8") for tensor in tensors):
        return None
    first = used[0]
    width = max(len(tensor.shape) for tensor in tensors)
    if query.rank != len(source) - len(used) + width:
        return None
    if query.dim < first:
        return Flow((((0,), Slice(query.dim)),))
    if query.dim >= first + width:
        return Flow((((0,), Slice(query.dim - width + len(used))),))
    slices: list[tuple[Path, Slice]] = []
    for place, tensor in zip(used, tensors, strict=True):
        dim = query.dim - first - (width - len(tensor.shape))
        if dim >= 0 and tensor.shape[dim] > 1:
            slices.append(((1, place), Slice(dim)))
    return Flow(tuple(slices))


@rule("aten.index_select")
def index_select(query: Query) -> Flow | None:
    """Positions of one dimension, listed by a vector."""
    dim = normalized(query.node.args[1], query.rank)
    if query.dim == dim:
        return Flow((((2,), Slice(0)),))
    return Flow((((0,), Slice(query.dim)),))


@rule("aten.gather", "aten.take_along_dim")
def gather(query: Query) -> Flow | None:
    """Looked up along one dimension, taken whole there; sliced alike along the others."""
    if not query.node.op.startswith("aten.gather"):
        return None
    dim = normalized(query.node.args[1], query.rank)
    if query.dim == dim:
        return Flow((((2,), Slice(dim)),))
    source = query.tensor(query.node.refs[0][1]).shape
    if source[query.dim] != query.shape[query.dim]:
        return None
    return Flow((((0,), Slice(query.dim)), ((2,), Slice(query.dim))))


@rule("aten.bucketize")
def bucketize(query: Query) -> Flow | None:
    """Each element finds its bucket; the boundaries are taken whole."""
    path, source = query.node.refs[0]
    return Flow(aligned(query, path, source))
