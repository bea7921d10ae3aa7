"""Values written into a part of a tensor, as a copy of the tensor with that part replaced.

torch's own ``slice_scatter`` and its like copy all of the storage that their argument is a view of,
and what they give keeps that copy alive: for a chunk of a large tensor, the large tensor once more
in each pass. These copy the argument alone. What they give is dense, with the argument's order of
dimensions. Arguments have the names of torch's.
"""

from __future__ import annotations

import torch


def _copied(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x).copy_(x)


def slice_scatter(
    self: torch.Tensor,
    src: torch.Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> torch.Tensor:
    """``self``, with ``src`` in place of ``self[start:end:step]`` along ``dim``."""
    made = _copied(self)
    torch.ops.aten.slice.Tensor(made, dim, start, end, step).copy_(src)
    return made


def select_scatter(self: torch.Tensor, src: torch.Tensor, dim: int, index: int) -> torch.Tensor:
    """``self``, with ``src`` in place of its position ``index`` along ``dim``."""
    made = _copied(self)
    made.select(dim, index).copy_(src)
    return made


def diagonal_scatter(
    self: torch.Tensor, src: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> torch.Tensor:
    """``self``, with ``src`` in place of a diagonal of two of its dimensions."""
    made = _copied(self)
    made.diagonal(offset, dim1, dim2).copy_(src)
    return made


def copy(self: torch.Tensor, src: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """``src`` in the shape and dtype of ``self``, all of which it replaces."""
    return torch.empty_like(self).copy_(src, non_blocking)
