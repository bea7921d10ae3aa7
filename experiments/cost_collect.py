"""Collects the data on which cost models and search are judged; half an hour on one core.

For each subject and length it times all region classes alone (``autochunk profile``), and runs
every plan of a small space for real, whole model, in turns: the reference set::

    python -m experiments.cost_collect --output runs/cost     # ledgers
    python -m experiments.cost_collect --output runs/cost --parts compiled --classes 8
    python -m experiments.cost_collect --output runs/cost --export experiments/results/cpu

The second times passes compiled too, of a few classes: some seconds each, another half an hour.

Started again, it goes on where it stopped. On a GPU, some twenty minutes, several subjects can be
collected at once: they are captured and analysed side by side, and measured in turns. Not more than
the machine has cores to spare for: what waits for launches is timed wrong where those wait::

    python -m experiments.cost_collect --device cuda --jobs 2 --seconds 100 --output runs/cost

On a CPU, times are process CPU time with one thread, under an allocator that keeps what it was
given: with the C library's defaults large tensors come from the system anew in every call, and
their page faults, which depend on all that the process did before, moved the time of one and the
same call by up to 60 % (a UNet at 32 x 32: 105 ms, of which 40 in the kernel, against 65).
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import itertools
import json
import math
import os
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tuner.measure.variables import KEEPING, QUIET

os.environ.update({**QUIET, **KEEPING, "OMP_NUM_THREADS": "1"})

from cost_models.ceilings import CEILINGS_VERSION
from cost_models.features import FEATURES_VERSION, loop_features
from cost_models.times import graph_parts
from experiments.cost_lengths import unchunked_ms
from experiments.cost_subjects import CostSubject, subjects_on
from search_space.classes import RegionClass, choice_form
from search_space.errors import BudgetError
from search_space.plan import Plan
from search_space.probe import Prober
from search_space.space import SearchSpace, overlap
from tuner.journal import Journal
from tuner.ledger import Ledger, read_ledger
from tuner.measure.timing import log_ratio
from tuner.measured import Confirmed, Described
from tuner.measurer import Measurer
from tuner.profile import run_profile
from tuner.progress import Silent
from tuner.runtime.analysis import Analysis

CLASSES = 3
"""Classes of a reference set's space; with three sizes each, and none, 64 settings."""

SIZES = 3
BUDGETS = (0.5, 0.35, 0.25)
"""Shares of the unchunked peak whose analytic plans say which classes matter."""

PARTS, COMPILED = ("profile", "reference"), "compiled"
_LEDGERS = {
    "samples": "profile/ledger.jsonl",
    "reference": "reference/reference.jsonl",
    COMPILED: "compiled/ledger.jsonl",
}
"""Where the rows of each data file are from."""

_CEILINGS = f"ceilings-{CEILINGS_VERSION}.jsonl"
"""The device's, measured once: what is learned across subjects must not differ by them."""

CONFIRM: Mapping[str, Any] = {"warmup": 1, "repeats": 6, "timeout_s": 600.0}

_RUNS = "runs{}.jsonl"
"""The ledger of a pass."""

