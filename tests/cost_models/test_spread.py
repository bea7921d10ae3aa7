"""Spreads hold what they promise on samples from a known distribution."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cost_models.base import Z90
from cost_models.features import VECTOR
from cost_models.regressors import Vectors
from cost_models.spread import Spread, fit_spread, known, spread_from_plain


def drawn(count: int, seed: int) -> tuple[Vectors, Vectors, Vectors, Vectors]:
    """Errors, vectors, residuals and novelties: errors grow with the passes, and threefold with
    novelty."""
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(count, len(VECTOR)))
    passes = draw.uniform(1, 6, count)
    vectors[:, VECTOR.index("log2_passes")] = passes
    novelty = draw.uniform(0, 2, count)
    scale = 0.01 * passes * (1 + novelty)
    residual = draw.normal(0, 0.1, count)
    return scale * draw.standard_normal(count), vectors, residual, novelty


def covered(spread: Spread, part: slice, count: int = 3000) -> float:
    errors, *seen = drawn(count, 1)
    order = np.argsort(seen[2])[part]
    found = spread.of(*seen)
    return float((np.abs(errors) <= Z90 * found)[order].mean())


def test_nine_of_ten_new_errors_lie_within_the_interval() -> None:
    spread = fit_spread(*drawn(1500, 0))
    assert covered(spread, slice(None)) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("part", [slice(0, 1000), slice(1000, 2000), slice(2000, 3000)])
def test_the_claim_holds_for_known_regions_and_for_new_ones(part: slice) -> None:
    assert covered(fit_spread(*drawn(1500, 0)), part) == pytest.approx(0.9, abs=0.045)


def test_of_every_length_that_was_held_out_nine_of_ten_lie_within() -> None:
    errors, *seen = drawn(1500, 0)
    fold = np.repeat([0, 1, 2], 500)
    errors[fold == 1] *= 3.0
    found = fit_spread(errors, *seen, fold=fold).of(*seen)
    for one in range(3):
        assert (np.abs(errors) <= Z90 * found)[fold == one].mean() > 0.895
    # samples that were held out one by one are no such parts
    alone = fit_spread(errors, *seen, fold=np.full(1500, -1)).of(*seen)
    assert (alone == fit_spread(errors, *seen).of(*seen)).all()


def test_spreads_follow_what_errors_follow() -> None:
    spread = fit_spread(*drawn(1500, 0))
    _, vectors, residual, _ = drawn(2, 2)
    vectors[:] = vectors[0]
    residual[:] = 0.0
    few, many = vectors.copy(), vectors.copy()
    few[:, VECTOR.index("log2_passes")] = 1
    many[:, VECTOR.index("log2_passes")] = 6
    near, far = np.full(2, 0.1), np.full(2, 1.9)
    lone = spread.of(few, residual, near)
    assert (spread.of(many, residual, near) > 1.5 * lone).all()
    assert (spread.of(few, residual, far) > 1.5 * lone).all()


def test_a_handful_of_errors_gives_a_prudent_spread() -> None:
    errors, *seen = drawn(6, 3)
    found = fit_spread(errors, *seen).of(*seen)
    assert (found > 0).all() and np.isfinite(found).all()
    # with so few, nothing less than the largest may count as one in ten
    assert (Z90 * found >= np.abs(errors) - 1e-9).all()


def test_plain_values_are_the_whole_spread() -> None:
    spread = fit_spread(*drawn(300, 0))
    again = spread_from_plain(json.loads(json.dumps(spread.plain())))
    _, *seen = drawn(20, 4)
    assert (again.of(*seen) == spread.of(*seen)).all()


def test_what_was_learned_from_is_no_novelty() -> None:
    _, vectors, *_ = drawn(40, 0)
    regions = known(vectors[:20])
    assert regions.novelty(vectors[:20]) == pytest.approx(0.0, abs=1e-4)
    assert (regions.novelty(vectors[20:]) > 0.1).all()
    # another chunk size of the same region is none either
    moved = vectors[:20].copy()
    moved[:, VECTOR.index("log2_passes")] += 3
    assert regions.novelty(moved) == pytest.approx(0.0, abs=1e-4)
