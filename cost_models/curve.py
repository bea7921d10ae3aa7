"""Curves through measured points, for what no formula tells."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from itertools import pairwise

Curve = tuple[tuple[float, float], ...]
"""Points by rising x; all numbers positive and finite."""


def value_at(curve: Curve, x: float) -> float:
    """The curve at ``x``: a power of x between two points, the nearest point's value beyond all."""
    place = bisect_left(curve, (x, -math.inf))
    if place == 0:
        return curve[0][1]
    if place == len(curve):
        return curve[-1][1]
    (left, low), (right, high) = curve[place - 1], curve[place]
    way = math.log(x / left) / math.log(right / left)
    return low * math.exp(way * math.log(high / low))


def curve_of(points: Iterable[Iterable[float]]) -> Curve:
    """A curve from any pairs, such as a file's lists.

    Raises:
        ValueError: there is none, a number is not positive, or x does not rise.
    """
    curve = tuple((float(x), float(y)) for x, y in points)
    rising = all(one[0] < other[0] for one, other in pairwise(curve))
    numbers = [value for point in curve for value in point]
    if not curve or not rising or not all(0 < value < math.inf for value in numbers):
        raise ValueError(f"a curve needs positive points by rising x, got {curve}")
    return curve
