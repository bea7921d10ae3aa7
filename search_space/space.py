"""The search space: region classes times chunk sizes, and how parameters become a plan.

Each class has one parameter, a chunk size from a short grid or 0 for "leave alone". ``decode`` is
total and deterministic: any parameters give a legal plan, since choices that would overlap or form
a cycle are dropped in a fixed order, larger savings first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from search_space.classes import RegionClass, choice_form, chosen_size
from search_space.errors import CyclicPlan
from search_space.graph import Graph, SizedGraph
from search_space.liveness import MemoryModel
from search_space.plan import Choice, Plan
from search_space.schedule import schedule

_PASSES, _SMALLEST = 64, 16


def chunk_grid(extent: int) -> tuple[int, ...]:
    """Chunk sizes worth trying, descending: the extent over 2, 4, 8, ..., rounded up.

    They end at 64 passes or at chunks of 16 units, whichever is smaller; none covers the extent.
    """
    most = max(_PASSES, extent // _SMALLEST)
    found: dict[int, None] = {}
    parts = 2
    while parts <= min(most, extent):
        found[-(-extent // parts)] = None
        parts *= 2
    if extent <= most:
        found[1] = None
    return tuple(size for size in sorted(found, reverse=True) if size < extent)


@dataclass(frozen=True)
class SearchSpace:
    """What can be chosen for one graph at one length.

    Attributes:
        memory: the memory model of that graph and length.
        classes: the candidates.
    """

    memory: MemoryModel
    classes: tuple[RegionClass, ...]

    @cached_property
    def grids(self) -> tuple[tuple[int, ...], ...]:
        """Per class, the chunk sizes to choose from, descending."""
        return tuple(chunk_grid(item.extent) for item in self.classes)

    @property
    def size(self) -> int:
        """How many settings of the parameters there are; many decode to one plan."""
        total = 1
        for grid in self.grids:
            total *= len(grid) + 1
        return total

    def decode(self, chunk_sizes: Mapping[str, int]) -> Plan:
        """The plan of a setting: chunk size by class key; 0, or no entry, leaves a class alone.

        Chunk sizes need not be on the grid; one that covers the extent is "leave alone".
        """
        wanted = [
            (item, chunk_sizes.get(item.key, 0))
            for item in self.classes
            if 0 < chunk_sizes.get(item.key, 0) < item.extent
        ]
        wanted.sort(key=lambda pair: (-pair[0].saves_bytes * len(pair[0].loops), pair[0].key))
        choices: list[Choice] = []
        loops: list[RegionClass] = []
        for item, chunk_size in wanted:
            if any(overlap(item, other) for other in loops):
                continue
            if not self._schedulable([*loops, item]):
                continue
            loops.append(item)
            choices.append(item.choice(chunk_size))
        return make_plan(self.memory.graph, choices)

    def setting(self, plan: Plan) -> dict[str, int]:
        """The setting that decodes to a plan of this space."""
        known = {item.form: item.key for item in self.classes}
        return {known[choice_form(choice)]: chosen_size(choice) for choice in plan.choices}

    def _schedulable(self, classes: Sequence[RegionClass]) -> bool:
        try:
            schedule(self.memory.graph, [loop for item in classes for loop in item.loops])
        except CyclicPlan:
            return False
        return True


def make_plan(graph: Graph | SizedGraph, choices: Sequence[Choice] = ()) -> Plan:
    """A plan of this graph with its choices in canonical order."""
    ordered = sorted(choices, key=lambda choice: choice.regions[0].nodes)
    return Plan(graph.fingerprint, tuple(ordered), graph.rewrites)


def overlap(a: RegionClass, b: RegionClass) -> bool:
    """Whether two classes own a node in common (recomputed nodes belong to nobody)."""
    return bool(owned(a) & owned(b))


def owned(item: RegionClass) -> frozenset[int]:
    """All nodes that a class's occurrences own."""
    found: set[int] = set()
    for region in item.regions:
        found.update(set(region.nodes) - set(region.recomputed))
    return frozenset(found)