PASSES = 4
"""Processes that run every plan, even in number: a process places its memory once, and all its runs
share that."""


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
    """Run every plan of the small space of each length, in several processes one after the other;
    rows go to a ledger of its own."""
    config = subject.config(folder, confirm=CONFIRM)
    path = folder / "reference.jsonl"
    rows = list(read_ledger(path)) if path.exists() else []
    known = {row["length"] for row in rows if row["kind"] == "reference"}
    lengths = [length for length in subject.lengths if length not in known]
    if not lengths:
        return
    journals = [folder / _RUNS.format(number) for number in range(PASSES)]
    with Ledger(path) as kept, contextlib.ExitStack() as stack:
        measurers = [
            stack.enter_context(
                Measurer(config, Journal(stack.enter_context(Ledger(journal))))
            )
            for journal in journals
        ]
        # by itself, and once for all lengths: they are to be compared
        before = [row["unchunked_ms"] for row in rows if row["kind"] == "lengths"]
        unchunked = before[-1] if before else {}
        if not set(map(str, subject.lengths)) <= set(unchunked):
            unchunked = unchunked_ms(subject, folder)
            kept.append("lengths", {"unchunked_ms": unchunked})
        (environment, ceilings), *_ = [measurer.environment() for measurer in measurers]
        probe = Prober()

        def describe(measurer: Measurer) -> list[Described]:
            return [measurer.describe(length) for length in lengths]

        with ThreadPoolExecutor(PASSES) as threads:
            found, *_ = threads.map(describe, measurers)
        for described in found:
            length = described.length
            analysis = Analysis(described.graph, described.bindings, ceilings, probe)
            space = small_space(analysis)
            plans = plans_of(space)
            # once is enough: the processes run the same code
            checked = [measurers[0].check(length, plan, None) for plan in plans]
            good = [one for one in checked if one.status == "ok"]
            passes = [
                {one.plan: one for one in measurer.together(length, good, None)
                 if one.status == "ok"}
                for measurer in measurers
            ]  # fmt: skip
            print(f"{subject.name} at {length}: {len(good)} of {len(plans)} plans", flush=True)
            classes = zip(space.classes, space.grids, strict=True)
            kept.append("reference", {
                "version": FEATURES_VERSION,
                "model": subject.name,
                "length": length,
                "environment": environment,
                "ceilings": asdict(ceilings),
                "parts": asdict(graph_parts(analysis.sized, ceilings)),
                "unchunked_ms": round(unchunked[str(length)], 4),
                "classes": [_class_row(analysis, item, grid) for item, grid in classes],
                "runs": list(_run_rows(passes, plans, unchunked[str(length)])),
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
    passes: Sequence[Mapping[Plan, Confirmed]],
    plans: Mapping[Plan, Mapping[str, int]],
    unchunked: float,
) -> Iterator[dict[str, Any]]:
    """What each plan's runs gave, relative to the unchanged graph's in the same turns: the mean of
    the processes, and of either half of them, which differ by what such a mean may be off by."""
    for plan, setting in plans.items():
        if not all(plan in timed for timed in passes):
            continue
        found = [
            log_ratio(
                timed[plan].samples.decisive_ms,
                next(one for one in timed.values() if not one.plan.choices).samples.decisive_ms,
            ).value
            for timed in passes
        ]
        mean = statistics.fmean(found)
        yield {
            "setting": dict(setting),
            "predicted_bytes": passes[0][plan].predicted_bytes,
            "requested_bytes": passes[0][plan].requested_bytes,
            "latency_ms": round(unchunked * math.exp(mean), 4),
            "log_ratio": round(mean, 5),
            "halves": [round(statistics.fmean(found[half::2]), 5) for half in (0, 1)],
        }


def export(folders: Sequence[Path], target: Path) -> None:
    """The samples, reference sets and compiled samples of all subjects as compressed files, each
    if there are any."""
    rows: dict[str, list[str]] = {name: [] for name in _LEDGERS}
    for folder in folders:
        for name, kept in rows.items():
            path = folder / _LEDGERS[name]
            for row in read_ledger(path) if path.exists() else ():
                if name == COMPILED and row["kind"] == "samples":
                    row = _compiled_row(row)
                if row["kind"] in (name, "environment"):
                    kept.append(json.dumps(row, separators=(",", ":")))
    target.mkdir(parents=True, exist_ok=True)
    for kind, lines in rows.items():
        path = target / f"cost_{kind}.jsonl.gz"
        if not any(json.loads(line)["kind"] == kind for line in lines):
            print(f"{path} is left as it is: nothing is known of it in {folders[0].parent}")
            continue
        text = "\n".join(lines) + "\n"
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
        print(f"{path}: {len(lines)} rows, {path.stat().st_size / 2**10:.0f} KiB")


def _compiled_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of a row of samples those whose passes ran compiled."""
    found = [one for one in row["samples"] if one["features"].get("compiled")]
    return {**row, "kind": COMPILED if found else "uncompiled", "samples": found}


def collect(subject: CostSubject, part: str, options: argparse.Namespace) -> None:
    """One part of one subject, in this process."""
    folder = options.output / subject.name / part
    folder.mkdir(parents=True, exist_ok=True)
    runs = [_RUNS.format(number) for number in range(PASSES)]
    for name in runs if part == "reference" else ["ledger.jsonl"]:
        if not (folder / name).exists():
            _copy(options.output / _CEILINGS, folder / name)
    if part == "reference":
        reference(subject, folder)
        return
    config = subject.config(folder, **({"compile": {}} if part == COMPILED else {}))
    found = run_profile(
        config, options.seconds, Told(), most_classes=options.classes
    )
    print(f"{subject.name}: {len(found.samples)} samples, {found.failed} classes failed")


def measure_ceilings(subject: CostSubject, output: Path) -> None:
    """The device's ceilings, for all subjects; nothing where they are known."""
    known = output / _CEILINGS
    if known.exists():
        return
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output) as folder:
        path = Path(folder) / _CEILINGS
        config = subject.config(output)
        with Ledger(path) as ledger, Measurer(config, Journal(ledger)) as measurer:
            measurer.environment()  # (raises where they could not be measured)
        _copy(path, known)


