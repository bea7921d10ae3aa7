"""The search against rules of thumb, at an equal number of real runs, on committed reference sets.

Every plan of a small space was measured for each model and length
(:mod:`experiments.cost_collect`), so that any way of choosing can be replayed: it names plans to
run, is told what one half of the measurements gave, and takes the fastest within the budget; the
other half says how fast that is. The cost models have not seen the length. ::

    python -m experiments.cost_compare         # prints the table, writes results/cpu/cost_search.md
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cost_models.acquisition import fastest
from cost_models.base import Sample
from cost_models.create import create
from cost_models.folds import LENGTHS
from cost_models.latency import fit_bias
from cost_models.plan_scoring import HeldOut, hold_out
from cost_models.ranks import tie_width
from cost_models.reference import Reference, budgets_of, feasible
from experiments.cost_card import RESULTS, load_references, load_samples
from tuner.card_tables import Page

RUNS = (1, 2, 4, 8)
SHOWN = 4
"""Of which the table of every case is."""

_DRAWS = 512
_RANDOM_ORDERS = 200
_BATCH = 2
"""Runs between two corrections of the model by what was measured."""


@dataclass(frozen=True)
class Case:
    """A reference set under a budget, with what the models make of it that have not seen it."""

    reference: Reference
    budget_bytes: int
    learned: HeldOut
    paper: HeldOut

    @property
    def allowed(self) -> list[int]:
        """Places of the plans that are predicted to fit."""
        return feasible(self.reference, self.budget_bytes)

    @property
    def name(self) -> str:
        share = self.budget_bytes / self.reference.unchunked_bytes
        return f"{self.reference.model} at {self.reference.length}, {share:.2f} of the peak"

    def measured(self, place: int) -> float:
        """What a run tells: the log ratio from one half of the measurements."""
        return self.reference.runs[place].halves[0]

    def truth(self, place: int) -> float:
        """The log ratio from the other half."""
        return self.reference.runs[place].halves[1]

    def chosen(self, places: Sequence[int]) -> int:
        """The fastest of some plans, as their runs tell."""
        return min(places, key=lambda k: (self.measured(k), k))

    @property
    def best(self) -> int:
        """The fastest plan within the budget, by all measurements."""
        return min(self.allowed, key=lambda k: self.reference.runs[k].log_ratio)

    @property
    def width(self) -> float:
        """Differences of log ratios, from one half of the runs, that are ties."""
        noise = np.array([run.noise for run in self.reference.runs])
        return tie_width(math.sqrt(2) * noise)


Strategy = Callable[[Case, int], list[list[int]]]
"""Places of the plans that are run: several lists where chance decides, to be averaged."""


def search(case: Case, count: int) -> list[list[int]]:
    """Ours: the plans from which most is expected to be gained, the model corrected by each batch
    of runs."""
    terms, base = case.learned.terms, case.learned.unchunked_ms
    ran: list[int] = []
    bias: Mapping[str, float] = {}
    while len(ran) < count:
        draws = terms.draws(_DRAWS, 0, bias)
        best_ms = min((base * math.exp(case.measured(k)) for k in ran), default=math.inf)
        left = [k for k in case.allowed if k not in ran]
        picks = fastest(draws, left, best_ms, min(_BATCH, count - len(ran)), 0.0)
        if not picks:
            break
        ran += [pick.place for pick in picks]
        runs = [(terms.rows[k], base * math.exp(case.measured(k))) for k in ran]
        bias = fit_bias(runs, terms.estimates, base)
    return [ran]


def largest_chunks(case: Case, count: int) -> list[list[int]]:
    """The rule of thumb: the largest chunks that fit, that is the fewest passes in all."""
    classes = case.reference.classes

    def passes(place: int) -> int:
        setting = case.reference.runs[place].setting
        return sum(
            classes[key].occurrences * classes[key].features[size].passes for key, size in setting
        )

    return [sorted(case.allowed, key=lambda k: (passes(k), k))[:count]]


def paper(case: Case, count: int) -> list[list[int]]:
    """The paper's macro and micro cost, its weights fitted to the same samples."""
    mean = [estimate.log_ratio for estimate in case.paper.terms.log_ratios()]
    return [sorted(case.allowed, key=lambda k: (mean[k], k))[:count]]


def at_random(case: Case, count: int) -> list[list[int]]:
    """Plans drawn at random among those that fit."""
    random = np.random.default_rng(0)
    allowed = np.array(case.allowed)
    return [
        random.permutation(allowed)[:count].tolist() for _ in range(_RANDOM_ORDERS)
    ]


STRATEGIES: Mapping[str, Strategy] = {
    "search": search, "random": at_random, "largest chunk": largest_chunks, "paper": paper,
}  # fmt: skip


