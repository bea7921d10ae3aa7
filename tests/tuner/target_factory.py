"""A campaign factory of a model that is tuned by its blocks."""

from __future__ import annotations

import torch
from torch import nn

from tests.tuner.small_factory import Block, Inputs


class TwoKinds(nn.Module):
    """Blocks of two kinds, and work between them that cannot be captured."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for heads in (4, 4, 2, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        y: torch.Tensor = x / x.std() if float(x.std()) > 10 else x
        return y


def two_kinds(width: int = 32) -> tuple[nn.Module, Inputs]:
    """Four blocks; ``length`` is the number of positions."""
    torch.manual_seed(0)

    def inputs(length: int) -> tuple[tuple[torch.Tensor, ...], dict[str, object]]:
        generator = torch.Generator().manual_seed(length)
        return (torch.randn(2, length, width, generator=generator),), {}

    return TwoKinds(width), inputs
