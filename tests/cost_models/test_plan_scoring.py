"""Scores of whole plans, on reference sets whose costs are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from cost_models.base import Estimate, Sample
from cost_models.features import Features
from cost_models.folds import LENGTHS, MODELS
from cost_models.plan_scoring import hold_out, memory_score, plan_score
from cost_models.reference import PlanRun, Reference, ReferenceClass, budgets_of, feasible, regret
from cost_models.times import Parts
from tests.cost_models.made_features import drawn_features

WHOLE_S = 0.01
"""Of each class's one occurrence; the roofline knows it."""


def truth(one: Features) -> float:
    return 0.1 * math.log2(one.passes)


@dataclass(frozen=True)
class Knowing:
    """Knows the truth, or its opposite; notes what it was fitted to."""

    kind: str = "knowing"
    sign: float = 1.0
    seen: tuple[tuple[str, int], ...] = ()

    def fit(self, samples: Sequence[Sample]) -> Knowing:
        return replace(self, seen=tuple((one.model, one.length) for one in samples))

    def estimate(self, features: Sequence[Features]) -> list[Estimate]:
        return [Estimate(self.sign * truth(one), 0.02) for one in features]


def features(passes: int) -> Features:
    (one,) = drawn_features(1)
    return replace(
        one, passes=passes, roofline_whole_s=WHOLE_S, product_whole_s=WHOLE_S, launch_whole_s=0.0
    )


def reference(model: str, length: int, noise: float = 0.0) -> Reference:
    """Two classes in four sizes each; the graph takes ten times a class's time at length 1."""
    draw = np.random.default_rng(length)
    unchunked_ms = 100.0 * length
    classes = {
        key: ReferenceClass(key, 1, {size: features(16 // size) for size in (1, 2, 4, 8)})
        for key in "ab"
    }
    runs = []
    for sizes in itertools.product((0, 1, 2, 4, 8), repeat=2):
        setting = tuple((key, size) for key, size in zip("ab", sizes, strict=True) if size)
        extra = sum(
            10 * (math.exp(truth(classes[key].features[size])) - 1) for key, size in setting
        )
        ratio = math.log(1 + extra / unchunked_ms)
        halves = tuple(ratio + draw.normal(0, noise, 2) if noise else (ratio, ratio))
        peak = 1000 - sum(100 - 10 * size for _, size in setting)
        runs.append(PlanRun(setting, peak, peak, unchunked_ms * math.exp(ratio),
                            sum(halves) / 2, (float(halves[0]), float(halves[1]))))  # fmt: skip
    parts = Parts(0.0, 0.1 * length, 0.0)
    return Reference(model, length, parts, unchunked_ms, classes, tuple(runs))


REFERENCES = [reference(model, length) for model in "mn" for length in (1, 2, 3)]
SAMPLES = [
    Sample(features(4), 0.2, f"a@{length}", length, model, 0.01, 1e3 * WHOLE_S)
    for model in "mn"
    for length in (1, 2, 3)
]


def test_who_knows_the_truth_scores_best() -> None:
    found = plan_score("knowing", LENGTHS, hold_out(Knowing(), SAMPLES, REFERENCES, LENGTHS))
    assert found.plans == 6 * 25
    assert found.cases == 6 * 3
    assert found.latency_error < 1e-6 and found.ratio_error < 1e-6
    assert found.spearman == pytest.approx(1.0) and found.pairwise_accuracy == 1.0
    assert found.coverage == 1.0
    assert all(median == worst == 0 for _, median, worst in found.regrets)


def test_who_believes_the_opposite_pays_for_it() -> None:
    held = hold_out(Knowing(sign=-1.0), SAMPLES, REFERENCES, LENGTHS)
    found = plan_score("wrong", LENGTHS, held)
    assert found.pairwise_accuracy == 0.0 and found.spearman < -0.9
    (one, median, worst), *_ = found.regrets
    assert one == 1 and 0 < median <= worst
    # confirming more plans costs less and less
    medians = [median for _, median, _ in found.regrets]
    assert medians == sorted(medians, reverse=True)


@pytest.mark.parametrize("kind", [LENGTHS, MODELS])
def test_what_is_held_out_is_not_seen(kind: str) -> None:
    @dataclass(frozen=True)
    class Watched(Knowing):
        def estimate(self, features: Sequence[Features]) -> list[Estimate]:
            fits.append(self.seen)
            return super().estimate(features)

        def fit(self, samples: Sequence[Sample]) -> Watched:
            return Watched(seen=tuple((one.model, one.length) for one in samples))

    fits: list[tuple[tuple[str, int], ...]] = []
    held = hold_out(Watched(), SAMPLES, REFERENCES, kind)
    assert len(held) == len(REFERENCES) == len(fits)
    for one, seen in zip(held, fits, strict=True):
        if kind == MODELS:
            assert one.reference.model not in {model for model, _ in seen}
        else:
            assert one.reference.length not in {length for _, length in seen}
        assert seen


def test_the_unchunked_latency_is_carried_over_from_other_lengths() -> None:
    # what was measured at a length is not looked at when it is held out
    strange = [replace(one, unchunked_ms=1.7 * one.unchunked_ms) if one.length == 2 else one
               for one in REFERENCES]  # fmt: skip
    for one in hold_out(Knowing(), SAMPLES, strange, LENGTHS):
        if one.reference.length == 2:
            assert one.unchunked_ms == pytest.approx(200.0)
    for one in hold_out(Knowing(), SAMPLES, strange, MODELS):
        assert one.unchunked_ms == one.reference.unchunked_ms


def test_luck_in_one_half_of_the_runs_is_no_merit() -> None:
    noisy = reference("m", 1, noise=0.2)
    (budget, *_) = budgets_of(noisy)
    order = feasible(noisy, budget)
    # the plan that looks fastest in one half is judged by the other
    chosen = min(order, key=lambda k: noisy.runs[k].halves[0])
    best = min(order, key=lambda k: noisy.runs[k].log_ratio)
    gap = noisy.runs[chosen].halves[1] - noisy.runs[best].halves[1]
    assert regret(noisy, order, len(order), budget) == pytest.approx(math.expm1(gap))


def test_only_plans_that_really_fit_are_taken() -> None:
    one = REFERENCES[0]
    low, *_ = budgets_of(one)
    assert all(one.runs[k].predicted_bytes <= low for k in feasible(one, low))
    tight = [
        replace(run, peak_bytes=run.peak_bytes + (1000 if k % 2 else 0))
        for k, run in enumerate(one.runs)
    ]
    found = replace(one, runs=tuple(tight))
    assert regret(found, feasible(found, low), len(tight), low) >= 0
    memory = memory_score([found])
    assert memory.false_safe_rate > 0.1 and memory.worst_error > 0.4
    perfect = memory_score(REFERENCES)
    assert perfect.false_safe_rate == 0 and perfect.worst_error == 0
