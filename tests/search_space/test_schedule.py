"""The order of a plan's steps, against a plain topological sort of the contracted graph."""

from __future__ import annotations

import graphlib
from collections.abc import Iterator, Sequence
from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search_space.errors import CyclicPlan, IllegalRegion, PlanError
from search_space.graph import SizedGraph
from search_space.plan import Region
from search_space.regions import Loop, resolve
from search_space.schedule import Step, order, schedule
from tests.tall import Wiring, wired

Unit = tuple[str, int]

OPS = {"aten.exp.default": 1, "aten.add.Tensor": 2, "aten.matmul.default": 2}


@st.composite
def wirings(draw: st.DrawFn, most: int = 11) -> Wiring:
    found: list[tuple[str, tuple[int, ...]]] = []
    for index in range(1, draw(st.integers(3, most)) + 1):
        op = draw(st.sampled_from(sorted(OPS)))
        refs = tuple(draw(st.integers(max(0, index - 5), index - 1)) for _ in range(OPS[op]))
        found.append((op, refs))
    return found


@st.composite
def plans(draw: st.DrawFn) -> tuple[SizedGraph, list[Loop]]:
    """A graph and some legal regions of it, mostly disjoint, some of which recompute nodes."""
    graph = wired(draw(wirings()))
    count = len(graph.nodes) - 1
    loops: list[Loop] = []
    taken: set[int] = set()
    for _ in range(draw(st.integers(1, 5))):
        picked = draw(st.sets(st.integers(1, count), min_size=1, max_size=5))
        own = picked if draw(st.integers(0, 9)) == 0 else picked - taken
        if not own:
            continue
        again = draw(st.sets(st.integers(1, count), max_size=2)) - own
        nodes = tuple(sorted(own | {node for node in again if node < max(own)}))
        dim = draw(st.integers(0, 1))
        try:
            region = Region(nodes, (dim,) * len(nodes), tuple(sorted(set(nodes) - own)))
            loops.append(resolve(graph, region))
        except (IllegalRegion, PlanError):
            continue
        taken |= own
    return graph, loops


def needs_of(graph: SizedGraph, loops: Sequence[Loop]) -> dict[Unit, set[Unit]] | None:
    """What each step waits for, found from the outputs backward; None where a node is in two
    regions, or is wanted whole although it exists in slices alone."""
    inside: dict[int, int] = {}
    for place, loop in enumerate(loops):
        for node in set(loop.region.nodes) - set(loop.region.recomputed):
            if node in inside:
                return None
            inside[node] = place
    found: dict[Unit, set[Unit]] = {}

    def unit(node: int) -> Unit:
        return ("loop", inside[node]) if node in inside else ("node", node)

    waiting: list[Unit] = [("loop", place) for place in range(len(loops))]
    waiting += [unit(node) for node in graph.output_nodes]
    while waiting:
        which = waiting.pop()
        if which in found:
            continue
        kind, place = which
        if kind == "node":
            read = {ref for _, ref in graph.nodes[place].refs}
        else:
            read = {source.node for source in loops[place].inputs}
            if any(n in inside and n not in loops[inside[n]].outputs for n in read):
                return None
        found[which] = {unit(ref) for ref in read if not graph.is_leaf[ref]}
        waiting.extend(found[which])
    return found


def units(steps: Sequence[Step]) -> Iterator[Unit]:
    for step in steps:
        if step.node is not None:
            yield "node", step.node
        else:
            assert step.loop is not None
            yield "loop", step.loop


def check(graph: SizedGraph, loops: Sequence[Loop]) -> str:
    """Hold the schedule against a plain sort; gives what it came to."""
    needs = needs_of(graph, loops)
    sorted_: list[Unit] | None = None
    if needs is not None:
        try:
            sorted_ = list(graphlib.TopologicalSorter(needs).static_order())
        except graphlib.CycleError:
            sorted_ = None
    if needs is None or sorted_ is None:
        with pytest.raises(CyclicPlan):
            schedule(graph, loops)
        return "illegal" if needs is None else "cyclic"
    found = list(units(schedule(graph, loops)))
    assert sorted(found) == sorted(needs)
    place = {which: turn for turn, which in enumerate(found)}
    assert all(place[need] < place[which] for which in needs for need in needs[which])

    # the module's formula: a step runs at its own place, or with the last that it waits for
    time: dict[Unit, int] = {}
    for which in sorted_:
        own = loops[which[1]].first_owned if which[0] == "loop" else which[1]
        time[which] = max([own, *(time[need] for need in needs[which])])
    times = [time[which] for which in found]
    assert times == sorted(times)
    return "late" if times != [
        loops[n].first_owned if kind == "loop" else n for kind, n in found
    ] else "in order"  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans())
