"""Run plans for real, in rounds of proposing, confirming and correcting the cost model."""

from __future__ import annotations

from collections.abc import Sequence

from cost_models.plans import PlanCost
from cost_models.select import mib
from search_space.plan import Plan
from tuner.frontier import best_within
from tuner.measure.protocol import Status
from tuner.measure.timing import median, ratio
from tuner.progress import Best
from tuner.steps.proposing import analytic_plans, most_promising, proposals
from tuner.steps.state import Length, State, plan_row


def tuning_title(one: Length) -> str:
    """The phase's name."""
    return f"length {one.length}: search and real runs"


def run_rounds(state: State, one: Length) -> None:
    """Propose, confirm and correct until the rounds end or nothing new is proposed."""
    assert state.model is not None
    search, confirm = state.config.search, state.config.confirm
    one.cost = PlanCost(
        one.analysis.memory, one.analysis.space.classes, state.model, state.ceilings,
        one.unchunked_ms, one.whole_ms,
    )  # fmt: skip
    runs = len(one.limits) * confirm.top_k
    steps = 1 + len(one.limits) + search.rounds * (2 + runs)
    state.progress.phase(tuning_title(one), steps)
    unchanged = Plan(one.analysis.graph.fingerprint)
    for number in range(search.rounds):
        state.progress.running("predicting plans")
        found = proposals(state, one, number)
        state.records.searched(one.length, number, one.analysis.space, found)
        state.progress.step()
        # what apply() would take without a database is run too: tuned plans must beat it
        wanted = [] if number else [unchanged, *analytic_plans(one)]
        wanted += most_promising(one, found, confirm.top_k)
        fresh = [plan for plan in dict.fromkeys(wanted) if plan not in one.confirmed]
        _confirm(state, one, fresh)
        if not fresh:
            break
        one.cost = one.cost.corrected(_latencies(one))


def _confirm(state: State, one: Length, plans: Sequence[Plan]) -> None:
    """Run each plan once for its peak and outputs, then time all that passed in turns."""
    length, free = one.length, one.described.free_bytes
    assert one.cost is not None
    base = median(one.baseline.eager.decisive_ms)
    checked = []
    for place, plan in enumerate(plans, 1):
        state.progress.running(f"plan {place} of {len(plans)}: memory and outputs")
        state.records.predicted(length, one.analysis.space, plan, one.cost.predict(plan), base)
        predicted = one.analysis.memory.profile(plan.choices).peak_bytes
        if predicted > free:
            reason = f"needs {mib(predicted)}, {mib(free)} are free"
            done = state.measurer.not_run(length, plan, Status.OOM_PREDICTED.value, reason)
        else:
            done = state.measurer.check(length, plan, one.reference)
        one.confirmed[plan] = done
        if done.status == "ok":
            checked.append(done)
        else:
            state.progress.note(
                f"length {length}: a plan was not confirmed: {done.status}: {done.reason}"
            )
        state.progress.measured(done.status)
        state.progress.step()
    state.progress.running(f"timing {len(checked)} plans in turns")
    for done in state.measurer.together(length, checked, one.reference) if checked else ():
        one.confirmed[done.plan] = done
    state.progress.step()
    _tell_best(state, one)


def _tell_best(state: State, one: Length) -> None:
    """The best plan so far for each budget."""
    rows = [plan_row(done) for done in one.confirmed.values() if done.status == "ok"]
    place = f"{state.target}, length {one.length}".removeprefix(", ")
    eager = one.baseline.peak_bytes or one.described.eager_peak_bytes
    for budget, limit in one.limits.items():
        row = best_within(rows, limit)
        if row is not None:
            state.progress.best(Best(place, str(budget), row.peak_bytes, eager, row.ratio))


def _latencies(one: Length) -> list[tuple[Plan, float]]:
    """Confirmed plans with their latency, carried over by the reference run beside each."""
    base = median(one.baseline.eager.decisive_ms)
    return [
        (done.plan, base * ratio(done.samples.decisive_ms, done.reference.decisive_ms).median)
        for done in one.confirmed.values()
        if done.status == "ok"
    ]
