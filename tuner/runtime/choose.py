"""Which plan serves a call: exact length, next larger, analytic, or the model unchanged.

Every plan from the database is checked by the memory model at the call's own length before it is
used, so that a budget met at one length is never assumed at another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cost_models.select import mib
from search_space.budget import Budget
from search_space.eager_peak import eager_peak_bytes
from search_space.errors import AutoChunkError, BudgetError, CaptureError
from search_space.plan import Plan
from search_space.space import make_plan
from tuner.entries import GraphEntry, PlanRow, Shapes
from tuner.frontier import SLOWEST, tied
from tuner.runtime.analysis import Analysis
from tuner.runtime.lookup import Plans

log = logging.getLogger("autochunk")

ANALYTIC = "analytic"
"""What the source of a plan that was searched for without data begins with."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A plan for one length, where it came from, and its peak.

    ``peak_bytes`` is the memory model's, raised by as much as a tuned plan's measured peak exceeded
    what the model had predicted for it. ``limit_bytes`` is what a call may take: the budget, or
    where the lowest peak is asked for, that peak; None without one. ``extra_s`` is what an analytic
    plan is predicted to take on top of the unchanged model.
    """

    plan: Plan
    source: str
    peak_bytes: int
    limit_bytes: int | None = None
    extra_s: float = 0.0


def choose_for(
    plans: Plans,
    analysis: Analysis,
    shapes: Shapes,
    budget: Budget | None,
    eager_peak: Callable[[], int],
    who: str = "this model",
) -> Chosen:
    """The plan for a call by a database, under the user's budget or else the database's own.

    Args:
        eager_peak: tells the eager model's peak, where the database does not know it.
        who: whose call it is, for messages.

    Raises:
        BudgetError: nothing fits the budget; names the lowest that can be met.
    """
    entry = plans.entry(analysis.graph.fingerprint, who)
    if budget is None and entry is not None:
        budget = entry.budget
    eager: int | None = None
    if budget is not None and budget.is_fraction:
        eager = entry.eager_peak(shapes) if entry is not None else None
        if eager is None:
            eager = eager_peak()
    return choose(analysis, entry, shapes, budget, eager)


def choose(
    analysis: Analysis,
    entry: GraphEntry | None,
    shapes: Shapes,
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
                return Chosen(found[0].plan, source, found[1], found[1] if minimum else limit)
        log.info(
            "autochunk: no tuned plan of %s fits shapes %s%s; choosing analytically",
            entry.fingerprint, shapes, "" if limit is None else f" within {mib(limit)}",
        )  # fmt: skip
    if minimum:
        lowest = analysis.selector.lowest(analysis.unchunked_s)
        peak = lowest.peak_bytes
        return Chosen(lowest.plan, f"{ANALYTIC}, lowest peak", peak, peak)
    # nothing is chunked for speed alone, so that a model which fits as it is needs no search
    unchanged = make_plan(analysis.graph)
    peak = analysis.memory.profile().peak_bytes
    if limit is None:
        return Chosen(unchanged, "unchanged: no budget, nothing tuned", peak)
    if peak <= limit:
        return Chosen(unchanged, ANALYTIC, peak, limit)
    chosen = analysis.selector.within(limit)
    return Chosen(chosen.plan, ANALYTIC, chosen.peak_bytes, limit, chosen.extra_s)


def at_hand(analysis: Analysis, limit_bytes: int) -> Chosen | None:
    """The analytic plan within a limit, where it is found without seeking how low one can go."""
    peak = analysis.memory.profile().peak_bytes
    if peak <= limit_bytes:
        return Chosen(make_plan(analysis.graph), ANALYTIC, peak, limit_bytes)
    found = analysis.selector.at_hand(limit_bytes)
    if found is None:
        return None
    return Chosen(found.plan, ANALYTIC, found.peak_bytes, limit_bytes, found.extra_s)


def leaving_room(analysis: Analysis, chosen: Chosen, over_bytes: int) -> Chosen | None:
    """A lower analytic plan in place of one whose compiled code took so much more than the limit;
    None where there is none, or the plan was tuned or the lowest already."""
    if chosen.source != ANALYTIC or over_bytes >= chosen.peak_bytes:
        return None
    found = analysis.selector.at_hand(chosen.peak_bytes - over_bytes)
    if found is None:
        return None
    return Chosen(
        found.plan, f"{ANALYTIC}, with room for compiled code", found.peak_bytes,
        chosen.limit_bytes,
    )  # fmt: skip


_ROOM = 1.15
"""A compiled plan that leaves this much of its limit over has room for a faster one."""


def using_room(analysis: Analysis, chosen: Chosen, compiled_bytes: int) -> Chosen | None:
    """A faster analytic plan in place of one whose compiled code took much less than the limit:
    within as much more, uncompiled, as this one's shrank by. Its own compiled code must be seen to
    keep the limit. None where there is no such plan, or the plan was tuned, or asked to be the
    lowest."""
    limit = chosen.limit_bytes
    if chosen.source != ANALYTIC or limit is None or compiled_bytes * _ROOM > limit:
        return None
    allowed = limit * chosen.peak_bytes // compiled_bytes
    unchanged = analysis.memory.profile().peak_bytes
    if not chosen.plan.choices or allowed <= limit:
        return None
    source = f"{ANALYTIC}, in the room that compiled code leaves"
    if unchanged <= allowed:
        return Chosen(make_plan(analysis.graph), source, unchanged, limit)
    found = analysis.selector.within(allowed)
    if found.plan == chosen.plan or found.extra_s > chosen.extra_s:
        return None
    return Chosen(found.plan, source, found.peak_bytes, limit, found.extra_s)


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


def rungs(analysis: Analysis, entry: GraphEntry | None, shapes: Shapes) -> tuple[Chosen, ...]:
    """Plans for a call from the fastest down, each of a lower peak than the one before: a tuned
    frontier, or the model unchanged where none was tuned. No search is made."""
    for source, rows in entry.candidates(shapes) if entry is not None else ():
        found: list[Chosen] = []
        # (which run uncompiled here: how fast a plan is compiled says little of that)
        plain = [row for row in rows if not row.plan.compiled] or rows
        for row, peak in sorted(
            _legal_rows(analysis, plain), key=lambda pair: (pair[0].latency_ms, pair[1])
        ):
            if not found or peak < found[-1].peak_bytes:
                found.append(Chosen(row.plan, source, peak))
        if found:
            return tuple(found)
    peak = analysis.memory.profile().peak_bytes
    return (Chosen(Plan(analysis.graph.fingerprint), "unchanged", peak),)


_SHARES = (0.5, 0.25)


def lower_rungs(analysis: Analysis, below_bytes: int) -> tuple[Chosen, ...]:
    """Analytic plans of lower and lower peaks, all below what is given. This searches."""
    selector = analysis.selector
    found: list[Chosen] = []

    def keep(plan: Plan, source: str, peak: int) -> None:
        if peak < (found[-1].peak_bytes if found else below_bytes):
            found.append(Chosen(plan, source, peak))

    for share in _SHARES:
        limit = int(selector.unchunked_bytes * share)
        if limit < below_bytes:
            try:
                one = selector.within(limit)
            except BudgetError:
                break
            keep(one.plan, f"analytic, {share:g} of the unchunked peak", one.peak_bytes)
    quick, least = selector.lowest(analysis.unchunked_s), selector.lowest()
    keep(quick.plan, "analytic, lowest peak", quick.peak_bytes)
    keep(least.plan, "analytic, lowest peak at any price", least.peak_bytes)
    return tuple(found)


def _best_row(
    analysis: Analysis, rows: Sequence[PlanRow], limit: int | None, minimum: bool
) -> tuple[PlanRow, int] | None:
    """The fastest row within the limit at this length (or the lowest)."""
    legal = _legal_rows(analysis, rows)
    fitting = [(row, peak) for row, peak in legal if limit is None or peak <= limit]
    if not fitting:
        return None
    if minimum:
        quick = [pair for pair in fitting if pair[0].ratio <= SLOWEST] or fitting
        return min(quick, key=lambda pair: (pair[1], pair[0].latency_ms))
    # (ratios are of runs in turns with the reference; latencies alone drift between rounds)
    best, _ = min(fitting, key=lambda pair: (pair[0].ratio, pair[1]))
    alike = [pair for pair in fitting if tied(pair[0], best)]
    return min(alike, key=lambda pair: (pair[1], pair[0].ratio))


def _legal_rows(analysis: Analysis, rows: Sequence[PlanRow]) -> list[tuple[PlanRow, int]]:
    """The rows that can run at this length, with their peaks there."""
    found = []
    for row in rows:
        try:
            predicted = analysis.memory.profile(row.plan.choices).peak_bytes
        except AutoChunkError as error:
            log.info("autochunk: a tuned plan is not legal at this length: %s", error)
            continue
        found.append((row, row.peak_where(predicted)))
    return found
