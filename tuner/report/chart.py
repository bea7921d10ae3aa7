"""A chart as plain data: axes, series, rules. :mod:`tuner.report.svg` and :mod:`tuner.report.png`
draw it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["points", "line", "area", "cloud"]
Direction = Literal["vertical", "horizontal", "diagonal"]


@dataclass(frozen=True, slots=True)
class Point:
    """A value, with its interval in y where there is one, and what a pointer over it shows."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one meaning.

    Attributes:
        kind: ``points`` with their intervals; ``line`` through points that are marked too; ``area``
            below a line of steps, each point holding until the next; ``cloud`` of small dots.
        tone: a colour of the palette, 0 for grey, 1 to 5.
        marker: a shape, so that colour is not all that tells series apart: 0 circle, 1 square,
            2 diamond, 3 triangle.
    """

    name: str
    points: tuple[Point, ...]
    kind: Kind = "points"
    tone: int = 1
    marker: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """A dashed line at a value, from side to side; a diagonal one is where x equals y."""

    direction: Direction
    at: float = 0.0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis from ``low`` to ``high``; ``log`` asks that both are positive."""

    label: str
    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value stands: 0 at the lower end, 1 at the upper one."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 6) -> tuple[float, ...]:
        """Round values within, about ``most`` of them."""
        found = self._log_ticks(most) if self.log else ()
        if len(found) > 2:
            return found
        # less than a decade is nearly linear
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return tuple((first + k) * step for k in range(count))

    def _log_ticks(self, most: int) -> tuple[float, ...]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for parts in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            found = [
                part * 10.0**decade for decade in decades for part in parts
                if self.low * 0.999 <= part * 10.0**decade <= self.high * 1.001
            ]  # fmt: skip
            if len(found) <= most + 1:
                break
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart. ``name`` names its file; ``description`` says in words what it shows."""

    name: str
    title: str
    description: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    rules: tuple[Rule, ...] = ()


def from_zero(label: str, values: Iterable[float], *, margin: float = 0.08) -> Axis:
    """A linear axis from 0 to above the largest value."""
    _, high = _ends(values)
    return Axis(label, 0.0, (1 + margin) * (high if high > 0 else 1.0))


def spanning_log(label: str, values: Iterable[float], *, factor: float = 1.15) -> Axis:
    """A logarithmic axis around positive values; others are passed over."""
    low, high = _ends(value for value in values if value > 0)
    if low <= 0:
        low, high = 0.1, 1.0
    return Axis(label, low / factor, high * factor, log=True)


def number_text(value: float) -> str:
    """A tick's text: ``0``, ``0.25``, ``1500``."""
    if value == 0 or abs(value) < 1e-12:
        return "0"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _ends(values: Iterable[float]) -> tuple[float, float]:
    known = [value for value in values if math.isfinite(value)]
    return (min(known), max(known)) if known else (0.0, 1.0)
