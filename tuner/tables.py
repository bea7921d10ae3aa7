"""What the command line prints: tables of classes, frontiers and databases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cost_models.select import count_text, mib
from search_space.plan import Choice, Plan
from tuner.campaign_result import CampaignResult, LengthPlan, LengthResult
from tuner.database import GraphEntry, LengthEntry, ModelFile
from tuner.foresee import Foreseen
from tuner.inspect_model import FrontierPoint, Inspected
from tuner.runtime.explain import region_title


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        left = column in ("region", "chunks", "budget", "plan", "graph", "model", "device")
        table.add_column(column, justify="left" if left else "right")
    return table


def classes_table(one: Inspected, most: int | None = None) -> Table:
    """Region classes, largest saving first; the first ``most``, or all of them."""
    count = len(one.analysis.space.classes)
    few = most is not None and count > most
    table = _table(
        f"region classes at length {one.length}"
        + (f", the first {most} of {count} (--all shows all)" if few else ""),
        "class", "region", "nodes", "times", "units", "whole", "in chunks", "saves",
    )  # fmt: skip
    classes = sorted(one.analysis.space.classes, key=lambda item: -item.saves_bytes)
    for item in classes[:most]:
        table.add_row(
            item.key, region_title(item.loops[0]), str(len(item.regions[0].nodes)),
            str(len(item.loops)), str(item.extent), mib(item.high_bytes), mib(item.low_bytes),
            mib(item.saves_bytes),
        )  # fmt: skip
    return table


def analytic_table(one: Inspected, points: Sequence[FrontierPoint]) -> Table:
    """The roofline's estimate of the frontier."""
    table = _table(
        f"analytic estimate at length {one.length} (nothing was run)",
        "budget", "peak", "of eager", "time ratio", "regions",
    )  # fmt: skip
    eager = one.eager_peak_bytes
    for point in points:
        share = f"{point.peak_bytes / eager:.3f}" if eager else "?"
        table.add_row(
            str(point.budget), mib(point.peak_bytes), share, f"{point.ratio:.2f}",
            str(point.choices),
        )  # fmt: skip
    return table


def foreseen_table(length: int, found: Sequence[Foreseen]) -> Table:
    """What a stored cost model expects of each budget's plan."""
    table = _table(
        f"foreseen at length {length} by the cost model (nothing was run)",
        "budget", "peak", "time ratio", "90 % interval", "time", "regions",
    )  # fmt: skip
    for one in found:
        if one.plan is None:
            table.add_row(str(one.budget), "no plan fits", "", "", "", "")
            continue
        table.add_row(
            str(one.budget), mib(one.peak_bytes), f"{one.ratio:.2f}",
            f"{one.low:.2f} to {one.high:.2f}",
            "?" if one.latency_ms is None else f"{one.latency_ms:.1f} ms",
            str(len(one.plan.choices)),
        )  # fmt: skip
    return table


def dry_run_table(plans: Sequence[LengthPlan]) -> Table:
    """What a campaign would do."""
    table = _table(
        "planned", "length", "graph", "classes", "settings", "region timings", "real runs",
        "seconds",
    )  # fmt: skip
    for one in plans:
        table.add_row(
            str(one.length), one.fingerprint, str(one.classes), count_text(one.space_size),
            str(one.region_timings), f"at most {one.real_runs}", f"about {one.seconds:.0f}",
        )  # fmt: skip
    return table


def size_text(choice: Choice) -> str:
    """A choice's chunk size, and those of the loops inside: ``2 (inside by 64)``."""
    inner = ", ".join(size_text(one) for one in choice.inner)
    return f"{choice.chunk_size} (inside by {inner})" if inner else str(choice.chunk_size)


