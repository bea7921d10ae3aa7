"""Models that a careless rewrite gets wrong, each the smallest that shows its trap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch

from search_space.candidates import all_regions, find_classes
from search_space.classes import RegionClass
from search_space.dim_rules import Slice, flow
from search_space.errors import CyclicPlan, IllegalRegion
from search_space.graph import Affine
from search_space.liveness import MemoryModel
from search_space.plan import Choice, Region
from search_space.regions import Loop, resolve
from search_space.schedule import schedule
from search_space.space import SearchSpace
from tests.tiny import EVERYTHING, Function, Tiny, analysed, difference
from tuner import apply

F = torch.nn.functional


def t(*shape: int) -> torch.Tensor:
    """Random floats."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def every_loop(subject: Tiny) -> list[Loop]:
    """All regions that growth finds, each once."""
    return list({loop.region: loop for loop in all_regions(subject.sized, EVERYTHING)}.values())


def check(
    function: Callable[..., Any], *args: torch.Tensor, sizes: Sequence[int] = (1, 2, 3)
) -> tuple[Tiny, list[Loop]]:
    """Capture a function and hold every region of it, rewritten into the whole, against it."""
    subject = analysed(Function(function), args)
    loops = every_loop(subject)
    failed = [
        f"{loop.region} at {size}: {found}"
        for loop in loops
        for size in sizes
        if size < loop.extent and (found := subject.differs([Choice((loop.region,), size)]))
    ]
    assert not failed, "\n".join(failed)
    assert subject.differs([]) == ""
    assert loops
    return subject, loops


def labels(subject: Tiny, loop: Loop) -> set[str]:
    """The ops in a loop."""
    return {subject.sized.nodes[node].op for node in loop.region.nodes}


def test_one_tensor_as_both_factors() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        y = x.relu()
        return y @ y

    subject, _ = check(forward, t(12, 12))
    relu, square = subject.find("aten.relu"), subject.find("aten.matmul")
    by_rows, by_columns = (flow(subject.sized, square, dim) for dim in (0, 1))
    assert by_rows is not None and by_rows.slices == (((0,), Slice(0)),)
    assert by_columns is not None and by_columns.slices == (((1,), Slice(1)),)
    for dim in (0, 1):
        # sliced as one factor, it is needed whole as the other
        with pytest.raises(IllegalRegion, match="whole"):
            resolve(subject.sized, Region((relu, square), (dim, dim)))


# -- regions that depend on each other -----------------------------------------------------------


