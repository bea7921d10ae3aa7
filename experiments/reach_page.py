"""The page of measured results, from the records that :mod:`experiments.reach` keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cost_models.select import mib
from experiments.subjects import BARS

EXACT, MEMORY_ERROR = 1e-5, 0.03
"""What every run is held to: outputs within this of the largest value, and the predicted peak
within this share of the measured one."""

TITLES = {"budget": "budget", "min": "min", "tuned": "tuned", "tuned min": "tuned, min"}


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of a folder by subject."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    return found


def misses(record: Mapping[str, Any]) -> list[str]:
    """All that a subject's record falls short of, in words; empty where every bar is met.

    A tuned plan counts for the budget where it meets all of the bars at once; bars are never met
    by one plan's peak and another's time.
    """
    found: list[str] = []
    eager = record["eager"]
    if eager["status"] != "ok":
        return [f"eager: {eager['status']}: {eager['reason']}"]
    bars, runs = record["bars"], record["runs"]
    for wanted, names in (("budget", ("budget", "tuned")), ("min", ("min", "tuned min"))):
        if wanted == "min" and bars["min_share"] is None:
            continue
        options = [_run_misses(record, name) for name in names if name in runs]
        if not options:
            found.append(f"{wanted}: not measured")
        elif all(options):
            found.extend(options[0])
    for name, run in runs.items():
        if run["status"] == "ok":
            found.extend(_truths(name, run))
    return list(dict.fromkeys(found))


def _run_misses(record: Mapping[str, Any], name: str) -> list[str]:
    run, eager, bars = record["runs"][name], record["eager"]["peak_bytes"], record["bars"]
    if run["status"] != "ok":
        lowest = run.get("lowest_bytes")
        floor = "" if lowest is None else f", lowest known plan {lowest / eager:.3f}x"
        return [f"{name}: {run['status']}{floor}"]
    minimum = name in ("min", "tuned min")
    limit = bars["min_share"] if minimum else bars["share"]
    found = []
    if run["peak_bytes"] > limit * eager:
        found.append(f"{name}: peak {run['peak_bytes'] / eager:.4f}x, bar {limit:g}x")
    if not minimum and run["ratio"] > bars["time_ratio"]:
        doubt = ", within the interval" if run["ratio_low"] <= bars["time_ratio"] else ""
        found.append(f"{name}: time {run['ratio']:.3f}x, bar {bars['time_ratio']:.2f}x{doubt}")
    return found


def _truths(name: str, run: Mapping[str, Any]) -> Iterator[str]:
    if run["wrong"] or run["error"] > EXACT:
        yield f"{name}: outputs differ by {run['error']:.2g}: {run['wrong']}"
    off = run["predicted_bytes"] / max(run["peak_bytes"], 1) - 1
    if abs(off) > MEMORY_ERROR:
        yield f"{name}: predicted peak off by {off:+.1%}"


def page(records: Mapping[str, dict[str, Any]], lengths: Mapping[str, dict[str, Any]]) -> str:
    """The whole page as Markdown.

    Args:
        records: of the subjects, by key.
        lengths: what :mod:`experiments.longest` saved, by subject.
    """
    lines = ["# Reach, measured on CPU", ""]
    lines += [
        "Activation peaks are the allocator's own, beyond weights and inputs, against the eager "
        "model's; times are ratios of process CPU time to the eager model's, interleaved pairs, "
        "median and 95 % interval. Outputs: largest difference relative to the tensor's largest "
        "value. Float32, random weights.",
        "",
        *_machines([*records.values(), *lengths.values()]),
        "",
        "| subject | plan | eager | peak | of eager (bar) | predicted | time (bar) | outputs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    keys = [row.key for row in BARS]
    for key in (*keys, *(key for key in records if key not in keys)):
        if key in records:
            lines.extend(_rows(records[key]))
        else:
            name = next(row.name for row in BARS if row.key == key)
            lines.append(f"| {name} | not measured | | | | | | |")
    lines += ["", "## Bars", ""]
    for record in records.values():
        missed = misses(record)
        text = "; ".join(missed) if missed else "met"
        lines.append(f"- {record['name']}: {'**missed**: ' if missed else ''}{text}")
    for key in keys:
        if key not in records:
            lines.append(f"- {key}: **not measured**")
    lines += ["", "## Longest length", ""]
    lines += _length_lines(lengths)
    return "\n".join(lines) + "\n"


def _machines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Once per environment, with the commands that were run there."""
    found: dict[str, list[str]] = {}
    for record in records:
        text = ", ".join(f"{name} {value}" for name, value in record["environment"].items())
        commands = found.setdefault(text, [])
        if record["command"] not in commands:
            commands.append(record["command"])
    return [f"{text}: " + ", ".join(f"`{c}`" for c in commands) for text, commands in found.items()]


