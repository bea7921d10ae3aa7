"""Scores of cost models on predictions made by hand, and what is held out to get them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models.base import Z90, CostModel, Estimate, Sample
from cost_models.features import Features
from cost_models.folds import CLASSES, LENGTHS, MODELS, folds
from cost_models.ranks import NOISE, rank_correlation, share_interval, tie_width
from cost_models.scoring import Score, held_out_score, judge, noise_floor, score
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
    far = samples({"a": [0.0, 0.1, 0.2, 0.3], "b": [5.0, 5.1, 5.2, 5.3]})
    wrong = scored(far, [0.3, 0.2, 0.1, 0.0, 5.3, 5.2, 5.1, 5.0])
    assert wrong.pairwise_accuracy == 0.0
    assert wrong.spearman == pytest.approx(-1.0)
    # wrong about the groups and right within each: perfect
    right = scored(far, [7.0, 7.1, 7.2, 7.3, 1.0, 1.1, 1.2, 1.3])
    assert right.pairwise_accuracy == 1.0
    assert right.spearman == pytest.approx(1.0)
    assert right.regret == 0.0


def test_compiled_passes_are_not_ranked_among_those_as_they_are() -> None:
    """Which chunk size is fastest is one question, whether to compile another."""
    plain = samples({"a": [0.0, 0.1, 0.2, 0.3]})
    compiled = [
        replace(one, features=replace(ANY, compiled=1), log_ratio=one.log_ratio - 1.0)
        for one in plain
    ]
    # each in order, and the compiled ones taken for slower
    found = scored([*plain, *compiled], [0.0, 0.1, 0.2, 0.3, 1.0, 1.1, 1.2, 1.3])
    assert found.pairs == 6 + 6
    assert found.pairwise_accuracy == 1.0
    assert found.regret == 0.0


def test_coverage_counts_what_lies_within_the_interval() -> None:
    edge = 0.1 * Z90
    found = scored(
        samples({"a": [0.0, 0.0, 0.0, 0.0]}),
        [0.99 * edge, -0.99 * edge, 1.01 * edge, 5.0],
        [0.1, 0.1, 0.1, 0.1],
    )
    assert found.coverage == 0.5


def test_ranks_compare_all_classes_of_a_length_too() -> None:
    # right within each class, and wrong about which class is slower
    far = samples({"a": [0.0, 0.1, 0.2, 0.3], "b": [5.0, 5.1, 5.2, 5.3]})
    found = scored(far, [7.0, 7.1, 7.2, 7.3, 1.0, 1.1, 1.2, 1.3])
    assert found.spearman == pytest.approx(1.0)
    assert found.spearman_across < 0
    assert found.pairwise_accuracy == 1.0
    assert found.pairwise_across == pytest.approx(12 / 28)


def test_order_within_noise_counts_for_nothing() -> None:
    truth = np.array([0.0, 0.1, 0.2, 0.3, 0.301, 0.302])
    # the last three in the wrong order, which nobody could know
    mean = np.array([0.0, 0.1, 0.2, 0.32, 0.31, 0.30])
    assert rank_correlation(truth, mean, NOISE) == pytest.approx(1.0)
    # and with as little right to it in the right order among wrong ones
    assert rank_correlation(truth, -mean, NOISE) == pytest.approx(-1.0)
    assert rank_correlation(np.full(6, 0.1), mean, NOISE) is None


def test_noisier_measurements_tie_more() -> None:
    assert tie_width(np.zeros(5)) == NOISE
    assert tie_width(np.full(5, 0.05)) == pytest.approx(2 * math.sqrt(2) * 0.05)


def test_a_share_of_groups_that_err_together_is_less_certain() -> None:
    hits = np.array([True] * 90 + [False] * 10)
    apart = share_interval([hits[k : k + 1] for k in range(100)])
    together = share_interval([hits[k : k + 10] for k in range(0, 100, 10)])
    assert together[0] < apart[0] < 0.9 < apart[1] <= together[1]
    # the binomial distribution's own standard deviation is 0.03
    assert apart[1] - apart[0] == pytest.approx(2 * 1.96 * 0.03, rel=0.2)


def test_the_noise_floor_is_what_one_half_of_the_runs_says_of_the_other() -> None:
    def repeated(first: float, second: float) -> Sample:
        noise = abs(first - second) / 2
        return Sample(ANY, (first + second) / 2, "a", 64, "m", noise, 1.0, (first, second))

    steady = noise_floor([repeated(k / 10, k / 10) for k in range(6)])
    assert steady is not None and steady.pairwise_accuracy == 1.0 and steady.error == 0.0
    draw = np.random.default_rng(0)
    shaky = [
        repeated(*(k / 100 + draw.normal(0, 0.1, 2))) for k in range(200)
    ]
    found = noise_floor(shaky)
    assert found is not None and found.pairwise_across < 1.0
    assert found.error == pytest.approx(0.1 * math.sqrt(2), rel=0.2)
    assert found.coverage == pytest.approx(0.9, abs=0.06)
    assert noise_floor(samples({"a": [0.1, 0.2]})) is None


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


def of_model(model: str, lengths: Sequence[int]) -> list[Sample]:
    return [Sample(ANY, 0.1, f"{model}{n}", n, model) for n in lengths]


def test_folds_hold_out_the_smallest_lengths_together_then_the_next() -> None:
    both = of_model("a", [64, 32]) + of_model("b", [512, 1024])
    assert folds(both, LENGTHS) == ((1, 2), (0, 3))


def test_a_model_with_one_length_is_never_held_out_by_length() -> None:
    assert folds(of_model("a", [64, 32]) + of_model("b", [7]), LENGTHS) == ((1,), (0,))
    assert folds(of_model("a", [64]) + of_model("b", [7]), LENGTHS) == ()


def test_folds_hold_out_models() -> None:
    both = [*of_model("b", [1]), *of_model("a", [1, 2]), *of_model("b", [3])]
    assert folds(both, MODELS) == ((1, 2), (0, 3))
    assert folds(of_model("a", [1, 2]), MODELS) == ()


def test_folds_of_classes_keep_groups_together() -> None:
    found = samples({name: [0.1, 0.2] for name in "abcdefg"})
    parts = folds(found, CLASSES)
    assert len(parts) == 5
    assert sorted(place for part in parts for place in part) == list(range(14))
    for part in parts:
        inside = {found[place].group for place in part}
        assert not inside & {s.group for i, s in enumerate(found) if i not in part}


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
    verdict = judge(models, data)
    scores = verdict.scores
    assert verdict.model.kind == "right"
    assert isinstance(verdict.model, Told) and len(verdict.model.seen) == len(data)
    assert set(scores) == {"right", "wrong", "blind", "roofline"}
    assert scores["right"].regret == 0.0
    assert scores["wrong"].regret == pytest.approx(math.expm1(0.05 * 14))
    assert scores["right"].merit > scores["blind"].merit > scores["wrong"].merit


def test_ranks_break_ties_of_regret() -> None:
    data = rising([1, 3])
    better = replace(
        score("a", "lengths", data, np.zeros(len(data)), np.ones(len(data))),
        pairwise_accuracy=0.9,
        regret=0.101,
    )
    worse = replace(better, pairwise_accuracy=0.8, regret=0.099)
    least = replace(better, pairwise_accuracy=0.5, regret=0.05)
    assert least.merit > better.merit > worse.merit


def test_without_two_folds_the_first_model_stands() -> None:
    data = samples({"a": [0.1, 0.2, 0.3]})
    verdict = judge([Told("first", -1.0), Told("second", 1.0)], data)
    assert verdict.model.kind == "first"
    assert isinstance(verdict.model, Told) and verdict.model.seen == (0.1, 0.2, 0.3)
    assert not verdict.scores
    assert "too few" in verdict.text


def test_a_model_that_does_not_beat_the_roofline_is_not_used() -> None:
    def by_roofline(one: Sample) -> Sample:
        ratio = math.exp(one.features.passes / 50)
        shaped = replace(one.features, roofline_chunked_s=ratio * one.features.roofline_whole_s)
        return replace(one, features=shaped)

    # the roofline orders all of these rightly, and nobody can do better
    data = [by_roofline(one) for one in rising([1, 3])]
    verdict = judge([Told("wrong", -0.05), Told("equal", 0.05)], data)
    assert verdict.model.kind == "roofline"
    assert verdict.refused == ("wrong", "equal")
    assert "not used: wrong, equal" in verdict.text
