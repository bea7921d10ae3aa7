"""Time region classes alone, and choose the cost model that predicts them best."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from cost_models.create import create
from cost_models.scoring import judge
from cost_models.times import graph_seconds, loop_seconds
from search_space.classes import RegionClass
from search_space.plan import Region
from tuner.campaign_result import timed_sizes
from tuner.limits import Allowance
from tuner.measure.protocol import Samples
from tuner.measure.timing import quick
from tuner.region_samples import WHOLE, region_samples, samples_row
from tuner.steps.state import Length, State
from tuner.steps.waves import waves

TIMING = "timing regions alone"


def time_regions(state: State) -> None:
    """Time each length's classes alone, those that save most first, until the time is spent: the
    configuration's, and half of what the campaign has left. What fails alone at one length is not
    tried at longer ones."""
    budget_s = state.config.cost_model.timings_s
    total = sum(len(one.analysis.space.classes) for one in state.lengths) if budget_s else 0
    state.progress.phase(TIMING, total)
    failed: set[Region] = set()
    for place, one in enumerate(state.lengths):
        if budget_s:
            allowance = state.clock.allowance(2 * (len(state.lengths) - place))
            _time_length(state, one, budget_s, allowance, failed)
        _fill_whole_ms(state, one)


def _time_length(
    state: State, one: Length, budget_s: float, allowance: Allowance, failed: set[Region]
) -> None:
    spent_ms = 0.0
    space = one.analysis.space
    # loops inside loops are predicted from what they are made of
    plain = [pair for pair in zip(space.classes, space.grids, strict=True) if not pair[0].inner]
    pairs = sorted(plain, key=lambda pair: -pair[0].saves_bytes * len(pair[0].loops))
    known = [pair for pair in pairs if pair[0].regions[0] not in failed]
    for wave in waves(known, state.measurer.size):
        if spent_ms > budget_s * 1e3 or allowance.exceeded():
            break
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


def _keep(state: State, one: Length, item: RegionClass, found: Mapping[str, Samples]) -> None:
    one.whole_ms[item.key] = max(quick(found[WHOLE].decisive_ms), 1e-4)
    name = f"{state.config.model.id} {state.target}".strip()
    made = region_samples(one.analysis.memory, item, found, state.ceilings, one.length, name)
    state.measurer.keep("samples", samples_row(made))
    state.samples.extend(made)


def _fill_whole_ms(state: State, one: Length) -> None:
    """Classes that were not timed: the roofline, scaled to the measured whole model."""
    scale = one.unchunked_ms / 1e3 / graph_seconds(one.analysis.sized, state.ceilings)
    plain = {item.regions: item.key for item in one.analysis.space.classes if not item.inner}
    for item in one.analysis.space.classes:
        loop = item.loops[0]
        estimate = max(loop_seconds(loop, loop.extent, state.ceilings) * scale * 1e3, 1e-4)
        # run whole, a region takes as long with loops inside as without
        known = one.whole_ms.get(plain.get(item.regions, item.key), estimate)
        one.whole_ms.setdefault(item.key, known)


def choose_model(state: State) -> None:
    """Fit the cost models and keep the one with the least regret on timings it has not seen, if it
    beats the roofline; else the roofline."""
    config = state.config
    verdict = judge(create(config.cost_model.kind, config.search.seed), state.samples)
    state.model, state.scores = verdict.model, verdict.scores
    state.records.scored(state.model.kind, state.scores)
    state.progress.note(verdict.text)
