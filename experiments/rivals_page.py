"""The page of rivals, from the records that :mod:`experiments.rivals` keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cost_models.select import mib
from experiments.figures import draw_rivals
from experiments.reach_page import read_records

RIVAL_BARS: Mapping[str, tuple[float, float]] = {
    "gpt2": (1.05, 0.30),
    "esmfold_block": (1.10, 0.35),
    "unet": (1.00, 0.06),
    "bert": (1.05, 0.90),
    "vit": (1.05, 0.95),
}
"""Per subject, at most this time and this peak over ``torch.compile``'s, by one plan of ours."""

SECOND_START_BAR = 2.0
"""At most so many times the uncompiled plan's start, where the compiler's cache is filled."""

TIME_NOISE, MEMORY_NOISE = 1.03, 1.02
"""A plan of ours matches a rival where it is within these of it."""

Record = Mapping[str, Any]


def measured(record: Record) -> dict[str, Any]:
    """The ways of a record that have both memory and time."""
    return {
        name: way for name, way in record["ways"].items()
        if way["status"] == "ok" and "cpu_ms" in way
    }  # fmt: skip


def is_ours(name: str) -> bool:
    return name.startswith("ours")


def is_compiled(name: str) -> bool:
    return name.endswith(("compile", "compiled"))


def _plain_of(name: str) -> str:
    return name.removesuffix(" compiled")


def _second_starts(record: Record) -> dict[str, float]:
    """The start of a second process of each compiled way of ours, over that of the same plan
    uncompiled: from an imported library and no model to the first result."""
    ways = record["ways"]
    found = {}
    for name in filter(is_ours, ways):
        plain = ways.get(_plain_of(name), {})
        warm = ways[name].get("second_start_s")
        if is_compiled(name) and warm is not None and plain.get("status") == "ok":
            found[name] = warm / (plain["prepare_s"] + plain["first_call_s"])
    return found


def shares(record: Record, name: str, other: str) -> tuple[float, float] | None:
    """Time and peak of one way over another's."""
    ways = measured(record)
    if name not in ways or other not in ways:
        return None
    times = ways[name][f"over_{other}"][0]
    return float(times), float(ways[name]["rss_bytes"] / max(ways[other]["rss_bytes"], 1))


def best_for_bar(record: Record) -> tuple[str, float, float] | None:
    """Our plan that comes closest to the subject's bars: those it misses least, then the fastest.
    """
    bars = RIVAL_BARS.get(record["key"])
    if bars is None:
        return None
    pairs = {name: shares(record, name, "compile") for name in filter(is_ours, measured(record))}
    return closest({name: pair for name, pair in pairs.items() if pair is not None}, bars)


def closest(
    found: Mapping[str, tuple[float, float]], bars: tuple[float, float]
) -> tuple[str, float, float] | None:
    """Of time and peak by name, the one that misses its bars least, then the fastest."""
    ranked = [
        (max(time / bars[0], peak / bars[1], 1.0), time, name, peak)
        for name, (time, peak) in found.items()
    ]
    if not ranked:
        return None
    _, time, name, peak = min(ranked)
    return name, time, peak


def misses(record: Record) -> list[str]:
    """All that falls short, in words: bars, wrong outputs, rivals ahead of our frontier, and what
    was not measured."""
    found = []
    bars = RIVAL_BARS.get(record["key"])
    best = best_for_bar(record)
    if bars is not None:
        if best is None:
            found.append("bars: not measured")
        else:
            name, time, peak = best
            if time > bars[0]:
                found.append(f"{name}: time {time:.3f}x of torch.compile's, bar {bars[0]:.2f}x")
            if peak > bars[1]:
                found.append(f"{name}: peak {peak:.3f}x of torch.compile's, bar {bars[1]:.2f}x")
    for name, way in measured(record).items():
        if way["wrong"]:
            found.append(f"{name}: {way['wrong']}")
    starts, ways = _second_starts(record), record["ways"]
    compiled = [name for name in filter(is_ours, measured(record)) if is_compiled(name)]
    for name, way in ways.items():
        if way["status"] != "ok" and not is_ours(name):
            found.append(f"{name}: not measured, so that nobody knows whether it is ahead")
        elif name in compiled and _plain_of(name) in ways and name not in starts:
            found.append(f"{name}: a second process's start was not measured")
    for name, over in starts.items():
        if over > SECOND_START_BAR:
            found.append(
                f"{name}: a second process starts in {over:.2f}x the uncompiled time, bar "
                f"{SECOND_START_BAR:.0f}x"
            )
    found.extend(f"{name} lies below and left of ours" for name in ahead(record))
    return found


def ahead(record: Record) -> list[str]:
    """Rivals below and left of our frontier: those that no plan of ours matches in both memory and
    time, within the noise of each."""
    ways = measured(record)
    return unmatched({name: (way["cpu_ms"], way["rss_bytes"]) for name, way in ways.items()})


