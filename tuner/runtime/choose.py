"""Which plan serves a call: exact length, next larger, analytic, or the model unchanged.

Every plan from the database is checked by the memory model at the call's own length before it is
used, so that a budget met at one length is never assumed at another.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cost_models.select import mib
from search_space.budget import Budget
from search_space.eager_peak import eager_peak_bytes
from search_space.errors import AutoChunkError, CaptureError
from search_space.plan import Plan
from tuner.database import GraphEntry, PlanRow
from tuner.frontier import SLOWEST
from tuner.runtime.analysis import Analysis

log = logging.getLogger("autochunk")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A plan for one length, where it came from, and its predicted peak."""

    plan: Plan
    source: str
    peak_bytes: int


def choose(
    analysis: Analysis,
    entry: GraphEntry | None,
    shapes: tuple[tuple[int, ...], ...],
    budget: Budget | None,
    eager_peak_bytes: int | None,
) -> Chosen:
    """The plan for a call.

    Args:
        entry: what the database holds for this graph, or None.
        shapes: of the call's tensors.
        budget: the user's; None for the campaign's first, and where there is none, no limit.
        eager_peak_bytes: needed where the budget is a fraction of it.

    Raises:
        BudgetError: nothing fits the budget; names the lowest that can be met.
    """
    if budget is None and entry is not None:
        budget = entry.budget
    limit = None if budget is None else budget.resolve(eager_peak_bytes or 0)
    minimum = budget is not None and limit is None
    if entry is not None:
        for source, rows in entry.candidates(shapes):
            found = _best_row(analysis, rows, limit, minimum)
            if found is not None:
                return Chosen(found[0].plan, source, found[1])
        log.info(
            "autochunk: no tuned plan of %s fits shapes %s%s; choosing analytically",
            entry.fingerprint, shapes, "" if limit is None else f" within {mib(limit)}",
        )  # fmt: skip
    if minimum:
        lowest = analysis.selector.lowest(analysis.unchunked_s)
        return Chosen(lowest.plan, "analytic, lowest peak", lowest.peak_bytes)
    if limit is None:
        peak = analysis.selector.unchunked_bytes
        return Chosen(Plan(analysis.graph.fingerprint), "unchanged: no budget, nothing tuned", peak)
    chosen = analysis.selector.within(limit)
    return Chosen(chosen.plan, "analytic", chosen.peak_bytes)


def eager_or_captured_peak(
    model: torch.nn.Module,
    analysis: Analysis,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> int:
    """What a fraction is taken of: the eager model's peak, or where it cannot be told without
    running the model, the captured graph's, with one log line."""
    try:
        return eager_peak_bytes(model, args, kwargs)
    except CaptureError as error:
        log.warning(
            "autochunk: %s; a fractional budget is taken of the captured graph's peak instead",
            error,
        )
        return analysis.memory.profile().peak_bytes


def _best_row(
    analysis: Analysis, rows: tuple[PlanRow, ...], limit: int | None, minimum: bool
) -> tuple[PlanRow, int] | None:
    """The fastest row within the limit by prediction at this length (or the lowest)."""
    fitting: list[tuple[PlanRow, int]] = []
    for row in rows:
        try:
            peak = analysis.memory.profile(row.plan.choices).peak_bytes
        except AutoChunkError as error:
            log.info("autochunk: a tuned plan is not legal at this length: %s", error)
            continue
        if limit is None or peak <= limit:
            fitting.append((row, peak))
    if not fitting:
        return None
    if minimum:
        quick = [pair for pair in fitting if pair[0].ratio <= SLOWEST] or fitting
        return min(quick, key=lambda pair: (pair[1], pair[0].latency_ms))
    return min(fitting, key=lambda pair: (pair[0].latency_ms, pair[1]))

