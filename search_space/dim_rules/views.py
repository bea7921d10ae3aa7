"""Ops that rearrange dimensions without computing: views, splits, joins."""

from __future__ import annotations

from fractions import Fraction
from math import prod

from search_space.dim_rules.base import (
    Flow,
    Query,
    Slice,
    along_first,
    normalized,
    normalized_all,
    rule,
)
from search_space.graph import ITEM_BYTES, Affine, Argument


def _source(query: Query) -> tuple[int, ...]:
    return query.tensor(query.node.refs[0][1]).shape


@rule(
    "aten.view.default", "aten.reshape", "aten._unsafe_view", "aten.unflatten", "aten.flatten"
)  # fmt: skip
def view(query: Query) -> Flow | None:
    """Merged and split dimensions: only the leading one of a group can be sliced.

    Input and output dimensions fall into groups of equal products. Within a group, one position
    of the leading output dimension covers ``prod(rest of output group)`` elements and one of the
    leading input dimension ``prod(rest of input group)``, hence the ratio.
    """
    if query.node.refs[0][0] != (0,):
        return None
    for source, target in _groups(_source(query), query.shape):
        if query.dim not in target:
            continue
        outer = [d for d in target if query.shape[d] > 1]
        inner = [d for d in source if _source(query)[d] > 1]
        if outer[0] != query.dim or not inner:
            return None
        covered = prod(query.shape[d] for d in outer[1:])
        step = prod(_source(query)[d] for d in inner[1:])
        sizes: list[Argument] = list(query.shape)
        sizes[query.dim] = Affine(length=1)
        return Flow(
            (((0,), Slice(inner[0], Fraction(covered, step))),),
            op="aten.reshape.default",
            args=(query.node.args[0], tuple(sizes)),
            kwargs=(),
        )
    return None


def _groups(
    source: tuple[int, ...], target: tuple[int, ...]
) -> list[tuple[list[int], list[int]]]:
    """The finest grouping of dimensions with equal products, left to right."""
    if prod(source) != prod(target) or 0 in source:
        return []
    found: list[tuple[list[int], list[int]]] = []
    a = b = 0
    while a < len(source) or b < len(target):
        left, right = [], []
        have, want = 1, 1
        if a < len(source):
            left.append(a)
            have, a = have * source[a], a + 1
        if b < len(target):
            right.append(b)
            want, b = want * target[b], b + 1
        while have != want:
            if have < want:
                left.append(a)
                have, a = have * source[a], a + 1
            else:
                right.append(b)
                want, b = want * target[b], b + 1
        found.append((left, right))
    return found


@rule("aten.transpose", "aten.swapaxes")
def transpose(query: Query) -> Flow | None:
    """Two dimensions change places."""
    a = normalized(query.node.args[1], query.rank)
    b = normalized(query.node.args[2], query.rank)
    return Flow((((0,), Slice({a: b, b: a}.get(query.dim, query.dim))),))


@rule("aten.t")
def t(query: Query) -> Flow | None:
    """Transposes a matrix; vectors stay."""
    return Flow((((0,), Slice(query.rank - 1 - query.dim)),))


@rule("aten.permute")
def permute(query: Query) -> Flow | None:
    """All dimensions change places."""
    order = normalized_all(query.node.args[1], query.rank)
    return Flow((((0,), Slice(order[query.dim])),))


@rule("aten.unsqueeze")
def unsqueeze(query: Query) -> Flow | None:
    """A dimension of one position comes in."""
    new = normalized(query.node.args[1], query.rank)
    return Flow((((0,), Slice(query.dim - (query.dim > new))),))


@rule("aten.squeeze")
def squeeze(query: Query) -> Flow | None:
    """Dimensions of one position go."""
    shape = _source(query)
    dims = query.argument(1, "dim")
    dropped = {d for d in normalized_all(dims, len(shape)) if shape[d] == 1}
    kept = [d for d in range(len(shape)) if d not in dropped]
    # said by dimension, so that a chunk of one position is not squeezed as well
    return Flow(
        (((0,), Slice(kept[query.dim])),),
        op="aten.squeeze.dims",
        args=(query.node.args[0], tuple(sorted(dropped))),
        kwargs=(),
    )


