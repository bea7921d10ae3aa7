"""The tables of a report: which plan for which budget, how it was found, what failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.frontier import NOISE
from tuner.report.figures import budget_text, timelines
from tuner.report.sizes import size_text
from tuner.report.values import LengthData, PlanDetail, Run, Served, plan_key

_STRETCHES = 12


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its text; a share from 0 to 1 to draw a bar for; a tone (``good``, ``bad`` or
    none); where it leads to; its own id."""

    text: str
    share: float | None = None
    tone: str = ""
    link: str = ""
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table; columns named in ``numeric`` are aligned at the right."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    numeric: frozenset[str] = frozenset()
    note: str = ""


_SERVED = ("length", "budget", "measured peak", "of eager's", "time ratio", "interval",
           "speed", "saves", "limit", "outputs", "plan")  # fmt: skip
_SERVED_NUMBERS = frozenset(
    {"budget", "measured peak", "of eager's", "time ratio", "saves", "limit"}
)


def budgets_table(run: Run) -> Table:
    """Which plan serves which budget, what it saves, and how sure that is."""
    rows = [row for one in run.lengths.values() for row in _served_rows(one, run)]
    return Table("Which plan for which budget", _SERVED, tuple(rows), _SERVED_NUMBERS)


def overview_table(runs: Mapping[str, Run]) -> Table:
    """The same for several campaigns, given with the addresses of their own pages."""
    rows: list[tuple[Cell | str, ...]] = []
    for page, run in runs.items():
        state = "finished" if run.complete else Cell("not finished", tone="bad")
        for one in run.lengths.values():
            for row in _served_rows(one, run, page):
                rows.append((Cell(run.model, link=page), *row, state))
        if not run.lengths:
            rows.append((Cell(run.model, link=page), *[""] * len(_SERVED), state))
    return Table(
        "Which plan for which budget", ("model", *_SERVED, "campaign"), tuple(rows),
        _SERVED_NUMBERS,
    )  # fmt: skip


def _served_rows(one: LengthData, run: Run, page: str = "") -> list[tuple[Cell | str, ...]]:
    return [_served_row(one, served, page) for served in one.served(run.budgets)]


def _served_row(one: LengthData, served: Served, page: str) -> tuple[Cell | str, ...]:
    limit = "lowest" if served.limit_bytes is None else size_text(served.limit_bytes)
    row = served.row
    if row is None:
        missing = Cell("no confirmed plan", tone="bad", link=f"{page}#failures")
        return (one.short, budget_text(served.budget), missing, *[""] * 5, limit, "", "")
    share = row.peak_bytes / one.eager_bytes if one.eager_bytes else None
    found = one.run_of(row)
    key = plan_key(row.plan)
    return (
        one.short,
        budget_text(served.budget),
        size_text(row.peak_bytes),
        Cell("?") if share is None
        else Cell(f"{share:.3f}", share=share, tone="bad" if share > 1 else ""),
        f"{row.ratio:.3f}",
        f"{row.ratio_low:.3f} to {row.ratio_high:.3f}",
        speed_cell(row.ratio, row.ratio_low, row.ratio_high),
        "?" if share is None else size_text(max(one.eager_bytes - row.peak_bytes, 0)),
        limit,
        outputs_text(None if found is None else found.max_abs_diff),
        Cell(key, link=f"{page}#{plan_id(one, key)}"),
    )


def speed_cell(ratio: float, low: float, high: float) -> Cell:
    """In words, with the noise in mind: an interval that holds 1, or a difference smaller than
    repeated runs show, is none."""
    if low <= 1 <= high or abs(ratio - 1) < NOISE:
        return Cell("same, within noise")
    if ratio < 1:
        return Cell(f"{100 * (1 - ratio):.0f} % faster", tone="good")
    return Cell(f"{100 * (ratio - 1):.0f} % slower", tone="bad")


def outputs_text(difference: float | None) -> str:
    """How the outputs compare with the reference's."""
    if difference is None:
        return "not compared"
    return "identical" if difference == 0 else f"within {difference:.1g}"


def plan_id(one: LengthData, key: str) -> str:
    """The id of a plan's section."""
    return f"plan-{one.anchor}-{key}"


def class_id(one: LengthData, key: str) -> str:
    """The id of a region class's row."""
    return f"class-{one.anchor}-{key}"


