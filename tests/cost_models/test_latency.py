"""A plan's latency from its regions': sums, draws and corrections on numbers made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cost_models.base import Estimate
from cost_models.latency import (
    LEAST_SHARE,
    PLAN_SPREAD,
    WHOLE_SPREAD,
    Term,
    draw_latencies,
    fit_bias,
    latency,
)

ESTIMATES = {
    ("a", 2): Estimate(math.log(1.5), 0.1),
    ("a", 4): Estimate(math.log(1.2), 0.1),
    ("b", 2): Estimate(math.log(0.5), 0.3),
}
A2, A4, B2 = Term("a", 2, 10.0), Term("a", 4, 10.0), Term("b", 2, 20.0)


def test_the_sum_is_the_one_of_the_formula() -> None:
    mean, spread = latency([A2, B2], ESTIMATES, 100.0, {"b": 0.05})
    assert mean == pytest.approx(100 + 10 * 0.5 + 20 * (-0.5 + 0.05))
    own = [PLAN_SPREAD * 100, 10 * 1.5 * 0.1, 20 * 0.5 * 0.3,
           WHOLE_SPREAD * 10 * 0.5, WHOLE_SPREAD * 20 * 0.5]  # fmt: skip
    assert spread == pytest.approx(math.sqrt(sum(one**2 for one in own)))


def test_draws_scatter_around_the_sum_by_its_spread() -> None:
    # (with a large spread of a logarithm the middle of the draws lies beside the sum)
    calm = {key: Estimate(found.log_ratio, 0.1) for key, found in ESTIMATES.items()}
    drawn = draw_latencies([[A2], [A2, B2]], calm, 100.0, count=20_000)
    for column, terms in zip(drawn.T, ([A2], [A2, B2]), strict=True):
        mean, spread = latency(terms, calm, 100.0)
        assert np.median(column) == pytest.approx(mean, rel=0.003)
        assert column.std() == pytest.approx(spread, rel=0.15)


def test_plans_that_share_a_class_err_together() -> None:
    sure = {key: Estimate(found.log_ratio, 0.3) for key, found in ESTIMATES.items()}
    small, large, other = draw_latencies([[A2], [A4], [B2]], sure, 100.0, count=4000).T
    assert np.corrcoef(small, large)[0, 1] > 0.5
    assert abs(np.corrcoef(small, other)[0, 1]) < 0.1


def test_draws_do_not_depend_on_the_other_plans_asked_for() -> None:
    assert (
        draw_latencies([[A2]], ESTIMATES, 100.0, count=8, seed=3).shape
        == draw_latencies([[A4]], ESTIMATES, 100.0, count=8, seed=3).shape
        == (8, 1)
    )
    again = [draw_latencies([[A2], [B2]], ESTIMATES, 100.0, count=8, seed=3) for _ in range(2)]
    assert (again[0] == again[1]).all()


def test_no_plan_is_drawn_to_take_no_time() -> None:
    wild = {("a", 2): Estimate(-9.0, 5.0)}
    drawn = draw_latencies([[Term("a", 2, 100.0)]], wild, 100.0, count=500)
    assert drawn.min() >= LEAST_SHARE * 100


def test_biases_are_found_in_noisy_runs() -> None:
    draw = np.random.default_rng(0)
    true = {"a": 0.2, "b": -0.1}
    runs = []
    for _ in range(30):
        terms = [term for term in (A2, B2) if draw.random() < 0.7]
        runs.append((terms, latency(terms, ESTIMATES, 40.0, true)[0] + draw.normal(0, 0.2)))
    found = fit_bias(runs, ESTIMATES, 40.0)
    assert found == {key: pytest.approx(value, abs=0.03) for key, value in true.items()}
    assert fit_bias([((), 50.0)], ESTIMATES, 40.0) == {}
