"""Ops that mix one dimension, or a group, and leave the others alone."""

from __future__ import annotations

from search_space.dim_rules.base import (
    Flow,
    Query,
    Slice,
    aligned,
    along_first,
    normalized,
    normalized_all,
    replaced,
    rule,
)
from search_space.graph import Affine, Path


@rule(
    "aten.softmax", "aten.log_softmax", "aten._softmax", "aten._log_softmax", "aten.cumsum",
    "aten.cumprod", "aten.logcumsumexp", "aten.cummax", "aten.cummin", "aten._safe_softmax",
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


@rule("aten.layer_norm", "aten.rms_norm", "aten.native_layer_norm", "aten._fused_rms_norm")
def layer_norm(query: Query) -> Flow | None:
    """The trailing normalised dimensions are mixed. Statistics, where they are given as well, keep
    the others."""
    inner = query.argument(1, "normalized_shape")
    if not isinstance(inner, tuple):
        return None
    return along_first(query, *range(query.rank - len(inner), query.rank))


@rule("aten.group_norm")
def group_norm(query: Query) -> Flow | None:
    """Batches are independent, and so are groups of channels; positions are mixed."""
    if query.dim != 1:
        return along_first(query, *range(1, query.rank))
    groups = query.argument(1, "num_groups")
    channels = query.shape[1]
    if not isinstance(groups, int) or groups < 2 or channels % groups:
        return None
    each = channels // groups
    changed = replaced(query, 1, "num_groups", Affine(length=1, divisor=each))
    if changed is None:
        return None
    slices = [(path, Slice(0)) for path, _ in query.node.refs[1:]]
    return Flow((((0,), Slice(1)), *slices), args=changed[0], kwargs=changed[1], step=each)


@rule("aten.native_group_norm")
def native_group_norm(query: Query) -> Flow | None:
    """Batches, whose number is an argument. Statistics count groups where the output counts
    channels, so that these two cannot be sliced together."""
    changed = replaced(query, 3, "N", Affine(length=1))
    if query.dim != 0 or changed is None:
        return None
    return Flow((((0,), Slice(0)),), args=changed[0], kwargs=changed[1])


@rule("aten.instance_norm")
def instance_norm(query: Query) -> Flow | None:
    """Batches and channels are independent; channels slice what there is one of for each."""
    running = query.argument(3, "running_mean")
    own_statistics = query.argument(5, "use_input_stats", True)
    if query.dim > 1 or (running is not None and own_statistics is not False):
        return None
    slices: list[tuple[Path, Slice]] = [((0,), Slice(query.dim))]
    if query.dim == 1:
        slices += [(path, Slice(0)) for path, _ in query.node.refs[1:]]
    return Flow(tuple(slices))


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
    """One half of a dimension gates the other."""
    return along_first(query, normalized(query.argument(1, "dim", -1), query.rank))


@rule("aten.triu", "aten.tril")
def triangle(query: Query) -> Flow | None:
    """Batches of matrices; for rows from ``s`` on the diagonal lies ``s`` further up, for columns
    ``s`` further down."""
    if query.dim < query.rank - 2:
        return along_first(query)
    diagonal = query.argument(1, "diagonal", 0)
    if not isinstance(diagonal, int):
        return None
    moved = Affine(constant=diagonal, start=1 if query.dim == query.rank - 2 else -1)
    path, _ = query.node.refs[0]
    return Flow(((path, Slice(query.dim)),), args=(query.node.args[0], moved), kwargs=())


@rule("aten._weight_norm")
def weight_norm(query: Query) -> Flow | None:
    """``v * (g / norm(v))``, with one norm a position of the dimension named third."""
    source, scale = query.tensor_at(0), query.tensor_at(1)
    dim = query.argument(2, "dim", 0)
    if source is None or scale is None or not isinstance(dim, int):
        return None
    if query.dim != normalized(dim, query.rank) or len(scale.shape) != query.rank:
        return None
    if scale.shape[query.dim] != query.shape[query.dim]:
        return None  # one scale for all positions
    return Flow((((0,), Slice(query.dim)), ((1,), Slice(query.dim))))


@rule("aten.prelu")
def prelu(query: Query) -> Flow | None:
    """Elementwise, with one slope for all or one for each of the second dimension's positions."""
    slope = query.tensor_at(1)
    if slope is None:
        return None
    slices: list[tuple[Path, Slice]] = [((0,), Slice(query.dim))]
    if query.dim == 1 and slope.numel > 1:
        slices.append(((1,), Slice(0)))
    return Flow(tuple(slices))


@rule("aten.cosine_similarity")
def cosine_similarity(query: Query) -> Flow | None:
    """One dimension of two tensors that broadcast is summed over; the others pass through."""
    shapes = [query.tensor(index).shape for _, index in query.node.refs]
    width = max(len(shape) for shape in shapes)
    gone = normalized(query.argument(2, "dim", 1), width)
    place = query.dim + (query.dim >= gone)
    slices: list[tuple[Path, Slice]] = []
    for (path, _), shape in zip(query.node.refs, shapes, strict=True):
        dim = place - (width - len(shape))
        if dim >= 0 and shape[dim] > 1:
            slices.append((path, Slice(dim)))
    return Flow(tuple(slices)) if slices else None


@rule("aten.cross", "aten.linalg_cross")
def cross(query: Query) -> Flow | None:
    """Vectors of three along one dimension."""
    if query.node.op.startswith("aten.cross") and query.argument(2, "dim") is None:
        return None  # the first dimension of three positions, whichever that is
    if query.dim == normalized(query.argument(2, "dim", -1), query.rank):
        return None
    return Flow(tuple(s for path, index in query.node.refs for s in aligned(query, path, index)))


@rule("aten.fft_fft", "aten.fft_ifft", "aten.fft_rfft", "aten.fft_irfft", "aten.fft_hfft")
def fourier(query: Query) -> Flow | None:
    """One dimension is mixed, the last unless named."""
    return along_first(query, normalized(query.argument(2, "dim", -1), query.rank))


@rule("aten.fft_fft2", "aten.fft_ifft2", "aten.fft_rfft2", "aten.fft_irfft2")
def fourier_planes(query: Query) -> Flow | None:
    """Two dimensions are mixed, the last ones unless named."""
    return along_first(query, *normalized_all(query.argument(2, "dim", (-2, -1)), query.rank))


@rule("aten._fft_r2c", "aten._fft_c2r", "aten._fft_c2c")
def fourier_kernels(query: Query) -> Flow | None:
    """The named dimensions are mixed."""
    return along_first(query, *normalized_all(query.argument(1, "dim"), query.rank))
