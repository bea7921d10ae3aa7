"""What a campaign writes to its ledger beside the measurements: how it came to measure what it did.

Reports and the export for Optuna's dashboard are made from the ledger alone, on any machine, long
after the model's code has changed. So each length leaves there what static analysis found
(``analysis``), how well the cost models did (``scores``), every plan that was predicted
(``search``), what was predicted of a plan before it ran (``prediction``), and which plan serves
which budget, where its memory goes and what each of its loops is for (``result``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cost_models.base import Prediction
from cost_models.plans import PlanCost
from cost_models.scoring import Score
from cost_models.times import class_passes
from search_space.classes import Form, RegionClass, choice_form, chosen_size
from search_space.plan import Plan, encode_plan
from search_space.regions import Loop
from search_space.space import SearchSpace
from search_space.storages import Profile
from tuner.campaign_result import LengthResult
from tuner.database import PlanRow
from tuner.runtime.analysis import Analysis
from tuner.runtime.explain import dimension_text, not_understood, ops_text, region_title
from tuner.search.proposal import Proposal

Row = dict[str, Any]

TIMELINE_POINTS = 240
"""Points of a memory timeline at most; each keeps the highest of what it covers."""


class Records:
    """Writes one campaign's records, each with its target, length and graph; a length's analysis
    comes first.

    Args:
        write: appends a record, given its kind and its values.
        target: the submodule that is tuned in place of the whole model; else an empty text.
    """

    def __init__(self, write: Callable[[str, Row], object], target: str = "") -> None:
        self._write = write
        self._target = target
        self._graphs: dict[int, str] = {}

    def analysed(self, length: int, analysis: Analysis, eager_peak_bytes: int) -> None:
        """What could be chunked; ``eager_peak_bytes`` as told without running, 0 where unknown."""
        space, memory = analysis.space, analysis.memory
        profile = memory.profile()
        self._graphs[length] = analysis.graph.fingerprint
        self._append("analysis", length, {
            "nodes": len(analysis.graph.nodes),
            "settings": space.size,
            "eager_peak_bytes": eager_peak_bytes,
            "unchunked_peak_bytes": profile.peak_bytes,
            "timeline_bytes": timeline_bytes(profile, ()),
            "not_understood": not_understood(analysis.sized),
            "classes": [
                {**_loop_row(item.loops[0], len(item.loops)), "class": item.key,
                 "whole_bytes": item.high_bytes, "chunked_bytes": item.low_bytes,
                 "chunk_sizes": list(grid)}
                for item, grid in zip(space.classes, space.grids, strict=True)
            ],
        })  # fmt: skip

    def scored(self, used: str, scores: Mapping[str, Score]) -> None:
        """Which cost model is used, and what each scored on timings that it had not seen."""
        self._write(
            "scores",
            {
                "target": self._target,
                "used": used,
                "scores": {kind: _finite(asdict(score)) for kind, score in scores.items()},
            },
        )

    def searched(
        self, length: int, number: int, space: SearchSpace, proposals: Sequence[Proposal]
    ) -> None:
        """All plans that a round predicted, as settings: chunk size by class."""
        self._append("search", length, {
            "round": number,
            "trials": [
                [space.setting(one.plan), round(one.prediction.latency_ms, 4),
                 one.prediction.peak_bytes]
                for one in proposals
            ],
        })  # fmt: skip

    def predicted(
        self,
        length: int,
        space: SearchSpace,
        plan: Plan,
        prediction: Prediction,
        reference_ms: float,
    ) -> None:
        """What is expected of a plan that is about to run; times as ratios to the reference's."""
        self._append("prediction", length, {
            "plan": encode_plan(plan),
            "setting": space.setting(plan),
            "ratio": round(prediction.latency_ms / reference_ms, 5),
            "ratio_spread": round(prediction.spread_ms / reference_ms, 5),
            "peak_bytes": prediction.peak_bytes,
        })  # fmt: skip

    def finished(self, result: LengthResult, analysis: Analysis, cost: PlanCost) -> None:
        """The frontier of a length, which plan serves which budget, and what each plan does."""
        known = {item.form: item for item in analysis.space.classes}
        places = {row.plan: place for place, row in enumerate(result.frontier)}
        self._append("result", result.length, {
            "reference": result.reference,
            "eager": asdict(result.eager),
            "budgets": [
                {"budget": one.budget.plain, "limit_bytes": one.limit_bytes,
                 "plan": None if one.row is None else places[one.row.plan]}
                for one in result.budgets
            ],
            "frontier": [_plan_row(row, analysis, cost, known) for row in result.frontier],
        })  # fmt: skip

    def _append(self, kind: str, length: int, row: Row) -> None:
        place = {"target": self._target, "length": length, "graph": self._graphs[length]}
        self._write(kind, {**place, **row})


def timeline_bytes(profile: Profile, loops: Sequence[Loop]) -> list[int]:
    """Bytes alive over a run, at most :data:`TIMELINE_POINTS` of them, equally far apart.

    The axis counts the captured graph's operations, so that runs of several plans can be laid over
    each other: a loop is as wide as the operations it replaces, and as high as its highest pass.
    """
    widths = [
        1 if step.loop is None
        else len(loops[step.loop].region.nodes) - len(loops[step.loop].region.recomputed)
        for step in profile.steps
    ]  # fmt: skip
    live = np.repeat(profile.live_bytes, widths)
    if len(live) > TIMELINE_POINTS:
        starts = np.arange(TIMELINE_POINTS) * len(live) // TIMELINE_POINTS
        live = np.maximum.reduceat(live, starts)
    found: list[int] = live.tolist()
    return found


def _loop_row(loop: Loop, times: int) -> Row:
    """A region as a person reads it."""
    return {
        "region": region_title(loop),
        "dimension": dimension_text(loop),
        "computes": ops_text(loop),
        "nodes": len(loop.region.nodes),
        "times": times,
        "extent": loop.extent,
    }


def _plan_row(
    row: PlanRow,
    analysis: Analysis,
    cost: PlanCost,
    known: Mapping[Form, RegionClass],
) -> Row:
    memory = analysis.memory
    active = memory.active(row.plan.choices)
    profile = memory.profile(row.plan.choices)
    chosen = []
    for choice, loops in active:
        item = known[choice_form(choice)]
        others = [other for other, _ in active if other is not choice]
        chosen.append({
            **_loop_row(loops[0], len(loops)),
            "class": item.key,
            "chunk_size": choice.chunk_size,
            "passes": class_passes(item, chosen_size(choice)),
            "without_bytes": memory.profile(others).peak_bytes,
            "extra_ms": round(1e3 * cost.extra_seconds(item, chosen_size(choice)), 4),
        })  # fmt: skip
    values = {name: value for name, value in asdict(row).items() if name != "plan"}
    return {
        **values,
        "plan": encode_plan(row.plan),
        "choices": chosen,
        "timeline_bytes": timeline_bytes(profile, [loop for _, own in active for loop in own]),
    }


def _finite(values: Mapping[str, Any]) -> Row:
    """JSON has no NaN: what is not known is null."""
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in values.items()
    }
