"""Every dimension rule, held against sliced execution on random data."""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from search_space.candidates import all_regions
from search_space.dim_rules import Flow, Query, Slice, flow
from search_space.graph import RANDOM, Affine, Path, SizedGraph
from search_space.probe import Prober, verify
from tests.one_op import Row, allowed, b, confirm, i, op_graph, row, t
from tests.tiny import Function, Tiny, analysed

F = torch.nn.functional


ALL3 = (0, 1, 2)

ROWS: tuple[Row, ...] = (
    # elementwise
    *(row(f"aten.{name}.default", ALL3, t(3, 4, 5)) for name in (
        "clone", "alias", "detach", "lift_fresh_copy", "logical_not", "relu", "relu6", "silu",
        "gelu", "hardtanh", "elu", "selu", "leaky_relu", "mish", "softplus", "hardswish",
        "hardsigmoid", "square", "nan_to_num", "contiguous", "tanh", "neg", "rsqrt",
    )),
    row("aten.gelu.default", ALL3, t(3, 4, 5), approximate="tanh"),
    row("aten.clamp.default", ALL3, t(3, 4, 5), -0.5, 0.5),
    row("aten.clamp.Tensor", ALL3, t(3, 4, 5), t(5), t(4, 1)),
    row("aten.dropout.default", ALL3, t(3, 4, 5), 0.5, False),
    row("aten.dropout.default", (), t(3, 4, 5), 0.5, True),
    row("aten._to_copy.default", ALL3, t(3, 4, 5), dtype=torch.bfloat16),
    row("aten.to.dtype", ALL3, t(3, 4, 5), torch.int64),
    row("aten.type_as.default", ALL3, t(3, 4, 5), i(3, 4, 5)),
    row("aten.view.dtype", ALL3, t(3, 4, 5), torch.int32),
    row("aten.view.dtype", (), t(3, 4, 6), torch.int64),
    row("aten.view.dtype", (), t(3, 4, 6), torch.int16),
    row("aten.to.other", ALL3, t(3, 4, 5), i(2, 2)),
    row("aten.type_as.default", (0, 1), t(3, 4), i(2)),
    row("aten.masked_fill.Scalar", ALL3, t(3, 4, 5), b(4, 1), 2.0),
    row("aten.where.self", ALL3, b(4, 5), t(3, 1, 5), t(3, 4, 1)),
    row("aten.where.ScalarOther", (0, 1), b(4, 1), t(4, 5), -1.0),
    row("aten.logical_and.default", (0, 1), b(4, 5), b(5)),
    row("aten.logical_or.default", (0, 1), b(4, 5), b(4, 1)),
    row("aten.__and__.Tensor", (0, 1), b(4, 5), b(4, 1)),
    row("aten.__or__.Tensor", (0, 1), b(4, 1), b(5)),
    row("aten.__xor__.Tensor", (0, 1), b(4, 5), b(4, 5)),
    row("aten.add.Tensor", ALL3, t(3, 1, 5), t(4, 1)),
    row("aten.pow.Tensor_Scalar", (0, 1), t(4, 5), 3),
    # matrix products
    row("aten.matmul.default", (0, 1), t(3, 4), t(4, 5)),
    row("aten.matmul.default", ALL3, t(3, 4, 5), t(5, 6)),
    row("aten.matmul.default", ALL3, t(4, 5), t(3, 5, 6)),
    row("aten.matmul.default", (0, 1, 2, 3), t(2, 1, 4, 5), t(3, 5, 6)),
    row("aten.matmul.default", (0, 1, 2, 3), t(2, 3, 4, 5), t(2, 3, 5, 4)),
    row("aten.matmul.default", (0,), t(3, 4), t(4)),
    row("aten.matmul.default", (0,), t(4), t(4, 3)),
    row("aten.matmul.default", (0, 1), t(4), t(2, 4, 3)),
    row("aten.matmul.default", (0, 1), t(2, 3, 4), t(4)),
    row("aten.mm.default", (0, 1), t(3, 4), t(4, 5)),
    row("aten.bmm.default", ALL3, t(2, 3, 4), t(2, 4, 5)),
    row("aten.addmm.default", (0, 1), t(5), t(3, 4), t(4, 5)),
    row("aten.addmm.default", (0, 1), t(3, 1), t(3, 4), t(4, 5), beta=2, alpha=3),
    row("aten.baddbmm.default", ALL3, t(2, 3, 5), t(2, 3, 4), t(2, 4, 5), beta=0.5),
    row("aten.baddbmm.default", ALL3, t(1, 1, 5), t(2, 3, 4), t(2, 4, 5)),
    row("aten.mv.default", (0,), t(3, 4), t(4)),
    row("aten.dot.default", (), t(4), t(4)),
    row("aten.linear.default", (0, 1, 2), t(2, 3, 4), t(5, 4), t(5)),
    row("aten.linear.default", (0, 1), t(3, 4), t(5, 4)),
    row("aten.linear.default", (0,), t(4), t(5, 4), t(5)),
    row("aten.einsum.default", ALL3, "bid,bjd->bij", [t(2, 3, 5), t(2, 4, 5)]),
    row("aten.einsum.default", ALL3, "ij,kj->kij", [t(3, 4), t(5, 4)]),
    row("aten.einsum.default", (), "ii,ij->ij", [t(3, 3), t(3, 4)]),
    # normalisation, and what mixes one dimension
    row("aten.softmax.int", (0, 1), t(3, 4, 5), -1),
    row("aten.softmax.int", (0, 2), t(3, 4, 5), 1, torch.float64),
    row("aten.log_softmax.int", (1, 2), t(3, 4, 5), 0),
    row("aten._softmax.default", (0, 1), t(3, 4, 5), -1, False),
    row("aten._log_softmax.default", (0, 1), t(3, 4, 5), 2, False),
    row("aten.cumsum.default", (0, 2), t(3, 4, 5), 1),
    row("aten.cumprod.default", (1, 2), t(3, 4, 5), 0),
    row("aten.logcumsumexp.default", (0, 1), t(3, 4, 5), -1),
    row("aten.sort.default", (0, 1), t(3, 4, 5)),
    row("aten.sort.stable", (0, 2), t(3, 4, 5), stable=True, dim=1),
    row("aten.argsort.default", (1, 2), t(3, 4, 5), 0),
    row("aten.argsort.stable", (0, 2), t(3, 4, 5), stable=True, dim=1),
    row("aten.topk.default", (0, 2), t(3, 4, 5), 2, 1),
    row("aten.topk.default", (0, 1), t(3, 4, 5), 3),
    row("aten.diff.default", (0,), t(3, 4)),
    row("aten.diff.default", (1,), t(3, 4), 1, 0, t(2, 4)),
    row("aten.layer_norm.default", (0, 1), t(3, 4, 5), [5], t(5), t(5)),
    row("aten.layer_norm.default", (0,), t(3, 4, 5), [4, 5]),
    row("aten.native_layer_norm.default", (0, 1), t(3, 4, 5), [5], t(5), t(5), 1e-5),
    row("aten.rms_norm.default", (0, 1), t(3, 4, 5), [5], t(5)),
    row("aten._fused_rms_norm.default", (0, 1), t(3, 4, 5), [5], t(5), 1e-5),
    row("aten.group_norm.default", (0, 1), t(3, 4, 5), 2, t(4), t(4)),
    row("aten.batch_norm.default", ALL3, t(3, 4, 5), t(4), t(4), t(4), t(4).abs(), False, 0.1, 1e-5,
        False),
    row("aten._native_batch_norm_legit_no_training.default", (), t(3, 4, 5), t(4), t(4), t(4),
        t(4).abs(), 0.1, 1e-5),
    row("aten.glu.default", (0, 1), t(3, 4, 6)),
    row("aten.glu.default", (0, 2), t(3, 4, 5), 1),
    row("aten.triu.default", ALL3, t(3, 4, 5)),
    row("aten.tril.default", ALL3, t(3, 4, 5), 1),
    # reductions
    row("aten.sum.dim_IntList", (0, 1), t(3, 4, 5), [1]),
    row("aten.sum.dim_IntList", (0, 2), t(3, 4, 5), [1], True),
    row("aten.mean.dim", (0,), t(3, 4, 5), [-1, 1]),
    row("aten.mean.dim", (), t(3, 4, 5), None),
    row("aten.amax.default", (0, 1), t(3, 4, 5), [0]),
    row("aten.amin.default", (0, 1), t(3, 4, 5), [-1], True),
    row("aten.argmax.default", (0, 1), t(3, 4, 5), 1),
    row("aten.argmin.default", (1, 2), t(3, 4, 5), 0, True),
    row("aten.max.dim", (0, 1), t(3, 4, 5), 1),
    row("aten.min.dim", (0, 2), t(3, 4, 5), 1, True),
    row("aten.prod.dim_int", (0, 1), t(3, 4, 5), 2),
    row("aten.any.dim", (0, 1), b(3, 4, 5), 0),
    row("aten.all.dim", (0, 2), b(3, 4, 5), 1, True),
    row("aten.logsumexp.default", (0,), t(3, 4, 5), [1, 2]),
    row("aten.var.correction", (0, 1), t(3, 4, 5), [1], correction=1),
    row("aten.std.correction", (0, 1), t(3, 4, 5), [2], correction=0, keepdim=True),
    row("aten.var.dim", (0, 1), t(3, 4, 5), [1], True, False),
    row("aten.std.dim", (0, 2), t(3, 4, 5), [1], False, True),
    row("aten.linalg_vector_norm.default", (0, 1), t(3, 4, 5), 2, [0]),
    row("aten.norm.ScalarOpt_dim", (0, 2), t(3, 4, 5), 2, [1], True),
    # views: only the leading dimension of a merged or split group can be sliced
    row("aten.view.default", (0, 2), t(6, 5), [3, 2, 5]),
    row("aten.view.default", (0, 1), t(3, 2, 5), [6, 5]),
    row("aten.view.default", (0, 1), t(4, 6), [4, 6]),
    row("aten.view.default", (0,), t(4, 6), [6, 4]),
    row("aten.view.default", (1, 3), t(3, 8), [1, 3, 1, 4, 2]),
    row("aten.reshape.default", (0, 1), t(3, 4, 2), [3, 8]),
    row("aten._unsafe_view.default", (0, 1), t(3, 4, 5), [12, 5]),
    row("aten.unflatten.int", (0, 1), t(3, 8), 1, [4, 2]),
    row("aten.flatten.using_ints", (0, 1), t(3, 4, 5), 1),
    row("aten.transpose.int", ALL3, t(3, 4, 5), 0, -1),
    row("aten.swapaxes.default", ALL3, t(3, 4, 5), 1, 2),
    row("aten.t.default", (0, 1), t(3, 4)),
    row("aten.t.default", (0,), t(3)),
    row("aten.permute.default", ALL3, t(3, 4, 5), [2, 0, -2]),
    row("aten.unsqueeze.default", (0, 2), t(3, 4), 1),
    row("aten.unsqueeze.default", (0, 1), t(3, 4), -1),
    row("aten.squeeze.dim", (0, 1), t(3, 1, 4), 1),
    row("aten.squeeze.dims", (0, 1), t(1, 3, 1, 4), [0, 2]),
    row("aten.squeeze.default", (0, 1), t(3, 1, 4)),
    row("aten.expand.default", ALL3, t(4, 1), [3, 4, 5]),
    row("aten.expand.default", ALL3, t(3, 1, 5), [-1, 4, -1]),
    row("aten.select.int", (0, 1), t(3, 4, 5), 1, 2),
    row("aten.select.int", (0, 1), t(3, 4, 5), -1, -1),
    row("aten.slice.Tensor", (0, 2), t(3, 4, 5), 1, 1, 3),
    row("aten.slice.Tensor", ALL3, t(3, 4, 5), 1, 0, 9223372036854775807),
    row("aten.slice.Tensor", (1, 2), t(5, 4, 3), 0, 0, 5, 2),
    row("aten.narrow.default", (0, 2), t(3, 4, 5), 1, 1, 2),
    row("aten.split.Tensor", (0, 2), t(3, 4, 5), 2, 1),
    row("aten.split_with_sizes.default", (0, 1), t(3, 4, 5), [2, 3], -1),
    row("aten.chunk.default", (1, 2), t(4, 3, 5), 2),
    row("aten.unbind.int", (0, 1), t(3, 4, 5), 1),
    row("aten.unbind.int", (0, 1), t(3, 4, 5)),
    row("aten.cat.default", (0, 2), [t(3, 4, 5), t(3, 2, 5)], 1),
    row("aten.concat.default", (0, 1), [t(3, 4, 5), t(3, 4, 2)], -1),
    row("aten.stack.default", (0, 2), [t(3, 4), t(3, 4)], 1),
    row("aten.stack.default", (0, 1), [t(3, 4), t(3, 4)], -1),
    row("aten.constant_pad_nd.default", (0, 1), t(3, 4, 5), [1, 2]),
    row("aten.pad.default", (0, 2), t(3, 4, 5), [0, 0, 1, 0]),
    row("aten.fliplr.default", (0, 2), t(3, 4, 5)),
    row("aten.flipud.default", (1,), i(3, 4)),
    row("aten.rot90.default", (2,), t(3, 4, 5)),
    row("aten.rot90.default", (0,), t(3, 4, 5), 1, [1, -1]),
    row("aten.msort.default", (1, 2), t(3, 4, 5)),
    row("aten.masked_scatter.default", (), t(3, 4), b(3, 4), t(3, 4)),
    row("aten.flip.default", (0, 2), t(3, 4, 5), [1]),
    row("aten.roll.default", (0, 1), t(3, 4, 5), [2], [-1]),
    row("aten.roll.default", (), t(3, 4), [1]),
    row("aten.repeat.default", (1,), t(3, 4), [2, 1]),
    row("aten.repeat.default", ALL3, t(1, 4, 1), [3, 1, 5]),
    row("aten.repeat.default", (0, 2), t(3, 4), [2, 2, 1]),
    # look-ups
    row("aten.embedding.default", ALL3, t(6, 5), i(3, 4)),
    row("aten.index.Tensor", ALL3, t(6, 4), [i(3, 5)]),
    row("aten.index.Tensor", ALL3, t(3, 6, 4), [None, i(5)]),
    row("aten.index.Tensor", ALL3, t(6, 5, 4), [i(3, 1), i(1, 2)]),
    row("aten.index.Tensor", (0, 1), t(3, 6, 4), [i(5), None, i(5)]),
    row("aten.index_select.default", ALL3, t(3, 6, 5), 1, i(4)),
    row("aten.gather.default", (0, 1), t(3, 6), 1, i(3, 4)),
    row("aten.gather.default", (1,), t(4, 6), 1, i(3, 5)),
    row("aten.take_along_dim.default", (0, 1), t(3, 6), i(3, 4), 1),
    row("aten.bucketize.Tensor", (0, 1), t(3, 4), t(7).sort().values),
    # fused attention: (batch, heads, queries, features)
    row("aten.scaled_dot_product_attention.default", (0, 1, 2), t(2, 3, 4, 6), t(2, 3, 5, 6),
        t(2, 3, 5, 7)),
    row("aten.scaled_dot_product_attention.default", (0, 1, 2), t(2, 3, 4, 6), t(2, 3, 5, 6),
        t(2, 3, 5, 6), b(2, 1, 4, 5)),
    row("aten.scaled_dot_product_attention.default", (0, 1, 2), t(2, 3, 4, 6), t(2, 3, 5, 6),
        t(2, 3, 5, 6), t(4, 5)),
    row("aten.scaled_dot_product_attention.default", ALL3, t(2, 3, 4, 6), t(2, 3, 4, 6),
        t(2, 3, 4, 6), None, 0.0, True),
    row("aten.scaled_dot_product_attention.default", ALL3, t(2, 4, 3, 6), t(2, 2, 3, 6),
        t(2, 2, 3, 6), enable_gqa=True),
    row("aten.scaled_dot_product_attention.default", (), t(2, 3, 4, 6), t(2, 3, 5, 6),
        t(2, 3, 5, 6), None, 0.5),
    # convolutions and resampling
    row("aten.conv1d.default", (0, 1), t(2, 3, 9), t(4, 3, 3), t(4)),
    row("aten.conv2d.default", (0, 1), t(2, 3, 6, 7), t(4, 3, 3, 3), t(4), [1, 1], [1, 1]),
    row("aten.conv2d.default", (0, 1), t(2, 4, 6, 7), t(4, 2, 3, 3), t(4), [1, 1], [1, 1], [1, 1],
        2),
    row("aten.conv2d.default", (0,), t(3, 6, 7), t(4, 3, 3, 3)),
    row("aten.conv3d.default", (0, 1), t(2, 3, 4, 5, 6), t(4, 3, 2, 2, 2)),
    row("aten.upsample_nearest1d.default", ALL3, t(2, 3, 4), [8]),
    row("aten.upsample_nearest2d.vec", (0, 1, 2, 3), t(2, 3, 4, 5), None, [2.0, 2.0]),
    row("aten.upsample_nearest3d.default", (0, 1, 2, 3, 4), t(2, 3, 2, 3, 4), [4, 6, 8]),
    row("aten.upsample_bilinear2d.vec", (0, 1), t(2, 3, 4, 5), [8, 10], False, None),
    row("aten.upsample_bicubic2d.vec", (0, 1), t(2, 3, 4, 5), [8, 10], False, None),
    row("aten.avg_pool1d.default", ALL3, t(2, 3, 8), [2]),
    row("aten.avg_pool2d.default", (0, 1, 2, 3), t(2, 3, 4, 6), [2, 2]),
    row("aten.max_pool2d.default", ALL3, t(3, 4, 6), [2, 2]),
    row("aten.adaptive_avg_pool2d.default", (0, 1, 2, 3), t(2, 3, 4, 6), [2, 3]),
    # tensors made from sizes; memory that nobody filled has its own test
    row("aten.zeros.default", ALL3, [3, 4, 5]),
    row("aten.ones.default", (0, 1), [3, 4], dtype=torch.bool),
    row("aten.full.default", (0, 1), [3, 4], 2.5),
    row("aten.arange.default", (0,), 7),
    row("aten.arange.start", (0,), 2, 9),
    row("aten.arange.start_step", (0,), 2, 16, 3),
    row("aten.arange.start_step", (0,), 9, 2, -1),
    row("aten.arange.start_step", (), 0.0, 1.0, 0.1),
)  # fmt: skip


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_rules_allow_what_sliced_execution_confirms(case: Row) -> None:
    graph = op_graph(case.op, case.args, case.kwargs)
    flows = allowed(graph)
    for dim, found in flows.items():
        query = Query(graph, graph.nodes[-1], dim)
        for seed in (0, 1):
            assert verify(query, found, seed=seed), (dim, found)
    assert tuple(flows) == case.dims