@pytest.fixture(scope="module")
def crossed() -> tuple[Tiny, Loop, Loop]:
    """Two convex, disjoint regions that each need the other's result first."""

    def forward(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = x.relu(), y.relu()
        return a @ b.T, b @ a.T

    subject = analysed(Function(forward), (t(12, 6), t(12, 6)))
    relus = [node.index for node in subject.ops if node.op == "aten.relu.default"]
    products = [node.index for node in subject.ops if node.op == "aten.matmul.default"]
    first, second = (
        subject.memory.loop(Region(pair, (0, 0))) for pair in zip(relus, products, strict=True)
    )
    return subject, first, second


def test_crossed_regions_are_legal_alone_and_cyclic_together(
    crossed: tuple[Tiny, Loop, Loop],
) -> None:
    subject, first, second = crossed
    for loop in (first, second):
        assert subject.differs([Choice((loop.region,), 5)]) == ""
    with pytest.raises(CyclicPlan):
        schedule(subject.sized, [first, second])
    with pytest.raises(CyclicPlan):
        subject.memory.profile([Choice((first.region,), 5), Choice((second.region,), 5)])


def test_decode_drops_one_of_two_crossed_regions(crossed: tuple[Tiny, Loop, Loop]) -> None:
    subject, first, second = crossed
    classes = (RegionClass("first", (first,), 100, 50), RegionClass("second", (second,), 100, 20))
    space = SearchSpace(subject.memory, classes)
    plan = space.decode({"first": 4, "second": 3})
    assert plan.choices == (Choice((second.region,), 3),)  # it saves more
    assert subject.differs(plan.choices) == ""
    assert space.decode({"first": 4}).choices == (Choice((first.region,), 4),)


def test_decode_of_every_pair_of_regions_can_be_scheduled(
    crossed: tuple[Tiny, Loop, Loop],
) -> None:
    subject = crossed[0]
    classes = tuple(
        RegionClass(str(place), (loop,), 2, 1) for place, loop in enumerate(every_loop(subject))
    )
    space = SearchSpace(subject.memory, classes)
    cyclic = 0
    for a, b in product(classes, classes):
        plan = space.decode({a.key: 5, b.key: 5})
        assert 1 <= len(plan.choices) <= 2
        subject.memory.profile(plan.choices)
        cyclic += len(plan.choices) < len({a.key, b.key})
    assert cyclic > 0
    everything = space.decode({item.key: 5 for item in classes})
    assert subject.differs(everything.choices) == ""


# -- tensors made from sizes ---------------------------------------------------------------------


def test_memory_that_a_product_ignores_is_made_per_chunk() -> None:
    def forward(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        scores = torch.baddbmm(
            torch.empty(q.shape[0], q.shape[1], k.shape[1]), q, k.transpose(1, 2), beta=0, alpha=0.5
        )
        return scores.softmax(-1) @ k

    subject, loops = check(forward, t(2, 48, 8), t(2, 48, 8), sizes=(5,))
    around = [
        loop
        for loop in loops
        if {"aten.empty.memory_format", "aten.baddbmm.default"} <= labels(subject, loop)
        and loop.extent == 48
    ]
    assert around
    unchunked = subject.memory.profile().peak_bytes
    peaks = [subject.memory.profile([Choice((loop.region,), 6)]).peak_bytes for loop in around]
    assert min(peaks) < unchunked / 2


CREATED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "ones_like": torch.ones_like,
    "zeros_like": torch.zeros_like,
    "full_like": lambda h: torch.full_like(h, 2.5),
    "full_like of a dtype": lambda h: torch.full_like(h, 2, dtype=torch.int64),
    "new_ones": lambda h: h.new_ones(h.shape[0], h.shape[1], 1),
    "new_zeros": lambda h: h.new_zeros(h.shape),
    "new_full": lambda h: h.new_full((h.shape[1], 8), 0.5),
    "sizes": lambda h: torch.arange(h.shape[1])[:, None] * 1.0,
    "sizes of a product": lambda h: torch.ones((h @ h.mT).shape[1], 8),
}


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_sizes_scaled_by_a_fraction_can_be_told(mode: str) -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x.sin(), scale_factor=1.5, mode=mode).exp()

    subject, _ = check(forward, t(2, 3, 6, 7))
    other = subject.captured.graph.bind(((2, 3, 9, 11),))
    assert subject.captured.graph.at(other).nodes[-1].output.shape == (2, 3, 13, 16)


@pytest.mark.parametrize("name", CREATED)
def test_sizes_read_from_an_intermediate_leave_no_edge(name: str) -> None:
    create = CREATED[name]

    def forward(x: torch.Tensor) -> torch.Tensor:
        h = x.exp()
        return h * (create(h) + 1)

    subject, _ = check(forward, t(3, 7, 8))
    users = subject.sized.users[subject.find("aten.exp")]
    assert [subject.sized.nodes[user].op for user in users] == ["aten.mul.Tensor"]


def test_like_of_a_transposed_tensor_keeps_its_layout() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        zeros = torch.zeros_like(x.exp().transpose(0, 1))
        return zeros.transpose(0, 1).view(-1) + x.reshape(-1)

    check(forward, t(5, 4, 8))


def test_a_mask_from_sizes_moves_with_the_chunk() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        h = x.sin()
        places = torch.arange(h.shape[1], device=h.device)
        hidden = places[None, :] > places[:, None]
        scores = (h @ h.mT).masked_fill(hidden, float("-inf"))
        return scores.softmax(-1) @ h

    subject, loops = check(forward, t(2, 13, 4), sizes=(1, 3, 5, 12))
    offsets = [
        loop.flows[place].args
        for loop in loops
        for place, node in enumerate(loop.region.nodes)
        if subject.sized.nodes[node].op.startswith("aten.arange")
    ]
    assert (Affine(start=1), Affine(start=1, length=1), 1) in offsets


