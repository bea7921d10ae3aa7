"""The eager model's peak, told without running it, against the allocator's."""

from __future__ import annotations

import pytest
import torch

from search_space.eager_peak import _Counter, eager_peak_bytes
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


@pytest.mark.parametrize("enabled", [False, True])
def test_a_model_may_ask_for_the_autocast_state(enabled: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        found = eager_peak_bytes(Asking(), (torch.randn(1000),))
    assert found == (2000 if enabled else 4000)
