"""The paper's selection cost (AutoChunk, ICLR 2024, section 3.3) as a cost model.

The paper adds a macro cost, alpha * (number of nodes) + beta * FLOPs, and a micro cost,
gamma * (computation density) + lambda * (stride of the chunk dimension). It gives no units and fits
nothing. Here each term is read as a share of the region's own time, so that one set of weights
serves all regions, and the sum vanishes for a single pass:

    log_ratio = (1 - 1/passes) * (alpha N + beta F + gamma D + lambda S)
    N = launches of all passes over those of one, in time, over the roofline's whole time
    F = time of the operations, at the device's ceiling, over the roofline's whole time
    D = log2 of operations a byte, relative to the device's balance
    S = log2 of the stride of the chunk dimension, in bytes, over that of a cache line

Fitted to the same samples as the other models it is the baseline to beat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cost_models.base import Estimate, Sample
from cost_models.features import Features
from cost_models.spread import LEAST, spread_of

_CACHE_LINE_BYTES = 64
_RIDGE = 1e-3


@dataclass(frozen=True)
class MacroMicro:
    """The four weights, and one standard deviation of what they leave unexplained. The default
    weights charge launches alone, and little for a large stride."""

    alpha: float = 1.0
    beta: float = 0.0
    gamma: float = 0.0
    lambda_: float = -0.005
    spread: float = 0.4
    kind: str = "macro_micro"

    def fit(self, samples: Sequence[Sample]) -> MacroMicro:
        """Weights by least squares, with a small ridge towards zero; itself without samples."""
        if not samples:
            return self
        terms = np.array([_terms(sample.features) for sample in samples])
        target = np.array([sample.log_ratio for sample in samples])
        gram = terms.T @ terms + _RIDGE * len(samples) * np.eye(4)
        weights = np.linalg.solve(gram, terms.T @ target)
        left = target - terms @ weights
        alpha, beta, gamma, lambda_ = (float(weight) for weight in weights)
        return MacroMicro(alpha, beta, gamma, lambda_, spread_of(left) + LEAST)

    def estimate(self, features: Sequence[Features]) -> list[Estimate]:
        """The weighted sum of the terms."""
        weights = np.array([self.alpha, self.beta, self.gamma, self.lambda_])
        return [Estimate(float(np.dot(_terms(one), weights)), self.spread) for one in features]


def _terms(one: Features) -> list[float]:
    fade = 1 - 1 / one.passes
    launches = one.kernels * (one.passes - 1) * 1e-6 / one.roofline_whole_s
    operations = one.flops / max(one.moved_bytes, 1.0) / one.balance
    return [
        fade * launches,
        fade * min(operations, 4.0),
        fade * math.log2(max(operations, 1e-6)),
        fade * math.log2(max(one.stride_bytes, 1) / _CACHE_LINE_BYTES),
    ]
