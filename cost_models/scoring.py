"""How good a cost model is, judged on timings of regions that it has not seen.

Chunk sizes are compared within one group, a class at a length, and all classes of a model at a
length with each other: pooled over sizes, a model that is blind to chunking would look good. What
is held out are whole lengths or whole models, else whole classes (:mod:`cost_models.folds`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cost_models.base import Z90, CostModel, Sample
from cost_models.folds import CLASSES, LENGTHS, folds, groups_of
from cost_models.ranks import (
    Values,
    mean_of,
    ordered_pairs,
    rank_correlation,
    share_interval,
    tie_width,
)
from cost_models.roofline import Roofline


@dataclass(frozen=True, slots=True)
class Score:
    """A model's accuracy on held-out samples.

    Attributes:
        kind: the model's.
        held_out: what the folds hold out: ``lengths``, ``models`` or ``classes``.
        samples, pairs: how many samples, and pairs within a class that differ beyond the noise.
        pairwise_accuracy: share of those pairs that the model orders rightly; NaN without pairs.
        spearman: mean rank correlation within a class at a length; NaN without a group that can be
            ranked.
        spearman_across, pairwise_across: the same over all classes of a model at a length.
        regret: mean extra time of the chunk size that the model ranks first, over the best's.
        error: root mean square of the log ratio's error.
        coverage, coverage_low, coverage_high: share of samples within the 90 % interval, and that
            share's own 95 % interval.
    """

    kind: str
    held_out: str
    samples: int
    pairs: int
    pairwise_accuracy: float
    spearman: float
    spearman_across: float
    pairwise_across: float
    regret: float
    error: float
    coverage: float
    coverage_low: float
    coverage_high: float

    @property
    def merit(self) -> tuple[float, float]:
        """Larger is better: what a wrong first choice costs decides, ranks break ties."""
        return (-round(self.regret, 2), self.pairwise_accuracy)

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return plain_numbers(asdict(self))


def plain_numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Figures to four digits; those that could not be told, which JSON has no word for, as None."""
    return {
        name: value
        if not isinstance(value, float)
        else None
        if math.isnan(value)
        else round(value, 4)
        for name, value in row.items()
    }


