"""How good predictions of whole plans are, judged on reference sets that were measured in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cost_models.base import Z90, CostModel, Sample
from cost_models.folds import LENGTHS, MODELS
from cost_models.ranks import mean_of, ordered_pairs, rank_correlation, share_interval, tie_width
from cost_models.reference import (
    PlanTerms,
    Reference,
    budgets_of,
    feasible,
    plan_terms,
    regret,
)
from cost_models.scoring import plain_numbers
from cost_models.whole_times import calibrate

TOP = (1, 4, 8)
"""Numbers of plans confirmed, of which the fastest is taken."""


@dataclass(frozen=True, slots=True)
class PlanScore:
    """A model's accuracy on plans of reference sets whose length or model it has not seen.

    Attributes:
        kind, held_out: the cost model's kind, and ``lengths`` or ``models``.
        plans, cases: plans in all; reference sets times budgets.
        latency_error: median relative error of a plan's latency; with held-out lengths nothing of
            that length is known, its unchunked latency neither.
        ratio_error: the same of the ratio to the unchunked graph.
        spearman, pairwise_accuracy: within a model at a length, of that ratio.
        coverage, coverage_low, coverage_high: of the ratio's 90 % interval, with the share's own
            95 % interval.
        regrets: (plans confirmed, median, worst) extra time over the best plan within a budget.
    """

    kind: str
    held_out: str
    plans: int
    cases: int
    latency_error: float
    ratio_error: float
    spearman: float
    pairwise_accuracy: float
    coverage: float
    coverage_low: float
    coverage_high: float
    regrets: tuple[tuple[int, float, float], ...]

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        found = plain_numbers(asdict(self))
        found["regrets"] = [[k, round(mid, 4), round(worst, 4)] for k, mid, worst in self.regrets]
        return found


@dataclass(frozen=True, slots=True)
class MemoryScore:
    """How well peaks are predicted: relative errors, and how often a plan that was predicted to fit
    a budget did not (budgets being the measured peaks of all plans of its set)."""

    plans: int
    median_error: float
    worst_error: float
    false_safe_rate: float
    false_safe_low: float
    false_safe_high: float

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return plain_numbers(asdict(self))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A reference set, and what a model that has not seen it makes of it.

    ``unchunked_ms`` is carried over from other lengths where some are known, else measured.
    """

    reference: Reference
    terms: PlanTerms
    unchunked_ms: float


def hold_out(
    model: CostModel, samples: Sequence[Sample], references: Sequence[Reference], kind: str
) -> list[HeldOut]:
    """Each reference set by a model fitted without its length's samples, or its model's."""
    found = []
    for part in _parts(references, kind):
        rest = [one for one in samples if not any(_seen(one, other, kind) for other in part)]
        if not rest:
            continue
        fitted = model.fit(rest)
        for one in part:
            known = [
                (other.parts, other.unchunked_ms / 1e3)
                for other in references
                if other.model == one.model and (kind == MODELS or other not in part)
            ]
            carried = one.unchunked_ms
            if kind == LENGTHS and known:
                carried = calibrate(known).seconds(one.parts) * 1e3
            found.append(HeldOut(one, plan_terms(one, fitted, known, carried), carried))
    return found


def _parts(references: Sequence[Reference], kind: str) -> list[list[Reference]]:
    """What is held out together: the first length of every model, the second, ...; or a model."""
    parts: dict[object, list[Reference]] = {}
    for one in references:
        lengths = sorted(other.length for other in references if other.model == one.model)
        key: object = one.model if kind == MODELS else lengths.index(one.length)
        parts.setdefault(key, []).append(one)
    return list(parts.values())


def _seen(sample: Sample, held: Reference, kind: str) -> bool:
    return sample.model == held.model and (kind == MODELS or sample.length == held.length)


def plan_score(kind: str, held_out: str, found: Sequence[HeldOut]) -> PlanScore:
    """The score of held-out predictions."""
    errors, ratio_errors, hits, ranks = [], [], [], []
    right, pairs = 0.0, 0
    regrets: dict[int, list[float]] = {count: [] for count in TOP}
    for one in found:
        runs = one.reference.runs
        estimates = one.terms.log_ratios()
        truth = np.array([run.log_ratio for run in runs])
        mean = np.array([estimate.log_ratio for estimate in estimates])
        spread = np.array([estimate.spread for estimate in estimates])
        measured = np.array([run.latency_ms for run in runs])
        errors.append(np.abs(np.exp(mean) * one.unchunked_ms / measured - 1))
        ratio_errors.append(np.abs(np.exp(mean - truth) - 1))
        hits.append(np.abs(mean - truth) <= Z90 * spread)
        width = tie_width(np.array([run.noise for run in runs]))
        good, counted = ordered_pairs(truth, mean, width)
        right, pairs = right + good, pairs + counted
        ranks.append(rank_correlation(truth, mean, width))
        for budget in budgets_of(one.reference):
            order = sorted(feasible(one.reference, budget), key=lambda k: (mean[k], k))
            for count in TOP:
                regrets[count].append(regret(one.reference, order, count, budget))
    low, high = share_interval(hits)
    return PlanScore(
        kind,
        held_out,
        sum(len(part) for part in hits),
        len(regrets[TOP[0]]),
        float(np.median(np.concatenate(errors))),
        float(np.median(np.concatenate(ratio_errors))),
        mean_of(ranks),
        right / pairs if pairs else float("nan"),
        float(np.mean(np.concatenate(hits))),
        low,
        high,
        tuple((k, float(np.median(v)), float(np.max(v))) for k, v in regrets.items()),
    )


def memory_score(references: Sequence[Reference]) -> MemoryScore:
    """Predicted against measured peaks."""
    errors, unsafe = [], []
    for one in references:
        predicted = np.array([run.predicted_bytes for run in one.runs])
        peaks = np.array([run.peak_bytes for run in one.runs])
        errors.append(np.abs(predicted / peaks - 1))
        fits = predicted[:, None] <= peaks[None, :]
        unsafe.append((peaks[:, None] > peaks[None, :])[fits])
    flat = np.concatenate(errors)
    low, high = share_interval(unsafe)
    rate = float(np.concatenate(unsafe).mean())
    return MemoryScore(len(flat), float(np.median(flat)), float(flat.max()), rate, low, high)
