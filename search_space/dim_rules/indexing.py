"""Look-ups: positions may be sliced; what is looked up in is taken whole there."""

from __future__ import annotations

from dataclasses import dataclass

from search_space.dim_rules.base import Flow, Query, Slice, aligned, normalized, rule
from search_space.graph import Path, Ref, Tensor


@rule("aten.embedding")
def embedding(query: Query) -> Flow | None:
    """Rows of a table: the indices are sliced, or the table's columns."""
    if query.dim == query.rank - 1:
        return Flow((((0,), Slice(1)),))
    return Flow((((1,), Slice(query.dim)),))


@dataclass(frozen=True, slots=True)
class _Indexed:
    """How advanced indexing rearranges dimensions.

    Attributes:
        kept: for each dimension of the result, the one of the source that it is, or None for those
            of the broadcast indices.
        first: where the broadcast indices' dimensions start in the result.
        width: how many they are.
        tensors: the index tensors, with their places in the list of indices.
    """

    kept: tuple[int | None, ...]
    first: int
    width: int
    tensors: tuple[tuple[int, Tensor], ...]


def _indexed(query: Query, source: tuple[int, ...]) -> _Indexed | None:
    """The layout of ``source[indices]`` with whole-number indices, the op's second argument.

    The broadcast indices' dimensions stand where the first index stood, or in front where a
    dimension that is taken whole stands between two indices.
    """
    places = query.argument(1, "indices")
    if not isinstance(places, tuple) or len(places) > len(source):
        return None
    tensors = tuple(
        (place, query.tensor(value.index))
        for place, value in enumerate(places)
        if isinstance(value, Ref)
    )
    if not tensors or any(tensor.dtype in ("bool", "uint8") for _, tensor in tensors):
        return None
    used = [place for place, _ in tensors]
    width = max(len(tensor.shape) for _, tensor in tensors)
    adjacent = used == list(range(used[0], used[-1] + 1))
    first = used[0] if adjacent else 0
    rest: list[int | None] = [d for d in range(len(source)) if d not in used]
    made: list[int | None] = [None] * width
    return _Indexed((*rest[:first], *made, *rest[first:]), first, width, tensors)


def _of_indices(found: _Indexed, dim: int) -> list[tuple[Path, Slice]]:
    """The indices' slices for one of the result's dimensions that are theirs."""
    slices: list[tuple[Path, Slice]] = []
    for place, tensor in found.tensors:
        own = dim - found.first - (found.width - len(tensor.shape))
        if own >= 0 and tensor.shape[own] > 1:
            slices.append(((1, place), Slice(own)))
    return slices


@rule("aten.index")
def index(query: Query) -> Flow | None:
    """Advanced indexing with whole numbers: indices are sliced, or what stands beside them."""
    found = _indexed(query, query.tensor(query.node.refs[0][1]).shape)
    if found is None or len(found.kept) != query.rank:
        return None
    source = found.kept[query.dim]
    if source is not None:
        return Flow((((0,), Slice(source)),))
    slices = _of_indices(found, query.dim)
    return Flow(tuple(slices)) if slices else None


@rule("aten.index_put")
def index_put(query: Query) -> Flow | None:
    """Positions that indices name are replaced or added to; dimensions without an index pass
    through."""
    values = query.tensor_at(2)
    found = _indexed(query, query.shape)
    if found is None or values is None or query.dim not in found.kept:
        return None
    place = found.kept.index(query.dim) - (len(found.kept) - len(values.shape))
    slices: list[tuple[Path, Slice]] = [((0,), Slice(query.dim))]
    if place >= 0 and values.shape[place] > 1:
        slices.append(((2,), Slice(place)))
    return Flow(tuple(slices))


@rule("aten.index_select")
def index_select(query: Query) -> Flow | None:
    """Positions of one dimension, listed by a vector."""
    dim = normalized(query.node.args[1], query.rank)
    if query.dim == dim:
        return Flow((((2,), Slice(0)),))
    return Flow((((0,), Slice(query.dim)),))


@rule("aten.masked_scatter")
def masked_scatter(query: Query) -> Flow | None:
    """Which element comes next depends on all positions before it."""
    return None


@rule("aten.gather")
def gather(query: Query) -> Flow | None:
    """Looked up along one dimension, taken whole there; sliced alike along the others."""
    dim = normalized(query.node.args[1], query.rank)
    if query.dim == dim:
        return Flow((((2,), Slice(dim)),))
    source = query.tensor(query.node.refs[0][1]).shape
    if source[query.dim] != query.shape[query.dim]:
        return None
    return Flow((((0,), Slice(query.dim)), ((2,), Slice(query.dim))))


@rule("aten.take_along_dim")
def take_along_dim(query: Query) -> Flow | None:
    """As ``gather``, with dimensions that broadcast."""
    source, places = query.tensor_at(0), query.tensor_at(1)
    dim = query.argument(2, "dim")
    if source is None or places is None or dim is None:
        return None
    if not len(source.shape) == len(places.shape) == query.rank:
        return None
    slices: list[tuple[Path, Slice]] = []
    if query.dim != normalized(dim, query.rank) and source.shape[query.dim] > 1:
        slices.append(((0,), Slice(query.dim)))
    if places.shape[query.dim] > 1:
        slices.append(((1,), Slice(query.dim)))
    return Flow(tuple(slices)) if slices else None


@rule("aten.scatter", "aten.scatter_add", "aten.scatter_reduce", "aten.index_add",
      "aten.index_copy", "aten.index_reduce", "aten.index_fill")  # fmt: skip
def scatter(query: Query) -> Flow | None:
    """Written along one dimension; all that have the others are sliced alike there."""
    if query.dim == normalized(query.node.args[1], query.rank):
        return None
    size = query.shape[query.dim]
    lists = query.node.op.startswith("aten.index")
    slices: list[tuple[Path, Slice]] = []
    for path, ref in query.node.refs:
        shape = query.tensor(ref).shape
        if (lists and path in ((2,), ("index",))) or not shape:
            continue  # a list of positions along the other dimension, or one value
        if len(shape) != query.rank or shape[query.dim] != size:
            return None
        slices.append((path, Slice(query.dim)))
    return Flow(tuple(slices))


@rule("aten.take")
def take(query: Query) -> Flow | None:
    """Elements by their place in the flattened source."""
    return Flow((((1,), Slice(query.dim)),))


@rule("aten.one_hot")
def one_hot(query: Query) -> Flow | None:
    """A new last dimension of known length."""
    classes = query.argument(1, "num_classes", -1)
    if query.dim == query.rank - 1 or not isinstance(classes, int) or classes < 0:
        return None
    return Flow((((0,), Slice(query.dim)),))


@rule("aten.searchsorted.Tensor")
def searchsorted(query: Query) -> Flow | None:
    """Each value finds its place in a sorted row, of which there is one, or one for each row of
    values."""
    rows, values = query.tensor_at(0), query.tensor_at(1)
    if rows is None or values is None or query.argument(5, "sorter") is not None:
        return None
    slices: list[tuple[Path, Slice]] = [((1,), Slice(query.dim))]
    if len(rows.shape) > 1 and query.dim < query.rank - 1:
        slices.append(((0,), Slice(query.dim)))
    return Flow(tuple(slices))


@rule("aten.bucketize")
def bucketize(query: Query) -> Flow | None:
    """Each element finds its bucket; the boundaries are taken whole."""
    path, source = query.node.refs[0]
    return Flow(aligned(query, path, source))
