"""Time region classes alone, and choose the cost model that predicts them best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from cost_models.base import Sample
from cost_models.compiled_passes import compiled_model
from cost_models.create import create
from cost_models.features import loop_features
from cost_models.scoring import judge
from cost_models.stored import joined
from cost_models.times import graph_parts
from cost_models.whole_times import Calibration, Unchunked, calibrate
from search_space.classes import RegionClass
from search_space.plan import Region
from tuner.campaign_result import timed_sizes
from tuner.limits import Allowance
from tuner.measure.protocol import WHOLE, Samples
from tuner.measure.timing import quick
from tuner.model_files import MODEL_FILE, write_campaign
from tuner.region_samples import region_samples, samples_row
from tuner.steps.state import Length, State
from tuner.steps.waves import waves

TIMING = "timing regions alone"

SURE = 0.04
"""A spread of a log ratio that a few timings do not better."""


def time_regions(state: State) -> None:
    """Time each length's classes alone, those that save most first, until the time is spent: the
    configuration's, and half of what the campaign has left. What is known from an earlier session
    counts all the same. What fails alone at one length is not tried at longer ones."""
    budget_s = state.config.cost_model.timings_s
    total = sum(len(one.analysis.space.classes) for one in state.lengths) if budget_s else 0
    state.progress.phase(TIMING, total)
    failed: set[Region] = set()
    for place, one in enumerate(state.lengths):
        if budget_s:
            allowance = state.clock.allowance(2 * (len(state.lengths) - place))
            _time_length(state, one, budget_s, allowance, failed)
    parts = [graph_parts(one.analysis.sized, state.ceilings) for one in state.lengths]
    measured = [one.unchunked_ms / 1e3 for one in state.lengths]
    calibration = calibrate(tuple(zip(parts, measured, strict=True)))
    for one, own, seconds in zip(state.lengths, parts, measured, strict=True):
        _fill_whole_ms(state, one, calibration.through(own, seconds))


def _time_length(
    state: State, one: Length, budget_s: float, allowance: Allowance, failed: set[Region]
) -> None:
    spent_ms = 0.0
    space = one.analysis.space
    # loops inside loops are predicted from what they are made of
    plain = [pair for pair in zip(space.classes, space.grids, strict=True) if not pair[0].inner]
    pairs = sorted(plain, key=lambda pair: -pair[0].saves_bytes * len(pair[0].loops))
    wanted = [
        (item, grid)
        for item, grid in pairs
        if item.regions[0] not in failed and not _is_sure(state, one, item, timed_sizes(grid))
    ]
    for wave in waves(wanted, state.measurer.size):
        if spent_ms > budget_s * 1e3:
            break
        if allowance.exceeded():
            wave = [pair for pair in wave if _is_known(state, one, *pair)]
        runs = [
            partial(state.measurer.region, one.length, item, timed_sizes(grid),
                    budget_s / len(pairs))
            for item, grid in wave
        ]  # fmt: skip
        for (item, _), found in zip(wave, state.measurer.map(runs), strict=True):
            if found is None:
                failed.add(item.regions[0])
                state.progress.step(f"class {item.key} could not be timed alone")
                continue
            spent_ms += sum(sum(samples.wall_ms) for samples in found.values())
            _keep(state, one, item, found)
            state.progress.step()


def _is_known(state: State, one: Length, item: RegionClass, grid: Sequence[int]) -> bool:
    return state.measurer.is_region_known(one.length, item, timed_sizes(grid))


def _is_sure(state: State, one: Length, item: RegionClass, sizes: Sequence[int]) -> bool:
    """Whether the model to start from knows a class as well as timing it would tell."""
    if state.start is None:
        return False
    features = [
        loop_features(one.analysis.memory, item.loops[0], size, state.ceilings) for size in sizes
    ]
    return all(found.spread <= SURE for found in state.start.model.estimate(features))


def _keep(state: State, one: Length, item: RegionClass, found: Mapping[str, Samples]) -> None:
    one.whole_ms[item.key] = max(quick(found[WHOLE].decisive_ms), 1e-4)
    name = f"{state.config.model.id} {state.target}".strip()
    made = region_samples(one.analysis.memory, item, found, state.ceilings, one.length, name)
    state.measurer.keep("samples", samples_row(made))
    state.samples.extend(made)


def _all_samples(state: State) -> list[Sample]:
    """The campaign's own, and those that it started from."""
    return joined(state.samples, state.start.samples if state.start else ())


def _fill_whole_ms(state: State, one: Length, calibration: Calibration) -> None:
    """Classes that were not timed: their part of the measured whole model, by the roofline."""
    plain = {item.regions: item.key for item in one.analysis.space.classes if not item.inner}
    for item in one.analysis.space.classes:
        # run whole, a region takes as long with loops inside as without
        timed = one.whole_ms.get(plain.get(item.regions, item.key))
        if timed is None:
            loop = item.loops[0]
            found = loop_features(one.analysis.memory, loop, loop.extent, state.ceilings)
            # no part takes longer than the whole
            most_ms = one.unchunked_ms / len(item.loops)
            timed = min(max(1e3 * calibration.seconds(found.whole_parts), 1e-4), most_ms)
        one.whole_ms.setdefault(item.key, timed)


def choose_model(state: State) -> None:
    """Fit the cost models and keep the one with the least regret on timings it has not seen, if it
    beats the roofline; else the roofline. What was learned is written beside the ledger."""
    config = state.config
    samples = _all_samples(state)
    verdict = judge(create(config.cost_model.kind, config.search.seed), samples)
    state.model, state.scores = verdict.model, verdict.scores
    if config.compile is not None:
        state.compiled_model = compiled_model(verdict.model, samples)
    state.records.scored(state.model.kind, state.scores)
    state.progress.note(verdict.text)
    name = f"{config.model.id} {state.target}".strip()
    baselines = [
        Unchunked(
            name, one.length, graph_parts(one.analysis.sized, state.ceilings), one.unchunked_ms
        )
        for one in state.lengths
        if one.reference is None
    ]
    for base in baselines:
        state.measurer.keep("unchunked", base.plain())
    write_campaign(
        config.output / MODEL_FILE, verdict, samples, baselines,
        state.environment["device_name"], state.ceilings,
    )  # fmt: skip