def from_plain_numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`plain_numbers`, of figures alone."""
    return {name: math.nan if value is None else value for name, value in row.items()}


def held_out(samples: Sequence[Sample]) -> str | None:
    """What to hold out of these samples to compare models: lengths, else classes, else nothing."""
    return next((kind for kind in (LENGTHS, CLASSES) if folds(samples, kind)), None)


def held_out_score(
    model: CostModel, samples: Sequence[Sample], kind: str | None = None
) -> Score | None:
    """The model, fitted anew without each fold, on that fold; None where there is one fold.

    Args:
        kind: what to hold out; None for what suits the samples.
    """
    kind = kind or held_out(samples)
    parts = folds(samples, kind) if kind else ()
    if kind is None or not parts:
        return None
    mean, spread = held_out_estimates(model, samples, parts)
    seen = [int(place) for place in np.flatnonzero(~np.isnan(mean))]
    return score(model.kind, kind, [samples[i] for i in seen], mean[seen], spread[seen])


def held_out_estimates(
    model: CostModel, samples: Sequence[Sample], parts: Sequence[Sequence[int]]
) -> tuple[Values, Values]:
    """Mean and spread of each sample by the model that has not seen its fold; NaN outside folds."""
    mean = np.full(len(samples), np.nan)
    spread = np.full(len(samples), np.nan)
    for part in parts:
        inside = set(part)
        fitted = model.fit([s for i, s in enumerate(samples) if i not in inside])
        found = fitted.estimate([samples[i].features for i in part])
        for place, one in zip(part, found, strict=True):
            mean[place], spread[place] = one.log_ratio, one.spread
    return mean, spread


def score(
    kind: str, held_out: str, samples: Sequence[Sample], mean: Values, spread: Values
) -> Score:
    """The score of given predictions (``mean`` and ``spread`` by sample)."""
    truth = np.array([sample.log_ratio for sample in samples])
    noise = np.array([sample.noise for sample in samples])
    within = [np.array(places) for places in groups_of(samples).values()]
    across = [np.array(places) for places in groups_of(samples, "length").values()]
    right, pairs, spearman = _order(truth, mean, noise, within)
    right_across, pairs_across, spearman_across = _order(truth, mean, noise, across)
    covered = np.abs(mean - truth) <= Z90 * spread
    low, high = share_interval([covered[places] for places in within])
    return Score(
        kind,
        held_out,
        len(samples),
        pairs,
        right / pairs if pairs else float("nan"),
        spearman,
        spearman_across,
        right_across / pairs_across if pairs_across else float("nan"),
        mean_of(_regret(truth[places], mean[places]) for places in within),
        float(np.sqrt(np.mean((mean - truth) ** 2))),
        float(np.mean(covered)),
        low,
        high,
    )


def noise_floor(samples: Sequence[Sample]) -> Score | None:
    """What a repetition of the same runs scores: one half of each sample's runs predicts the other,
    with the noise as spread. None where no halves are known."""
    known = [sample for sample in samples if sample.again is not None]
    if not known:
        return None
    halves = np.array([sample.again for sample in known])
    by_group = groups_of(known)
    noise = np.zeros(len(known))
    for places in by_group.values():
        noise[places] = np.sqrt(np.mean([known[i].noise ** 2 for i in places]))
    # the difference of halves scatters by twice the noise of all runs
    truth = [_with_ratio(sample, half) for sample, half in zip(known, halves[:, 0], strict=True)]
    return score("repetition", "runs", truth, halves[:, 1], 2 * noise + 1e-9)


def _with_ratio(sample: Sample, log_ratio: float) -> Sample:
    return Sample(
        sample.features, float(log_ratio), sample.group, sample.length, sample.model, sample.noise
    )


def _order(
    truth: Values, mean: Values, noise: Values, groups: Sequence[Any]
) -> tuple[float, int, float]:
    """Rightly ordered pairs, pairs, and the mean rank correlation, within groups."""
    right, pairs = 0.0, 0
    ranks = []
    for places in groups:
        width = tie_width(noise[places])
        good, counted = ordered_pairs(truth[places], mean[places], width)
        right, pairs = right + good, pairs + counted
        ranks.append(rank_correlation(truth[places], mean[places], width))
    return right, pairs, mean_of(ranks)


def _regret(truth: Values, mean: Values) -> float:
    """Extra time of what is ranked first; of several ranked first alike, any may be taken."""
    first = mean <= mean.min() + 1e-12
    return float(np.mean(np.exp(truth[first] - truth.min()) - 1))


@dataclass(frozen=True)
class Verdict:
    """Which model to use, and why.

    Attributes:
        model: the one to use, fitted to all samples.
        scores: every model's score, by kind; empty where nothing could be held out.
        refused: kinds that do not beat the roofline on what they had not seen.
    """

    model: CostModel
    scores: Mapping[str, Score]
    refused: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line for the user."""
        if not self.scores:
            return f"cost model: {self.model.kind} (too few timings to compare models)"
        first = next(iter(self.scores.values()))
        parts = [
            f"{kind}: error {one.error:.3f}, pairs {one.pairwise_accuracy:.2f}, "
            f"regret {one.regret:.3f}"
            for kind, one in self.scores.items()
        ]
        gate = f"; not better than the roofline, and not used: {', '.join(self.refused)}"
        return (
            f"cost model used: {self.model.kind}{gate if self.refused else ''}. On "
            f"{first.samples} timings with held-out {first.held_out} (error of log time, pairwise "
            f"accuracy, top-1 regret): {'; '.join(parts)}"
        )


def judge(models: Sequence[CostModel], samples: Sequence[Sample]) -> Verdict:
    """The model with the best held-out score, if it beats the roofline; else the roofline.

    Without enough samples for two folds the first model stands, fitted to what there is.
    """
    kind = held_out(samples)
    if kind is None:
        return Verdict(models[0].fit(samples), {})
    judged: dict[str, CostModel] = {model.kind: model for model in models}
    gate = Roofline()
    judged.setdefault(gate.kind, gate)
    scores = {name: held_out_score(model, samples, kind) for name, model in judged.items()}
    known = {name: found for name, found in scores.items() if found is not None}
    refused = tuple(
        name
        for name, found in known.items()
        if name != gate.kind and found.merit <= known[gate.kind].merit
    )
    best = max((name for name in known if name not in refused), key=lambda n: known[n].merit)
    return Verdict(judged[best].fit(samples), known, refused)

