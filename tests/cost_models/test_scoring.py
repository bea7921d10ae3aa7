"""Scores of cost models on predictions made by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models.base import CostModel, Estimate, Sample
from cost_models.features import Features
from cost_models.scoring import NOISE, Score, choose, folds, held_out_score, score
from tests.cost_models.made_features import drawn_features

(ANY,) = drawn_features(1)


def samples(groups: dict[str, list[float]], length: int = 64) -> list[Sample]:
    """Samples whose features do not matter, by group."""
    return [
        Sample(ANY, value, group, length) for group, values in groups.items() for value in values
    ]


def scored(
    found: Sequence[Sample], mean: Sequence[float], spread: Sequence[float] | None = None
) -> Score:
    spreads = np.ones(len(found)) if spread is None else np.array(spread)
    return score("made", "lengths", found, np.array(mean), spreads)


TRUTH = {"a": [0.0, 0.1, 0.3, 0.6], "b": [0.2, 0.25, 0.5]}
FLAT = [value for values in TRUTH.values() for value in values]


def test_perfect_predictions_score_best() -> None:
    found = scored(samples(TRUTH), FLAT)
    assert found.samples == 7
    assert found.pairs == 6 + 3
    assert found.pairwise_accuracy == 1.0
    assert found.spearman == pytest.approx(1.0)
    assert found.regret == 0.0
    assert found.error == 0.0
    assert found.coverage == 1.0


def test_reversed_predictions_score_worst() -> None:
    found = scored(samples(TRUTH), [-value for value in FLAT])
    assert found.pairwise_accuracy == 0.0
    assert found.spearman == pytest.approx(-1.0)
    # the slowest is taken for the fastest in both groups
    assert found.regret == pytest.approx((math.expm1(0.6) + math.expm1(0.3)) / 2)


def test_a_constant_prediction_orders_no_pair() -> None:
    found = scored(samples(TRUTH), [0.2] * 7)
    assert found.pairwise_accuracy == 0.5
    assert math.isnan(found.spearman)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_a_constant_prediction_gets_no_credit_from_the_order(order: list[int]) -> None:
    # who is blind to chunking does not know the fastest, even where it happens to stand first
    truth = [TRUTH["a"][place] for place in order]
    found = scored(samples({"a": truth}), [0.2] * 4)
    assert found.regret > 0


def test_the_error_is_the_root_of_the_mean_square() -> None:
    found = scored(samples({"a": [0.0, 1.0]}), [0.3, 0.6])
    assert found.error == pytest.approx(math.sqrt((0.09 + 0.16) / 2))


def test_ties_within_noise_are_not_counted() -> None:
    close = samples({"a": [0.0, 0.9 * NOISE, 1.0]})
    # the first two in the wrong order, which nobody could know
    found = scored(close, [0.02, 0.01, 1.0])
    assert found.pairs == 2
    assert found.pairwise_accuracy == 1.0
    nothing = scored(samples({"a": [0.0, 0.5 * NOISE]}), [1.0, 0.0])
    assert nothing.pairs == 0
    assert math.isnan(nothing.pairwise_accuracy)


def test_a_group_of_one_is_no_pair_and_no_rank() -> None:
    found = scored(samples({"a": [0.1], "b": [0.5], "c": [0.9]}), [0.9, 0.5, 0.1])
    assert found.pairs == 0
    assert math.isnan(found.spearman)
    assert found.regret == 0.0


def test_what_is_between_groups_does_not_matter() -> None:
    # right about which group is slower and wrong within each: worthless
    far = samples({"a": [0.0, 0.1, 0.2], "b": [5.0, 5.1, 5.2]})
    wrong = scored(far, [0.2, 0.1, 0.0, 5.2, 5.1, 5.0])
    assert wrong.pairwise_accuracy == 0.0
    assert wrong.spearman == pytest.approx(-1.0)
    # wrong about the groups and right within each: perfect
    right = scored(far, [7.0, 7.1, 7.2, 1.0, 1.1, 1.2])
    assert right.pairwise_accuracy == 1.0
    assert right.spearman == pytest.approx(1.0)
    assert right.regret == 0.0


def test_coverage_counts_what_lies_within_two_spreads() -> None:
    found = scored(
        samples({"a": [0.0, 0.0, 0.0, 0.0]}), [0.19, -0.19, 0.21, 5.0], [0.1, 0.1, 0.1, 0.1]
    )
    assert found.coverage == 0.5


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.data())
def test_scores_are_shares_and_do_not_depend_on_the_order(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 10))
    numbers = st.lists(
        st.integers(-100, 100), min_size=count, max_size=count, unique=True
    )
    truth, mean = data.draw(numbers), data.draw(numbers)
    groups = data.draw(st.lists(st.sampled_from("ab"), min_size=count, max_size=count))
    rows = [
        (Sample(ANY, 0.02 * t, group, 1), 0.02 * m)
        for t, m, group in zip(truth, mean, groups, strict=True)
    ]
    found = scored(*zip(*rows, strict=True))
    other = scored(*zip(*data.draw(st.permutations(rows)), strict=True))
    for name in ("pairwise_accuracy", "spearman", "regret", "error", "coverage"):
        assert getattr(found, name) == pytest.approx(getattr(other, name), nan_ok=True)
    assert found.pairs == other.pairs <= count * (count - 1) // 2
    assert found.pairs == 0 or 0 <= found.pairwise_accuracy <= 1
    assert 0 <= found.coverage <= 1
    assert found.regret >= 0


def test_folds_hold_out_lengths_where_there_are_several() -> None:
    both = samples({"a": [0.1, 0.2], "b": [0.3]}, 64) + samples({"c": [0.4], "d": [0.5]}, 32)
    held_out, parts = folds(both)
    assert held_out == "lengths"
    assert parts == [[3, 4], [0, 1, 2]]


def test_folds_hold_out_classes_where_there_is_one_length() -> None:
    mixed = [*samples({"b": [0.1], "a": [0.2]}), *samples({"b": [0.3]})]
    held_out, parts = folds(mixed)
    assert held_out == "classes"
    assert parts == [[1], [0, 2]]


@dataclass(frozen=True)
class Told:
    """Predicts ``slope`` times the passes plus, once fitted, the mean of its samples; notes what it
    was fitted to."""

    kind: str
    slope: float
    level: float = 0.0
    seen: tuple[float, ...] = ()

    def fit(self, samples: Sequence[Sample]) -> Told:
        values = tuple(sample.log_ratio for sample in samples)
        return Told(self.kind, self.slope, sum(values) / len(values), values)

    def estimate(self, features: Sequence[Features]) -> list[Estimate]:
        return [Estimate(self.slope * one.passes + self.level, 0.1) for one in features]


def rising(lengths: Sequence[int]) -> list[Sample]:
    """Log ratios that rise with the passes, two groups a length, levels that differ by length."""
    found = []
    for length in lengths:
        for group in ("a", "b"):
            for passes in (2, 4, 8, 16):
                one = replace(ANY, passes=passes)
                found.append(Sample(one, 0.05 * passes + length, f"{group}@{length}", length))
    return found


def test_each_fold_is_predicted_by_a_model_that_has_not_seen_it() -> None:
    found = held_out_score(Told("true", 0.05), rising([1, 3]))
    assert found is not None
    assert found.held_out == "lengths"
    # fitted to the other length alone: its mean is that of 0.05 passes, and 2 away
    mean_of_passes = 0.05 * (2 + 4 + 8 + 16) / 4
    assert found.error == pytest.approx(
        math.sqrt(((2 + mean_of_passes) ** 2 + (2 - mean_of_passes) ** 2) / 2)
    )
    assert found.pairwise_accuracy == 1.0


def test_a_single_fold_has_no_score() -> None:
    assert held_out_score(Told("any", 1.0), samples({"a": [0.1, 0.2]})) is None


@pytest.mark.parametrize("turned", [False, True])
def test_the_model_of_the_least_regret_is_chosen_and_fitted_to_all(turned: bool) -> None:
    models: list[CostModel] = [Told("wrong", -0.05), Told("right", 0.05), Told("blind", 0.0)]
    if turned:
        models.reverse()
    data = rising([1, 3])
    chosen, scores = choose(models, data)
    assert chosen.kind == "right"
    assert isinstance(chosen, Told) and len(chosen.seen) == len(data)
    assert set(scores) == {"right", "wrong", "blind"}
    assert scores["right"].regret == 0.0
    assert scores["wrong"].regret == pytest.approx(math.expm1(0.05 * 14))
    assert scores["right"].merit > scores["blind"].merit > scores["wrong"].merit


def test_ranks_break_ties_of_regret() -> None:
    better = Score("a", "lengths", 9, 9, 0.9, 0.0, regret=0.101, error=0.0, coverage=1.0)
    worse = replace(better, pairwise_accuracy=0.8, regret=0.099)
    least = replace(better, pairwise_accuracy=0.5, regret=0.05)
    assert least.merit > better.merit > worse.merit


def test_without_two_folds_the_first_model_stands() -> None:
    data = samples({"a": [0.1, 0.2, 0.3]})
    chosen, scores = choose([Told("first", -1.0), Told("second", 1.0)], data)
    assert chosen.kind == "first"
    assert isinstance(chosen, Told) and chosen.seen == (0.1, 0.2, 0.3)
    assert not scores
