"""Bytes that a kernel allocates beside its output, told from its arguments' layouts.

Only what goes through the framework's allocator is counted: copies of arguments that a kernel
cannot read in place, statistics, and the buffers of CPU attention. Libraries' own scratch memory
(oneDNN) does not pass there and is not counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from search_space.graph import ITEM_BYTES, Argument
from search_space.layout import Layout, is_contiguous, reshaped


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor argument: where it stands, its layout and its dtype."""

    position: int
    layout: Layout
    dtype: str

    @property
    def nbytes(self) -> int:
        return self.layout.numel * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Call:
    """One op about to run: tensor arguments in order, all arguments, output shape and dtype."""

    operands: tuple[Operand, ...]
    args: tuple[Argument, ...]
    shape: tuple[int, ...]
    dtype: str
    device: str


Workspace = Callable[[Call], int]


def _matrix_copy(operand: Operand, batch: Sequence[int]) -> int:
    """Bytes that batched matrix multiplication copies of one argument of rank at least 2."""
    layout = operand.layout
    lead = len(batch) - (len(layout.shape) - 2)
    shape = (*batch, *layout.shape[-2:])
    strides = (0,) * lead + tuple(
        stride if size == out else 0
        for size, stride, out in zip(layout.shape, layout.strides, shape[lead:], strict=True)
    )
    item = ITEM_BYTES[operand.dtype]
    folded = reshaped(Layout(shape, strides), (prod(batch), *shape[-2:]))
    if folded is None:
        return prod(shape) * item
    rows, columns = folded.strides[-2:]
    n, m = folded.shape[-2:]
    plain = (columns == 1 or m == 1) and rows >= m or (rows == 1 or n == 1) and columns >= n
    return 0 if plain else prod(shape) * item


def _matmul(call: Call) -> int:
    a, b = call.operands[:2]
    if len(a.layout.shape) < 2 or len(b.layout.shape) < 2:
        return 0
    if len(b.layout.shape) == 2 and len(a.layout.shape) > 2 and not _rows_copy(a):
        return 0  # one product of all rows; where rows cannot be read in place, a batch of products
    rank = max(len(a.layout.shape), len(b.layout.shape))
    batch = call.shape[: rank - 2]
    return _matrix_copy(a, batch) + _matrix_copy(b, batch)


def _bmm(call: Call) -> int:
    a, b = call.operands[-2:]
    return _matrix_copy(a, a.layout.shape[:1]) + _matrix_copy(b, b.layout.shape[:1])


def _rows_copy(operand: Operand) -> int:
    """Bytes copied to read ``(..., K)`` as a matrix of rows."""
    shape = operand.layout.shape
    folded = reshaped(operand.layout, (prod(shape[:-1]), shape[-1]))
    return operand.nbytes if folded is None else 0


def _linear(call: Call) -> int:
    # with weights that could take a gradient the framework folds rows, even where it must copy
    return _rows_copy(call.operands[0])


def _contiguous_first(call: Call) -> int:
    first = call.operands[0]
    cast = 0
    if first.dtype != call.dtype:  # softmax(x, dim, dtype) casts first
        cast = first.layout.numel * ITEM_BYTES[call.dtype]
    return cast or (0 if is_contiguous(first.layout) else first.nbytes)


