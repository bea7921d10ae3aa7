"""The roofline as a cost model: the ratio of the times in :mod:`cost_models.times`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cost_models.base import Estimate, Sample
from cost_models.features import Features

SPREAD = 0.25
"""One standard deviation of the roofline's log ratio, from timings of GPT-2 and ViT on CPU."""


@dataclass(frozen=True)
class Roofline:
    """The roofline as a cost model; it has nothing to fit."""

    kind: str = "roofline"

    def fit(self, samples: Sequence[Sample]) -> Roofline:
        """Itself."""
        return self

    def estimate(self, features: Sequence[Features]) -> list[Estimate]:
        """The logarithm of the two rooflines' ratio."""
        return [
            Estimate(math.log(one.roofline_chunked_s / one.roofline_whole_s), SPREAD)
            for one in features
        ]
