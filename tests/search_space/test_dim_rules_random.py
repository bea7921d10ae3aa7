"""Dimension rules on random calls: shapes, dtypes, dimensions and options are drawn.

For each call and each dimension of its output: where the rule gives a flow, running the op slice by
slice equals running it whole, on two draws of data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from search_space.dim_rules import Query, flow
from search_space.graph import (
    OPAQUE,
    POINTWISE,
    RANDOM,
    Argument,
    Ref,
    SizedGraph,
    walk_arguments,
)
from search_space.probe import Prober, verify
from tests.one_op import Row, argument_names, i, op_graph, t
from tests.search_space.test_dim_rules import ROWS
from tests.search_space.test_dim_rules_wide import WIDE
from tests.tiny import Function, analysed

Call = tuple[str, tuple[Any, ...], dict[str, Any]]
Draw = st.DrawFn

FLOATS = (torch.float32, torch.float64, torch.bfloat16)
size = st.integers(1, 6)


def shape(draw: Draw, least: int = 1, most: int = 4) -> list[int]:
    """A random shape of ``least`` to ``most`` dimensions."""
    return draw(st.lists(size, min_size=least, max_size=most))


def floats(draw: Draw, *sizes: int, wide: bool = False) -> torch.Tensor:
    """A random tensor of a random floating dtype, or of one that keeps sums within the slack."""
    return t(*sizes).to(draw(st.sampled_from(FLOATS[: 2 if wide else 3])))


def dimension(draw: Draw, rank: int) -> int:
    """A dimension, counted from either end."""
    return draw(st.integers(-rank, rank - 1))


def elementwise(draw: Draw) -> Call:
    name = draw(st.sampled_from(("add.Tensor", "mul.Tensor", "maximum.default", "rsub.Tensor")))
    sizes = shape(draw)
    other = [draw(st.sampled_from((1, s))) for s in sizes][draw(st.integers(0, len(sizes))) :]
    return f"aten.{name}", (t(*sizes), t(*other)), {}


def chosen(draw: Draw) -> Call:
    sizes = shape(draw)
    parts = [[draw(st.sampled_from((1, s))) for s in sizes] for _ in range(3)]
    return "aten.where.self", (t(*parts[0]) > 0, t(*parts[1]), t(*parts[2])), {}


def masked(draw: Draw) -> Call:
    sizes = shape(draw)
    mask = [draw(st.sampled_from((1, s))) for s in sizes][draw(st.integers(0, len(sizes))) :]
    return "aten.masked_fill.Scalar", (floats(draw, *sizes), t(*mask) > 0, -1.0), {}


def mixed(draw: Draw) -> Call:
    name = draw(st.sampled_from(("softmax.int", "cumsum.default", "log_softmax.int",
                                 "logcumsumexp.default", "cummax.default")))  # fmt: skip
    sizes = shape(draw)
    return f"aten.{name}", (floats(draw, *sizes, wide=True), dimension(draw, len(sizes))), {}


def ordered(draw: Draw) -> Call:
    sizes = shape(draw)
    dim = dimension(draw, len(sizes))
    if draw(st.booleans()):
        return "aten.sort.default", (t(*sizes), dim, draw(st.booleans())), {}
    return "aten.topk.default", (t(*sizes), draw(st.integers(1, sizes[dim])), dim), {}


def reduced(draw: Draw) -> Call:
    sizes = shape(draw)
    dims = draw(st.lists(st.integers(0, len(sizes) - 1), unique=True, max_size=3))
    dims = [d - len(sizes) if draw(st.booleans()) else d for d in dims]
    several = {"sum.dim_IntList": 2, "mean.dim": 2, "amax.default": 2, "logsumexp.default": 2}
    name = draw(st.sampled_from(tuple(several)))
    return f"aten.{name}", (floats(draw, *sizes, wide=True), dims, draw(st.booleans())), {}


def reduced_to_one(draw: Draw) -> Call:
    name = draw(st.sampled_from(("max.dim", "argmax.default", "any.dim", "prod.dim_int")))
    sizes = shape(draw)
    args = (t(*sizes), dimension(draw, len(sizes)), draw(st.booleans()))
    return f"aten.{name}", args, {}


def spread(draw: Draw) -> Call:
    name = draw(st.sampled_from(("var.correction", "std.correction", "var_mean.correction")))
    sizes = shape(draw)
    dims = draw(st.lists(st.integers(0, len(sizes) - 1), unique=True, min_size=1, max_size=2))
    options = {"correction": 0, "keepdim": draw(st.booleans())}
    return f"aten.{name}", (t(*sizes), dims), options


def normed(draw: Draw) -> Call:
    sizes = shape(draw)
    inner = sizes[draw(st.integers(0, len(sizes) - 1)) :]
    weight = t(*inner) if draw(st.booleans()) else None
    x = floats(draw, *sizes, wide=True)
    weight = None if weight is None else weight.to(x.dtype)
    if draw(st.booleans()):
        return "aten.rms_norm.default", (x, inner, weight), {}
    return "aten.layer_norm.default", (x, inner, weight, weight), {}


def group_normed(draw: Draw) -> Call:
    groups, each = draw(size), draw(size)
    channels = groups * each
    scale = t(channels) if draw(st.booleans()) else None
    args = (t(draw(size), channels, *shape(draw, 1, 2)), groups, scale)
    return "aten.group_norm.default", args, {} if draw(st.booleans()) else {"bias": t(channels)}


def batch_normed(draw: Draw) -> Call:
    channels = draw(size)
    each = tuple(t(channels).abs() for _ in range(4))
    x = t(draw(size), channels, *shape(draw, 0, 2))
    return "aten.batch_norm.default", (x, *each, False, 0.1, 1e-5, False), {}


def multiplied(draw: Draw) -> Call:
    rows, inner, columns = draw(size), draw(size), draw(size)
    batch = shape(draw, 0, 2)
    left = [draw(st.sampled_from((1, s))) for s in batch][draw(st.integers(0, len(batch))) :]
    args = (t(*left, rows, inner), t(*batch, inner, columns))
    return "aten.matmul.default", args, {}


def batched(draw: Draw) -> Call:
    n, rows, inner, columns = draw(size), draw(size), draw(size), draw(size)
    added = t(draw(st.sampled_from((1, n))), draw(st.sampled_from((1, rows))), columns)
    args = (added, t(n, rows, inner), t(n, inner, columns))
    return "aten.baddbmm.default", args, {"beta": draw(st.sampled_from((0, 1, 2)))}


def linear(draw: Draw) -> Call:
    features, made = draw(size), draw(size)
    bias = (t(made),) if draw(st.booleans()) else ()
    return "aten.linear.default", (t(*shape(draw, 0, 3), features), t(made, features), *bias), {}


def contracted(draw: Draw) -> Call:
    labels = "abcd"
    sizes = {label: draw(size) for label in labels}
    terms = [
        "".join(draw(st.lists(st.sampled_from(labels), unique=True, min_size=1, max_size=3)))
        for _ in range(draw(st.integers(1, 3)))
    ]
    used = sorted(set("".join(terms)))
    result = draw(st.one_of(st.none(), st.lists(st.sampled_from(used), unique=True)))
    batch = [draw(size)] if draw(st.booleans()) else []
    dots = "..." if batch else ""
    equation = ",".join(dots + term for term in terms)
    if result is not None:
        equation += "->" + dots + "".join(result)
    operands = [
        t(*batch, *(draw(st.sampled_from((1, sizes[label]))) for label in term)) for term in terms
    ]
    return "aten.einsum.default", (equation, operands), {}


def distances(draw: Draw) -> Call:
    batch, width = shape(draw, 0, 2), draw(size)
    rows = draw(st.sampled_from((1, 4, 30)))
    power = draw(st.sampled_from((1.0, 2.0)))
    return "aten.cdist.default", (t(*batch, rows, width), t(*batch, draw(size), width), power), {}


def convolved(draw: Draw) -> Call:
    positions = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    channels, made = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(positions)]
    stride = [draw(st.integers(1, 3)) for _ in range(positions)]
    padding = [draw(st.integers(0, 1)) for _ in range(positions)]
    dilation = [draw(st.integers(1, 2)) for _ in range(positions)]
    sizes = [draw(st.integers(5, 8)) for _ in range(positions)]
    batch = [draw(st.integers(1, 3))] if draw(st.booleans()) else []
    x, bias = t(*batch, channels, *sizes), t(made) if draw(st.booleans()) else None
    if draw(st.booleans()):
        weight = t(made, channels // groups, *kernel)
        args = (x, weight, bias, stride, padding, dilation, groups)
        return f"aten.conv{positions}d.default", args, {}
    weight = t(channels, made // groups, *kernel)
    padding = [min(p, k - 1) for p, k in zip(padding, kernel, strict=True)]
    name = "default" if positions == 1 else "input"
    args = (x, weight, bias, stride, padding, [0] * positions, groups)
    return f"aten.conv_transpose{positions}d.{name}", args, {}


def pooled(draw: Draw) -> Call:
    positions = draw(st.integers(1, 3))
    x = t(*shape(draw, 2, 2), *(draw(st.integers(4, 8)) for _ in range(positions)))
    if draw(st.booleans()):
        made = [draw(st.integers(1, 4)) for _ in range(positions)]
        return f"aten.adaptive_avg_pool{positions}d.default", (x, made), {}
    kernel = [draw(st.integers(1, 3)) for _ in range(positions)]
    stride: tuple[list[int], ...] = ([draw(st.integers(1, 3)) for _ in range(positions)],)
    name = draw(st.sampled_from(("avg_pool", "max_pool")))
    given_stride = stride if draw(st.booleans()) else ()
    return f"aten.{name}{positions}d.default", (x, kernel, *given_stride), {}


def resized(draw: Draw) -> Call:
    positions = draw(st.integers(1, 3))
    x = t(*shape(draw, 2, 2), *(draw(st.integers(1, 5)) for _ in range(positions)))
    name = draw(st.sampled_from(("upsample_nearest", "_upsample_nearest_exact")))
    times = [draw(st.sampled_from((1.0, 1.5, 2.0, 3.0, 4.0))) for _ in range(positions)]
    if draw(st.booleans()):
        return f"aten.{name}{positions}d.vec", (x, None, times), {}
    made = [int(s * k) for s, k in zip(x.shape[2:], times, strict=True)]
    return f"aten.{name}{positions}d.default", (x, made), {}


def shuffled(draw: Draw) -> Call:
    r = draw(st.integers(1, 3))
    lead, rows, columns, channels = shape(draw, 0, 2), draw(size), draw(size), draw(size)
    if draw(st.booleans()):
        return "aten.pixel_shuffle.default", (t(*lead, channels * r * r, rows, columns), r), {}
    return "aten.pixel_unshuffle.default", (t(*lead, channels, rows * r, columns * r), r), {}


def repeated_times(draw: Draw) -> Call:
    sizes = shape(draw)
    name = draw(st.sampled_from(("repeat", "tile")))
    times = draw(st.lists(st.integers(1, 3), min_size=len(sizes), max_size=len(sizes) + 1))
    if name == "tile":
        times = times[draw(st.integers(0, len(times) - 1)) :]
    return f"aten.{name}.default", (t(*sizes), times), {}


def repeated_in_a_row(draw: Draw) -> Call:
    sizes = shape(draw)
    args = (t(*sizes), draw(st.integers(1, 3)), dimension(draw, len(sizes)))
    return "aten.repeat_interleave.self_int", args, {}


def expanded(draw: Draw) -> Call:
    sizes = shape(draw)
    source = [draw(st.sampled_from((1, s))) for s in sizes][draw(st.integers(0, len(sizes))) :]
    return "aten.expand.default", (t(*source), sizes), {}


def cut(draw: Draw) -> Call:
    sizes = shape(draw)
    dim = dimension(draw, len(sizes))
    start = draw(st.integers(0, sizes[dim] - 1))
    end = draw(st.one_of(st.just(2**63 - 1), st.integers(start + 1, sizes[dim])))
    return "aten.slice.Tensor", (t(*sizes), dim, start, end, draw(st.integers(1, 2))), {}


def parted(draw: Draw) -> Call:
    sizes = shape(draw)
    dim = dimension(draw, len(sizes))
    if draw(st.booleans()):
        return "aten.unbind.int", (t(*sizes), dim), {}
    assume(sizes[dim] % 2 == 0)
    return "aten.split.Tensor", (t(*sizes), sizes[dim] // 2, dim), {}


def joined(draw: Draw) -> Call:
    sizes = shape(draw)
    dim = dimension(draw, len(sizes))
    other = [*sizes]
    other[dim] = draw(size)
    if draw(st.booleans()):
        return "aten.cat.default", ([t(*sizes), t(*other)], dim), {}
    return "aten.stack.default", ([t(*sizes), t(*sizes)], dimension(draw, len(sizes) + 1)), {}


def padded(draw: Draw) -> Call:
    sizes = shape(draw)
    amounts = draw(st.lists(st.integers(0, 2), max_size=2 * len(sizes)))
    return "aten.constant_pad_nd.default", (t(*sizes), amounts[: len(amounts) // 2 * 2], 1.0), {}


def turned(draw: Draw) -> Call:
    sizes = shape(draw)
    dims = draw(st.lists(st.integers(0, len(sizes) - 1), unique=True, min_size=1))
    if draw(st.booleans()):
        return "aten.flip.default", (t(*sizes), dims), {}
    return "aten.roll.default", (t(*sizes), [1] * len(dims), dims), {}


def triangular(draw: Draw) -> Call:
    name = draw(st.sampled_from(("tril", "triu")))
    return f"aten.{name}.default", (t(*shape(draw, 2, 4)), draw(st.integers(-4, 4))), {}


def indexed(draw: Draw) -> Call:
    sizes = [draw(st.integers(6, 7)) for _ in range(draw(st.integers(1, 4)))]
    common = shape(draw, 0, 2)
    places: list[torch.Tensor | None] = []
    for _ in range(draw(st.integers(1, len(sizes)))):
        own = [draw(st.sampled_from((1, s))) for s in common][draw(st.integers(0, len(common))) :]
        places.append(i(*own) if draw(st.booleans()) else None)
    assume(any(place is not None for place in places))
    return "aten.index.Tensor", (t(*sizes), places), {}


def gathered(draw: Draw) -> Call:
    sizes = shape(draw)
    dim = dimension(draw, len(sizes))
    places = [draw(st.integers(1, s)) for s in sizes]
    places[dim] = draw(size)
    return "aten.gather.default", (t(*sizes), dim, i(*places).clamp(max=sizes[dim] - 1)), {}


def looked_up(draw: Draw) -> Call:
    return "aten.embedding.default", (t(6, draw(size)), i(*shape(draw, 1, 3))), {}


def scattered(draw: Draw) -> Call:
    sizes = shape(draw)
    dim = dimension(draw, len(sizes))
    places = [draw(st.sampled_from((s, max(1, s - 1)))) for s in sizes]
    index = i(*places).clamp(max=sizes[dim] - 1)
    return "aten.scatter_add.default", (t(*sizes), dim, index, t(*places)), {}


def counted(draw: Draw) -> Call:
    first, step = draw(st.integers(-5, 5)), draw(st.sampled_from((-3, -1, 1, 2)))
    spare = draw(st.integers(0, abs(step) - 1))
    end = first + step * draw(size) - (spare if step > 0 else -spare)
    return "aten.arange.start_step", (first, end, step), {}


def windowed(draw: Draw) -> Call:
    sizes = shape(draw)
    dim = dimension(draw, len(sizes))
    width = draw(st.integers(1, sizes[dim]))
    return "aten.unfold.default", (t(*sizes), dim, width, draw(st.integers(1, 3))), {}


def alike(draw: Draw) -> Call:
    sizes = shape(draw)
    other = [draw(st.sampled_from((1, s))) for s in sizes]
    args = (t(*sizes), t(*other), dimension(draw, len(sizes)))
    return "aten.cosine_similarity.default", args, {}


CALLS: Mapping[str, Callable[[Draw], Call]] = {
    function.__name__: function
    for function in (
        elementwise, chosen, masked, mixed, ordered, reduced, reduced_to_one, spread, normed,
        group_normed, batch_normed, multiplied, batched, linear, contracted, distances, convolved,
        pooled, resized, shuffled, repeated_times, repeated_in_a_row, expanded, cut, parted, joined,
        padded, turned, triangular, indexed, gathered, looked_up, scattered, counted, windowed,
        alike,
    )
}  # fmt: skip

RANDOM_CALLS = settings(
    max_examples=30, derandomize=True, deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)  # fmt: skip


@pytest.mark.parametrize("kind", CALLS)
def test_sliced_execution_equals_whole_execution(kind: str) -> None:
    confirmed = 0

    @RANDOM_CALLS
    @given(st.data())
    def check(data: st.DataObject) -> None:
        nonlocal confirmed
        op, args, kwargs = data.draw(st.composite(CALLS[kind])())
        graph = op_graph(op, args, kwargs)
        node = graph.nodes[-1]
        for dim in range(max(len(tensor.shape) for tensor in node.outputs)):
            found = flow(graph, node.index, dim)
            if found is None:
                continue
            for seed in (0, 1):
                assert verify(Query(graph, node, dim), found, seed=seed), (op, dim, found)
            confirmed += 1

    check()
    assert confirmed >= 10


# -- odd calls -----------------------------------------------------------------------------------


def dims_of(graph: SizedGraph) -> range:
    return range(max((len(tensor.shape) for tensor in graph.nodes[-1].outputs), default=0))


@pytest.mark.parametrize("case", [*ROWS, *WIDE], ids=str)
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_arguments_by_keyword_are_understood_or_refused(case: Row, kept: int) -> None:
    names = argument_names(case.op)
    moved = {names[place]: value for place, value in enumerate(case.args) if place >= kept}
    graph = op_graph(case.op, case.args[:kept], {**moved, **case.kwargs})
    node = graph.nodes[-1]
    for dim in dims_of(graph):
        found = flow(graph, node.index, dim)
        assert found is None or verify(Query(graph, node, dim), found), (dim, found)


def mutilated(graph: SizedGraph) -> list[SizedGraph]:
    """The graph with its last node's arguments missing, None or empty, one by one."""
    node = graph.nodes[-1]
    lists: list[tuple[Argument, ...]] = []
    for place in range(len(node.args)):
        for value in (None, (), -1):
            lists.append((*node.args[:place], value, *node.args[place + 1 :]))
        lists.append(node.args[:place])
    found = []
    for args in lists:
        refs = tuple(
            (path, value.index)
            for path, value in walk_arguments(args, node.kwargs)
            if isinstance(value, Ref)
        )
        changed = dataclasses.replace(node, args=args, refs=refs)
        found.append(dataclasses.replace(graph, nodes=(*graph.nodes[:-1], changed)))
    return found


