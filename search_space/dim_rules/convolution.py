"""Convolutions, pooling and resizing: batches and channels; positions have neighbours."""

from __future__ import annotations

from search_space.dim_rules.base import Flow, Query, Slice, along_first, rule
from search_space.graph import Path

# rank of the batched output, and where groups stand among the arguments
_CONVOLUTIONS = {
    "aten.conv1d.default": (3, 6),
    "aten.conv2d.default": (4, 6),
    "aten.conv3d.default": (5, 6),
}


@rule(*_CONVOLUTIONS)
def convolution(query: Query) -> Flow | None:
    """Batches slice the input; output channels slice weight and bias, where groups are one."""
    rank, groups_place = _CONVOLUTIONS[query.node.op]
    if query.rank != rank:
        return None
    if query.dim == 0:
        return Flow((((0,), Slice(0)),))
    if query.dim == 1 and query.argument(groups_place, "groups", 1) == 1:
        slices: list[tuple[Path, Slice]] = [
            (path, Slice(0)) for path, _ in query.node.refs[1:]
        ]
        return Flow(tuple(slices))
    return None


@rule(
    "aten.upsample_nearest1d", "aten.upsample_nearest2d", "aten.upsample_nearest3d",
    "aten.upsample_bilinear2d", "aten.upsample_bicubic2d", "aten.avg_pool1d", "aten.avg_pool2d",
    "aten.max_pool2d", "aten.adaptive_avg_pool2d",
)  # fmt: skip
def resampling(query: Query) -> Flow | None:
    """Batches and channels of ``(batch, channels, positions...)``."""
    if len(query.tensor(query.node.refs[0][1]).shape) < 3 or query.rank < 3:
        return None
    # the last two (or one) dimensions are positions; without a batch, channels come first
    positions = 1 if "1d" in query.node.op else 3 if "3d" in query.node.op else 2
    return along_first(query, *range(query.rank - positions, query.rank))
