"""The eager model's peak, told without running it, against the allocator's."""

from __future__ import annotations

import pytest
import torch

from search_space.eager_peak import eager_peak_bytes
from tuner.measure.cpu import CpuBackend


class Table(torch.nn.Module):
    """Reads a table that is neither weight nor buffer, as some models keep their frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.randn(4096, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.table = self.table.to(x.device)
        return x * self.table[: x.shape[0]] + torch.tensor([1.0, 2.0]).repeat(8)


class Joined(torch.nn.Module):
    """A convolution that unfolds its windows, and a product of what must be copied first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Conv1d(40, 24, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.head(x)
        halves = made.unflatten(1, (2, 12)).permute(0, 2, 1, 3)
        return halves @ halves.transpose(2, 3)


@pytest.mark.parametrize(
    ("model", "sizes"), [(Table(), (64, 16)), (Joined(), (1, 40, 96))], ids=["table", "kernels"]
)
def test_the_peak_is_the_allocators(model: torch.nn.Module, sizes: tuple[int, ...]) -> None:
    model, x = model.eval(), torch.randn(sizes)

    def call() -> torch.Tensor:
        with torch.no_grad():
            made: torch.Tensor = model(x)
            return made

    call()
    _, peak = CpuBackend().peak(call)
    assert eager_peak_bytes(model, (x,)) == pytest.approx(peak.requested_bytes, abs=64)
