"""The charts of a report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from search_space.budget import Budget
from tuner.database import PlanRow
from tuner.report.chart import (
    Axis,
    Chart,
    Point,
    Rule,
    Series,
    from_zero,
    spanning_log,
)
from tuner.report.sizes import size_text, unit_for
from tuner.report.values import LengthData, PlanDetail, PlanRun, Run, plan_key

_CLOUD = (120, 80)
"""Of predicted plans that fall into one cell of such a raster, one is drawn."""
_LINES = 3


def frontier_chart(one: LengthData, run: Run) -> Chart | None:
    """Time over peak: what was predicted, what was run, what was kept. None without a timed run."""
    timed = one.timed
    if not timed:
        return None
    kept = {plan_key(row.plan) for row in one.frontier}
    rows = [entry.row for entry in timed]
    name, unit = unit_for(max(one.eager_bytes, *(row.peak_bytes for row in rows)))
    x = from_zero(
        f"activation peak ({name})",
        [one.eager_bytes / unit, *(row.peak_bytes / unit for row in rows)],
    )
    top = max(1.0, *(row.ratio_high for row in rows))
    low = min(1.0, *(row.ratio_low for row in rows))
    y = Axis(f"time, over {one.reference}'s", max(0.0, low - 0.12 * top), 1.12 * top)
    series = [
        Series("predicted in the search", tuple(_cloud(one, x, y, unit)), "cloud", 0),
        Series(
            "run, not kept",
            tuple(_row_point(entry.row, unit) for entry in timed if entry.key not in kept), tone=4,
            marker=2,
        ),
        Series(
            "kept: the frontier",
            tuple(_row_point(row, unit) for row in one.frontier),
            "line",
        ),
    ]  # fmt: skip
    if one.reference == "eager":
        text = f"eager model: {size_text(one.eager_bytes)}"
        point = Point(one.eager_bytes / unit, 1.0, text=text)
        series.append(Series("eager model", (point,), tone=2, marker=1))
    return Chart(
        _name("frontier", one),
        f"Memory and time of confirmed plans, {one.place}",
        "Each point is a plan, with the interval of its time; lower is faster, further left needs "
        "less memory.",
        x,
        y,
        tuple(entry for entry in series if entry.points),
        (
            Rule("horizontal", 1.0),
            *(
                Rule("vertical", served.limit_bytes / unit, f"budget {budget_text(served.budget)}")
                for served in one.served(run.budgets)
                if served.limit_bytes is not None and served.limit_bytes / unit < x.high
            ),
        ),
    )


def timeline_chart(one: LengthData, run: Run) -> Chart | None:
    """Memory alive over a run, unchunked and under the budgets' plans; None unless finished."""
    lines = timelines(one, run)
    if one.found is None or not lines:
        return None
    tones = (0, 1, 2, 3)
    peaks = [one.eager_bytes, *(max(values) for _, values in lines)]
    unit_name, unit = unit_for(max(peaks))
    series = tuple(
        Series(name, tuple(_steps(values, unit)), "area", tone)
        for (name, values), tone in zip(lines, tones, strict=False)
    )
    rules: tuple[Rule, ...] = ()
    if one.eager_bytes:
        text = f"eager peak {size_text(one.eager_bytes)}"
        rules = (Rule("horizontal", one.eager_bytes / unit, text),)
    return Chart(
        _name("memory", one),
        f"Memory over one call, {one.place}",
        "Activations alive, by the memory model, as the operations of the captured graph run; a "
        "loop is as wide as the operations that it replaces, and as high as its highest pass.",
        Axis("share of the operations (%)", 0, 100),
        from_zero(f"activations alive ({unit_name})", [peak / unit for peak in peaks]),
        series,
        rules,
    )


def timelines(one: LengthData, run: Run) -> list[tuple[str, tuple[int, ...]]]:
    """The bytes alive over a run: unchunked, then under the plans that serve budgets."""
    if one.found is None or one.result is None:
        return []
    lines = [("unchunked", one.found.timeline_bytes)]
    for names, plan in serving(one, run)[:_LINES]:
        lines.append((f"plan for {names}", plan.timeline_bytes))
    return [(name, values) for name, values in lines if values]


def serving(one: LengthData, run: Run) -> list[tuple[str, PlanDetail]]:
    """The finished plans that serve budgets, with the names of those budgets."""
    if one.result is None:
        return []
    found: dict[str, tuple[list[str], PlanDetail]] = {}
    details = {plan_key(plan.row.plan): plan for plan in one.result.plans}
    for served in one.served(run.budgets):
        if served.row is not None:
            key = plan_key(served.row.plan)
            found.setdefault(key, ([], details[key]))[0].append(budget_text(served.budget))
    return [
        (f"budget {names[0]}" if len(names) == 1 else f"budgets {', '.join(names)}", plan)
        for names, plan in found.values()
    ]


