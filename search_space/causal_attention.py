"""Causal attention for a part of the queries: the op that chunks of causal attention run.

A causal flag counts queries and keys from the first of each, so that it cannot be given to a kernel
that sees queries ``[start, start + rows)`` alone. Here the keys are cut to those that some of these
queries may see, and only blocks of queries meet a mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from search_space.layout import dense_like
from search_space.workspace_attention import CAUSAL_ROWS


def causal_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    start: int,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Rows ``[start, start + rows)`` of causal attention, equal to those of the whole.

    On CPU the kernel is called once for each :data:`CAUSAL_ROWS` queries, with the keys up to the
    last of them and a mask of lower-right triangles; all blocks share one mask. What lies above the
    diagonal is thereby never computed, but for the blocks' own corners.

    Args:
        query: ``(..., rows, E)``, the part's queries.
        key, value: ``(..., S, E)`` and ``(..., S, Ev)``, whole, ``S >= start + rows``.
        start: the first query's place among all.
        scale, enable_gqa: as for ``torch.nn.functional.scaled_dot_product_attention``.
    """
    rows = query.shape[-2]
    seen = start + rows
    key, value = key[..., :seen, :], value[..., :seen, :]
    options: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
    if start == 0:
        return scaled_dot_product_attention(query, key, value, is_causal=True, **options)
    if query.is_cuda and _has_kernel(query, key):
        # it knows a lower-right triangle by name and stores none
        bias = causal_lower_right(rows, seen)
        return scaled_dot_product_attention(query, key, value, bias, **options)
    block = min(rows, CAUSAL_ROWS)
    mask = query.new_full((block, seen), float("-inf")).triu_(seen - block + 1)
    if rows == block:
        return scaled_dot_product_attention(query, key, value, mask, **options)
    whole: torch.Tensor | None = None
    for first in range(0, rows, block):
        last = min(first + block, rows)
        part = scaled_dot_product_attention(
            query[..., first:last, :],
            key[..., : start + last, :],
            value[..., : start + last, :],
            # fewer rows and keys: the same triangle, seen from its lower right corner
            mask[block - (last - first) :, rows - last :],
            **options,
        )
        if whole is None:
            shape = (*part.shape[:-2], rows, part.shape[-1])
            layout = dense_like(shape, part.stride())
            whole = part.new_empty_strided(layout.shape, layout.strides)
        whole[..., first:last, :].copy_(part)
        del part  # else it would live on beside the next one
    assert whole is not None
    return whole


def _has_kernel(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether a CUDA kernel takes these; those for single precision know no groups of heads."""
    half = query.dtype in (torch.float16, torch.bfloat16)
    return query.dim() == 4 and (half or query.shape[1] == key.shape[1])
