"""Fused attention."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from search_space.dim_rules.base import Flow, Query, Slice, aligned, rule
from search_space.graph import Affine, Path, Ref


@rule("aten.scaled_dot_product_attention")
def attention(query: Query) -> Flow | None:
    """Batches, heads and queries; not features. Keys are summed over.

    Shapes: query ``(..., L, E)``, key ``(..., S, E)``, value ``(..., S, Ev)``, mask broadcastable
    to ``(..., L, S)``.
    """
    if query.argument(4, "dropout_p", 0.0) != 0.0:
        return None
    if len(query.node.args) < 3 or not all(isinstance(v, Ref) for v in query.node.args[:3]):
        return None
    mask = [(path, index) for path, index in query.node.refs if path in ((3,), ("attn_mask",))]
    if query.dim == query.rank - 1:
        # every pass would compute all scores again, and values narrower than the keys' features
        # leave the fused kernels
        return None
    if query.dim == query.rank - 2:
        if query.argument(5, "is_causal", False) is not False:
            # (a mask beside the flag is refused by most kernels; one on CPU applies both)
            return None if mask else _causal_queries(query)
        source = query.tensor_at(0)
        if source is None:
            return None
        return Flow((((0,), Slice(len(source.shape) - 2)), *_of_mask(query, mask)))
    return _batches(query, mask)


def _causal_queries(query: Query) -> Flow | None:
    """A causal flag ties queries to keys by their places: the part's op is told where it starts."""
    source, key = query.tensor_at(0), query.tensor_at(1)
    if source is None or key is None or source.shape[-2] > key.shape[-2]:
        return None
    args = (*query.node.args[:3], Affine(start=1))
    kept = {"scale", "enable_gqa"}
    return Flow(
        (((0,), Slice(len(source.shape) - 2)),),
        op="autochunk.causal_attention.default",
        args=args,
        kwargs=tuple((name, value) for name, value in query.node.kwargs if name in kept),
    )


def _batches(query: Query, mask: Sequence[tuple[Path, int]]) -> Flow | None:
    """Batches and heads slice what has them; tensors of one batch or head serve all.

    Where keys come in groups, each of which serves ``heads / groups`` query heads in a row, whole
    groups are taken.
    """
    size, step = query.shape[query.dim], 1
    grouped = query.argument(7, "enable_gqa", False) is True and query.dim == query.rank - 3
    slices: list[tuple[Path, Slice]] = []
    for place, (path, index) in enumerate(query.node.refs[:3]):
        shape = query.tensor(index).shape
        dim = query.dim - (query.rank - len(shape))
        if dim < 0 or shape[dim] == 1:
            continue
        if shape[dim] == size:
            slices.append((path, Slice(dim)))
        elif grouped and place > 0 and size % shape[dim] == 0:
            step = size // shape[dim]
            slices.append((path, Slice(dim, Fraction(1, step))))
        else:
            return None
    slices.extend(_of_mask(query, mask))
    return Flow(tuple(slices), step=step) if slices else None


def _of_mask(query: Query, mask: Sequence[tuple[Path, int]]) -> tuple[tuple[Path, Slice], ...]:
    # the mask's last dimension counts keys where the output's counts features, so that only the
    # others line up; the chunk dimension is one of these
    return tuple(s for path, index in mask for s in aligned(query, path, index))
