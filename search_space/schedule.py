"""The order in which a plan runs: one function, used by the memory model and the code generator.

Each loop contracts its region to one step. Steps follow the captured order as far as their
dependencies allow: a node stands at its own place, a loop where its first own node stood, and what
depends on something later directly after that. In symbols, a step's time is

    time(step) = max(place(step), time of all that it needs),

and steps of one time run in the order of their dependencies. Loops that stand at their own place
cost nothing to order, so that the work grows with the loops and with what they delay.
"""

from __future__ import annotations

import graphlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search_space.errors import CyclicPlan
from search_space.graph import LEAVES, SizedGraph
from search_space.regions import Loop

Places = NDArray[np.int64]

_TURNS = 1 << 20
"""Steps of one time, at most."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: the node at ``node``, or, with ``node`` None, the loop at ``loop``."""

    node: int | None
    loop: int | None = None


@dataclass(frozen=True)
class Order:
    """When everything runs.

    Attributes:
        turn: for each node of the graph and then for each loop, a number that grows in running
            order; -1 for what does not run by itself.
        inside: for each node, the loop that owns it, or -1.
    """

    turn: Places
    inside: Places

    @cached_property
    def running(self) -> Places:
        """Nodes, and loops counted on from the last node, in running order."""
        units = np.flatnonzero(self.turn >= 0)
        return units[np.argsort(self.turn[units], kind="stable")]

    @property
    def steps(self) -> tuple[Step, ...]:
        count = len(self.inside)
        return tuple(
            Step(int(unit)) if unit < count else Step(None, int(unit) - count)
            for unit in self.running
        )


def schedule(graph: SizedGraph, loops: Sequence[Loop]) -> tuple[Step, ...]:
    """The steps of the graph with these loops; nodes that only loops recompute do not appear.

    Raises:
        CyclicPlan: see :func:`order`.
    """
    return order(graph, loops).steps


def order(graph: SizedGraph, loops: Sequence[Loop]) -> Order:
    """When the graph's nodes and these loops run.

    Raises:
        CyclicPlan: the loops depend on each other in a cycle, two of them own a node, or one reads
            what another computes and does not give out.
    """
    inside = _inside(graph, loops)
    count = len(graph.nodes)
    turn = np.full(count + len(loops), -1, np.int64)
    runs = (inside < 0) & ~graph.is_leaf
    _drop_unread(graph, loops, inside, runs)
    turn[:count][runs] = np.flatnonzero(runs) * _TURNS
    for place, loop in enumerate(loops):
        turn[count + place] = loop.first_owned * _TURNS
    for unit, moved in _delays(graph, loops, inside, runs).items():
        turn[unit] = moved
    return Order(turn, inside)


def _inside(graph: SizedGraph, loops: Sequence[Loop]) -> Places:
    inside = np.full(len(graph.nodes), -1, np.int64)
    exported = np.zeros(len(graph.nodes), bool)
    for place, loop in enumerate(loops):
        own = loop.owned
        taken = inside[own]
        if taken.max() >= 0:
            shared = own[int(np.argmax(taken >= 0))]
            raise CyclicPlan(f"{graph.nodes[shared].label} belongs to two chosen regions")
        inside[own] = place
        exported[list(loop.outputs)] = True
    for loop in loops:
        for node in loop.entering:
            # a loop that computes a node again may read what another loop keeps to itself
            if inside[node] >= 0 and not exported[node]:
                raise CyclicPlan(
                    f"{graph.nodes[node].label} exists in slices only, in another loop"
                )
    return inside


def _drop_unread(
    graph: SizedGraph, loops: Sequence[Loop], inside: Places, runs: NDArray[np.bool_]
) -> None:
    """Take back what nobody reads any more: originals of recomputed nodes, and what led to them."""
    entering = {node for loop in loops for node in loop.entering}
    # users before what they use, so that the last comes first
    waiting = [-node for loop in loops for node in loop.spared if runs[node]]
    heapq.heapify(waiting)
    while waiting:
        node = -heapq.heappop(waiting)
        if not runs[node] or node in entering or node in graph.output_nodes:
            continue
        if any(runs[user] for user in graph.users[node]):
            continue
        runs[node] = False
        for _, ref in graph.nodes[node].refs:
            heapq.heappush(waiting, -ref)


def _delays(
    graph: SizedGraph, loops: Sequence[Loop], inside: Places, runs: NDArray[np.bool_]
) -> dict[int, int]:
    """Turns of the units that must wait for something later than their own place."""
    count = len(graph.nodes)

    def unit(node: int) -> int:
        return count + int(inside[node]) if inside[node] >= 0 else node

    def place(which: int) -> int:
        return loops[which - count].first_owned if which >= count else which

    def needs(which: int) -> set[int]:
        if which >= count:
            return {unit(node) for node in loops[which - count].entering}
        refs = (ref for _, ref in graph.nodes[which].refs)
        return {unit(ref) for ref in refs if graph.nodes[ref].kind not in LEAVES}

    def followers(which: int) -> set[int]:
        made = loops[which - count].outputs if which >= count else (which,)
        users = {user for node in made for user in graph.users[node]}
        found = {user for user in users if runs[user]}
        readers = {place for node in made for place in read_by.get(node, ())}
        return (found | {count + place for place in readers}) - {which}

    late = [
        count + number for number, loop in enumerate(loops)
        if loop.entering and loop.entering[-1] > loop.first_owned
    ]  # fmt: skip
    if not late:
        return {}
    read_by: dict[int, list[int]] = {}
    for number, loop in enumerate(loops):
        for node in loop.entering:
            read_by.setdefault(node, []).append(number)
    time: dict[int, int] = {}
    waiting = set(late)
    while waiting:
        which = waiting.pop()
        moved = max((time.get(need, place(need)) for need in needs(which)), default=-1)
        if moved <= time.get(which, place(which)):
            continue
        time[which] = moved
        for follower in followers(which):
            if place(follower) == moved:
                raise CyclicPlan(_cycle(graph, loops, count, [which, follower]))
            if place(follower) < moved:
                waiting.add(follower)
    # steps of one time: by the length of the chain that they wait for, then by place
    depends = {
        which: {need for need in needs(which) if time.get(need) == moved}
        for which, moved in time.items()
    }
    depth: dict[int, int] = {}
    try:
        for which in graphlib.TopologicalSorter(depends).static_order():
            depth[which] = 1 + max((depth[need] for need in depends[which]), default=0)
    except graphlib.CycleError as error:
        raise CyclicPlan(_cycle(graph, loops, count, error.args[1])) from error
    turns: dict[int, int] = {}
    ranked = sorted(time, key=lambda which: (time[which], depth[which], place(which)))
    for before, which in zip([None, *ranked], ranked, strict=False):
        same = before is not None and time[before] == time[which]
        turns[which] = turns[before] + 1 if same and before is not None else (
            time[which] * _TURNS + 1
        )  # fmt: skip
    return turns


def _cycle(graph: SizedGraph, loops: Sequence[Loop], count: int, units: Sequence[int]) -> str:
    anchors = [loops[which - count].region.anchor for which in units if which >= count]
    names = ", ".join(dict.fromkeys(graph.nodes[anchor].label for anchor in anchors))
    return f"the chosen regions that end in {names} depend on each other in a cycle"
