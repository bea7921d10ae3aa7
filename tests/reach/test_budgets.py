"""Budgets: a lower one never costs more memory, none is exceeded, and impossible ones say what can
be had."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest

from cost_models.select import Selected
from search_space.eager_peak import eager_peak_bytes
from search_space.errors import BudgetError
from search_space.plan import Plan
from tests.reach.cases import (
    FIXED_BYTES,
    MEMORY_ERROR,
    Call,
    Case,
    activation_peak,
    case,
    is_off,
    wrong,
)
from tuner.runtime.analysis import Analysis
from tuner.runtime.apply import apply, apply_plan

LENGTHS = {"gpt2": 160, "vit": 128, "llama_last": 256, "unet": 24, "esmfold_block": 20,
           "evoformer": 20}  # fmt: skip
"""Long enough that activations outweigh a chunk's least sizes."""

SHARES = tuple(0.93**step for step in range(60))
"""Budgets as shares of the eager peak, falling below what any plan reaches."""


@dataclass(frozen=True)
class Ladder:
    """A subject, and what is selected within budgets that fall, until none can be met.

    Attributes:
        steps: budgets in bytes, and what was selected within each.
        refused: the first budget that was not met, and the lowest peak that it was told.
    """

    one: Case
    call: Call
    eager_bytes: int
    analysis: Analysis
    steps: tuple[tuple[int, Selected], ...]
    refused: tuple[int, int]

    def measured(self, plan: Plan) -> int:
        """The allocator's peak of a plan, whose outputs are checked as well."""
        args, kwargs = self.call
        fast = apply_plan(self.one.model, plan, args, kwargs, captures=self.one.captures)
        assert not wrong(fast(*args, **kwargs), self.one.eager(self.call))
        return activation_peak(lambda: fast(*args, **kwargs))


@cache
def ladder(name: str) -> Ladder:
    one = case(name)
    one.captures.locate(*one.inputs(one.length))
    call = one.inputs(LENGTHS[name])
    eager = eager_peak_bytes(one.model, *call)
    analysis = one.apply(1.0, call).prepare(*call[0], **call[1]).analysis
    steps: list[tuple[int, Selected]] = []
    for share in SHARES:
        budget = int(share * eager)
        try:
            steps.append((budget, analysis.selector.within(budget)))
        except BudgetError as error:
            return Ladder(one, call, eager, analysis, tuple(steps), (budget, error.lowest_bytes))
    raise AssertionError(f"a hundredth of the eager peak is met for {name}: lower SHARES")


@pytest.fixture(scope="module", params=LENGTHS)
def rungs(request: pytest.FixtureRequest) -> Ladder:
    made: Ladder = ladder(request.param)
    return made


def test_a_lower_budget_never_has_a_higher_peak(rungs: Ladder) -> None:
    """By prediction at each budget of a fine ladder; the next test measures."""
    assert len({step.peak_bytes for _, step in rungs.steps}) >= 4, "the ladder tests little"
    rises = [
        (budget, earlier.peak_bytes, later.peak_bytes)
        for (_, earlier), (budget, later) in zip(rungs.steps, rungs.steps[1:], strict=False)
        if later.peak_bytes > earlier.peak_bytes
    ]
    assert not rises
    assert all(step.peak_bytes <= budget for budget, step in rungs.steps)


def test_measured_peaks_keep_and_follow_the_budgets(rungs: Ladder) -> None:
    spread = [rungs.steps[round(part * (len(rungs.steps) - 1))] for part in (0, 0.4, 0.7, 1)]
    before = None
    for budget, step in spread:
        peak = rungs.measured(step.plan)
        assert peak <= budget * (1 + MEMORY_ERROR) + FIXED_BYTES, (peak, budget)
        assert not is_off(step.peak_bytes, peak), (step.peak_bytes, peak)
        assert before is None or peak <= before + FIXED_BYTES, "a lower budget, a higher peak"
        before = peak


def test_an_impossible_budget_names_one_that_can_be_met(rungs: Ladder) -> None:
    refused, lowest = rungs.refused
    assert refused < lowest
    for asked in (lowest, lowest + 1):
        found = rungs.analysis.selector.within(asked)
        assert found.peak_bytes <= asked
    with pytest.raises(BudgetError) as caught:
        rungs.analysis.selector.within(lowest // 2)
    assert caught.value.lowest_bytes == lowest, "the floor does not depend on what was asked for"
    assert str(lowest) in str(caught.value)
    assert rungs.measured(rungs.analysis.selector.within(lowest).plan) <= (
        lowest * (1 + MEMORY_ERROR) + FIXED_BYTES
    )


def test_the_lowest_peak_is_the_lowest(rungs: Ladder) -> None:
    lowest = rungs.analysis.selector.lowest()
    assert all(lowest.peak_bytes <= step.peak_bytes for _, step in rungs.steps)
    assert lowest.peak_bytes == rungs.refused[1]


@pytest.mark.parametrize("name", LENGTHS)
def test_minimum_mode_is_below_every_plan_that_is_as_quick(name: str) -> None:
    rungs = ladder(name)
    most = 0.5 * rungs.analysis.unchunked_s
    least = rungs.analysis.selector.lowest(rungs.analysis.unchunked_s)
    assert least.extra_s <= most
    lower = [
        (budget, step.peak_bytes)
        for budget, step in rungs.steps
        if step.extra_s <= most and step.peak_bytes < least.peak_bytes
    ]
    assert not lower, f"minimum mode reaches {least.peak_bytes} bytes only"


@pytest.mark.parametrize("name", ["gpt2", "vit"])
def test_the_users_entry_raises_and_then_keeps_the_floor(name: str) -> None:
    one = case(name)
    args, kwargs = call = one.inputs(one.length)
    with pytest.raises(BudgetError) as caught:
        apply(one.model, args, kwargs, memory_budget=0.001)
    lowest = caught.value.lowest_bytes
    fast = one.apply(lowest, call)
    assert fast.predicted_peak_bytes <= lowest
    assert not wrong(fast(*args, **kwargs), one.eager(call))
    peak = activation_peak(lambda: fast(*args, **kwargs))
    assert peak <= lowest * (1 + MEMORY_ERROR) + FIXED_BYTES
    with pytest.raises(BudgetError):
        one.apply(lowest - 1, call)
