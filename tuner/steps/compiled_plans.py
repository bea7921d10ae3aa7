"""Which plans are worth running compiled, and what of each: searched as chunk sizes are, by what
compiled passes and stretches are predicted to take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from search_space.plan import Plan
from search_space.space import make_plan
from tuner.compile_options import CompileOptions
from tuner.frontier import best_within
from tuner.search.proposal import Proposal
from tuner.steps.state import Length, plan_row

_CLOSEST = 8
"""Plans of each budget, the fastest as predicted, of which parts are tried compiled."""


def as_configured(plan: Plan, options: CompileOptions) -> Plan:
    """A plan without what the configuration does not let compile."""
    choices = tuple(
        replace(choice, compiled=choice.compiled and options.bodies) for choice in plan.choices
    )
    return replace(plan, choices=choices, stretches=plan.stretches and options.stretches)


def best_compiled(one: Length) -> list[Plan]:
    """The best plan of each budget so far, all of it compiled, and the model without loops where
    some budget allows for it: what these take tells what compiling is worth."""
    rows = [plan_row(done) for done in one.timed()]
    best = [best_within(rows, limit) for limit in one.limits.values()]
    plans = [row.plan for row in best if row is not None]
    unchanged = make_plan(one.analysis.graph)
    peaks = [done.peak_bytes for done in one.timed() if done.plan == unchanged]
    limits = [limit for limit in one.limits.values() if limit is not None]
    if peaks and limits and max(limits) >= peaks[0]:
        plans.append(unchanged)
    return list(dict.fromkeys(plan.as_compiled() for plan in plans))


def compiled_proposals(one: Length, options: CompileOptions) -> list[Proposal]:
    """Every plan that was proposed or run, compiled; and those that are fastest so, as predicted,
    with bodies alone compiled, and with each class left as it is."""
    assert one.cost is not None
    seen = [*(done.plan for done in one.timed() if not done.plan.compiled), *one.proposed]
    whole = _predicted(one, [plan.as_compiled() for plan in seen], options)
    near: dict[Plan, None] = {}
    for limit in one.limits.values():
        fitting = [
            found for found in whole
            if limit is None or found.prediction.peak_bytes <= limit
        ]  # fmt: skip
        fitting.sort(key=lambda found: found.prediction.latency_ms)
        near.update((found.plan, None) for found in fitting[:_CLOSEST])
    parts = [part for plan in near for part in in_part(plan)]
    return [*whole, *_predicted(one, parts, options)]


def in_part(plan: Plan) -> Iterator[Plan]:
    """A plan without what is between its loops compiled, and without each class."""
    if plan.choices and plan.stretches:
        yield replace(plan, stretches=False)
    if len(plan.choices) > 1:
        for choice in plan.choices:
            if choice.compiled:
                yield plan.compiled_but(choice.regions)


def _predicted(
    one: Length, plans: Sequence[Plan], options: CompileOptions
) -> list[Proposal]:
    assert one.cost is not None
    wanted = dict.fromkeys(as_configured(plan, options) for plan in plans)
    found = [plan for plan in wanted if plan.compiled]
    return list(map(Proposal, found, one.cost.predict_all(found)))
