"""Plans for a length that was never measured, from a stored cost model: nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cost_models.base import Z90
from cost_models.features import loop_features
from cost_models.plans import PlanCost
from cost_models.select import Selector
from cost_models.stored import StoredModel
from cost_models.times import graph_parts
from cost_models.whole_times import calibrate
from search_space.budget import Budget
from search_space.errors import BudgetError
from search_space.plan import Plan
from tuner.config import SearchConfig
from tuner.frontier import SLOWEST
from tuner.inspect_model import Inspected
from tuner.search.proposal import Proposal
from tuner.search.propose import propose


@dataclass(frozen=True)
class Foreseen:
    """A budget's plan and what is expected of it.

    Attributes:
        plan: None where no plan is predicted to fit.
        ratio, low, high: of its time to the unchunked model's, with the 90 % interval.
        latency_ms: None where the model was not measured at any length.
    """

    budget: Budget
    plan: Plan | None
    peak_bytes: int = 0
    ratio: float = 1.0
    low: float = 1.0
    high: float = 1.0
    latency_ms: float | None = None


def cost_of(one: Inspected, stored: StoredModel, model: str) -> tuple[PlanCost, bool]:
    """Predicts plans of a length, and whether its latencies are in real milliseconds: they are
    where the model was measured at some length, and else relative to each other alone."""
    analysis = one.analysis
    name = f"{model} {one.target}".strip()
    known = [base.known for base in stored.baselines if base.model == name]
    calibration = calibrate(known)
    unchunked_s = calibration.seconds(graph_parts(analysis.sized, stored.ceilings))
    whole_ms = {}
    for item in analysis.space.classes:
        features = loop_features(analysis.memory, item.loops[0], item.extent, stored.ceilings)
        whole_ms[item.key] = 1e3 * calibration.seconds(features.whole_parts)
    cost = PlanCost(
        analysis.memory, analysis.space.classes, stored.model, stored.ceilings,
        1e3 * unchunked_s, whole_ms,
    )  # fmt: skip
    return cost, bool(known)


def foresee(
    one: Inspected,
    stored: StoredModel,
    model: str,
    budgets: Sequence[Budget],
    search: SearchConfig,
) -> list[Foreseen]:
    """Each budget's fastest plan by prediction.

    Args:
        one: the model at the length in question.
        model: its name in the stored model's data.
    """
    cost, real = cost_of(one, stored, model)
    analysis = one.analysis
    eager = one.eager_peak_bytes or analysis.memory.profile().peak_bytes
    limits = [budget.resolve(eager) for budget in budgets]
    selector = Selector(analysis.space, cost.extra_seconds)
    seeds = []
    for limit in limits:
        try:
            selected = (
                selector.lowest(cost.unchunked_ms / 1e3, SLOWEST)
                if limit is None
                else selector.within(limit)
            )
        except BudgetError:
            continue  # shown as a budget without a plan
        seeds.append(analysis.space.setting(selected.plan))
    found = propose(analysis.space, cost.predict_all, search, seeds=seeds)
    return [
        _best(budget, limit, found, cost, real)
        for budget, limit in zip(budgets, limits, strict=True)
    ]


def _best(
    budget: Budget, limit: int | None, found: Sequence[Proposal], cost: PlanCost, real: bool
) -> Foreseen:
    base = cost.unchunked_ms
    if limit is None:
        fitting = [one for one in found if one.prediction.latency_ms <= SLOWEST * base]
        fitting.sort(key=lambda one: (one.prediction.peak_bytes, one.prediction.latency_ms))
    else:
        fitting = [one for one in found if one.prediction.peak_bytes <= limit]
        fitting.sort(key=lambda one: (one.prediction.latency_ms, one.prediction.peak_bytes))
    if not fitting:
        return Foreseen(budget, None)
    best = fitting[0].prediction
    reach = Z90 * best.spread_ms
    return Foreseen(
        budget,
        fitting[0].plan,
        best.peak_bytes,
        best.latency_ms / base,
        max(best.latency_ms - reach, 0.0) / base,
        (best.latency_ms + reach) / base,
        best.latency_ms if real else None,
    )
