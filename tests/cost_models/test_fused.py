"""The work of compiled code, against kernels counted by hand."""

from __future__ import annotations

import math
from collections.abc import Collection

import pytest
import torch
from torch.nn import functional

from cost_models.fused import fused_graph_work, fused_loop_work
from cost_models.kinds import FUSED
from cost_models.times import (
    PIECE_LAUNCHES,
    class_seconds,
    compiled_log_ratio,
    graph_seconds,
    graph_works,
    loop_seconds,
    loop_times,
    op_seconds,
)
from cost_models.work import Work, loop_work
from search_space.candidates import find_classes
from search_space.nested import with_nested
from search_space.plan import Region
from search_space.regions import Loop, resolve
from tests.cost_models.made_rates import CPU, RATES
from tests.tiny import EVERYTHING, Function, Tiny, analysed


def block(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Two products, between them a chain with a view, and a row that all of it shares."""
    hidden = x @ a
    chain = torch.tanh(hidden.view(-1)).view(hidden.shape) * scale + 1
    return torch.softmax(chain @ b, -1)


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    generator = torch.Generator().manual_seed(0)
    shapes = ((8, 16), (16, 32), (32, 4), (32,))
    return analysed(Function(block), tuple(torch.rand(s, generator=generator) for s in shapes))


def fused_of(tiny: Tiny, nodes: Collection[int] | None = None) -> tuple[Work, ...]:
    """The kernels of a graph, or of some of its nodes."""
    works = graph_works(tiny.sized)
    return fused_graph_work(tiny.sized, works if nodes is None else nodes, works)


def kernels(works: tuple[Work, ...]) -> tuple[list[Work], list[Work]]:
    """Products, and what was fused."""
    fused = [work for work in works if work.kind == FUSED]
    return [work for work in works if work.kind != FUSED], fused


def test_chains_become_one_kernel_between_products(tiny: Tiny) -> None:
    products, fused = kernels(fused_of(tiny))
    assert len(products) == 2
    chain, last = sorted(fused, key=lambda work: -len(work.parts))
    assert [part.kind for part in chain.parts] == ["tanh", "plain", "plain"]
    # the product's output and the row are read once, one tensor is written
    assert (chain.sliced_bytes, chain.whole_bytes) == (4 * (8 * 32 + 32 + 8 * 32), 0)
    assert [part.kind for part in last.parts] == ["softmax"]
    assert last.sliced_bytes == 4 * (8 * 4 + 8 * 4)


def test_what_is_used_outside_is_written(tiny: Tiny) -> None:
    """A part of the chain by itself writes what the rest of it reads."""
    tanh = tiny.find("aten.tanh")
    _, (alone,) = kernels(fused_of(tiny, [tanh]))
    assert alone.sliced_bytes == 4 * (8 * 32 + 8 * 32)
    views = [node.index for node in tiny.ops if node.op.startswith("aten.view")]
    assert fused_of(tiny, views) == ()


def rows_of(tiny: Tiny) -> Loop:
    """From the tanh to the output, by rows."""
    nodes = [
        node.index for node in tiny.ops
        if not node.op.startswith(("aten.view", "aten.tanh"))
    ][1:]  # fmt: skip
    return resolve(tiny.sized, Region(tuple(nodes), tuple(0 for _ in nodes)))


def test_a_loops_kernels_read_slices_and_what_every_pass_takes_whole(tiny: Tiny) -> None:
    products, fused = kernels(fused_loop_work(rows_of(tiny)))
    assert len(products) == 1 and len(fused) == 2
    chain = max(fused, key=lambda work: len(work.parts))
    assert (chain.sliced_bytes, chain.whole_bytes) == (4 * (8 * 32 + 8 * 32), 4 * 32)


def test_a_fused_kernel_computes_what_its_parts_do_and_moves_only_its_own_bytes(
    tiny: Tiny,
) -> None:
    _, fused = kernels(fused_of(tiny))
    chain = max(fused, key=lambda work: len(work.parts))
    expected = 1e-6 + 2e-9 * 8 * 32 + 4 * (2 * 8 * 32 + 32) / RATES.bandwidth[0][1]
    assert op_seconds(chain, 1.0, CPU) == pytest.approx(expected)


def test_compiling_saves_what_chains_move_and_nothing_of_products(tiny: Tiny) -> None:
    works = graph_works(tiny.sized)
    after = sum(op_seconds(work, 1.0, CPU) for work in fused_of(tiny))
    assert after < 0.9 * graph_seconds(tiny.sized, CPU)
    for pieces in (0, 1, 3):
        ratio = compiled_log_ratio(tiny.sized, works, works, CPU, pieces)
        called = pieces * PIECE_LAUNCHES * CPU.launch_s
        assert ratio == pytest.approx(math.log((after + called) / graph_seconds(tiny.sized, CPU)))
    lone = analysed(Function(torch.mm), (torch.rand(64, 64), torch.rand(64, 64)))
    works = graph_works(lone.sized)
    assert compiled_log_ratio(lone.sized, works, works, CPU, 0) == 0.0
    assert compiled_log_ratio(tiny.sized, [], {}, CPU) == 0.0


def test_compiled_passes_copy_nothing_but_have_to_be_called(tiny: Tiny) -> None:
    loop = rows_of(tiny)
    plain, compiled = (
        loop_times(loop, 2, CPU, compiled=compiled) for compiled in (False, True)
    )
    assert plain.store_s > 0 == compiled.store_s
    assert compiled.product_s == plain.product_s
    assert compiled.moved_bytes < plain.moved_bytes
    called = 4 * PIECE_LAUNCHES * CPU.launch_s
    assert compiled.launch_s > called
    # one pass is called as well
    assert loop_times(loop, 8, CPU, compiled=True).launch_s > called / 4


def bytes_of(works: Collection[Work]) -> int:
    return sum(work.sliced_bytes + work.whole_bytes for work in works)


def test_a_product_cuts_what_goes_past_it() -> None:
    """Two residual blocks: no kernel both feeds a product and reads its result."""
    def residual(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        x = x + 1
        x = x + torch.tanh(x) @ a
        x = x + torch.tanh(x) @ b
        return x * 2

    size = 32
    tiny = analysed(Function(residual), tuple(torch.rand(size, size) for _ in range(3)))
    products, fused = kernels(fused_of(tiny))
    assert len(products) == 2 and len(fused) == 3
    # read the input, write x and its tanh; read x and a product, write the same; read them again,
    # write the result
    assert bytes_of(fused) == 4 * size * size * (3 + 4 + 3)


def test_loops_cut_what_stands_before_them_from_what_stands_behind() -> None:
    def past(x: torch.Tensor) -> torch.Tensor:
        x = x + 1
        return x + torch.tanh(x * 3) * 2

    tiny = analysed(Function(past), (torch.rand(8, 8),))
    loop = tiny.find("aten.tanh")
    _, whole = kernels(fused_of(tiny))
    _, cut = kernels(fused_of(tiny, [node.index for node in tiny.ops if node.index != loop]))
    assert len(whole) == 1 and len(cut) == 2


def test_what_leaves_through_views_is_written_once_and_views_read_their_part() -> None:
    def heads(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        q, _, v = (x @ w).view(64, 3, 64).unbind(1)
        return torch.tanh(q) @ v

    tiny = analysed(Function(heads), (torch.rand(64, 32), torch.rand(32, 192)))
    products, fused = kernels(fused_of(tiny))
    assert len(products) == 2
    (tanh,) = fused
    assert bytes_of([tanh]) == 4 * 2 * 64 * 64


def test_what_is_computed_again_in_a_loop_is_not_written_there() -> None:
    def shared(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = x + 1
        return torch.tanh(both) * 2, both * 3

    tiny = analysed(Function(shared), (torch.rand(8, 16),))
    first, tanh, last, _ = (node.index for node in tiny.ops)
    loop = resolve(tiny.sized, Region((first, tanh, last), (0, 0, 0), recomputed=(first,)))
    assert loop.outputs == (last,)
    (kernel,) = fused_loop_work(loop)
    assert bytes_of([kernel]) == 4 * 8 * 16 * 2


def test_every_loops_kernels_hold_all_of_its_work(tiny_gpt2: Tiny) -> None:
    for item in find_classes(tiny_gpt2.memory, EVERYTHING):
        loop = item.loops[0]
        plain, fused = loop_work(loop), fused_loop_work(loop)
        assert sum(w.flops for w in fused) == pytest.approx(sum(w.flops for w in plain))
        parts = [part for work in fused for part in (work.parts or (work,)) if part.launches]
        assert len(parts) == sum(work.launches for work in plain)
        assert bytes_of(fused) <= bytes_of(plain)
        # at least what leaves is written, and nothing is written but that and what products read
        outputs = sum(loop.graph.nodes[node].output.nbytes for node in loop.outputs)
        assert bytes_of(fused) >= outputs
        assert loop_seconds(loop, loop.extent, CPU, compiled=True) > 0


def test_loops_inside_loops_are_compiled_too(tiny_gpt2: Tiny) -> None:
    memory = tiny_gpt2.memory
    nested = [
        item for item in with_nested(memory, find_classes(memory, EVERYTHING)) if item.inner
    ]
    assert nested
    for item in nested:
        plain, compiled = (
            class_seconds(item, 1, CPU, compiled=compiled) for compiled in (False, True)
        )
        assert 0 < compiled != plain


def test_attention_stays_a_kernel_of_its_own() -> None:
    def attend(q: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(q * 2, q, q) + 1

    tiny = analysed(Function(attend), (torch.rand(2, 3, 8, 4),))
    alone, fused = kernels(fused_of(tiny))
    assert [work.kind for work in alone] == ["attention"]
    assert len(fused) == 2
