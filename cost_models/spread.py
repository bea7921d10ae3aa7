"""How far a prediction may be off: a spread that is set by errors on what was not seen.

Errors grow with the passes, shrink with a region's time, and are larger for regions unlike those
that were learned from. The scale

    s(x) = exp(a + b . z(x)),   z = (log2 passes, log2 whole us, |predicted residual|,
                                    log novelty)

is fitted to the logarithm of the absolute errors of held-out samples; ``novelty`` is the distance
to the nearest region learned from. Conformal prediction then widens s until nine of ten held-out
errors lie within (the k-th smallest of |error| / s, k = ceil(0.9 (n + 1))), by thirds of novelty,
so that the claim holds for known models and for new ones; beyond the last third it grows with
novelty. Errors on one length, or on one model, go together: what comes next is a length or a model,
not a sample, and is taken to be like the worst of those that were held out, of each of which nine
of ten must lie within. The spread is that over 1.645: a normal distribution's 90 % interval lies
within 1.645 standard deviations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.base import Z90
from cost_models.features import VECTOR, WHOLE
from cost_models.regressors import Line, Vectors, regressor_from_plain

LEAST = 1e-3
"""Of a log ratio: nobody knows a time better."""

_LEVEL = 0.9
_PASSES, _WHOLE_US = VECTOR.index("log2_passes"), VECTOR.index("log2_roofline_whole_us")
_THIRDS = 3
_RIDGE = 1e-2


@dataclass(frozen=True)
class Known:
    """The regions that were learned from, by what does not depend on chunk sizes."""

    center: Vectors
    scale: Vectors
    points: Vectors

    def novelty(self, vectors: Vectors) -> NDArray[np.float64]:
        """Distance of each vector to the nearest known region, in standard deviations a feature."""
        own = (vectors[:, WHOLE] - self.center) / self.scale
        distinct, back = np.unique(own, axis=0, return_inverse=True)
        gaps = ((distinct[:, None, :] - self.points[None, :, :]) ** 2).mean(axis=2)
        nearest: NDArray[np.float64] = np.sqrt(gaps.min(axis=1))[back.reshape(-1)]
        return nearest

    def plain(self) -> dict[str, Any]:
        return {
            "center": self.center.tolist(),
            "scale": self.scale.tolist(),
            "points": np.round(self.points, 4).tolist(),
        }


def known(vectors: Vectors) -> Known:
    """The distinct regions among samples' vectors."""
    own = vectors[:, WHOLE]
    center, scale = own.mean(axis=0), own.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    return Known(center, scale, np.unique(np.round((own - center) / scale, 4), axis=0))


@dataclass(frozen=True)
class Spread:
    """One standard deviation of a prediction; see the module.

    Attributes:
        line: log of the scale from what ``z`` holds.
        edges: novelties at which ``widths`` hold; between them it is interpolated.
        widths: what the scale is multiplied by.
    """

    line: Line
    edges: Vectors
    widths: Vectors

    def of(
        self, vectors: Vectors, residual: Vectors, novelty: Vectors
    ) -> NDArray[np.float64]:
        """One standard deviation a row."""
        scale = np.exp(self.line.predict(_covariates(vectors, residual, novelty)))
        width = np.interp(novelty, self.edges, self.widths)
        # of what is more novel than anything that was held out, less is known still
        beyond = np.maximum(novelty / max(float(self.edges[-1]), 1e-3), 1.0)
        found: NDArray[np.float64] = width * beyond * scale + LEAST
        return found

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "line": self.line.plain(), "edges": self.edges.tolist(), "widths": self.widths.tolist()
        }  # fmt: skip


def fit_spread(
    errors: Vectors,
    vectors: Vectors,
    residual: Vectors,
    novelty: Vectors,
    *,
    fold: NDArray[np.intp] | None = None,
) -> Spread:
    """The spread that errors on held-out samples call for.

    Args:
        errors: predicted less measured, of log ratios.
        residual: what was predicted on top of the roofline.
        novelty: to the regions that each prediction was learned from.
        fold: which lengths' or models' samples were held out together; -1 for others.
    """
    covariates = _covariates(vectors, residual, novelty)
    target = np.log(np.abs(errors) + LEAST)
    center, scale = covariates.mean(axis=0), covariates.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    design = np.column_stack([np.ones(len(errors)), (covariates - center) / scale])
    gram = design.T @ design / len(errors) + _RIDGE * np.diag([0.0, *[1.0] * covariates.shape[1]])
    weights = np.linalg.solve(gram, design.T @ target / len(errors))
    low, high = covariates.min(axis=0), covariates.max(axis=0)
    line = Line(float(weights[0]), weights[1:], center, scale, low, high)
    excess = np.abs(errors) / np.exp(line.predict(covariates))
    order = np.argsort(novelty, kind="stable")
    parts = np.array_split(order, _THIRDS if len(errors) >= 30 * _THIRDS else 1)
    edges = np.array([float(np.median(novelty[part])) for part in parts])
    widths = np.array([spread_of(excess[part]) for part in parts])
    found = Spread(line, edges, widths)
    if fold is None or fold.max() < 0:
        return found
    left = errors / found.of(vectors, residual, novelty)
    worst = max(spread_of(left[fold == one]) for one in np.unique(fold[fold >= 0]))
    return replace(found, widths=widths * max(worst, 1.0))


def spread_of(errors: Vectors) -> float:
    """One standard deviation by the conformal quantile: nine of ten errors lie within 1.645 of it,
    one more counted against it."""
    rank = min(math.ceil(_LEVEL * (len(errors) + 1)), len(errors))
    return float(np.sort(np.abs(errors))[rank - 1]) / Z90


def _covariates(vectors: Vectors, residual: Vectors, novelty: Vectors) -> Vectors:
    return np.column_stack([
        vectors[:, _PASSES], vectors[:, _WHOLE_US], np.abs(residual), np.log(novelty + 0.05),
    ])  # fmt: skip


def known_from_plain(row: Mapping[str, Any]) -> Known:
    """The inverse of :meth:`Known.plain`."""
    return Known(*(np.array(row[name], np.float64) for name in ("center", "scale", "points")))


def spread_from_plain(row: Mapping[str, Any]) -> Spread:
    """The inverse of :meth:`Spread.plain`."""
    line = regressor_from_plain(row["line"])
    if not isinstance(line, Line):
        raise ValueError("a spread's scale must be a line")
    return Spread(line, np.array(row["edges"], np.float64), np.array(row["widths"], np.float64))
