"""Which confirmed plans are worth keeping."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.database import PlanRow

NOISE = 0.02
"""Two ratios of CPU time closer than this are the same: repeated runs differ by as much."""


def frontier(rows: Sequence[PlanRow], noise: float = NOISE) -> tuple[PlanRow, ...]:
    """The rows that no other beats in both memory and time, ascending by peak.

    A row of a higher peak must be faster by more than the noise; ties go to the lower peak, then to
    the plan with fewer and larger chunks, so that equal measurements give one answer.
    """
    kept: list[PlanRow] = []
    for row in sorted(rows, key=_canonical):
        if not kept or row.ratio < kept[-1].ratio * (1 - noise):
            kept.append(row)
    return tuple(kept)


def best_within(rows: Sequence[PlanRow], budget_bytes: int | None) -> PlanRow | None:
    """The fastest row within a budget; the lowest peak where there is none. None if none fits."""
    if budget_bytes is None:
        return min(rows, key=_canonical, default=None)
    fitting = [row for row in rows if row.peak_bytes <= budget_bytes]
    return min(fitting, key=lambda row: (row.ratio, *_canonical(row)), default=None)


def _canonical(row: PlanRow) -> tuple[object, ...]:
    choices = row.plan.choices
    return (
        row.peak_bytes,
        round(row.ratio, 2),
        len(choices),
        tuple(-choice.chunk_size for choice in choices),
        tuple(choice.regions[0].nodes for choice in choices),
    )
