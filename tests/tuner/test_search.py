"""Proposing plans: every sampler, without running any."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cost_models.base import Prediction
from search_space.candidates import find_classes
from search_space.plan import Plan
from search_space.space import SearchSpace
from tests.tiny import Tiny
from tuner.config import SAMPLERS, SearchConfig
from tuner.search.proposal import Proposal
from tuner.search.propose import propose

CONFIG = SearchConfig(n_trials=40, seed=3)


@pytest.fixture(scope="module")
def space(tiny_gpt2: Tiny) -> SearchSpace:
    found = SearchSpace(tiny_gpt2.memory, find_classes(tiny_gpt2.memory))
    assert found.size > 10_000
    return found


@pytest.fixture(scope="module")
def small(space: SearchSpace) -> SearchSpace:
    """A space that is enumerated."""
    found = SearchSpace(space.memory, space.classes[:3])
    assert 10 < found.size < 200
    return found


class Predictor:
    """Predicts from the memory model and the number of passes; counts what it is asked."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.asked: Counter[Plan] = Counter()

    def __call__(self, plans: Sequence[Plan]) -> list[Prediction]:
        return [self.one(plan) for plan in plans]

    def one(self, plan: Plan) -> Prediction:
        self.asked[plan] += 1
        loops = {item.regions: item.loops for item in self.space.classes}
        passes = sum(
            loop.passes(choice.chunk_size)
            for choice in plan.choices
            for loop in loops[choice.regions]
        )
        return Prediction(10.0 + passes, 0.5, self.peak(plan))

    def peak(self, plan: Plan) -> int:
        return self.space.memory.profile(plan.choices).peak_bytes


def seeds(space: SearchSpace) -> list[dict[str, int]]:
    """A class at its smallest chunk, two classes off the grid, and a key that nobody knows."""
    first, second = space.classes[0], space.classes[-1]
    return [
        {first.key: space.grids[0][-1]},
        {first.key: 5, second.key: 9},
        {"no such class": 2},
    ]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposals_are_distinct_and_legal(sampler: str, space: SearchSpace) -> None:
    predict = Predictor(space)
    found = propose(space, predict, replace(CONFIG, sampler=sampler), seeds=seeds(space))
    plans = [proposal.plan for proposal in found]
    assert len(set(plans)) == len(plans) > 10
    for plan in plans:
        setting = {
            item.key: choice.chunk_size
            for item in space.classes
            for choice in plan.choices
            if choice.regions == item.regions
        }
        assert len(setting) == len(plan.choices)
        assert space.decode(setting) == plan, "nothing of it had to be dropped"
    assert all(p.prediction == Predictor(space).one(p.plan) for p in found)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_unchanged_model_and_the_seeds_come_first(sampler: str, space: SearchSpace) -> None:
    given = seeds(space)
    found = propose(
        space, Predictor(space), replace(CONFIG, sampler=sampler, n_trials=1), seeds=given
    )
    expected = [space.decode({}), space.decode(given[0]), space.decode(given[1])]
    assert [proposal.plan for proposal in found[:3]] == expected
    assert expected[0].choices == ()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_plan_is_predicted_once(sampler: str, space: SearchSpace) -> None:
    predict = Predictor(space)
    found = propose(space, predict, replace(CONFIG, sampler=sampler), seeds=seeds(space) * 2)
    assert set(predict.asked.values()) == {1}
    assert list(predict.asked) == [proposal.plan for proposal in found]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_seed_gives_the_same_proposals_again(sampler: str, space: SearchSpace) -> None:
    config = replace(CONFIG, sampler=sampler)
    budget = space.memory.profile().peak_bytes // 2
    first, second = (
        propose(space, Predictor(space), config, seeds=seeds(space), loosest_budget_bytes=budget)
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_another_seed_gives_others(sampler: str, space: SearchSpace) -> None:
    config = replace(CONFIG, sampler=sampler)
    other = replace(config, seed=config.seed + 1)
    first, second = (propose(space, Predictor(space), one) for one in (config, other))
    assert {p.plan for p in first} != {p.plan for p in second}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_small_space_is_enumerated(sampler: str, small: SearchSpace) -> None:
    keys = [item.key for item in small.classes]
    every = {
        small.decode(dict(zip(keys, sizes, strict=True)))
        for sizes in itertools.product(*((0, *grid) for grid in small.grids))
    }
    predict = Predictor(small)
    found = propose(small, predict, replace(CONFIG, sampler=sampler, n_trials=small.size))
    assert {proposal.plan for proposal in found} == every
    assert set(predict.asked.values()) == {1}


def test_the_limit_of_trials_holds_for_the_exhaustive_sampler(small: SearchSpace) -> None:
    predict = Predictor(small)
    config = replace(CONFIG, sampler="exhaustive", n_trials=small.size // 2)
    assert 1 < len(propose(small, predict, config)) <= small.size // 2 + 1


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "beam"])
def test_no_more_is_predicted_than_asked_for(sampler: str, space: SearchSpace) -> None:
    predict = Predictor(space)
    propose(space, predict, replace(CONFIG, sampler=sampler, n_trials=7), seeds=seeds(space))
    # the trials, the unchanged model and the seeds
    assert 4 <= sum(predict.asked.values()) <= 7 + 1 + 3


def test_a_space_without_classes_has_one_plan(space: SearchSpace) -> None:
    empty = SearchSpace(space.memory, ())
    found = propose(empty, Predictor(empty), CONFIG)
    assert [proposal.plan for proposal in found] == [Plan(space.memory.graph.fingerprint)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_progress_counts_up_to_its_total(sampler: str, space: SearchSpace) -> None:
    seen: list[tuple[int, int]] = []
    config = replace(CONFIG, sampler=sampler, n_trials=6)
    propose(space, Predictor(space), config, on_trial=lambda done, of: seen.append((done, of)))
    assert seen == [(done, 6) for done in range(1, 7)]


def below(found: tuple[Proposal, ...], budget: int) -> float:
    return sum(p.prediction.peak_bytes <= budget for p in found) / len(found)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_budget_turns_the_sampler_to_plans_below_it(sampler: str, space: SearchSpace) -> None:
    config = replace(CONFIG, sampler=sampler, n_trials=100)
    free = propose(space, Predictor(space), config)
    peaks = sorted(p.prediction.peak_bytes for p in free)
    budget = peaks[len(peaks) // 4]
    bound = propose(space, Predictor(space), config, loosest_budget_bytes=budget)
    assert below(bound, budget) > below(free, budget)
    # those above are kept nevertheless: what is proposed is data
    assert below(bound, budget) < 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_budget_that_nothing_meets_stops_nobody(sampler: str, space: SearchSpace) -> None:
    config = replace(CONFIG, sampler=sampler, n_trials=15)
    assert len(propose(space, Predictor(space), config, loosest_budget_bytes=1)) > 2


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "beam"])
def test_a_sampler_finds_lower_peaks_than_counting_does(sampler: str, space: SearchSpace) -> None:
    def lowest(name: str) -> int:
        config = replace(CONFIG, sampler=name, n_trials=100)
        return min(p.prediction.peak_bytes for p in propose(space, Predictor(space), config))

    assert lowest(sampler) < lowest("exhaustive")
