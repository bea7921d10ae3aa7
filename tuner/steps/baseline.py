"""Run the eager model at every length: what all else is set against."""

from __future__ import annotations

from functools import partial

from cost_models.select import mib
from search_space.errors import MeasurementError
from tuner.measure.protocol import Status
from tuner.measure.timing import median
from tuner.measured import Baseline
from tuner.steps.analyse import resolve_limits
from tuner.steps.state import Length, State
from tuner.steps.waves import waves

_TOO_LARGE = (Status.OOM, Status.OOM_PREDICTED, Status.TIMEOUT)


def run_baselines(state: State) -> None:
    """Fill in each length's baseline, from short to long.

    Raises:
        MeasurementError: the model does not run at some length, chunked or not.
    """
    state.progress.phase("baselines", len(state.lengths))
    measurer = state.measurer
    too_large: Length | None = None
    for wave in waves(state.lengths, measurer.size):
        lengths = ", ".join(str(one.length) for one in wave)
        state.progress.running(f"the unchunked model at length {lengths}")
        if too_large is None:
            runs = [partial(measurer.baseline, one.length) for one in wave]
        else:
            runs = [partial(_not_tried, state, one, too_large) for one in wave]
        for one, found in zip(wave, measurer.map(runs), strict=True):
            one.baseline = found
            _judge(state, one)
            if one.reference is not None:
                too_large = too_large or one


def _not_tried(state: State, one: Length, shorter: Length) -> Baseline:
    """A model that is too large at one length is so at longer ones."""
    before = shorter.baseline.status
    status = before if before == Status.TIMEOUT else Status.OOM_PREDICTED.value
    reason = f"not tried: {before} at length {shorter.length}"
    return state.measurer.no_baseline(one.length, status, reason)


def _judge(state: State, one: Length) -> None:
    length = one.length
    if one.baseline.status == "ok":
        state.progress.step(
            f"length {length}: eager {mib(one.baseline.peak_bytes)}, "
            f"{median(one.baseline.eager.decisive_ms):.1f} ms"
        )
        resolve_limits(state, one)
        return
    if one.baseline.status not in _TOO_LARGE:
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
