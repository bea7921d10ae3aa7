"""Budgets step by step: what plans within ever smaller budgets really take, down to the floor.

A subject is captured once. Budgets descend from its unchunked peak to the lowest peak that any plan
reaches; each is planned for as ``apply`` plans, run and measured::

    python -m experiments.budgets                     # every subject of the measured table
    python -m experiments.budgets gpt2 vit --rungs 12 # some, printed

The exit code is 1 where a promise is broken: a plan takes more than its budget by more than the
stated memory error, a lower budget takes more than a higher one did, outputs differ, or a budget
below the floor is not refused.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

import torch

from cost_models.select import mib
from experiments.judge import TOLERANCE
from experiments.subjects import BARS
from experiments.verdicts import MEMORY_ERROR, SMALL_BYTES
from search_space.errors import BudgetError
from search_space.probe import Prober
from tuner.factory import Inputs
from tuner.measure.backends import backend_for
from tuner.measure.compare import compare
from tuner.measure.protocol import Backend
from tuner.runtime.analysis import Analysis
from tuner.runtime.apply import apply_plan
from tuner.runtime.captures import Captures

RESULTS = Path(__file__).parent / "results" / "cpu" / "budgets.md"
KEYS = tuple(bar.key for bar in BARS)


@dataclass(frozen=True, slots=True)
class Rung:
    """A budget, the peak predicted and measured of the plan for it, and why its outputs are wrong
    (else empty)."""

    budget_bytes: int
    predicted_bytes: int
    measured_bytes: int
    loops: int
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Descent:
    """A subject's rungs, the highest budget first; the last one's is the floor."""

    name: str
    unchunked_bytes: int
    floor_bytes: int
    rungs: tuple[Rung, ...]
    refused_below: bool

    @property
    def faults(self) -> list[str]:
        """Every promise that was broken, in words."""
        found = [] if self.refused_below else ["a budget below the floor was not refused"]
        last = self.unchunked_bytes + SMALL_BYTES
        for rung in self.rungs:
            at = f"within {mib(rung.budget_bytes)}"
            taken = rung.measured_bytes
            if rung.predicted_bytes > rung.budget_bytes:
                found.append(f"{at}: a plan of {mib(rung.predicted_bytes)} was chosen")
            if taken > rung.budget_bytes * (1 + MEMORY_ERROR):
                found.append(f"{at}: {mib(taken)} were taken")
            if abs(rung.predicted_bytes - taken) > max(MEMORY_ERROR * taken, SMALL_BYTES):
                found.append(f"{at}: predicted {mib(rung.predicted_bytes)}, measured {mib(taken)}")
            if taken > last:
                found.append(f"{at}: {mib(taken)} were taken, and {mib(last)} within a larger one")
            if rung.wrong:
                found.append(f"{at}: {rung.wrong}")
            last = min(last, taken)
        return found


def steps(highest: int, floor: int, count: int) -> tuple[int, ...]:
    """``count`` budgets in equal ratios, from just below the highest down to the floor itself."""
    ratio = (floor / highest) ** (1 / count)
    between = (int(highest * ratio**place) for place in range(1, count))
    return (*(budget for budget in between if budget > floor), floor)


def descend(
    name: str, model: torch.nn.Module, given: Inputs, backend: Backend, count: int
) -> Descent:
    """Plan for each budget, run the plan, and measure it.

    Raises:
        CaptureError: the model cannot be captured.
    """
    args, kwargs = given
    captures = Captures(model)
    located = captures.locate(args, kwargs)
    graph = located.captured.graph
    analysis = Analysis.unmeasured(graph, located.bindings, Prober())
    selector = analysis.selector
    with torch.no_grad():
        expected = model(*args, **kwargs)
    dtype = next((p.dtype for p in model.parameters() if p.dtype in TOLERANCE), torch.float32)
    highest, floor = selector.unchunked_bytes, _floor(analysis)
    rungs = []
    for budget in steps(highest, floor, count):
        selected = selector.within(budget)
        fast = apply_plan(model, selected.plan, args, kwargs, captures=captures)

        def call(fast: Any = fast) -> Any:
            return fast(*args, **kwargs)

        call()  # the first call of a process may allocate what stays
        found, peak = backend.peak(call)
        difference = compare(found, expected, TOLERANCE[dtype], 0.0)
        del found
        rungs.append(
            Rung(
                budget, selected.peak_bytes, peak.requested_bytes, len(selected.plan.choices),
                difference.reason,
            )
        )  # fmt: skip
    try:
        selector.within(floor - 1)
    except BudgetError as error:
        refused = error.lowest_bytes == floor
    else:
        refused = False
    return Descent(name, highest, floor, tuple(rungs), refused)


def _floor(analysis: Analysis) -> int:
    """The lowest peak of any plan, as the error of an impossible budget names it."""
    try:
        analysis.selector.within(1)
    except BudgetError as error:
        return error.lowest_bytes
    raise AssertionError("no plan runs in one byte")


def page(descents: Sequence[Descent], command: str) -> str:
    """The measured rungs as Markdown."""
    lines = [
        "# Budgets, step by step",
        "",
        f"Made by `{command}`. MiB of activations; CPU, {torch.get_num_threads()} threads, fp32. "
        "Budgets descend to the floor, which an impossible budget's error names; a plan may exceed "
        f"its budget by {MEMORY_ERROR:.0%} at most, and a lower budget may not take more.",
    ]
    for descent in descents:
        verdict = "; ".join(descent.faults) or "all promises kept"
        lines += [
            "",
            f"## {descent.name}",
            "",
            f"Unchunked {descent.unchunked_bytes / 2**20:.1f}; {verdict}.",
            "",
            "| budget | predicted | measured | off | loops |",
            "|---:|---:|---:|---:|---:|",
        ]
        for rung in descent.rungs:
            off = rung.predicted_bytes / rung.measured_bytes - 1
            lines.append(
                f"| {rung.budget_bytes / 2**20:.2f} | {rung.predicted_bytes / 2**20:.2f} "
                f"| {rung.measured_bytes / 2**20:.2f} | {off:+.2%} | {rung.loops} |"
            )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the descents of some subjects; see the module for the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.subjects) - set(KEYS)):
        parser.error(f"no subject {', '.join(unknown)}; there are {', '.join(KEYS)}")
    if options.rungs < 1:
        parser.error(f"--rungs must be positive, got {options.rungs}")
    torch.set_num_threads(options.threads)
    descents = []
    for bar in BARS:
        if options.subjects and bar.key not in options.subjects:
            continue
        model, inputs = bar.make()
        given = inputs(bar.length)
        descent = descend(bar.name, model, given, backend_for("cpu"), options.rungs)
        descents.append(descent)
        print(f"{bar.name}: {'; '.join(descent.faults) or 'all promises kept'}", flush=True)
    names = " ".join(options.subjects)
    command = f"python -m experiments.budgets {names}".strip() + f" --rungs {options.rungs}"
    text = page(descents, command)
    target = options.save or (None if options.subjects else RESULTS)
    if target is None:
        print(text)
    else:
        target.write_text(text, encoding="utf-8")
        print(f"page written to {target}")
    return 1 if any(descent.faults for descent in descents) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.budgets",
        description="Measure what plans take within ever smaller budgets, down to the floor.",
    )
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(KEYS))
    parser.add_argument("--rungs", type=int, default=8, help="budgets of each subject")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--save", type=Path, metavar="FILE",
        help=f"the page; by default {RESULTS.name} for all subjects, printed for some",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
