"""One suite for every kind of cost model, and what each of them must learn."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from cost_models.base import Z90, CostModel, Sample
from cost_models.create import KINDS, create
from cost_models.features import VECTOR, Features
from cost_models.learned import FEWEST, Learned
from cost_models.macro_micro import MacroMicro
from cost_models.roofline import Roofline
from cost_models.scoring import held_out_score
from tests.cost_models.made_features import (
    drawn_features,
    noisy_passes,
    real_features,
    real_samples,
)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return real_samples(noisy_passes())


@pytest.fixture(scope="module")
def features() -> list[Features]:
    """All of one length, and some of no model at all."""
    return [one for _, one in real_features(40)] + drawn_features(20)


@pytest.fixture(params=sorted(KINDS))
def model(request: pytest.FixtureRequest) -> CostModel:
    """An unfitted model of each kind."""
    (made,) = create(request.param, seed=3)
    return made


def check_estimates(model: CostModel, features: list[Features]) -> None:
    found = model.estimate(features)
    assert len(found) == len(features)
    assert all(math.isfinite(one.log_ratio) and math.isfinite(one.spread) for one in found)
    assert all(one.spread > 0 for one in found)
    assert model.estimate([]) == []
    # each stands for itself, whatever else is asked
    alone = [model.estimate([one])[0] for one in features[:5]]
    assert [e.log_ratio for e in alone] == pytest.approx([e.log_ratio for e in found[:5]])


def test_an_unfitted_model_estimates(model: CostModel, features: list[Features]) -> None:
    check_estimates(model, features)


def test_a_fitted_model_estimates(
    model: CostModel, features: list[Features], samples: list[Sample]
) -> None:
    fitted = model.fit(samples)
    assert fitted.kind == model.kind
    check_estimates(fitted, features)


def test_a_model_without_samples_still_estimates(
    model: CostModel, features: list[Features]
) -> None:
    check_estimates(model.fit([]), features)


def test_samples_that_are_explained_in_full_leave_a_spread(model: CostModel) -> None:
    # chunking that costs what the roofline says
    exact = [
        Sample(one, math.log(one.roofline_chunked_s / one.roofline_whole_s), "g", 1)
        for one in drawn_features(30)
    ]
    check_estimates(model.fit(exact), drawn_features(5, seed=1))


def test_fitting_gives_a_new_model_and_leaves_the_old(
    model: CostModel, features: list[Features], samples: list[Sample]
) -> None:
    before = model.estimate(features)
    fitted = model.fit(samples)
    assert model.estimate(features) == before
    if model.kind != "roofline":
        assert fitted.estimate(features) != before
    with pytest.raises(FrozenInstanceError):
        setattr(model, "kind", "other")  # noqa: B010 - the attribute is read-only to mypy too


def test_the_same_samples_and_seed_give_the_same_estimates(
    model: CostModel, features: list[Features], samples: list[Sample]
) -> None:
    (again,) = create(model.kind, seed=3)
    assert model.fit(samples).estimate(features) == again.fit(samples).estimate(features)


def test_fitting_again_forgets_the_first_samples(
    model: CostModel, features: list[Features], samples: list[Sample]
) -> None:
    other = real_samples(lambda one: 0.5 * math.log2(one.passes))
    assert model.fit(other).fit(samples).estimate(features) == model.fit(samples).estimate(features)


def test_samples_that_follow_the_passes_are_learned() -> None:
    # of three lengths, so that two tell what the third may be like
    samples = real_samples(noisy_passes(), (24, 40, 56))
    learned = held_out_score(Learned(0), samples)
    roofline = held_out_score(Roofline(), samples)
    assert learned is not None and roofline is not None
    assert learned.held_out == "lengths"
    assert learned.error < 0.5 * roofline.error
    # a tenth a doubling is five times the difference that counts as a tie
    assert learned.pairwise_accuracy > 0.95
    assert learned.regret < 0.02
    assert learned.coverage > 0.8


def test_noise_alone_is_not_learned() -> None:
    def noise(count: int, seed: int) -> list[Sample]:
        draw = np.random.default_rng(seed)
        return [
            Sample(one, one.roofline_log_ratio + draw.normal(), f"g{k}", 1)
            for k, one in enumerate(drawn_features(count, seed))
        ]

    new = noise(300, 2)
    found = Learned(0).fit(noise(80, 1)).estimate([one.features for one in new])
    # the spread says that a factor of e either way is nothing unusual
    assert np.median([one.spread for one in found]) > 0.7
    hits = [
        abs(one.log_ratio - sample.log_ratio) <= Z90 * one.spread
        for one, sample in zip(found, new, strict=True)
    ]
    assert 0.8 < np.mean(hits) < 0.99


@pytest.mark.parametrize("count", [0, 1, FEWEST - 1])
def test_few_samples_leave_the_learned_model_at_the_roofline(
    count: int, samples: list[Sample], features: list[Features]
) -> None:
    fitted = Learned(0).fit(samples[:count])
    assert fitted.estimate(features) == Roofline().estimate(features)


def test_enough_samples_take_the_learned_model_off_the_roofline(
    samples: list[Sample], features: list[Features]
) -> None:
    fitted = Learned(0).fit(samples[:FEWEST])
    assert fitted.estimate(features) != Roofline().estimate(features)


def test_the_roofline_says_what_the_roofline_says(features: list[Features]) -> None:
    for one, found in zip(features, Roofline().estimate(features), strict=True):
        assert math.exp(found.log_ratio) == pytest.approx(
            one.roofline_chunked_s / one.roofline_whole_s
        )


@pytest.mark.parametrize("model", [Roofline(), MacroMicro()], ids=lambda model: str(model.kind))
@pytest.mark.parametrize("scale", [0.05, 0.8])
def test_models_without_regression_say_how_far_off_they_are(model: CostModel, scale: float) -> None:
    draw = np.random.default_rng(0)
    samples = real_samples(lambda one: one.roofline_log_ratio + draw.normal(0, scale))
    found = model.fit(samples).estimate([one.features for one in samples])
    hits = [
        abs(one.log_ratio - sample.log_ratio) <= Z90 * one.spread
        for one, sample in zip(found, samples, strict=True)
    ]
    assert np.mean(hits) >= 0.9
    if model.kind == "roofline":
        assert np.mean(hits) < 0.99 and found[0].spread == pytest.approx(scale, rel=0.25)


def test_macro_micro_recovers_planted_weights() -> None:
    planted = MacroMicro(alpha=0.8, beta=0.12, gamma=0.06, lambda_=-0.03)
    features = drawn_features(200)
    exact = [
        Sample(one, found.log_ratio, "g", 1)
        for one, found in zip(features, planted.estimate(features), strict=True)
    ]
    fitted = MacroMicro().fit(exact)
    assert fitted.alpha == pytest.approx(planted.alpha, rel=0.02)
    assert fitted.beta == pytest.approx(planted.beta, rel=0.02)
    assert fitted.gamma == pytest.approx(planted.gamma, rel=0.02)
    assert fitted.lambda_ == pytest.approx(planted.lambda_, rel=0.02)
    assert 0 < fitted.spread < 0.02


def test_macro_micro_charges_nothing_for_a_single_pass() -> None:
    (whole,) = drawn_features(1)
    for weights in ((1.0, 0.0, 0.0, 0.0), (0.3, 0.2, 0.1, 0.5)):
        (found,) = MacroMicro(*weights).estimate([_in_one_pass(whole)])
        assert found.log_ratio == 0.0


def _in_one_pass(one: Features) -> Features:
    return replace(one, chunk_size=one.extent, passes=1)


def test_auto_offers_some_kinds_and_all_offers_every_one() -> None:
    assert [model.kind for model in create("all")] == list(KINDS)
    assert {model.kind for model in create("auto")} < set(KINDS)
    assert [model.kind for kind in KINDS for model in create(kind)] == list(KINDS)
    with pytest.raises(KeyError):
        create("quadratic")


def test_every_feature_has_a_name_and_a_finite_value(features: list[Features]) -> None:
    assert len(set(VECTOR)) == len(VECTOR)
    for one in features:
        assert len(one.vector()) == len(VECTOR)
        assert all(math.isfinite(value) for value in one.vector())


def test_real_features_agree_with_their_regions() -> None:
    for _, one in real_features(40):
        assert (one.passes - 1) * one.chunk_size < one.extent <= one.passes * one.chunk_size
        assert 0 < one.kernels <= one.nodes
        assert one.roofline_chunked_s > 0 and one.roofline_whole_s > 0
        assert one.output_bytes > 0 and one.pass_bytes > 0
        assert one.rows % one.chunk_size == 0


def test_a_smaller_chunk_needs_less_memory_a_pass_and_moves_no_fewer_bytes() -> None:
    for (key, large), (other, small) in zip(
        real_features(40), real_features(40)[1:], strict=False
    ):
        if key == other:
            assert small.chunk_size < large.chunk_size
            assert small.pass_bytes <= large.pass_bytes
            assert small.moved_bytes >= large.moved_bytes
            assert small.flops == large.flops
