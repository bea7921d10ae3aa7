"""Collects the data on which cost models and search are judged; a quarter of an hour on one core.

For each subject and length it times all region classes alone (``autochunk profile``), and runs
every plan of a small space for real, whole model, in turns: the reference set::

    python -m experiments.cost_collect --output runs/cost     # ledgers
    python -m experiments.cost_collect --output runs/cost --export experiments/results/cpu

Times are process CPU time with one thread, under an allocator that keeps what it was given: with
the C library's defaults large tensors come from the system anew in every call, and their page
faults, which depend on all that the process did before, moved the time of one and the same call by
up to 60 % (a UNet at 32 x 32: 105 ms, of which 40 in the kernel, against 65).
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tuner.measure.variables import KEEPING, QUIET

os.environ.update({**QUIET, **KEEPING, "OMP_NUM_THREADS": "1"})

from cost_models.features import FEATURES_VERSION, loop_features
from experiments.cost_subjects import SUBJECTS, CostSubject
from search_space.classes import RegionClass, choice_form
from search_space.errors import BudgetError
from search_space.plan import Plan
from search_space.probe import Prober
from search_space.space import SearchSpace, overlap
from tuner.journal import Journal
from tuner.ledger import Ledger, read_ledger
from tuner.measure.timing import log_ratio, median, quick
from tuner.measured import Confirmed
from tuner.measurer import Measurer
from tuner.profile import run_profile
from tuner.progress import Silent
from tuner.runtime.analysis import Analysis

CLASSES = 3
"""Classes of a reference set's space; with three sizes each, and none, 64 settings."""

SIZES = 3
BUDGETS = (0.5, 0.35, 0.25)
"""Shares of the unchunked peak whose analytic plans say which classes matter."""

_LEDGERS = {"samples": "ledger.jsonl", "reference": "reference.jsonl"}
"""Where the rows of each data file are from."""

CONFIRM = {"warmup": 1, "repeats": 8, "timeout_s": 600.0}


class Told(Silent):
    """Prints what a profile notes."""

    def phase(self, title: str, total: int) -> None:
        print(f"{title} ({total})", flush=True)

    def note(self, text: str) -> None:
        print(text, flush=True)


def small_space(analysis: Analysis) -> SearchSpace:
    """Classes that go together: those that the analytic plans use most, else that save most."""
    plain = [item for item in analysis.space.classes if not item.inner]
    votes = dict.fromkeys((item.form for item in plain), 0.0)
    peak = analysis.memory.profile().peak_bytes
    for budget in BUDGETS:
        try:
            plan = analysis.selector.within(int(budget * peak)).plan
        except BudgetError:
            continue  # the next lower share cannot be met either
        for choice in plan.choices:
            if not choice.inner:
                votes[choice_form(choice)] += 1
    saved = max((item.saves_bytes * len(item.loops) for item in plain), default=1)
    ranked = sorted(
        plain,
        key=lambda item: (
            -votes[item.form] - item.saves_bytes * len(item.loops) / saved, item.key
        ),
    )  # fmt: skip
    chosen: list[RegionClass] = []
    for item in ranked:
        if len(chosen) < CLASSES and not any(overlap(item, other) for other in chosen):
            chosen.append(item)
    # where no more go together, others may take their place
    chosen += [item for item in ranked if item not in chosen][: CLASSES - len(chosen)]
    return SearchSpace(analysis.memory, tuple(chosen))


def sizes_of(grid: Sequence[int]) -> tuple[int, ...]:
    """Three sizes of a grid: 2 passes, 8 passes, 32 passes, or what comes nearest."""
    places = sorted({min(place, len(grid) - 1) for place in (0, 2, 4)[:SIZES]})
    return tuple(grid[place] for place in places)


def plans_of(space: SearchSpace) -> dict[Plan, dict[str, int]]:
    """Every plan of a small space with the setting that gives it without anything dropped."""
    options = [(0, *sizes_of(grid)) for grid in space.grids]
    found: dict[Plan, dict[str, int]] = {}
    for values in itertools.product(*options):
        wanted = {item.key: v for item, v in zip(space.classes, values, strict=True)}
        plan = space.decode(wanted)
        found.setdefault(plan, space.setting(plan))
    return found


