"""What callers get back: their own classes and nesting, in memory that nothing writes to later."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.chunked import chunked, tensors, wrong

Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Result:
    """As a user might define an output."""

    hidden: torch.Tensor
    probabilities: torch.Tensor | None
    steps: int


SHAPES: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "tensor": lambda h, w: h,
    "tuple": lambda h, w: (h, w),
    "tuple of one": lambda h, w: (h,),
    "list": lambda h, w: [h, w],
    "dict": lambda h, w: {"hidden": h, "weights": w},
    "ordered dict": lambda h, w: OrderedDict(b=h, a=w),
    "named tuple": lambda h, w: Pair(h, w),
    "dataclass": lambda h, w: Result(h, w, 3),
    "dataclass with None": lambda h, w: Result(h, None, 0),
    "nested, with None": lambda h, w: {"a": (h, None, [w, {"b": h.sum(-1)}]), "c": None},
    "numbers and text": lambda h, w: (h, 3, "name", 0.5, True),
    "one tensor twice": lambda h, w: (h, h, w),
    "views of one": lambda h, w: (h, h.transpose(0, 1), h[:, 1:], h.unsqueeze(0)),
    "integers and truths": lambda h, w: (h.argmax(-1), h > 0, w.argmax(-1)),
}


class Giving(torch.nn.Module):
    """An attention whose output has the wanted structure."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self.shape = shape
        self.inner = torch.nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> Any:
        weights = torch.softmax(self.inner(x) @ x.transpose(1, 2), -1)
        return SHAPES[self.shape](x + weights @ x, weights)


@pytest.mark.parametrize("shape", SHAPES)
def test_structures(shape: str) -> None:
    torch.manual_seed(0)
    model = Giving(shape).eval()
    x = torch.randn(2, 60, 16)
    with torch.no_grad():
        expected, other = model(x), model(x[:, :31].contiguous())
    fast = chunked(model, (x,), {})
    found = fast(x)
    assert not wrong(found, expected)
    if shape == "dataclass":
        assert (found.steps, vars(found).keys()) == (3, vars(expected).keys())
    assert not wrong(fast(x[:, :31].contiguous()), other)


# -- nothing that a caller can see is written to ---------------------------------------------------


class Table(torch.nn.Module):
    """Holds a buffer, a tensor that is neither buffer nor parameter, and one made while tracing;
    gives two of them, its input and a parameter back among its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(60, 16))
        self.register_buffer("table", torch.randn(60, 16))
        self.plain = torch.randn(60, 16)
        self.wide = torch.nn.Linear(16, 64)
        self.back = torch.nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # each sum could be written over its first term, which must not be
        made = self.table + self.back(self.wide(self.table).relu())
        plain = self.plain + self.back(self.wide(self.plain).relu())
        own = self.weight + self.back(self.wide(self.weight).relu())
        x = x + self.back(self.wide(x).relu())
        y = x + self.back(self.wide(x).relu())  # x is an output: y must not be written over it
        view = y.view(-1, 16)
        z = y + self.back(self.wide(y).relu())  # nor z over y, of which a view is an output
        return x, view, z, made, plain, own, self.weight, torch.tensor([1.0, 2.0]) * y.sum()


def test_no_input_parameter_buffer_constant_or_output_is_written_to() -> None:
    torch.manual_seed(0)
    model = Table().eval()
    x = torch.randn(1, 60, 16)
    named = {**dict(model.state_dict()), "plain": model.plain, "x": x}
    before = {name: tensor.detach().clone() for name, tensor in named.items()}
    expected = [tensor.clone() for tensor in tensors(model(x))]
    fast = chunked(model, (x,), {})
    first = fast(x)
    kept = [tensor.clone() for tensor in tensors(first)]
    second = fast(-x)
    for name, tensor in named.items():
        assert torch.equal(tensor, before[name]), name
    for place, (now, then, wanted) in enumerate(zip(tensors(first), kept, expected, strict=True)):
        assert torch.equal(now, then), f"output {place} was changed by a later call"
        torch.testing.assert_close(now, wanted, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert not wrong(second, model(-x))
