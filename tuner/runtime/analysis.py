"""Everything that static analysis knows of one captured graph at one length, made on demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

from cost_models.assumed import default_ceilings
from cost_models.ceilings import Ceilings
from cost_models.relief import relief_seconds
from cost_models.select import Selector
from cost_models.times import extra_seconds, graph_seconds
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
        cls,
        graph: Graph,
        bindings: Mapping[str, int],
        probe: Probe | None = None,
        *,
        compiled: bool = False,
    ) -> Analysis:
        """With the ceilings to assume for the graph's kind of device and dtype.

        Args:
            compiled: whether plans will run compiled. The rates of kinds of op, and what chunks
                gain by them, hold for kernels that run one by one.
        """
        ceilings = default_ceilings(graph.device, product_dtype(graph))
        return cls(graph, bindings, replace(ceilings, rates=None) if compiled else ceilings, probe)

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
        if self.ceilings.rates is None:
            return Selector(self.space, self.extra_seconds)
        return Selector(
            self.space,
            self.extra_seconds,
            partial(relief_seconds, ceilings=self.ceilings),
            self._prudent_seconds,
        )

    def extra_seconds(self, item: RegionClass, chunk_size: int) -> float:
        """How much longer all occurrences of a class take in chunks, by the roofline."""
        return len(item.loops) * extra_seconds(item, chunk_size, self.ceilings)

    def _prudent_seconds(self, item: RegionClass, chunk_size: int) -> float:
        """The same by the plain roofline, which counts no gains and prefers few passes: what leads
        to plans that are low and cheap, of which the rates then tell the fastest."""
        return len(item.loops) * extra_seconds(item, chunk_size, self._plain)

    @cached_property
    def _plain(self) -> Ceilings:
        return replace(self.ceilings, rates=None)