def test_the_oracle_rejects_a_wrong_flow() -> None:
    graph = op_graph("aten.softmax.int", (t(3, 4), -1))
    query = Query(graph, graph.nodes[-1], 1)
    assert not verify(query, Flow((((0,), Slice(1)),)))
    product = op_graph("aten.mm.default", (t(4, 4), t(4, 4)))
    query = Query(product, product.nodes[-1], 0)
    assert not verify(query, Flow((((1,), Slice(1)),)))


def test_unfilled_memory_is_made_at_the_chunks_size() -> None:
    graph = op_graph("aten.empty.memory_format", ([3, 4, 5],))
    for dim in ALL3:
        found = flow(graph, 0, dim)
        assert found is not None and found.args is not None and not found.slices
        sizes = found.args[0]
        assert isinstance(sizes, tuple)
        assert sizes[dim] == Affine(length=1)
        assert [s for d, s in enumerate(sizes) if d != dim] == [
            s for d, s in enumerate((3, 4, 5)) if d != dim
        ]


def test_leaves_random_ops_and_single_positions_cannot_be_sliced() -> None:
    graph = op_graph("aten.relu.default", (t(1, 4),))
    assert flow(graph, 0, 1) is None
    assert flow(graph, 1, 0) is None
    assert flow(graph, 1, 1) is not None
    captured = analysed(Function(lambda x: torch.rand_like(x) * 0 + x), (t(3, 4),))
    noise = [node for node in captured.ops if RANDOM in node.traits]
    assert noise
    assert all(flow(captured.sized, node.index, 0) is None for node in noise)


