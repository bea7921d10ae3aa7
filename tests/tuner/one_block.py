"""One small block, its inputs at any length, and what it gives: for tests of what serves calls."""

from __future__ import annotations

import torch

from tests.tuner.small_factory import Block

WIDTH = 32


def block() -> Block:
    """A block with weights from a fixed seed, in evaluation mode."""
    torch.manual_seed(0)
    return Block(WIDTH, 4).eval()


def sample(length: int) -> torch.Tensor:
    """An input of this length; the same for the same length."""
    return torch.randn(1, length, WIDTH, generator=torch.Generator().manual_seed(length))


def eager(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the model itself gives."""
    with torch.no_grad():
        found: torch.Tensor = model(x)
    return found


def assert_right(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal but for the last bits."""
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