def test_fused_attention_is_chunked_where_nothing_is_dropped() -> None:
    def forward(x: torch.Tensor, drop: float = 0.0) -> torch.Tensor:
        return F.scaled_dot_product_attention(x.sin(), x, x, dropout_p=drop)

    subject, loops = check(forward, t(2, 3, 11, 4))
    attention = subject.find("aten.scaled_dot_product_attention")
    found = {x.region.dims[x.region.nodes.index(attention)] for x in loops
             if attention in x.region.nodes}  # fmt: skip
    assert found == {0, 1, 2}
    dropping = analysed(Function(lambda x: forward(x, 0.5)), (t(2, 3, 11, 4),))
    attention = dropping.find("aten.scaled_dot_product_attention")
    assert not any(attention in loop.region.nodes for loop in every_loop(dropping))


def test_a_causal_flag_is_kept_over_chunks_of_queries() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        h = x.sin()
        return F.scaled_dot_product_attention(h, h, h, is_causal=True)

    subject, loops = check(forward, t(2, 3, 11, 4))
    attention = subject.find("aten.scaled_dot_product_attention")
    dims = {x.region.dims[x.region.nodes.index(attention)] for x in loops
            if attention in x.region.nodes}  # fmt: skip
    assert dims == {0, 1, 2}


# -- dtypes --------------------------------------------------------------------------------------


def test_autocast_is_captured_and_a_call_without_it_captures_again() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 64), torch.nn.Softmax(-1), torch.nn.Linear(64, 8)
    ).eval()
    x = t(40, 8)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = model(x)
        fast = apply(model, (x,), memory_budget=6000)
        made = fast(x)
    assert fast.plan.choices
    assert wanted.dtype == torch.bfloat16
    assert difference([made], [wanted], within=2e-2) == ""
    plain = fast(x)
    with torch.no_grad():
        assert difference([plain], [model(x)]) == ""
    assert plain.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast(x).dtype == torch.bfloat16