def test_steps_are_a_topological_order_or_there_is_none(
    plan: tuple[SizedGraph, list[Loop]],
) -> None:
    check(*plan)


CROSSED: Wiring = [
    ("aten.exp.default", (0,)), ("aten.exp.default", (0,)),
    ("aten.matmul.default", (1, 2)), ("aten.matmul.default", (2, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("wiring", "expected"), [
    (CROSSED, "cyclic"),
    # each of two regions needs the other's result, by way of a node that is in no region
    ([("aten.exp.default", (0,)), ("aten.exp.default", (0,)), ("aten.cos.default", (1,)),
      ("aten.cos.default", (2,)), ("aten.matmul.default", (1, 4)),
      ("aten.matmul.default", (2, 3))], "cyclic"),
    # three regions in a ring, no two of which depend on each other
    ([("aten.exp.default", (0,)), ("aten.exp.default", (0,)), ("aten.exp.default", (0,)),
      ("aten.matmul.default", (1, 2)), ("aten.matmul.default", (2, 3)),
      ("aten.matmul.default", (3, 1))], "cyclic"),
    # what one region may compute again, another may keep to itself
    ([("aten.exp.default", (0,)), ("aten.cos.default", (1,)), ("aten.add.Tensor", (1, 2)),
      ("aten.sin.default", (3,)), ("aten.matmul.default", (2, 4)),
      ("aten.add.Tensor", (3, 5))], "illegal"),
])  # fmt: skip
def test_all_sets_of_regions_of_small_graphs(wiring: Wiring, expected: str) -> None:
    graph = wired(wiring)
    count = len(graph.nodes)
    loops: list[Loop] = []
    for size in range(1, 4):
        for nodes in combinations(range(1, count), size):
            for again in ((), *((node,) for node in nodes[:-1])):
                try:
                    loops.append(resolve(graph, Region(nodes, (0,) * size, again)))
                except IllegalRegion:
                    continue
    seen = [check(graph, some) for number in (1, 2) for some in combinations(loops, number)]
    # of three regions, those that own nothing in common
    for some in combinations(loops, 3):
        owned = [node for loop in some for node in loop.owned.tolist()]
        if len(owned) == len(set(owned)):
            seen.append(check(graph, some))
    assert {"in order", expected} <= set(seen)


def test_a_loop_waits_for_what_stands_later() -> None:
    # the loop {1, 4} reads 3, and 2 reads nothing of it
    graph = wired([
        ("aten.exp.default", (0,)), ("aten.cos.default", (0,)), ("aten.sin.default", (2,)),
        ("aten.matmul.default", (1, 3)), ("aten.add.Tensor", (3, 4)),
    ])  # fmt: skip
    loop = resolve(graph, Region((1, 4), (0, 0)))
    assert list(units(schedule(graph, [loop]))) == [
        ("node", 2), ("node", 3), ("loop", 0), ("node", 5)
    ]  # fmt: skip
    when = order(graph, [loop])
    assert [node for node, turn in enumerate(when.turn[:6]) if turn < 0] == [0, 1, 4]


def test_the_order_of_the_loops_given_does_not_matter() -> None:
    graph = wired([
        ("aten.exp.default", (0,)), ("aten.cos.default", (1,)), ("aten.exp.default", (0,)),
        ("aten.matmul.default", (1, 3)), ("aten.add.Tensor", (4, 2)), ("aten.sin.default", (5,)),
    ])  # fmt: skip
    loops = [resolve(graph, Region(nodes, (0,) * len(nodes))) for nodes in ((1, 2), (3,), (5, 6))]
    orders = set()
    for some in (loops, loops[::-1], [loops[1], loops[2], loops[0]]):
        orders.add(tuple(
            step.node if step.node is not None else -some[step.loop or 0].region.anchor
            for step in schedule(graph, some)
        ))  # fmt: skip
    assert len(orders) == 1
