"""Which proposals are run for real: those from which most is expected to be gained, per budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cost_models.acquisition import fastest, lowest
from cost_models.plans import PlanCost
from search_space.plan import Plan
from tuner.search.proposal import Proposal

DRAWS = 512
"""Latencies drawn for each plan."""

LEAST_GAIN = 0.005
"""Expected gains below this share are below what runs can tell, and are no reason to run."""

LOOP_SHARE = 0.002
"""A loop must be expected to save this share of the latency: of plans alike, fewer loops win."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a confirmed plan's runs gave."""

    latency_ms: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """A plan worth running, and the share of the best known that it is expected to gain."""

    plan: Plan
    gain: float


def worth_running(
    proposals: Sequence[Proposal],
    cost: PlanCost,
    limits: Sequence[int | None],
    known: Mapping[Plan, Known | None],
    *,
    slowest_ms: float,
    count: int,
    seed: int = 0,
    least_gain: float = LEAST_GAIN,
) -> list[Wanted]:
    """For each limit, up to ``count`` plans; fewer, or none, where less is expected to be gained
    than runs can tell.

    A plan whose predicted peak is above a limit is never picked for it.

    Args:
        limits: bytes that each budget allows; None asks for the lowest peak among plans that take
            at most ``slowest_ms``.
        known: plans that were run before, None for those that failed; none is picked again.
    """
    fresh = [proposal for proposal in proposals if proposal.plan not in known]
    if not fresh:
        return []
    plans = [proposal.plan for proposal in fresh]
    peaks = [proposal.prediction.peak_bytes for proposal in fresh]
    loops = np.array([len(plan.choices) for plan in plans])
    draws = cost.draws(plans, DRAWS, seed) * (1 + LOOP_SHARE * loops)
    taken: dict[int, float] = {}
    for limit in limits:
        allowed = [k for k in range(len(fresh)) if limit is None or peaks[k] <= limit]
        allowed = [k for k in allowed if k not in taken]
        if limit is None:
            best_bytes = min(
                (one.peak_bytes for one in known.values() if one and one.latency_ms <= slowest_ms),
                default=np.inf,
            )
            picks = lowest(draws, peaks, allowed, best_bytes, slowest_ms, count, least_gain)
        else:
            fitting = [
                one.latency_ms * (1 + LOOP_SHARE * len(plan.choices))
                for plan, one in known.items()
                if one and one.peak_bytes <= limit
            ]
            picks = fastest(draws, allowed, min(fitting, default=np.inf), count, least_gain)
        taken.update((pick.place, pick.gain) for pick in picks)
    return [Wanted(plans[place], gain) for place, gain in taken.items()]
