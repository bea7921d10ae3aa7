"""Charts as SVG. Colours come from style sheets alone, so that a page's light and dark schemes
apply; text is escaped by the XML library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from tuner.report.chart import Chart, Point, Rule, Series, number_text

WIDTH, HEIGHT = 600.0, 360.0
_LEFT, _RIGHT, _BOTTOM, _TOP = 58.0, 14.0, 46.0, 10.0
_ROW, _LETTER = 18.0, 6.6
STYLE = Path(__file__).with_name("chart.css")


def draw_svg(chart: Chart, *, standalone: bool = False) -> str:
    """A chart as an ``svg`` element; with ``standalone`` as a file of its own, style included."""
    return ElementTree.tostring(_Drawing(chart, standalone).root, encoding="unicode")


class _Drawing:
    """One chart being drawn."""

    def __init__(self, chart: Chart, standalone: bool) -> None:
        self.chart = chart
        legend = list(_legend_rows(chart))
        self.top = _TOP + _ROW * (1 + max((row for row, _, _ in legend), default=-1)) + 6
        size = {"viewBox": f"0 0 {WIDTH:g} {HEIGHT:g}", "role": "img", "class": "chart"}
        if standalone:
            size["xmlns"] = "http://www.w3.org/2000/svg"
            size.update(width=f"{WIDTH:g}", height=f"{HEIGHT:g}")
        self.root = ElementTree.Element("svg", size)
        self.root.set("aria-label", f"{chart.title}. {chart.description}")
        if standalone:
            _child(self.root, "title").text = chart.title
            _child(self.root, "style").text = STYLE.read_text(encoding="utf-8")
            _child(self.root, "rect", {"class": "ground"}, width=WIDTH, height=HEIGHT)
        self._axes()
        clip = f"clip-{chart.name}"
        frame = _child(_child(self.root, "clipPath", {"id": clip}), "rect")
        frame.set("x", _text(_LEFT))
        frame.set("y", _text(self.top - 4))
        frame.set("width", _text(WIDTH - _LEFT - _RIGHT + 4))
        frame.set("height", _text(HEIGHT - self.top - _BOTTOM + 8))
        inside = _child(self.root, "g", {"clip-path": f"url(#{clip})"})
        for series in chart.series:
            self._series(inside, series)
        for place, rule in enumerate(chart.rules):
            self._rule(inside, rule, place)
        for row, x, series in legend:
            self._legend(series, x, _TOP + _ROW * row + 8)

    def x(self, value: float) -> float:
        return _LEFT + self.chart.x.place(value) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - self.chart.y.place(value) * (HEIGHT - self.top - _BOTTOM)

    def _axes(self) -> None:
        right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        for value in self.chart.y.ticks():
            y = self.y(value)
            _child(self.root, "line", {"class": "grid"}, x1=_LEFT, x2=right, y1=y, y2=y)
            label = _child(self.root, "text", {"class": "tick end"}, x=_LEFT - 6, y=y + 4)
            label.text = number_text(value)
        for value in self.chart.x.ticks(8):
            x = self.x(value)
            _child(self.root, "line", {"class": "axis"}, x1=x, x2=x, y1=bottom, y2=bottom + 4)
            label = _child(self.root, "text", {"class": "tick middle"}, x=x, y=bottom + 17)
            label.text = number_text(value)
        _child(self.root, "line", {"class": "axis"}, x1=_LEFT, x2=right, y1=bottom, y2=bottom)
        middle = (_LEFT + right) / 2
        below = _child(self.root, "text", {"class": "label middle"}, x=middle, y=HEIGHT - 8)
        below.text = self.chart.x.label
        centre = (self.top + bottom) / 2
        beside = _child(self.root, "text", {"class": "label middle"}, x=14, y=centre)
        beside.set("transform", f"rotate(-90 14 {_text(centre)})")
        beside.text = self.chart.y.label

    def _series(self, into: ElementTree.Element, series: Series) -> None:
        group = _child(into, "g", {"class": f"{series.kind} tone{series.tone}"})
        places = [(self.x(point.x), self.y(point.y)) for point in series.points]
        if series.kind == "area":
            self._area(group, series)
            return
        if series.kind == "line" and len(places) > 1:
            steps = " ".join(f"L{_text(x)} {_text(y)}" for x, y in places)
            _child(group, "path", {"d": f"M{steps[1:]}", "class": "stroke"})
        for point, (x, y) in zip(series.points, places, strict=True):
            if series.kind == "cloud":
                _child(group, "circle", cx=x, cy=y, r=2)
                continue
            self._mark(group, series, point, x, y)

    def _mark(
        self, into: ElementTree.Element, series: Series, point: Point, x: float, y: float
    ) -> None:
        group = _child(into, "g")
        if point.text:
            _child(group, "title").text = point.text
        if point.low is not None and point.high is not None:
            ends = {"y1": self.y(point.low), "y2": self.y(point.high)}
            _child(group, "line", {"class": "stroke"}, x1=x, x2=x, **ends)
        _marker(group, series.marker, x, y)

    def _area(self, into: ElementTree.Element, series: Series) -> None:
        floor, end = HEIGHT - _BOTTOM, self.x(self.chart.x.high)
        x = [self.x(point.x) for point in series.points]
        y = [self.y(point.y) for point in series.points]
        path = f"M{_text(x[0])} {_text(y[0])}"
        for k in range(1, len(x)):
            path += f"H{_text(x[k])}V{_text(y[k])}"
        path += f"H{_text(end)}"
        _child(into, "path", {"class": "fill", "d": f"{path}V{_text(floor)}H{_text(x[0])}Z"})
        _child(into, "path", {"class": "stroke", "d": path})

    def _rule(self, into: ElementTree.Element, rule: Rule, place: int) -> None:
        right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        if rule.direction == "vertical":
            x = self.x(rule.at)
            _child(into, "line", {"class": "rule"}, x1=x, x2=x, y1=self.top, y2=bottom)
            near = x > right - _LETTER * len(rule.text) - 8
            label = {"class": "note end" if near else "note"}
            at = {"x": x - 5 if near else x + 5, "y": self.top + 12 + 14 * (place % 4)}
        elif rule.direction == "horizontal":
            y = self.y(rule.at)
            _child(into, "line", {"class": "rule"}, x1=_LEFT, x2=right, y1=y, y2=y)
            label, at = {"class": "note end"}, {"x": right - 4, "y": y - 5}
        else:
            low = max(self.chart.x.low, self.chart.y.low)
            high = min(self.chart.x.high, self.chart.y.high)
            _child(into, "line", {"class": "rule"}, x1=self.x(low), y1=self.y(low),
                   x2=self.x(high), y2=self.y(high))  # fmt: skip
            label, at = {"class": "note end"}, {"x": self.x(high) - 14, "y": self.y(high) + 14}
        if rule.text:
            _child(into, "text", label, **at).text = rule.text

    def _legend(self, series: Series, x: float, y: float) -> None:
        group = _child(self.root, "g", {"class": f"{series.kind} tone{series.tone}"})
        if series.kind == "area":
            _child(group, "rect", {"class": "fill"}, x=x - 7, y=y - 6, width=14, height=10)
            _child(group, "line", {"class": "stroke"}, x1=x - 7, x2=x + 7, y1=y - 6, y2=y - 6)
        elif series.kind == "cloud":
            _child(group, "circle", cx=x, cy=y - 1, r=2.4)
        else:
            if series.kind == "line":
                _child(group, "line", {"class": "stroke"}, x1=x - 9, x2=x + 9, y1=y, y2=y)
            _marker(group, series.marker, x, y)
        _child(self.root, "text", {"class": "note"}, x=x + 13, y=y + 4).text = series.name


def _legend_rows(chart: Chart) -> Iterator[tuple[int, float, Series]]:
    """Row and x of each series' entry."""
    row, x = 0, _LEFT + 10
    for series in chart.series:
        width = 34 + _LETTER * len(series.name)
        if x > _LEFT + 10 and x + width > WIDTH - _RIGHT:
            row, x = row + 1, _LEFT + 10
        yield row, x, series
        x += width


def _marker(into: ElementTree.Element, shape: int, x: float, y: float) -> None:
    if shape == 0:
        _child(into, "circle", {"class": "mark"}, cx=x, cy=y, r=4)
    elif shape == 1:
        _child(into, "rect", {"class": "mark"}, x=x - 4, y=y - 4, width=8, height=8)
    else:
        corners = ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)) if shape == 2 else (
            (0, -5), (5, 4), (-5, 4),
        )  # fmt: skip
        text = " ".join(f"{_text(x + dx)},{_text(y + dy)}" for dx, dy in corners)
        _child(into, "polygon", {"class": "mark", "points": text})


def _child(
    into: ElementTree.Element, tag: str, attributes: dict[str, str] | None = None, **numbers: float
) -> ElementTree.Element:
    texts = {name: _text(value) for name, value in numbers.items()}
    return ElementTree.SubElement(into, tag, {**(attributes or {}), **texts})


def _text(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