# -- what the flows say --------------------------------------------------------------------------


def slices(graph: SizedGraph, dim: int) -> dict[Path, Slice]:
    """How the last node's arguments are sliced."""
    found = flow(graph, len(graph.nodes) - 1, dim)
    assert found is not None
    return dict(found.slices)


def test_linear_slices_rows_or_weights() -> None:
    graph = op_graph("aten.linear.default", (t(2, 3, 4), t(5, 4), t(5)))
    assert slices(graph, 1) == {(0,): Slice(1)}
    assert slices(graph, 2) == {(1,): Slice(0), (2,): Slice(0)}


def test_matmul_answers_per_argument_where_both_are_one_tensor() -> None:
    square = t(4, 4)
    graph = op_graph("aten.matmul.default", (square, square))
    assert len(graph.nodes) == 2
    assert slices(graph, 0) == {(0,): Slice(0)}
    assert slices(graph, 1) == {(1,): Slice(1)}


def test_matmul_takes_a_broadcast_batch_whole() -> None:
    graph = op_graph("aten.matmul.default", (t(2, 1, 4, 5), t(3, 5, 6)))
    assert slices(graph, 0) == {(0,): Slice(0)}
    assert slices(graph, 1) == {(1,): Slice(0)}


def test_merged_heads_are_sliced_in_whole_heads() -> None:
    graph = op_graph("aten.view.default", (t(2, 7, 4, 8), [2, 7, 32]))
    assert slices(graph, 2) == {(0,): Slice(2, Fraction(1, 8))}
    graph = op_graph("aten.view.default", (t(2, 7, 32), [2, 7, 4, 8]))
    assert slices(graph, 2) == {(0,): Slice(2, Fraction(8))}
    assert flow(graph, 1, 3) is None