def headlines(run: Run) -> list[str]:
    """One sentence a length: what its first budget with a plan gets."""
    found = []
    for one in run.lengths.values():
        for served in one.served(run.budgets):
            row = served.row
            if row is None or not one.eager_bytes:
                continue
            saved = 1 - row.peak_bytes / one.eager_bytes
            found.append(
                f"{one.title}, budget {budget_text(served.budget)}: "
                f"{size_text(row.peak_bytes)} in place of {size_text(one.eager_bytes)} "
                f"({100 * abs(saved):.0f} % {'less' if saved >= 0 else 'more'}), "
                f"at {row.ratio:.2f} times {one.reference}'s time "
                f"({row.ratio_low:.2f} to {row.ratio_high:.2f})."
            )
            break
    return found


def runs_table(one: LengthData) -> Table:
    """Every plan that ran at a length: the table of the frontier's chart."""
    kept = {plan_key(row.plan) for row in one.frontier}
    rows = []
    for entry in sorted(one.timed, key=lambda e: (e.peak_bytes, e.row.ratio)):
        share = f"{entry.peak_bytes / one.eager_bytes:.3f}" if one.eager_bytes else "?"
        row = entry.row
        # a length that has not ended has no section for each plan: its row is what links lead to
        anchor = plan_id(one, entry.key) if one.result is None else ""
        rows.append((
            Cell(entry.key, anchor=anchor), size_text(entry.peak_bytes), share, f"{row.ratio:.3f}",
            f"{row.ratio_low:.3f} to {row.ratio_high:.3f}", str(entry.pairs),
            "?" if entry.contended is None else f"{entry.contended:.0%}",
            f"{row.latency_ms:.1f} ms", outputs_text(entry.max_abs_diff),
            "kept" if entry.key in kept else "", chunks_text(one, entry.key),
        ))  # fmt: skip
    return Table(
        f"Plans that ran, {one.place} (eager: {size_text(one.eager_bytes)}, "
        f"{one.eager.latency_ms:.1f} ms)",
        ("plan", "measured peak", "of eager's", "time ratio", "interval", "pairs of runs",
         "contended", "latency", "outputs", "frontier", "in chunks"),
        tuple(rows),
        frozenset({"measured peak", "of eager's", "time ratio", "pairs of runs", "contended",
                   "latency"}),
    )  # fmt: skip


def chunks_text(one: LengthData, key: str) -> str:
    """What a plan runs in chunks, as far as the ledger tells."""
    expected = one.expected.get(key)
    if expected is None or one.found is None:
        return ""
    names = {item.found.key: item.found for item in one.found.candidates}
    parts = [
        f"{names[key].times} x {names[key].region} by {size}"
        for key, size in expected.setting.items()
        if key in names
    ]
    entry = one.runs.get(key)
    compiled = "; compiled" if entry is not None and entry.plan.compiled else ""
    return (", ".join(parts) or "nothing") + compiled


def timeline_table(one: LengthData, run: Run) -> Table:
    """The highest of each twelfth of a run, as the chart of memory shows it."""
    lines = timelines(one, run)
    rows = []
    for k in range(_STRETCHES):
        cells = [f"{100 * k // _STRETCHES} to {100 * (k + 1) // _STRETCHES} %"]
        for _, values in lines:
            start = k * len(values) // _STRETCHES
            stop = max((k + 1) * len(values) // _STRETCHES, start + 1)
            cells.append(size_text(max(values[start:stop], default=0)))
        rows.append(tuple(cells))
    names = [name for name, _ in lines]
    return Table(
        f"Highest memory in each stretch of the call, {one.place}",
        ("stretch of the operations", *names), tuple(rows), frozenset(names),
    )  # fmt: skip


def chosen_table(one: LengthData, plan: PlanDetail) -> Table:
    """The loops of a plan, and what each is for."""
    rows = [
        (
            Cell(item.found.region, link=f"#{class_id(one, item.found.key)}"),
            f"{item.found.times} x",
            item.found.dimension,
            f"{item.passes} x {item.chunk_size} of {item.found.extent}",
            item.found.computes,
            size_text(item.without_bytes),
            f"{item.extra_ms:+.2f} ms",
        )
        for item in plan.chosen
    ]
    return Table(
        "What runs in chunks, and why",
        ("region", "occurs", "sliced along", "chunks", "computes", "peak without it",
         "extra time, predicted"),
        tuple(rows),
        frozenset({"occurs", "peak without it", "extra time, predicted"}),
    )  # fmt: skip
