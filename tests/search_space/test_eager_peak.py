"""The eager model's peak, told without running it, against the allocator's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_space.eager_peak import _Counter, eager_peak_bytes
from search_space.errors import CaptureError
from tuner import apply
from tuner.measure.cpu import CpuBackend


class Table(torch.nn.Module):
    """Reads a table that is neither weight nor buffer, as some models keep their frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.randn(4096, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.table = self.table.to(x.device)
        return x * self.table[: x.shape[0]] + torch.tensor([1.0, 2.0]).repeat(8)


def test_tables_of_the_models_own_are_no_activations() -> None:
    model, x = Table().eval(), torch.randn(64, 16)

    def call() -> torch.Tensor:
        with torch.no_grad():
            made: torch.Tensor = model(x)
            return made

    call()
    _, peak = CpuBackend().peak(call)
    assert eager_peak_bytes(model, (x,)) == pytest.approx(peak.requested_bytes, abs=64)


def test_tensors_that_come_to_lie_where_ignored_ones_lay_count() -> None:
    counter = _Counter()
    for _ in range(50):
        counter.ignore(torch.empty(8))
    kept = [torch.empty(8) for _ in range(50)]
    for tensor in kept:
        counter.meet(tensor)
    assert counter.peak == 50 * 8 * 4


class Asking(torch.nn.Module):
    """Asks for the autocast state of its tensors' device, in both ways."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            return x.new_zeros(x.shape, dtype=torch.get_autocast_dtype(device_type=kind))
        return x.new_zeros(x.shape)


def test_a_model_may_ask_for_the_autocast_state() -> None:
    assert eager_peak_bytes(Asking(), (torch.randn(1000),)) == 4000


def test_under_autocast_the_captured_graph_tells_what_a_share_is_of() -> None:
    """Without data nothing would be cast, and the peak be told twice as high."""
    model = Sum(lambda own, x: x + own.parts[1](F.gelu(own.parts[0](x))),
                nn.Linear(64, 512), nn.Linear(512, 64))  # fmt: skip
    x = torch.randn(1, 256, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(CaptureError, match="autocast"):
            eager_peak_bytes(model, (x,))
        fast = apply(model, (x,), memory_budget=0.5)
        assert peak_of(fast, x) <= 0.5 * peak_of(model, x)


# -- against the allocator -------------------------------------------------------------------------


class Sum(nn.Module):
    """A function of a model with parts and weights."""

    def __init__(
        self, function: Callable[..., Any], *parts: nn.Module, **weights: torch.Tensor
    ) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)
        for name, value in weights.items():
            self.register_parameter(name, nn.Parameter(value))
        self.eval()

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.function(self, *tensors)


def peak_of(model: Callable[..., Any], *tensors: torch.Tensor) -> int:
    with torch.no_grad():
        model(*tensors)
        return CpuBackend().peak(lambda: model(*tensors))[1].activation_bytes


def heads_that_write_into_one(own: Any, x: torch.Tensor) -> torch.Tensor:
    made = torch.zeros(1, 256, 256)  # small enough to have data
    for place in range(4):
        made[..., 64 * place : 64 * place + 64] = F.gelu(x @ own.W[place])
    found: torch.Tensor = made @ own.V
    return found


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[torch.Tensor, ...]]] = {
    "depthwise": (
        lambda: nn.Sequential(nn.Conv2d(16, 96, 1), nn.Conv2d(96, 96, 3, padding=1, groups=96)),
        (torch.randn(1, 16, 64, 64),),
    ),
    "volumes": (
        lambda: nn.Sequential(nn.Conv3d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv3d(16, 4, 3)),
        (torch.randn(1, 4, 24, 24, 24),),
    ),
    "sequences as channels": (
        lambda: Sum(lambda own, x: own.parts[0](x.mT).mT * 2, nn.Conv1d(128, 128, 3, padding=1)),
        (torch.randn(2, 256, 128),),
    ),
    "weights on the left": (
        lambda: Sum(lambda own, x: own.V @ F.gelu(own.W @ x),
                    W=torch.randn(512, 64), V=torch.randn(64, 512)),
        (torch.randn(3, 64, 256),),
    ),
    "written in parts": (
        lambda: Sum(heads_that_write_into_one, W=torch.randn(4, 64, 64), V=torch.randn(256, 64)),
        (torch.randn(1, 256, 64),),
    ),
    "distances": (
        lambda: Sum(lambda own, x: torch.cdist(x, x).softmax(-1) @ x), (torch.randn(3, 150, 64),)
    ),
    "a mask as numbers": (
        lambda: Sum(lambda own, x, keep: ((x @ x.mT).softmax(-1) * keep) @ x),
        (torch.randn(1, 512, 64), torch.rand(1, 512, 512) > 0.3),
    ),
    "columns": (
        lambda: Sum(lambda own, x: (x @ x.mT).mT.softmax(-1) @ x), (torch.randn(4, 256, 64),)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_what_kernels_take_is_counted(name: str) -> None:
    make, tensors = MODELS[name]
    model = make().eval()
    assert eager_peak_bytes(model, tensors) == pytest.approx(peak_of(model, *tensors), rel=0.01)


def test_what_is_only_bounded_from_above_makes_no_share_too_large() -> None:
    for model in (
        nn.Sequential(nn.Conv1d(8, 128, 3, padding=1), nn.ConvTranspose1d(128, 64, 8, 4)),
        nn.Sequential(nn.Conv1d(8, 64, 3, padding=1), nn.Conv1d(64, 64, 3, padding=1, groups=4)),
    ):
        x = torch.randn(1, 8, 1024)
        assert eager_peak_bytes(model.eval(), (x,)) <= 1.01 * peak_of(model, x)


def test_attention_inside_of_torchs_own_layers_is_fused_too() -> None:
    layer = nn.MultiheadAttention(64, 4, batch_first=True).eval()
    x = torch.randn(1, 256, 64)
    model = Sum(lambda own, x: own.parts[0](x, x, x, need_weights=False)[0] * 2, layer)
    attend = F.scaled_dot_product_attention
    told = eager_peak_bytes(model, (x,))
    assert F.scaled_dot_product_attention is attend
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        assert told == pytest.approx(peak_of(model, x), rel=0.01)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