@pytest.mark.parametrize("case", [*ROWS, *WIDE], ids=str)
def test_no_rule_raises_on_arguments_that_are_not_there(case: Row) -> None:
    for graph in mutilated(op_graph(case.op, case.args, case.kwargs)):
        node = graph.nodes[-1]
        given = {path for path, _ in node.refs}
        for dim in dims_of(graph):
            found = flow(graph, node.index, dim)
            if found is not None and found.args is None:
                assert {path for path, _ in found.slices} <= given


@pytest.mark.parametrize(
    "case",
    [
        Row("aten.relu.default", (), (t(),)),
        Row("aten.add.Tensor", (), (t(), t())),
        Row("aten.sum.dim_IntList", (), (t(), [])),
        Row("aten.amax.default", (), (t(),)),
        Row("aten.cumsum.default", (), (t(), 0)),
        Row("aten.view.default", (), (t(), [1, 1])),
        Row("aten.squeeze.default", (), (t(1, 1),)),
        Row("aten.transpose.int", (), (t(), 0, -1)),
        Row("aten.permute.default", (), (t(), [])),
        Row("aten.sort.default", (), (t(),)),
        Row("aten.index_select.default", (), (t(3), 0, i())),
        Row("aten.repeat.default", (), (t(1), [1])),
        Row("aten.expand.default", (0, 1), (t(), [3, 4])),
        Row("aten.repeat.default", (0,), (t(), [3])),
        Row("aten.where.self", (0,), (t() > 0, t(), t(3))),
    ],
    ids=str,
)
def test_tensors_without_dimensions(case: Row) -> None:
    graph = op_graph(case.op, case.args)
    found = [dim for dim in dims_of(graph) if flow(graph, graph.nodes[-1].index, dim) is not None]
    assert tuple(found) == case.dims


