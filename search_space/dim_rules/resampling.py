"""Pooling, resizing, and moving positions into channels and back: ``(N, C, positions...)``."""

from __future__ import annotations

from fractions import Fraction

from search_space.dim_rules.base import (
    Flow,
    Query,
    Slice,
    along_first,
    repeated,
    replaced,
    rule,
    with_item,
)
from search_space.graph import Affine

_POOLS = ("avg_pool", "max_pool")
_RESIZES = {
    "upsample_nearest": (1, 2, 3), "_upsample_nearest_exact": (1, 2, 3), "upsample_linear": (1,),
    "upsample_bilinear": (2,), "upsample_bicubic": (2,), "upsample_trilinear": (3,),
    "_upsample_bilinear2d_aa": (), "_upsample_bicubic2d_aa": (),
}  # fmt: skip


def _positions(query: Query) -> int:
    """How many dimensions of positions the op has, from its name (``...2d``)."""
    name = query.node.op.split(".")[1].removesuffix("_with_indices").removesuffix("_aa")
    return int(name[-2])


def _outer(query: Query) -> Flow | None:
    """Batches and channels; positions are mixed."""
    positions = _positions(query)
    shape = query.tensor(query.node.refs[0][1]).shape
    if len(shape) not in (positions + 1, positions + 2):
        return None
    return along_first(query, *range(query.rank - positions, query.rank))


@rule(
    *(f"aten.{name}{n}d" for name, dims in _RESIZES.items() for n in dims),
    "aten._upsample_bilinear2d_aa", "aten._upsample_bicubic2d_aa",
)  # fmt: skip
def resize(query: Query) -> Flow | None:
    """Batches and channels; positions of nearest neighbours too, where each is repeated."""
    positions = _positions(query)
    place = query.dim - (query.rank - positions)
    if place < 0 or "nearest" not in query.node.op:
        return _outer(query)
    have = query.tensor(query.node.refs[0][1]).shape[query.dim]
    times, left = divmod(query.shape[query.dim], have)
    # repeated a power of two times: the kernel's float scale is then exact at any length
    if left or times < 1 or times & (times - 1):
        return None
    ratio = Fraction(1, times)
    if query.node.op.endswith(".vec"):
        scales = query.argument(2, "scale_factors")
        if isinstance(scales, tuple) and query.argument(1, "output_size") is None:
            exact = place < len(scales) and scales[place] == times
            return Flow((((0,), Slice(query.dim, ratio)),)) if exact else None
    elif query.node.kwargs or any(v not in (None, float(times)) for v in query.node.args[2:]):
        return None
    sizes = query.argument(1, "output_size")
    if not isinstance(sizes, tuple) or len(sizes) != positions:
        return None
    changed = replaced(query, 1, "output_size", with_item(sizes, place, Affine(length=1)))
    if changed is None:
        return None
    return Flow((((0,), Slice(query.dim, ratio)),), args=changed[0], kwargs=changed[1])


@rule(
    *(f"aten.{name}{n}d" for name in _POOLS for n in (1, 2, 3)),
)
def pool(query: Query) -> Flow | None:
    """Batches and channels; positions too where windows do not overlap and nothing is padded."""
    positions = _positions(query)
    place = query.dim - (query.rank - positions)
    if place < 0:
        return _outer(query)
    kernel = repeated(query.argument(1, "kernel_size"), positions)
    given = query.argument(2, "stride", ())
    stride = kernel if given in ((), None) else repeated(given, positions)
    padding = repeated(query.argument(3, "padding", 0), positions)
    if kernel is None or stride is None or padding is None:
        return None
    if kernel[place] != stride[place] or padding[place]:
        return None
    if query.node.op.startswith("aten.max_pool"):
        dilation = repeated(query.argument(4, "dilation", 1), positions)
        if dilation is None or dilation[place] != 1:
            return None
    have = query.tensor(query.node.refs[0][1]).shape[query.dim]
    if have != query.shape[query.dim] * kernel[place]:
        return None
    return Flow((((0,), Slice(query.dim, Fraction(kernel[place]))),))


@rule(
    "aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices",
    *(f"aten.adaptive_max_pool{n}d" for n in (1, 2, 3)),
)
def pool_with_indices(query: Query) -> Flow | None:
    """Batches and channels; the indices count positions of the whole."""
    return _outer(query)


