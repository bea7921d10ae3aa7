"""The terms in which every cost model speaks: ceilings, estimates, predictions, the interface.

A cost model answers one question, for a region class at a chunk size:

    log_ratio = log(time in chunks / time whole).

A plan's latency follows from it and from how long each class takes whole; see
:mod:`cost_models.plans`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from cost_models.features import Features


@dataclass(frozen=True, slots=True)
class Estimate:
    """A predicted log ratio of times, chunked over whole, and one standard deviation of it."""

    log_ratio: float
    spread: float

    def __post_init__(self) -> None:
        # a model that was fitted to little may say anything, and its exponential must be a number
        cut = min(max(self.log_ratio, -MOST_LOG_RATIO), MOST_LOG_RATIO)
        object.__setattr__(self, "log_ratio", cut)


MOST_LOG_RATIO = 7.0
"""Estimates are cut off here: no loop costs or saves a factor of a thousand."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a plan is expected to do: mean and spread of its latency, and its activation peak."""

    latency_ms: float
    spread_ms: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One timing of a region at a chunk size, beside the same region whole.

    Attributes:
        features: of the region at that chunk size.
        log_ratio: log(chunked / whole), of medians of interleaved runs.
        group: what stays fixed while chunk sizes vary: class and length. Accuracy is judged within
            groups.
        length: the length it was timed at.
    """

    features: Features
    log_ratio: float
    group: str
    length: int

    def plain(self) -> dict[str, Any]:
        """As plain values, for the ledger."""
        return {
            "features": asdict(self.features),
            "log_ratio": self.log_ratio,
            "group": self.group,
            "length": self.length,
        }


class CostModel(Protocol):
    """A model of log(chunked / whole) time.

    ``fit`` gives a new model, fitted to the samples; a model without parameters gives itself.
    """

    @property
    def kind(self) -> str: ...

    def fit(self, samples: Sequence[Sample]) -> CostModel: ...

    def estimate(self, features: Sequence[Features]) -> list[Estimate]: ...
