"""Rank figures that respect noise: order within groups, leaving out what nobody could know.

Two measured log ratios closer than twice the standard deviation of their difference, or than
:data:`NOISE`, are a tie. Pairs that tie are left out of pairwise accuracy. For Spearman's
correlation values that tie are joined, the smallest first, and both the measured and the predicted
values of those joined are set to their means, so that order among them counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

NOISE = 0.02
"""Differences of log time below this are ties: repeated runs of one thing differ by as much."""

FEWEST = 4
"""Ranks are correlated in groups of at least this many values that do not tie."""

Values = NDArray[np.float64]


def tie_width(noise: Values) -> float:
    """Differences up to this are ties, given each value's own noise (0: unknown)."""
    return max(NOISE, 2 * float(np.sqrt(2 * np.mean(noise**2))))


def ordered_pairs(truth: Values, mean: Values, width: float) -> tuple[float, int]:
    """How many pairs are ordered rightly (predicted ties count half), and how many do not tie."""
    true_gap = truth[:, None] - truth[None, :]
    gap = mean[:, None] - mean[None, :]
    counted = np.triu(np.abs(true_gap) > width, 1)
    right = np.where(gap == 0, 0.5, gap * true_gap > 0)
    return float(right[counted].sum()), int(counted.sum())


def rank_correlation(truth: Values, mean: Values, width: float) -> float | None:
    """Spearman's correlation with ties joined; None where too few values differ."""
    from scipy.stats import spearmanr

    joined, labels = _joined(truth, width)
    if len(joined) < FEWEST or np.ptp(mean) == 0:
        return None
    count = np.bincount(labels)
    averages = (np.bincount(labels, values) / count for values in (truth, mean))
    snapped = [average[labels] for average in averages]
    if np.ptp(snapped[1]) == 0:
        return None
    return float(spearmanr(*snapped).statistic)


def _joined(truth: Values, width: float) -> tuple[list[float], NDArray[np.int64]]:
    """The first value of each set of ties, and which set each value is in."""
    starts: list[float] = []
    labels = np.zeros(len(truth), np.int64)
    for place in np.argsort(truth, kind="stable"):
        if not starts or truth[place] - starts[-1] > width:
            starts.append(float(truth[place]))
        labels[place] = len(starts) - 1
    return starts, labels


def share_interval(
    hits: Sequence[NDArray[np.bool_]], seed: int = 0, draws: int = 2000
) -> tuple[float, float]:
    """The 95 % interval of a share of hits, by drawing whole groups anew: values of a group err
    together, so that they are not so many independent ones."""
    if len(hits) < 2:
        return float("nan"), float("nan")
    totals = np.array([(len(group), group.sum()) for group in hits], np.float64)
    chosen = np.random.default_rng(seed).integers(0, len(hits), (draws, len(hits)))
    counts = totals[chosen].sum(axis=1)
    low, high = np.quantile(counts[:, 1] / counts[:, 0], [0.025, 0.975])
    return float(low), float(high)


def mean_of(values: Iterable[float | None]) -> float:
    """The mean of those that are there; NaN without any."""
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else float("nan")