@rule(
    *(f"aten.adaptive_avg_pool{n}d" for n in (1, 2, 3)), "aten._adaptive_avg_pool2d",
    "aten._adaptive_avg_pool3d",
)  # fmt: skip
def adaptive_pool(query: Query) -> Flow | None:
    """Batches and channels; positions too where all windows are alike."""
    positions = _positions(query)
    place = query.dim - (query.rank - positions)
    if place < 0:
        return _outer(query)
    sizes = query.argument(1, "output_size")
    have, made = query.tensor(query.node.refs[0][1]).shape[query.dim], query.shape[query.dim]
    if not isinstance(sizes, tuple) or len(sizes) != positions or have % made:
        return None
    changed = replaced(query, 1, "output_size", with_item(sizes, place, Affine(length=1)))
    if changed is None:
        return None
    cut = Slice(query.dim, Fraction(have // made))
    return Flow((((0,), cut),), args=changed[0], kwargs=changed[1])


@rule("aten.reflection_pad1d", "aten.reflection_pad2d", "aten.reflection_pad3d",
      "aten.replication_pad1d", "aten.replication_pad2d", "aten.replication_pad3d")  # fmt: skip
def mirrored(query: Query) -> Flow | None:
    """Batches and channels; the rim repeats positions within."""
    return _outer(query)


@rule("aten.grid_sampler_2d", "aten.grid_sampler_3d", "aten.grid_sampler")
def grid_sampler(query: Query) -> Flow | None:
    """Batches slice image and grid, channels the image, positions the grid."""
    if query.dim == 0:
        return Flow((((0,), Slice(0)), ((1,), Slice(0))))
    if query.dim == 1:
        return Flow((((0,), Slice(1)),))
    return Flow((((1,), Slice(query.dim - 1)),))


@rule("aten.pixel_shuffle")
def pixel_shuffle(query: Query) -> Flow | None:
    """``(..., C r r, H, W)`` to ``(..., C, H r, W r)``."""
    r = query.argument(1, "upscale_factor")
    if not isinstance(r, int) or query.rank < 3:
        return None
    ratio = {
        query.rank - 3: Fraction(r * r), query.rank - 2: Fraction(1, r),
        query.rank - 1: Fraction(1, r),
    }.get(query.dim, Fraction(1))  # fmt: skip
    return Flow((((0,), Slice(query.dim, ratio)),))


@rule("aten.pixel_unshuffle")
def pixel_unshuffle(query: Query) -> Flow | None:
    """``(..., C, H r, W r)`` to ``(..., C r r, H, W)``."""
    r = query.argument(1, "downscale_factor")
    if not isinstance(r, int) or query.rank < 3:
        return None
    ratio = {
        query.rank - 3: Fraction(1, r * r), query.rank - 2: Fraction(r),
        query.rank - 1: Fraction(r),
    }.get(query.dim, Fraction(1))  # fmt: skip
    return Flow((((0,), Slice(query.dim, ratio)),))


@rule("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(query: Query) -> Flow | None:
    """Channels change places; all else passes through."""
    return along_first(query, 1)


@rule("aten.im2col")
def im2col(query: Query) -> Flow | None:
    """``(N, C, H, W)`` to ``(N, C k k, windows)``: batches, and channels with all of their
    window."""
    source = query.tensor(query.node.refs[0][1]).shape
    if len(source) != 4:
        return None
    if query.dim == 0:
        return Flow((((0,), Slice(0)),))
    if query.dim == 1:
        return Flow((((0,), Slice(1, Fraction(source[1], query.shape[1]))),))
    return None


@rule("aten.col2im")
def col2im(query: Query) -> Flow | None:
    """``(N, C k k, windows)`` to ``(N, C, H, W)``, windows added up."""
    source = query.tensor(query.node.refs[0][1]).shape
    if len(source) != 3:
        return None
    if query.dim == 0:
        return Flow((((0,), Slice(0)),))
    if query.dim == 1:
        return Flow((((0,), Slice(1, Fraction(source[1], query.shape[1]))),))
    return None


@rule("aten.unfold")
def unfold(query: Query) -> Flow | None:
    """Windows of one dimension become a last one; windows that do not overlap can be sliced."""
    source = query.tensor(query.node.refs[0][1]).shape
    _, dim, size, step = query.node.args[:4] if len(query.node.args) >= 4 else (None,) * 4
    if not (isinstance(dim, int) and isinstance(size, int) and isinstance(step, int)):
        return None
    dim = dim + len(source) if dim < 0 else dim
    if query.dim == query.rank - 1:
        return None
    if query.dim != dim:
        return Flow((((0,), Slice(query.dim)),))
    if size != step or source[dim] != query.shape[dim] * step:
        return None
    return Flow((((0,), Slice(dim, Fraction(step))),))