def test_arange_starts_where_the_chunk_starts() -> None:
    graph = op_graph("aten.arange.start_step", (2, 16, 3))
    found = flow(graph, 0, 0)
    assert found is not None and found.args is not None
    assert found.args[0] == Affine(constant=2, start=3)


def test_expand_makes_broadcast_dimensions_and_slices_the_others() -> None:
    graph = op_graph("aten.expand.default", (t(4, 1), [3, 4, 5]))
    assert slices(graph, 0) == {}
    assert slices(graph, 1) == {(0,): Slice(0)}
    assert slices(graph, 2) == {}


def test_attention_slices_the_mask_with_its_queries() -> None:
    tensors = (t(2, 3, 4, 6), t(2, 3, 5, 6), t(2, 3, 5, 6), b(2, 1, 4, 5))
    graph = op_graph("aten.scaled_dot_product_attention.default", tensors)
    assert slices(graph, 2) == {(0,): Slice(2), (3,): Slice(2)}
    assert slices(graph, 0) == {(k,): Slice(0) for k in range(4)}
    assert slices(graph, 1) == {(k,): Slice(1) for k in range(3)}


# -- random shapes -------------------------------------------------------------------------------

FEW = settings(max_examples=40, derandomize=True, deadline=None)
small = st.integers(2, 6)


