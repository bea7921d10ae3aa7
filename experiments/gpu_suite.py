"""Everything that needs a GPU, in one command and within a time limit.

Runs the gpu-marked tests, then short campaigns: GPT-2 at lengths from 2048 to 16384 and ViT-Large's
width, eager and SDPA attention, budgets of 0.5, 0.2 and the minimum. Leaves few, small files in the
output folder: ``ledger.jsonl``, one plan file a model, ``frontiers.png``, ``summary.md``,
``summary.json`` and ``tests.log``::

    python3 -m experiments.gpu_suite --minutes 9 --out results

With ``--device cpu --tiny`` it goes the same way at sizes of a toy.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

from cost_models.select import mib
from experiments.figures import draw_frontiers
from search_space.errors import BudgetError
from tuner.campaign import run_campaign
from tuner.campaign_result import CampaignResult, LengthResult
from tuner.config import parse_config
from tuner.ledger import read_ledger

BUDGETS: tuple[float | str, ...] = (0.5, 0.2, "min")


@dataclass(frozen=True, slots=True)
class Case:
    """One campaign of the suite: a subject, its arguments, and a length."""

    model: str
    attention: str
    dtype: str
    length: int
    kwargs: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.model} {self.attention} {self.dtype} {self.length}"


@dataclass
class Done:
    """What came of a case; ``problem`` is empty where it went well."""

    case: Case
    seconds: float
    result: CampaignResult | None = None
    problem: str = ""
    budgets: tuple[float | str, ...] = field(default=BUDGETS)


def cases(*, tiny: bool) -> tuple[Case, ...]:
    """In order of worth: what stands first is run first."""
    if tiny:
        small = (("layers", 1), ("width", 64), ("heads", 4), ("positions", 512),
                 ("vocabulary", 101))  # fmt: skip
        image = (("layers", 1), ("width", 64), ("heads", 4), ("image", 64), ("patch", 4))
        return (
            Case("gpt2", "eager", "float32", 256, small),
            Case("vit", "sdpa", "float32", 64, image),
        )
    found = [Case("gpt2", attention, "float32", length)
             for length in (2048, 8192) for attention in ("eager", "sdpa")]  # fmt: skip
    found += [Case("vit", attention, "float32", 384) for attention in ("eager", "sdpa")]
    found += [Case("gpt2", "eager", "float32", 16384), Case("gpt2", "sdpa", "float32", 16384)]
    found += [Case("gpt2", "sdpa", "bfloat16", 8192), Case("vit", "eager", "float32", 1024)]
    found += [Case("gpt2", "eager", "bfloat16", 4096), Case("vit", "sdpa", "float32", 1024)]
    return tuple(found)


def run_tests(log: Path, seconds: float) -> str:
    """The gpu-marked tests; their last line, and the whole in ``log``."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider",
               "-W", "default"]  # fmt: skip
    with log.open("w", encoding="utf-8") as file:
        try:
            code = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, timeout=max(seconds, 1), check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:.0f} s"
    lines = log.read_text(encoding="utf-8").strip().splitlines()
    return f"exit code {code}: {lines[-1] if lines else 'no output'}"


def run_case(case: Case, device: str, work: Path, plans: Path, *, tiny: bool) -> Done:
    """One campaign. Budgets that cannot be met are dropped, strictest first."""
    started = time.monotonic()
    for budgets in ((0.5, "min"), ("min",)) if tiny else (BUDGETS, (0.5, "min"), ("min",)):
        config = parse_config(
            {
                "campaign": case.name,
                "model": {
                    "id": case.model,
                    "factory": f"experiments.subjects:{case.model}",
                    "kwargs": {**dict(case.kwargs), "attention": case.attention},
                    "dtype": case.dtype,
                },
                "seq_lens": [case.length],
                "device": device,
                "budgets": list(budgets),
                "search": {"n_trials": 30 if tiny else 150, "rounds": 1 if tiny else 2},
                "cost_model": {"timings_s": 1 if tiny else 6},
                "confirm": {
                    "top_k": 1 if tiny else 2, "warmup": 1, "repeats": 3 if tiny else 10,
                    "timeout_s": 90,
                    # half-precision outputs differ in their last bits
                    **({"rtol": 2e-2, "atol": 1e-2} if case.dtype != "float32" else {}),
                },
                "output": str(work / case.name.replace(" ", "-")),
                "plans": str(plans),
            },
            Path.cwd(),
        )  # fmt: skip
        try:
            result = run_campaign(config)
        except BudgetError:
            continue
        except Exception as error:  # one case's failure must not cost the others
            problem = f"{type(error).__name__}: {error}"
            return Done(case, time.monotonic() - started, None, problem, budgets)
        return Done(case, time.monotonic() - started, result, "", budgets)
    return Done(case, time.monotonic() - started, None, "no budget can be met")


