"""Which cost model to believe on passes that run compiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cost_models.base import CostModel, Estimate, Sample
from cost_models.features import Features
from cost_models.folds import folds
from cost_models.roofline import FEWEST, Roofline
from cost_models.scoring import held_out, held_out_estimates
from cost_models.spread import spread_of


def compiled_model(model: CostModel, samples: Sequence[Sample]) -> CostModel:
    """The model, if it predicts compiled passes that it has not seen better than the roofline of
    compiled code does, with spreads that nine of ten of its errors on them lie within; else that
    roofline, with a spread of its errors on such passes.

    Compiled passes are few among the samples, and what a compiler makes of some is three times as
    slow as the kernels that it replaces: how well a model does on all samples says nothing of them.

    Args:
        model: fitted to all samples.
    """
    own = np.array([bool(sample.features.compiled) for sample in samples], bool)
    gate = Roofline().fit([sample for sample in samples if sample.features.compiled])
    kind = held_out(samples)
    if own.sum() < FEWEST or kind is None:
        return gate
    mean, spread = held_out_estimates(model, samples, folds(samples, kind))
    judged = own & ~np.isnan(mean)
    if not judged.any():
        return gate
    truth = np.array([sample.log_ratio for sample in samples])
    roofline = np.array([sample.features.roofline_log_ratio for sample in samples])
    ours, theirs = (
        float(np.mean((found - truth)[judged] ** 2)) for found in (mean, roofline)
    )
    if ours >= theirs:
        return gate
    return Widened(model, max(spread_of(((mean - truth) / spread)[judged]), 1.0))


@dataclass(frozen=True)
class Widened:
    """A fitted model of which some estimates are less certain than it says, by a factor."""

    model: CostModel
    factor: float

    @property
    def kind(self) -> str:
        return self.model.kind

    def fit(self, samples: Sequence[Sample]) -> Widened:
        """The model fitted anew, as uncertain as before."""
        return replace(self, model=self.model.fit(samples))

    def estimate(self, features: Sequence[Features]) -> list[Estimate]:
        """The model's means, with wider spreads."""
        return [
            Estimate(one.log_ratio, self.factor * one.spread)
            for one in self.model.estimate(features)
        ]
