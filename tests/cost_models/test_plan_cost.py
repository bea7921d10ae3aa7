"""Predictions of whole plans, and their correction by confirmed runs."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import pytest

from cost_models.base import CostModel, Estimate
from cost_models.features import loop_features
from cost_models.macro_micro import MacroMicro
from cost_models.plans import PlanCost
from cost_models.roofline import Roofline
from search_space.candidates import find_classes
from search_space.classes import RegionClass
from search_space.plan import Choice, Plan
from search_space.space import SearchSpace, make_plan
from tests.cost_models.made_pairs import pair_of
from tests.cost_models.made_rates import PLAIN as CPU
from tests.tiny import Tiny

UNCHUNKED_MS = 40.0
WHOLE_MS = 0.5


@pytest.fixture(scope="module")
def space(tiny_gpt2: Tiny) -> SearchSpace:
    return SearchSpace(tiny_gpt2.memory, find_classes(tiny_gpt2.memory))


@pytest.fixture(scope="module")
def pair(space: SearchSpace) -> tuple[RegionClass, RegionClass]:
    """Two classes that can be chosen together, one of them with several occurrences."""
    return pair_of(space, 2)


@pytest.fixture(params=[Roofline(), MacroMicro()], ids=lambda model: str(model.kind))
def cost(request: pytest.FixtureRequest, space: SearchSpace) -> PlanCost:
    return made(space, request.param)


def made(space: SearchSpace, model: CostModel) -> PlanCost:
    whole = {item.key: WHOLE_MS + 0.01 * k for k, item in enumerate(space.classes)}
    return PlanCost(space.memory, space.classes, model, CPU, UNCHUNKED_MS, whole)


def plan(space: SearchSpace, *settings: tuple[RegionClass, int]) -> Plan:
    choices = [Choice(item.regions, size) for item, size in settings]
    return make_plan(space.memory.graph, choices)


def latency(cost: PlanCost, *settings: tuple[RegionClass, int]) -> float:
    choices = [Choice(item.regions, size) for item, size in settings]
    return cost.predict(make_plan(cost.memory.graph, choices)).latency_ms


def test_the_empty_plan_is_the_unchunked_model(space: SearchSpace, cost: PlanCost) -> None:
    found = cost.predict(Plan(space.memory.graph.fingerprint))
    assert found.latency_ms == UNCHUNKED_MS
    assert found.spread_ms > 0
    assert found.peak_bytes == space.memory.profile().peak_bytes


def test_the_peak_is_the_memory_models(space: SearchSpace, cost: PlanCost) -> None:
    lower = 0
    for item, grid in zip(space.classes, space.grids, strict=True):
        for size in grid:
            one = plan(space, (item, size))
            peak = space.memory.profile(one.choices).peak_bytes
            assert cost.predict(one).peak_bytes == peak
            lower += peak < space.memory.profile().peak_bytes
    assert lower > 0


def test_a_class_adds_its_occurrences_times_their_difference(
    space: SearchSpace, cost: PlanCost
) -> None:
    for item in space.classes:
        features = loop_features(space.memory, item.loops[0], 2, CPU)
        (found,) = cost.model.estimate([features])
        each_ms = cost.whole_ms[item.key] * math.expm1(found.log_ratio)
        expected = UNCHUNKED_MS + len(item.loops) * each_ms
        assert latency(cost, (item, 2)) == pytest.approx(max(expected, 0.02 * UNCHUNKED_MS))
        assert cost.extra_seconds(item, 2) == pytest.approx(len(item.loops) * each_ms / 1e3)


def test_classes_add_up(pair: tuple[RegionClass, RegionClass], cost: PlanCost) -> None:
    first, second = pair
    alone = [latency(cost, (first, 2)), latency(cost, (second, 3))]
    assert all(one != UNCHUNKED_MS for one in alone)
    both = latency(cost, (first, 2), (second, 3))
    assert both - UNCHUNKED_MS == pytest.approx(sum(alone) - 2 * UNCHUNKED_MS)


def test_each_further_choice_adds_to_the_spread(
    pair: tuple[RegionClass, RegionClass], space: SearchSpace, cost: PlanCost
) -> None:
    first, second = pair
    none = cost.predict(plan(space)).spread_ms
    one = cost.predict(plan(space, (first, 2))).spread_ms
    two = cost.predict(plan(space, (first, 2), (second, 3))).spread_ms
    assert none < one < two


def test_a_chunk_that_covers_the_extent_changes_nothing(
    pair: tuple[RegionClass, RegionClass], cost: PlanCost
) -> None:
    for size in (pair[0].extent, pair[0].extent + 5):
        assert latency(cost, (pair[0], size)) == UNCHUNKED_MS


class Free:
    """Predicts that chunked regions take no time at all."""

    kind = "free"

    def fit(self, samples: object) -> Free:
        return self

    def estimate(self, features: object) -> list[Estimate]:
        return [Estimate(-50.0, 0.1)]


def test_no_plan_is_predicted_to_take_no_time(
    pair: tuple[RegionClass, RegionClass], space: SearchSpace
) -> None:
    whole = {item.key: UNCHUNKED_MS for item in space.classes}
    cost = PlanCost(space.memory, space.classes, Free(), CPU, UNCHUNKED_MS, whole)
    assert 0 < latency(cost, (pair[0], 2)) < 0.1 * UNCHUNKED_MS


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.5])
def test_a_confirmed_plan_is_predicted_nearer_to_its_latency(
    factor: float, pair: tuple[RegionClass, RegionClass], space: SearchSpace, cost: PlanCost
) -> None:
    both = plan(space, (pair[0], 2), (pair[1], 3))
    before = cost.predict(both).latency_ms
    measured = factor * before
    corrected = cost.corrected([(both, measured)])
    after = corrected.predict(both).latency_ms
    assert min(before, measured) < after < max(before, measured)
    # what was learned of the classes holds for other chunk sizes too
    moved = latency(corrected, (pair[0], 4)) - latency(cost, (pair[0], 4))
    assert moved * (factor - 1) > 0


def test_many_confirmations_weigh_more_than_one(
    pair: tuple[RegionClass, RegionClass], space: SearchSpace, cost: PlanCost
) -> None:
    one = plan(space, (pair[0], 2))
    measured = 1.3 * cost.predict(one).latency_ms
    errors = [
        measured - cost.corrected([(one, measured)] * count).predict(one).latency_ms
        for count in (1, 10, 1000)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0


def test_correcting_leaves_the_original_and_other_classes(
    pair: tuple[RegionClass, RegionClass], space: SearchSpace, cost: PlanCost
) -> None:
    first, second = pair
    one, other = plan(space, (first, 2)), plan(space, (second, 2))
    before = (cost.predict(one), cost.predict(other), dict(cost.bias))
    corrected = cost.corrected([(one, 2 * UNCHUNKED_MS)])
    assert (cost.predict(one), cost.predict(other), dict(cost.bias)) == before
    assert corrected.predict(one) != before[0]
    assert corrected.predict(other) == before[1]
    assert corrected.predict(plan(space)).latency_ms == UNCHUNKED_MS
    with pytest.raises(FrozenInstanceError):
        cost.unchunked_ms = 1.0  # type: ignore[misc]


def test_each_correction_starts_anew(
    pair: tuple[RegionClass, RegionClass], space: SearchSpace, cost: PlanCost
) -> None:
    one = plan(space, (pair[0], 2))
    runs = [(one, 1.4 * UNCHUNKED_MS)]
    once = cost.corrected(runs)
    assert once.corrected(runs).predict(one) == once.predict(one)
    assert once.corrected([]).predict(one) == cost.predict(one)


def test_runs_without_choices_teach_nothing(
    space: SearchSpace, pair: tuple[RegionClass, RegionClass], cost: PlanCost
) -> None:
    corrected = cost.corrected([(plan(space), 2 * UNCHUNKED_MS)])
    assert corrected.predict(plan(space)).latency_ms == UNCHUNKED_MS
    assert latency(corrected, (pair[0], 2)) == latency(cost, (pair[0], 2))


def test_a_run_that_was_predicted_rightly_corrects_nothing(
    pair: tuple[RegionClass, RegionClass], space: SearchSpace, cost: PlanCost
) -> None:
    one = plan(space, (pair[0], 2))
    corrected = cost.corrected([(one, cost.predict(one).latency_ms)])
    assert corrected.bias == {pair[0].key: pytest.approx(0.0, abs=1e-12)}


def test_predicting_is_the_same_in_any_order(
    space: SearchSpace, pair: tuple[RegionClass, RegionClass]
) -> None:
    # estimates are kept between calls
    plans = [plan(space, (pair[0], size)) for size in (2, 3, 4)]
    first, second = made(space, Roofline()), made(space, Roofline())
    forwards = [first.predict(one) for one in plans]
    backwards = [second.predict(one) for one in reversed(plans)]
    assert forwards == backwards[::-1] == [first.predict(one) for one in plans]
