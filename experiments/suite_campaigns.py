"""The device suite's campaigns: the whole product, from capture to a confirmed plan database."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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
    """One campaign of the suite: a subject with its arguments, and a length."""

    model: str
    factory: str
    length: int
    dtype: str = "float32"
    kwargs: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.model} {self.dtype} {self.length}"


@dataclass
class Done:
    """What came of a case; ``problem`` is empty where it went well."""

    case: Case
    seconds: float
    result: CampaignResult | None = None
    problem: str = ""
    budgets: tuple[float | str, ...] = field(default=BUDGETS)


def _row(key: str, length: int, dtype: str = "float32") -> Case:
    """A campaign of one of the measured subjects."""
    return Case(key, "experiments.device_bars:subject", length, dtype, (("key", key),))


def _sdpa(length: int, dtype: str) -> Case:
    options = (("attention", "sdpa"), ("positions", 32768))
    return Case("gpt2_sdpa", "experiments.subjects:gpt2", length, dtype, options)


def cases(*, tiny: bool) -> tuple[Case, ...]:
    """In order of worth: what stands first is run first."""
    if tiny:
        small = (("layers", 1), ("width", 64), ("heads", 4), ("positions", 512),
                 ("vocabulary", 101))  # fmt: skip
        return (Case("gpt2", "experiments.subjects:gpt2", 256, "float32", small),)
    return (
        _row("gpt2", 8192),
        _row("esmfold_block", 512),
        _row("vit", 1024),
        _row("unet", 128),
        _sdpa(16384, "bfloat16"),
        _row("gpt2", 2048),
        _row("evoformer", 384),
        _row("gpt2", 16384),
        _row("esmfold_block", 512, "bfloat16"),
    )


def run_case(case: Case, device: str, work: Path, plans: Path, *, tiny: bool) -> Done:
    """One campaign. Budgets that cannot be met are dropped, strictest first."""
    started = time.monotonic()
    for budgets in ((0.5, "min"), ("min",)) if tiny else (BUDGETS, (0.5, "min"), ("min",)):
        config = parse_config(
            {
                "campaign": case.name,
                "model": {
                    "id": case.model,
                    "factory": case.factory,
                    "kwargs": dict(case.kwargs),
                    "dtype": case.dtype,
                },
                "seq_lens": [case.length],
                "device": device,
                "budgets": list(budgets),
                "search": {"n_trials": 10 if tiny else 150, "rounds": 1 if tiny else 2},
                "cost_model": {"timings_s": 0.3 if tiny else 6},
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
                    "scores": {name: asdict(score) for name, score in one.result.scores.items()},
                    "failures": _failures(length),
                    "seconds": one.seconds,
                }


def _failures(length: LengthResult) -> dict[str, int]:
    found: dict[str, int] = {}
    for run in length.confirmed:
        if run.status != "ok":
            found[run.status] = found.get(run.status, 0) + 1
    return found


def campaign_table(done: Sequence[Done]) -> str:
    """The campaigns' winners as Markdown."""
    lines = ["| campaign | budget | eager | peak | of eager | predicted | time ratio (95 %) |",
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
    return "\n".join(lines)


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
