"""Which plans to run for real: those from which most is expected to be gained.

Latencies that the plans might have are drawn jointly (:meth:`cost_models.plans.PlanCost.draws`).
What a run of plan p is expected to gain over what is known already is

    gain(p) = mean over draws d of max(0, best(d) - latency(d, p)),

with ``best`` the least of the best latency measured and of the plans already picked in that draw.
Picking greedily gives a batch whose plans do not all bet on the same thing. A plan that is surely
no better gains nothing; one that is uncertain may, however slow its mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Draws = NDArray[np.float64]
"""Latencies in ms, one row a draw, one column a plan."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A plan worth running, by its place, and what is expected of it: a share of the best known
    latency (or of the lowest known peak)."""

    place: int
    gain: float


def fastest(
    draws: Draws, allowed: Sequence[int], best_ms: float, count: int, least_gain: float
) -> list[Pick]:
    """Up to ``count`` plans by expected gain in latency.

    Args:
        allowed: places of the plans that may be picked.
        best_ms: the best latency measured within the budget; infinite where there is none, and then
            the plans compete with the mean of the fastest of them, and the first is always picked.
        least_gain: picking ends when less than this share of the best is expected.
    """
    places = np.array(sorted(allowed), np.int64)
    found: list[Pick] = []
    if not len(places):
        return found
    own = draws[:, places]
    best = np.full(len(draws), best_ms)
    if not np.isfinite(best_ms):
        first = int(own.mean(axis=0).argmin())
        found.append(Pick(int(places[first]), 1.0))
        best = own[:, first]
    free = np.ones(len(places), bool)
    free[[int(np.searchsorted(places, pick.place)) for pick in found]] = False
    while len(found) < count and free.any():
        gains = np.maximum(best[:, None] - own, 0.0).mean(axis=0) / best.mean()
        gains[~free] = -1.0
        # equal gains go to the earlier plan, so that two runs pick alike
        place = int(gains.argmax())
        if gains[place] <= least_gain:
            break
        found.append(Pick(int(places[place]), float(gains[place])))
        best = np.minimum(best, own[:, place])
        free[place] = False
    return found


def lowest(
    draws: Draws,
    peaks: Sequence[int],
    allowed: Sequence[int],
    best_bytes: float,
    slowest_ms: float,
    count: int,
    least_gain: float,
) -> list[Pick]:
    """Up to ``count`` plans by expected gain in memory: what their peak is lower by, times the
    probability that they are no slower than ``slowest_ms``.

    Args:
        best_bytes: the lowest peak measured so far; infinite where there is none.
    """
    chance = (draws <= slowest_ms).mean(axis=0)
    found: list[Pick] = []
    missed = 1.0  # probability that none of the plans picked so far is fast enough
    for place in sorted(allowed, key=lambda k: (peaks[k], -chance[k], k)):
        share = 1.0 if not np.isfinite(best_bytes) else max(1 - peaks[place] / best_bytes, 0.0)
        gain = float(missed * chance[place] * share)
        if gain > least_gain and len(found) < count:
            found.append(Pick(int(place), gain))
            missed *= 1 - float(chance[place])
    return found
