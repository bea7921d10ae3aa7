"""What plans of one graph at one length cost: the terms of :mod:`cost_models.latency` from region
classes, and peaks from the memory model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cost_models.base import CostModel, Estimate, Prediction
from cost_models.ceilings import Ceilings
from cost_models.features import class_features
from cost_models.latency import Term, draw_latencies, fit_bias, latency
from search_space.classes import Form, RegionClass, choice_form, chosen_size
from search_space.liveness import MemoryModel
from search_space.plan import Plan


@dataclass(frozen=True)
class PlanCost:
    """Predicts plans of one graph at one length.

    Attributes:
        memory: the memory model of that graph and length.
        classes: the candidates.
        model: of log ratios.
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
    _cache: dict[tuple[str, int], Estimate] = field(default_factory=dict, repr=False)

    def predict(self, plan: Plan) -> Prediction:
        """Latency, its spread, and the memory model's peak."""
        return self.predict_all([plan])[0]

    def predict_all(self, plans: Sequence[Plan]) -> list[Prediction]:
        """The predictions of many plans; what they ask of the model is asked in one go."""
        self._learn_of(plans)
        found = []
        for plan in plans:
            mean, spread = latency(self._terms(plan), self._cache, self.unchunked_ms, self.bias)
            found.append(Prediction(mean, spread, self.memory.profile(plan.choices).peak_bytes))
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
        self._estimate([(item, chunk_size)])
        term = self._term(item, chunk_size)
        mean, _ = latency([term], self._cache, term.whole_ms, self.bias)
        return (mean - term.whole_ms) / 1e3

    def corrected(self, runs: Sequence[tuple[Plan, float]]) -> PlanCost:
        """With biases from confirmed runs: plans and their measured latencies in ms."""
        self._learn_of([plan for plan, _ in runs])
        rows = [(self._terms(plan), measured_ms) for plan, measured_ms in runs]
        return replace(self, bias=fit_bias(rows, self._cache, self.unchunked_ms))

    @cached_property
    def _by_form(self) -> Mapping[Form, RegionClass]:
        return {item.form: item for item in self.classes}

    def _looped(self, plan: Plan) -> list[tuple[RegionClass, int]]:
        """The classes that really run in a loop, with their chunk sizes."""
        pairs = [
            (self._by_form[choice_form(one)], chosen_size(one)) for one in plan.choices
        ]
        return [(item, size) for item, size in pairs if size < item.extent or item.inner]

    def _terms(self, plan: Plan) -> list[Term]:
        return [self._term(item, size) for item, size in self._looped(plan)]

    def _term(self, item: RegionClass, chunk_size: int) -> Term:
        return Term(item.key, chunk_size, len(item.loops) * self.whole_ms[item.key])

    def _learn_of(self, plans: Sequence[Plan]) -> None:
        self._estimate([pair for plan in plans for pair in self._looped(plan)])

    def _estimate(self, pairs: Sequence[tuple[RegionClass, int]]) -> None:
        """Estimates of all that nobody has asked for yet, in one go."""
        wanted = {
            (item.key, size): item for item, size in pairs if (item.key, size) not in self._cache
        }
        if wanted:
            features = [
                class_features(self.memory, item, size, self.ceilings)
                for (_, size), item in wanted.items()
            ]
            self._cache.update(zip(wanted, self.model.estimate(features), strict=True))
