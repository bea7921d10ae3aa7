"""From regions to plans: a plan's latency is the unchunked one plus its regions' differences.

    latency = unchunked + sum over classes of n * whole * (exp(log_ratio) - 1 + bias)

with n the occurrences and ``whole`` the time of one of them, unchunked. Whole-model runs confirm
plans; what they show beyond the sum is shared out among their classes as a ``bias``, by ridge
regression towards none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cost_models.base import CostModel, Estimate, Prediction
from cost_models.ceilings import Ceilings
from cost_models.features import class_features
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
        whole_ms: time of one occurrence of a class, whole, by class key; measured where it was,
            else the roofline's, scaled to the unchunked latency.
        bias: per class key, see the module.
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
        known = self._by_form()
        total = self.unchunked_ms
        variance = (0.01 * self.unchunked_ms) ** 2
        for choice in plan.choices:
            item, size = known[choice_form(choice)], chosen_size(choice)
            if size >= item.extent and not item.inner:
                continue
            found = self._estimate(item, size)
            whole = len(item.loops) * self.whole_ms[item.key]
            ratio = math.exp(found.log_ratio)
            total += whole * (ratio - 1 + self.bias.get(item.key, 0.0))
            variance += (whole * ratio * found.spread) ** 2
        peak = self.memory.profile(plan.choices).peak_bytes
        return Prediction(max(total, 0.02 * self.unchunked_ms), math.sqrt(variance), peak)

    def extra_seconds(self, item: RegionClass, chunk_size: int) -> float:
        """The class's difference, chunked less whole, all occurrences together."""
        ratio = math.exp(self._estimate(item, chunk_size).log_ratio)
        change = ratio - 1 + self.bias.get(item.key, 0.0)
        return len(item.loops) * self.whole_ms[item.key] * change / 1e3

    def corrected(self, runs: Sequence[tuple[Plan, float]]) -> PlanCost:
        """With biases from confirmed runs: plans and their measured latencies in ms."""
        known = self._by_form()
        keys = sorted({known[choice_form(c)].key for plan, _ in runs for c in plan.choices})
        plain = PlanCost(
            self.memory, self.classes, self.model, self.ceilings, self.unchunked_ms,
            self.whole_ms, {}, self._cache,
        )  # fmt: skip
        if not keys:
            return plain
        count = {item.key: len(item.loops) for item in self.classes}
        rows = np.zeros((len(runs), len(keys)))
        target = np.zeros(len(runs))
        for row, (plan, latency_ms) in enumerate(runs):
            for choice in plan.choices:
                key = known[choice_form(choice)].key
                rows[row, keys.index(key)] = count[key] * self.whole_ms[key]
            target[row] = latency_ms - plain.predict(plan).latency_ms
        rows, target = rows / self.unchunked_ms, target / self.unchunked_ms
        # a bias of a tenth costs as much as an unexplained hundredth of the latency
        bias = np.linalg.solve(rows.T @ rows + 0.01 * np.eye(len(keys)), rows.T @ target)
        found = {key: float(value) for key, value in zip(keys, bias, strict=True)}
        return PlanCost(
            self.memory, self.classes, self.model, self.ceilings, self.unchunked_ms,
            self.whole_ms, found, self._cache,
        )  # fmt: skip

    def _by_form(self) -> dict[Form, RegionClass]:
        return {item.form: item for item in self.classes}

    def _estimate(self, item: RegionClass, chunk_size: int) -> Estimate:
        key = (item.key, chunk_size)
        if key not in self._cache:
            features = class_features(self.memory, item, chunk_size, self.ceilings)
            self._cache[key] = self.model.estimate([features])[0]
        return self._cache[key]
