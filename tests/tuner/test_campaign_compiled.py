"""Campaigns that try compiled code: all of a plan's loops, and all but those of one class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from search_space.plan import Plan, decode_plan
from tests.tuner.campaigns import campaign
from tests.tuner.small_factory import blocks
from tuner import apply
from tuner.campaign import run_campaign
from tuner.campaign_result import CampaignResult
from tuner.config import parse_config
from tuner.ledger import read_ledger
from tuner.progress import Silent
from tuner.runtime.apply import apply_plan
from tuner.runtime.loop import ChunkLoop
from tuner.runtime.storing import StoringLoop

LENGTH = 160


class Notes(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


Tuned = tuple[Path, CampaignResult, list[str]]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    folder = tmp_path_factory.mktemp("compiled")
    notes = Notes()
    values = campaign(folder, seq_lens=[LENGTH], budgets=["min"], compile=True)
    result = run_campaign(parse_config(values, folder), notes)
    return folder, result, notes.texts


def plans_run(folder: Path) -> list[Plan]:
    """Every plan that was run, in order."""
    rows = [row for row in read_ledger(folder / "runs" / "ledger.jsonl") if row["kind"] == "plan"]
    return list(dict.fromkeys(decode_plan(row["plan"]) for row in rows))


def uncompiled(plan: Plan) -> Plan:
    choices = tuple(replace(one, compiled=False) for one in plan.choices)
    return replace(plan, choices=choices, stretches=False)


def test_the_best_plans_are_compiled_too(tuned: Tuned) -> None:
    folder, _, texts = tuned
    ran = plans_run(folder)
    whole = [plan for plan in ran if plan.choices and plan == plan.as_compiled()]
    assert whole and all(uncompiled(plan) in ran for plan in whole)
    assert any("plans compiled in" in text for text in texts)


def test_plans_are_tried_compiled_in_part(tuned: Tuned) -> None:
    """Those that are better compiled with each class left out, others with their bodies alone."""
    folder, _, _ = tuned
    ran = plans_run(folder)
    part = [plan for plan in ran if plan.compiled and plan != plan.as_compiled()]
    assert part
    for plan in part:
        assert plan.as_compiled() in ran
        left = sum(not choice.compiled for choice in plan.choices)
        assert (plan.stretches and left == 1) or (not plan.stretches and not left)


def test_what_was_tuned_compiled_serves_compiled(tuned: Tuned) -> None:
    folder, result, _ = tuned
    (length,) = result.lengths
    (best,) = [budget.row for budget in length.budgets]
    assert best is not None
    model, inputs = blocks()
    args, _ = inputs(LENGTH)
    fast = apply(model.eval(), args, plans=folder / "plans", memory_budget="min")
    assert fast.plan == best.plan
    assert ("compiled: " in fast.explain()) is best.plan.compiled
    with torch.no_grad():
        torch.testing.assert_close(fast(*args), model(*args), rtol=1e-4, atol=1e-5)


def test_loops_that_a_plan_leaves_as_they_are_stay_so(tuned: Tuned) -> None:
    folder, _, _ = tuned
    plan = next(one for one in plans_run(folder) if len(one.choices) > 1)
    left = plan.as_compiled().compiled_but(plan.choices[0].regions)
    assert [choice.compiled for choice in left.choices] == [False] + [True] * (
        len(plan.choices) - 1
    )
    model, inputs = blocks()
    args, _ = inputs(LENGTH)
    fast = apply_plan(model.eval(), left, args, {}, compile=True)
    module = fast.prepare(*args).module
    loops = [child for child in module.children() if isinstance(child, ChunkLoop)]
    as_they_are = [loop for loop in loops if not isinstance(loop, StoringLoop)]
    assert len(as_they_are) == len(plan.choices[0].regions) < len(loops)
    assert f"bodies of {len(loops) - len(as_they_are)} of {len(loops)} loops" in fast.explain()
    with torch.no_grad():
        torch.testing.assert_close(fast(*args), model(*args), rtol=1e-4, atol=1e-5)