def unmatched(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Of time and peak by name, the rivals that none of ours matches in both."""
    ours = [point for name, point in points.items() if is_ours(name)]
    return [
        name
        for name, (time, peak) in points.items()
        if not is_ours(name)
        and not any(t <= time * TIME_NOISE and p <= peak * MEMORY_NOISE for t, p in ours)
    ]


def write_page(results: Path) -> Path:
    """The page and its pictures made anew from all records; the page's path."""
    records = read_records(results / "rivals")
    for key, record in records.items():
        if points := _points(record):
            draw_rivals(points, record["name"], results / "rivals" / f"{key}.png")
    path = results / "rivals.md"
    path.write_text(page(records), encoding="utf-8")
    return path


def _points(record: Record) -> dict[str, tuple[float, float, bool]]:
    """Per way: peak in MiB, CPU time in ms, and whether it is ours."""
    return {
        name: (way["rss_bytes"] / 2**20, way["cpu_ms"], is_ours(name))
        for name, way in measured(record).items()
    }


def page(records: Mapping[str, Record]) -> str:
    """The page as Markdown."""
    parts = [_HEAD, _summary(records)]
    parts.extend(_section(key, record) for key, record in records.items())
    return "\n".join(parts)


_HEAD = """# Beside what a user would run instead

Peak: the resident set's high-water mark over a warm call, beyond what was there before, with a
fixed mmap threshold; one process a row, the same for all. The allocator's own count stands beside
it. (Room that was freed within the heap is taken before: pages of tensors that the C library puts
there stay when those are freed.) Time: process CPU time, all rows in turns in one process, medians;
allocator and waiting threads as they are by default, as in a user's process.
`ours SHARE` is `apply(model, args, memory_budget=SHARE)`, analytic, nothing tuned; `compiled` adds
`compile=True`.
Cold: seconds until the first result with nothing cached, from the model's construction on. Warm:
the same in a second process, whose compiler finds its cache filled.
"""


def _summary(records: Mapping[str, Record]) -> str:
    lines = [
        "| subject | plan | time over torch.compile | bar | peak over torch.compile | bar |",
        "|---|---|---|---|---|---|",
    ]
    for key, (time_bar, peak_bar) in RIVAL_BARS.items():
        best = best_for_bar(records[key]) if key in records else None
        if best is None:
            lines.append(f"| {key} | not measured | | {time_bar:.2f} | | {peak_bar:.2f} |")
            continue
        name, time, peak = best
        times, peaks = (
            f"{value:.3f}" if value <= bar else f"**{value:.3f}**"
            for value, bar in ((time, time_bar), (peak, peak_bar))
        )
        lines.append(
            f"| {records[key]['name']} | {name} | {times} | {time_bar:.2f} | {peaks} | "
            f"{peak_bar:.2f} |"
        )
    return "\n".join([*lines, "", "Bold figures miss their bar.", ""])


def _section(key: str, record: Record) -> str:
    lines = [
        f"## {record['name']}",
        "",
        f"`{record['command']}`: {record['environment']['device']}, {record['threads']} threads, "
        f"torch {record['environment']['torch']}, {record['environment']['date']}, "
        f"{record['times'].get('rounds', 0)} rounds.",
        "",
        "| way | peak | allocator | CPU time | over eager | over torch.compile | error | cold | "
        "warm |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ordered = sorted(
        record["ways"].items(), key=lambda pair: (is_ours(pair[0]), pair[1].get("rss_bytes", 0))
    )
    lines.extend(_row(name, way) for name, way in ordered)
    lines.append("")
    if measured(record):
        lines += [f"![Peak and time of {record['name']}](rivals/{key}.png)", ""]
    if starts := _second_starts(record):
        told = ", ".join(f"{name} {over:.2f}x" for name, over in starts.items())
        lines += [f"A second process's start over the uncompiled plan's: {told}.", ""]
    found = misses(record)
    lines += [f"Falls short: {'; '.join(found)}." if found else "No bar is missed.", ""]
    return "\n".join(lines)


def _row(name: str, way: Mapping[str, Any]) -> str:
    if way["status"] != "ok":
        return f"| {name} | {way['status']}: {way['reason'].splitlines()[0]} | | | | | | | |"
    cold, warm = way["prepare_s"] + way["first_call_s"], way.get("second_start_s")
    head = f"| {name} | {mib(way['rss_bytes'])} | {mib(way['allocator_bytes'])} |"
    if "cpu_ms" not in way:
        return f"{head} not timed | | | | {cold:.1f} s | |"
    ratios = [f"{way[f'over_{other}'][0]:.3f}" for other in ("eager", "compile")
              if f"over_{other}" in way]  # fmt: skip
    ratios += [""] * (2 - len(ratios))
    return (
        f"{head} {way['cpu_ms']:.0f} ms | {' | '.join(ratios)} | {way['error']:.1e} | "
        f"{cold:.1f} s | {'' if warm is None else f'{warm:.1f} s'} |"
    )