@FEW
@given(
    st.lists(st.tuples(small, st.booleans(), st.booleans()), max_size=2), small, small, small,
    st.integers(0, 2), st.integers(0, 2),
)  # fmt: skip
def test_matmul_at_random_shapes(
    batch: list[tuple[int, bool, bool]], rows: int, inner: int, columns: int, cut_a: int, cut_b: int
) -> None:
    a = [1 if single else size for size, single, _ in batch][min(cut_a, len(batch)) :]
    c = [1 if single else size for size, _, single in batch][min(cut_b, len(batch)) :]
    graph = op_graph("aten.matmul.default", (t(*a, rows, inner), t(*c, inner, columns)))
    sizes = graph.nodes[-1].output.shape
    assert set(confirm(graph)) == {d for d, size in enumerate(sizes) if size > 1}


@st.composite
def regrouped(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes of as many elements: factors joined in two ways, with single positions thrown
    in."""
    factors = draw(st.lists(st.sampled_from((1, 2, 3, 5)), min_size=1, max_size=5))
    assume(prod(factors) > 1)
    found = []
    for _ in range(2):
        shape: list[int] = []
        joined: list[int] = draw(st.lists(st.integers(0, 1), min_size=5, max_size=5))
        for factor, join in zip(factors, joined, strict=False):
            if shape and join:
                shape[-1] *= factor
            else:
                shape.append(factor)
        found.append(tuple(shape))
    return found[0], found[1]


@settings(FEW, max_examples=120)
@given(regrouped())
def test_reshape_at_random_shapes(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    source, target = shapes
    graph = op_graph("aten.reshape.default", (t(*source), list(target)))
    flows = confirm(graph)
    # the first dimension of more than one position leads its group, whatever follows
    assert next(d for d, size in enumerate(target) if size > 1) in flows


@FEW
@given(st.lists(st.tuples(small, st.booleans(), st.booleans()), min_size=1, max_size=4))
def test_broadcasting_at_random_shapes(dims: list[tuple[int, bool, bool]]) -> None:
    a = tuple(1 if single else size for size, single, _ in dims)
    c = tuple(1 if single else size for size, _, single in dims)
    lead = next((k for k, size in enumerate(c) if size > 1), len(c))
    graph = op_graph("aten.add.Tensor", (t(*a), t(*c[lead:])))
    sizes = graph.nodes[-1].output.shape
    assert set(confirm(graph)) == {d for d, size in enumerate(sizes) if size > 1}


@FEW
@given(st.integers(-5, 5), st.integers(2, 12), st.integers(1, 4), st.integers(0, 3))
def test_arange_at_random_bounds(first: int, count: int, step: int, spare: int) -> None:
    end = first + count * step - min(spare, step - 1)
    graph = op_graph("aten.arange.start_step", (first, end, step))
    assert graph.nodes[-1].output.shape == (count,)
    assert set(confirm(graph)) == {0}


# -- what the exporter writes --------------------------------------------------------------------


def _captured() -> tuple[Tiny, ...]:
    weight, bias = t(6, 5), t(6)
    kernel, table = t(4, 3, 3, 3), t(9, 5)
    mean, variance = t(3), t(3).abs()

    def tokens(x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        count = x.shape[1]
        left, right = torch.split(x, [2, 3], dim=-1)
        places = torch.arange(count)
        values, order = x.topk(2, dim=-1)
        heads = x[:, None]
        return (
            F.linear(x, weight, bias), x @ x.transpose(1, 2), x.softmax(-1), x.flatten(1),
            F.layer_norm(x, (5,)), F.rms_norm(x, (5,)), F.embedding(ids, table), F.pad(x, (1, 1)),
            torch.cat((x, x * 2), -1), left * right[..., :2], heads.expand(-1, 3, -1, -1),
            x.reshape(x.shape[0], count, 5, 1).permute(0, 2, 1, 3), places[:, None] >= places,
            torch.where(x > 0, x, -x), x.mean(1), x.std(-1, keepdim=True), x.sum((0, 2)),
            x.gather(2, ids[..., None]), x[:, places.flip(0)], x.cumsum(1), x.chunk(2, 1)[0],
            F.glu(x[..., :4]), torch.stack((x, x)), x.roll(1, 1), x.masked_fill(x > 1, 0.0),
            values + order, x.unbind(0)[1], torch.einsum("bid,bjd->bij", x, x), x.select(1, 0),
            x.max(1).values, F.scaled_dot_product_attention(heads, heads, heads), x.squeeze(),
            F.scaled_dot_product_attention(heads, heads, heads, is_causal=True), x.sort(1)[0],
            x.type(torch.float64), x.tril(), x.repeat(2, 1, 1), x.argmax(-1), x.logsumexp(-1),
            x.swapaxes(0, 1).contiguous(),
        )  # fmt: skip

    def pixels(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            F.conv2d(x, kernel, padding=1), F.conv1d(x[:, :, 0], kernel[:, :, 0]),
            F.group_norm(x, 3), F.batch_norm(x, mean, variance), F.relu6(x),
            F.avg_pool2d(x, 2), F.max_pool2d(x, 2), F.adaptive_avg_pool2d(x, 2),
            F.interpolate(x, scale_factor=2.0), F.interpolate(x, (9, 7), mode="bicubic"),
            F.interpolate(x, scale_factor=2.0, mode="bilinear"),
            F.pixel_shuffle(F.conv2d(x, kernel), 2),
        )  # fmt: skip

    return (
        analysed(Function(tokens), (t(2, 7, 5), i(2, 7))),
        analysed(Function(pixels), (t(2, 3, 8, 6),)),
    )


def test_rules_hold_on_exported_ops() -> None:
    confirmed = 0
    for subject in _captured():
        for node in subject.ops:
            if node.op == "getitem" or node.op.startswith("aten.empty"):
                continue
            for dim in range(len(node.output.shape)):
                found = flow(subject.sized, node.index, dim)
                if found is not None:
                    assert verify(Query(subject.sized, node, dim), found), (node.op, dim, found)
                    confirmed += 1
    assert confirmed >= 100


def test_regions_of_several_ops_equal_the_whole() -> None:
    # parts of ops with several outputs, whose rule only a region can exercise
    def forward(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden = x.sin().relu()
        a, c = torch.split(hidden, [2, 4], dim=-1)
        p, q, r = hidden.chunk(3, dim=-1)
        values, order = hidden.topk(2, dim=-1)
        most, _ = hidden.max(1)
        first, second = hidden.unbind(0)
        return a.exp() @ c[..., :2].mT, p * q + r, values * order, most.exp(), first.sin() * second

    subject = analysed(Function(forward), (t(2, 7, 6),))
    loops = {loop.region: loop for loop in all_regions(subject.sized)}
    failed = subject.failures(loops.values())
    assert not failed, "\n".join(failed)
    inside = {subject.sized.nodes[n].op for region in loops for n in region.nodes}
    assert {"getitem", "aten.topk.default", "aten.max.dim", "aten.unbind.int"} <= inside


def test_an_op_without_a_rule_is_probed() -> None:
    graph = op_graph("aten.renorm.default", (t(3, 4), 2.0, 0, 1.0))
    assert flow(graph, 1, 0) is None
    prober = Prober()
    assert flow(graph, 1, 0, prober) == Flow((((0,), Slice(0)),))
    assert flow(graph, 1, 1, prober) is None


@pytest.mark.parametrize(
    ("op", "dim", "args"),
    [
        ("fliplr.default", 1, (i(1, 12),)),
        ("flipud.default", 0, (i(12, 1),)),
        ("msort.default", 0, (i(12, 1),)),
        ("rot90.default", 1, (i(1, 12, 12), 1, [1, 2])),
        ("masked_scatter.default", 1, (i(1, 12), b(1, 12), i(1, 12))),
        ("take.default", 1, (t(1, 12), i(1, 12))),
    ],
)
def test_integers_of_one_position_do_not_hide_that_an_op_moves_them(
    op: str, dim: int, args: tuple[Any, ...]
) -> None:
    """Small enough to be indices there, they are all 0."""
    graph = op_graph(f"aten.{op}", args)
    assert Prober()(Query(graph, graph.nodes[-1], dim)) is None


def test_an_op_of_integers_that_keeps_each_in_its_place_is_probed() -> None:
    graph = op_graph("aten.relu6.default", (i(1, 12),))
    assert Prober()(Query(graph, graph.nodes[-1], 1)) == Flow((((0,), Slice(1)),))
    # what names rows is tried with rows that there are
    table = op_graph("aten.embedding.default", (t(5, 7), i(4, 6)))
    assert Prober()(Query(table, table.nodes[-1], 0)) == Flow((((1,), Slice(0)),))
