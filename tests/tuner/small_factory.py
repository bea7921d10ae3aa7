"""Campaign factories of small models that need no library but torch; importable and by path."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Inputs = Callable[[int], tuple[tuple[torch.Tensor, ...], dict[str, object]]]


class Block(nn.Module):
    """A transformer block with plain attention: most of its memory is scores."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = (
            part.view(b, n, self.heads, c // self.heads).transpose(1, 2)
            for part in self.qkv(self.norm(x)).split(c, dim=2)
        )
        scores = torch.softmax(q @ k.transpose(2, 3) / (c // self.heads) ** 0.5, dim=-1)
        x = x + self.out((scores @ v).transpose(1, 2).reshape(b, n, c))
        y: torch.Tensor = x + self.mlp(x)
        return y


def blocks(layers: int = 2, width: int = 32, heads: int = 4) -> tuple[nn.Module, Inputs]:
    """Some blocks in a row; ``length`` is the number of positions."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Block(width, heads) for _ in range(layers)))

    def inputs(length: int) -> tuple[tuple[torch.Tensor, ...], dict[str, object]]:
        generator = torch.Generator().manual_seed(length)
        return (torch.randn(2, length, width, generator=generator),), {}

    return model, inputs


def of_batch(batch: int) -> tuple[nn.Module, Inputs]:
    """One block; inputs of a batch."""
    model, _ = blocks(1)
    return model, lambda length: ((torch.ones(batch, length, 32),), {})


def unseeded() -> tuple[nn.Module, Inputs]:
    """One block; other inputs each time."""
    model, _ = blocks(1)
    return model, lambda length: ((torch.randn(2, length, 32),), {})


class Unsteady(nn.Module):
    """Gives another result at every call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x @ x.transpose(-1, -2), -1) @ x + torch.rand_like(x)


def unsteady() -> tuple[nn.Module, Inputs]:
    """A model whose plans cannot be confirmed."""
    return Unsteady(), lambda length: ((torch.ones(2, length, 16),), {})


def no_model() -> int:
    """A factory that gives something else."""
    return 3


class TooLarge(nn.Module):
    """Runs out of memory wherever it is called as it is; what is captured of it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting():
            raise MemoryError("DefaultCPUAllocator: not enough memory")
        y: torch.Tensor = self.block(x)
        return y


def too_large() -> tuple[nn.Module, Inputs]:
    """A model that only fits in chunks."""
    torch.manual_seed(0)
    model = TooLarge()

    def inputs(length: int) -> tuple[tuple[torch.Tensor, ...], dict[str, object]]:
        return (torch.randn(2, length, 16, generator=torch.Generator().manual_seed(1)),), {}

    return model, inputs
