"""Times from measured rates, against what they are made of by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
import torch
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from cost_models.assumed import default_ceilings
from cost_models.ceilings import ceilings_from_plain
from cost_models.curve import value_at
from cost_models.rates import OpRate
from cost_models.times import graph_parts, loop_seconds, loop_times, op_seconds
from cost_models.work import Work, loop_work, node_work
from search_space.candidates import find_classes
from search_space.plan import Region
from search_space.regions import Loop, resolve
from tests.cost_models.made_rates import CPU, RATES
from tests.tiny import EVERYTHING, Function, Tiny, analysed

Op = Callable[..., torch.Tensor]


def work_of(op: Op, *shapes: tuple[int, ...]) -> Work:
    """The work of the op's last node."""
    generator = torch.Generator().manual_seed(0)
    given = tuple(torch.rand(shape, generator=generator) for shape in shapes)
    tiny = analysed(Function(op), given)
    return node_work(tiny.sized, tiny.ops[-1])


def moving(count: float) -> float:
    """Seconds of so many bytes."""
    return count / value_at(RATES.bandwidth, count)


ROW = 64
N = 100 * ROW
WEIGHTS = 8 * 4 * 9

BY_HAND: dict[str, tuple[Op, tuple[tuple[int, ...], ...], float]] = {
    "plain": (torch.add, ((100, ROW), (100, ROW)), 1e-6 + moving(12 * N)),
    "elements": (torch.tanh, ((100, ROW),), 2e-6 + 2e-9 * N + moving(8 * N)),
    "rows": (
        lambda x: torch.softmax(x, -1), ((100, ROW),),
        1e-6 + 0.3e-9 * N + 10e-9 * 100 + moving(8 * N),
    ),
    "across": (
        lambda x: x.t().contiguous(), ((100, ROW),), 1e-6 + 0.5e-9 * N + moving(8 * N),
    ),
    "wide product": (
        torch.mm, ((100, 64), (64, 16)),
        1e-6 + 2 * 100 * 64 * 16 / 1e11 + moving(4 * (6400 + 1024 + 1600)),
    ),
    "product of few columns": (
        torch.mm, ((100, 64), (64, 1)),
        1e-6 + 30 * 2 * 100 * 64 / 1e11 + moving(4 * (6400 + 64 + 100)),
    ),
    "product of few columns that lie by columns": (
        lambda x, w: functional.linear(x, w), ((100, 64), (1, 64)),
        1e-6 + 2 * 2 * 100 * 64 / 1e11 + moving(4 * (6400 + 64 + 100)),
    ),
    "product of few rows and short sums": (
        torch.mm, ((1, 1), (1, 100)),
        1e-6 + 8 * 10 * 2 * 100 / 1e11 + moving(4 * (1 + 100 + 100)),
    ),
    "convolution": (
        lambda x, w: functional.conv2d(x, w, padding=1), ((1, 4, 10, 10), (8, 4, 3, 3)),
        5e-6 + 0.5e-9 * WEIGHTS + 2 * 100 * WEIGHTS / value_at(RATES.convolution, 200 * WEIGHTS)
        + moving(4 * (400 + WEIGHTS + 800)),
    ),
    "attention": (
        functional.scaled_dot_product_attention, ((2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 8)),
        1e-6 + value_at(RATES.attention, 4) * 4 * 6 * 4 * 6 * 8 / 1e11
        + moving(4 * (2 * 6 * 32 + 2 * 6 * 48)),
    ),
    "memory that nobody fills": (
        lambda x: torch.empty((1000, 1000)), ((2, 2),), 1e-6,
    ),
    "view": (lambda x: x.t(), ((100, ROW),), 0.5e-6),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_an_op_takes_what_its_kind_was_measured_to_cost(name: str) -> None:
    op, shapes, expected = BY_HAND[name]
    assert op_seconds(work_of(op, *shapes), 1.0, CPU) == pytest.approx(expected, rel=1e-9)


def gathered(work: Work) -> list[tuple[int, bool, bool]]:
    """Elements of each tensor that is gathered, whether it is taken whole, and aliased."""
    return [(one.elements, one.whole, one.aliased) for one in work.gathered]


def loop_of(tiny: Tiny, op: str, dim: int) -> Loop:
    return resolve(tiny.sized, Region((tiny.find(op),), (dim,)))


def test_what_every_pass_gathers_is_paid_in_every_pass() -> None:
    image, weight = torch.rand(1, 4, 10, 10), torch.rand(8, 4, 1, 1)
    tiny = analysed(Function(lambda x, w: functional.conv2d(x, w)), (image, weight))
    by_rows, by_channels = (loop_of(tiny, "aten.conv2d", dim) for dim in (2, 1))
    (rows,), (channels,) = loop_work(by_rows), loop_work(by_channels)
    assert gathered(rows) == [(32, True, False)]
    # output channels take their own weights only
    assert gathered(channels) == [(32, False, False)]


def test_a_factor_that_is_copied_is_copied_in_every_pass() -> None:
    x, y = torch.rand(9, 30, 40), torch.rand(30, 40, 9)
    tiny = analysed(Function(lambda x, y: x @ y.permute(2, 1, 0)), (x, y))
    (work,) = loop_work(loop_of(tiny, "aten.matmul", 1))
    assert gathered(work) == [(y.numel(), True, False)]
    no_products = replace(RATES, gather=((1.0, 1.0),))
    whole, half = (no_products.computing_s(work, share, 1e30) for share in (1.0, 0.5))
    assert whole == pytest.approx(half) == pytest.approx(y.numel())
    (work,) = loop_work(loop_of(tiny, "aten.matmul", 0))
    assert gathered(work) == [(y.numel(), False, False)]


DEAR = replace(RATES, ops={**RATES.ops, "addmm": OpRate(1.0)})
"""Where each matrix that is multiplied by itself takes a second."""


def test_matrices_that_are_copied_are_multiplied_one_by_one() -> None:
    x, y = torch.rand(9, 30, 40), torch.rand(30, 40, 9)
    tiny = analysed(Function(lambda x, y: x @ y.permute(2, 1, 0)), (x, y))
    (rows,), (batch,) = (loop_work(loop_of(tiny, "aten.matmul", dim)) for dim in (1, 0))
    # each pass over some rows multiplies all nine matrices, each over a part of the batch its own
    assert DEAR.computing_s(rows, 1 / 3, 1e30) == pytest.approx(9, rel=1e-3)
    assert DEAR.computing_s(batch, 1 / 3, 1e30) == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize(
    ("op", "shapes", "times"),
    [
        (lambda x, y: x @ y.permute(2, 1, 0), ((9, 30, 40), (30, 40, 9)), 9),
        # two dimensions of batches that fold to one
        (lambda x, y: x @ y.permute(2, 3, 1, 0), ((3, 3, 30, 40), (30, 40, 3, 3)), 9),
        # and that do not, so that all is copied before the product
        (lambda x, y: x @ y.permute(1, 3, 2, 0), ((3, 4, 30, 40), (30, 3, 40, 4)), 0),
        # read in place
        (lambda x, y: x @ y.mT, ((9, 30, 40), (9, 30, 40)), 0),
        # too small for the library
        (lambda x, y: x @ y.permute(2, 1, 0), ((9, 3, 4), (5, 4, 9)), 0),
        (lambda x, y: x @ y, ((9, 30, 40), (40,)), 0),
    ],
)
def test_which_matrices_are_multiplied_one_by_one(
    op: Op, shapes: tuple[tuple[int, ...], ...], times: int
) -> None:
    tiny = analysed(Function(op), tuple(torch.rand(shape) for shape in shapes))
    work = node_work(tiny.sized, tiny.sized.nodes[tiny.find("aten.matmul")])
    assert DEAR.computing_s(work, 1.0, 1e30) == pytest.approx(times, abs=1e-2)
    with profile(activities=[ProfilerActivity.CPU]) as profiled, torch.no_grad():
        tiny.model(*tiny.args)
    copies = sum(event.count for event in profiled.key_averages() if event.key == "aten::copy_")
    assert (copies >= 9) == bool(times)


def test_neighbours_a_page_apart_are_read_slowly() -> None:
    for summed, expected in ((256, True), (255, False)):
        # neighbours in a row of the second factor are four times as many elements apart
        x, y = torch.rand(4, 8, summed), torch.rand(20, summed, 4)
        tiny = analysed(Function(lambda x, y: x @ y.permute(2, 1, 0)), (x, y))
        (work,) = loop_work(loop_of(tiny, "aten.matmul", 1))
        ((_, _, aliased),) = gathered(work)
        assert aliased == expected
        each = 2e-9 if expected else 0.5e-9
        assert RATES.computing_s(replace(work, by_matrix=False), 1.0, 1e30) == pytest.approx(
            work.gathered[0].elements * each
        )


def test_few_rows_of_a_single_matrix_cost_more() -> None:
    x, w = torch.rand(64, 64), torch.rand(64, 64)
    tiny = analysed(Function(torch.mm), (x, w))
    (work,) = loop_work(loop_of(tiny, "aten.mm", 0))
    whole, row = (RATES.computing_s(work, share, 1e11) for share in (1.0, 1 / 64))
    assert 64 * row == pytest.approx(8 * whole)


@pytest.mark.parametrize("causal", [False, True])
def test_fused_attention_of_few_queries_costs_more(causal: bool) -> None:
    x = torch.rand(1, 2, 64, 16)
    tiny = analysed(
        Function(lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=causal)), (x,)
    )
    work = node_work(tiny.sized, tiny.sized.nodes[tiny.find("aten.scaled_dot_product_attention")])
    done = (0.5 if causal else 1.0) * 4 * 2 * 64 * 64 * 16
    assert RATES.computing_s(work, 1.0, 1e11) == pytest.approx(2 * done / 1e11)
    query = replace(work, cut=0)
    assert 64 * RATES.computing_s(query, 1 / 64, 1e11) == pytest.approx(4 * done / 1e11)