def _rows(record: Mapping[str, Any]) -> Iterator[str]:
    name, eager, bars = record["name"], record["eager"], record["bars"]
    if eager["status"] != "ok":
        yield f"| {name} | {eager['status']}: {eager['reason']} | | | | | | |"
        return
    peak = eager["peak_bytes"]
    for kind, run in record["runs"].items():
        minimum = kind in ("min", "tuned min")
        limit = bars["min_share"] if minimum else bars["share"]
        title = TITLES[kind] + ("" if minimum else f" {bars['share']:g}")
        head = f"| {name} | {title} | {mib(peak)} "
        if run["status"] != "ok":
            reason = str(run["reason"]).replace("|", "/")
            yield f"{head}| {run['status']}: {reason} | | | | |"
            continue
        bar = "" if limit is None else f" (<= {limit:g})"
        time_bar = "" if minimum else f" (<= {bars['time_ratio']:.2f})"
        off = run["predicted_bytes"] / max(run["peak_bytes"], 1) - 1
        yield (
            f"{head}| {mib(run['peak_bytes'])} | {run['peak_bytes'] / peak:.4f}{bar} | "
            f"{off:+.2%} | {run['ratio']:.3f}, {run['ratio_low']:.3f} to "
            f"{run['ratio_high']:.3f}{time_bar} | {run['error']:.1g} |"
        )


def _length_lines(lengths: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    if not lengths:
        yield "Not measured: `python -m experiments.longest SUBJECT --cap 8GiB --save FILE`."
        return
    yield "| subject | cap | eager | chunked | min mode | over eager (bar) | predicted time |"
    yield "|---|---|---|---|---|---|---|"
    for subject, record in lengths.items():
        modes = {mode["name"]: mode for mode in record["modes"]}
        ratio = "unknown" if record["ratio"] is None else f"{record['ratio']:.2f}x"
        bar = "" if record["bar"] is None else f" (>= {record['bar']:g}x)"
        stopped = "".join(
            f"; {name} stopped by the {mode['found']['stopped']}"
            for name, mode in modes.items()
            if mode["found"]["stopped"]
        )
        yield (
            f"| {subject} | {record['cap']} | {modes['eager']['found']['length']} | "
            f"{modes['chunked']['found']['length']} | "
            f"{modes['chunked, min']['found']['length']} | {ratio}{bar}{stopped} | "
            f"{modes['chunked']['slowdown']:.2f}x |"
        )
    yield ""
    yield "| real run | length | predicted | measured | off | wall | largest difference |"
    yield "|---|---|---|---|---|---|---|"
    for subject, record in lengths.items():
        for run in record["runs"]:
            if run["problem"]:
                yield f"| {subject}, {run['name']} | {run['length']} | {run['problem']} | | | | |"
                continue
            off = run["predicted_bytes"] / max(run["measured_bytes"], 1) - 1
            error = "" if run["error"] is None else f"{run['error']:.1g}"
            yield (
                f"| {subject}, {run['name']} | {run['length']} | {mib(run['predicted_bytes'])} | "
                f"{mib(run['measured_bytes'])} | {off:+.2%} | {run['wall_s']:.1f} s | {error} |"
            )