def cases_of(samples: Sequence[Sample], references: Sequence[Reference]) -> list[Case]:
    """Every reference set under each of its budgets."""
    held = [
        hold_out(create(kind)[0], samples, references, LENGTHS)
        for kind in ("learned", "macro_micro")
    ]
    return [
        Case(learned.reference, budget, learned, fitted)
        for learned, fitted in zip(*held, strict=True)
        for budget in budgets_of(learned.reference)
    ]


def outcome(case: Case, strategy: Strategy, count: int) -> float:
    """The mean log ratio of what a strategy ends up with."""
    return float(np.mean([case.truth(case.chosen(run)) for run in strategy(case, count)]))


Outcomes = Mapping[int, Mapping[str, np.ndarray]]
"""By number of runs and strategy: a log ratio a case."""


def outcomes_of(cases: Sequence[Case]) -> Outcomes:
    """What every strategy ends up with in every case."""
    return {
        count: {
            name: np.array([outcome(case, strategy, count) for case in cases])
            for name, strategy in STRATEGIES.items()
        }
        for count in RUNS
    }


def report(cases: Sequence[Case], found: Outcomes) -> str:
    """The comparison as Markdown."""
    best = np.array([case.truth(case.best) for case in cases])
    regrets = Page(
        "Median and worst regret: extra time of the plan that is chosen, over the best of its "
        f"space within the budget, in {len(cases)} cases (model, length, budget).",
        ("real runs", *STRATEGIES),
        tuple(
            (str(count), *(_regrets(by_name[name] - best) for name in STRATEGIES))
            for count, by_name in found.items()
        ),
    )
    duels = Page(
        "Search against each rule: cases in which it is slower, or faster, beyond the noise, and "
        "on how many of all models at a length, and of all models, it is faster on average beyond "
        "the noise of that average.",
        ("real runs", "rule", "slower", "faster", "models at a length, faster", "models, faster"),
        tuple(
            _duel(cases, by_name, count, name)
            for count, by_name in found.items()
            for name in list(STRATEGIES)[1:]
        ),
    )
    every = Page(
        f"Every case: time of the chosen plan over the unchanged model's, after {SHOWN} real runs.",
        ("case", "plans that fit", "best", *STRATEGIES, "noise"),
        tuple(
            (
                case.name, str(len(case.allowed)), f"{math.exp(best[k]):.3f}",
                *(f"{math.exp(found[SHOWN][name][k]):.3f}" for name in STRATEGIES),
                f"{case.width:.3f}",
            )
            for k, case in enumerate(cases)
        ),
    )  # fmt: skip
    head = (
        "# The search against rules of thumb, at an equal number of real runs\n\n"
        "`python -m experiments.cost_compare`, on the committed reference sets.\n\n"
    )
    return head + "\n".join(page.markdown() for page in (regrets, duels, every))


def _duel(
    cases: Sequence[Case], by_name: Mapping[str, np.ndarray], count: int, name: str
) -> tuple[str, ...]:
    """How the search does against a rule."""
    width = np.array([case.width for case in cases])
    gap = by_name["search"] - by_name[name]

    def wins(keys: Sequence[object]) -> str:
        """Of groups of cases, those in which it is faster on average."""
        groups: dict[object, list[int]] = {}
        for place, key in enumerate(keys):
            groups.setdefault(key, []).append(place)
        won = sum(
            gap[own].mean() < -width[own].mean() / math.sqrt(len(own)) for own in groups.values()
        )
        return f"{won} of {len(groups)}"

    slower, faster = int((gap > width).sum()), int((gap < -width).sum())
    models = [case.reference.model for case in cases]
    lengths = [(case.reference.model, case.reference.length) for case in cases]
    return str(count), name, str(slower), str(faster), wins(lengths), wins(models)


def _regrets(gaps: np.ndarray) -> str:
    regrets = 100 * np.expm1(gaps)
    return f"{np.median(regrets):.1f} %, {regrets.max():.1f} %"


def compare(folder: Path) -> dict[str, list[float]]:
    """Replay all strategies, write the table, and give the mean regret by number of runs."""
    cases = cases_of(load_samples(folder), load_references(folder))
    found = outcomes_of(cases)
    text = report(cases, found)
    (folder / "cost_search.md").write_text(text, encoding="utf-8")
    print(text)
    best = np.array([case.truth(case.best) for case in cases])
    return {
        name: [float(np.mean(np.expm1(found[count][name] - best))) for count in RUNS]
        for name in STRATEGIES
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay all strategies and write the table."""
    parser = argparse.ArgumentParser(description="search against rules of thumb")
    parser.add_argument("--data", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    compare(options.data)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
