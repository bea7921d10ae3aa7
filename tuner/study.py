"""The Optuna study: many plans predicted, none run.

One coordinator asks for settings, decodes each to a legal plan, predicts latency and peak, and
tells both objectives. Only this module imports Optuna.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import optuna

from cost_models.base import Prediction
from search_space.plan import Plan
from search_space.space import SearchSpace
from tuner.config import SearchConfig

Predict = Callable[[Plan], Prediction]
Setting = Mapping[str, int]

LEAVE_ALONE = 0


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan with its prediction."""

    plan: Plan
    prediction: Prediction


def propose(
    space: SearchSpace,
    predict: Predict,
    config: SearchConfig,
    *,
    seeds: Sequence[Setting] = (),
    loosest_budget_bytes: int | None = None,
    on_trial: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Proposal, ...]:
    """Distinct plans of a search space with their predictions, in the order of first sight.

    Args:
        predict: gives a plan's latency and peak; called once per distinct plan.
        config: sampler, number of trials, seed. A space no larger than the number of trials is
            enumerated instead of sampled.
        seeds: settings to try first, for instance what a selector found.
        loosest_budget_bytes: plans above it count as infeasible, so that the sampler turns to
            those below.
    """
    found: dict[Plan, Proposal] = {}

    def visit(setting: Setting) -> Proposal:
        plan = space.decode(setting)
        if plan not in found:
            found[plan] = Proposal(plan, predict(plan))
        return found[plan]

    visit({})
    for seed in seeds:
        visit(seed)
    if not space.classes:
        return tuple(found.values())
    if config.sampler == "exhaustive" or space.size <= config.n_trials:
        for done, setting in enumerate(_all_settings(space, config.n_trials)):
            visit(setting)
            on_trial(done + 1, min(space.size, config.n_trials))
        return tuple(found.values())
    study = _create_study(config)
    for seed in [{}, *seeds]:
        study.enqueue_trial(_to_parameters(space, seed), skip_if_exists=True)
    for done in range(config.n_trials):
        trial = study.ask()
        setting = {
            item.key: trial.suggest_categorical(item.key, (LEAVE_ALONE, *grid))
            for item, grid in zip(space.classes, space.grids, strict=True)
        }
        prediction = visit(setting).prediction
        if loosest_budget_bytes is not None:
            trial.set_constraint("budget", float(prediction.peak_bytes - loosest_budget_bytes))
        study.tell(trial, (prediction.latency_ms, float(prediction.peak_bytes)))
        on_trial(done + 1, config.n_trials)
    return tuple(found.values())


def _create_study(config: SearchConfig) -> optuna.Study:
    logging.getLogger("optuna").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # multivariate TPE is marked experimental; its results are checked by real runs
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        samplers: Mapping[str, Callable[[], optuna.samplers.BaseSampler]] = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=config.seed, multivariate=True),
            "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=config.seed),
            "random": lambda: optuna.samplers.RandomSampler(seed=config.seed),
        }
        return optuna.create_study(
            directions=("minimize", "minimize"), sampler=samplers[config.sampler]()
        )


def _all_settings(space: SearchSpace, limit: int) -> Iterable[Setting]:
    keys = [item.key for item in space.classes]
    grids = [(LEAVE_ALONE, *grid) for grid in space.grids]
    for values in itertools.islice(itertools.product(*grids), limit):
        yield dict(zip(keys, values, strict=True))


def _to_parameters(space: SearchSpace, setting: Setting) -> dict[str, int]:
    """A setting with an entry for every class, moved to the grid where it lies off it."""
    found = {}
    for item, grid in zip(space.classes, space.grids, strict=True):
        wanted = setting.get(item.key, LEAVE_ALONE)
        options = (LEAVE_ALONE, *grid)
        found[item.key] = min(options, key=lambda option: (abs(option - wanted), option))
    return found
