"""The report as one HTML page, and its figures as files beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from search_space.errors import ConfigError
from tuner.report import figures, search_tables, tables
from tuner.report.card import stored_card
from tuner.report.chart import Chart
from tuner.report.png import can_draw_png, draw_png
from tuner.report.read import read_run
from tuner.report.svg import draw_svg
from tuner.report.template import fill
from tuner.report.values import LengthData, PlanDetail, Run, plan_key


@dataclass(frozen=True)
class Written:
    """What was written: the page, and the figures beside it. ``png`` is False where matplotlib is
    not installed, so that figures are SVG alone."""

    page: Path
    figures: tuple[Path, ...]
    png: bool


@dataclass(frozen=True)
class Figure:
    """A chart and the tables that say the same."""

    chart: Chart
    table: tables.Table

    @property
    def svg(self) -> Markup:
        # the drawing escapes all text itself
        return Markup(draw_svg(self.chart))


def write_report(run_path: Path, output: Path | None = None) -> Written:
    """Write the report of one campaign.

    Args:
        run_path: the campaign's output folder, or its ledger.
        output: the page's path; ``report.html`` beside the ledger where none is given. Figures
            go to a folder beside it that is named after it.

    Raises:
        ConfigError: there is no ledger, or the page cannot be written.
        LedgerError: the ledger is damaged.
    """
    run = read_run(run_path)
    page = output or run.path.with_name("report.html")
    folder = page.with_name(f"{page.stem}-figures")
    png = can_draw_png()
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        page.write_text(render(run, folder.name, png=png), encoding="utf-8")
        for chart in charts(run):
            path = folder / f"{chart.name}.svg"
            path.write_text(draw_svg(chart, standalone=True), encoding="utf-8")
            written.append(path)
            if png:
                draw_png(chart, path.with_suffix(".png"))
                written.append(path.with_suffix(".png"))
    except OSError as error:
        raise ConfigError(
            f"the report cannot be written to {page}: {error}; name another place with --output"
        ) from error
    return Written(page, tuple(written), png)


def render(run: Run, folder: str = "report-figures", *, png: bool = True) -> str:
    """The page's HTML.

    Args:
        folder: where the figures' own files are, relative to the page.
        png: whether they are there as PNG too.
    """
    return fill(
        "page.html",
        run=run,
        sections=[_section(one, run) for one in run.lengths.values()],
        comparisons=list(_comparisons(run)),
        sure=_sure(run),
        usage=_usage(run),
        card=stored_card(run),
        config=yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True),
        folder=folder,
        png=png,
    )


def charts(run: Run) -> list[Chart]:
    """All charts of a report."""
    of_lengths = [
        chart
        for one in run.lengths.values()
        for chart in (figures.frontier_chart(one, run), figures.timeline_chart(one, run))
    ]
    every = [*of_lengths, figures.peak_chart(run), figures.time_chart(run)]
    return [chart for chart in every if chart is not None]


def _section(one: LengthData, run: Run) -> dict[str, Any]:
    """What the template needs of a length."""
    frontier = figures.frontier_chart(one, run)
    timeline = figures.timeline_chart(one, run)
    shown = []
    if frontier is not None:
        shown.append(Figure(frontier, tables.runs_table(one)))
    if timeline is not None:
        shown.append(Figure(timeline, tables.timeline_table(one, run)))
    serving = figures.serving(one, run)
    served = {plan_key(plan.row.plan) for _, plan in serving}
    others = [
        ("on the frontier", plan)
        for plan in (one.result.plans if one.result is not None else ())
        if plan_key(plan.row.plan) not in served
    ]
    return {
        "title": one.title,
        "finished": one.result is not None,
        "reference": one.reference,
        "figures": shown,
        "serving": [_plan(one, names, plan) for names, plan in serving],
        "others": [_plan(one, names, plan) for names, plan in others],
        "candidates": search_tables.candidates_table(one),
    }


def _plan(one: LengthData, names: str, plan: PlanDetail) -> dict[str, Any]:
    key = plan_key(plan.row.plan)
    return {
        "id": tables.plan_id(one, key),
        "key": key,
        "names": names,
        "row": plan.row,
        "share": plan.row.peak_bytes / one.eager_bytes if one.eager_bytes else None,
        "table": tables.chosen_table(one, plan) if plan.chosen else None,
    }


def _comparisons(run: Run) -> Iterator[Figure]:
    """Predicted against measured."""
    for chart in (figures.peak_chart(run), figures.time_chart(run)):
        if chart is not None:
            yield Figure(chart, search_tables.peaks_table(run))


def _sure(run: Run) -> list[str]:
    """How sure the first table is."""
    timed = [entry for one in run.lengths.values() for entry in one.timed]
    if not timed:
        return ["No plan was confirmed by a real run so far."]
    pairs = [entry.pairs for entry in timed]
    worst = figures.worst_peak_error(run)
    compared = [entry.max_abs_diff for entry in timed if entry.max_abs_diff is not None]
    same = sum(difference == 0 for difference in compared)
    ended = sum(sum(one.ended.values()) for one in run.lengths.values())
    failed = ended - sum(one.ended["ok"] for one in run.lengths.values())
    few, many = min(pairs), max(pairs)
    between = f"{few}" if few == many else f"{few} to {many}"
    others = "" if same == len(compared) else ", the others are within the campaign's tolerance"
    watched = [entry.contended for entry in timed if entry.contended is not None]
    found = [
        f"Every plan here ran on the device, in turns with the reference: {between} pairs of runs "
        f"a plan. Intervals are of the median ratio, at 95 %{_few(few)}.",
        f"The outputs of {len(compared)} plans were compared with the reference's: {same} are "
        f"identical{others}.",
        f"Predicted peaks are off by at most {100 * worst:.2f} % of the measured ones.",
        f"{failed or 'None'} of {ended} real runs failed.",
    ]
    if run.set_aside:
        ran = sum(sum(one.ended.values()) for one in run.set_aside.values())
        found.append(
            f"The model has changed since the ledger was begun: {ran} real runs of other graphs "
            "are left out."
        )
    if watched:
        found.append(
            f"Others had the device for at most {max(watched):.0%} of the time in which a plan was "
            "timed."
        )
    return found


def _few(pairs: int) -> str:
    """So few have no interval of 95 %; see :func:`tuner.measure.timing.ratio`."""
    return ", or the whole range where there are fewer than six pairs" if pairs < 6 else ""


def _usage(run: Run) -> str:
    """The line that uses the plans."""
    model = run.config.get("model", {})
    targets = model.get("targets") if isinstance(model, dict) else None
    budget = run.budgets[0].plain if run.budgets else 0.5
    parts = ["model", "args", f"plans={run.config.get('plans', 'plans')!r}"]
    if targets:
        parts.append(f"targets={targets!r}")
    return f"fast = apply({', '.join(parts)}, memory_budget={budget!r})"
