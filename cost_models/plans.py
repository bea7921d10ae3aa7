"""What plans of one graph at one length cost: the terms of :mod:`cost_models.latency` from region
classes, and peaks from the memory model.

A class whose passes run compiled is another term than the same class uncompiled, with estimates and
a bias of its own. What stands between the loops is one more term where it is compiled: by the
roofline at first, and by what confirmed runs show of it. Peaks are those of the plan uncompiled, an
upper bound: fusing leaves intermediates out, and a plan must do where nothing can be compiled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cost_models.base import CostModel, Estimate, Prediction
from cost_models.ceilings import Ceilings
from cost_models.features import class_features
from cost_models.latency import LEAST_SHARE, Term, draw_latencies, fit_bias, latency
from cost_models.roofline import SPREAD, Roofline
from cost_models.times import compiled_log_ratio, graph_works
from cost_models.work import Work
from search_space.classes import Form, RegionClass, choice_form, chosen_size
from search_space.liveness import MemoryModel
from search_space.plan import Plan

Looped = tuple[RegionClass, int, bool]
"""A class in a loop, its chunk size, and whether its passes run compiled."""

STRETCHES = "stretches"
"""The term of what stands between loops."""


@dataclass(frozen=True)
class PlanCost:
    """Predicts plans of one graph at one length.

    Attributes:
        memory: the memory model of that graph and length.
        classes: the candidates.
        model: of log ratios.
        compiled_model: of those of passes that run compiled; the roofline, where nothing was
            learned of such.
        ceilings: the device's.
        unchunked_ms: the measured latency of the graph as captured.
        whole_ms: time of one occurrence of a class, whole, by class key; measured where it was.
        bias: per class key, see :mod:`cost_models.latency`.
    """

    memory: MemoryModel
    classes: tuple[RegionClass, ...]
    model: CostModel
    ceilings: Ceilings
    unchunked_ms: float
    whole_ms: Mapping[str, float]
    bias: Mapping[str, float] = field(default_factory=dict)
    compiled_model: CostModel = field(default_factory=Roofline)
    _cache: dict[tuple[str, int], Estimate] = field(default_factory=dict, repr=False)
    _between: dict[frozenset[str], tuple[Term, Estimate]] = field(default_factory=dict, repr=False)

    def predict(self, plan: Plan) -> Prediction:
        """Latency, its spread, and the memory model's peak."""
        return self.predict_all([plan])[0]

    def predict_all(self, plans: Sequence[Plan]) -> list[Prediction]:
        """The predictions of many plans; what they ask of the model is asked in one go."""
        self._learn_of(plans)
        found = []
        for plan in plans:
            mean, spread = latency(self._terms(plan), self._cache, self.unchunked_ms, self.bias)
            found.append(Prediction(mean, spread, self._peak_bytes(plan)))
        return found

    def draws(self, plans: Sequence[Plan], count: int, seed: int = 0) -> NDArray[np.float64]:
        """Latencies in ms that the plans might have; see
        :func:`cost_models.latency.draw_latencies`."""
        self._learn_of(plans)
        rows = [self._terms(plan) for plan in plans]
        return draw_latencies(
            rows, self._cache, self.unchunked_ms, self.bias, count=count, seed=seed
        )

    def extra_seconds(self, item: RegionClass, chunk_size: int) -> float:
        """The class's difference, chunked less whole, all occurrences together."""
        self._estimate([(item, chunk_size, False)])
        term = self._term(item, chunk_size, False)
        mean, _ = latency([term], self._cache, term.whole_ms, self.bias)
        return (mean - term.whole_ms) / 1e3

    def corrected(self, runs: Sequence[tuple[Plan, float]]) -> PlanCost:
        """With biases from confirmed runs: plans and their measured latencies in ms."""
        self._learn_of([plan for plan, _ in runs])
        rows = [(self._terms(plan), measured_ms) for plan, measured_ms in runs]
        return replace(self, bias=fit_bias(rows, self._cache, self.unchunked_ms))

    def _peak_bytes(self, plan: Plan) -> int:
        """Of the plan uncompiled, which the memory model may have been asked for before."""
        choices = [
            replace(one, compiled=False) if one.compiled else one for one in plan.choices
        ]
        return self.memory.profile(choices).peak_bytes

    @cached_property
    def _works(self) -> Mapping[int, Work]:
        return graph_works(self.memory.graph)

    @cached_property
    def _by_form(self) -> Mapping[Form, RegionClass]:
        return {item.form: item for item in self.classes}

    def _looped(self, plan: Plan) -> list[Looped]:
        """The classes that really run in a loop."""
        found = [
            (self._by_form[choice_form(one)], chosen_size(one), one.compiled)
            for one in plan.choices
        ]
        return [one for one in found if one[1] < one[0].extent or one[0].inner]

    def _terms(self, plan: Plan) -> list[Term]:
        looped = self._looped(plan)
        terms = [self._term(*one) for one in looped]
        if plan.stretches:
            terms.append(self._stretches([item for item, _, _ in looped]))
        return terms

    def _term(self, item: RegionClass, chunk_size: int, compiled: bool) -> Term:
        whole_ms = len(item.loops) * self.whole_ms[item.key]
        return Term(_key(item, compiled), chunk_size, whole_ms)

    def _stretches(self, looped: Sequence[RegionClass]) -> Term:
        """What stands between these loops; the term's size only tells one such set from others."""
        keys = frozenset(item.key for item in looped)
        if keys not in self._between:
            inside = {int(node) for item in looped for loop in item.loops for node in loop.owned}
            graph = self.memory.graph
            rest = [node for node in self._works if node not in inside]
            own_ms = sum(len(item.loops) * self.whole_ms[item.key] for item in looped)
            left_ms = max(self.unchunked_ms - own_ms, LEAST_SHARE * self.unchunked_ms)
            # a piece before each loop, and one after the last
            pieces = 1 + sum(len(item.loops) for item in looped)
            ratio = compiled_log_ratio(graph, rest, self._works, self.ceilings, pieces)
            term = Term(STRETCHES, len(self._between), left_ms)
            self._between[keys] = term, Estimate(ratio, SPREAD)
        term, estimate = self._between[keys]
        self._cache[term.key, term.chunk_size] = estimate
        return term

    def _learn_of(self, plans: Sequence[Plan]) -> None:
        self._estimate([one for plan in plans for one in self._looped(plan)])

    def _estimate(self, looped: Sequence[Looped]) -> None:
        """Estimates of all that nobody has asked for yet, in one go."""
        for compiled, model in ((False, self.model), (True, self.compiled_model)):
            wanted = {
                (_key(item, compiled), size): item
                for item, size, own in looped
                if own == compiled and (_key(item, compiled), size) not in self._cache
            }
            if wanted:
                features = [
                    class_features(self.memory, item, size, self.ceilings, compiled=compiled)
                    for (_, size), item in wanted.items()
                ]
                self._cache.update(zip(wanted, model.estimate(features), strict=True))


def _key(item: RegionClass, compiled: bool) -> str:
    return f"{item.key} compiled" if compiled else item.key
