"""Small factories for the conformance suite and the search for the longest length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Inputs = Callable[[int], tuple[tuple[torch.Tensor, ...], dict[str, Any]]]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers from a seed of their own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Attention(nn.Module):
    """Softmax of products, then a gated feed-forward: large scores, several dimensions to cut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        y: torch.Tensor = x + self.down(torch.relu(self.up(x)))
        return y


def attention(width: int = 8) -> tuple[nn.Module, Inputs]:
    """One layer; ``length`` counts positions."""
    torch.manual_seed(0)
    return Attention(width).eval(), lambda n: ((drawn(2, n, width, seed=n),), {})


class Running(nn.Module):
    """Sums of a feed-forward's outputs over all positions so far."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 8 * width), nn.Linear(8 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(self.down(torch.relu(self.up(x))), 1)


def running() -> tuple[nn.Module, Inputs]:
    """Positions depend on those before them."""
    torch.manual_seed(0)
    return Running(8).eval(), lambda n: ((drawn(2, n, 8, seed=n),), {})


def attention_alone() -> nn.Module:
    """The model without its inputs."""
    return attention()[0]


def attention_inputs(length: int) -> torch.Tensor:
    """The inputs without the model."""
    return drawn(2, length, 8, seed=length)


def training() -> tuple[nn.Module, Inputs]:
    """A model that its factory left in training mode."""
    model, inputs = attention()
    return model.train(), inputs


class Branches(nn.Module):
    """Asks what its data is, which no capture can follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, -1) if bool((x.sum() > 0).item()) else x


def uncapturable() -> tuple[nn.Module, Inputs]:
    """A model that torch.export refuses."""
    return Branches().eval(), lambda n: ((drawn(n, n),), {})


class Noisy(nn.Module):
    """Adds noise, so that no two calls give the same."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x @ x.transpose(0, 1), -1) + torch.rand_like(x @ x.transpose(0, 1))


def noisy() -> tuple[nn.Module, Inputs]:
    """A model whose outputs cannot be compared."""
    return Noisy().eval(), lambda n: ((drawn(n, 4),), {})


def vacuous() -> tuple[nn.Module, Inputs]:
    """A model whose outputs are all zero."""
    model = nn.Linear(4, 4)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model.eval(), lambda n: ((drawn(n, 4),), {})


def no_factory() -> int:
    """Gives neither a model nor inputs."""
    return 3


SCRATCH_BYTES = 1 << 20


@torch.library.custom_op("autochunk_tests::greedy", mutates_args=())
def greedy(x: torch.Tensor) -> torch.Tensor:
    """Doubles, and takes a scratch that nobody can know of."""
    scratch = torch.empty(SCRATCH_BYTES, dtype=torch.uint8)
    y = 2 * x
    del scratch
    return y


@torch.library.custom_op("autochunk_tests::writer", mutates_args=())
def writer(x: torch.Tensor) -> torch.Tensor:
    """Doubles, and writes to its argument although it says that it does not."""
    x.copy_(x.clone())
    return 2 * x


@greedy.register_fake
@writer.register_fake
def _like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Custom(nn.Module):
    """An op of its own, then attention."""

    def __init__(self, op: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.op = op
        self.attention = attention()[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.attention(self.op(x))
        return y


def with_scratch() -> tuple[nn.Module, Inputs]:
    """A model with an op whose memory is not known."""
    return Custom(greedy).eval(), lambda n: ((drawn(2, n, 8),), {})


def with_writes() -> tuple[nn.Module, Inputs]:
    """A model with an op that writes to the caller's input."""
    return Custom(writer).eval(), lambda n: ((drawn(2, n, 8),), {})


class Outer(nn.Module):
    """Rows of a softmax of an outer product, summed with weights: two squares at once."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x * x.transpose(0, 1), -1).amax(-1)


def outer() -> tuple[nn.Module, Inputs]:
    """Eager peak 8 n^2 bytes: the product and its softmax, n x n float32 each."""
    return Outer().eval(), lambda n: ((drawn(1, n),), {})


class Squares(nn.Module):
    """Two steps on a square: what each makes is as large as the input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.exp(-x.abs())).amax(-1)


def squares() -> tuple[nn.Module, Inputs]:
    """A model whose input itself grows with the square of the length."""
    return Squares().eval(), lambda n: ((drawn(n, n),), {})
