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
from tuner.measure.timing import median, ratio
from tuner.measured import Confirmed
from tuner.search.acquire import Known, worth_running
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
    """For each budget, up to ``top_k`` plans that were not run yet and from which most is expected
    to be gained; none where that is less than runs can tell."""
    assert one.cost is not None
    wanted = worth_running(
        found,
        one.cost,
        _limits(one),
        {plan: _known(one, done) for plan, done in one.confirmed.items()},
        slowest_ms=SLOWEST * one.unchunked_ms,
        count=top_k,
    )
    return [one.plan for one in wanted]


def _known(one: Length, done: Confirmed) -> Known | None:
    """What a plan's run gave; its time is carried over by the reference that ran beside it."""
    if done.status != "ok" or not done.samples.decisive_ms:
        return None
    base = median(one.baseline.eager.decisive_ms)
    found = ratio(done.samples.decisive_ms, done.reference.decisive_ms).median
    return Known(base * found, done.peak_bytes)


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
