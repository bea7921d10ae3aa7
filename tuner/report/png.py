"""Charts as PNG, for slides and documents; needs matplotlib (the extra ``report``)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tuner.report.chart import Chart, Series

_TONES = ("#6b7280", "#0b63b0", "#b45309", "#0f766e", "#7e22ce", "#be123c")
_MARKERS = ("o", "s", "D", "^")


def can_draw_png() -> bool:
    """Whether matplotlib is at hand."""
    return find_spec("matplotlib") is not None


def draw_png(chart: Chart, path: Path) -> None:
    """Write a chart as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for series in chart.series:
        _series(axes, series, chart.x.high)
    for rule in chart.rules:
        style: dict[str, Any] = {"color": "#4b5563", "linewidth": 0.9, "linestyle": "--"}
        if rule.direction == "vertical":
            axes.axvline(rule.at, **style)
            axes.annotate(_plain(rule.text), (rule.at, 1.0), xycoords=("data", "axes fraction"),
                          xytext=(3, -9), textcoords="offset points", fontsize=8)  # fmt: skip
        elif rule.direction == "horizontal":
            axes.axhline(rule.at, **style)
            axes.annotate(
                _plain(rule.text), (1.0, rule.at), xycoords=("axes fraction", "data"),
                xytext=(-3, 3), textcoords="offset points", fontsize=8, ha="right",
            )  # fmt: skip
        else:
            axes.axline((chart.x.low, chart.x.low), (chart.x.high, chart.x.high), **style)
    for axis, one in ((axes.xaxis, chart.x), (axes.yaxis, chart.y)):
        axis.set_label_text(_plain(one.label))
    axes.set_xscale("log" if chart.x.log else "linear")
    axes.set_yscale("log" if chart.y.log else "linear")
    axes.set_xlim(chart.x.low, chart.x.high)
    axes.set_ylim(chart.y.low, chart.y.high)
    axes.set_title(_plain(chart.title), loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if chart.series:
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def _series(axes: Any, series: Series, end: float) -> None:
    colour, name = _TONES[series.tone], _plain(series.name)
    x = [point.x for point in series.points]
    y = [point.y for point in series.points]
    if series.kind == "area":
        x, y = [*x, end], [*y, y[-1]]
        axes.fill_between(x, y, step="post", color=colour, alpha=0.18, linewidth=0)
        axes.step(x, y, where="post", color=colour, linewidth=1.3, label=name)
    elif series.kind == "cloud":
        axes.plot(x, y, ".", color=colour, markersize=2.5, alpha=0.6, label=name)
    else:
        known = [p for p in series.points if p.low is not None and p.high is not None]
        axes.vlines([p.x for p in known], [p.low for p in known], [p.high for p in known],
                    color=colour, linewidth=1.2)  # fmt: skip
        axes.plot(x, y, _MARKERS[series.marker], linestyle="-" if series.kind == "line" else "",
                  color=colour, markersize=5, linewidth=1.3, label=name)  # fmt: skip


def _plain(text: str) -> str:
    """Text as it stands: a dollar sign of a user's begins no formula."""
    return text.replace("$", r"\$")
