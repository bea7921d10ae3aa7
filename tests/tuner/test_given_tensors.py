"""Whatever tensors callers hand over, the outputs stay the model's own: any layout, the same tensor
twice, views of one, weights of the model, inference mode, sizes zero and one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from search_space.errors import AutoChunkError
from tests.chunked import chunked, wrong
from tuner import Applied, apply
from tuner.runtime.signature import dense

LENGTH = 29


class Block(torch.nn.Module):
    """Attention over the middle dimension, with a second state on request."""

    table: torch.Tensor

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.up = torch.nn.Linear(width, 4 * width)
        self.down = torch.nn.Linear(4 * width, width)
        self.own = torch.nn.Parameter(t(3, LENGTH, width))
        self.register_buffer("table", t(3, LENGTH, width) / 2)

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        hidden = self.norm(x)
        weights = hidden @ (hidden if other is None else other).transpose(1, 2)
        x = x + weights.softmax(-1) @ hidden
        made: torch.Tensor = x + self.down(self.up(x).relu()) + self.own.sum() - self.table.sum()
        return made


class Convolutions(torch.nn.Module):
    """The middle dimension as that of a convolution; a second state is added on request."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.wide = torch.nn.Conv1d(width, 4 * width, 3, padding=1)
        self.back = torch.nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        hidden = self.wide(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.back(torch.nn.functional.gelu(hidden))
        return x if other is None else x * other.sigmoid()


def t(*shape: int) -> torch.Tensor:
    """Random floats."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(scope="module", params=[Block, Convolutions])
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = request.param().eval()
    return made


def check(model: torch.nn.Module, *args: torch.Tensor) -> Applied:
    """In chunks the model gives what it gives."""
    fast = chunked(model, *dense(args, {}))
    same(fast, model, *args)
    return fast


def same(fast: Applied, model: torch.nn.Module, *args: Any) -> None:
    with torch.no_grad():
        expected = model(*args)
    found = fast(*args)
    assert not wrong(found, expected)
    assert not found.requires_grad


LAYOUTS: dict[str, Callable[[], torch.Tensor]] = {
    "transposed": lambda: t(3, 16, LENGTH).transpose(1, 2),
    "batch in the middle": lambda: t(LENGTH, 3, 16).transpose(0, 1),
    "broadcast": lambda: t(1, LENGTH, 16).expand(3, LENGTH, 16),
    "rows of longer ones": lambda: t(3, 2 * LENGTH, 16)[:, :LENGTH],
    "every second": lambda: t(3, 2 * LENGTH, 16)[:, ::2],
    "features of wider ones": lambda: t(3, LENGTH, 32)[..., :16],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_of_any_layout(model: torch.nn.Module, layout: str) -> None:
    check(model, LAYOUTS[layout]())


def test_two_tensors_where_one_came_twice(model: torch.nn.Module) -> None:
    x, other = t(3, LENGTH, 16), t(3, LENGTH, 16).flip(1)
    fast = check(model, x, x)
    same(fast, model, x, other)
    same(fast, model, other, x)


def test_one_tensor_twice_where_two_came(model: torch.nn.Module) -> None:
    x, other = t(3, LENGTH, 16), t(3, LENGTH, 16).flip(0)
    fast = check(model, x, other)
    same(fast, model, x, x)


@pytest.mark.parametrize("name", ["own", "table"])
def test_another_tensor_where_a_weight_of_the_model_came(name: str) -> None:
    model = Block().eval()
    x, other = t(3, LENGTH, 16), t(3, LENGTH, 16).flip(1)
    fast = check(model, getattr(model, name), x)
    same(fast, model, other, x)


@pytest.mark.parametrize("second", [3, 1], ids=["side by side", "overlapping"])
def test_views_of_one_tensor(model: torch.nn.Module, second: int) -> None:
    whole = t(6, LENGTH, 16)
    before = whole.clone()
    check(model, whole[:3], whole[second : second + 3])
    assert torch.equal(whole, before)


def test_inputs_that_require_gradients(model: torch.nn.Module) -> None:
    x = t(3, LENGTH, 16).requires_grad_()
    check(model, x)
    assert x.grad is None


def test_inference_mode(model: torch.nn.Module) -> None:
    with torch.inference_mode():
        x = t(3, LENGTH, 16)
        fast = apply(model, (x,), memory_budget="min")
        same(fast, model, x)
    # captured there, called here, and the other way round
    y = t(3, LENGTH - 3, 16)
    same(fast, model, y)
    same(fast, model, x)
    fast = apply(model, (y,), memory_budget="min")
    with torch.inference_mode():
        same(fast, model, y)
        same(fast, model, x)


SMALL_SIZES = [(3, 1, 16), (1, LENGTH, 16), (3, 2, 16), (0, LENGTH, 16), (3, 0, 16)]


def test_sizes_zero_and_one_after_ordinary_ones(model: torch.nn.Module) -> None:
    ordinary = t(3, LENGTH, 16)
    fast = apply(model, (ordinary,), memory_budget="min")
    for shape in SMALL_SIZES:
        x = t(*shape)
        try:
            with torch.no_grad():
                model(x)
        except RuntimeError:  # the model itself cannot (a convolution over no elements)
            with pytest.raises((AutoChunkError, RuntimeError)):
                fast(x)
        else:
            same(fast, model, x)
    same(fast, model, ordinary)