def test_narrow_chunks_slow_a_product_down() -> None:
    tiny = analysed(Function(torch.bmm), (torch.rand(2, 64, 64), torch.rand(2, 64, 64)))
    (work,) = loop_work(loop_of(tiny, "aten.bmm", 1))
    whole, row = (RATES.computing_s(work, share, 1e11) for share in (1.0, 1 / 64))
    assert 64 * row == pytest.approx(4 * whole)


@pytest.fixture(scope="module")
def loops(tiny_gpt2: Tiny, tiny_gpt2_sdpa: Tiny) -> list[Loop]:
    subjects = (tiny_gpt2, tiny_gpt2_sdpa)
    return [
        item.loops[0] for one in subjects for item in find_classes(one.memory, EVERYTHING)
    ]


def test_a_loop_of_one_pass_takes_as_long_as_its_nodes(loops: list[Loop]) -> None:
    for loop in loops:
        nodes = [node_work(loop.graph, loop.graph.nodes[index]) for index in loop.region.nodes]
        expected = sum(op_seconds(work, 1.0, CPU) for work in nodes)
        assert loop_seconds(loop, loop.extent, CPU) == pytest.approx(expected, rel=1e-12)


def test_a_loops_parts_add_up(loops: list[Loop]) -> None:
    for loop in loops:
        for size in (1, max(loop.extent // 2, 1), loop.extent):
            parts = loop_times(loop, size, CPU)
            shares = [(size / loop.extent, loop.extent // size)]
            if rest := loop.extent % size:
                shares.append((rest / loop.extent, 1))
            ops = sum(
                times * op_seconds(work, share, CPU)
                for work in loop_work(loop)
                for share, times in shares
            )
            assert parts.total_s >= ops * (1 - 1e-9)
            if size == loop.extent:
                assert parts.total_s == pytest.approx(ops)


def test_a_graphs_parts_add_up(tiny_gpt2: Tiny) -> None:
    parts = graph_parts(tiny_gpt2.sized, CPU)
    nodes = [node for node in tiny_gpt2.sized.nodes if node.kind == "op"]
    total = sum(op_seconds(node_work(tiny_gpt2.sized, node), 1.0, CPU) for node in nodes)
    assert parts.total_s == pytest.approx(total)
    assert min(parts.launch_s, parts.product_s, parts.other_s) > 0


def test_rates_are_read_as_they_were_written() -> None:
    assert ceilings_from_plain(json.loads(json.dumps(asdict(CPU)))) == CPU


def test_ceilings_of_before_there_were_rates_are_read() -> None:
    row = asdict(default_ceilings("cuda"))
    del row["rates"]
    assert ceilings_from_plain(row) == default_ceilings("cuda")


def test_rates_without_plain_ops_are_refused() -> None:
    with pytest.raises(ValueError, match="rates need those of plain ops"):
        replace(RATES, ops={"tanh": OpRate(1e-6)})


def test_rates_of_older_ceilings_tell_what_they_told() -> None:
    row = json.loads(json.dumps(asdict(CPU)))
    for name in ("alone", "attention", "gather", "aliased"):
        del row["rates"][name]
    rates = ceilings_from_plain(row).rates
    assert rates is not None
    x, y = torch.rand(9, 30, 40), torch.rand(30, 40, 9)
    tiny = analysed(Function(lambda x, y: x @ y.permute(2, 1, 0)), (x, y))
    work = node_work(tiny.sized, tiny.sized.nodes[tiny.find("aten.matmul")])
    flops, slow = 2 * 9 * 30 * 30 * 40 / 1e11, value_at(RATES.rows, 30) * value_at(RATES.summed, 40)
    assert rates.computing_s(work, 1.0, 1e11) == pytest.approx(slow * flops + 0.5e-9 * y.numel())
    x = torch.rand(1, 2, 64, 16)
    tiny = analysed(
        Function(lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=True)), (x,)
    )
    work = node_work(tiny.sized, tiny.sized.nodes[tiny.find("aten.scaled_dot_product_attention")])
    assert rates.computing_s(work, 1.0, 1e11) == pytest.approx(4 * 2 * 64 * 64 * 16 / 1e11)
