"""What a campaign would do, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cost_models.base import Sample
from cost_models.scoring import Score
from search_space.budget import Budget
from tuner.config import CampaignConfig
from tuner.database import PlanRow, Reference
from tuner.measured import Confirmed
from tuner.runtime.analysis import Analysis


@dataclass(frozen=True)
class BudgetResult:
    """A budget at a length, and the plan that serves it; None where no run confirmed one."""

    budget: Budget
    limit_bytes: int | None
    row: PlanRow | None


@dataclass(frozen=True)
class LengthResult:
    """What a campaign found at one length.

    Attributes:
        length: as in the campaign file.
        eager: the eager model's peak (measured, or as told without running it) and latency.
        reference: what latencies are relative to, ``eager`` or ``lowest plan``.
        budgets: one result a budget.
        frontier: the confirmed plans worth keeping, by peak.
        confirmed: every real run, in order.
        memory_error: largest relative error of the predicted peaks, against what was requested of
            the allocator; NaN without a run.
        target: the submodule that was tuned in place of the whole model; else an empty text.
    """

    length: int
    eager: Reference
    reference: str
    budgets: tuple[BudgetResult, ...]
    frontier: tuple[PlanRow, ...]
    confirmed: tuple[Confirmed, ...]
    memory_error: float
    target: str = ""


@dataclass(frozen=True)
class CampaignResult:
    """What a campaign found, how good its cost model was on timings it had not seen, and all
    timings that it knew."""

    lengths: tuple[LengthResult, ...]
    model_used: str
    scores: Mapping[str, Score]
    files: tuple[Path, ...]
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True)
class LengthPlan:
    """What a campaign would do at a length: for ``--dry-run``. ``seconds`` is how long timing
    regions and real runs should take, by the roofline of a usual device: nothing was run."""

    length: int
    fingerprint: str
    classes: int
    space_size: int
    region_timings: int
    real_runs: int
    seconds: float


def plan_campaign(config: CampaignConfig, analyses: Mapping[int, Analysis]) -> list[LengthPlan]:
    """The size of each length's space, and the most real runs that it would take."""
    found = []
    for length, analysis in analyses.items():
        space = analysis.space
        found.append(
            LengthPlan(
                length,
                analysis.graph.fingerprint,
                len(space.classes),
                space.size,
                sum(len(timed_sizes(grid)) + 1 for grid in space.grids),
                1 + most_plans(config),
                config.cost_model.timings_s + expected_seconds(config, analysis.unchunked_s),
            )
        )
    return found


def most_plans(config: CampaignConfig) -> int:
    """How many plans a campaign runs at a length, at most: the unchanged model, what is chosen
    without data, each round's, and with ``compile`` the best compiled and one round of others."""
    budgets, each = len(config.budgets), config.confirm.top_k
    found = 1 + budgets * (1 + each * config.search.rounds)
    return found if config.compile is None else found + 1 + budgets * (1 + each)


def expected_seconds(config: CampaignConfig, run_s: float) -> float:
    """About how long the real runs at a length take, where one run of the model takes ``run_s``:
    each plan is built and run twice, then timed in turns, and the finalists once more. Compiling
    is left out: it takes what it takes."""
    confirm = config.confirm
    plans = most_plans(config)
    turns = confirm.warmup + confirm.repeats
    finalists = min(plans, 1 + 2 * len(config.budgets))  # its own, and what may be faster
    return run_s * (plans * (2 + turns) + (1 + finalists) * (turns + confirm.repeats))


def timed_sizes(grid: Sequence[int]) -> tuple[int, ...]:
    """The chunk sizes of a grid to time alone: every second one, from the largest."""
    return tuple(grid[::2])
