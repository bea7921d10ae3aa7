"""How long a region takes whole, where nobody has timed it: the roofline, corrected.

    log(whole) = log(roofline's whole) + regression(features that do not depend on chunk sizes)

With it, and with the unchunked latency carried over from other lengths, a length that was never
measured gets a predicted latency without a run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cost_models.base import Sample
from cost_models.features import WHOLE, Features
from cost_models.folds import groups_of
from cost_models.regressors import Regressor, fit_boosting, regressor_from_plain

FEWEST = 12
"""Regions; with fewer the roofline is scaled by the median of what is known."""


@dataclass(frozen=True, slots=True)
class Unchunked:
    """How long a model's unchanged graph takes at a length: by the roofline, and measured."""

    model: str
    length: int
    roofline_s: float
    unchunked_ms: float

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class WholeTimes:
    """Predicts how long regions take whole. Without a regressor the roofline is multiplied by
    ``scale``."""

    scale: float = 1.0
    regressor: Regressor | None = None

    def seconds(self, features: Features) -> float:
        """One occurrence of the region, whole."""
        if self.regressor is None:
            return self.scale * features.roofline_whole_s
        vector = np.array([features.vector()])[:, WHOLE]
        return features.roofline_whole_s * math.exp(float(self.regressor.predict(vector)[0]))

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        regressor = None if self.regressor is None else self.regressor.plain()
        return {"scale": self.scale, "regressor": regressor}


def fit_whole_times(samples: Sequence[Sample], seed: int = 0) -> WholeTimes:
    """Fitted to one sample of each region that was timed whole."""
    firsts = [samples[places[0]] for places in groups_of(samples).values()]
    firsts = [one for one in firsts if one.whole_ms > 0]
    if not firsts:
        return WholeTimes()
    target = np.log([one.whole_ms / 1e3 / one.features.roofline_whole_s for one in firsts])
    if len(firsts) < FEWEST:
        return WholeTimes(float(np.exp(np.median(target))))
    vectors = np.array([one.features.vector() for one in firsts])[:, WHOLE]
    return WholeTimes(1.0, fit_boosting(vectors, target, np.ones(len(firsts)), seed))


def whole_times_from_plain(row: Mapping[str, Any]) -> WholeTimes:
    """The inverse of :meth:`WholeTimes.plain`."""
    regressor = row["regressor"]
    return WholeTimes(
        float(row["scale"]), None if regressor is None else regressor_from_plain(regressor)
    )


def unchunked_seconds(
    roofline_s: float, known: Sequence[tuple[float, float]]
) -> float:
    """The unchunked latency at a length that was not measured.

    What the roofline leaves out changes slowly with its time, so that the logarithm of measured
    over roofline is carried over along the logarithm of the roofline: by a line through two or more
    lengths, held within a factor of two of what they say, else by the one known factor.

    Args:
        roofline_s: of the graph at that length.
        known: (roofline's seconds, measured seconds) at other lengths.

    Raises:
        ValueError: no length is known.
    """
    if not known:
        raise ValueError("the unchunked latency must be known at some length")
    x = np.log([one for one, _ in known])
    y = np.log([measured / one for one, measured in known])
    at = math.log(roofline_s)
    if len(known) == 1 or np.ptp(x) < 1e-6:
        return roofline_s * math.exp(float(y.mean()))
    slope, start = np.polyfit(x, y, 1)
    found = float(np.clip(start + slope * at, y.min() - math.log(2), y.max() + math.log(2)))
    return roofline_s * math.exp(found)
