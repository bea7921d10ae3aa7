"""The card of cost models: how far each can be trusted, on what it has not seen, beside the noise.

It is stored beside a model (:mod:`cost_models.stored`), and says for held-out lengths, held-out
models and, where neither can be held out, held-out classes, what every kind of model scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cost_models.base import CostModel, Sample
from cost_models.folds import CLASSES, LENGTHS, MODELS, folds
from cost_models.plan_scoring import (
    MemoryScore,
    PlanScore,
    hold_out,
    memory_score,
    plan_score,
)
from cost_models.reference import Reference
from cost_models.scoring import Score, from_plain_numbers, held_out_score, noise_floor


@dataclass(frozen=True)
class Card:
    """Scores of several kinds of model on the same data.

    Attributes:
        device: on which the data were measured.
        models, lengths: what the samples are of: names, and how many lengths in all.
        noise: median standard deviation of a sample's log ratio from run to run.
        floor: what a repetition of the measurements scores; None where it is not known.
        scores: of regions, by held-out kind and model.
        plans: the same of whole plans, where reference sets are at hand.
        memory: of peaks, likewise.
    """

    device: str
    models: tuple[str, ...]
    lengths: int
    noise: float
    floor: Score | None
    scores: tuple[Score, ...]
    plans: tuple[PlanScore, ...] = ()
    memory: MemoryScore | None = None

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "device": self.device,
            "models": list(self.models),
            "lengths": self.lengths,
            "noise": round(self.noise, 5),
            "floor": None if self.floor is None else self.floor.plain(),
            "scores": [one.plain() for one in self.scores],
            "plans": [one.plain() for one in self.plans],
            "memory": None if self.memory is None else self.memory.plain(),
        }


def make_card(
    models: Sequence[CostModel],
    samples: Sequence[Sample],
    references: Sequence[Reference] = (),
    device: str = "",
    on_score: Callable[[str, str], None] = lambda kind, held_out: None,
) -> Card:
    """Judge models on everything that can be held out of the samples and reference sets."""
    kinds = [kind for kind in (LENGTHS, MODELS) if folds(samples, kind)]
    kinds = kinds or [kind for kind in (CLASSES,) if folds(samples, kind)]
    scores = []
    plans = []
    for held_out in kinds:
        for model in models:
            on_score(model.kind, held_out)
            found = held_out_score(model, samples, held_out)
            if found is not None:
                scores.append(found)
            if references and held_out in (LENGTHS, MODELS):
                held = hold_out(model, samples, references, held_out)
                if held:
                    plans.append(plan_score(model.kind, held_out, held))
    memory = memory_score(references) if references else None
    return card_of(tuple(scores), samples, device, tuple(plans), memory)


def card_of(
    scores: tuple[Score, ...],
    samples: Sequence[Sample],
    device: str,
    plans: tuple[PlanScore, ...] = (),
    memory: MemoryScore | None = None,
) -> Card:
    """A card of scores that are known."""
    return Card(
        device,
        tuple(sorted({sample.model for sample in samples})),
        len({(sample.model, sample.length) for sample in samples}),
        float(np.median([sample.noise for sample in samples])) if samples else 0.0,
        noise_floor(samples),
        scores,
        plans,
        memory,
    )


def card_from_plain(row: Mapping[str, Any]) -> Card:
    """The inverse of :meth:`Card.plain`.

    Raises:
        KeyError, TypeError: it is none.
    """

    def plan(one: Mapping[str, Any]) -> PlanScore:
        regrets = tuple((int(k), float(mid), float(worst)) for k, mid, worst in one["regrets"])
        return PlanScore(**{**from_plain_numbers(one), "regrets": regrets})

    return Card(
        str(row["device"]),
        tuple(row["models"]),
        int(row["lengths"]),
        float(row["noise"]),
        None if row["floor"] is None else Score(**from_plain_numbers(row["floor"])),
        tuple(Score(**from_plain_numbers(one)) for one in row["scores"]),
        tuple(plan(one) for one in row["plans"]),
        None if row["memory"] is None else MemoryScore(**from_plain_numbers(row["memory"])),
    )
