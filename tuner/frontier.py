"""Which confirmed plans are worth keeping. Memory is what a budget must allow for a plan, see
:attr:`tuner.entries.PlanRow.needed_bytes`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from search_space.classes import chosen_size
from tuner.database import PlanRow

NOISE = 0.02
"""Two ratios of CPU time closer than this are the same: repeated runs differ by as much."""


WIDEST = 0.1
"""Ratios this far apart are different even where their intervals overlap: a poor measurement must
not hand every budget to the slowest plan."""

SLOWEST = 1.5
"""The least memory is sought among plans no slower than this many times the reference."""


def frontier(rows: Sequence[PlanRow], noise: float = NOISE) -> tuple[PlanRow, ...]:
    """The rows that no other beats in both memory and time, ascending by peak.

    A row of a higher peak must be faster by more than the noise (:func:`tied`); ties go to the
    lower peak, then to the plan with fewer and larger chunks, so that equal measurements give one
    answer.
    """
    kept: list[PlanRow] = []
    for row in sorted(rows, key=_canonical):
        if kept and (row.ratio >= kept[-1].ratio or tied(kept[-1], row, noise)):
            continue
        if kept and row.needed_bytes == kept[-1].needed_bytes:
            kept.pop()
        kept.append(row)
    return tuple(kept)


def best_within(
    rows: Sequence[PlanRow], budget_bytes: int | None, slowest: float = SLOWEST
) -> PlanRow | None:
    """The fastest row within a budget; for None the lowest peak among the rows that are no slower
    than ``slowest`` times the reference, or the fastest row of all. None if none fits."""
    if budget_bytes is None:
        quick = [row for row in rows if row.ratio <= slowest]
        if quick:
            return min(quick, key=_canonical)
        return min(rows, key=_quickest, default=None)
    fitting = [row for row in rows if row.needed_bytes <= budget_bytes]
    if not fitting:
        return None
    best = min(fitting, key=_quickest)
    return min((row for row in fitting if tied(row, best)), key=_canonical)


def finalists(
    rows: Sequence[PlanRow], limits: Sequence[int | None], most: int
) -> tuple[PlanRow, ...]:
    """The rows to be measured again, closely: every budget's own, the fastest of all and within
    each, though it may be tied with that one for now, and the frontier, up to so many.

    Few runs leave wide intervals: of two plans that are tied for now, the one of the lower peak
    would be a budget's own for good, however much slower more runs would show it to be.
    """
    own = [best_within(rows, limit) for limit in limits]
    tops = [math.inf, *(limit for limit in limits if limit is not None)]
    fastest = [
        min((row for row in rows if row.needed_bytes <= top), default=None, key=_quickest)
        for top in tops
    ]
    needed = dict.fromkeys(row for row in own if row is not None)
    more = dict.fromkeys(row for row in (*fastest, *frontier(rows)) if row is not None)
    return tuple({**needed, **more})[: max(most, len(needed))]


def _quickest(row: PlanRow) -> tuple[object, ...]:
    return row.ratio, *_canonical(row)


def tied(slower: PlanRow, faster: PlanRow, noise: float = NOISE) -> bool:
    """Whether no winner can be told: ratios closer than the noise, or intervals that overlap."""
    if slower.ratio <= faster.ratio * (1 + noise):
        return True
    overlap = slower.ratio_low <= faster.ratio_high
    return overlap and slower.ratio <= faster.ratio * (1 + WIDEST)


def _canonical(row: PlanRow) -> tuple[object, ...]:
    choices = row.plan.choices
    return (
        row.needed_bytes,
        round(row.ratio, 2),
        len(choices),
        tuple(-chosen_size(choice) for choice in choices),
        tuple((r.nodes, r.dims, r.recomputed) for choice in choices for r in choice.regions),
        row.ratio,
    )


MOST = 6
"""Plans kept of a frontier: more than anyone chooses among."""


def thinned(
    rows: Sequence[PlanRow], needed: Sequence[PlanRow] = (), most: int = MOST
) -> tuple[PlanRow, ...]:
    """At most ``most`` rows of a frontier, ascending by peak, that say most of it.

    The needed rows stay, and the lowest peak and the fastest; then, one by one, the row that leaves
    the least of the frontier's area uncovered, in logarithms of peak and time.
    """
    ordered = sorted(rows, key=_canonical)
    kept = list(dict.fromkeys([*needed, *ordered[:1], *ordered[-1:]]))
    left = [row for row in ordered if row not in kept]
    while left and len(kept) < most:
        best = max(left, key=lambda row: (_covered([*kept, row], ordered), _canonical(row)))
        kept.append(best)
        left.remove(best)
    return tuple(sorted(kept, key=_canonical))


def _covered(kept: Sequence[PlanRow], rows: Sequence[PlanRow]) -> float:
    """The area of peak and time, in logarithms, in which some kept row does better."""
    worst_peak = max(math.log(max(row.needed_bytes, 1)) for row in rows)
    ceiling = max(math.log(row.ratio) for row in rows)
    area = 0.0
    for row in sorted(kept, key=lambda row: (row.needed_bytes, row.ratio)):
        height = math.log(row.ratio)
        if height < ceiling:
            area += (worst_peak - math.log(max(row.needed_bytes, 1))) * (ceiling - height)
            ceiling = height
    return area
