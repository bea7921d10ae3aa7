"""Values written into a part of a tensor, as a copy of the tensor with that part replaced.

torch's own ``slice_scatter`` and its like copy all of the storage that their argument is a view of,
and what they give keeps that copy alive: for a chunk of a large tensor, the large tensor once more
in each pass. These copy the argument alone. What they give is dense, with the argument's order of
dimensions.
"""

from __future__ import annotations

import torch


def _copied(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x).copy_(x)


def slice_scatter(
    x: torch.Tensor,
    src: torch.Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> torch.Tensor:
    """``x``, with ``src`` in place of ``x[start:end:step]`` along ``dim``."""
    made = _copied(x)
    torch.ops.aten.slice.Tensor(made, dim, start, end, step).copy_(src)
    return made


def select_scatter(x: torch.Tensor, src: torch.Tensor, dim: int, index: int) -> torch.Tensor:
    """``x``, with ``src`` in place of its position ``index`` along ``dim``."""
    made = _copied(x)
    made.select(dim, index).copy_(src)
    return made


def diagonal_scatter(
    x: torch.Tensor, src: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> torch.Tensor:
    """``x``, with ``src`` in place of a diagonal of two of its dimensions."""
    made = _copied(x)
    made.diagonal(offset, dim1, dim2).copy_(src)
    return made


def copy(x: torch.Tensor, src: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """``src`` in the shape and dtype of ``x``: what is written where all of ``x`` is replaced."""
    return torch.empty_like(x).copy_(src, non_blocking)
