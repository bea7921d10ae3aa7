"""How long a model takes unchunked, and each region of it: the roofline, calibrated.

    seconds = launch_factor launch + product_factor product + other_factor other

with the three parts of the roofline's time of a graph, or of a region run whole. What the roofline
leaves out differs by part: a model of many small ops spends several times the measured launch cost
on each, while its products lose a fixed share. So the three factors are the model's own; they are
fitted to its unchunked latencies at the lengths that were measured, and with them another length,
and any region at any length, gets its time without a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cost_models.times import Parts

_NOISE = 0.05
"""Of a measured latency, relative: what repeating it on another day gives on a shared machine."""

_LAUNCH_SPREAD, _OTHER_SPREAD = 3.0, 0.3
"""How far the factors of launches, and of what is no product, stray from that of products: one
standard deviation over the models of ``experiments/cost_subjects.py``."""

_LEAST_SHARE = 0.2
"""No factor is lower than this share of the products'."""


@dataclass(frozen=True, slots=True)
class Unchunked:
    """How long a model's unchanged graph takes at a length: by the roofline, and measured."""

    model: str
    length: int
    parts: Parts
    unchunked_ms: float

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "model": self.model, "length": self.length, "unchunked_ms": self.unchunked_ms,
            **asdict(self.parts),
        }  # fmt: skip

    @property
    def known(self) -> tuple[Parts, float]:
        """As :func:`calibrate` takes it."""
        return self.parts, self.unchunked_ms / 1e3


def unchunked_from_plain(row: Mapping[str, Any]) -> Unchunked:
    """The inverse of :meth:`Unchunked.plain`. Rows of ledgers from before the parts were told apart
    hold the roofline's time alone, which is taken to be products': it scales all parts alike.

    Raises:
        KeyError: something is missing.
    """
    if "launch_s" in row:
        parts = Parts(*(float(row[name]) for name in ("launch_s", "product_s", "other_s")))
    else:
        parts = Parts(0.0, float(row["roofline_s"]), 0.0)
    return Unchunked(str(row["model"]), int(row["length"]), parts, float(row["unchunked_ms"]))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Real seconds to a second of each of the roofline's parts; 1 where nothing is known."""

    launch: float = 1.0
    product: float = 1.0
    other: float = 1.0

    def seconds(self, parts: Parts) -> float:
        """The time of a graph, or of one occurrence of a region, run whole."""
        return (
            self.launch * parts.launch_s
            + self.product * parts.product_s
            + self.other * parts.other_s
        )

    def through(self, parts: Parts, seconds: float) -> Calibration:
        """All factors scaled, so that these parts take so long."""
        scale = seconds / self.seconds(parts)
        return Calibration(scale * self.launch, scale * self.product, scale * self.other)


def calibrate(known: Sequence[tuple[Parts, float]]) -> Calibration:
    """The factors that a model's latencies call for.

    Least squares of the relative errors, each of ``_NOISE``, with the factors of launches and of
    other ops held near that of products as firmly as models differ in them: one latency scales all
    three alike, several tell them apart.

    Args:
        known: a graph's parts, and its measured seconds, at each length; none leaves the roofline
            as it is.
    """
    if not known:
        return Calibration()
    # the unknowns: the products' factor, and by how much launches' and other ops' exceed it
    rows = [
        np.array([parts.total_s, parts.launch_s, parts.other_s]) / seconds / _NOISE
        for parts, seconds in known
    ]
    rows += [np.array([0.0, 1 / _LAUNCH_SPREAD, 0.0]), np.array([0.0, 0.0, 1 / _OTHER_SPREAD])]
    target = np.array([1 / _NOISE] * len(known) + [0.0, 0.0])
    found, *_ = np.linalg.lstsq(np.array(rows), target, rcond=None)
    product = float(found[0])
    least = _LEAST_SHARE * product
    return Calibration(
        max(product + float(found[1]), least), product, max(product + float(found[2]), least)
    )