def peak_chart(run: Run) -> Chart | None:
    """Measured peaks over predicted ones, of all plans that ran; None where none did."""
    runs = [(one, list(filter(_is_predicted, one.timed))) for one in run.lengths.values()]
    peaks = [e.peak_bytes for _, entries in runs for e in entries]
    if not peaks:
        return None
    name, unit = unit_for(max(peaks))
    series = tuple(
        Series(
            one.place,
            tuple(
                Point(
                    entry.predicted_bytes / unit, entry.peak_bytes / unit,
                    text=f"plan {entry.key}: predicted {size_text(entry.predicted_bytes)}, "
                         f"measured {size_text(entry.peak_bytes)}",
                )
                for entry in entries
            ),
            tone=1 + k % 5,
            marker=k % 4,
        )
        for k, (one, entries) in enumerate(runs)
        if entries
    )  # fmt: skip
    ends = spanning_log("", [v for entry in series for p in entry.points for v in (p.x, p.y)])
    return Chart(
        "predicted-peak",
        "Peaks, predicted and measured",
        "Each point is a plan that ran; on the dashed line the memory model was right.",
        Axis(f"predicted peak ({name})", ends.low, ends.high, log=True),
        Axis(f"measured peak ({name})", ends.low, ends.high, log=True),
        series,
        (Rule("diagonal", text="as predicted"),),
    )


def time_chart(run: Run) -> Chart | None:
    """Measured time ratios over those predicted before the first run; None where none are known."""
    series = []
    for k, one in enumerate(run.lengths.values()):
        points = tuple(
            Point(
                entry.expected.ratio, entry.ratio.median, entry.ratio.low, entry.ratio.high,
                f"plan {entry.key}: predicted {entry.expected.ratio:.3f}, measured "
                f"{entry.ratio.median:.3f}",
            )
            for entry in one.timed
            if entry.expected is not None and entry.ratio is not None
        )  # fmt: skip
        if points:
            series.append(Series(one.place, points, tone=1 + k % 5, marker=k % 4))
    values = [
        value for entry in series for p in entry.points for value in (p.x, p.low, p.high)
        if value is not None
    ]  # fmt: skip
    if not values:
        return None
    ends = spanning_log("", values, factor=1.05)
    return Chart(
        "predicted-time",
        "Time ratios, predicted and measured",
        "Each point is a plan that ran, with its interval; predictions were made before the "
        "plan's first run.",
        Axis("predicted time ratio", ends.low, ends.high, log=True),
        Axis("measured time ratio", ends.low, ends.high, log=True),
        tuple(series),
        (Rule("diagonal", text="as predicted"),),
    )


def _row_point(row: PlanRow, unit: int) -> Point:
    return Point(
        row.peak_bytes / unit, row.ratio, row.ratio_low, row.ratio_high,
        f"plan {plan_key(row.plan)}: {size_text(row.peak_bytes)}, {row.ratio:.3f} of the time "
        f"({row.ratio_low:.3f} to {row.ratio_high:.3f})",
    )  # fmt: skip


def _cloud(one: LengthData, x: Axis, y: Axis, unit: int) -> Iterator[Point]:
    """Predicted plans inside the axes, thinned."""
    base = one.eager.latency_ms or one.unchunked_ms
    if not base:
        return
    taken: set[tuple[int, int]] = set()
    for trials in one.rounds.values():
        for _, latency_ms, peak_bytes in trials:
            point = Point(peak_bytes / unit, latency_ms / base)
            across, up = x.place(point.x), y.place(point.y)
            cell = (int(across * _CLOUD[0]), int(up * _CLOUD[1]))
            if 0 <= across <= 1 and 0 <= up <= 1 and cell not in taken:
                taken.add(cell)
                yield point


def _steps(values: Sequence[int], unit: int) -> Iterator[Point]:
    """The points at which a timeline changes."""
    last = None
    for place, value in enumerate(values):
        if value != last:
            yield Point(100 * place / len(values), value / unit)
        last = value


def _name(kind: str, one: LengthData) -> str:
    """A file name."""
    return f"{kind}-{one.anchor}"


def budget_text(budget: Budget) -> str:
    """A budget as a person says it: bytes as MiB."""
    return str(budget) if budget.absolute_bytes is None else size_text(budget.absolute_bytes)


def worst_peak_error(run: Run) -> float:
    """The largest relative error of a predicted peak; NaN without a run."""
    return max(
        (abs(entry.predicted_bytes / entry.peak_bytes - 1)
         for one in run.lengths.values() for entry in filter(_is_predicted, one.timed)),
        default=math.nan,
    )  # fmt: skip


def _is_predicted(entry: PlanRun) -> bool:
    """Whether its peak was predicted: of compiled code no model knows."""
    return bool(entry.predicted_bytes and entry.peak_bytes) and not entry.plan.compiled
