"""Optuna's samplers: many plans predicted, none run.

One coordinator asks for settings in batches, has each decoded to a legal plan, and tells latency
and peak. A plan above the limit is no failure: it is complete, with a violated constraint, so that
the sampler learns from it. Only this module imports Optuna.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping

import optuna

from tuner.search.proposal import LEAVE_ALONE, Book, Sampler, Task, on_grid

_BATCH = 10
"""Settings asked for before any is told: predictions are cheaper in batches, and a sampler that
waits for ten learns hardly less."""

_SAMPLERS: Mapping[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


def study(name: str) -> Sampler:
    """Optuna's sampler of a name: ``tpe``, ``nsga2`` or ``random``."""

    def run(book: Book, task: Task) -> None:
        _run(name, book, task)

    return run


def _run(name: str, book: Book, task: Task) -> None:
    space = book.space
    made = _create(name, task.seed)
    for seed in ({}, *task.seeds):
        made.enqueue_trial(on_grid(space, seed), skip_if_exists=True)
    done = 0
    while done < task.trials:
        trials = [made.ask() for _ in range(min(_BATCH, task.trials - done))]
        settings = [
            {
                item.key: trial.suggest_categorical(item.key, (LEAVE_ALONE, *grid))
                for item, grid in zip(space.classes, space.grids, strict=True)
            }
            for trial in trials
        ]
        for trial, proposal in zip(trials, book.visit(settings), strict=True):
            found = proposal.prediction
            if task.limit_bytes is not None:
                trial.set_constraint("budget", float(found.peak_bytes - task.limit_bytes))
            made.tell(trial, (found.latency_ms, float(found.peak_bytes)))
            done += 1
            task.on_trial(done, task.trials)


def _create(name: str, seed: int) -> optuna.Study:
    logging.getLogger("optuna").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # multivariate TPE is marked experimental; its results are checked by real runs
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.create_study(
            directions=("minimize", "minimize"), sampler=_SAMPLERS[name](seed)
        )
