"""The longest length that fits, where what fits is monotone only roughly."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

AHEAD = (1.02, 1.05, 1.1, 1.2, 1.35)
"""Where to look beyond what bisection found: a longer length may divide better."""


@dataclass(frozen=True, slots=True)
class Longest:
    """What a search found.

    Attributes:
        length: the longest length seen to fit; 0 where none does.
        stopped: why the search ended below the true answer: the limit of lengths or of time was
            reached. Empty where a longer length was seen not to fit.
        tried: lengths that were asked about.
    """

    length: int
    stopped: str
    tried: int


def longest(
    fits: Callable[[int], bool],
    *,
    start: int,
    step: int = 1,
    most: int = 1 << 24,
    deadline: float | None = None,
) -> Longest:
    """The longest length among ``start``, ``start`` plus and minus multiples of ``step``.

    Doubles until a length does not fit, halves the interval between, then looks at lengths beyond
    the answer, and goes on from there where one of them fits.

    Args:
        most: no length is longer.
        deadline: by :func:`time.monotonic`; no question is asked afterwards.
    """
    if start < 1 or step < 1 or most < start:
        raise ValueError(f"need 1 <= start <= most and step >= 1, got {start}, {most}, {step}")
    known: dict[int, bool] = {}
    late = False

    def ask(place: int) -> bool:
        nonlocal late
        if place not in known:
            if deadline is not None and time.monotonic() > deadline:
                late = True
                return False
            known[place] = fits(start + place * step)
        return known[place]

    least, last = -((start - 1) // step), (most - start) // step
    low = _first_fit(ask, least)
    while low is not None and not late:
        low, high = _gallop(ask, low, last, start // step)
        while high - low > 1 and not late:
            middle = (low + high) // 2
            if ask(middle):
                low = middle
            else:
                high = middle
        beyond = _beyond(ask, low, last, start, step)
        if beyond is None:
            break
        low = beyond
    best = max((place for place, fit in known.items() if fit), default=None)
    if best is None:
        return Longest(0, "time limit" if late else "", len(known))
    stopped = "time limit" if late else "longest length allowed" if best == last else ""
    return Longest(start + best * step, stopped, len(known))


def _first_fit(ask: Callable[[int], bool], least: int) -> int | None:
    """The start, or the first of ever shorter lengths that fits."""
    place = 0
    while not ask(place):
        if place == least:
            return None
        place = least + (place - least) // 2
    return place


def _gallop(ask: Callable[[int], bool], low: int, last: int, base: int) -> tuple[int, int]:
    """The furthest place that fits, doubling the length, and the next that does not; one past
    ``last`` where all seen fit."""
    while low < last:
        place = min(2 * low + max(base, 1), last)
        if not ask(place):
            return low, place
        low = place
    return low, last + 1


def _beyond(
    ask: Callable[[int], bool], low: int, last: int, start: int, step: int
) -> int | None:
    """A fitting place beyond ``low``, the furthest of those tried."""
    length = start + low * step
    places = {low + 1, low + 2, *(-(-int(length * f - start) // step) for f in AHEAD)}
    return next(
        (place for place in sorted(places, reverse=True) if low < place <= last and ask(place)),
        None,
    )
