"""The page of a device's results, from the runs of the suite that are kept in its folder::

    python -m experiments.device_page experiments/results/h200

Each run is a folder with what :mod:`experiments.gpu_suite` left. A subject's row comes from the
latest run in which that way of running it was measured, and names the run: ratios are within one
run, never across.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cost_models.select import mib
from experiments.device_longest import line
from experiments.figures import draw_rivals
from experiments.rivals_page import RIVAL_BARS, closest, is_ours, unmatched
from experiments.suite_subjects import way_cells

Run = Mapping[str, Any]


def read_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """What each run left, by its folder's name: ``summary`` and ``subjects``."""
    found = {}
    for path in sorted(folder.glob("*/summary.json")):
        run: dict[str, Any] = {"summary": json.loads(path.read_text(encoding="utf-8"))}
        packed = path.with_name("subjects.json.gz")
        run["subjects"] = []
        if packed.is_file():
            with gzip.open(packed, "rt", encoding="utf-8") as file:
                run["subjects"] = json.load(file)
        run["longest"] = [
            row for one in sorted(path.parent.glob("longest-*.json"))
            for row in json.loads(one.read_text(encoding="utf-8"))
        ]  # fmt: skip
        found[path.parent.name] = run
    return found


def latest_ways(runs: Mapping[str, Run]) -> dict[str, dict[str, tuple[str, dict[str, Any]]]]:
    """Per subject and way, the latest run that measured it, and what it found."""
    found: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {}
    for name, run in runs.items():
        for record in run["subjects"]:
            title = f"{record['key']} {record['dtype']}, length {record['length']}"
            for way, row in record.get("ways", {}).items():
                known = found.setdefault(title, {}).get(way)
                if row["status"] == "ok" or known is None:
                    found[title][way] = (name, row)
    return found