def chunks_text(plan: Plan, *, nodes: bool = False) -> str:
    """A plan's loops, one class after the other, and whether it is compiled."""
    parts = []
    for choice in plan.choices:
        of = f" {len(choice.regions[0].nodes)} nodes" if nodes else ""
        left = ", not compiled" if plan.bodies and not choice.compiled else ""
        parts.append(f"{len(choice.regions)}x{of} by {size_text(choice)}{left}")
    chunks = ", ".join(parts) or "none"
    if not plan.compiled:
        return chunks
    if plan.stretches == plan.bodies or not plan.choices:
        return f"{chunks}; compiled"
    return f"{chunks}; {'what is between them' if plan.stretches else 'their bodies'} compiled"


def result_table(result: LengthResult) -> Table:
    """A length's confirmed frontier."""
    table = _table(
        f"{_place(result)}: confirmed plans (eager peak {mib(result.eager.peak_bytes)}; "
        f"times against {result.reference})",
        "peak", "of eager", "predicted", "time ratio", "95 % interval", "chunks",
    )  # fmt: skip
    for row in result.frontier:
        share = row.peak_bytes / max(result.eager.peak_bytes, 1)
        table.add_row(
            mib(row.peak_bytes), f"{share:.3f}", mib(row.predicted_bytes), f"{row.ratio:.3f}",
            f"{row.ratio_low:.3f} to {row.ratio_high:.3f}", chunks_text(row.plan, nodes=True),
        )  # fmt: skip
    return table


def _place(result: LengthResult) -> str:
    return f"{result.target}, length {result.length}".removeprefix(", ")


def budgets_table(results: Sequence[LengthResult]) -> Table:
    """Which plan serves which budget."""
    table = _table("budgets", "length", "budget", "limit", "peak", "of eager", "time ratio")
    for result in results:
        for one in result.budgets:
            limit = "lowest" if one.limit_bytes is None else mib(one.limit_bytes)
            if one.row is None:
                table.add_row(str(result.length), str(one.budget), limit, "not met", "", "")
                continue
            share = one.row.peak_bytes / max(result.eager.peak_bytes, 1)
            table.add_row(
                str(result.length), str(one.budget), limit, mib(one.row.peak_bytes),
                f"{share:.3f}", f"{one.row.ratio:.3f}",
            )  # fmt: skip
    return table


def print_result(console: Console, result: CampaignResult) -> None:
    """A campaign's frontiers, which plan serves which budget, and where the plans are."""
    for one in result.lengths:
        console.print(result_table(one))
    console.print(budgets_table(result.lengths))
    for path in result.files:
        console.print(f"plans written to {path}", highlight=False)


def files_table(files: Sequence[ModelFile], root: Path) -> Table:
    """A database's files."""
    table = _table(f"plans in {root}", "model", "device", "graph", "length", "plans", "lowest")
    for file in files:
        for graph in file.graphs:
            for entry in graph.lengths:
                lowest = min((row.peak_bytes for row in entry.frontier), default=0)
                table.add_row(
                    file.model, file.device, graph.fingerprint, str(entry.length),
                    str(len(entry.frontier)), mib(lowest),
                )  # fmt: skip
    return table


def entry_table(file: ModelFile, graph: GraphEntry, entry: LengthEntry) -> Table:
    """One length of one graph in full."""
    shapes = ", ".join(str(tuple(shape)) for shape in entry.shapes)
    table = _table(
        f"{file.model}, graph {graph.fingerprint}, length {entry.length}, inputs {shapes}; eager "
        f"{mib(entry.eager.peak_bytes)}, {entry.eager.latency_ms:.1f} ms",
        "peak", "of eager", "predicted", "latency", "time ratio", "95 % interval", "chunks",
    )  # fmt: skip
    for row in entry.frontier:
        table.add_row(
            mib(row.peak_bytes), f"{row.peak_bytes / max(entry.eager.peak_bytes, 1):.3f}",
            mib(row.predicted_bytes), f"{row.latency_ms:.1f} ms", f"{row.ratio:.3f}",
            f"{row.ratio_low:.3f} to {row.ratio_high:.3f}", chunks_text(row.plan),
        )  # fmt: skip
    return table
