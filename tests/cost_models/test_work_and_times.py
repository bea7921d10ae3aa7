"""Operations and bytes of ops against counts by hand and torch's own counter, and the roofline."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cost_models.assumed import default_ceilings
from cost_models.ceilings import Ceilings, filling_of
from cost_models.times import UNSEEN, extra_seconds, graph_seconds, loop_seconds, op_seconds
from cost_models.work import loop_work, node_work, product_dtype
from search_space.candidates import find_classes
from search_space.classes import RegionClass
from search_space.graph import SizedGraph
from search_space.plan import Region
from search_space.regions import Loop, resolve
from tests.cost_models.made_features import memory_at
from tests.cost_models.made_rates import PLAIN as CPU
from tests.cost_models.made_rates import RATES
from tests.tiny import EVERYTHING, Function, Tiny, analysed

ENDLESS = 1e30

Op = Callable[..., torch.Tensor]


def tensors(*shapes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def kernels(tiny: Tiny) -> list[Any]:
    """The work of all nodes that start a kernel."""
    found = [node_work(tiny.sized, node) for node in tiny.ops]
    return [work for work in found if work.launches]


# op, shapes, multiply-adds counted as two, elements read and written
BY_HAND: dict[str, tuple[Op, tuple[tuple[int, ...], ...], int, int]] = {
    "matmul": (torch.matmul, ((3, 5), (5, 7)), 2 * 3 * 5 * 7, 15 + 35 + 21),
    "matmul in batches": (
        torch.matmul, ((2, 3, 5), (2, 5, 7)), 2 * 2 * 3 * 5 * 7, 30 + 70 + 42,
    ),
    "matmul with one matrix for the batch": (
        torch.matmul, ((2, 3, 5), (5, 7)), 2 * 2 * 3 * 5 * 7, 30 + 35 + 42,
    ),
    "matrix times vector": (torch.matmul, ((3, 5), (5,)), 2 * 3 * 5, 15 + 5 + 3),
    "linear": (
        functional.linear, ((2, 3, 5), (7, 5), (7,)), 2 * 2 * 3 * 5 * 7, 30 + 35 + 7 + 42,
    ),
    "addmm": (torch.addmm, ((7,), (3, 5), (5, 7)), 2 * 3 * 5 * 7, 7 + 15 + 35 + 21),
    "conv2d": (
        lambda x, w: functional.conv2d(x, w, padding=1),
        ((2, 3, 8, 9), (4, 3, 3, 3)),
        2 * (2 * 4 * 8 * 9) * (3 * 3 * 3),
        2 * 3 * 8 * 9 + 4 * 27 + 2 * 4 * 8 * 9,
    ),
    "conv2d in groups": (
        lambda x, w: functional.conv2d(x, w, groups=2),
        ((2, 4, 8, 9), (6, 2, 3, 3)),
        2 * (2 * 6 * 6 * 7) * (2 * 3 * 3),
        2 * 4 * 8 * 9 + 6 * 18 + 2 * 6 * 6 * 7,
    ),
    "attention": (
        functional.scaled_dot_product_attention,
        ((2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 8)),
        2 * (2 * 3) * (4 * 6 * 8 + 4 * 6 * 8),
        2 * (2 * 3 * 4 * 8) + 2 * (2 * 3 * 6 * 8),
    ),
    "einsum": (
        lambda x, y: torch.einsum("bij,bkj->bik", x, y),
        ((2, 3, 5), (2, 7, 5)),
        2 * 2 * 3 * 7 * 5,
        30 + 70 + 42,
    ),
    "addition": (torch.add, ((3, 5), (5,)), 15, 15 + 5 + 15),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_work_is_that_counted_by_hand(name: str) -> None:
    op, shapes, flops, elements = BY_HAND[name]
    (work,) = kernels(analysed(Function(op), tensors(*shapes)))
    assert work.flops == flops
    assert (work.sliced_bytes, work.whole_bytes) == (4 * elements, 0)


COUNTED: dict[str, tuple[Op, tuple[tuple[int, ...], ...]]] = {
    "matmul": (torch.matmul, ((2, 3, 4, 5), (2, 1, 5, 6))),
    "linear": (functional.linear, ((2, 3, 5), (7, 5), (7,))),
    "addmm": (torch.addmm, ((3, 7), (3, 5), (5, 7))),
    "baddbmm": (torch.baddbmm, ((2, 3, 4), (2, 3, 5), (2, 5, 4))),
    "conv1d": (lambda x, w: functional.conv1d(x, w, stride=2), ((2, 3, 9), (4, 3, 3))),
    "conv2d": (lambda x, w: functional.conv2d(x, w, groups=2), ((2, 4, 8, 6), (6, 2, 3, 3))),
    "conv3d": (functional.conv3d, ((1, 2, 4, 5, 6), (3, 2, 2, 2, 2))),
    "transposed convolution": (
        lambda x, w: functional.conv_transpose2d(x, w, stride=2), ((2, 4, 5, 6), (4, 3, 2, 2)),
    ),
    "attention": (
        functional.scaled_dot_product_attention, ((2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 7)),
    ),
    "einsum": (lambda x, y: torch.einsum("bij,bjk->bik", x, y), ((2, 4, 5), (2, 5, 6))),
    "einsum with dots": (
        lambda x, y: torch.einsum("...ij,...jk->...ik", x, y), ((2, 3, 4, 5), (2, 3, 5, 6)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_operations_are_those_that_torch_counts(name: str) -> None:
    op, shapes = COUNTED[name]
    given = tensors(*shapes)
    # fused attention on CPU is not in torch's table; its parts are
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        op(*given)
    assert counter.get_total_flops() > 0
    assert sum(work.flops for work in kernels(analysed(Function(op), given))) == (
        counter.get_total_flops()
    )


def test_views_cost_nothing() -> None:
    tiny = analysed(Function(lambda x: x.transpose(0, 1).unsqueeze(0)), tensors((3, 5)))
    assert tiny.ops
    assert not kernels(tiny)
    assert graph_seconds(tiny.sized, CPU) == 0.0


@pytest.mark.parametrize(
    ("dim", "sliced", "whole"), [(0, 15 + 21, 35), (1, 35 + 21, 15)], ids=["rows", "columns"]
)
def test_a_product_in_chunks_reads_its_other_side_whole(dim: int, sliced: int, whole: int) -> None:
    tiny = analysed(Function(torch.matmul), tensors((3, 5), (5, 7)))
    (work,) = loop_work(resolve(tiny.sized, Region((tiny.find("aten.matmul"),), (dim,))))
    assert (work.sliced_bytes, work.whole_bytes) == (4 * sliced, 4 * whole)
    assert work.flops == 2 * 3 * 5 * 7


@pytest.fixture(scope="module")
def loops(tiny_gpt2: Tiny, tiny_gpt2_sdpa: Tiny) -> list[Loop]:
    """One occurrence of every class of both tiny GPT-2s."""
    subjects = (tiny_gpt2, tiny_gpt2_sdpa)
    classes = [item for one in subjects for item in find_classes(one.memory, EVERYTHING)]
    assert len(classes) > 20
    return [item.loops[0] for item in classes]


def test_sliced_and_whole_work_add_up_to_the_nodes(loops: list[Loop]) -> None:
    for loop in loops:
        for index, work in zip(loop.region.nodes, loop_work(loop), strict=True):
            node = node_work(loop.graph, loop.graph.nodes[index])
            assert work.flops == node.flops
            assert work.launches == node.launches
            total = work.sliced_bytes + work.whole_bytes
            assert total == node.sliced_bytes + node.whole_bytes, loop.graph.nodes[index]


def test_a_loop_of_one_pass_takes_as_long_as_its_nodes(loops: list[Loop]) -> None:
    for loop in loops:
        nodes = [node_work(loop.graph, loop.graph.nodes[index]) for index in loop.region.nodes]
        expected = sum(op_seconds(work, 1.0, CPU) for work in nodes)
        assert expected > 0
        for size in (loop.extent, loop.extent + 1, 10 * loop.extent):
            assert loop_seconds(loop, size, CPU) == pytest.approx(expected, rel=1e-12)


def test_launches_are_paid_in_every_pass(loops: list[Loop]) -> None:
    launch = Ceilings(ENDLESS, ENDLESS, 2**20, ENDLESS, 1e-6, 0.0)
    for loop in loops:
        started = sum(work.launches for work in loop_work(loop))
        by_size = {s: loop_seconds(loop, s, launch) for s in range(1, loop.extent + 1)}
        sizes = sorted(by_size)
        falling = sorted(by_size.values(), reverse=True)
        assert [by_size[s] for s in sizes] == pytest.approx(falling, rel=1e-12)
        for size, seconds in by_size.items():
            least = loop.passes(size) * started * 1e-6
            assert seconds >= least * (1 - 1e-9)
            if size == loop.extent:
                assert seconds == pytest.approx(least)
            else:  # the copy into the outputs is a launch too
                assert seconds >= (least + loop.passes(size) * 1e-6) * (1 - 1e-9)


def test_operations_are_the_same_however_ragged_the_chunks(loops: list[Loop]) -> None:
    computing = Ceilings(ENDLESS, ENDLESS, 2**20, 1e9, 1e-30, 0.0)
    for loop in loops:
        expected = sum(work.slowdown * work.flops for work in loop_work(loop)) / 1e9
        for size in range(1, loop.extent + 1):
            assert loop_seconds(loop, size, computing) == pytest.approx(expected, rel=1e-9)


def test_without_a_cache_no_chunking_is_predicted_to_be_faster(loops: list[Loop]) -> None:
    flat = replace(CPU, cache_bytes_per_s=CPU.copy_bytes_per_s)
    for loop in loops:
        whole = loop_seconds(loop, loop.extent, flat)
        for size in range(1, loop.extent):
            assert loop_seconds(loop, size, flat) > whole


def test_the_cache_makes_small_chunks_of_large_tensors_cheap() -> None:
    rows = 2**20
    tiny = analysed(Function(lambda x: torch.relu(x) + 1), tensors((64, 4)))
    graph = tiny.captured.graph
    sized = graph.at(graph.bind(((rows, 4),)))
    nodes = tuple(node.index for node in sized.nodes if node.kind == "op")
    loop = resolve(sized, Region(nodes, tuple(0 for _ in nodes)))
    # the work of a quarter does not fit in the cache, that of a 16th does
    assert loop_seconds(loop, rows // 64, CPU) < loop_seconds(loop, rows // 2, CPU)


def test_prudence_counts_no_promised_gain(loops: list[Loop]) -> None:
    for loop in loops:
        whole = loop_seconds(loop, loop.extent, CPU)
        item = RegionClass("", (loop,), 0, 0)
        assert extra_seconds(item, loop.extent, CPU) == 0.0
        for size in range(1, loop.extent):
            extra = extra_seconds(item, size, CPU)
            assert extra > 0
            assert extra > loop_seconds(loop, size, CPU) - whole


def test_gains_count_where_it_is_known_what_ops_cost(loops: list[Loop]) -> None:
    gains = []
    costly = replace(RATES, bandwidth=((1e3, 1e11), (1e5, 1e6)))
    measured = replace(CPU, rates=costly)
    for loop in loops:
        item = RegionClass("", (loop,), 0, 0)
        whole = loop_seconds(loop, loop.extent, measured)
        for size in range(1, loop.extent):
            longer = loop_seconds(loop, size, measured) - whole
            passes = math.log2(loop.passes(size))
            told = extra_seconds(item, size, measured)
            # (what storing takes beyond single passes comes on top)
            assert told >= longer + UNSEEN * whole * passes - 1e-12
            gains.append(told)
    assert min(gains) < 0 < max(gains)


def test_an_output_takes_fresh_pages_however_small_the_chunks() -> None:
    side = 4096
    tiny = analysed(Function(torch.relu), tensors((8, 8)))
    graph = tiny.captured.graph
    sized = graph.at(graph.bind(((side, side),)))
    loop = resolve(sized, Region((tiny.find("aten.relu"),), (0,)))
    item = RegionClass("", (loop,), 0, 0)
    for size in (1, 64, side // 2):
        assert extra_seconds(item, size, default_ceilings("cpu")) > 0


def test_a_longer_graph_takes_longer() -> None:
    seconds = [graph_seconds(memory_at(length).graph, CPU) for length in (4, 8, 14, 33, 60)]
    assert seconds[0] > 0
    assert seconds == sorted(set(seconds))


def test_on_an_endlessly_fast_device_launches_alone_count(tiny_gpt2: Tiny) -> None:
    launch = Ceilings(ENDLESS, ENDLESS, 2**20, ENDLESS, 1e-6, 16.0)
    expected = len(kernels(tiny_gpt2)) * 1e-6
    assert expected > 0
    assert graph_seconds(tiny_gpt2.sized, launch) == pytest.approx(expected)


def on_gpu(sized: SizedGraph, dtype: str | None = None) -> SizedGraph:
    """The graph as if it had been captured on a GPU (and in another dtype)."""
    nodes = [
        replace(node, outputs=tuple(
            replace(t, device="cuda", dtype=dtype or t.dtype) for t in node.outputs
        ))
        for node in sized.nodes
    ]  # fmt: skip
    return replace(sized, nodes=tuple(nodes))


H200 = Ceilings(4.09e12, 3.83e12, 60 * 2**20, 5.1e13, 7.8e-6, 40.6, filling_of(132))
"""As measured, in float32."""


def test_a_products_output_too_small_for_a_gpu_leaves_it_idle() -> None:
    """The UNet's attention by values on an H200: (8, 16384, 16384) by (8, 16384, 12) took 4.0 ms
    whole, 4.1 ms in 4 parts and 9.8 ms in 16."""
    graph = analysed(Function(torch.matmul), tensors((8, 64, 64), (8, 64, 12))).sized
    (node,) = (node for node in graph.nodes if node.refs)
    flops, moved = 2 * 8 * 16384**2 * 12, 4 * 8 * (16384**2 + 2 * 16384 * 12)
    work = replace(
        node_work(graph, node), flops=flops, sliced_bytes=moved, matrix=(16384, 12), cut=0, batch=8
    )
    times = {parts: parts * op_seconds(work, 1 / parts, H200) * 1e3 for parts in (1, 4, 16)}
    assert times[4] == pytest.approx(times[1], rel=0.02)
    assert times[16] > 1.8 * times[1]
    # few cores share no work so finely
    assert op_seconds(work, 1 / 16, CPU) == pytest.approx(op_seconds(work, 1, CPU) / 16, rel=0.01)
    assert op_seconds(work, 0.0, H200) == H200.launch_s


@pytest.mark.parametrize(
    ("shape", "measured_ms"), [((1, 8, 16384, 12), 76.4 / 5), ((512, 4, 512, 32), 5.1)]
)
def test_fused_attention_in_single_precision_takes_a_gpu_as_long_as_measured(
    shape: tuple[int, ...], measured_ms: float
) -> None:
    """Profiles of an H200: the UNet's 5 at width 96, nearly all of its attention, and the ESMFold
    block's. Heads are computed as if they had 64 columns."""
    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(q, k, v)

    small = analysed(Function(attention), tensors(*[(1, 2, 16, shape[-1])] * 3)).sized
    (node,) = (node for node in small.nodes if node.refs)
    there = on_gpu(small)
    work = node_work(there, there.nodes[node.index])
    assert work.slowdown == pytest.approx(64 / shape[-1] / 0.65)
    work = replace(work, flops=4 * shape[0] * shape[1] * shape[2] ** 2 * shape[3])
    assert op_seconds(work, 1.0, H200) * 1e3 == pytest.approx(measured_ms, rel=0.25)
    assert node_work(small, node).slowdown == 1.0


def test_what_a_gpu_is_assumed_to_do_depends_on_the_dtype() -> None:
    single, half = default_ceilings("cuda"), default_ceilings("cuda", "bfloat16")
    assert half.matmul_flops_per_s == 10 * single.matmul_flops_per_s
    assert default_ceilings("cuda", "float16") == half
    assert default_ceilings("cpu", "bfloat16") == default_ceilings("cpu")


def test_a_graphs_dtype_is_that_of_most_of_its_products() -> None:
    def mixed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        c = a.bfloat16() @ b.bfloat16()
        return (c @ b.bfloat16()).float() @ b

    def told(function: Op) -> str:
        return product_dtype(analysed(Function(function), tensors((4, 4), (4, 4))).captured.graph)

    assert told(mixed) == "bfloat16"
    assert told(torch.add) == "float32"


def test_a_device_that_nobody_knows_is_taken_for_a_cpu() -> None:
    assert default_ceilings("tpu") == default_ceilings("cpu") != default_ceilings("cuda")


@pytest.mark.parametrize(
    "name", ["copy_bytes_per_s", "cache_bytes_per_s", "matmul_flops_per_s", "launch_s"]
)
def test_a_ceiling_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="positive"):
        Ceilings(**{**asdict(CPU), name: 0.0})
