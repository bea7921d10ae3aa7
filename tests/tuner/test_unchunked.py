"""What ``explain()`` says of a plan that chunks nothing, and that none is searched for in vain."""

from __future__ import annotations

import pytest
import torch

from tuner import apply


class Convolution(torch.nn.Module):
    """A kernel whose own buffers, which no chunk of its output makes smaller, are the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Conv1d(80, 32, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.head(x)
        return made


class Sums(torch.nn.Module):
    """Each value depends on all that come before it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(x, 0)


@pytest.mark.parametrize(
    ("model", "sizes", "words"),
    [
        (Convolution(), (1, 80, 96), ("conv1d", "of head", "inside its kernel", "dimension 1")),
        (Sums(), (512,), ("cumsum", "(512,)", "cannot be sliced along any dimension")),
    ],
    ids=["convolution", "sums"],
)
def test_what_no_loop_lowers_is_named_with_the_reason(
    model: torch.nn.Module, sizes: tuple[int, ...], words: tuple[str, ...]
) -> None:
    applied = apply(model.eval(), (torch.randn(sizes),), memory_budget="min")
    assert applied.plan.choices == ()
    (line,) = (line for line in applied.explain().splitlines() if "nothing is chunked" in line)
    for word in ("no loop lowers the peak", *words):
        assert word in line


def test_a_model_that_fits_as_it_is_is_not_searched() -> None:
    model, x = Convolution().eval(), torch.randn(1, 80, 96)
    for budget in (None, "1GiB"):
        applied = apply(model, (x,), memory_budget=budget)
        assert "space" not in vars(applied.prepare(x).analysis), "candidates were looked for"
        assert "nothing is chunked" in applied.explain()
    assert "keeps the budget of 1024.0 MiB" in applied.explain()
    assert "space" not in vars(applied.prepare(x).analysis)
