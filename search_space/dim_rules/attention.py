"""Fused attention."""

from __future__ import annotations

from collections.abc import Sequence

from search_space.dim_rules.base import Flow, Query, Slice, aligned, rule
from search_space.graph import Path


@rule("aten.scaled_dot_product_attention")
def attention(query: Query) -> Flow | None:
    """Batches, heads and queries; not features. Keys are summed over; a causal flag ties queries
    to keys.

    Shapes: query ``(..., L, E)``, key ``(..., S, E)``, value ``(..., S, Ev)``, mask broadcastable
    to ``(..., L, S)``.
    """
    if query.argument(4, "dropout_p", 0.0) != 0.0:
        return None
    mask = [(path, index) for path, index in query.node.refs if path in ((3,), ("attn_mask",))]
    if query.dim == query.rank - 1:
        # every pass would compute all scores again, and values narrower than the keys' features
        # leave the fused kernels
        return None
    if query.dim == query.rank - 2:
        if query.argument(5, "is_causal", False) is not False:
            return None
        return Flow((((0,), Slice(query.dim)), *_of_mask(query, mask)))
    slices: list[tuple[Path, Slice]] = []
    for path, index in query.node.refs[:3]:
        shape = query.tensor(index).shape
        dim = query.dim - (query.rank - len(shape))
        if dim < 0 or shape[dim] != query.shape[query.dim]:
            return None  # broadcast or grouped heads: which key head serves which is not a slice
        slices.append((path, Slice(dim)))
    return Flow((*slices, *_of_mask(query, mask)))


def _of_mask(query: Query, mask: Sequence[tuple[Path, int]]) -> tuple[tuple[Path, Slice], ...]:
    # the mask's last dimension counts keys where the output's counts features, so that only the
    # others line up; the chunk dimension is one of these
    return tuple(s for path, index in mask for s in aligned(query, path, index))