@rule("aten.expand")
def expand(query: Query) -> Flow | None:
    """Broadcast dimensions are made at the chunk's length; the others are sliced."""
    shape = _source(query)
    dim = query.dim - (query.rank - len(shape))
    sizes: list[Argument] = list(query.shape)
    sizes[query.dim] = Affine(length=1)
    sliced = dim >= 0 and shape[dim] > 1
    return Flow(
        (((0,), Slice(dim)),) if sliced else (), args=(query.node.args[0], tuple(sizes)), kwargs=()
    )


@rule("aten.select")
def select(query: Query) -> Flow | None:
    """One position of a dimension; the others pass through."""
    gone = normalized(query.node.args[1], query.rank + 1)
    return Flow((((0,), Slice(query.dim + (query.dim >= gone))),))


@rule("aten.slice", "aten.narrow")
def slice_(query: Query) -> Flow | None:
    """A range of a dimension; along that dimension only the full range can be sliced."""
    dim = normalized(query.argument(1, "dim", 0), query.rank)
    if dim != query.dim:
        return along_first(query, dim)
    if _source(query)[dim] != query.shape[dim] or query.argument(4, "step", 1) != 1:
        return None
    if query.node.op.startswith("aten.narrow"):
        return None
    return Flow((((0,), Slice(dim)),), op="aten.alias.default", args=query.node.args[:1], kwargs=())


@rule("aten.split", "aten.split_with_sizes", "aten.chunk")
def split(query: Query) -> Flow | None:
    """Parts of one dimension; all parts are sliced alike along the others."""
    return along_first(query, normalized(query.argument(2, "dim", 0), query.rank))


@rule("aten.unbind")
def unbind(query: Query) -> Flow | None:
    """The positions of one dimension as tensors."""
    gone = normalized(query.argument(1, "dim", 0), query.rank + 1)
    return Flow((((0,), Slice(query.dim + (query.dim >= gone))),))


@rule("getitem")
def getitem(query: Query) -> Flow | None:
    """One of several outputs, all of which are sliced alike."""
    return Flow((((0,), Slice(query.dim)),))


@rule("aten.cat", "aten.concat")
def cat(query: Query) -> Flow | None:
    """Joined along another dimension than the chunk's. Empty one-dimensional parts join freely."""
    joined = normalized(query.argument(1, "dim", 0), query.rank)
    if joined == query.dim:
        return None
    if any(len(query.tensor(index).shape) != query.rank for _, index in query.node.refs):
        return None
    return Flow(tuple((path, Slice(query.dim)) for path, _ in query.node.refs))


@rule("aten.stack")
def stack(query: Query) -> Flow | None:
    """Joined along a new dimension."""
    new = normalized(query.argument(1, "dim", 0), query.rank)
    if new == query.dim:
        return None
    dim = query.dim - (query.dim > new)
    return Flow(tuple((path, Slice(dim)) for path, _ in query.node.refs))


@rule("aten.constant_pad_nd", "aten.pad")
def pad(query: Query) -> Flow | None:
    """Dimensions that are not padded pass through."""
    amounts = query.node.args[1]
    if not isinstance(amounts, tuple):
        return None
    padded = {
        query.rank - 1 - place // 2 for place, amount in enumerate(amounts) if amount != 0
    }
    return along_first(query, *padded)


@rule("aten.flip", "aten.roll")
def reorder(query: Query) -> Flow | None:
    """Dimensions whose positions stay in place pass through."""
    place, name = (1, "dims") if query.node.op.startswith("aten.flip") else (2, "dims")
    dims = query.argument(place, name)
    if dims is None or dims == ():
        return None
    return along_first(query, *normalized_all(dims, query.rank))


@rule("aten.repeat")
def repeat(query: Query) -> Flow | None:
    """Dimensions that are repeated once pass through."""
    times = query.node.args[1]
    shape = _source(query)
    dim = query.dim - (query.rank - len(shape))
    if not isinstance(times, tuple) or times[query.dim] != 1 or dim < 0:
        return None
    return Flow((((0,), Slice(dim)),))


@rule("aten.view.dtype")
def view_dtype(query: Query) -> Flow | None:
    """The same bits read as another dtype: elementwise where items are of one size."""
    path, index = query.node.refs[0]
    source = query.tensor(index)
    if ITEM_BYTES[source.dtype] != ITEM_BYTES[query.node.output.dtype]:
        return None
    return Flow(((path, Slice(query.dim)),))
