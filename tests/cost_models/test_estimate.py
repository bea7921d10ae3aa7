"""Estimates stay numbers, whatever a model says."""

from __future__ import annotations

import math

from cost_models.base import MOST_LOG_RATIO, Estimate


def test_an_estimate_far_from_all_data_stays_a_number() -> None:
    assert Estimate(800.0, 0.1).log_ratio == MOST_LOG_RATIO
    assert Estimate(-math.inf, 0.1).log_ratio == -MOST_LOG_RATIO
    assert Estimate(0.25, 0.1).log_ratio == 0.25
