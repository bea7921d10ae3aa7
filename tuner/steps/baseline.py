"""Run the eager model at every length: what all else is set against."""

from __future__ import annotations

from cost_models.select import mib
from search_space.errors import MeasurementError
from tuner.measure.protocol import Status
from tuner.measure.timing import median
from tuner.measurer import Baseline
from tuner.steps.analyse import resolve_limits
from tuner.steps.state import Length, State


def run_baselines(state: State) -> None:
    """Fill in each length's baseline.

    Raises:
        MeasurementError: the model does not run at some length, chunked or not.
    """
    state.progress.phase("baselines", len(state.lengths))
    for one in state.lengths:
        _run(state, one)


def _run(state: State, one: Length) -> None:
    length = one.length
    state.progress.running(f"the unchunked model at length {length}")
    one.baseline = state.measurer.baseline(length, one.analysis.graph.fingerprint)
    if one.baseline.status == "ok":
        state.progress.step(
            f"length {length}: eager {mib(one.baseline.peak_bytes)}, "
            f"{median(one.baseline.eager.decisive_ms):.1f} ms"
        )
        resolve_limits(state, one)
        return
    if one.baseline.status not in (Status.OOM, Status.TIMEOUT):
        raise MeasurementError(
            f"the unchunked model does not run at length {length}: {one.baseline.status}: "
            f"{one.baseline.reason}"
        )
    _stand_in(state, one)
    state.progress.step(
        f"length {length}: unchunked {one.baseline.status}; measured against the lowest plan"
    )


def _stand_in(state: State, one: Length) -> None:
    """Too large unchunked: the plan of the lowest peak stands in for it."""
    lowest = one.analysis.selector.lowest().plan
    run = state.measurer.check(one.length, lowest, lowest)
    if run.status == "ok":
        run = state.measurer.together(one.length, [run], lowest)[0]
    if run.status != "ok":
        raise MeasurementError(
            f"length {one.length} does not fit: unchunked {one.baseline.status}, and the plan of "
            f"the lowest peak: {run.status}: {run.reason}. Leave this length out"
        )
    one.reference = lowest
    one.baseline = Baseline(one.baseline.status, one.baseline.reason, 0, run.samples, run.samples)
