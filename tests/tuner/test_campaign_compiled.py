"""Campaigns that try compiled code: all of a plan's loops, and all but those of one class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cost_models.plans import PlanCost
from cost_models.roofline import Roofline
from search_space.budget import Budget
from search_space.capture import Capture
from search_space.plan import Plan, decode_plan
from tests.tuner.campaigns import campaign
from tests.tuner.small_factory import blocks
from tuner import apply
from tuner.campaign import run_campaign
from tuner.campaign_result import CampaignResult, most_plans
from tuner.compile_options import CompileOptions
from tuner.config import parse_config
from tuner.ledger import read_ledger
from tuner.measure.protocol import Samples
from tuner.measured import Baseline, Confirmed, Described
from tuner.progress import Silent
from tuner.runtime.analysis import Analysis
from tuner.runtime.apply import apply_plan
from tuner.runtime.captures import Captures
from tuner.runtime.generate import generate
from tuner.runtime.loop import ChunkLoop
from tuner.runtime.storing import StoringLoop
from tuner.steps.compiled_plans import (
    as_configured,
    best_compiled,
    compiled_proposals,
    in_part,
)
from tuner.steps.proposing import most_promising
from tuner.steps.state import Length

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
    values = campaign(folder, seq_lens=[LENGTH], budgets=["min", 0.5, 1.0], compile=True)
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
    # (more may be compiled as a whole, of what the search saw alone: timings decide)
    whole = [plan for plan in ran if plan == plan.as_compiled() and uncompiled(plan) in ran]
    assert {bool(plan.choices) for plan in whole} == {False, True}, "with loops, and without"
    assert any("plans compiled in" in text for text in texts)


def test_other_compiled_plans_are_run_where_more_is_expected_of_them(tuned: Tuned) -> None:
    """Each is one of what the search saw: all of it compiled, its bodies, or all but one class."""
    folder, _, _ = tuned
    ran = plans_run(folder)
    first = {plan for plan in ran if plan == plan.as_compiled() and uncompiled(plan) in ran}
    for plan in ran:
        if not plan.compiled or plan in first:
            continue  # (whether there are others, timings decide)
        left = sum(not choice.compiled for choice in plan.choices)
        assert left <= 1 and (plan.stretches or not left)


def test_a_dry_run_counts_what_is_compiled(tuned: Tuned) -> None:
    folder, _, _ = tuned
    values = campaign(folder, seq_lens=[LENGTH], budgets=["min", 0.5, 1.0])
    most = [
        most_plans(parse_config({**values, "compile": compiles}, folder))
        for compiles in (False, True)
    ]
    ran = plans_run(folder)
    assert len([plan for plan in ran if not plan.compiled]) <= most[0]
    assert len(ran) <= most[1] == most[0] + 1 + 3 * 2


@pytest.mark.parametrize("budget", ["min", 1.0])
def test_what_was_tuned_compiled_serves_compiled(tuned: Tuned, budget: str | float) -> None:
    folder, result, _ = tuned
    (length,) = result.lengths
    (best,) = [one.row for one in length.budgets if one.budget.plain == budget]
    assert best is not None
    model, inputs = blocks()
    args, _ = inputs(LENGTH)
    fast = apply(model.eval(), args, plans=folder / "plans", memory_budget=budget)
    assert fast.plan.compiled is best.plan.compiled
    assert ("compiled: " in fast.explain()) is best.plan.compiled
    if budget == 1.0:  # (the fastest serves; which of tied plans is the lowest may differ)
        rows = [row for row in length.frontier if row.needed_bytes <= length.eager.peak_bytes]
        assert fast.plan == min(rows, key=lambda row: row.latency_ms).plan
    with torch.no_grad():
        torch.testing.assert_close(fast(*args), model(*args), rtol=1e-4, atol=1e-5)


def looped() -> tuple[nn.Module, tuple[torch.Tensor, ...], Capture, Analysis, Plan]:
    """The model with a plan of several classes."""
    model, inputs = blocks()
    args, _ = inputs(LENGTH)
    located = Captures(model.eval()).locate(args, {})
    analysis = Analysis.unmeasured(located.captured.graph, located.bindings)
    space = analysis.space
    plan = space.decode({item.key: max(1, item.extent // 3) for item in space.classes})
    assert len(plan.choices) > 1
    return model, args, located.captured, analysis, plan


def test_shorter_inputs_compile_no_loop_that_was_better_left() -> None:
    """At a length that one class's chunks cover, that class runs in no loop; others stay so."""
    model, _, captured, analysis, plan = looped()
    first, *rest = plan.choices
    wide = replace(first, chunk_size=10**6, compiled=True, inner=())
    left = replace(plan, choices=(wide, *(replace(one, compiled=False) for one in rest)))
    module = generate(analysis, left, model, captured.constants)
    loops = [child for child in module.children() if isinstance(child, ChunkLoop)]
    assert loops and not any(loop.compiles for loop in loops)
    for other in (plan, plan.as_compiled()):
        module = generate(analysis, other, model, captured.constants)
        loops = [child for child in module.children() if isinstance(child, ChunkLoop)]
        assert loops and all(loop.compiles for loop in loops)


