"""The measured table: every subject at its budget, in minimum mode, and how long inputs may be.

Each subject runs in a process of its own, under limits of memory and time, so that a crash costs
only its row. What is measured is kept as JSON, one file a subject, and the page is made from all
files, so that single subjects can be run again::

    python -m experiments.reach                        # all of them, then the page
    python -m experiments.reach --subjects gpt2 vit --pairs 20
    python -m experiments.reach --subjects vit --tune  # also the plans of a campaign
    python -m experiments.reach --page                 # only the page

Longest lengths are taken from ``longest/*.json`` beside the records, as
``python -m experiments.longest SUBJECT --save FILE`` writes them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

from experiments.machine import environment
from experiments.reach_page import misses, page, read_records
from experiments.subjects import BARS, Bar
from search_space.errors import AutoChunkError
from search_space.plan import encode_plan
from tuner.measure.confine import available_bytes
from tuner.measure.isolate import Isolated

RESULTS = Path(__file__).parent / "results" / "cpu"


def measure(bar: Bar, options: argparse.Namespace, command: str) -> dict[str, Any]:
    """A subject's record: the eager model, its budget and minimum mode, and tuned plans."""
    runs: dict[str, Any] = {}
    started = time.monotonic()
    memory = int(0.9 * available_bytes())
    spec = {"key": bar.key, "threads": options.threads, "memory_bytes": memory}
    variables = {**QUIET, "OMP_NUM_THREADS": str(options.threads)}
    with Isolated(
        "experiments.reach_session:Session", spec, log=options.log, environment=variables,
        start_timeout_s=options.timeout,
    ) as session:  # fmt: skip
        eager = session.request({"do": "eager"}, options.timeout)
        common = {"pairs": options.pairs, "seconds": options.seconds}
        if eager["status"] == "ok":
            for name, budget in (("budget", bar.share), ("min", "min")):
                wanted = {"do": "budget", "budget": budget, **common}
                runs[name] = session.request(wanted, options.timeout)
            if options.tune:
                for name, plan in _tuned(bar, options).items():
                    if isinstance(plan, str):
                        runs[name] = {"status": "no plan", "reason": plan}
                    else:
                        wanted = {"do": "plan", "plan": plan, **common}
                        runs[name] = session.request(wanted, options.timeout)
    return {
        "key": bar.key,
        "name": bar.name,
        "length": bar.length,
        "bars": {
            "eager_mb": bar.eager_mb, "share": bar.share, "time_ratio": bar.time_ratio,
            "min_share": bar.min_share,
        },
        "threads": options.threads,
        "eager": eager,
        "runs": runs,
        "seconds": round(time.monotonic() - started, 1),
        "environment": environment(),
        "command": command,
    }  # fmt: skip


def _tuned(bar: Bar, options: argparse.Namespace) -> dict[str, Any]:
    """The confirmed plans of a campaign as plain values, or why there is none."""
    from tuner.campaign import run_campaign
    from tuner.config import parse_config

    with tempfile.TemporaryDirectory() as folder:
        config = parse_config(
            {
                "campaign": f"reach-{bar.key}",
                "model": {
                    "id": bar.key,
                    "factory": "experiments.reach_session:subject",
                    "kwargs": {"key": bar.key},
                },
                "seq_lens": [bar.length],
                "device": "cpu",
                "budgets": [bar.share, "min"],
                "search": {"n_trials": options.trials, "rounds": 1},
                "cost_model": {"timings_s": options.timings},
                "confirm": {
                    "top_k": 2, "warmup": 1, "repeats": 6, "timeout_s": options.timeout,
                },
                "output": str(Path(folder) / "run"),
                "plans": str(Path(folder) / "plans"),
            },
            Path.cwd(),
        )  # fmt: skip
        names = ("tuned", "tuned min")
        try:
            result = run_campaign(config)
        except AutoChunkError as error:
            return dict.fromkeys(names, f"{type(error).__name__}: {error}")
        rows = [budget.row for budget in result.lengths[0].budgets]
        return {
            name: "no confirmed plan" if row is None else encode_plan(row.plan)
            for name, row in zip(names, rows, strict=True)
        }


def write_page(results: Path) -> Path:
    """The page made anew from all records; its path."""
    records = read_records(results / "reach")
    lengths = read_records(results / "reach" / "longest")
    path = results / "reach.md"
    path.write_text(page(records, lengths), encoding="utf-8")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the page; exit code 1 where a subject that was measured missed a bar."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    command = shlex.join(["python", "-m", "experiments.reach", *given])
    folder = options.results / "reach"
    folder.mkdir(parents=True, exist_ok=True)
    missed = False
    for bar in BARS:
        if options.page or (options.subjects and bar.key not in options.subjects):
            continue
        record = measure(bar, options, command)
        text = json.dumps(record, indent=1) + "\n"
        (folder / f"{bar.key}.json").write_text(text, encoding="utf-8")
        found = misses(record)
        missed = missed or bool(found)
        print(f"{bar.name}: {'; '.join(found) or 'met'} ({record['seconds']:.0f} s)", flush=True)
    print(f"page written to {write_page(options.results)}")
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reach", description="Measure every subject against its bars."
    )
    parser.add_argument(
        "--subjects", nargs="+", metavar="KEY", choices=[bar.key for bar in BARS],
        help="only these: " + ", ".join(bar.key for bar in BARS),
    )  # fmt: skip
    parser.add_argument("--pairs", type=int, default=12, help="interleaved pairs of runs")
    parser.add_argument(
        "--seconds", type=float, default=60.0,
        help="of timing a plan, beyond which no pair starts once three times as long is spent",
    )  # fmt: skip
    parser.add_argument("--timeout", type=float, default=900.0, help="of one plan, in seconds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tune", action="store_true", help="also run a campaign, and its plans")
    parser.add_argument("--trials", type=int, default=150, help="of the campaign")
    parser.add_argument("--timings", type=float, default=20.0, help="seconds, of the campaign")
    parser.add_argument("--page", action="store_true", help="only make the page anew")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--log", type=Path, default=Path("runs/reach.log"))
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
