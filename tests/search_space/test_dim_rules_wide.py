"""Dimension rules of the rarer ops, and that no rule goes without a test."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from search_space import dim_rules
from search_space.candidates import all_regions
from search_space.dim_rules import Flow, Query, Slice, flow, known_ops
from search_space.probe import verify
from tests.one_op import Row, allowed, b, i, op_graph, row, t
from tests.search_space.test_dim_rules import ALL3, ROWS
from tests.tiny import Function, analysed

ALL2, ALL4, ALL5 = (0, 1), (0, 1, 2, 3), (0, 1, 2, 3, 4)
NONE: tuple[int, ...] = ()


def c(*shape: int) -> torch.Tensor:
    """Random complex numbers."""
    return torch.complex(t(*shape), t(*shape).flip(0))


WIDE: tuple[Row, ...] = (
    # elementwise, without torch's tag
    *(row(f"aten.{name}", ALL2, t(4, 5), t(5)) for name in (
        "rsub.Tensor", "floor_divide.default", "divide.Tensor", "multiply.Tensor",
        "subtract.Tensor", "isclose.default", "copy.default", "_prelu_kernel.default",
    )),
    *(row(f"aten.{name}.default", ALL2, t(4, 5)) for name in (
        "negative", "absolute", "special_erf", "special_expm1", "fix", "log_sigmoid",
    )),
    *(row(f"aten.{name}.default", ALL2, c(4, 5)) for name in (
        "real", "imag", "_conj", "resolve_conj", "resolve_neg",
    )),
    # a mask beside the causal flag, and a query that all batches share
    row(
        "aten.scaled_dot_product_attention.default", (0, 1),
        t(2, 3, 6, 8), t(2, 3, 6, 8).sin(), t(2, 3, 6, 8).cos(), t(6, 6), 0.0, True,
    ),
    row(
        "aten.scaled_dot_product_attention.default", (0, 1, 2),
        t(6, 8), t(2, 3, 5, 8), t(2, 3, 5, 8).sin(),
    ),
    row("aten.scaled_dot_product_attention.default", (0, 1), t(6, 6), t(2, 5, 6), t(2, 5, 6).sin()),
    # biases of several rows, and of one number
    row("aten.linear.default", ALL2, t(4, 3), t(5, 3), t(4, 5)),
    row("aten.linear.default", ALL2, t(4, 3), t(5, 3), t(1, 5)),
    row("aten.linear.default", ALL2, t(4, 3), t(5, 3), t(1)[0]),
    row("aten.linear.default", (0, 1, 2), t(2, 4, 3), t(5, 3), t(2, 4, 5)),
    row("aten.squeeze.dims", (0, 2), t(4, 1, 5), []),
    # whole numbers that a dtype has, and such as it rounds
    row("aten.arange.default", (0,), 250, dtype=torch.bfloat16),
    row("aten.arange.default", NONE, 260, dtype=torch.bfloat16),
    row("aten.arange.start_step", NONE, 0, -5000, -1, dtype=torch.float16),
    row("aten.arange.default", (0,), 5000),
    row("aten.rsub.Scalar", ALL2, t(4, 5), 1.0),
    row("aten.polar.default", ALL2, t(4, 5), t(5)),
    row("aten.complex.default", ALL2, t(4, 1), t(5)),
    row("aten.fill.Tensor", ALL2, t(4, 5), t(1)[0]),
    row("aten.fill.Scalar", ALL2, t(4, 5), 2.0),
    row("aten.isin.Tensor_Tensor", ALL2, i(4, 5), i(3)),
    row("aten.isin.Tensor_Scalar", ALL2, i(4, 5), 1),
    row("aten.prelu.default", ALL3, t(3, 4, 5), t(4)),
    row("aten.prelu.default", ALL3, t(3, 4, 5), t(1)),
    # products
    row("aten.addbmm.default", ALL2, t(3, 5), t(2, 3, 4), t(2, 4, 5)),
    row("aten.addbmm.default", ALL2, t(1, 5), t(2, 3, 4), t(2, 4, 5), alpha=2),
    row("aten.addmv.default", (0,), t(3), t(3, 4), t(4)),
    row("aten.outer.default", ALL2, t(3), t(4)),
    row("aten.ger.default", ALL2, t(3), t(4)),
    row("aten.addr.default", ALL2, t(3, 1), t(3), t(4)),
    row("aten.vdot.default", NONE, t(3), t(3)),
    row("aten.cdist.default", ALL3, t(3, 4, 5), t(3, 6, 5)),
    row("aten.cdist.default", ALL3, t(3, 30, 5), t(3, 6, 5)),
    row("aten.cdist.default", ALL3, t(3, 4, 5), t(6, 5), 1.0),
    row("aten.cdist.default", ALL2, t(4, 5), t(6, 5), 2.0, 1),
    row("aten.einsum.default", ALL4, "...ikc,...jkc->...ijc", [t(2, 3, 5, 4), t(2, 6, 5, 4)]),
    row("aten.einsum.default", ALL3, "...ik,...kj", [t(2, 3, 4), t(4, 5)]),
    row("aten.einsum.default", ALL2, "kj,ik", [t(4, 5), t(3, 4)]),
    row("aten.einsum.default", ALL3, "bik,bkj->bij", [t(1, 3, 4), t(2, 4, 5)]),
    row("aten.einsum.default", ALL3, "bi,bj,bk->ijk", [t(2, 3), t(2, 4), t(2, 5)],
        path=[0, 1, 0, 1]),
    row("aten.einsum.default", ALL5, "bsia,bsjc->bijac", [t(2, 3, 4, 5), t(2, 3, 6, 7)]),
    # norms, and what mixes one dimension
    row("aten.group_norm.default", (0,), t(3, 4, 5), 1, t(4), t(4)),
    row("aten.group_norm.default", ALL2, t(3, 6, 5, 2), 3),
    row("aten.group_norm.default", ALL2, t(3, 4, 5), 4, None, t(4)),
    row("aten.native_group_norm.default", (0,), t(3, 4, 5), t(4), t(4), 3, 4, 5, 2, 1e-5),
    row("aten.instance_norm.default", ALL2, t(3, 4, 5), t(4), t(4), None, None, True, 0.1,
        1e-5, False),
    row("aten.instance_norm.default", ALL2, t(3, 4, 5), None, None, t(4), t(4).abs(), False, 0.1,
        1e-5, False),
    row("aten.cummax.default", (0, 2), t(3, 4, 5), 1),
    row("aten.cummin.default", (0, 1), t(3, 4, 5), -1),
    row("aten._safe_softmax.default", (0, 1), t(3, 4, 5), -1),
    row("aten._weight_norm.default", (0,), t(3, 4, 5), t(3, 1, 1), 0),
    row("aten._weight_norm.default", (2,), t(3, 4, 5), t(1, 1, 5), 2),
    row("aten.cosine_similarity.default", ALL2, t(3, 1, 5), t(1, 4, 5), 2),
    row("aten.cosine_similarity.default", ALL2, t(3, 4, 5), t(4, 5), 1),
    row("aten.cross.default", (0,), t(4, 3), t(4, 3), 1),
    row("aten.cross.default", NONE, t(4, 3), t(4, 3)),
    row("aten.linalg_cross.default", (0,), t(4, 3), t(1, 3)),
    row("aten.fft_fft.default", (0, 1), t(3, 4, 5)),
    row("aten.fft_ifft.default", (1, 2), t(3, 4, 5), None, 0),
    row("aten.fft_rfft.default", (0, 2), t(3, 4, 5), 6, 1),
    row("aten.fft_irfft.default", (0, 1), c(3, 4, 5)),
    row("aten.fft_hfft.default", (0, 1), c(3, 4, 5)),
    *(row(f"aten.fft_{name}2.default", (0,), c(3, 4, 5)) for name in ("fft", "ifft", "irfft")),
    row("aten.fft_rfft2.default", (1,), t(3, 4, 5), None, [0, 2]),
    row("aten._fft_r2c.default", (0,), t(3, 4, 5), [1, 2], 0, True),
    row("aten._fft_c2r.default", (0, 1), c(3, 4, 5), [2], 0, 8),
    row("aten._fft_c2c.default", (1,), c(3, 4, 5), [0, 2], 0, True),
    row("aten.tril.default", ALL2, t(6, 5), -2),
    row("aten.triu.default", ALL3, t(3, 6, 5), 1),
    # reductions
    row("aten.norm.ScalarOpt_dim_dtype", (0, 1), t(3, 4, 5), 2, [2], False, dtype=torch.float64),
    row("aten.nansum.default", (0, 1), t(3, 4, 5), [1]),
    row("aten.nanmean.default", (0, 2), t(3, 4, 5), [1], True),
    row("aten.any.dims", (0,), b(3, 4, 5), [1, 2]),
    row("aten.all.dims", (0, 2), b(3, 4, 5), [1], True),
    *(row(f"aten.{name}.default", NONE, t(3, 4)) for name in (
        "sum", "mean", "prod", "max", "min", "any", "all", "std", "var",
    )),
    *(row(f"aten.{name}", (0, 1), t(3, 4, 5), -1) for name in ("median.dim", "nanmedian.dim")),
    row("aten.mode.default", (0, 1), i(3, 4, 5)),
    row("aten.kthvalue.default", (0, 1), t(3, 4, 5), 2),
    row("aten.kthvalue.default", (0, 2), t(3, 4, 5), 2, 1, True),
    row("aten.count_nonzero.dim_IntList", (0, 1), i(3, 4, 5), [1]),
    row("aten.var_mean.correction", (0, 1), t(3, 4, 5), [2], correction=0),
    row("aten.std_mean.correction", (0, 2), t(3, 4, 5), [1], correction=1, keepdim=True),
    row("aten.sum.dim_IntList", NONE, t(3, 4, 5), [], True),
    # views and copies
    row("aten.tile.default", ALL3, t(3, 4, 5), [1]),
    row("aten.tile.default", (0, 2), t(3, 4, 5), [2, 1]),
    row("aten.tile.default", ALL3, t(4, 1), [3, 1, 5]),
    row("aten.repeat_interleave.self_int", ALL3, t(3, 4, 5), 2, 1),
    row("aten.repeat_interleave.self_int", ALL3, t(3, 4, 5), 3, -3, output_size=9),
    row("aten.repeat_interleave.self_int", NONE, t(3, 4), 2),
    row("aten.meshgrid.default", ALL3, [t(3), t(4), t(5)]),
    row("aten.meshgrid.indexing", ALL3, [t(3), t(4), t(5)], indexing="xy"),
    row("aten.slice_scatter.default", (0, 2), t(3, 4, 5), t(3, 2, 5), 1, 1, 3),
    row("aten.select_scatter.default", (0, 2), t(3, 4, 5), t(3, 5), 1, 2),
    row("aten.view_as_complex.default", ALL2, t(3, 4, 2)),
    row("aten.view_as_real.default", ALL2, c(3, 4)),
    row("aten.diagonal.default", (0,), t(4, 3, 5), 0, 1, 2),
    row("aten.diagonal.default", (0,), t(4, 3, 5), 1, -1, 0),
    row("aten.movedim.int", ALL3, t(3, 4, 5), 0, 2),
    row("aten.moveaxis.intlist", ALL4, t(2, 3, 4, 5), [0, -1], [2, 0]),
    row("aten.swapdims.default", ALL3, t(3, 4, 5), 0, 2),
    row("aten.broadcast_to.default", ALL3, t(4, 1), [3, 4, 5]),
    row("aten.unsafe_split.Tensor", (0, 2), t(3, 4, 5), 2, 1),
    row("aten.unfold.default", ALL3, t(3, 4, 6), 2, 2, 2),
    row("aten.unfold.default", (0, 1), t(3, 4, 6), 2, 3, 1),
    # look-ups
    row("aten.index.Tensor", ALL4, t(6, 5, 4, 3), [i(2, 1), None, i(2)]),
    row("aten.index_put.default", (1, 2), t(6, 4, 5), [i(3)], t(3, 4, 5)),
    row("aten.index_put.default", (0, 2), t(4, 6, 5), [None, i(3)], t(3, 1), True),
    row("aten.index_put.default", (1,), t(6, 4, 5), [torch.tensor([0, 4]), None,
        torch.tensor([1, 2])], t(2, 4)),
    row("aten.index_put.default", NONE, t(6, 4), [b(6)], t(1)),
    row("aten.take_along_dim.default", ALL3, t(3, 1, 5), i(1, 4, 2), 2),
    row("aten.take_along_dim.default", NONE, t(3, 4), i(5)),
    row("aten.scatter.value", (0,), t(3, 6), 1, i(3, 4), 2.0),
    row("aten.scatter.src", (0, 2), t(3, 6, 5), 1, torch.arange(4)[None, :, None].expand(3, 4, 5),
        t(3, 4, 5)),
    row("aten.scatter.src", NONE, t(3, 6), 1, torch.arange(4)[None], t(2, 5)),
    row("aten.scatter_add.default", (0,), t(3, 6), 1, i(3, 4), t(3, 4)),
    row("aten.scatter_reduce.two", (0,), t(3, 6), 1, i(3, 4), t(3, 4), "amax"),
    row("aten.index_add.default", (0, 2), t(3, 6, 5), 1, i(4), t(3, 4, 5)),
    row("aten.index_copy.default", (0,), t(3, 6), 1, torch.tensor([4, 0]), t(3, 2)),
    row("aten.index_reduce.default", (1,), t(6, 3), 0, i(4), t(4, 3), "amax"),
    row("aten.index_fill.int_Scalar", (0,), t(3, 6), 1, i(4), 2.0),
    row("aten.take.default", ALL2, t(6, 5), i(3, 4)),
    row("aten.one_hot.default", ALL2, i(3, 4), 5),
    row("aten.one_hot.default", NONE, i(3, 4)),
    row("aten.searchsorted.Tensor", ALL2, t(7).sort().values, t(3, 4)),
    row("aten.searchsorted.Tensor", ALL2, t(3, 7).sort().values, t(3, 4)),
    # convolutions
    row("aten.conv2d.default", ALL4, t(2, 3, 4, 5), t(4, 3, 1, 1), t(4)),
    row("aten.conv2d.default", ALL4, t(2, 3, 4, 6), t(4, 3, 2, 3), None, [2, 3]),
    row("aten.conv2d.default", (0, 1, 2), t(2, 3, 4, 7), t(4, 3, 2, 3), None, [2, 3]),
    row("aten.conv2d.padding", (0, 1), t(2, 3, 6, 7), t(4, 3, 3, 3), None, [1, 1], "same"),
    row("aten.conv2d.padding", ALL4, t(2, 3, 6, 7), t(4, 3, 1, 1), None, [1, 1], "valid"),
    row("aten.conv1d.padding", (0, 1), t(2, 3, 6), t(4, 3, 3), t(4), [1], "valid"),
    row("aten.conv3d.padding", (0, 1), t(2, 3, 4, 4, 4), t(4, 3, 3, 3, 3)),
    row("aten.conv2d.default", (0, 1), t(2, 4, 6, 7), t(8, 1, 3, 3), t(8), [1, 1], [1, 1], [1, 1],
        4),
    row("aten.conv1d.default", ALL3, t(2, 4, 6), t(6, 2, 1), t(6), groups=2),
    row("aten.conv_transpose1d.default", (0, 1), t(2, 4, 6), t(4, 5, 3), t(5)),
    row("aten.conv_transpose1d.default", ALL3, t(2, 4, 6), t(4, 5, 2), t(5), [2]),
    row("aten.conv_transpose2d.input", (0, 1), t(2, 4, 5, 6), t(4, 3, 4, 4), t(6), [2, 2], [1, 1],
        [0, 0], 2),
    row("aten.conv_transpose2d.input", ALL4, t(2, 4, 5, 6), t(4, 3, 2, 2), None, [2, 2]),
    row("aten.conv_transpose2d.input", (0, 1), t(2, 4, 5, 6), t(4, 3, 2, 2), None, [2, 2], [0, 0],
        [1, 1]),
    row("aten.conv_transpose3d.input", (0, 1), t(2, 4, 3, 3, 3), t(4, 5, 2, 3, 3), t(5)),
    row("aten.convolution.default", (0, 1), t(2, 4, 6, 7), t(6, 2, 3, 3), t(6), [1, 1], [1, 1],
        [1, 1], False, [0, 0], 2),
    row("aten.convolution.default", (0, 1), t(2, 4, 6, 7), t(4, 5, 3, 3), t(5), [1, 1], [1, 1],
        [1, 1], True, [0, 0], 1),
    # resampling
    row("aten._upsample_nearest_exact1d.default", ALL3, t(2, 3, 4), [8]),
    row("aten._upsample_nearest_exact2d.vec", ALL4, t(2, 3, 4, 5), None, [2.0, 1.0]),
    row("aten._upsample_nearest_exact2d.vec", ALL4, t(2, 3, 4, 5), [16, 20], None),
    row("aten._upsample_nearest_exact3d.vec", (0, 1, 2), t(2, 3, 4, 5, 6), [8, 15, 9], None),
    row("aten.upsample_nearest2d.vec", (0, 1), t(2, 3, 4, 5), [12, 7], None),
    row("aten.upsample_nearest2d.default", ALL4, t(2, 3, 4, 5), [8, 10], 2.0, 2.0),
    row("aten.upsample_linear1d.vec", ALL2, t(2, 3, 4), [8], False, None),
    row("aten.upsample_trilinear3d.vec", ALL2, t(2, 3, 2, 3, 4), [4, 6, 8], False, None),
    row("aten._upsample_bilinear2d_aa.default", ALL2, t(2, 3, 8, 8), [4, 4], False),
    row("aten._upsample_bicubic2d_aa.default", ALL2, t(2, 3, 8, 8), [4, 4], False),
    row("aten.avg_pool2d.default", (0, 1), t(2, 3, 6, 6), [3, 3], [1, 1]),
    row("aten.avg_pool2d.default", (0, 1, 3), t(2, 3, 5, 6), [2, 2]),
    row("aten.avg_pool3d.default", ALL5, t(2, 3, 4, 4, 4), [2, 2, 2]),
    row("aten.max_pool1d.default", ALL3, t(2, 3, 8), [2]),
    row("aten.max_pool2d.default", ALL2, t(2, 3, 8, 8), [3, 3], [2, 2], [1, 1]),
    row("aten.max_pool3d.default", ALL5, t(2, 3, 4, 4, 4), [2, 2, 2]),
    row("aten.max_pool2d_with_indices.default", ALL2, t(2, 3, 8, 8), [2, 2]),
    row("aten.max_pool3d_with_indices.default", ALL2, t(2, 3, 4, 4, 4), [2, 2, 2]),
    *(row(f"aten.adaptive_max_pool{n}d.default", ALL2, t(2, 3, *(4,) * n), [2] * n)
      for n in (1, 2, 3)),
    row("aten.adaptive_avg_pool1d.default", ALL3, t(2, 3, 8), [4]),
    row("aten.adaptive_avg_pool1d.default", ALL2, t(2, 3, 7), [4]),
    row("aten.adaptive_avg_pool3d.default", ALL5, t(2, 3, 4, 4, 4), [2, 2, 2]),
    row("aten._adaptive_avg_pool2d.default", ALL4, t(2, 3, 4, 4), [2, 2]),
    row("aten._adaptive_avg_pool3d.default", ALL5, t(2, 3, 4, 4, 4), [2, 2, 2]),
    *(row(f"aten.{name}_pad{n}d.default", ALL2, t(2, 3, *(4,) * n), [1] * (2 * n))
      for name in ("reflection", "replication") for n in (1, 2, 3)),
    row("aten.grid_sampler_2d.default", ALL4, t(2, 3, 5, 6), t(2, 4, 7, 2).tanh(), 0, 0, False),
    row("aten.grid_sampler.default", ALL4, t(2, 3, 5, 6), t(2, 4, 7, 2).tanh(), 0, 0, False),
    row("aten.grid_sampler_3d.default", ALL5, t(2, 3, 4, 5, 6), t(2, 4, 5, 6, 3).tanh(), 0, 0,
        False),
    row("aten.pixel_shuffle.default", ALL4, t(2, 8, 3, 4), 2),
    row("aten.pixel_shuffle.default", (1, 2), t(4, 3, 4), 2),
    row("aten.pixel_unshuffle.default", ALL4, t(2, 3, 4, 6), 2),
    row("aten.channel_shuffle.default", (0, 2, 3), t(2, 6, 3, 4), 2),
    row("aten.native_channel_shuffle.default", (0, 2, 3), t(2, 6, 3, 4), 2),
    row("aten.im2col.default", ALL2, t(2, 3, 6, 6), [3, 3], [1, 1], [1, 1], [1, 1]),
    row("aten.col2im.default", ALL2, t(2, 12, 9), [4, 4], [2, 2], [1, 1], [0, 0], [1, 1]),
    # tensors made from sizes
    row("aten.scalar_tensor.default", NONE, 2.0),
)  # fmt: skip


@pytest.mark.parametrize("case", WIDE, ids=str)
def test_rules_allow_what_sliced_execution_confirms(case: Row) -> None:
    graph = op_graph(case.op, case.args, case.kwargs)
    flows = allowed(graph)
    for dim, found in flows.items():
        query = Query(graph, graph.nodes[-1], dim)
        for seed in (0, 1):
            assert verify(query, found, seed=seed), (dim, found)
    assert tuple(flows) == case.dims


ELSEWHERE = {
    "aten.empty": "test_unfilled_memory_is_made_at_the_chunks_size",
    "getitem": "test_regions_of_several_ops_equal_the_whole",
}
"""Rules that running one op on random data cannot judge, and the test that does."""


def test_every_rule_is_exercised() -> None:
    ops = {case.op for case in (*ROWS, *WIDE)}
    reached = {name for op in ops for name in (op, op.rpartition(".")[0])}
    assert set(known_ops()) - reached == set(ELSEWHERE)


def test_regions_of_whole_groups_equal_the_whole() -> None:
    # chunks of channels are whole groups: 6 groups of 2, then 4 of 3, then one channel each
    kernels = t(12, 5, 3, 3), t(12, 1, 3, 3)
    scale, shift = t(12), t(12)

    def forward(x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.conv2d(x, kernels[0], padding=1)
        x = torch.nn.functional.silu(torch.nn.functional.group_norm(x, 6))
        x = torch.nn.functional.group_norm(x, 4, scale, shift)
        return torch.nn.functional.conv2d(x, kernels[1], padding=1, groups=12).relu()

    subject = analysed(Function(forward), (t(2, 5, 6, 7),))
    loops = {loop.region: loop for loop in all_regions(subject.sized)}
    assert not subject.failures(loops.values())
    by_channel = [
        loop for region, loop in loops.items()
        if set(region.dims) == {1} and len(region.nodes) >= 4
    ]  # fmt: skip
    # a unit is the smallest step that both kinds of groups divide
    assert {loop.extent for loop in by_channel} >= {2}


@pytest.mark.parametrize(
    "wanted", [Slice(2), Slice(-1), Slice(0, Fraction(2)), Slice(1)],
    ids=["no such dimension", "before the first", "too many positions", "another size"],
)  # fmt: skip
def test_a_slice_that_an_argument_does_not_have_is_no_flow(
    wanted: Slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a rule says: it may have taken the argument for another one."""
    answers = Flow((((0,), Slice(0)),)), Flow((((0,), wanted),))
    for answer, good in zip(answers, (True, False), strict=True):
        monkeypatch.setattr(dim_rules, "find_rule", lambda op, said=answer: lambda query: said)
        graph = op_graph("aten.neg.default", (t(4, 5),))
        assert (flow(graph, graph.nodes[-1].index, 0) is not None) == good
