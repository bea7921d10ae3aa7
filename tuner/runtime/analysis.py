"""Everything that static analysis knows of one captured graph at one length, made on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from cost_models.ceilings import Ceilings, default_ceilings
from cost_models.select import Selector
from cost_models.times import graph_seconds, prudent_extra_seconds
from cost_models.work import product_dtype
from search_space.candidates import find_classes
from search_space.classes import RegionClass
from search_space.dim_rules import Probe
from search_space.graph import Graph, SizedGraph
from search_space.liveness import MemoryModel
from search_space.nested import with_nested
from search_space.space import SearchSpace
from search_space.strides import sized_graph


@dataclass(frozen=True)
class Analysis:
    """One graph at given symbol values.

    Attributes:
        graph: the captured graph.
        bindings: the symbols' values.
        ceilings: what the device can do, for the analytic estimate of time.
        probe: rule of last resort for ops without a dimension rule.
    """

    graph: Graph
    bindings: Mapping[str, int]
    ceilings: Ceilings
    probe: Probe | None = None

    @classmethod
    def unmeasured(
        cls, graph: Graph, bindings: Mapping[str, int], probe: Probe | None = None
    ) -> Analysis:
        """With the ceilings to assume for the graph's kind of device and dtype."""
        return cls(graph, bindings, default_ceilings(graph.device, product_dtype(graph)), probe)

    @cached_property
    def sized(self) -> SizedGraph:
        return sized_graph(self.graph, self.bindings)

    @cached_property
    def memory(self) -> MemoryModel:
        return MemoryModel(self.sized, self.probe)

    @cached_property
    def space(self) -> SearchSpace:
        classes = find_classes(self.memory, probe=self.probe)
        return SearchSpace(self.memory, with_nested(self.memory, classes, probe=self.probe))

    @cached_property
    def unchunked_s(self) -> float:
        """The roofline's time of the whole graph, unchunked."""
        return graph_seconds(self.sized, self.ceilings)

    @cached_property
    def selector(self) -> Selector:
        """Selects plans by the roofline."""
        return Selector(self.space, self.extra_seconds)

    @property
    def extra_seconds(self) -> Callable[[RegionClass, int], float]:
        """How much longer all occurrences of a class take in chunks, by the roofline."""

        def extra(item: RegionClass, chunk_size: int) -> float:
            once = prudent_extra_seconds(item, chunk_size, self.ceilings)
            return len(item.loops) * once

        return extra
