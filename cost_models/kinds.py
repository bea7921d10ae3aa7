"""Kinds of op that cost alike, and how their arguments lie, for :mod:`cost_models.rates`."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from search_space.graph import Path, SizedGraph, SizedNode, Tensor
from search_space.layout import Layout
from search_space.workspace_products import is_copied_by_matrix, is_multiplied_in_place

PLAIN, VIEW, EMPTY, COMPARISON = "plain", "view", "empty", "comparison"
CONVOLUTION, ATTENTION, FUSED = "convolution", "attention", "fused"
SOFTMAX, LAYER_NORM, ADDMM = "softmax", "layer_norm", "addmm"

_COMPARED = (
    "eq", "ne", "lt", "le", "gt", "ge", "where", "masked_fill", "__and__", "__or__", "__xor__",
    "bitwise_and", "bitwise_or", "bitwise_not", "logical_and", "logical_or", "logical_not",
)  # fmt: skip
_CONVOLVED = (
    "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d",
)  # fmt: skip
_ITSELF = (
    "tanh", "exp", "sigmoid", "silu", "gelu", "erf", "sin", "cos", "log", "rsqrt", "softmax",
    "layer_norm", "group_norm", "linear", "addmm", "matmul", "bmm", "baddbmm",
    "upsample_bicubic2d", "upsample_bilinear2d",
)  # fmt: skip

KINDS: Mapping[str, str] = {
    **{f"aten.{name}": name for name in _ITSELF},
    **dict.fromkeys((f"aten.{name}" for name in _COMPARED), COMPARISON),
    **dict.fromkeys((f"aten.{name}" for name in _CONVOLVED), CONVOLUTION),
    "aten._softmax": SOFTMAX, "aten.log_softmax": SOFTMAX, "aten.native_layer_norm": LAYER_NORM,
    "aten.native_group_norm": "group_norm", "aten.expm1": "exp", "aten.log1p": "log",
    "aten.empty": EMPTY, "aten.scaled_dot_product_attention": ATTENTION,
}  # fmt: skip
"""By an op's name without its overload; all others are plain."""


def kind_of(node: SizedNode) -> str:
    """A node's kind."""
    return KINDS.get(node.op.rpartition(".")[0], PLAIN)


def row_of(node: SizedNode, kind: str) -> int:
    """Elements of a row, in kinds that go through their input row by row; 0 in all others."""
    shape = node.output.shape
    if kind == LAYER_NORM:
        return prod(shape[len(shape) - _normalized(node) :])
    if kind == SOFTMAX and shape:
        dim = node.argument(1, "dim", -1)
        return shape[dim] if isinstance(dim, int) else 0
    return 0


def _normalized(node: SizedNode) -> int:
    shape = node.argument(1, "normalized_shape")
    return len(shape) if isinstance(shape, tuple) else 1


_BATCHED = frozenset({"aten.matmul", "aten.bmm", "aten.baddbmm", "aten.mm", "aten.addmm"})
_INDEXED = frozenset({
    "aten.embedding", "aten.index", "aten.index_select", "aten.gather", "aten.index_put",
    "aten.cat", "aten.upsample_bicubic2d", "aten.upsample_bilinear2d", "aten.scatter",
    "aten.einsum", "aten.scaled_dot_product_attention", "aten.linear",
})  # fmt: skip
"""Ops that place elements themselves, or whose copies are not told here."""

_FEW = 64
"""An argument of no more elements is read from registers or a core's first cache."""


def gathered_arguments(graph: SizedGraph, node: SizedNode) -> tuple[Path, ...]:
    """The tensor arguments that are read across the order they lie in, or copied into another one
    first: a convolution's weights, factors that no product reads in place, and what lies with
    another dimension innermost than the output does."""
    packet = node.op.rpartition(".")[0]
    if kind_of(node) == CONVOLUTION:
        return tuple(path for path, _ in node.refs[1:2])
    if packet in _INDEXED:
        return ()
    if packet in _BATCHED:
        factors = [(path, graph.nodes[ref].output) for path, ref in node.refs[-2:]]
        if min(len(factor.shape) for _, factor in factors) < 2:
            return ()  # (products with vectors fold what they can)
        return tuple(
            path for path, factor in factors if not _is_read_in_place(factor, node.output)
        )
    return tuple(
        path for path, ref in node.refs if _lies_across(graph.nodes[ref].output, node.output)
    )


def _is_read_in_place(factor: Tensor, product: Tensor) -> bool:
    """Whether a product of matrices reads a factor where it lies."""
    batch = product.shape[:-2] if len(factor.shape) > 2 else ()
    return is_multiplied_in_place(Layout(factor.shape, factor.strides), batch)


def _lies_across(tensor: Tensor, output: Tensor) -> bool:
    """Whether neighbours in the output lie apart in an argument. What is broadcast there is read
    once; of other ranks than the output's, its last dimension is taken to be gone through."""
    if tensor.numel <= _FEW:
        return False
    last = _read_along(tensor, output)
    return tensor.shape[last] > 1 and tensor.strides[last] > 1


ALIASED = 4096
"""Bytes, or a multiple, between neighbours that compete for places in a cache: a page, the part of
an address by which a core's first cache tells places apart."""


def is_aliased(node: SizedNode, tensor: Tensor) -> bool:
    """Whether the neighbours of a gathered argument lie so far apart that they drive each other out
    of a cache before what lies beside them is read."""
    if tensor.numel <= _FEW:
        return False
    factor = node.op.rpartition(".")[0] in _BATCHED
    along = len(tensor.shape) - 1 if factor else _read_along(tensor, node.output)
    apart = tensor.strides[along] * tensor.nbytes // tensor.numel
    return apart > 0 and apart % ALIASED == 0


_SMALLEST = 400
"""Products of fewer steps have a kernel of their own that copies nothing."""


def is_by_matrix(graph: SizedGraph, node: SizedNode) -> bool:
    """Whether an op multiplies the matrices of a batch one by one, as it copies them."""
    shape = node.output.shape
    if node.op.rpartition(".")[0] not in _BATCHED or len(shape) < 3:
        return False
    if not node.output.device.startswith("cpu") or node.output.dtype != "float32":
        return False
    factors = [graph.nodes[ref].output for _, ref in node.refs[-2:]]
    if min(len(one.shape) for one in factors) < 2:
        return False
    steps = shape[-2] * shape[-1] * factors[0].shape[-1]
    return steps >= _SMALLEST and any(
        is_copied_by_matrix(Layout(one.shape, one.strides), shape[:-2]) for one in factors
    )


def _read_along(tensor: Tensor, output: Tensor) -> int:
    """The dimension of an argument of some size that is gone through first."""
    last = _innermost(output) if len(tensor.shape) == len(output.shape) else None
    if last is None:
        last = max(dim for dim, size in enumerate(tensor.shape) if size > 1)
    return last


def _innermost(tensor: Tensor) -> int | None:
    """The dimension whose neighbours lie side by side; None where none does."""
    for dim in reversed(range(len(tensor.shape))):
        if tensor.shape[dim] > 1 and tensor.strides[dim] == 1:
            return dim
    return None


def is_across(graph: SizedGraph, node: SizedNode) -> bool:
    """Whether a product's second matrix lies by columns: a linear layer's weights, and what was
    transposed."""
    packet = node.op.rpartition(".")[0]
    if packet == "aten.linear":
        return True
    if packet not in _BATCHED or not node.refs:
        return False
    right = graph.nodes[node.refs[-1][1]].output
    return len(right.strides) >= 2 and right.strides[-2] == 1 and right.strides[-1] != 1
