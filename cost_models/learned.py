"""A learned cost model: scikit-learn regression of what the roofline leaves unexplained.

    log_ratio = roofline's log ratio + regression(features)

Two regressions are averaged: randomised trees, which follow thresholds such as a cache's size, and
a ridge regression, which goes on where the data end. The spread is the trees' and the regressions'
disagreement beside the residual seen on samples that a tree did not train on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cost_models.base import Estimate, Sample
from cost_models.features import Features
from cost_models.roofline import Roofline

FEWEST = 12
"""With fewer samples the model answers as the roofline does."""


_LEAST_SPREAD = 1e-3
"""Of a log ratio: nobody knows a time better."""


@dataclass(frozen=True)
class Learned:
    """The learned model; unfitted it answers as the roofline does."""

    seed: int = 0
    kind: str = "learned"
    _trees: Any = field(default=None, repr=False, compare=False)
    _line: Any = field(default=None, repr=False, compare=False)
    _residual: float = 0.0

    def fit(self, samples: Sequence[Sample]) -> Learned:
        """A model fitted to the samples."""
        from sklearn.ensemble import ExtraTreesRegressor
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if len(samples) < FEWEST:
            return Learned(self.seed)
        vectors = np.array([sample.features.vector() for sample in samples])
        target = np.array([sample.log_ratio for sample in samples]) - vectors[:, 0]
        trees = ExtraTreesRegressor(
            n_estimators=100,
            min_samples_leaf=2,
            bootstrap=True,
            oob_score=True,
            random_state=self.seed,
        )
        trees.fit(vectors, target)
        line = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 3, 12)))
        line.fit(vectors, target)
        residual = float(np.sqrt(np.mean((trees.oob_prediction_ - target) ** 2)))
        return Learned(self.seed, _trees=trees, _line=line, _residual=residual)

    def estimate(self, features: Sequence[Features]) -> list[Estimate]:
        """The roofline's log ratio plus the mean of both regressions."""
        if self._trees is None:
            return Roofline().estimate(features)
        if not features:
            return []
        vectors = np.array([one.vector() for one in features])
        by_tree = np.array([tree.predict(vectors) for tree in self._trees.estimators_])
        forest, line = by_tree.mean(axis=0), self._line.predict(vectors)
        mean = vectors[:, 0] + 0.5 * (forest + line)
        disagreement = 0.5 * np.abs(forest - line)
        spread = np.sqrt(by_tree.var(axis=0) + disagreement**2 + self._residual**2) + _LEAST_SPREAD
        return [Estimate(float(m), float(s)) for m, s in zip(mean, spread, strict=True)]
