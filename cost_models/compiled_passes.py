"""Which cost model to believe on passes that run compiled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cost_models.base import CostModel, Sample
from cost_models.folds import folds
from cost_models.roofline import FEWEST, Roofline
from cost_models.scoring import held_out, held_out_estimates


def compiled_model(model: CostModel, samples: Sequence[Sample]) -> CostModel:
    """The model, if it predicts compiled passes that it has not seen better than the roofline of
    compiled code does; else that roofline, with a spread of its errors on such passes.

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
    mean, _ = held_out_estimates(model, samples, folds(samples, kind))
    judged = own & ~np.isnan(mean)
    if not judged.any():
        return gate
    truth = np.array([sample.log_ratio for sample in samples])
    roofline = np.array([sample.features.roofline_log_ratio for sample in samples])
    ours, theirs = (
        float(np.mean((found - truth)[judged] ** 2)) for found in (mean, roofline)
    )
    return model if ours < theirs else gate
