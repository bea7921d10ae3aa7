"""Learned cost models: a regression of what the roofline leaves unexplained, with a spread.

    log_ratio = roofline's log ratio + regression(features)

The regression is gradient boosting of which a part is believed (``learned``) or all (``boosting``),
a random forest (``forest``) or a ridge line (``linear``). The spread is set
by errors on held-out lengths and held-out models, as far as the samples have several; see
:mod:`cost_models.spread`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cost_models.base import Estimate, Sample
from cost_models.features import Features
from cost_models.folds import CLASSES, LENGTHS, MODELS, SIZES, folds
from cost_models.regressors import FITS, Regressor, Vectors
from cost_models.roofline import Roofline
from cost_models.spread import Known, Spread, fit_spread, known

FEWEST = 12
"""With fewer samples the model answers as the roofline does."""

_NOISE = 0.05
"""Scatter of log ratios that no feature explains; noisier samples count less."""


@dataclass(frozen=True)
class Fitted:
    """What fitting gave: the regression, the regions it knows, and the spread."""

    regressor: Regressor
    known: Known
    spread: Spread


@dataclass(frozen=True)
class Learned:
    """A learned model of a kind of :data:`cost_models.regressors.FITS`; unfitted it answers as the
    roofline does."""

    seed: int = 0
    kind: str = "learned"
    fitted: Fitted | None = None

    def fit(self, samples: Sequence[Sample]) -> Learned:
        """A model fitted to the samples, and to its own errors where some are left out."""
        if len(samples) < FEWEST:
            return replace(self, fitted=None)
        vectors = vectors_of([sample.features for sample in samples])
        target = np.array([sample.log_ratio for sample in samples]) - vectors[:, 0]
        weights = 1 / (_NOISE**2 + np.array([sample.noise for sample in samples]) ** 2)
        weights /= weights.mean()
        fit = FITS[self.kind]
        spread = self._spread(samples, vectors, target, weights)
        return replace(
            self,
            fitted=Fitted(fit(vectors, target, weights, self.seed), known(vectors), spread),
        )

    def _spread(
        self, samples: Sequence[Sample], vectors: Vectors, target: Vectors, weights: Vectors
    ) -> Spread:
        whole = [*folds(samples, MODELS), *folds(samples, LENGTHS)]
        parts = list(whole)
        if not folds(samples, LENGTHS):
            parts += (*folds(samples, CLASSES), *folds(samples, SIZES))
        parts = parts or _every_fifth(len(samples))
        errors, residuals, novelties, places = [], [], [], []
        numbers = []
        for number, part in enumerate(parts):
            out = np.array(part)
            rest = np.setdiff1d(np.arange(len(samples)), out)
            if len(rest) < FEWEST // 2:
                continue
            found = FITS[self.kind](vectors[rest], target[rest], weights[rest], self.seed)
            residual = found.predict(vectors[out])
            errors.append(residual - target[out])
            residuals.append(residual)
            novelties.append(known(vectors[rest]).novelty(vectors[out]))
            places.append(out)
            numbers.append(np.full(len(out), number if number < len(whole) else -1))
        return fit_spread(
            np.concatenate(errors), vectors[np.concatenate(places)],
            np.concatenate(residuals), np.concatenate(novelties),
            fold=np.concatenate(numbers),
        )  # fmt: skip

    def estimate(self, features: Sequence[Features]) -> list[Estimate]:
        """The roofline's log ratio plus the regression."""
        if self.fitted is None:
            return Roofline().estimate(features)
        if not features:
            return []
        vectors = vectors_of(features)
        residual = self.fitted.regressor.predict(vectors)
        novelty = self.fitted.known.novelty(vectors)
        spread = self.fitted.spread.of(vectors, residual, novelty)
        mean = vectors[:, 0] + residual
        return [Estimate(float(m), float(s)) for m, s in zip(mean, spread, strict=True)]


def vectors_of(features: Sequence[Features]) -> NDArray[np.float64]:
    """The features' vectors, one row each."""
    return np.array([one.vector() for one in features], np.float64)


def _every_fifth(count: int) -> list[tuple[int, ...]]:
    return [tuple(range(first, count, 5)) for first in range(min(5, count))]
