"""Searching with real runs on a device whose costs are known, so that the optimum is known too."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models.base import CostModel, Estimate
from cost_models.features import Features
from cost_models.plans import PlanCost
from search_space.candidates import find_classes
from search_space.plan import Plan
from search_space.space import SearchSpace
from tests.cost_models.made_rates import PLAIN
from tests.tiny import Tiny
from tuner.config import SAMPLERS, SearchConfig
from tuner.search.acquire import LOOP_SHARE, Known, worth_running
from tuner.search.propose import propose

UNCHUNKED_MS = 40.0
SLOWEST_MS = 1.5 * UNCHUNKED_MS
NOISE = 0.002
"""Of the synthetic device, one standard deviation of a run."""


@dataclass(frozen=True)
class Device:
    """Log ratios by a formula: chunks pay until they are small, and more in large bodies. A
    believer in it is off by what ``off`` adds."""

    off: float = 0.0
    spread: float = 0.02
    kind: str = "device"

    def fit(self, samples: object) -> Device:
        return self

    def estimate(self, features: Sequence[Features]) -> list[Estimate]:
        return [Estimate(self._log_ratio(one), self.spread) for one in features]

    def _log_ratio(self, one: Features) -> float:
        doublings = math.log2(one.passes)
        gain = 0.1 + 0.02 * (one.nodes % 7)
        return 0.05 * (doublings - 2) ** 2 - gain + self.off * (1 + 0.3 * doublings)


@pytest.fixture(scope="module")
def space(tiny_gpt2: Tiny) -> SearchSpace:
    classes = find_classes(tiny_gpt2.memory)
    chosen = sorted(classes, key=lambda item: (-item.saves_bytes, item.key))[::9][:4]
    found = SearchSpace(tiny_gpt2.memory, tuple(chosen))
    assert 200 < found.size < 5000
    return found


def cost(space: SearchSpace, model: CostModel) -> PlanCost:
    whole = {item.key: 1.5 + 0.4 * k for k, item in enumerate(space.classes)}
    return PlanCost(
        space.memory, space.classes, model, PLAIN, UNCHUNKED_MS, whole
    )


@pytest.fixture(scope="module")
def truth(space: SearchSpace) -> Mapping[Plan, Known]:
    """Every plan of the space as the device runs it, without noise."""
    real = cost(space, Device())
    keys = [item.key for item in space.classes]
    plans = {
        space.decode(dict(zip(keys, sizes, strict=True)))
        for sizes in itertools.product(*((0, *grid) for grid in space.grids))
    }
    order = sorted(plans, key=lambda plan: repr(plan.choices))
    found = zip(order, real.predict_all(order), strict=True)
    return {plan: Known(one.latency_ms, one.peak_bytes) for plan, one in found}


def tuned(
    space: SearchSpace,
    truth: Mapping[Plan, Known],
    limits: Sequence[int | None],
    off: float,
    config: SearchConfig,
) -> tuple[dict[Plan, Known | None], int]:
    """Rounds as a campaign has them, until nothing more is expected; all runs, and the rounds."""
    random = np.random.default_rng(config.seed)
    model = cost(space, Device(off, spread=max(0.02, 2 * abs(off))))
    loosest = max(limit for limit in limits if limit is not None)
    known: dict[Plan, Known | None] = {}
    for number in range(12):
        found = propose(
            space, model.predict_all, replace(config, seed=config.seed + number),
            loosest_budget_bytes=loosest,
        )  # fmt: skip
        wanted = worth_running(found, model, limits, known, slowest_ms=SLOWEST_MS, count=3)
        if not wanted:
            return known, number
        for one in wanted:
            real = truth[one.plan]
            noise = math.exp(random.normal(0, NOISE))
            known[one.plan] = Known(real.latency_ms * noise, real.peak_bytes)
        runs = [(plan, one.latency_ms) for plan, one in known.items() if one is not None]
        model = model.corrected(runs)
    return known, 12


def limits_of(truth: Mapping[Plan, Known]) -> list[int]:
    peaks = sorted(one.peak_bytes for one in truth.values())
    return [peaks[len(peaks) // 10], peaks[len(peaks) // 2]]


@pytest.mark.parametrize("off", [0.0, 0.04, -0.04])
def test_the_optimum_of_a_known_device_is_found(
    off: float, space: SearchSpace, truth: Mapping[Plan, Known]
) -> None:
    limits = limits_of(truth)
    config = SearchConfig(sampler="tpe", n_trials=space.size)
    known, rounds = tuned(space, truth, limits, off, config)
    assert rounds < 12, "it ends because nothing more is expected"
    assert len(known) < len(truth) / 5
    for limit in limits:
        best = min(one.latency_ms for one in truth.values() if one.peak_bytes <= limit)
        run = [truth[plan] for plan, one in known.items() if one and one.peak_bytes <= limit]
        found = min(one.latency_ms for one in run)
        # what runs cannot tell apart, and what a loop must be worth, is a tie
        assert found <= best * (1 + 3 * NOISE + 2 * LOOP_SHARE)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_comes_near_in_a_fraction_of_the_space(
    sampler: str, space: SearchSpace, truth: Mapping[Plan, Known]
) -> None:
    (limit, _) = limits_of(truth)
    config = SearchConfig(sampler=sampler, n_trials=space.size // 4)
    known, _ = tuned(space, truth, [limit], 0.0, config)
    best = min(one.latency_ms for one in truth.values() if one.peak_bytes <= limit)
    found = min(
        truth[plan].latency_ms for plan, one in known.items() if one and one.peak_bytes <= limit
    )
    assert found <= 1.03 * best


def test_the_same_campaign_runs_the_same_plans(
    space: SearchSpace, truth: Mapping[Plan, Known]
) -> None:
    config = SearchConfig(sampler="tpe", n_trials=60)
    first, second = (tuned(space, truth, limits_of(truth), 0.03, config) for _ in range(2))
    assert first == second


def test_the_lowest_peak_that_is_fast_enough_is_found(
    space: SearchSpace, truth: Mapping[Plan, Known]
) -> None:
    limits: list[int | None] = [*limits_of(truth), None]
    config = SearchConfig(sampler="tpe", n_trials=space.size)
    known, _ = tuned(space, truth, limits, 0.0, config)
    least = min(one.peak_bytes for one in truth.values() if one.latency_ms <= SLOWEST_MS)
    assert min(one.peak_bytes for one in known.values() if one is not None) <= least * 1.005


@settings(max_examples=25, derandomize=True, deadline=None)
@given(data=st.data())
def test_a_plan_that_is_predicted_not_to_fit_is_never_run(
    data: st.DataObject, space: SearchSpace, truth: Mapping[Plan, Known]
) -> None:
    model = cost(space, Device(data.draw(st.floats(-0.3, 0.3)), data.draw(st.floats(0.01, 1.0))))
    seed = data.draw(st.integers(0, 99))
    config = SearchConfig(sampler="random", n_trials=20, seed=seed)
    found = propose(space, model.predict_all, config)
    peaks = sorted({one.prediction.peak_bytes for one in found})
    limits = data.draw(st.lists(st.sampled_from([peaks[0] - 1, *peaks]), min_size=1, max_size=3))
    ran = data.draw(st.lists(st.sampled_from([one.plan for one in found]), unique=True))
    known = {plan: data.draw(st.sampled_from([truth[plan], None])) for plan in ran}
    wanted = worth_running(
        found, model, limits, known, slowest_ms=SLOWEST_MS, count=3, least_gain=0.0, seed=seed
    )
    predicted = {one.plan: one.prediction.peak_bytes for one in found}
    assert len({one.plan for one in wanted}) == len(wanted) <= 3 * len(limits)
    for one in wanted:
        assert predicted[one.plan] <= max(limits)
        assert one.plan not in known
