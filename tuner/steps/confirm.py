"""Run plans for real, in rounds of proposing, confirming and correcting the cost model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from cost_models.plans import PlanCost
from cost_models.select import mib
from search_space.plan import Plan
from search_space.space import make_plan
from tuner.compile_options import CompileOptions
from tuner.frontier import best_within
from tuner.limits import Allowance
from tuner.measure.protocol import Status
from tuner.measure.timing import median, ratio
from tuner.measured import Confirmed
from tuner.progress import Best
from tuner.steps.finish import keep_best_so_far, note_contention
from tuner.steps.proposing import analytic_plans, most_promising, proposals
from tuner.steps.state import Length, State, plan_row
from tuner.steps.waves import waves


def tuning_title(one: Length) -> str:
    """The phase's name."""
    return f"length {one.length}: search and real runs"


def run_rounds(state: State, one: Length, allowance: Allowance) -> None:
    """Propose, confirm and correct until the rounds end, nothing new is proposed, or what the
    length may spend is spent. The best so far is in the database after each round."""
    assert state.model is not None
    search, confirm = state.config.search, state.config.confirm
    one.cost = PlanCost(
        one.analysis.memory, one.analysis.space.classes, state.model, state.ceilings,
        one.unchunked_ms, one.whole_ms,
    )  # fmt: skip
    runs = len(one.limits) * confirm.top_k
    steps = 1 + len(one.limits) + search.rounds * (2 + runs)
    state.progress.phase(tuning_title(one), steps)
    unchanged = make_plan(one.analysis.graph)
    for number in range(search.rounds):
        if reason := allowance.exceeded():
            state.progress.note(f"length {one.length}: no round {number + 1}: {reason}")
            break
        state.progress.running("predicting plans")
        found = proposals(state, one, number)
        state.records.searched(one.length, number, one.analysis.space, found)
        state.progress.step()
        # what apply() would take without a database is run too: tuned plans must beat it
        wanted = [] if number else [unchanged, *analytic_plans(one)]
        wanted += most_promising(one, found, confirm.top_k)
        fresh = [plan for plan in dict.fromkeys(wanted) if plan not in one.confirmed]
        _confirm(state, one, fresh, allowance)
        if not fresh:
            break
        one.cost = one.cost.corrected(_latencies(one))
        keep_best_so_far(state, one)
    _confirm_compiled(state, one, allowance)


def _confirm_compiled(state: State, one: Length, allowance: Allowance) -> None:
    """Run the best plan of each budget compiled too, then in part: where it is better compiled,
    with the loops of each class left as they are, else with bodies alone compiled. Nothing is
    predicted of compiled code: it is kept where it was measured to be better. Compiling counts as
    all else that takes time."""
    if state.config.compile is None:
        return
    ran: list[Plan] = []
    for variants in (compiled, compiled_in_part):
        if allowance.exceeded():
            break
        found = variants(one, state.config.confirm.top_k)
        wanted = (as_configured(plan, state.config.compile) for plan in found)
        fresh = [plan for plan in dict.fromkeys(wanted)
                 if plan.compiled and plan not in one.confirmed]  # fmt: skip
        if fresh:
            _confirm(state, one, fresh, allowance)
        ran += [plan for plan in fresh if plan in one.confirmed]
    spent = sum(one.confirmed[plan].compile_s for plan in ran)
    state.progress.note(f"length {one.length}: {len(ran)} plans compiled in {spent:.0f} s")


def as_configured(plan: Plan, options: CompileOptions) -> Plan:
    """A plan without what the configuration does not let compile."""
    choices = tuple(
        replace(choice, compiled=choice.compiled and options.bodies) for choice in plan.choices
    )
    return replace(plan, choices=choices, stretches=plan.stretches and options.stretches)


def _best_plans(one: Length) -> list[Plan]:
    """The best plan of each budget so far."""
    rows = [plan_row(done) for done in one.timed()]
    best = (best_within(rows, limit) for limit in one.limits.values())
    return [row.plan for row in best if row is not None]


