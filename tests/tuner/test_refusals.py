"""What cannot be captured is refused with one error that says why, and leaves the model alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from experiments.subjects import gpt2
from search_space.errors import CaptureError
from tests.chunked import wrong
from tuner import apply


class Plain(torch.nn.Module):
    """What the others differ from."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(16, 16)
        self.register_buffer("seen", torch.zeros(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.inner(x))


class BranchesOnData(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.sum() > 0 else x


class SelectsByData(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x[x[..., 0] > 0])


class CountsInABuffer(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(x.sum((0, 1)))
        return super().forward(x)


class WritesIntoItsInput(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.mul_(2)
        return super().forward(x)


class Fails(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("no such layer")


def hooked() -> torch.nn.Module:
    """As accelerate leaves a module that it moves between devices."""
    model = Plain()
    model.inner._hf_hook = object()  # type: ignore[assignment]
    return model


REFUSED: dict[str, tuple[Callable[[], torch.nn.Module], str]] = {
    "branches on data": (BranchesOnData, "could not trace"),
    "selects by data": (SelectsByData, "depends on the data|could not trace"),
    "a buffer changes": (CountsInABuffer, "'.*seen' in place"),
    "the input changes": (WritesIntoItsInput, "in place"),
    "fails": (Fails, "KeyError"),
    "accelerate": (hooked, "inner.*accelerate hook"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_say_why_and_change_nothing(kind: str) -> None:
    make, words = REFUSED[kind]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(2, 30, 16)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given = x.clone()
    attributes = set(vars(model))
    with pytest.raises(CaptureError, match=words) as caught:
        apply(model, (x,), memory_budget="min")
    assert "\n" not in str(caught.value), "one line, without the exporter's own pages"
    assert torch.equal(x, given)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert set(vars(model)) == attributes
    assert not model.training


def test_a_call_without_tensors_is_refused() -> None:
    with pytest.raises(CaptureError, match="no tensor"):
        apply(Plain().eval(), (3,), memory_budget="min")


def test_a_cache_is_refused_or_exact() -> None:
    """A model that is asked for its cache: an object of the library's own among the outputs."""
    model, inputs = gpt2(layers=1, width=32, heads=4, positions=32, vocabulary=50)
    args, _ = inputs(24)
    try:
        fast = apply(model, args, {"use_cache": True}, memory_budget="min")
    except CaptureError:
        return
    with torch.no_grad():
        expected = model(*args, use_cache=True)
    found = fast(*args, use_cache=True)
    assert type(found) is type(expected)
    assert not wrong(found[0], expected[0])