def rows(done: Sequence[Done]) -> Iterator[dict[str, Any]]:
    """One row a case and budget, for the summary."""
    for one in done:
        if one.result is None:
            yield {"case": one.case.name, "problem": one.problem, "seconds": one.seconds}
            continue
        for length in one.result.lengths:
            for budget in one.result.lengths[0].budgets:
                row = budget.row
                yield {
                    "case": one.case.name,
                    "budget": str(budget.budget),
                    "eager_peak_bytes": length.eager.peak_bytes,
                    "eager_ms": length.eager.latency_ms,
                    "reference": length.reference,
                    "peak_bytes": None if row is None else row.peak_bytes,
                    "predicted_bytes": None if row is None else row.predicted_bytes,
                    "ratio": None if row is None else row.ratio,
                    "ratio_low": None if row is None else row.ratio_low,
                    "ratio_high": None if row is None else row.ratio_high,
                    "memory_error": length.memory_error,
                    "model_used": one.result.model_used,
                    "failures": _failures(length),
                    "seconds": one.seconds,
                }


def _failures(length: LengthResult) -> dict[str, int]:
    found: dict[str, int] = {}
    for run in length.confirmed:
        if run.status != "ok":
            found[run.status] = found.get(run.status, 0) + 1
    return found


def summary(done: Sequence[Done], tests: str, head: str) -> str:
    """The table as Markdown."""
    lines = [head, "", f"gpu-marked tests: {tests}", "",
             "| case | budget | eager | peak | of eager | predicted off by | time ratio (95 %) |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows(done):
        if "problem" in row:
            lines.append(f"| {row['case']} | | | | | | {row['problem'][:120]} |")
        elif row["peak_bytes"] is None:
            lines.append(f"| {row['case']} | {row['budget']} | | | | | no plan confirmed |")
        else:
            eager, peak = row["eager_peak_bytes"], row["peak_bytes"]
            lines.append(
                f"| {row['case']} | {row['budget']} | {mib(eager)} | {mib(peak)} | "
                f"{peak / max(eager, 1):.3f} | {row['predicted_bytes'] / peak - 1:+.2%} | "
                f"{row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f}) |"
            )
    failed = {
        one.case.name: _failures(one.result.lengths[0])
        for one in done
        if one.result is not None and _failures(one.result.lengths[0])
    }
    lines += ["", f"Failed runs: {json.dumps(failed) if failed else 'none'}"]
    return "\n".join(lines) + "\n"


def collect(done: Sequence[Done], out: Path, work: Path, plans: Path) -> None:
    """Few files: one ledger, one plan file a model, one picture."""
    with (out / "ledger.jsonl").open("w", encoding="utf-8") as file:
        for path in sorted(work.rglob("ledger.jsonl")):
            for record in read_ledger(path):
                file.write(json.dumps({"case": path.parent.name, **record}) + "\n")
    for path in sorted(plans.rglob("*.yaml")):
        shutil.copyfile(path, out / f"plans-{path.stem}.yaml")
    frontiers = {
        one.case.name: [
            (row.peak_bytes / max(length.eager.peak_bytes, 1), row.ratio) for row in length.frontier
        ]
        for one in done
        if one.result is not None
        for length in one.result.lengths
        if length.reference == "eager"
    }
    draw_frontiers(frontiers, "Confirmed plans", out / "frontiers.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; exit code 1 where nothing at all could be tuned."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to try the suite itself")
    parser.add_argument("--no-tests", action="store_true", help="leave out the gpu-marked tests")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    out: Path = options.out
    work, plans = out / "work", out / "plans"
    out.mkdir(parents=True, exist_ok=True)
    tests = "left out"
    if not options.no_tests:
        tests = run_tests(out / "tests.log", 0.3 * 60 * options.minutes)
    print(f"gpu-marked tests: {tests}", flush=True)
    done: list[Done] = []
    longest = 0.0
    head = f"Device suite, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, `{' '.join(sys.argv)}`"
    for case in cases(tiny=options.tiny):
        left = deadline - time.monotonic()
        # a case of the size of the longest so far must fit, with a margin for collecting
        if left < 1.3 * longest + 10:
            done.append(Done(case, 0.0, None, "not started: no time left"))
            continue
        one = run_case(case, options.device, work, plans, tiny=options.tiny)
        longest = max(longest, one.seconds)
        done.append(one)
        print(f"{case.name}: {one.seconds:.0f} s {one.problem}", flush=True)
        # after every case: whatever happens later, this much is on disk
        (out / "summary.md").write_text(summary(done, tests, head), encoding="utf-8")
        (out / "summary.json").write_text(json.dumps(list(rows(done)), indent=1), encoding="utf-8")
        collect(done, out, work, plans)
    text = summary(done, tests, head)
    (out / "summary.md").write_text(text, encoding="utf-8")
    shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(plans, ignore_errors=True)
    print(text)
    return 0 if any(one.result is not None for one in done) else 1


if __name__ == "__main__":
    raise SystemExit(main())