# -- what is never sliced ------------------------------------------------------------------------


def test_random_and_opaque_ops_have_no_flow_whatever_their_rule() -> None:
    graph = op_graph("aten.relu.default", (t(3, 4),))
    node = graph.nodes[-1]
    assert flow(graph, node.index, 0) is not None
    for trait in (RANDOM, OPAQUE):
        marked = dataclasses.replace(node, traits=frozenset({POINTWISE, trait}))
        other = dataclasses.replace(graph, nodes=(*graph.nodes[:-1], marked))
        assert flow(other, node.index, 0, Prober()) is None


@pytest.mark.parametrize(
    "draws",
    [
        lambda x: torch.rand_like(x),
        lambda x: torch.bernoulli(x.sigmoid()),
        lambda x: torch.nn.functional.dropout(x, 0.5, training=True),
        lambda x: torch.randn(x.shape[0], 4) + x,
        lambda x: torch.randperm(4) + x,
        lambda x: torch.multinomial(x.exp(), 2),
        lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
        lambda x: torch.nn.functional.alpha_dropout(x, 0.5, training=True),
        lambda x: torch.nn.functional.rrelu(x, training=True),
        lambda x: torch.nn.functional.gumbel_softmax(x),
    ],
)
def test_ops_that_draw_numbers_are_marked_and_never_sliced(
    draws: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    subject = analysed(Function(lambda x: draws(x) * 2), (t(3, 4),))
    drawing = [node for node in subject.ops if RANDOM in node.traits]
    assert drawing
    prober = Prober()
    for node in drawing:
        assert all(flow(subject.sized, node.index, dim, prober) is None for dim in (0, 1))


# -- weights are arguments like others -----------------------------------------------------------


def test_weights_are_sliced_as_any_argument_is() -> None:
    # a table of positions and an attention bias, both parameters
    bias = torch.nn.Parameter(t(2, 7, 7))
    table = torch.nn.Parameter(t(7, 5))

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias, self.table = bias, table

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x + self.table
            made: torch.Tensor = (y @ y.mT + self.bias).softmax(-1) @ y
            return made

    subject = analysed(Model().eval(), (t(2, 7, 5),))
    added = [node for node in subject.ops if node.op == "aten.add.Tensor"]
    assert len(added) == 2
    for node in added:
        found = flow(subject.sized, node.index, node.output.shape.index(7))
        assert found is not None and len(found.slices) == 2
