"""Predictions of plans of which all or a part runs compiled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from cost_models.base import Estimate
from cost_models.features import Features, class_features
from cost_models.plans import PlanCost
from cost_models.roofline import SPREAD, Roofline
from cost_models.times import compiled_log_ratio, graph_works
from search_space.candidates import find_classes
from search_space.classes import RegionClass
from search_space.plan import Choice, Plan
from search_space.space import SearchSpace, make_plan
from tests.cost_models.made_pairs import pair_of
from tests.cost_models.made_rates import CPU
from tests.tiny import Tiny

UNCHUNKED_MS = 40.0


@dataclass(frozen=True)
class Twice:
    """Passes take twice as long as the region whole; a third of that where they are compiled."""

    kind: str = "twice"

    def fit(self, samples: object) -> Twice:
        return self

    def estimate(self, features: Sequence[Features]) -> list[Estimate]:
        return [Estimate(math.log(2 / 3 if one.compiled else 2.0), 0.1) for one in features]


@pytest.fixture(scope="module")
def space(tiny_gpt2: Tiny) -> SearchSpace:
    return SearchSpace(tiny_gpt2.memory, find_classes(tiny_gpt2.memory))


@pytest.fixture(scope="module")
def pair(space: SearchSpace) -> tuple[RegionClass, RegionClass]:
    """Two classes that can be chosen together."""
    return pair_of(space)


def cost_of(space: SearchSpace, whole_ms: float = 0.5) -> PlanCost:
    whole = {item.key: whole_ms for item in space.classes}
    return PlanCost(
        space.memory, space.classes, Twice(), CPU, UNCHUNKED_MS, whole, compiled_model=Twice()
    )


def plan(space: SearchSpace, *items: RegionClass) -> Plan:
    return make_plan(space.memory.graph, [Choice(item.regions, 2) for item in items])


def test_each_class_is_predicted_as_it_runs(
    space: SearchSpace, pair: tuple[RegionClass, RegionClass]
) -> None:
    first, _ = pair
    bodies = replace(plan(space, *pair).as_compiled(), stretches=False)
    left = bodies.compiled_but(first.regions)
    cost = cost_of(space)
    first_ms, second_ms = (0.5 * len(item.loops) for item in pair)
    asis, whole, part = (
        cost.predict(one).latency_ms for one in (plan(space, *pair), bodies, left)
    )
    assert asis == pytest.approx(UNCHUNKED_MS + first_ms + second_ms)
    assert whole == pytest.approx(UNCHUNKED_MS - (first_ms + second_ms) / 3)
    assert part == pytest.approx(UNCHUNKED_MS + first_ms - second_ms / 3)


def test_stretches_are_what_stands_between_loops(
    space: SearchSpace, pair: tuple[RegionClass, RegionClass]
) -> None:
    cost = cost_of(space)
    graph = space.memory.graph
    inside = {int(node) for loop in pair[0].loops for node in loop.owned}
    rest = [node.index for node in graph.nodes if node.index not in inside]
    works = graph_works(graph)
    rest = [node for node in rest if node in works]
    ratio = compiled_log_ratio(graph, rest, works, CPU, 1 + len(pair[0].loops))
    assert ratio < 0
    own_ms = 0.5 * len(pair[0].loops)
    expected = UNCHUNKED_MS + own_ms + (UNCHUNKED_MS - own_ms) * math.expm1(ratio)
    only = replace(plan(space, pair[0]), stretches=True)
    assert cost.predict(only).latency_ms == pytest.approx(expected)
    # without loops that is all of the model
    everything = compiled_log_ratio(graph, works, works, CPU)
    found = cost.predict(plan(space).as_compiled())
    assert found.latency_ms == pytest.approx(UNCHUNKED_MS * math.exp(everything))
    # the roofline alone knows, and not well
    assert found.spread_ms > 0.9 * SPREAD * found.latency_ms


def test_loops_that_take_more_than_all_leave_something_to_stretches(
    space: SearchSpace, pair: tuple[RegionClass, RegionClass]
) -> None:
    cost = cost_of(space, whole_ms=10 * UNCHUNKED_MS)
    found = cost.predict(plan(space, *pair).as_compiled())
    assert 0 < found.latency_ms < math.inf


def test_peaks_are_those_of_the_plan_uncompiled(
    space: SearchSpace, pair: tuple[RegionClass, RegionClass]
) -> None:
    cost, one = cost_of(space), plan(space, *pair)
    assert cost.predict(one.as_compiled()).peak_bytes == cost.predict(one).peak_bytes


def test_compiled_runs_correct_compiled_plans_alone(
    space: SearchSpace, pair: tuple[RegionClass, RegionClass]
) -> None:
    cost, one = cost_of(space), plan(space, pair[0])
    whole = one.as_compiled()
    measured = 0.8 * cost.predict(whole).latency_ms
    corrected = cost.corrected([(whole, measured)])
    assert corrected.predict(one) == cost.predict(one)
    before, after = cost.predict(whole).latency_ms, corrected.predict(whole).latency_ms
    assert measured < after < before
    # what it shows of stretches holds for other plans
    other = replace(plan(space, pair[1]), stretches=True)
    assert corrected.predict(other).latency_ms < cost.predict(other).latency_ms


def test_plans_that_share_stretches_err_together(
    space: SearchSpace, pair: tuple[RegionClass, RegionClass]
) -> None:
    cost = cost_of(space, whole_ms=0.01)
    plans = [replace(plan(space, item), stretches=True) for item in pair]
    draws = cost.draws([*plans, plan(space, pair[0])], 2000, seed=0)
    together: Any = np.corrcoef(draws.T)
    assert together[0, 1] > 0.6 > abs(together[0, 2])


def test_nothing_learned_of_compiled_passes_leaves_the_roofline(
    space: SearchSpace, pair: tuple[RegionClass, RegionClass]
) -> None:
    whole = {item.key: 0.5 for item in space.classes}
    cost = PlanCost(space.memory, space.classes, Twice(), CPU, UNCHUNKED_MS, whole)
    assert cost.compiled_model == Roofline()
    bodies = replace(plan(space, pair[0]).as_compiled(), stretches=False)
    features = class_features(space.memory, pair[0], 2, CPU, compiled=True)
    own_ms = 0.5 * len(pair[0].loops)
    expected = UNCHUNKED_MS + own_ms * math.expm1(features.roofline_log_ratio)
    assert cost.predict(bodies).latency_ms == pytest.approx(expected)


def test_features_say_what_is_compiled(space: SearchSpace) -> None:
    for item in space.classes:
        plain, compiled = (
            class_features(space.memory, item, 2, CPU, compiled=flag) for flag in (False, True)
        )
        assert (plain.compiled, compiled.compiled) == (0, 1)
        assert compiled.store_s == 0.0
        assert compiled.roofline_whole_s == plain.roofline_whole_s
        assert compiled.pass_bytes == plain.pass_bytes
        assert compiled.vector() != plain.vector()
