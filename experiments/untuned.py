"""Plans that are chosen without tuning: what they are told to take, and what they take.

For each subject and budget a plan is chosen by the plain roofline, by the rates of kinds of op
that are assumed of a CPU (as ``apply`` chooses), and by those that are measured of this one (as
campaigns do). All run in turns with the eager model, whose outputs they must give::

    python -m experiments.untuned                        # writes results/cpu/untuned.md
    python -m experiments.untuned gpt2 vit --rounds 4    # some, printed

The exit code is 1 where an output is wrong.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

import torch

from cost_models.assumed import default_ceilings
from cost_models.ceilings import Ceilings
from cost_models.select import Selected, mib
from experiments.judge import TOLERANCE, Exact
from experiments.machine import environment
from experiments.subjects import BARS, Bar
from search_space.eager_peak import eager_peak_bytes
from search_space.errors import BudgetError
from search_space.probe import Prober
from tuner.measure.backends import backend_for
from tuner.measure.ceilings import measure_ceilings
from tuner.measure.protocol import Backend
from tuner.runtime.analysis import Analysis
from tuner.runtime.apply import apply_plan
from tuner.runtime.captures import Captures

RESULTS = Path(__file__).parent / "results" / "cpu" / "untuned.md"
KEYS = tuple(bar.key for bar in BARS)

Budget = float | None
"""A share of the eager model's peak; None for the lowest peak."""

BUDGETS: tuple[Budget, ...] = (0.6, 0.25, 0.15, 0.08, None)
EAGER = "eager"


@dataclass(frozen=True, slots=True)
class Row:
    """A plan: how many times the unchunked model's time it is told to take, how many times the
    eager model's CPU time it took, and why its outputs are wrong (else empty)."""

    way: str
    budget: str
    peak_bytes: int
    told: float
    measured: float
    wrong: str


def ways(measured: Ceilings) -> Mapping[str, Ceilings]:
    """The ceilings to choose by."""
    assumed = default_ceilings("cpu")
    return {
        "plain roofline": replace(assumed, rates=None),
        "assumed rates": assumed,
        "measured rates": measured,
    }


def chosen(analysis: Analysis, budget: Budget, eager_bytes: int) -> Selected | None:
    """The plan within a budget; None where there is none."""
    if budget is None:
        return analysis.selector.lowest(analysis.unchunked_s)
    try:
        return analysis.selector.within(int(budget * eager_bytes))
    except BudgetError:
        return None


def rows_of(bar: Bar, ceilings: Mapping[str, Ceilings], backend: Backend, rounds: int) -> list[Row]:
    """A subject's rows, budget by budget."""
    model, inputs = bar.make()
    args, kwargs = inputs(bar.length)
    captures = Captures(model)
    located = captures.locate(args, kwargs)
    graph, prober = located.captured.graph, Prober()
    analyses = {
        way: Analysis(graph, located.bindings, one, prober) for way, one in ceilings.items()
    }
    eager_bytes = eager_peak_bytes(model, args, kwargs)
    judge = Exact(model(*args, **kwargs), TOLERANCE[torch.float32])
    found = []
    for budget in BUDGETS:
        plans = {way: chosen(one, budget, eager_bytes) for way, one in analyses.items()}
        calls: dict[Any, Callable[[], Any]] = {EAGER: partial(model, *args, **kwargs)}
        for selected in plans.values():
            if selected is not None and selected.plan not in calls:
                fast = apply_plan(model, selected.plan, args, kwargs, captures=captures)
                calls[selected.plan] = partial(fast, *args, **kwargs)
        wrong = {key: judge(call()).reason for key, call in calls.items()}
        times: dict[Any, list[float]] = {key: [] for key in calls}
        for _ in range(rounds):
            for key, call in calls.items():
                times[key].append(backend.time_call(call)[0])
        medians = {key: statistics.median(values) for key, values in times.items()}
        for way, selected in plans.items():
            if selected is not None:
                told = 1 + selected.extra_s / analyses[way].unchunked_s
                found.append(Row(
                    way, "lowest" if budget is None else f"{budget:g}", selected.peak_bytes, told,
                    medians[selected.plan] / medians[EAGER], wrong[selected.plan],
                ))  # fmt: skip
    return found


def table(rows: Sequence[Row]) -> Iterator[str]:
    """A subject's lines."""
    yield "| within | chosen by | peak | told, of the unchunked | measured, of eager |"
    yield "|---|---|---:|---:|---:|"
    for row in rows:
        measured = f"{row.measured:.3f}" + (f" **{row.wrong}**" if row.wrong else "")
        yield f"| {row.budget} | {row.way} | {mib(row.peak_bytes)} | {row.told:.3f} | {measured} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Choose and measure; see the module for the exit code."""
    parser = argparse.ArgumentParser(description="plans that are chosen without tuning")
    parser.add_argument("subjects", nargs="*", help=f"of {', '.join(KEYS)}; all by default")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="where the page goes")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.subjects) - set(KEYS)):
        parser.error(f"no subject {', '.join(unknown)}; there are {', '.join(KEYS)}")
    if options.rounds < 1:
        parser.error(f"--rounds must be positive, got {options.rounds}")
    torch.set_num_threads(options.threads)
    backend = backend_for("cpu")
    ceilings = ways(measure_ceilings(backend))
    names = " ".join(options.subjects)
    lines = [
        "# Plans chosen without tuning",
        "",
        f"`{f'python -m experiments.untuned {names}'.strip()} --rounds {options.rounds}`, "
        f"{options.threads} threads, fp32; "
        + ", ".join(f"{key} {value}" for key, value in environment().items()) + ".",
        "",
        "Peaks are told, of activations; times are CPU time, medians of runs in turns, under the C "
        "library's allocator as it is. `lowest` is the lowest peak that is told to take at most "
        "1.5 times the unchunked model's time.",
    ]  # fmt: skip
    failed = False
    for bar in BARS:
        if options.subjects and bar.key not in options.subjects:
            continue
        with torch.no_grad():
            rows = rows_of(bar, ceilings, backend, options.rounds)
        failed = failed or any(row.wrong for row in rows)
        page = ["", f"## {bar.name}", "", *table(rows)]
        print("\n".join(page), flush=True)
        lines += page
    output = options.output or (None if options.subjects else RESULTS)
    if output is not None:
        output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
