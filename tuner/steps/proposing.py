"""Which plans of a length are worth a real run: by prediction alone, nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cost_models.create import create
from cost_models.select import Selector
from search_space.budget import Budget
from search_space.errors import BudgetError
from search_space.plan import Plan
from tuner.frontier import SLOWEST
from tuner.search.proposal import Proposal
from tuner.search.propose import propose
from tuner.steps.state import Length, State


def proposals(state: State, one: Length, number: int) -> tuple[Proposal, ...]:
    """What the study finds in a round, counted from 0."""
    assert one.cost is not None
    search = state.config.search
    return propose(
        one.analysis.space,
        one.cost.predict_all,
        replace(search, seed=search.seed + number),
        seeds=_seeds(state, one),
        loosest_budget_bytes=_loosest(one.limits),
    )


def analytic_plans(one: Length) -> list[Plan]:
    """The plan that is chosen without data, for each budget that it can meet."""
    found = []
    for limit in one.limits.values():
        try:
            if limit is None:
                selected = one.analysis.selector.lowest(one.analysis.unchunked_s, SLOWEST)
            else:
                selected = one.analysis.selector.within(limit)
        except BudgetError:
            continue  # said when the limits were resolved
        found.append(selected.plan)
    return found


def most_promising(one: Length, found: Sequence[Proposal], top_k: int) -> list[Plan]:
    """For each budget, the ``top_k`` plans predicted fastest that were not run yet."""
    kept: list[Plan] = []

    def order(proposal: Proposal) -> tuple[float, ...]:
        # gains of less than a hundredth are no reason for further loops
        prediction = proposal.prediction
        share = round(prediction.latency_ms / one.unchunked_ms, 2)
        return (share, len(proposal.plan.choices), prediction.latency_ms, prediction.peak_bytes)

    slowest = SLOWEST * one.unchunked_ms
    for limit in _limits(one):
        fresh = [p for p in found if p.plan not in one.confirmed and p.plan not in kept]
        if limit is None:
            fresh = [p for p in fresh if p.prediction.latency_ms <= slowest]
            fresh.sort(key=lambda p: (p.prediction.peak_bytes, p.prediction.latency_ms))
        else:
            fresh = [p for p in fresh if p.prediction.peak_bytes <= limit]
            fresh.sort(key=order)
        kept.extend(p.plan for p in fresh[:top_k])
    return kept


def _seeds(state: State, one: Length) -> list[Mapping[str, int]]:
    """What the selectors find: by the present cost, by the paper's, and without data."""
    assert one.cost is not None
    found: list[Mapping[str, int]] = []
    selectors = [Selector(one.analysis.space, one.cost.extra_seconds)]
    if not one.confirmed:
        (paper,) = create("macro_micro")
        cost = replace(one.cost, model=paper.fit(state.samples), _cache={})
        selectors += [Selector(one.analysis.space, cost.extra_seconds), one.analysis.selector]
    for selector in selectors:
        for limit in _limits(one):
            try:
                if limit is None:
                    selected = selector.lowest(one.unchunked_ms / 1e3, SLOWEST)
                else:
                    selected = selector.within(limit)
            except BudgetError:
                continue  # said before; other selectors and the study go on looking
            found.append(one.analysis.space.setting(selected.plan))
    return found


def _limits(one: Length) -> list[int | None]:
    """The limits that predictions must meet: lower than the budgets by as much as the peaks
    measured so far exceed their predictions."""
    worst = max(
        (done.peak_bytes / done.predicted_bytes for done in one.confirmed.values()
         if done.status == "ok" and done.predicted_bytes),
        default=1.0,
    )  # fmt: skip
    return [
        None if limit is None else int(limit / max(1.0, worst)) for limit in one.limits.values()
    ]


def _loosest(limits: Mapping[Budget, int | None]) -> int | None:
    known = [limit for limit in limits.values() if limit is not None]
    return max(known) if known and len(known) == len(limits) else None