def reference(subject: CostSubject, folder: Path) -> None:
    """Run every plan of the small space of each length; rows go to a ledger of its own."""
    config = subject.config(folder, confirm=CONFIRM)
    with (
        Ledger(folder / "reference.jsonl") as kept,
        Ledger(folder / "runs.jsonl") as ledger,
        Measurer(config, Journal(ledger)) as measurer,
    ):
        environment, ceilings = measurer.environment()
        probe = Prober()
        for length in subject.lengths:
            described = measurer.describe(length)
            analysis = Analysis(described.graph, described.bindings, ceilings, probe)
            space = small_space(analysis)
            plans = plans_of(space)
            baseline = measurer.baseline(length)
            done = [measurer.check(length, plan, None) for plan in plans]
            good = [one for one in done if one.status == "ok"]
            timed = measurer.together(length, good, None)
            print(f"{subject.name} at {length}: {len(timed)} of {len(plans)} plans", flush=True)
            classes = zip(space.classes, space.grids, strict=True)
            kept.append("reference", {
                "version": FEATURES_VERSION,
                "model": subject.name,
                "length": length,
                "environment": environment,
                "ceilings": asdict(ceilings),
                "eager_ms": round(median(baseline.eager.decisive_ms), 4),
                "roofline_s": analysis.unchunked_s,
                "classes": [_class_row(analysis, item, grid) for item, grid in classes],
                "runs": list(_run_rows(timed, plans)),
            })  # fmt: skip


def _class_row(analysis: Analysis, item: RegionClass, grid: Sequence[int]) -> dict[str, Any]:
    return {
        "key": item.key,
        "occurrences": len(item.loops),
        "saves_bytes": item.saves_bytes,
        "sizes": {
            str(size): loop_features(
                analysis.memory, item.loops[0], size, analysis.ceilings
            ).plain()
            for size in sizes_of(grid)
        },
    }


def _run_rows(
    timed: Sequence[Confirmed], plans: Mapping[Plan, Mapping[str, int]]
) -> Iterator[dict[str, Any]]:
    """What each plan's runs gave, relative to the unchanged graph's in the same turns."""
    (whole,) = (one.samples.decisive_ms for one in timed if not one.plan.choices)
    for one in timed:
        found = log_ratio(one.samples.decisive_ms, whole)
        yield {
            "setting": dict(plans[one.plan]),
            "predicted_bytes": one.predicted_bytes,
            "requested_bytes": one.requested_bytes,
            "latency_ms": round(quick(one.samples.decisive_ms), 4),
            "log_ratio": round(found.value, 5),
            "halves": [round(half, 5) for half in found.halves],
        }


def export(folders: Sequence[Path], target: Path) -> None:
    """The samples and reference sets of all subjects as two compressed files."""
    rows: dict[str, list[str]] = {"samples": [], "reference": []}
    for folder in folders:
        for name, kept in rows.items():
            path = folder / _LEDGERS[name]
            for row in read_ledger(path) if path.exists() else ():
                if row["kind"] in (name, "environment"):
                    kept.append(json.dumps(row, separators=(",", ":")))
    target.mkdir(parents=True, exist_ok=True)
    for kind, lines in rows.items():
        path = target / f"cost_{kind}.jsonl.gz"
        text = "\n".join(lines) + "\n"
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
        print(f"{path}: {len(lines)} rows, {path.stat().st_size / 2**10:.0f} KiB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect, or export what was collected."""
    parser = argparse.ArgumentParser(description="data for judging cost models and search")
    parser.add_argument("--output", type=Path, required=True, help="folder of the ledgers")
    parser.add_argument("--export", type=Path, help="only write the compressed data files there")
    parser.add_argument("--subjects", nargs="*", default=[one.name for one in SUBJECTS])
    parser.add_argument("--parts", nargs="*", default=["profile", "reference"])
    parser.add_argument("--seconds", type=float, default=60.0, help="of a length's profile")
    parser.add_argument("--classes", type=int, default=40, help="timed at a length, at most")
    options = parser.parse_args(arguments)
    chosen = [one for one in SUBJECTS if one.name in options.subjects]
    if options.export:
        export([options.output / one.name for one in chosen], options.export)
        return 0
    for subject in chosen:
        folder = options.output / subject.name
        if "profile" in options.parts:
            config = subject.config(folder)
            found = run_profile(
                config, options.seconds, Told(), most_classes=options.classes
            )
            print(f"{subject.name}: {len(found.samples)} samples, {found.failed} classes failed")
        if "reference" in options.parts:
            reference(subject, folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
