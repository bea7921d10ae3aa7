"""Run plans for real, in rounds of proposing, confirming and correcting the cost model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from cost_models.plans import PlanCost
from cost_models.select import mib
from search_space.plan import Plan
from search_space.space import make_plan
from tuner.frontier import best_within
from tuner.limits import Allowance
from tuner.measure.protocol import Status
from tuner.measure.timing import median, ratio
from tuner.measured import Confirmed
from tuner.progress import Best
from tuner.steps.compiled_plans import as_configured, best_compiled, compiled_proposals
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
        one.unchunked_ms, one.whole_ms, compiled_model=state.compiled_model,
    )  # fmt: skip
    runs = len(one.limits) * confirm.top_k
    steps = 1 + len(one.limits) + search.rounds * (2 + runs)
    state.progress.phase(tuning_title(one), steps)
    unchanged = make_plan(one.analysis.graph)
    for number in range(search.rounds):
        reason = allowance.exceeded()
        if reason and not state.measurer.recovered:
            state.progress.note(f"length {one.length}: no round {number + 1}: {reason}")
            break
        state.progress.running("predicting plans")
        found = proposals(state, one, number)
        one.proposed.update((proposal.plan, None) for proposal in found)
        state.records.searched(one.length, number, one.analysis.space, found)
        state.progress.step()
        # what apply() would take without a database is run too: tuned plans must beat it
        wanted = [] if number else [unchanged, *analytic_plans(one)]
        wanted += most_promising(one, found, confirm.top_k)
        fresh = [plan for plan in dict.fromkeys(wanted) if plan not in one.confirmed]
        if reason:  # what an earlier session ran counts all the same
            fresh = [plan for plan in fresh if _takes_nothing(state, one, plan)]
        _confirm(state, one, fresh, allowance)
        if not fresh:
            break
        one.cost = one.cost.corrected(_latencies(one))
        keep_best_so_far(state, one)
    _confirm_compiled(state, one, allowance)


def _confirm_compiled(state: State, one: Length, allowance: Allowance) -> None:
    """Run the best plan of each budget compiled too, correct the cost model by what that took, and
    run the plans from which most is then expected: compiled or in part, of the same chunk sizes or
    of others. Compiling counts as all else that takes time."""
    options = state.config.compile
    if options is None:
        return
    ran: list[Plan] = []
    for first in (True, False):
        reason = allowance.exceeded()
        if reason and not state.measurer.recovered:
            break
        assert one.cost is not None
        if first:
            wanted = [as_configured(plan, options) for plan in best_compiled(one)]
        else:
            found = compiled_proposals(one, options)
            wanted = most_promising(one, found, state.config.confirm.top_k)
        fresh = [plan for plan in dict.fromkeys(wanted)
                 if plan.compiled and plan not in one.confirmed]  # fmt: skip
        if reason:
            fresh = [plan for plan in fresh if _takes_nothing(state, one, plan)]
        if fresh:
            _confirm(state, one, fresh, allowance)
            one.cost = one.cost.corrected(_latencies(one))
        ran += [plan for plan in fresh if plan in one.confirmed]
    spent = sum(one.confirmed[plan].compile_s for plan in ran)
    state.progress.note(f"length {one.length}: {len(ran)} plans compiled in {spent:.0f} s")


def _confirm(state: State, one: Length, plans: Sequence[Plan], allowance: Allowance) -> None:
    """Run each plan once for its peak and outputs, then time all that passed in turns."""
    assert one.cost is not None
    measurer = state.measurer
    base = median(one.baseline.eager.decisive_ms)
    checked: list[Confirmed] = []
    done = 0
    for wave in waves(plans, measurer.size):
        if allowance.exceeded():  # what passed so far is still timed
            wave = [plan for plan in wave if _takes_nothing(state, one, plan)]
            if not wave:
                continue
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
    if reason := _refusal(state, one, plan):
        return state.measurer.not_run(one.length, plan, Status.OOM_PREDICTED.value, reason)
    return state.measurer.check(one.length, plan, one.reference)


def _refusal(state: State, one: Length, plan: Plan) -> str:
    """Why a plan is not run, if it cannot but run out of memory; else an empty text."""
    if _is_known(state, one, plan):  # (when more was free, maybe)
        return ""
    predicted, free = one.analysis.memory.profile(plan.choices).peak_bytes, one.described.free_bytes
    if predicted > free:
        return f"needs {mib(predicted)}, {mib(free)} are free"
    return state.exhausted.implied(one.length, plan)


def _takes_nothing(state: State, one: Length, plan: Plan) -> bool:
    """Whether :func:`_check` answers without a run."""
    return _is_known(state, one, plan) or bool(_refusal(state, one, plan))


def _is_known(state: State, one: Length, plan: Plan) -> bool:
    return state.measurer.is_known(one.length, plan, one.reference)


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