def _layer_norm(call: Call) -> int:
    first = call.operands[0]
    normalized = call.args[1] if len(call.args) > 1 else ()
    sizes = normalized if isinstance(normalized, tuple) else ()
    inner = prod(size for size in sizes if isinstance(size, int))
    statistics = 2 * 4 * (first.layout.numel // max(inner, 1))
    return statistics + (0 if is_contiguous(first.layout) else first.nbytes)


def _attention(call: Call) -> int:
    """CPU flash attention: logsumexp, a converted mask, and a score block per thread.

    The block sizes are those of ATen's ``FlashAttentionKernel.cpp``: query blocks of 256, 64 or 32
    rows by length, key blocks of 512.
    """
    query, key, value = call.operands[:3]
    mask = call.operands[3] if len(call.operands) > 3 else None
    rows, head = query.layout.shape[-2:]
    keys, width = key.layout.shape[-2], value.layout.shape[-1]
    heads = prod(query.layout.shape[:-2])
    if not _is_fused(call, query, key, value, mask):
        return _attention_math(call, query, heads * rows * keys)
    if not call.device.startswith("cpu"):
        return _attention_cuda(query, mask)
    extra = 4 * heads * rows  # logsumexp
    if mask is not None and mask.dtype == "bool":
        extra += mask.layout.numel * ITEM_BYTES[query.dtype]
    block = 256 if rows >= 768 else 64 if rows >= 192 else 32
    block, key_block = min(block, rows), min(512, keys)
    per_thread = 4 * (block * key_block + 2 * block + block * max(head, width))
    return extra + per_thread * cpu_threads()


def _is_fused(
    call: Call, query: Operand, key: Operand, value: Operand, mask: Operand | None
) -> bool:
    """Whether a fused kernel takes the call; where none does, all scores are stored."""
    head, width = query.layout.shape[-1], value.layout.shape[-1]
    operands = (query, key, value)
    if any(len(one.layout.shape) != 4 or one.layout.strides[-1] != 1 for one in operands):
        return False
    if mask is not None and len(mask.layout.shape) not in (2, 4):
        return False
    if call.device.startswith("cpu"):
        return head == width
    aligned = 4 if ITEM_BYTES[query.dtype] == 4 else 8
    return head % aligned == 0 and width % aligned == 0 and ITEM_BYTES[query.dtype] <= 4


def _attention_math(call: Call, query: Operand, scores: int) -> int:
    """Attention op by op. At its peak, in the softmax, alive are the scores and their softmax, a
    bool for each score (is the whole row masked?), and a scaled copy of the query; the output is
    not there yet. Half precision is computed in float32."""
    item = max(ITEM_BYTES[query.dtype], 4)
    output = prod(call.shape[:-1]) * call.operands[2].layout.shape[-1] * ITEM_BYTES[call.dtype]
    return max(2 * scores * item + scores + query.layout.numel * item - output, 0)


def _attention_cuda(query: Operand, mask: Operand | None) -> int:
    """An upper bound for the fused CUDA kernels: logsumexp, and the mask converted to the query's
    dtype and padded to the alignment that the memory-efficient kernel wants."""
    extra = 4 * prod(query.layout.shape[:-1])
    if mask is None:
        return extra
    item = ITEM_BYTES[query.dtype]
    keys = mask.layout.shape[-1]
    if mask.dtype == "bool":
        extra += mask.layout.numel * item
    if any(stride % 16 for stride in mask.layout.strides[:-1]) or mask.layout.strides[-1] != 1:
        extra += mask.layout.numel // max(keys, 1) * (-(-keys // 16) * 16) * item
    return extra


def _rms_norm(call: Call) -> int:
    """The squares, in the precision that the op computes in."""
    return call.operands[0].layout.numel * max(ITEM_BYTES[call.dtype], 4)


def _convolution(call: Call) -> int:
    """A library's output in its own layout, converted afterwards."""
    return prod(call.shape) * ITEM_BYTES[call.dtype]


def cpu_threads() -> int:
    """Threads that CPU kernels use: OMP_NUM_THREADS, or the cores that this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) else len(os.sched_getaffinity(0))


_WORKSPACES: dict[str, Workspace] = {
    "aten.matmul": _matmul,
    "aten.bmm": _bmm,
    "aten.baddbmm": _bmm,
    "aten.linear": _linear,
    "aten.softmax": _contiguous_first,
    "aten.log_softmax": _contiguous_first,
    "aten._softmax": _contiguous_first,
    "aten.layer_norm": _layer_norm,
    "aten.native_layer_norm": _layer_norm,
    "aten.group_norm": _contiguous_first,
    "aten.rms_norm": _rms_norm,
    "aten.conv1d": _convolution,
    "aten.conv2d": _convolution,
    "aten.conv3d": _convolution,
    "aten.convolution": _convolution,
    "aten.scaled_dot_product_attention": _attention,
}


def workspace_bytes(op: str, call: Call) -> int:
    """Bytes that the op's kernel allocates and frees beside its output; 0 for unknown ops."""
    found = _WORKSPACES.get(op) or _WORKSPACES.get(op.rpartition(".")[0])
    return found(call) if found is not None and call.operands else 0
