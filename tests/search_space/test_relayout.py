"""Views that loops lay out row-major for the sake of the products that read them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch

from search_space.candidates import all_regions, find_classes
from search_space.errors import IllegalRegion
from search_space.layout import contiguous
from search_space.plan import Choice, Region
from search_space.regions import Loop
from search_space.relayout import is_relaid, node_workspace_bytes, output_layout
from search_space.space import SearchSpace
from tests.tiny import EVERYTHING, Function, Tiny, analysed, chunk_sizes
from tuner.measure.cpu import CpuBackend


def t(*shape: int) -> torch.Tensor:
    """Random floats."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


class Triangle(torch.nn.Module):
    """A triangle multiplication: pairs ``(i, j)`` change with all ``(i, k)`` and ``(j, k)``."""

    def __init__(self, width: int, outgoing: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.outgoing = outgoing
        self.norm = torch.nn.LayerNorm(width)
        self.left, self.right, self.left_gate, self.right_gate, self.gate, self.out = (
            torch.nn.Linear(width, width) for _ in range(6)
        )
        self.eval()

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        z = self.norm(pair)
        a = self.left_gate(z).sigmoid() * self.left(z)
        b = self.right_gate(z).sigmoid() * self.right(z)
        if self.outgoing:
            both = torch.matmul(a.permute(0, 3, 1, 2), b.permute(0, 3, 2, 1))
        else:
            both = torch.matmul(a.permute(0, 3, 2, 1), b.permute(0, 3, 1, 2))
        made: torch.Tensor = self.out(both.permute(0, 2, 3, 1)) * self.gate(z).sigmoid()
        return made


@pytest.fixture(scope="module", params=[True, False], ids=["outgoing", "incoming"])
def triangle(request: pytest.FixtureRequest) -> Tiny:
    """A pair tensor of 24 x 24 x 16."""
    return analysed(Triangle(16, request.param), (t(1, 24, 24, 16),))


def every_loop(subject: Tiny) -> list[Loop]:
    """All regions that growth finds, each once."""
    return list({loop.region: loop for loop in all_regions(subject.sized, EVERYTHING)}.values())


def measured(subject: Tiny, choices: list[Choice]) -> int:
    """The peak of a second run, in bytes."""
    module = subject.module(choices)
    with torch.no_grad():
        module(*subject.args)
        gc.collect()
        return CpuBackend().peak(lambda: module(*subject.args))[1].activation_bytes


def test_a_triangle_multiplication_is_exact_and_takes_what_is_predicted(triangle: Tiny) -> None:
    relaid = 0
    wrong = []
    classes = find_classes(triangle.memory, EVERYTHING)
    for item in classes:
        for size in chunk_sizes(item.extent):
            choices = [Choice(item.regions, size)]
            if differs := triangle.differs(choices):
                wrong.append(f"{item.regions} at {size}: {differs}")
        choices = [Choice(item.regions, max(1, item.extent // 4))]
        predicted, found = triangle.memory.profile(choices).peak_bytes, measured(triangle, choices)
        if predicted != found:
            wrong.append(f"{choices}: predicted {predicted}, measured {found}")
        relaid += any(loop.relaid for loop in item.loops)
    assert not wrong, "\n".join(wrong[:10])
    assert relaid > 3


def test_no_pass_copies_what_all_passes_read(triangle: Tiny) -> None:
    memory = triangle.memory
    # both factors in loops of their own, then the product in parts
    views = [node.index for node in triangle.ops if is_relaid(triangle.sized, node.index)]
    assert views
    classes = find_classes(memory, EVERYTHING)
    giving = {
        view: next(c for c in classes if view in {n for loop in c.loops for n in loop.relaid})
        for view in views
    }
    product = triangle.find("aten.matmul")
    before = node_workspace_bytes(triangle.sized, product)
    after = node_workspace_bytes(triangle.sized, product, frozenset(views))
    assert after < before
    space = SearchSpace(memory, tuple({c.key: c for c in giving.values()}.values()))
    choices = list(space.decode({c.key: max(1, c.extent // 8) for c in giving.values()}).choices)
    given_out = {
        node for _, own in memory.active(choices) for loop in own for node in loop.relaid
    }
    assert given_out
    profile = memory.profile(choices)
    place = next(k for k, step in enumerate(profile.steps) if step.node == product)
    plain = memory.profile()
    was = next(k for k, step in enumerate(plain.steps) if step.node == product)
    assert profile.live_bytes[place] < plain.live_bytes[was]
    assert triangle.differs(choices) == ""
    assert profile.peak_bytes == measured(triangle, choices)


def test_only_views_that_products_alone_read_are_laid_out_anew() -> None:
    def forward(
        x: torch.Tensor, y: torch.Tensor, *, other: Callable[[torch.Tensor], Any] | None
    ) -> tuple[torch.Tensor, ...]:
        view = x.exp().permute(2, 0, 1)
        made = view @ y
        return (made, *(() if other is None else (other(view),)))

    x, y = t(20, 21, 22), t(22, 21, 5)

    def relaid(other: Callable[[torch.Tensor], Any] | None) -> bool:
        subject = analysed(Function(lambda *given: forward(*given, other=other)), (x, y))
        view = subject.find("aten.permute")
        loop = subject.memory.loop(Region((subject.find("aten.exp"), view), (0, 1)))
        found = output_layout(subject.sized, view)
        assert (loop.layouts == (found,)) == (view in loop.outputs)
        for size in (1, 7, 19):
            assert subject.differs([Choice((loop.region,), size)]) == ""
        moved = found.strides != subject.sized.nodes[view].output.strides
        assert is_relaid(subject.sized, view) == (found == contiguous(found.shape) and moved)
        return is_relaid(subject.sized, view)

    assert relaid(None)
    assert not relaid(lambda view: view.sin())
    assert not relaid(lambda view: view.transpose(0, 1))
    assert not relaid(lambda view: view)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_products_give_the_same_strides_however_their_arguments_lie(
    order: tuple[int, int, int],
) -> None:
    def forward(x: torch.Tensor, w: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, ...]:
        view = (x * 2).relu().permute(order)
        made = w @ view
        # views that only the captured strides allow
        return made.mT.reshape(-1) * 2, made.permute(2, 0, 1).reshape(made.shape[2], -1), u @ view

    x = t(4, 5, 6)
    shape = x.permute(order).shape
    subject = analysed(Function(forward), (x, t(3, shape[1]), t(shape[0], 2, shape[1])))
    for loop in every_loop(subject):
        for size in chunk_sizes(loop.extent):
            assert subject.differs([Choice((loop.region,), size)]) == ""


@pytest.mark.parametrize("cut", [
    lambda h: h.transpose(0, 1)[:5], lambda h: h[:, :5].transpose(0, 1),
], ids=["transposed and cut", "cut and transposed"])  # fmt: skip
def test_what_reads_a_view_with_gaps_finds_its_order(cut: Callable[..., Any]) -> None:
    # the elementwise op keeps the order of its argument's dimensions, and a view follows
    def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        view = cut(x.relu())
        return view.exp(), view.cos().transpose(0, 1).view(-1) * 2

    subject = analysed(Function(forward), (t(9, 7),))
    gaps = [
        node.index for node in subject.ops
        if node.op in ("aten.slice.Tensor", "aten.transpose.int")
    ]  # fmt: skip
    tried = 0
    for node in gaps:
        for dim in (0, 1):
            try:
                loop = subject.memory.loop(Region((node,), (dim,)))
            except IllegalRegion:
                continue
            tried += 1
            assert subject.differs([Choice((loop.region,), 2)]) == ""
    assert tried