def _copy(source: Path, target: Path) -> None:
    """All of a file or nothing, whatever happens meanwhile."""
    part = target.with_suffix(".part")
    shutil.copyfile(source, part)
    part.replace(target)


def at_once(
    jobs: Sequence[tuple[CostSubject, str]], options: argparse.Namespace
) -> list[str]:
    """Each job in a process of its own, so many at a time; the names of those that failed."""

    cores: queue.SimpleQueue[int] = queue.SimpleQueue()
    for core in options.cores or ():
        cores.put(core)

    def run(job: tuple[CostSubject, str]) -> str:
        subject, part = job
        command = [
            sys.executable, "-m", "experiments.cost_collect", "--device", options.device,
            "--output", str(options.output), "--subjects", subject.name, "--parts", part,
            "--seconds", str(options.seconds), "--classes", str(options.classes),
        ]  # fmt: skip
        core = cores.get() if options.cores else None
        pinned = [] if core is None else ["--cores", str(core)]
        code = subprocess.run([*command, *pinned], check=False).returncode
        if core is not None:
            cores.put(core)
        return f"{subject.name} {part}" if code else ""

    with ThreadPoolExecutor(options.jobs) as threads:
        return [name for name in threads.map(run, jobs) if name]


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect, or export what was collected."""
    parser = argparse.ArgumentParser(description="data for judging cost models and search")
    parser.add_argument("--output", type=Path, required=True, help="folder of the ledgers")
    parser.add_argument("--export", type=Path, help="only write the compressed data files there")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--subjects", nargs="*", help="only these")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=(*PARTS, COMPILED))
    parser.add_argument("--seconds", type=float, default=60.0, help="of a length's profile")
    parser.add_argument("--classes", type=int, default=40, help="timed at a length, at most")
    parser.add_argument("--jobs", type=int, default=1, help="parts of subjects, at once")
    parser.add_argument("--cores", nargs="*", type=int, help="one for each of the jobs at once")
    options = parser.parse_args(arguments)
    known = {one.name: one for one in subjects_on(options.device)}
    if strange := set(options.subjects or ()) - set(known):
        parser.error(f"no subject {', '.join(sorted(strange))}; there are {', '.join(known)}")
    chosen = [known[name] for name in known if name in (options.subjects or known)]
    if options.export:
        export([options.output / one.name for one in chosen], options.export)
        return 0
    measure_ceilings(chosen[0], options.output)
    # those that take longest first
    jobs = [(one, part) for one in reversed(chosen) for part in reversed(options.parts)]
    if options.jobs > 1:
        failed = at_once(jobs, options)
        print(f"failed: {', '.join(failed) or 'none'}")
        return 1 if failed else 0
    if options.cores:
        os.sched_setaffinity(0, options.cores)
    for subject, part in jobs:
        collect(subject, part, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