def compiled(one: Length, most: int) -> list[Plan]:
    """The best plans compiled, and the model without loops where some budget allows for it."""
    plans = _best_plans(one)
    unchanged = make_plan(one.analysis.graph)
    peaks = [done.peak_bytes for done in one.timed() if done.plan == unchanged]
    limits = [limit for limit in one.limits.values() if limit is not None]
    if peaks and limits and max(limits) >= peaks[0]:
        plans.append(unchanged)
    return [plan.as_compiled() for plan in plans]


def compiled_in_part(one: Length, most: int) -> list[Plan]:
    """Of compiled plans that are best: the loops of one class left as they are, for that many
    classes that take most of the time. Of others: the bodies of their loops alone compiled."""
    times = {
        item.regions: len(item.loops) * one.whole_ms.get(item.key, 0.0)
        for item in one.analysis.space.classes
    }
    found: list[Plan] = []
    for plan in _best_plans(one):
        longest = sorted(plan.choices, key=lambda choice: -times.get(choice.regions, 0.0))
        if not plan.compiled:
            found += [replace(plan.as_compiled(), stretches=False)] if plan.choices else []
        elif len(longest) > 1:
            found += [plan.compiled_but(choice.regions) for choice in longest[:most]]
    return found


def _confirm(state: State, one: Length, plans: Sequence[Plan], allowance: Allowance) -> None:
    """Run each plan once for its peak and outputs, then time all that passed in turns."""
    assert one.cost is not None
    measurer = state.measurer
    base = median(one.baseline.eager.decisive_ms)
    checked: list[Confirmed] = []
    done = 0
    for wave in waves(plans, measurer.size):
        if checked and allowance.exceeded():
            break  # what passed so far is still timed
        done += len(wave)
        state.progress.running(f"plan {done} of {len(plans)}: memory and outputs")
        for plan in wave:
            prediction = one.cost.predict(plan)
            state.records.predicted(one.length, one.analysis.space, plan, prediction, base)
        runs = [partial(_check, state, one, plan) for plan in wave]
        for run in measurer.map(runs):
            one.confirmed[run.plan] = run
            if run.status == "ok":
                checked.append(run)
            else:
                _note_failure(state, one, run)
            state.progress.measured(run.status)
            state.progress.step()
    if checked:
        state.progress.running(f"timing {len(checked)} plans in turns")
        timed = measurer.together(one.length, checked, one.reference)
        one.confirmed.update({run.plan: run for run in timed})
        note_contention(state, one, timed)
    state.progress.step()
    _tell_best(state, one)


def _tell_best(state: State, one: Length) -> None:
    """The best plan so far for each budget."""
    rows = [plan_row(done) for done in one.timed()]
    place = f"{state.target}, length {one.length}".removeprefix(", ")
    eager = one.baseline.peak_bytes or one.described.eager_peak_bytes
    for budget, limit in one.limits.items():
        row = best_within(rows, limit)
        if row is not None:
            state.progress.best(Best(place, str(budget), row.peak_bytes, eager, row.ratio))


def _check(state: State, one: Length, plan: Plan) -> Confirmed:
    """A plan's first run; none where it cannot but run out of memory."""
    predicted, free = one.analysis.memory.profile(plan.choices).peak_bytes, one.described.free_bytes
    reason = state.exhausted.implied(one.length, plan)
    if predicted > free:
        reason = f"needs {mib(predicted)}, {mib(free)} are free"
    if reason:
        return state.measurer.not_run(one.length, plan, Status.OOM_PREDICTED.value, reason)
    return state.measurer.check(one.length, plan, one.reference)


def _note_failure(state: State, one: Length, done: Confirmed) -> None:
    if done.status == Status.OOM:
        state.exhausted.add(one.length, done.plan)
    state.progress.note(
        f"length {one.length}: a plan was not confirmed: {done.status}: {done.reason}"
    )


def _latencies(one: Length) -> list[tuple[Plan, float]]:
    """Confirmed plans with their latency, carried over by the reference run beside each."""
    base = median(one.baseline.eager.decisive_ms)
    return [
        (done.plan, base * ratio(done.samples.decisive_ms, done.reference.decisive_ms).median)
        for done in one.timed()
    ]