def measured(*rows: tuple[Plan, int, float], limit: int | None) -> Length:
    """A length at which these plans took so many bytes and so many ms; the eager model takes 10."""
    _, _, captured, analysis, _ = looped()
    described = Described(LENGTH, captured.graph, dict(analysis.bindings), (), 1000, 10**9)
    one = Length(described, analysis, {Budget(): None} if limit is None else {
        Budget(absolute_bytes=limit): limit
    })  # fmt: skip
    reference = Samples((10.0,) * 5, (10.0,) * 5)
    one.baseline = Baseline("ok", "", 1000, reference, reference)
    for plan, peak, ms in rows:
        times = Samples((ms,) * 5, (ms,) * 5)
        one.confirmed[plan] = Confirmed(
            plan, "ok", "", peak, peak, peak, samples=times, reference=reference
        )
    return one


def test_what_is_compiled_first() -> None:
    """The best plan, and the model without loops where that may be had."""
    plan = looped()[-1]
    plain = replace(plan, choices=())
    rows = (plan, 100, 8.0), (plain, 400, 12.0)
    assert best_compiled(measured(*rows, limit=300)) == [plan.as_compiled()]
    assert best_compiled(measured(*rows, limit=500)) == [plan.as_compiled(), plain.as_compiled()]
    assert best_compiled(measured(*rows, limit=50)) == []
    assert best_compiled(measured(*rows, limit=None)) == [plan.as_compiled()]


def test_parts_of_a_compiled_plan() -> None:
    whole = looped()[-1].as_compiled()
    bodies, *left = in_part(whole)
    assert bodies == replace(whole, stretches=False)
    assert left == [whole.compiled_but(choice.regions) for choice in whole.choices]
    one, alone = replace(whole, choices=whole.choices[:1]), replace(whole, choices=())
    assert list(in_part(one)) == [replace(one, stretches=False)]
    assert list(in_part(alone)) == []


def test_what_was_proposed_or_run_is_proposed_compiled_and_in_part() -> None:
    plan = looped()[-1]
    finer = replace(
        plan, choices=tuple(replace(one, chunk_size=1, inner=()) for one in plan.choices)
    )
    known = predicted(measured((plan, 100, 8.0), limit=10**9))
    known.proposed[finer] = None
    found = [one.plan for one in compiled_proposals(known, CompileOptions())]
    assert len(found) == len(set(found))
    for one in (plan, finer):
        assert {one.as_compiled(), *in_part(one.as_compiled())} <= set(found)
    assert len(found) == 2 * (2 + len(plan.choices))
    # what a configuration does not let compile is no proposal
    bodies = [one.plan for one in compiled_proposals(known, CompileOptions(stretches=False))]
    assert bodies and not any(one.stretches for one in bodies)
    stretches = [one.plan for one in compiled_proposals(known, CompileOptions(bodies=False))]
    assert stretches and all(one.stretches and not one.bodies for one in stretches)


def test_parts_are_proposed_of_plans_that_a_budget_allows() -> None:
    plan = looped()[-1]
    known = predicted(measured((plan, 100, 8.0), limit=1))
    found = [one.plan for one in compiled_proposals(known, CompileOptions())]
    assert found == [plan.as_compiled()]


def test_compiled_plans_of_which_much_is_expected_are_run() -> None:
    """The plan took three times as long as the model without loops: compiled it is told to be
    faster."""
    plan = looped()[-1]
    known = predicted(measured((plan, 100, 30.0), limit=10**9))
    found = compiled_proposals(known, CompileOptions())
    picked = most_promising(known, found, 2)
    assert picked and len(picked) == len(set(picked))
    assert all(one.compiled for one in picked)
    # those that ran are not picked again
    for one in picked:
        known.confirmed[one] = replace(known.confirmed[plan], plan=one)
    assert not set(most_promising(known, found, 2)) & set(picked)


def predicted(one: Length) -> Length:
    """With a cost of plans."""
    classes = one.analysis.space.classes
    whole = {item.key: 0.1 for item in classes}
    one.cost = PlanCost(
        one.analysis.memory, classes, Roofline(), one.analysis.ceilings, 10.0, whole
    )
    return one


@pytest.mark.parametrize(
    ("options", "bodies", "stretches"),
    [
        (CompileOptions(bodies=False), False, True),
        (CompileOptions(stretches=False), True, False),
        (CompileOptions(), True, True),
    ],
)
def test_plans_say_what_was_compiled(
    options: CompileOptions, bodies: bool, stretches: bool
) -> None:
    plan = looped()[-1].as_compiled()
    found = as_configured(plan, options)
    assert (found.bodies, found.stretches) == (bodies, stretches)
    assert options.of(found) == CompileOptions(bodies, stretches)
    assert options.of(uncompiled(plan)) == CompileOptions(bodies, stretches)


def test_loops_that_a_plan_leaves_as_they_are_stay_so() -> None:
    model, args, _, _, plan = looped()
    left = plan.as_compiled().compiled_but(plan.choices[0].regions)
    assert [choice.compiled for choice in left.choices] == [False] + [True] * (
        len(plan.choices) - 1
    )
    fast = apply_plan(model, left, args, {}, compile=True)
    module = fast.prepare(*args).module
    loops = [child for child in module.children() if isinstance(child, ChunkLoop)]
    as_they_are = [loop for loop in loops if not isinstance(loop, StoringLoop)]
    assert len(as_they_are) == len(plan.choices[0].regions) < len(loops)
    assert f"bodies of {len(loops) - len(as_they_are)} of {len(loops)} loops" in fast.explain()
    with torch.no_grad():
        torch.testing.assert_close(fast(*args), model(*args), rtol=1e-4, atol=1e-5)
