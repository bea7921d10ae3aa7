"""The roofline as a cost model: the ratio of the times in :mod:`cost_models.times`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cost_models.base import Estimate, Sample
from cost_models.features import Features
from cost_models.spread import LEAST, spread_of

FEWEST = 12
"""Samples; with fewer the spread is the one below."""

SPREAD = 0.35
"""One standard deviation of the log ratio where nothing was timed: about that of the worst of four
models (experiments/cost_subjects.py)."""


@dataclass(frozen=True)
class Roofline:
    """The roofline as a cost model: only how far it is off is fitted."""

    spread: float = SPREAD
    kind: str = "roofline"

    def fit(self, samples: Sequence[Sample]) -> Roofline:
        """With the spread within 1.645 of which nine of ten of the samples' errors lie."""
        if len(samples) < FEWEST:
            return Roofline()
        errors = [one.features.roofline_log_ratio - one.log_ratio for one in samples]
        return Roofline(spread_of(np.array(errors)) + LEAST)

    def estimate(self, features: Sequence[Features]) -> list[Estimate]:
        """The logarithm of the two rooflines' ratio."""
        return [Estimate(one.roofline_log_ratio, self.spread) for one in features]
