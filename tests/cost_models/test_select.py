"""Selection under budgets: what is asked for is met, and close to the best there is."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
import torch

from cost_models.prices import Cost
from cost_models.select import Selected, Selector
from cost_models.times import graph_seconds, loop_seconds
from experiments.subjects import gpt2
from search_space.candidates import find_classes
from search_space.classes import RegionClass
from search_space.errors import BudgetError, CyclicPlan
from search_space.plan import Choice, Plan
from search_space.space import SearchSpace, make_plan, overlap
from tests.cost_models.made_rates import PLAIN as CPU
from tests.tiny import analysed


def by_roofline(item: RegionClass, chunk_size: int) -> float:
    loop = item.loops[0]
    chunked = loop_seconds(loop, chunk_size, CPU)
    return len(item.loops) * (chunked - loop_seconds(loop, loop.extent, CPU))


def by_passes(item: RegionClass, chunk_size: int) -> float:
    return 1e-5 * len(item.loops) * item.loops[0].passes(chunk_size)


def constant(item: RegionClass, chunk_size: int) -> float:
    return 1e-3


def gain(item: RegionClass, chunk_size: int) -> float:
    """Chunking makes everything faster, as it may where caches are small."""
    return -1e-4 * len(item.loops) / chunk_size


COSTS: dict[str, Cost] = {
    "roofline": by_roofline, "passes": by_passes, "constant": constant, "gain": gain,
}  # fmt: skip

LOSSES = [pytest.param(COSTS[name], id=name) for name in COSTS if name != "gain"]
"""Under these no choice pays for itself, so that the fastest plan is the unchunked one."""


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    """GPT-2 of width 64 at 128 tokens: 24 classes."""
    model, inputs = gpt2(layers=2, width=64, heads=4, positions=256, vocabulary=101)
    tiny = analysed(model, *inputs(128))
    return SearchSpace(tiny.memory, find_classes(tiny.memory))


@pytest.fixture(params=sorted(COSTS))
def cost(request: pytest.FixtureRequest) -> Cost:
    return COSTS[request.param]


@pytest.fixture
def selector(space: SearchSpace, cost: Cost) -> Selector:
    return Selector(space, cost)


def budgets(selector: Selector, steps: int = 12) -> list[int]:
    """From the lowest peak to the unchunked one."""
    low, high = selector.lowest().peak_bytes, selector.unchunked_bytes
    assert low < high // 2
    return [low + (high - low) * step // steps for step in range(steps + 1)]


def check(space: SearchSpace, cost: Cost, found: Selected) -> None:
    """A selection says of itself what the memory model and the cost say of its plan."""
    assert found.plan.fingerprint == space.memory.graph.fingerprint
    assert found.peak_bytes == space.memory.profile(found.plan.choices).peak_bytes
    items = {item.regions: item for item in space.classes}
    total = sum(cost(items[c.regions], c.chunk_size) for c in found.plan.choices)
    assert found.extra_s == pytest.approx(total, abs=1e-12)
    grids = dict(zip((item.regions for item in space.classes), space.grids, strict=True))
    assert all(choice.chunk_size in grids[choice.regions] for choice in found.plan.choices)


def test_every_budget_is_met(space: SearchSpace, cost: Cost, selector: Selector) -> None:
    for budget in budgets(selector):
        found = selector.within(budget)
        assert found.peak_bytes <= budget
        check(space, cost, found)


def test_the_lowest_is_as_low_as_any(space: SearchSpace, cost: Cost, selector: Selector) -> None:
    lowest = selector.lowest()
    check(space, cost, lowest)
    assert all(lowest.peak_bytes <= selector.within(b).peak_bytes for b in budgets(selector))


def test_a_budget_of_the_whole_peak_leaves_the_model_alone(
    space: SearchSpace, selector: Selector
) -> None:
    for budget in (selector.unchunked_bytes, selector.unchunked_bytes + 1, 2**60):
        found = selector.within(budget)
        assert found == Selected(
            Plan(space.memory.graph.fingerprint), selector.unchunked_bytes, 0.0
        )


def test_a_budget_just_below_the_peak_is_not_ignored(selector: Selector) -> None:
    found = selector.within(selector.unchunked_bytes - 1)
    assert found.plan.choices
    assert found.peak_bytes < selector.unchunked_bytes


@pytest.mark.parametrize("impossible", [0, 1, 1000])
def test_what_cannot_be_met_says_what_can(impossible: int, selector: Selector) -> None:
    with pytest.raises(BudgetError, match="no plan fits") as caught:
        selector.within(impossible)
    lowest = caught.value.lowest_bytes
    assert impossible < lowest == selector.lowest().peak_bytes
    assert str(lowest) in str(caught.value)
    assert selector.within(lowest).peak_bytes <= lowest


def test_nothing_is_lower_than_the_lowest(selector: Selector) -> None:
    lowest = selector.lowest().peak_bytes
    for budget in (lowest - 1, int(lowest * 0.99), int(lowest * 0.9), lowest // 2):
        with pytest.raises(BudgetError) as caught:
            selector.within(budget)
        assert caught.value.lowest_bytes == lowest


@pytest.mark.parametrize("cost", LOSSES)
def test_no_choice_can_be_left_out(space: SearchSpace, cost: Cost) -> None:
    selector = Selector(space, cost)
    for budget in budgets(selector, 6):
        found = selector.within(budget)
        for place in range(len(found.plan.choices)):
            rest = (*found.plan.choices[:place], *found.plan.choices[place + 1 :])
            assert space.memory.profile(rest).peak_bytes > budget


def uneven(item: RegionClass, chunk_size: int) -> float:
    """A cost that is no smooth function of the chunk size."""
    return 1e-5 * (1 + Random(f"{item.key} {chunk_size}").random() * len(item.loops))


@pytest.mark.parametrize("cost", [*LOSSES, pytest.param(uneven, id="uneven")])
def test_no_other_chunk_size_is_faster_and_fits(space: SearchSpace, cost: Cost) -> None:
    selector = Selector(space, cost)
    items = {item.regions: item for item in space.classes}
    grids = dict(zip(items, space.grids, strict=True))
    for budget in budgets(selector, 40):
        choices = selector.within(budget).plan.choices
        for place, choice in enumerate(choices):
            now = cost(items[choice.regions], choice.chunk_size)
            for size in grids[choice.regions]:
                if cost(items[choice.regions], size) < now:
                    other = replace(choice, chunk_size=size)
                    every = (*choices[:place], other, *choices[place + 1 :])
                    assert space.memory.profile(every).peak_bytes > budget


def test_a_limit_of_time_is_kept(space: SearchSpace) -> None:
    selector = Selector(space, by_roofline)
    whole_s = graph_seconds(space.memory.graph, CPU)
    free = selector.lowest()
    assert free.extra_s > 0.5 * whole_s, "else no limit below would bite"
    peaks = []
    for slowdown in (1.0, 1.02, 1.1, 1.5, 3.0, 100.0):
        found = selector.lowest(whole_s, slowdown)
        assert found.extra_s <= (slowdown - 1) * whole_s
        peaks.append(found.peak_bytes)
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > peaks[-1] == free.peak_bytes


def test_two_selectors_agree(space: SearchSpace, cost: Cost) -> None:
    # and what was asked before does not matter
    first, second = Selector(space, cost), Selector(space, cost)
    wanted = budgets(first, 6)
    forwards = [first.within(budget) for budget in wanted]
    backwards = [second.within(budget) for budget in reversed(wanted)]
    assert forwards == backwards[::-1]
    assert first.lowest() == second.lowest()


def test_each_cost_is_asked_for_once(space: SearchSpace) -> None:
    asked: list[tuple[str, int]] = []

    def cost(item: RegionClass, chunk_size: int) -> float:
        asked.append((item.key, chunk_size))
        return by_roofline(item, chunk_size)

    selector = Selector(space, cost)
    for budget in budgets(selector, 4):
        selector.within(budget)
    assert asked
    assert len(set(asked)) == len(asked)


def test_a_space_without_classes_has_the_model_alone(space: SearchSpace) -> None:
    selector = Selector(SearchSpace(space.memory, ()), by_roofline)
    assert selector.lowest().plan.choices == ()
    with pytest.raises(BudgetError) as caught:
        selector.within(selector.unchunked_bytes - 1)
    assert caught.value.lowest_bytes == selector.unchunked_bytes


Outcome = tuple[int, float, Plan]


def outcomes(space: SearchSpace, cost: Cost) -> list[Outcome]:
    """Peak, extra time and plan of everything that can be chosen."""
    found = []
    for sizes in itertools.product(*((0, *grid) for grid in space.grids)):
        setting = [
            (item, size) for item, size in zip(space.classes, sizes, strict=True) if size
        ]
        if any(overlap(a, b) for (a, _), (b, _) in itertools.combinations(setting, 2)):
            continue
        plan = make_plan(
            space.memory.graph, [Choice(item.regions, size) for item, size in setting]
        )
        try:
            peak = space.memory.profile(plan.choices).peak_bytes
        except CyclicPlan:
            continue
        found.append((peak, sum(cost(item, size) for item, size in setting), plan))
    return found


def triples(space: SearchSpace) -> Sequence[tuple[RegionClass, ...]]:
    """Sixty triples of classes of which two or more can be chosen together."""
    draw = random.Random(0)
    found: list[tuple[RegionClass, ...]] = []
    while len(found) < 60:
        triple = tuple(draw.sample(space.classes, 3))
        if sum(not overlap(a, b) for a, b in itertools.combinations(triple, 2)) >= 2:
            found.append(triple)
    return found


def test_what_is_feasible_is_found(space: SearchSpace, cost: Cost) -> None:
    missed = []
    for triple in triples(space):
        small = SearchSpace(space.memory, triple)
        every = outcomes(small, cost)
        selector = Selector(small, cost)
        for budget in sorted({peak for peak, _, _ in every}):
            try:
                assert selector.within(budget).peak_bytes <= budget
            except BudgetError as error:
                missed.append((budget, error.lowest_bytes, [item.key for item in triple]))
    assert not missed


def test_no_plan_comes_below_the_floor(space: SearchSpace) -> None:
    sharp = 0
    for triple in triples(space):
        small = SearchSpace(space.memory, triple)
        lowest = min(peak for peak, _, _ in outcomes(small, by_roofline))
        floor = Selector(small, by_roofline).floor_bytes
        assert floor <= lowest
        sharp += floor == lowest
    assert sharp > 5, "else it tells next to nothing"


def test_what_is_at_hand_is_what_is_selected(space: SearchSpace, cost: Cost) -> None:
    selector = Selector(space, cost)
    *loose, lowest = sorted(budgets(selector, 4), reverse=True)
    for budget in loose:
        assert selector.at_hand(budget) == selector.within(budget)
    assert selector.at_hand(lowest) in (None, selector.within(lowest))
    assert selector.at_hand(selector.lowest().peak_bytes - 1) is None


def test_below_the_floor_nothing_is_tried(space: SearchSpace) -> None:
    def never(item: RegionClass, chunk_size: int) -> float:
        raise AssertionError("a plan is judged that cannot fit")

    selector = Selector(SearchSpace(space.memory, triples(space)[0]), never)
    assert selector.at_hand(selector.floor_bytes - 1) is None
    with pytest.raises(AssertionError, match="is judged"):
        selector.at_hand(selector.floor_bytes)


@pytest.mark.parametrize("cost", LOSSES)
def test_what_is_found_is_close_to_the_best(space: SearchSpace, cost: Cost) -> None:
    worse = []
    together = 0
    for triple in triples(space):
        small = SearchSpace(space.memory, triple)
        every = outcomes(small, cost)
        selector = Selector(small, cost)
        for budget in quantiles([peak for peak, _, _ in every]):
            fitting = [(extra, plan) for peak, extra, plan in every if peak <= budget]
            best, plan = min(fitting, key=lambda pair: pair[0])
            together += len(plan.choices) > 1
            found = selector.within(budget)
            if found.extra_s > 1.25 * best + 1e-12:
                worse.append((found.extra_s, best, budget, [item.key for item in triple]))
    assert not worse
    assert together > 5, "else each class could be judged alone"


def quantiles(peaks: Sequence[int]) -> list[int]:
    ordered = sorted(set(peaks))
    return [ordered[(len(ordered) - 1) * step // 6] for step in range(7)]


def test_regions_on_two_dimensions_follow_each_other() -> None:
    class Mixer(torch.nn.Module):
        """Wide in the middle of both halves: the first runs by rows, the second by columns."""

        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = torch.nn.Linear(48, 960), torch.nn.Linear(960, 48)
            self.over, self.under = torch.nn.Linear(64, 1280), torch.nn.Linear(1280, 64)
            self.eval()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.down(torch.relu(self.up(x)))
            # normalised over the rows: columns alone can be taken apart
            y = torch.softmax(x, 0).transpose(0, 1).contiguous()
            mixed: torch.Tensor = self.under(torch.relu(self.over(y)))
            return x + mixed.transpose(0, 1)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny = analysed(Mixer(), (torch.randn(64, 48),))
    found = SearchSpace(tiny.memory, find_classes(tiny.memory))
    chosen = Selector(found, by_roofline).lowest()
    loops = [tiny.memory.loop(choice.regions[0]) for choice in chosen.plan.choices]
    assert [loop.extent for loop in loops] == [64, 48]
    assert tiny.differs(chosen.plan.choices) == ""
    singly = [
        tiny.memory.profile([item.choice(1)]).peak_bytes for item in found.classes
    ]
    assert chosen.peak_bytes < 0.5 * min(singly)


def test_descents_go_by_their_own_price(space: SearchSpace) -> None:
    asked: list[str] = []

    def descent(item: RegionClass, size: int) -> float:
        asked.append(item.key)
        return by_roofline(item, size)

    def cost(item: RegionClass, size: int) -> float:
        return 7.0 * by_roofline(item, size)

    plain, guided = Selector(space, by_roofline), Selector(space, cost, descent=descent)
    for budget in budgets(plain, 4):
        one, other = plain.within(budget), guided.within(budget)
        assert one.plan == other.plan
        assert other.extra_s == pytest.approx(7 * one.extra_s)
    assert asked
