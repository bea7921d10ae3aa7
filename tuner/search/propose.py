"""Proposing plans with the sampler that the configuration names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from search_space.space import SearchSpace
from tuner.config import SearchConfig
from tuner.search.beam import beam
from tuner.search.exhaustive import exhaustive
from tuner.search.proposal import Book, OnTrial, Predict, Proposal, Sampler, Setting, Task


def _study(name: str) -> Callable[[], Sampler]:
    def load() -> Sampler:
        from tuner.search.study import study  # Optuna takes a second to load

        return study(name)

    return load


_SAMPLERS: Mapping[str, Callable[[], Sampler]] = {
    "tpe": _study("tpe"),
    "nsga2": _study("nsga2"),
    "random": _study("random"),
    "exhaustive": lambda: exhaustive,
    "beam": lambda: beam,
}


def propose(
    space: SearchSpace,
    predict: Predict,
    config: SearchConfig,
    *,
    seeds: Sequence[Setting] = (),
    loosest_budget_bytes: int | None = None,
    on_trial: OnTrial = lambda done, total: None,
) -> tuple[Proposal, ...]:
    """Distinct plans of a search space with their predictions, in the order of first sight.

    Args:
        predict: gives plans' latencies and peaks; asked once per distinct plan.
        config: sampler, number of trials, seed. A space no larger than the number of trials is
            enumerated instead of sampled.
        seeds: settings to try first, for instance what a selector found.
        loosest_budget_bytes: plans above it count as infeasible, so that the sampler turns to
            those below.
    """
    book = Book(space, predict)
    book.visit([{}, *seeds])
    if not space.classes:
        return book.proposals
    small = space.size <= config.n_trials
    sampler = _SAMPLERS["exhaustive" if small else config.sampler]()
    sampler(
        book, Task(config.n_trials, config.seed, tuple(seeds), loosest_budget_bytes, on_trial)
    )
    return book.proposals
