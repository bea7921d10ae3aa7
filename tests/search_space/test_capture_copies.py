"""Values written into every other place of a tensor, as rotary embeddings do."""

from __future__ import annotations

import pytest
import torch

from search_space.capture import capture
from tests.tiny import Function
from tuner import apply
from tuner.measure.cpu import CpuBackend


class Turned(torch.nn.Module):
    """Wide intermediates whose even and odd features are turned, and written into one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(16, 256)
        self.down = torch.nn.Linear(256, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = self.up(x)
        even, odd = wide[..., 0::2], wide[..., 1::2]
        made = torch.empty_like(wide)
        made[..., 0::2] = 2 * even - odd
        made[..., 1::2] = even + odd
        narrow: torch.Tensor = self.down(made)
        return narrow


class Spread(torch.nn.Module):
    """One row is written into all others; what must be cast is cast before."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = torch.ones_like(x)
        made[:, ::2] = x[0, 1::2] * 2
        made[:, 1::2] = x[:, ::2].double()
        return made


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(96, 16, generator=torch.Generator().manual_seed(0))


def _copies(model: torch.nn.Module, x: torch.Tensor) -> int:
    return sum(node.op == "aten.copy.default" for node in capture(model, (x,)).graph.nodes)


def test_what_is_scattered_is_not_copied_before(x: torch.Tensor) -> None:
    model = Turned().eval()
    assert _copies(model, x) == 0
    applied = apply(model, (x,), memory_budget="min")
    assert applied.plan.choices, "nothing is chunked, so nothing is tested"
    applied(x)
    found, peak = CpuBackend().peak(lambda: applied(x))
    with torch.no_grad():
        assert torch.equal(found, model(x))
    assert applied.predicted_peak_bytes == pytest.approx(peak.requested_bytes, abs=64)


def test_a_copy_that_broadcasts_stays(x: torch.Tensor) -> None:
    model = Spread().eval()
    assert _copies(model, x) == 1
    assert torch.equal(apply(model, (x,), memory_budget="min")(x), model(x))


def test_tensors_that_broadcasting_leaves_as_they_are_are_read_themselves(x: torch.Tensor) -> None:
    def loss(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.mse_loss(x.exp(), x.sin())

    model = Function(loss)
    graph = capture(model, (x,)).graph
    assert not any("broadcast" in node.op or node.op == "getitem" for node in graph.nodes)
    applied = apply(model, (x,))
    assert torch.equal(applied(x), model(x))


def test_tensors_that_are_broadcast_stay_so(x: torch.Tensor) -> None:
    def wide(x: torch.Tensor) -> torch.Tensor:
        one, other = torch.broadcast_tensors(x[:1].exp(), x.sin())
        made: torch.Tensor = one * other
        return made

    model = Function(wide)
    applied = apply(model, (x,))
    assert torch.equal(applied(x), model(x))
