"""Reference sets: a small space of plans of one model at one length, every plan of it measured.

They are what plan predictions, and the search, are judged against. A plan is a setting (chunk size
by class); its log ratio is against the unchanged graph, in the same turns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.base import CostModel, Estimate
from cost_models.features import Features, features_from_plain
from cost_models.latency import NO_BIAS, Bias, Estimates, Term, draw_latencies, latency
from cost_models.times import Parts
from cost_models.whole_times import calibrate

Setting = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ReferenceClass:
    """A class of the space: how often it occurs, and its features by chunk size."""

    key: str
    occurrences: int
    features: Mapping[int, Features]


@dataclass(frozen=True, slots=True)
class PlanRun:
    """A measured plan: predicted and requested peak, latency, and log ratio to the unchanged graph
    (from all runs, and from either half of them)."""

    setting: Setting
    predicted_bytes: int
    peak_bytes: int
    latency_ms: float
    log_ratio: float
    halves: tuple[float, float]

    @property
    def noise(self) -> float:
        """One standard deviation of the log ratio."""
        return abs(self.halves[0] - self.halves[1]) / 2


@dataclass(frozen=True)
class Reference:
    """One model at one length, every plan of a small space measured.

    Attributes:
        parts: the roofline's time of the unchanged graph.
        unchunked_ms: its measured time.
    """

    model: str
    length: int
    parts: Parts
    unchunked_ms: float
    classes: Mapping[str, ReferenceClass]
    runs: tuple[PlanRun, ...]

    @property
    def unchunked_bytes(self) -> int:
        return next(run.peak_bytes for run in self.runs if not run.setting)


def reference_from_plain(row: Mapping[str, Any]) -> Reference:
    """A reference set from a row of its data file."""
    classes = {
        one["key"]: ReferenceClass(
            one["key"],
            int(one["occurrences"]),
            {int(size): features_from_plain(found) for size, found in one["sizes"].items()},
        )
        for one in row["classes"]
    }
    runs = tuple(
        PlanRun(
            tuple(sorted((key, int(size)) for key, size in run["setting"].items())),
            int(run["predicted_bytes"]),
            int(run["requested_bytes"]),
            float(run["latency_ms"]),
            float(run["log_ratio"]),
            (float(run["halves"][0]), float(run["halves"][1])),
        )
        for run in row["runs"]
    )
    parts = Parts(**{name: float(value) for name, value in row["parts"].items()})
    return Reference(
        row["model"], int(row["length"]), parts, float(row["unchunked_ms"]), classes, runs
    )


@dataclass(frozen=True)
class PlanTerms:
    """A reference set seen by a cost model: every run's terms, and the estimates they need."""

    unchunked_ms: float
    rows: tuple[tuple[Term, ...], ...]
    estimates: Estimates

    def log_ratios(self, bias: Bias = NO_BIAS) -> list[Estimate]:
        """Each run's predicted log ratio to the unchanged graph, with its spread."""
        found = []
        for row in self.rows:
            mean, spread = latency(row, self.estimates, self.unchunked_ms, bias)
            found.append(Estimate(math.log(mean / self.unchunked_ms), spread / mean))
        return found

    def draws(self, count: int, seed: int, bias: Bias = NO_BIAS) -> NDArray[np.float64]:
        """Latencies in ms that the runs might have had; see :mod:`cost_models.latency`."""
        return draw_latencies(
            self.rows, self.estimates, self.unchunked_ms, bias, count=count, seed=seed
        )


def plan_terms(
    reference: Reference,
    model: CostModel,
    known: Sequence[tuple[Parts, float]],
    unchunked_ms: float,
) -> PlanTerms:
    """What a cost model makes of a reference set.

    Args:
        known: the model's latencies at those lengths where they are known; see
            :func:`cost_models.whole_times.calibrate`.
        unchunked_ms: of the unchanged graph, measured or carried over from other lengths.
    """
    sizes = [(key, size) for key, one in reference.classes.items() for size in one.features]
    features = [reference.classes[key].features[size] for key, size in sizes]
    whole = calibrate(known).through(reference.parts, unchunked_ms / 1e3)
    whole_ms = {
        key: one.occurrences * 1e3 * whole.seconds(next(iter(one.features.values())).whole_parts)
        for key, one in reference.classes.items()
    }
    rows = tuple(
        tuple(Term(key, size, whole_ms[key]) for key, size in run.setting)
        for run in reference.runs
    )
    estimates = dict(zip(sizes, model.estimate(features), strict=True))
    return PlanTerms(unchunked_ms, rows, estimates)


def budgets_of(reference: Reference) -> list[int]:
    """Three budgets in bytes that a quarter, a half and all but a quarter of the plans meet, each a
    hundredth above the plan that decides: nobody asks for what a plan takes to the byte."""
    peaks = np.array([run.predicted_bytes for run in reference.runs])
    found = np.quantile(peaks, [0.25, 0.5, 0.75], method="higher")
    return sorted({int(1.01 * value) for value in found})


def feasible(reference: Reference, budget_bytes: int) -> list[int]:
    """Places of the runs that are predicted to fit."""
    return [k for k, run in enumerate(reference.runs) if run.predicted_bytes <= budget_bytes]


def regret(
    reference: Reference, order: Sequence[int], count: int, budget_bytes: int
) -> float:
    """Extra time of the best of the first ``count`` plans, confirmed by runs, over the best plan of
    the space within the budget.

    One half of the runs confirms, the other judges both, so that luck in the first does not count.
    Infinite where none of them really fits.
    """
    runs = reference.runs
    fitting = [k for k in range(len(runs)) if runs[k].peak_bytes <= budget_bytes]
    best = min(fitting, key=lambda k: runs[k].log_ratio)
    tried = [k for k in order[:count] if runs[k].peak_bytes <= budget_bytes]
    if not tried:
        return math.inf
    chosen = min(tried, key=lambda k: runs[k].halves[0])
    return math.exp(runs[chosen].halves[1] - runs[best].halves[1]) - 1
