"""What a loop saves another one by the order in which it stores, against what really runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cost_models.relief import put_in_order, relief_seconds
from cost_models.select import Selector
from cost_models.times import class_seconds, extra_seconds
from search_space.candidates import find_classes
from search_space.classes import RegionClass
from search_space.plan import Region
from search_space.regions import resolve
from search_space.space import SearchSpace
from tests.cost_models.made_rates import CPU, PLAIN, RATES
from tests.tiny import EVERYTHING, Function, Tiny, analysed
from tuner.runtime.loop import ChunkLoop

SIDE, CHANNELS = 12, 5


def multiplied(x: Tensor) -> Tensor:
    """Channels' matrices multiplied, as a triangle of pairs is."""
    left, right = (x.sigmoid() * x).permute(2, 0, 1), (x.tanh() + x).permute(2, 1, 0)
    return torch.softmax(left @ right, -1)


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(SIDE, SIDE, CHANNELS, generator=generator)
    return analysed(Function(multiplied), (given,))


def of(tiny: Tiny, nodes: tuple[int, ...], dims: tuple[int, ...]) -> RegionClass:
    return RegionClass(str(nodes), (resolve(tiny.sized, Region(nodes, dims)),), 0, 0)


@pytest.fixture(scope="module")
def stored(tiny: Tiny) -> RegionClass:
    """The second factor, with its transposition."""
    permuted = tiny.find_all("aten.permute")[1]
    return of(tiny, (tiny.find("aten.tanh"), tiny.find("aten.add"), permuted), (1, 1, 1))


@pytest.fixture(scope="module")
def product(tiny: Tiny) -> RegionClass:
    """The product and what follows, by rows."""
    return of(tiny, (tiny.find("aten.matmul"), tiny.find("aten.softmax")), (1, 1))


def test_what_ends_in_a_transposition_is_stored_in_its_order(
    tiny: Tiny, stored: RegionClass, product: RegionClass
) -> None:
    node = tiny.find_all("aten.permute")[1]
    assert put_in_order(stored) == {node}
    assert put_in_order(product) == frozenset()
    # the loop that really runs lays it out so
    modules = tiny.module([stored.choice(3)]).modules()
    (loop,) = (module for module in modules if isinstance(module, ChunkLoop))
    (output,) = loop.outputs
    assert output.shape == (CHANNELS, SIDE, SIDE) and output.strides == (SIDE * SIDE, SIDE, 1)


def test_relief_is_the_copy_of_every_pass(
    tiny: Tiny, stored: RegionClass, product: RegionClass
) -> None:
    (node,) = put_in_order(stored)
    count = SIDE * SIDE * CHANNELS
    gather = replace(CPU, rates=replace(RATES, gather=((1.0, 1.0),)))
    saved = relief_seconds(product, 4, gather)
    assert saved[node] == pytest.approx(3 * count)
    # the other factor is copied a part at a time
    other = tiny.find_all("aten.permute")[0]
    assert saved[other] == pytest.approx(count)
    assert set(saved) == {node, other}
    assert sum(saved.values()) < class_seconds(product, 4, gather)


def test_matrices_are_copied_one_by_one_until_both_lie_in_order(product: RegionClass) -> None:
    launch = {**RATES.ops, "addmm": replace(RATES.ops["plain"], launch_s=1.0)}
    calls = replace(CPU, rates=replace(RATES, ops=launch))
    assert all(seconds < 1e-3 for seconds in relief_seconds(product, 4, calls).values())


def test_a_tensor_that_is_taken_twice_is_saved_once() -> None:
    x = torch.rand(SIDE, SIDE, CHANNELS)
    tiny = analysed(Function(squared), (x,))
    product = of(tiny, (tiny.find("aten.bmm"),), (0,))
    gather = replace(CPU, rates=replace(RATES, gather=((1.0, 1.0),)))
    (saved,) = relief_seconds(product, 1, gather).values()
    assert saved == pytest.approx(2 * x.numel())
    assert saved < class_seconds(product, 1, gather)


def squared(x: Tensor) -> Tensor:
    matrices = x.sigmoid().permute(2, 1, 0)
    return torch.bmm(matrices, matrices)


def test_what_is_stored_in_another_order_is_copied_across_it(
    stored: RegionClass, product: RegionClass
) -> None:
    gather = replace(CPU, rates=replace(RATES, gather=((1.0, 1.0),)))
    count = SIDE * SIDE * CHANNELS
    assert extra_seconds(stored, 4, gather) == pytest.approx(count, rel=1e-3)
    assert extra_seconds(stored, 4, CPU) < 1e-3


def test_nothing_is_told_where_nothing_was_measured(product: RegionClass) -> None:
    assert not relief_seconds(product, 4, PLAIN)


def test_a_selector_knows_what_loops_save_each_other(tiny: Tiny) -> None:
    classes = find_classes(tiny.memory, EVERYTHING)
    space = SearchSpace(tiny.memory, classes)
    pairs = [
        (one, other)
        for one in classes
        for other in classes
        if not set(put_in_order(one)).isdisjoint(relief_seconds(other, 2, CPU))
        and not {int(node) for loop in one.loops for node in loop.owned}
        & {int(node) for loop in other.loops for node in loop.owned}
    ]
    assert pairs
    alone = Selector(space, lambda item, size: 1.0)
    beside = Selector(space, lambda item, size: 1.0, lambda item, size: relief(item, size))

    def relief(item: RegionClass, size: int) -> dict[int, float]:
        return dict.fromkeys(relief_seconds(item, size, CPU), 0.25)

    for one, other in pairs:
        setting = ((one, 2), (other, 2))
        saved = len(put_in_order(one) & set(relief_seconds(other, 2, CPU)))
        saved += len(put_in_order(other) & set(relief_seconds(one, 2, CPU)))
        assert alone.extra_seconds(setting) == 2.0
        assert beside.extra_seconds(setting) == pytest.approx(2.0 - 0.25 * saved)


@pytest.mark.parametrize(
    ("price", "saved", "added"),
    # (the last one gains by itself: nothing is added for that alone)
    [(1.0, 2.0, True), (3.0, 2.0, False), (-1.0, 0.0, False)],
)
def test_relaxing_adds_a_class_that_relief_pays_for(
    tiny: Tiny, price: float, saved: float, added: bool
) -> None:
    """What stores in order costs so much and saves another class so much; that one gains a bit."""
    classes = find_classes(tiny.memory, EVERYTHING)
    space = SearchSpace(tiny.memory, classes)
    storing = [item for item in classes if put_in_order(item)]
    ordered = {node for item in storing for node in put_in_order(item)}
    reading = [item for item in classes if ordered & set(relief_seconds(item, 2, CPU))]

    def cost(item: RegionClass, size: int) -> float:
        return price if item in storing else -0.1 if item in reading else 1.0

    def relief(item: RegionClass, size: int) -> dict[int, float]:
        return dict.fromkeys(relief_seconds(item, size, CPU), saved)

    selector = Selector(space, cost, relief)
    starts = [
        ((item, 2),) for item in reading
        if item not in storing and any(not selector._overlap(item, one) for one in storing)
    ]  # fmt: skip
    assert starts
    for start in starts:
        grown = selector._relieved(start)
        assert any(item in storing for one in grown for item, _ in one) == added
        if price > 0:  # (else it takes the place of another for its own gain)
            relaxed = selector._relax(start, selector.unchunked_bytes)
            assert any(item in storing for item, _ in relaxed) == added