def page(runs: Mapping[str, Run], pictures: Mapping[str, str]) -> str:
    """The page as Markdown; ``pictures`` are the files by subject."""
    device = next(iter(runs.values()))["summary"]["environment"]["device"]
    lines = [
        f"# Measured on {device}", "", _HEAD, "",
        "| run | commit | command | with | gpu tests |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, run in runs.items():
        summary = run["summary"]
        about = ", ".join(f"{key} {value}" for key, value in summary["environment"].items())
        lines.append(f"| {name} | {summary['commit']} | `{summary['command']}` | {about} | "
                     f"{summary['tests']} |")  # fmt: skip
    lines += ["", *_bars(runs)]
    for title, ways in latest_ways(runs).items():
        lines += ["", f"## {title}", "", *_table(ways), "", _ahead(ways)]
        if title in pictures:
            lines += ["", f"![Peak and time of {title}]({pictures[title]})"]
    lines += ["", *_campaigns(runs), "", *_longest(runs)]
    return "\n".join(lines) + "\n"


_HEAD = """Peaks are what was requested of the caching allocator, beyond weights and inputs, of a
warm call; times are of CUDA events, medians of runs in turns. Float32 is exact: no TF32.
`ours SHARE` is `apply(model, args, memory_budget=SHARE)`, analytic, nothing tuned; `kept` adds
`kernels="keep"`, so that attention stays as the model writes it; `compiled` adds `compile=True`,
whose peak is measured when it is made, so that its prediction is no prediction (in run a it was the
uncompiled plan's). Which kernels the time goes into: [kernels.md](kernels.md); how well
regions are predicted: [cost_card.md](cost/cost_card.md). Errors are relative
to the largest value; in bfloat16, root mean squares against float32, over the eager model's own."""


def _bars(runs: Mapping[str, Run]) -> list[str]:
    """The subjects that have bars against ``torch.compile``, each by the plan of ours that comes
    closest in any one run."""
    lines = [
        "## Beside torch.compile",
        "",
        "| float32 | plan of ours | run | time over its | bar | peak over its | bar |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, bars in RIVAL_BARS.items():
        found: dict[str, tuple[float, float]] = {}
        for run, ways in _ways_of(runs, key, "float32"):
            theirs = ways.get("compile", {}).get("peak_bytes")
            for name, way in ways.items():
                if is_ours(name) and "over_compile" in way and theirs:
                    found[f"{name} | {run}"] = way["over_compile"][0], way["peak_bytes"] / theirs
        best = closest(found, bars)
        if best is None:
            continue
        name, *values = best
        time, peak = (
            f"{value:.3f}" if value <= limit else f"**{value:.3f}**"
            for value, limit in zip(values, bars, strict=True)
        )
        lines.append(f"| {key} | {name} | {time} | {bars[0]:.2f} | {peak} | {bars[1]:.2f} |")
    return [*lines, "", "Bold figures miss their bar; the bars were set for a CPU."]


def _ways_of(
    runs: Mapping[str, Run], key: str, dtype: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, run in runs.items():
        for record in run["subjects"]:
            if (record["key"], record["dtype"]) == (key, dtype):
                yield name, record.get("ways", {})


def _ahead(ways: Mapping[str, tuple[str, dict[str, Any]]]) -> str:
    """Which rivals lie below and left of ours, by times over the eager model's."""
    points = {
        name: (row["over_eager"][0], row["peak_bytes"])
        for name, (_, row) in ways.items() if "over_eager" in row
    }  # fmt: skip
    found = unmatched(points)
    if not found:
        return "No rival is below and left of ours, by 3 % of time and 2 % of memory."
    return f"Below and left of ours: {', '.join(found)}."


def _table(ways: Mapping[str, tuple[str, dict[str, Any]]]) -> list[str]:
    lines = [
        "| way | run | peak | of eager | predicted | time | over eager | over torch.compile | "
        "error | first call |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    eager = ways["eager"][1].get("peak_bytes") if "eager" in ways else None
    lines.extend(
        f"| {way} | {run} | {way_cells(row, eager)} |" for way, (run, row) in ways.items()
    )
    return lines


def _campaigns(runs: Mapping[str, Run]) -> list[str]:
    lines = [
        "## Campaigns", "",
        "Kernels as the model asks for them (no fused attention in place of a written one).", "",
        "| campaign | run | budget | eager | peak | of eager | predicted | time over eager | model "
        "used | learned model, classes held out |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, run in runs.items():
        for row in run["summary"]["campaigns"]:
            if "not started" in row.get("problem", ""):
                continue
            if row.get("peak_bytes") is None:
                lines.append(f"| {row['case']} | {name} | {row.get('problem', 'no plan')} | | | | "
                             "| | | |")  # fmt: skip
                continue
            peak, learned = row["peak_bytes"], row["scores"].get("learned", {})
            score = "" if not learned else (
                f"{learned['samples']} timings: pairs {learned['pairwise_accuracy']:.3f}, error "
                f"{learned['error']:.1%}, coverage {learned['coverage']:.0%}"
            )
            lines.append(
                f"| {row['case']} | {name} | {row['budget']} | {mib(row['eager_peak_bytes'])} | "
                f"{mib(peak)} | {peak / row['eager_peak_bytes']:.3f} | "
                f"{row['predicted_bytes'] / peak - 1:+.2%} | {row['ratio']:.3f} "
                f"({row['ratio_low']:.3f} to {row['ratio_high']:.3f}) | {row['model_used']} | "
                f"{score} |"
            )
    return lines


def _longest(runs: Mapping[str, Run]) -> list[str]:
    found = [f"- {line(row)} (run {name})" for name, run in runs.items() for row in run["longest"]]
    if not found:
        return []
    head = ("`python -m experiments.device_longest`: the allocator refuses what lies above the cap "
            "(and 8 % for its blocks).")  # fmt: skip
    return ["## Longest lengths under a cap", "", head, "", *found]


def write_page(folder: Path) -> Path:
    """The page and its pictures made anew; the page's path."""
    runs = read_runs(folder)
    pictures = {}
    for title, ways in latest_ways(runs).items():
        points = {
            way: (row["peak_bytes"] / 2**20, row["ms"], way.startswith("ours"))
            for way, (_, row) in ways.items() if "ms" in row
        }  # fmt: skip
        if len(points) > 1:
            name = title.partition(",")[0].replace(" ", "-") + ".png"
            draw_rivals(points, title, folder / name, "time (ms)")
            pictures[title] = name
    path = folder / "README.md"
    path.write_text(page(runs, pictures), encoding="utf-8")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.device_page")
    parser.add_argument("folder", type=Path)
    print(f"page written to {write_page(parser.parse_args(arguments).folder)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
