"""How good a cost model is, judged on timings that it has not seen.

Chunk sizes are compared within one group (a class at a length): pooled over sizes, a model that is
blind to chunking would look good. Folds hold out whole lengths, where there are several, else whole
classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cost_models.base import CostModel, Sample

NOISE = 0.03
"""Differences of log time below this are ties: two timings of one thing differ by as much."""


@dataclass(frozen=True, slots=True)
class Score:
    """A model's accuracy on held-out samples.

    Attributes:
        kind: the model's.
        held_out: what the folds hold out, ``lengths`` or ``classes``.
        samples, pairs: how many samples, and pairs within groups that differ by more than noise.
        pairwise_accuracy: share of those pairs that the model orders rightly; NaN without pairs.
        spearman: mean rank correlation within groups; NaN without a group of three.
        regret: mean extra time of the chunk size that the model ranks first, over the best's.
        error: root mean square of the log ratio's error.
        coverage: share of samples within two spreads.
    """

    kind: str
    held_out: str
    samples: int
    pairs: int
    pairwise_accuracy: float
    spearman: float
    regret: float
    error: float
    coverage: float

    @property
    def merit(self) -> tuple[float, float]:
        """Larger is better: what a wrong first choice costs decides, ranks break ties."""
        return (-round(self.regret, 2), self.pairwise_accuracy)


def folds(samples: Sequence[Sample]) -> tuple[str, list[list[int]]]:
    """What is held out, and the places of each fold's samples."""
    lengths = sorted({sample.length for sample in samples})
    if len(lengths) > 1:
        by_length = [[i for i, s in enumerate(samples) if s.length == n] for n in lengths]
        return "lengths", by_length
    groups: dict[str, list[int]] = defaultdict(list)
    for place, sample in enumerate(samples):
        groups[sample.group].append(place)
    return "classes", [groups[name] for name in sorted(groups)]


def held_out_score(model: CostModel, samples: Sequence[Sample]) -> Score | None:
    """The model, fitted anew without each fold, on that fold; None where there is one fold."""
    held_out, parts = folds(samples)
    if len(parts) < 2:
        return None
    mean = np.zeros(len(samples))
    spread = np.zeros(len(samples))
    for part in parts:
        inside = set(part)
        fitted = model.fit([s for i, s in enumerate(samples) if i not in inside])
        for place, found in zip(
            part, fitted.estimate([samples[i].features for i in part]), strict=True
        ):
            mean[place], spread[place] = found.log_ratio, found.spread
    return score(model.kind, held_out, samples, mean, spread)


def score(
    kind: str, held_out: str, samples: Sequence[Sample], mean: np.ndarray, spread: np.ndarray
) -> Score:
    """The score of given predictions (``mean`` and ``spread`` by sample)."""
    from scipy.stats import spearmanr

    truth = np.array([sample.log_ratio for sample in samples])
    groups: dict[str, list[int]] = defaultdict(list)
    for place, sample in enumerate(samples):
        groups[sample.group].append(place)
    right = pairs = 0.0
    ranks: list[float] = []
    regrets: list[float] = []
    for places in groups.values():
        for k, i in enumerate(places):
            for j in places[k + 1 :]:
                if abs(truth[i] - truth[j]) <= NOISE:
                    continue
                pairs += 1
                agree = (mean[i] - mean[j]) * (truth[i] - truth[j])
                right += 1.0 if agree > 0 else 0.5 if agree == 0 else 0.0
        best = min(places, key=lambda i: truth[i])
        # of several that the model ranks first alike, any may be taken
        first = [i for i in places if mean[i] <= mean[places].min() + 1e-12]
        regrets.append(float(np.mean(np.exp(truth[first] - truth[best]) - 1)))
        if len(places) > 2 and np.ptp(truth[places]) > 0 and np.ptp(mean[places]) > 0:
            ranks.append(float(spearmanr(truth[places], mean[places]).statistic))
    return Score(
        kind,
        held_out,
        len(samples),
        int(pairs),
        right / pairs if pairs else float("nan"),
        float(np.mean(ranks)) if ranks else float("nan"),
        float(np.mean(regrets)),
        float(np.sqrt(np.mean((mean - truth) ** 2))),
        float(np.mean(np.abs(mean - truth) <= 2 * spread)),
    )


def choose(
    models: Sequence[CostModel], samples: Sequence[Sample]
) -> tuple[CostModel, Mapping[str, Score]]:
    """The model with the best held-out score, fitted to all samples, and every model's score.

    Without enough samples for two folds the first model stands.
    """
    scores: dict[str, Score] = {}
    for model in models:
        found = held_out_score(model, samples)
        if found is not None:
            scores[model.kind] = found
    best = max(models, key=lambda m: scores[m.kind].merit) if scores else models[0]
    return best.fit(samples), scores
