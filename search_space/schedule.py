"""The order in which a plan runs: one function, used by the memory model and the code generator.

Each loop contracts its region to one step. Steps follow the captured order as far as their
dependencies allow, a loop standing where its first own node stood.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from search_space.errors import CyclicPlan
from search_space.graph import LEAVES, SizedGraph
from search_space.regions import Loop


@dataclass(frozen=True, slots=True)
class Step:
    """One step: the node at ``node``, or, with ``node`` None, the loop at ``loop``."""

    node: int | None
    loop: int | None = None


def schedule(graph: SizedGraph, loops: Sequence[Loop]) -> tuple[Step, ...]:
    """The steps of the graph with these loops; nodes that only loops recompute do not appear.

    Raises:
        CyclicPlan: the loops depend on each other in a cycle, two of them own a node, or one reads
            what another computes and does not give out.
    """
    inside: dict[int, int] = {}
    for place, loop in enumerate(loops):
        for node in loop.region.nodes:
            if node not in loop.region.recomputed and inside.setdefault(node, place) != place:
                raise CyclicPlan(f"{graph.nodes[node].label} belongs to two chosen regions")
    for loop in loops:
        for entering in loop.inputs:
            # a loop that computes a node again may read what another loop keeps to itself
            owner = inside.get(entering.node)
            if owner is not None and entering.node not in loops[owner].outputs:
                raise CyclicPlan(
                    f"{graph.nodes[entering.node].label} exists in slices only, in another loop"
                )
    needed = _needed(graph, loops, inside)
    count = len(graph.nodes)

    def unit(index: int) -> int:
        """Nodes keep their number; loops follow after them."""
        return count + inside[index] if index in inside else index

    needs: dict[int, set[int]] = {}
    for index in needed:
        if index not in inside:
            needs[index] = {
                unit(ref) for _, ref in graph.nodes[index].refs
                if graph.nodes[ref].kind not in LEAVES
            }  # fmt: skip
    keys = {index: index for index in needs}
    for place, loop in enumerate(loops):
        needs[count + place] = {
            unit(source.node) for source in loop.inputs
            if graph.nodes[source.node].kind not in LEAVES
        }  # fmt: skip
        keys[count + place] = min(n for n in loop.region.nodes if n not in loop.region.recomputed)
    followers: dict[int, list[int]] = {}
    waiting: dict[int, int] = {}
    for step, sources in needs.items():
        waiting[step] = len(sources)
        for source in sources:
            followers.setdefault(source, []).append(step)
    ready = [(keys[step], step) for step, left in waiting.items() if not left]
    heapq.heapify(ready)
    order: list[Step] = []
    while ready:
        _, step = heapq.heappop(ready)
        order.append(Step(step) if step < count else Step(None, step - count))
        for follower in followers.get(step, ()):
            waiting[follower] -= 1
            if not waiting[follower]:
                heapq.heappush(ready, (keys[follower], follower))
    if len(order) != len(needs):
        stuck = sorted(step - count for step, left in waiting.items() if left and step >= count)
        raise CyclicPlan(f"the chosen regions {stuck} depend on each other in a cycle")
    return tuple(order)


def _needed(graph: SizedGraph, loops: Sequence[Loop], inside: dict[int, int]) -> list[int]:
    """The op nodes that still run outside, or in a loop as its own."""
    wanted = set(graph.output_nodes)
    for loop in loops:
        wanted.update(source.node for source in loop.inputs)
    found: list[int] = []
    for node in reversed(graph.nodes):
        if node.kind in LEAVES or (node.index not in wanted and node.index not in inside):
            continue
        found.append(node.index)
        if node.index not in inside:
            wanted.update(ref for _, ref in node.refs)
    return found
