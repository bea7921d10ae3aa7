"""Plans with their predictions, each predicted once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cost_models.base import Prediction
from search_space.plan import Plan
from search_space.space import SearchSpace

Predict = Callable[[Sequence[Plan]], Sequence[Prediction]]
"""Predictions of many plans at once, in their order."""

Setting = Mapping[str, int]
"""Chunk size by class key; 0, or no entry, leaves a class alone."""

OnTrial = Callable[[int, int], None]
"""Told how many settings were tried, of how many."""

LEAVE_ALONE = 0


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan with its prediction."""

    plan: Plan
    prediction: Prediction


class Book:
    """All proposals so far, in the order of first sight. A plan that several settings decode to is
    predicted once."""

    def __init__(self, space: SearchSpace, predict: Predict) -> None:
        self.space = space
        self._predict = predict
        self._found: dict[Plan, Proposal] = {}

    def visit(self, settings: Iterable[Setting]) -> list[Proposal]:
        """The proposals of some settings, one each; plans not seen before are predicted in one go.
        """
        plans = [self.space.decode(setting) for setting in settings]
        fresh = [plan for plan in dict.fromkeys(plans) if plan not in self._found]
        if fresh:
            predictions = self._predict(fresh)
            for plan, prediction in zip(fresh, predictions, strict=True):
                self._found[plan] = Proposal(plan, prediction)
        return [self._found[plan] for plan in plans]

    @property
    def proposals(self) -> tuple[Proposal, ...]:
        return tuple(self._found.values())


@dataclass(frozen=True, slots=True)
class Task:
    """What a sampler is asked.

    Attributes:
        trials: settings to try, at most, besides the seeds.
        seed: of all that is random.
        seeds: settings worth starting from; they have been visited.
        limit_bytes: plans above it are infeasible; None for no limit.
        on_trial: told of progress.
    """

    trials: int
    seed: int
    seeds: tuple[Setting, ...]
    limit_bytes: int | None
    on_trial: OnTrial


class Sampler(Protocol):
    """Visits settings of a book's space, as many as its task allows."""

    def __call__(self, book: Book, task: Task) -> None: ...


def on_grid(space: SearchSpace, setting: Setting) -> dict[str, int]:
    """A setting with an entry for every class, moved to the grid where it lies off it."""
    found = {}
    for item, grid in zip(space.classes, space.grids, strict=True):
        wanted = setting.get(item.key, LEAVE_ALONE)
        options = (LEAVE_ALONE, *grid)
        found[item.key] = min(options, key=lambda option: (abs(option - wanted), option))
    return found