def test_a_whole_number_input_does_not_make_the_output_whole() -> None:
    table = torch.nn.Embedding(9, 6).eval()
    ids = torch.arange(11).reshape(1, 11) % 9
    subject = analysed(table, (ids,))
    loops = every_loop(subject)
    assert {loop.region.dims[-1] for loop in loops} == {1, 2}
    for loop in loops:
        assert subject.differs([Choice((loop.region,), 4)]) == ""

    def forward(choose: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.where(choose > 4, x, 0.5) * choose

    check(forward, ids, t(1, 11))


def test_several_dtypes_leave_one_region() -> None:
    def forward(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = x.sin()
        return h.argmax(-1), h > 0, h.to(torch.float64), h.sum(-1) * 2

    _, loops = check(forward, t(7, 5))
    assert loops


# -- what a region reads and writes --------------------------------------------------------------


def test_a_residual_is_read_after_the_slice_is_written() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        h = x.sin()
        return h + (h @ h.T).softmax(-1) @ h

    subject, loops = check(forward, t(13, 6), sizes=(1, 4, 12))
    assert any("aten.softmax.int" in labels(subject, loop) for loop in loops)
    slow = subject.expected[0]
    budget = int(subject.memory.profile().peak_bytes * 0.8)
    fast = apply(subject.model, subject.args, memory_budget=budget)
    assert fast.plan.choices
    assert difference([fast(*subject.args)], [slow]) == ""


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6])
def test_the_last_chunk_takes_what_is_left(size: int) -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        return (x.sin() @ x.T).softmax(-1)

    subject = analysed(Function(forward), (t(7, 4),))
    loops = [loop for loop in every_loop(subject) if loop.extent == 7]
    assert loops
    for loop in loops:
        assert loop.passes(size) == -(-7 // size)
        assert subject.differs([Choice((loop.region,), size)]) == ""


def test_several_outputs_leave_one_region() -> None:
    def forward(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = (x @ x.T).relu()
        return h, h.exp().sum(-1), (h + 1).transpose(0, 1)

    subject, loops = check(forward, t(11, 4), sizes=(1, 4, 10))
    several = [loop for loop in loops if len(loop.outputs) > 1]
    assert several
    region = Region((subject.find("aten.matmul"), subject.find("aten.relu"),
                     subject.find("aten.exp"), subject.find("aten.sum")), (0, 0, 0, 0))  # fmt: skip
    assert len(subject.memory.loop(region).outputs) == 2
    assert subject.differs([Choice((region,), 4)]) == ""


def test_views_of_what_leaves_a_region_stay_views() -> None:
    # the escaping view has gaps; what holds it whole must still serve the view that follows
    def forward(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        part = x.relu().transpose(1, 2)[:, :2]
        return part.exp(), part.transpose(1, 2).reshape(-1, 2).T @ x.reshape(-1, 4)

    check(forward, t(6, 8, 4))


def test_broadcast_tensors_leave_a_region_whole() -> None:
    def forward(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        wide = x.sin()[:, None].expand(-1, 3, -1)
        return wide.exp(), wide.sum(0), wide.transpose(0, 1).reshape(3, -1)

    check(forward, t(5, 4))


def test_inputs_and_views_may_be_outputs() -> None:
    def forward(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = x.sin()
        return x, h, h.transpose(0, 1), h[1:3], h.exp()

    check(forward, t(5, 4))


def test_tensors_that_a_model_makes_of_numbers_are_kept() -> None:
    class Scaled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * torch.tensor([1.0, 2.0, 3.0, 4.0])).exp().sum(-1)

    subject = analysed(torch.nn.Sequential(Scaled()).eval(), (t(7, 4),))
    for loop in every_loop(subject):
        assert subject.differs([Choice((loop.region,), 3)]) == ""
    assert subject.captured.constants


def test_one_layer_called_twice_is_two_occurrences() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(6, 24), torch.nn.GELU(), torch.nn.Linear(24, 6))

    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(2):
                # rows depend on each other here, so that no region spans both calls
                x = self.layer(x.cumsum(0))
            return x

    subject = analysed(Twice().eval(), (t(10, 6),))
    twice = [c for c in find_classes(subject.memory, EVERYTHING) if len(c.loops) == 2]
    assert twice
    for item in twice:
        assert subject.differs([Choice(item.regions, 4)]) == ""


def test_a_graph_captured_at_one_length_serves_another() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(x.shape[0])
        scores = (x.sin() @ x.T).masked_fill(places > places[:, None], -1e9)
        return scores.softmax(-1) @ x

    subject = analysed(Function(forward), (t(13, 6),))
    other = t(29, 6)
    graph = subject.captured.graph.at(subject.captured.graph.bind((tuple(other.shape),)))
    moved = Tiny(
        subject.model, (other,), {}, (subject.model(other),), subject.captured, MemoryModel(graph)
    )
    loops = every_loop(subject)
    assert loops
    for loop in loops:
        assert moved.differs([Choice((loop.region,), 5)]) == ""


def test_bits_read_as_another_dtype_are_not_reshaped() -> None:
    def bits(x: torch.Tensor) -> torch.Tensor:
        y = x @ x.transpose(-1, -2)
        return (y * 3).view(torch.int32).float().mean(-1)

    subject = analysed(Function(bits), (torch.rand(6, 12, 12) + 0.5,))
    classes = find_classes(subject.memory, EVERYTHING)
    assert classes
    for item in classes:
        # relative, since the numbers are as large as bits make them
        made = subject.run([Choice(item.regions, 5)])
        torch.testing.assert_close(made, subject.expected, rtol=1e-6, atol=1.0)


def test_what_is_broadcast_keeps_its_order_outside() -> None:
    """Dense, it would be computed with in another order, and a view of that would not be one."""

    def broadcast(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        e = x.exp().t()[None].expand(3, -1, -1)
        return (e * w).softmax(-1), e.sin().transpose(1, 2).reshape(3, -1)

    check(broadcast, t(4, 5), t(3, 5, 4))


def test_a_mask_beside_the_causal_flag_is_applied() -> None:
    def attend(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q = x[:, None]
        return F.scaled_dot_product_attention(q.sin(), q, q.cos(), mask, is_causal=True).exp()

    check(attend, t(2, 6, 8), t(6, 6), sizes=(1, 4))
