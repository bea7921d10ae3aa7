"""The terms in which every cost model speaks: ceilings, estimates, predictions, the interface.

A cost model answers one question, for a region class at a chunk size:

    log_ratio = log(time in chunks / time whole).

A plan's latency follows from it and from how long each class takes whole; see
:mod:`cost_models.plans`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cost_models.features import Features, features_from_plain

Z90 = 1.6449
"""Standard deviations to either side that hold 90 % of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A predicted log ratio of times, chunked over whole, and one standard deviation of it: nine of
    ten measured ones are to lie within ``Z90`` spreads."""

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
        log_ratio: log(chunked / whole), of interleaved runs.
        group: what stays fixed while chunk sizes vary: class and length. Accuracy is judged within
            groups.
        length: the length it was timed at.
        model: the model that the region is of.
        noise: one standard deviation of ``log_ratio`` from run to run, where it was estimated.
        whole_ms: time of one occurrence run whole; 0 where it is not known.
        again: ``log_ratio`` from one half of the runs, and from the other: what repetition gives;
            None where it is not known.
    """

    features: Features
    log_ratio: float
    group: str
    length: int
    model: str = ""
    noise: float = 0.0
    whole_ms: float = 0.0
    again: tuple[float, float] | None = None

    def plain(self) -> dict[str, Any]:
        """As plain values, for ledgers and data files."""
        return {
            "features": self.features.plain(),
            "log_ratio": round(self.log_ratio, 5),
            "group": self.group,
            "length": self.length,
            "model": self.model,
            "noise": round(self.noise, 5),
            "whole_ms": round(self.whole_ms, 5),
            "again": None if self.again is None else [round(one, 5) for one in self.again],
        }


def sample_from_plain(row: Mapping[str, Any]) -> Sample:
    """The inverse of :meth:`Sample.plain`.

    Raises:
        KeyError: something is missing; the row is of another version.
    """
    again = row["again"]
    return Sample(
        features_from_plain(row["features"]),
        float(row["log_ratio"]),
        str(row["group"]),
        int(row["length"]),
        str(row["model"]),
        float(row["noise"]),
        float(row["whole_ms"]),
        None if again is None else (float(again[0]), float(again[1])),
    )


class CostModel(Protocol):
    """A model of log(chunked / whole) time.

    ``fit`` gives a new model, fitted to the samples; a model without parameters gives itself.
    """

    @property
    def kind(self) -> str: ...

    def fit(self, samples: Sequence[Sample]) -> CostModel: ...

    def estimate(self, features: Sequence[Features]) -> list[Estimate]: ...
