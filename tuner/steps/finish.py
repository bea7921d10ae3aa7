"""Time a length's finalists together, keep the frontier, and write it to the database."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tuner.campaign_result import BudgetResult, LengthResult
from tuner.database import GraphEntry, LengthEntry, PlanRow, Reference, write_graph
from tuner.frontier import best_within, finalists, frontier, thinned
from tuner.limits import Allowance
from tuner.measure.protocol import CONTENDED, Status
from tuner.measure.timing import median
from tuner.measured import Confirmed
from tuner.steps.state import Length, State, plan_row
from tuner.stopping import shielded

FINALISTS = 8
"""Plans of a length that are timed in turns at the end, so that they can be compared; beside them
one for each budget."""

_FAILED = (Status.OOM, Status.CRASH, Status.WRONG_OUTPUT)
"""How a finalist's last timing ends where that is its own failure, for which it is dropped. Of one
that was cut off or took too long what was timed before stays."""


def finish(state: State, one: Length, allowance: Allowance) -> LengthResult:
    """Time the finalists in turns, until they are known well, and keep the frontier. Where what
    the length may spend is spent, what an earlier session knows of them counts all the same."""
    good = one.timed()
    rows = [plan_row(done) for done in good]
    limits = tuple(one.limits.values())
    last = {row.plan for row in finalists(rows, limits, FINALISTS + len(limits))}
    chosen = [done for done in good if done.plan in last]
    reason = allowance.exceeded()
    if chosen and reason and not state.measurer.are_known_well(one.length, chosen, one.reference):
        state.progress.note(f"length {one.length}: finalists were not timed again: {reason}")
    elif chosen:
        state.progress.running(f"timing {len(chosen)} finalists in turns")
        again = state.measurer.together(one.length, chosen, one.reference, final=True)
        kept = [late if late.status == "ok" else early
                for early, late in zip(chosen, again, strict=True)
                if late.status not in _FAILED]  # fmt: skip
        rows = [plan_row(done) for done in kept] or rows
        note_contention(state, one, again)
    return _result(state, one, rows)


def keep_best_so_far(state: State, one: Length) -> None:
    """Put the best so far into the plan database, marked: whatever ends the campaign, it is
    there."""
    result = _result(state, one, [plan_row(done) for done in one.timed()])
    if result.frontier:
        write(state, one, result, incomplete=True)


def note_contention(state: State, one: Length, timed: Sequence[Confirmed]) -> None:
    """Say so where others had the device while plans were timed."""
    worst = max(done.contended for done in timed)
    if worst >= CONTENDED:
        state.progress.note(
            f"length {one.length}: contended: others had the device for {worst:.0%} of the time "
            "of measuring; the intervals are wider for it"
        )


def _result(state: State, one: Length, rows: list[PlanRow]) -> LengthResult:
    kept = frontier(rows)
    budgets = tuple(
        BudgetResult(budget, limit, best_within(rows, limit))
        for budget, limit in one.limits.items()
    )
    # a budget's own plan stays, even where a lower peak is as fast within the noise
    extra = [b.row for b in budgets if b.row is not None and b.row not in kept]
    needed = [b.row for b in budgets if b.row is not None]
    eager = Reference(
        one.baseline.peak_bytes or one.described.eager_peak_bytes,
        0.0 if one.reference is not None else median(one.baseline.eager.decisive_ms),
    )
    return LengthResult(
        one.length,
        eager,
        "eager" if one.reference is None else "lowest plan",
        budgets,
        thinned([*kept, *extra], needed),
        tuple(one.confirmed.values()),
        _memory_error(one),
        state.target,
    )


def write(state: State, one: Length, result: LengthResult, *, incomplete: bool = False) -> Path:
    """Put a length's frontier into the plan database; the file."""
    described, config = one.described, state.config
    entry = GraphEntry(
        described.graph.fingerprint,
        state.environment,
        described.bindings,
        config.budgets[0] if config.budgets else None,
        (LengthEntry(
            result.length, described.shapes, result.eager, result.frontier, incomplete
        ),),
    )  # fmt: skip
    with shielded():
        return write_graph(config.plans, state.environment["device_name"], config.model.id, entry)


def _memory_error(one: Length) -> float:
    """The largest relative error of predicted peaks, against what was requested."""
    errors = [
        abs(done.predicted_bytes / done.requested_bytes - 1)
        for done in one.confirmed.values()
        if done.status == "ok" and done.requested_bytes and not done.plan.compiled
    ]
    return max(errors, default=math.nan)
