"""Time region classes alone, and choose the cost model that predicts them best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from cost_models.base import CostModel, Sample
from cost_models.create import create
from cost_models.features import loop_features
from cost_models.scoring import Score, choose
from cost_models.times import graph_seconds, loop_seconds
from search_space.classes import RegionClass
from search_space.plan import Region
from tuner.campaign_result import timed_sizes
from tuner.limits import Allowance
from tuner.measure.protocol import Samples
from tuner.measure.timing import median, ratio
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
    whole = found["whole"].decisive_ms
    one.whole_ms[item.key] = max(median(whole), 1e-4)
    for name, samples in found.items():
        if name == "whole":
            continue
        features = loop_features(one.analysis.memory, item.loops[0], int(name), state.ceilings)
        pair = max(ratio(samples.decisive_ms, whole).median, 1e-3)
        group = f"{item.key}@{one.length}"
        state.samples.append(Sample(features, math.log(pair), group, one.length))


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
    """Fit the cost models and keep the one with the least regret on timings it has not seen."""
    config = state.config
    candidates = create(config.cost_model.kind, config.search.seed)
    state.model, state.scores = choose(candidates, state.samples)
    state.records.scored(state.model.kind, state.scores)
    state.progress.note(_scores_text(state.model, state.scores))


def _scores_text(model: CostModel, scores: Mapping[str, Score]) -> str:
    if not scores:
        return f"cost model: {model.kind} (too few timings to compare models)"
    parts = [
        f"{kind}: error {score.error:.3f}, pairs {score.pairwise_accuracy:.2f}, "
        f"regret {score.regret:.3f}"
        for kind, score in scores.items()
    ]
    first = next(iter(scores.values()))
    return (
        f"cost model used: {model.kind}. On {first.samples} timings with held-out "
        f"{first.held_out} (error of log time, pairwise accuracy, top-1 regret): {'; '.join(parts)}"
    )
