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
    with_item,
)
from search_space.graph import ITEM_BYTES, Affine


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
        sizes = with_item(query.shape, query.dim, Affine(length=1))
        return Flow(
            (((0,), Slice(inner[0], Fraction(covered, step))),),
            op="aten.reshape.default",
            args=(query.node.args[0], sizes),
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


@rule("aten.transpose", "aten.swapaxes", "aten.swapdims")
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
    named = () if dims == () else normalized_all(dims, len(shape))  # (here no dims are none at all)
    dropped = {d for d in named if shape[d] == 1}
    kept = [d for d in range(len(shape)) if d not in dropped]
    # said by dimension, so that a chunk of one position is not squeezed as well
    return Flow(
        (((0,), Slice(kept[query.dim])),),
        op="aten.squeeze.dims",
        args=(query.node.args[0], tuple(sorted(dropped))),
        kwargs=(),
    )


@rule("aten.expand", "aten.broadcast_to")
def expand(query: Query) -> Flow | None:
    """Broadcast dimensions are made at the chunk's length; the others are sliced."""
    shape = _source(query)
    dim = query.dim - (query.rank - len(shape))
    sizes = with_item(query.shape, query.dim, Affine(length=1))
    slices = (((0,), Slice(dim)),) if dim >= 0 and shape[dim] > 1 else ()
    return Flow(slices, args=(query.node.args[0], sizes), kwargs=())


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


@rule("aten.split", "aten.split_with_sizes", "aten.chunk", "aten.unsafe_split")
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


@rule("aten.fliplr", "aten.flipud", "aten.rot90", "aten.msort")
def reorder_named(query: Query) -> Flow | None:
    """As ``flip``, with dimensions that the name says; a quarter turn exchanges its two."""
    packet = query.node.op.split(".")[1]
    dims = query.argument(2, "dims", (0, 1)) if packet == "rot90" else int(packet == "fliplr")
    return along_first(query, *normalized_all(dims, query.rank))


@rule("aten.repeat", "aten.tile")
def repeat(query: Query) -> Flow | None:
    """Dimensions that are repeated once pass through; a single position is repeated as often as the
    chunk is long."""
    times = query.node.args[1]
    shape = _source(query)
    dim = query.dim - (query.rank - len(shape))
    if not isinstance(times, tuple):
        return None
    place = query.dim - (query.rank - len(times))  # tile may name the last dimensions alone
    if dim >= 0 and (place < 0 or times[place] == 1):
        return Flow((((0,), Slice(dim)),))
    if place < 0 or (dim >= 0 and shape[dim] != 1):
        return None
    sizes = with_item(times, place, Affine(length=1))
    return Flow(args=(query.node.args[0], sizes), kwargs=())


@rule("aten.repeat_interleave.self_int")
def repeat_interleave(query: Query) -> Flow | None:
    """Each position of one dimension several times in a row."""
    times, dim = query.argument(1, "repeats"), query.argument(2, "dim")
    if not isinstance(times, int) or times < 1 or dim is None:
        return None
    ratio = Fraction(1, times) if normalized(dim, query.rank) == query.dim else Fraction(1)
    return Flow(
        (((0,), Slice(query.dim, ratio)),), args=(query.node.args[0], times, dim), kwargs=()
    )


@rule("aten.meshgrid")
def meshgrid(query: Query) -> Flow | None:
    """Vectors, each along a dimension of its own; with indexing ``xy`` the first two change
    places."""
    vectors = query.node.args[0]
    if not isinstance(vectors, tuple):
        return None
    place = query.dim
    if query.argument(1, "indexing", "ij") == "xy" and place < 2 <= query.rank:
        place = 1 - place
    if place >= len(vectors) or len(query.tensor(query.node.refs[place][1]).shape) != 1:
        return None
    return Flow((((0, place), Slice(0)),))


@rule("aten.slice_scatter")
def slice_scatter(query: Query) -> Flow | None:
    """A range of one dimension is replaced; both tensors are sliced alike along the others."""
    if query.dim == normalized(query.argument(2, "dim", 0), query.rank):
        return None
    return Flow((((0,), Slice(query.dim)), ((1,), Slice(query.dim))))


@rule("aten.select_scatter")
def select_scatter(query: Query) -> Flow | None:
    """One position of a dimension is replaced."""
    gone = normalized(query.node.args[2], query.rank)
    if query.dim == gone:
        return None
    return Flow((((0,), Slice(query.dim)), ((1,), Slice(query.dim - (query.dim > gone)))))


@rule("aten.view_as_complex")
def view_as_complex(query: Query) -> Flow | None:
    """Pairs along the last dimension become complex numbers."""
    return Flow((((0,), Slice(query.dim)),))


@rule("aten.view_as_real")
def view_as_real(query: Query) -> Flow | None:
    """Complex numbers become pairs along a new last dimension."""
    return None if query.dim == query.rank - 1 else Flow((((0,), Slice(query.dim)),))


@rule("aten.diagonal")
def diagonal(query: Query) -> Flow | None:
    """Two dimensions become one at the end; the others pass through."""
    rank = query.rank + 1
    gone = {
        normalized(query.argument(2, "dim1", 0), rank),
        normalized(query.argument(3, "dim2", 1), rank),
    }
    if query.dim == query.rank - 1:
        return None
    return Flow((((0,), Slice([d for d in range(rank) if d not in gone][query.dim])),))


@rule("aten.movedim", "aten.moveaxis")
def movedim(query: Query) -> Flow | None:
    """Some dimensions move; the others fill the free places in order."""
    sources = normalized_all(query.node.args[1], query.rank)
    targets = normalized_all(query.node.args[2], query.rank)
    if len(sources) != len(targets):
        return None
    moved = dict(zip(targets, sources, strict=True))
    rest = iter([d for d in range(query.rank) if d not in sources])
    order = [moved[d] if d in moved else next(rest) for d in range(query.rank)]
    return Flow((((0,), Slice(order[query.dim])),))


@rule("aten.view.dtype")
def view_dtype(query: Query) -> Flow | None:
    """The same bits read as another dtype: elementwise where items are of one size."""
    path, index = query.node.refs[0]
    source = query.tensor(index)
    if ITEM_BYTES[source.dtype] != ITEM_BYTES[query.node.output.dtype]:
        return None
    return Flow(((path, Slice(query.dim)),))
