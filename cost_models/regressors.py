"""Regressors that are fitted by scikit-learn and kept as plain numbers.

A fitted regressor is arrays alone: it predicts with numpy, can be written as JSON, and runs no code
when it is loaded. scikit-learn is loaded when something is fitted, never before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]
"""One row a sample, one column a feature."""


class Regressor(Protocol):
    """A fitted function of feature vectors."""

    def predict(self, vectors: Vectors) -> NDArray[np.float64]:
        """One number a row."""

    def plain(self) -> dict[str, Any]:
        """As plain values."""


@dataclass(frozen=True)
class Line:
    """``offset + weights . (vector - center) / scale``; inputs are held within what was seen.

    Beyond the range of the training data a line goes on without limit, which no time ratio does:
    ``low`` and ``high`` are the range of each feature, a third wider at either side.
    """

    offset: float
    weights: Vectors
    center: Vectors
    scale: Vectors
    low: Vectors
    high: Vectors

    def predict(self, vectors: Vectors) -> NDArray[np.float64]:
        """One number a row."""
        held = np.clip(vectors, self.low, self.high)
        own = (held - self.center) / self.scale
        found: NDArray[np.float64] = self.offset + own @ self.weights
        return found

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "type": "line",
            "offset": self.offset,
            **{name: getattr(self, name).tolist() for name in _LINE},
        }


_LINE = ("weights", "center", "scale", "low", "high")


@dataclass(frozen=True)
class Trees:
    """``offset + weight * sum over trees of the leaf that a vector falls into``.

    All trees' nodes stand one after the other. ``feature`` is -1 at a leaf; a vector goes left
    where its feature is at most ``threshold``; ``left`` and ``right`` are places of nodes;
    ``roots`` are the trees' first nodes.
    """

    offset: float
    weight: float
    roots: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: Vectors
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: Vectors

    def __post_init__(self) -> None:
        count = len(self.feature)
        inner = self.feature >= 0
        own = np.arange(count)
        for child in (self.left, self.right):
            # children come after their parents, so that every walk ends
            if ((child[inner] <= own[inner]) | (child[inner] >= count)).any():
                raise ValueError("a tree's children must come after it and within the arrays")
        if len(self.roots) == 0 or ((self.roots < 0) | (self.roots >= count)).any():
            raise ValueError("a tree's root lies outside the arrays")

    def predict(self, vectors: Vectors) -> NDArray[np.float64]:
        """One number a row."""
        # scikit-learn compares in single precision
        vectors = vectors.astype(np.float32)
        places = np.repeat(self.roots[None, :], len(vectors), axis=0)
        rows = np.arange(len(vectors))[:, None]
        while True:
            feature = self.feature[places]
            inner = feature >= 0
            if not inner.any():
                break
            goes_left = vectors[rows, np.maximum(feature, 0)] <= self.threshold[places]
            places = np.where(
                inner, np.where(goes_left, self.left[places], self.right[places]), places
            )
        found: NDArray[np.float64] = self.offset + self.weight * self.value[places].sum(axis=1)
        return found

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "type": "trees",
            "offset": self.offset,
            "weight": self.weight,
            **{name: getattr(self, name).tolist() for name in _TREES},
        }


_TREES = {
    "roots": np.int32, "feature": np.int32, "threshold": np.float64, "left": np.int32,
    "right": np.int32, "value": np.float64,
}  # fmt: skip


def regressor_from_plain(row: Mapping[str, Any]) -> Regressor:
    """The inverse of ``plain``.

    Raises:
        KeyError, ValueError, TypeError: it is none.
    """
    if row["type"] == "line":
        return Line(float(row["offset"]), **{n: np.array(row[n], np.float64) for n in _LINE})
    if row["type"] == "trees":
        arrays: dict[str, Any] = {name: np.array(row[name], kind) for name, kind in _TREES.items()}
        return Trees(float(row["offset"]), float(row["weight"]), **arrays)
    raise ValueError(f"unknown type of regressor {row['type']!r}")


def fit_line(vectors: Vectors, target: Vectors, weights: Vectors, seed: int) -> Regressor:
    """Ridge regression; how strongly it is drawn to zero is chosen by leaving samples out."""
    from sklearn.linear_model import RidgeCV

    center = np.average(vectors, axis=0, weights=weights)
    scale = np.sqrt(np.average((vectors - center) ** 2, axis=0, weights=weights))
    scale = np.where(scale > 1e-9, scale, 1.0)
    found = RidgeCV(np.logspace(-2, 4, 13)).fit((vectors - center) / scale, target, weights)
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    room = (high - low) / 3
    return Line(
        float(found.intercept_), np.asarray(found.coef_, np.float64), center, scale,
        low - room, high + room,
    )  # fmt: skip


def fit_boosting(vectors: Vectors, target: Vectors, weights: Vectors, seed: int) -> Regressor:
    """Gradient boosting of shallow trees, each on a random half of samples and features."""
    from sklearn.ensemble import GradientBoostingRegressor

    found = GradientBoostingRegressor(
        n_estimators=300, learning_rate=0.05, max_depth=4, min_samples_leaf=4, subsample=0.5,
        max_features=0.4, random_state=seed,
    ).fit(vectors, target, weights)  # fmt: skip
    start = float(np.average(target, weights=weights))
    return _trees([tree.tree_ for tree in found.estimators_[:, 0]], start, found.learning_rate)


def fit_forest(vectors: Vectors, target: Vectors, weights: Vectors, seed: int) -> Regressor:
    """A random forest."""
    from sklearn.ensemble import RandomForestRegressor

    found = RandomForestRegressor(
        n_estimators=60, min_samples_leaf=3, max_features=0.5, random_state=seed
    ).fit(vectors, target, weights)
    return _trees([one.tree_ for one in found.estimators_], 0.0, 1 / len(found.estimators_))


HELD = 0.7
"""What is learned of some lengths and models holds for others in part. With all of it the plans of
held-out lengths and models were off by 4.7 and 4.2 % in the median, with this share by 4.2 and 3.8,
with half by 4.2 and 3.6; with all of it intervals covered too much (experiments.cost_card)."""


def fit_held_boosting(
    vectors: Vectors, target: Vectors, weights: Vectors, seed: int
) -> Regressor:
    """Boosting, of which ``HELD`` is believed. It follows thresholds such as a cache's size, and
    beyond the data it stays as it is at their edge: a line, averaged with it, made of a small norm
    in many passes 135 times its whole time, where some ten were measured."""
    found = fit_boosting(vectors, target, weights, seed)
    assert isinstance(found, Trees)
    return replace(found, offset=HELD * found.offset, weight=HELD * found.weight)


def _trees(trees: list[Any], offset: float, weight: float) -> Trees:
    """scikit-learn's trees, one after the other."""
    starts = np.cumsum([0, *(tree.node_count for tree in trees)])[:-1]
    feature = np.concatenate([tree.feature for tree in trees])
    left, right = (
        np.concatenate(
            [getattr(tree, side) + start for tree, start in zip(trees, starts, strict=True)]
        )
        for side in ("children_left", "children_right")
    )
    return Trees(
        offset,
        weight,
        starts.astype(np.int32),
        np.where(feature >= 0, feature, -1).astype(np.int32),
        np.concatenate([tree.threshold for tree in trees]),
        left.astype(np.int32),
        right.astype(np.int32),
        np.concatenate([tree.value[:, 0, 0] for tree in trees]),
    )


Fit = Callable[[Vectors, Vectors, Vectors, int], Regressor]

FITS: Mapping[str, Fit] = {
    "learned": fit_held_boosting, "boosting": fit_boosting, "forest": fit_forest,
    "linear": fit_line,
}  # fmt: skip
"""How each kind of learned model is fitted: vectors, target, weights, seed."""
