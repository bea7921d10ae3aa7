"""Capture and analyse every length, and see that every budget can be met."""

from __future__ import annotations

from cost_models.select import count_text, mib
from search_space.budget import Budget
from search_space.errors import BudgetError
from tuner.runtime.analysis import Analysis
from tuner.steps.state import Length, State


def analyse(state: State) -> None:
    """Fill in the lengths.

    Raises:
        BudgetError: a budget cannot be met at some length; all such budgets are named.
    """
    config = state.config
    state.progress.phase("capture and analysis", len(config.seq_lens))
    failures: list[BudgetError] = []
    # from short to long: what fails at one length need not be tried at longer ones
    for length in sorted(config.seq_lens):
        one = _analyse_length(state, length)
        failures += _unmet(one)
        state.lengths.append(one)
        space = one.analysis.space
        state.records.analysed(length, one.analysis, one.described.eager_peak_bytes)
        state.progress.step(
            f"length {length}: {len(one.described.graph.nodes)} nodes, {len(space.classes)} region "
            f"classes, {count_text(space.size)} settings; eager peak {mib(_eager_bytes(one))}"
        )
    if failures:
        lines = "\n  ".join(map(str, failures))
        raise BudgetError(
            f"these budgets cannot be met, so that nothing was measured:\n  {lines}",
            lowest_bytes=max(error.lowest_bytes for error in failures),
        )


def _analyse_length(state: State, length: int) -> Length:
    described = state.measurer.describe(length)
    analysis = Analysis(described.graph, described.bindings, state.ceilings, state.probe)
    one = Length(described, analysis, {})
    one.limits = {budget: budget.resolve(_eager_bytes(one)) for budget in state.config.budgets}
    return one


def _unmet(one: Length) -> list[BudgetError]:
    """One error for each budget that is out of reach."""
    found = []
    for budget, limit in one.limits.items():
        error = out_of_reach(one, limit)
        if error is not None:
            eager = _eager_bytes(one)
            share = f" ({error.lowest_bytes / eager:.3f} of eager's {mib(eager)})"
            text = f"budget {budget} at length {one.length}: {error}{share}"
            found.append(BudgetError(text, lowest_bytes=error.lowest_bytes))
    return found


def out_of_reach(one: Length, limit: int | None) -> BudgetError | None:
    """Why no plan meets a limit; None where some plan does."""
    try:
        if limit is not None:
            one.analysis.selector.within(limit)
    except BudgetError as error:
        return error
    return None


def resolve_limits(state: State, one: Length) -> None:
    """Fractions are of the measured peak from here on, as they will be at inference."""
    budget: Budget
    for budget in one.limits:
        limit = budget.resolve(one.baseline.peak_bytes)
        one.limits[budget] = limit
        error = out_of_reach(one, limit)
        if error is not None:
            state.progress.note(
                f"length {one.length}: of the measured peak, budget {budget} is too little: {error}"
            )


def _eager_bytes(one: Length) -> int:
    """The eager model's peak as told without running it, or else that of the capture."""
    return one.described.eager_peak_bytes or one.analysis.memory.profile().peak_bytes
