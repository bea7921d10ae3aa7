"""Families that nobody tuned for: never a crash, never a wrong number, and what is not understood
is named."""

from __future__ import annotations

import pytest
import torch

from experiments.conformance import unknown_ops
from experiments.subjects import TINY
from search_space.errors import BudgetError
from tests.reach.cases import Case, activation_peak, case, tensors, wrong
from tuner import Applied, apply

SLOW_TO_CAPTURE = {
    "esmfold_block", "esmfold_stack", "evoformer", "swin", "swin_merge", "unet", "unet_sdpa",
    "unet2d", "unet2d_sdpa",
}  # fmt: skip
"""Held to their own outputs elsewhere: in test_budgets, or among the subjects' tests."""

NAMES = tuple(name for name in TINY if name not in SLOW_TO_CAPTURE)

SMALL_BYTES = 64 * 2**10
"""Peaks of tiny models may be predicted this far off."""


def within(one: Case, budget: float | str) -> Applied:
    """Applied within the budget, or where that cannot be met, at the floor that the error names."""
    try:
        return one.apply(budget)
    except BudgetError as error:
        return one.apply(error.lowest_bytes)


@pytest.mark.parametrize("name", NAMES)
def test_every_family(name: str) -> None:
    one = case(name)
    args, kwargs = call = one.inputs(one.length)
    expected = one.eager(call)
    state = {key: tensor._version for key, tensor in one.model.state_dict(keep_vars=True).items()}
    given = [tensor.clone() for tensor in tensors(call)]
    peaks = []
    for budget in (0.5, "min"):
        fast = within(one, budget)
        found = fast(*args, **kwargs)
        assert not wrong(found, expected), budget
        peak = activation_peak(lambda fast=fast: fast(*args, **kwargs))  # type: ignore[misc]
        assert abs(fast.predicted_peak_bytes - peak) <= max(0.03 * peak, SMALL_BYTES), budget
        assert not wrong(found, expected), "a later call changed what an earlier one gave"
        text = fast.explain()
        for unknown in unknown_ops(fast.prepare(*args, **kwargs).analysis.sized)[:8]:
            assert unknown.op in text
        peaks.append(fast.predicted_peak_bytes)
    assert min(peaks) < fast.prepare(*args, **kwargs).analysis.selector.unchunked_bytes
    assert state == {
        key: tensor._version for key, tensor in one.model.state_dict(keep_vars=True).items()
    }
    assert all(torch.equal(a, b) for a, b in zip(tensors(call), given, strict=True))


class Strange(torch.nn.Module):
    """Ops that mix every dimension and have no rule, between layers that can be chunked."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(32, 128), torch.nn.Linear(128, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.down(torch.nn.functional.gelu(self.up(x)))
        inverse = torch.linalg.inv(x.transpose(1, 2) @ x + 50 * torch.eye(32))
        made: torch.Tensor = (x @ inverse).roll((1, 2), (0, 1)) + self.down(self.up(x).relu())
        return made


class Drawing(torch.nn.Module):
    """Random numbers, which no chunk may draw anew."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(32, 128), torch.nn.Linear(128, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.down(torch.nn.functional.gelu(self.up(x)))
        made: torch.Tensor = x * torch.bernoulli(torch.full_like(x, 0.5)) + self.down(
            self.up(x).relu()
        )
        return made


@pytest.mark.parametrize(("make", "op"), [(Strange, "linalg_inv"), (Drawing, "bernoulli")])
def test_what_is_not_understood_is_left_whole_and_named(
    make: type[torch.nn.Module], op: str
) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(3, 200, 32)
    fast = apply(model, (x,), memory_budget="min")
    assert fast.plan.choices, "nothing is chunked, so nothing is tested"
    assert op in fast.explain().splitlines()[-1]
    sized = fast.prepare(x).analysis.sized
    chosen = {node for c in fast.plan.choices for region in c.regions for node in region.nodes}
    assert not [sized.nodes[node].op for node in chosen if op in sized.nodes[node].op]
    torch.manual_seed(7)
    found = fast(x)
    torch.manual_seed(7)
    with torch.no_grad():
        assert not wrong(found, model(x))
