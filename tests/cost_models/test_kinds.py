"""Kinds of op, rows, and what is read across the order it lies in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from cost_models.kinds import KINDS, gathered_arguments, is_across, kind_of, row_of
from cost_models.work import node_work
from search_space.graph import SizedGraph, SizedNode
from tests.tiny import Function, analysed

Op = Callable[..., torch.Tensor]


def made(op: Op, *shapes: tuple[int, ...]) -> tuple[SizedGraph, SizedNode]:
    """The op's graph, and its last node."""
    generator = torch.Generator().manual_seed(0)
    tiny = analysed(Function(op), tuple(torch.rand(shape, generator=generator) for shape in shapes))
    return tiny.sized, tiny.ops[-1]


@pytest.mark.parametrize("op", sorted(KINDS))
def test_every_op_of_the_table_is_torchs(op: str) -> None:
    _, packet = op.split(".")
    assert getattr(torch.ops.aten, packet).overloads()


@pytest.mark.parametrize(
    ("op", "shapes", "kind", "row"),
    [
        (lambda x: torch.softmax(x, 1), [(3, 5, 7)], "softmax", 5),
        (lambda x: torch.softmax(x, -1), [(3, 5, 7)], "softmax", 7),
        (lambda x: functional.layer_norm(x, (5, 7)), [(3, 5, 7)], "layer_norm", 35),
        (lambda x: functional.group_norm(x, 2), [(3, 4, 7)], "group_norm", 0),
        (torch.tanh, [(3, 5)], "tanh", 0),
        (torch.maximum, [(3, 5), (3, 5)], "plain", 0),
        (lambda x, y: x <= y, [(3, 5), (3, 5)], "comparison", 0),
        (lambda x, w: functional.conv1d(x, w), [(1, 2, 9), (4, 2, 3)], "convolution", 0),
    ],
)
def test_kinds_and_their_rows(op: Op, shapes: list[tuple[int, ...]], kind: str, row: int) -> None:
    _, node = made(op, *shapes)
    assert kind_of(node) == kind
    assert row_of(node, kind) == row


def gathered(op: Op, *shapes: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Shapes of the arguments that the last op gathers."""
    graph, node = made(op, *shapes)
    refs = dict(node.refs)
    return tuple(graph.nodes[refs[path]].output.shape for path in gathered_arguments(graph, node))


LARGE = (20, 30)


@pytest.mark.parametrize(
    ("op", "shapes", "expected"),
    [
        (lambda x: x + 1, [LARGE], ()),
        (lambda x, y: x.t() + y, [LARGE, (30, 20)], ((30, 20),)),
        (lambda x: x.t().contiguous(), [LARGE], ((30, 20),)),
        (lambda x: functional.layer_norm(x.t(), (20,)), [LARGE], ((30, 20),)),
        # a column lies one after the other, and what is broadcast is read once
        (lambda x, y: x[:, :1].contiguous() * y, [LARGE, LARGE], ()),
        (lambda x, y: x + y.t(), [(3, 5), (5, 3)], ()),  # few
        # what keeps the order that its argument lies in
        (lambda x: torch.relu(x.t()), [LARGE], ()),
        (lambda x, y: x.t() + y.t(), [LARGE, LARGE], ()),
        (lambda x: torch.softmax(x.t(), -1), [LARGE], ((30, 20),)),
        # products with vectors
        (torch.matmul, [(4, 20, 30), (30,)], ()),
        (torch.matmul, [(30,), (4, 30, 20)], ()),
        (torch.matmul, [(2, 4, 20, 30), (30,)], ()),
        (torch.mv, [LARGE, (30,)], ()),
        # rows of several dimensions by one matrix
        (torch.matmul, [(4, 20, 30), (30, 20)], ()),
        # of one dimension more the last is gone through
        (lambda x: x.t().sum(1), [LARGE], ((30, 20),)),
        # a product reads either way of a matrix
        (torch.matmul, [LARGE, (30, 20)], ()),
        (lambda x, y: x @ y.t(), [LARGE, LARGE], ()),
        # but not matrices whose rows and columns both have gaps
        (lambda x, y: x.permute(2, 0, 1) @ y, [(30, 40, 9), (9, 40, 30)], ((9, 30, 40),)),
        # heads that a product has to fold into one batch
        (
            lambda x, y: x.transpose(1, 2) @ y.transpose(1, 2).transpose(2, 3),
            [(3, 20, 4, 8), (3, 20, 4, 8)],
            ((3, 4, 20, 8), (3, 4, 8, 20)),
        ),
        (
            lambda x, w: functional.conv2d(x, w, padding=1),
            [(1, 4, 9, 9), (8, 4, 3, 3)],
            ((8, 4, 3, 3),),
        ),
        (lambda x, w: functional.embedding(x.long(), w), [(7,), LARGE], ()),
    ],
)
def test_what_is_gathered(
    op: Op, shapes: list[tuple[int, ...]], expected: tuple[tuple[int, ...], ...]
) -> None:
    assert gathered(op, *shapes) == expected


def test_which_second_matrix_lies_by_columns() -> None:
    def across(op: Op, *shapes: tuple[int, ...]) -> bool:
        return is_across(*made(op, *shapes))

    assert across(functional.linear, LARGE, (7, 30))
    assert across(lambda x, y: x @ y.t(), LARGE, LARGE)
    assert not across(torch.matmul, LARGE, (30, 20))
    assert not across(torch.add, LARGE, LARGE)


def test_a_products_work_tells_its_summed_side() -> None:
    graph, node = made(torch.bmm, (4, 5, 6), (4, 6, 7))
    work = node_work(graph, node)
    assert work.summed == 6
    assert work.sides(1.0) == (5, 7)
    graph, node = made(torch.add, LARGE, LARGE)
    assert node_work(graph, node).summed == 0
    assert node_work(graph, node).elements == 600


