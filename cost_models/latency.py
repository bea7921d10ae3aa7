"""A plan's latency from its regions': the sum, what it may turn out to be, and its correction.

    latency = unchunked + sum over classes of whole * (exp(log_ratio) - 1 + bias)

with ``whole`` the time of all occurrences of a class, run whole, known to ``WHOLE_SPREAD``.
Confirmed runs show what the sum leaves out; that is shared out among the classes of the plans as a
``bias``, by ridge regression towards none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_models.base import Estimate

PLAN_SPREAD = 0.01
"""Share of the unchunked latency by which plans scatter for reasons that no region explains."""

WHOLE_SPREAD = 0.2
"""How far the whole time of a class may be off, relative: the calibrated roofline's part of the
graph's time and the region timed alone differ by 0.16, root mean square over 480 classes of
``experiments/cost_subjects.py``; which of the two a plan sees is not known."""

LEAST_SHARE = 0.02
"""No plan is predicted to take less than this share of the unchunked latency."""

_SHARED = 0.7
"""Of the variance of an estimate's error, what all chunk sizes of the class have in common."""

_RIDGE = 0.01
"""A bias of a tenth costs as much as an unexplained hundredth of the latency."""


@dataclass(frozen=True, slots=True)
class Term:
    """A class in a loop: its key, its chunk size, and all its occurrences' time whole."""

    key: str
    chunk_size: int
    whole_ms: float


Terms = Sequence[Term]
Estimates = Mapping[tuple[str, int], Estimate]
Bias = Mapping[str, float]
NO_BIAS: Bias = {}


def latency(
    terms: Terms, estimates: Estimates, unchunked_ms: float, bias: Bias = NO_BIAS
) -> tuple[float, float]:
    """Mean and spread of one plan's latency in ms."""
    total = unchunked_ms
    variance = (PLAN_SPREAD * unchunked_ms) ** 2
    for term in terms:
        found = estimates[term.key, term.chunk_size]
        ratio = math.exp(found.log_ratio)
        total += term.whole_ms * (ratio - 1 + bias.get(term.key, 0.0))
        variance += (term.whole_ms * ratio * found.spread) ** 2
        variance += (WHOLE_SPREAD * term.whole_ms * (ratio - 1)) ** 2
    return max(total, LEAST_SHARE * unchunked_ms), math.sqrt(variance)


def draw_latencies(
    plans: Sequence[Terms],
    estimates: Estimates,
    unchunked_ms: float,
    bias: Bias = NO_BIAS,
    *,
    count: int,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Latencies in ms that the plans might turn out to have: ``count`` rows, one column a plan.

    Plans that share a class err together: an error of a class at a size is drawn once for all
    plans, and sizes of one class share most of theirs, and all of what its whole time is off by.
    """
    random = np.random.default_rng(seed)
    pairs = sorted({(term.key, term.chunk_size) for terms in plans for term in terms})
    shared = {key: random.standard_normal(count) for key in sorted({key for key, _ in pairs})}
    wholes = {key: 1 + WHOLE_SPREAD * random.standard_normal(count) for key in shared}
    change: dict[tuple[str, int], NDArray[np.float64]] = {}
    for key, size in pairs:
        found = estimates[key, size]
        own = random.standard_normal(count)
        error = math.sqrt(_SHARED) * shared[key] + math.sqrt(1 - _SHARED) * own
        change[key, size] = wholes[key] * np.expm1(found.log_ratio + found.spread * error)
    drawn = unchunked_ms * (1 + PLAN_SPREAD * random.standard_normal((count, len(plans))))
    for place, terms in enumerate(plans):
        for term in terms:
            moved = change[term.key, term.chunk_size] + bias.get(term.key, 0.0)
            drawn[:, place] += term.whole_ms * moved
    return np.maximum(drawn, LEAST_SHARE * unchunked_ms)


def fit_bias(
    runs: Sequence[tuple[Terms, float]], estimates: Estimates, unchunked_ms: float
) -> dict[str, float]:
    """The bias of each class that confirmed plans have in a loop.

    Args:
        runs: each plan's terms and its measured latency in ms.
    """
    keys = sorted({term.key for terms, _ in runs for term in terms})
    if not keys:
        return {}
    rows = np.zeros((len(runs), len(keys)))
    target = np.zeros(len(runs))
    for row, (terms, measured_ms) in enumerate(runs):
        for term in terms:
            rows[row, keys.index(term.key)] = term.whole_ms / unchunked_ms
        target[row] = (measured_ms - latency(terms, estimates, unchunked_ms)[0]) / unchunked_ms
    bias = np.linalg.solve(rows.T @ rows + _RIDGE * np.eye(len(keys)), rows.T @ target)
    return {key: float(value) for key, value in zip(keys, bias, strict=True)}
