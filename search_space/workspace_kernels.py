"""What norms, reductions, look-ups, pooling and resizing take beside their outputs.

Read off the allocator's events with torch 2.13 on a CPU, by ``tests/search_space/
test_workspace_kernels.py``, op by op and layout by layout.
"""

from __future__ import annotations

from math import prod

from search_space.graph import ITEM_BYTES, Argument
from search_space.kernel_call import (
    Call,
    Workspace,
    contiguous_first,
    copy_bytes,
    image_copy_bytes,
    image_first,
)
from search_space.layout import Layout, contiguous, is_channels_last, is_contiguous, is_dense

_HALF = ("bfloat16", "float16")


def _ints(value: Argument) -> tuple[int, ...]:
    values = value if isinstance(value, tuple) else (value,)
    return tuple(v for v in values if isinstance(v, int))


def _softmax(call: Call) -> int:
    first = call.operands[0]
    if first.dtype != call.dtype:  # softmax(x, dim, dtype) casts first
        twice = 2 if is_dense(first.layout) and not is_contiguous(first.layout) else 1
        return twice * first.layout.numel * ITEM_BYTES[call.dtype]
    return copy_bytes(first)


# -- norms ---------------------------------------------------------------------------------------


def _inner(call: Call) -> int:
    """Elements that are normalised together."""
    return max(prod(_ints(call.args[1] if len(call.args) > 1 else ())), 1)


def _layer_norm(call: Call) -> int:
    first = call.operands[0]
    item = max((ITEM_BYTES[operand.dtype] for operand in call.operands), default=4)
    if not call.device.startswith("cpu"):
        item = max(item, 4)  # statistics of half precision are float32 there, whatever the weights
    return 2 * item * (first.layout.numel // _inner(call)) + copy_bytes(first)


def _rms_norm(call: Call) -> int:
    """The squares, in the precision that the op computes in; half precision is cast first."""
    first = call.operands[0]
    numel, rows = first.layout.numel, first.layout.numel // _inner(call)
    if first.dtype in _HALF:
        return numel * (4 + 4 + 2) + 8 * rows + 8 * _inner(call)
    return numel * ITEM_BYTES[first.dtype]


def _group_norm(call: Call) -> int:
    first = call.operands[0]
    shape = first.layout.shape
    groups = call.argument(1, "num_groups", 1)
    count = groups if isinstance(groups, int) else 1
    return 2 * 4 * shape[0] * count + image_copy_bytes(first)


def _instance_norm(call: Call) -> int:
    first = call.operands[0]
    return 4 * 4 * prod(first.layout.shape[:2]) + copy_bytes(first)


# -- reductions ----------------------------------------------------------------------------------


def _cast_up(call: Call) -> int:
    """Half precision is summed in float32: on a CPU all of the argument is cast first."""
    first = call.operands[0]
    if first.dtype not in _HALF or not call.device.startswith("cpu"):
        return 0
    return 4 * first.layout.numel + 4 * prod(call.shape)


def _sum(call: Call) -> int:
    first = call.operands[0]
    same = first.dtype == call.dtype
    return 0 if same else first.layout.numel * ITEM_BYTES[call.dtype]


def _logsumexp(call: Call) -> int:
    first = call.operands[0]
    item = ITEM_BYTES[call.dtype]
    return item * (first.layout.numel + 2 * prod(call.shape))


def _truth(call: Call) -> int:
    """What is true of each number, where it is not given as booleans."""
    first = call.operands[0]
    return 0 if first.dtype in ("bool", "uint8") else first.layout.numel


def _infinite(answers: int) -> Workspace:
    """Absolute values, which are compared, and so many more tensors of answers."""

    def workspace(call: Call) -> int:
        first = call.operands[0]
        if first.dtype.startswith(("int", "uint", "bool")):
            return 0
        item = ITEM_BYTES[first.dtype] * (1.5 if first.dtype.startswith("complex") else 1)
        return int(first.layout.numel * (item + answers))

    return workspace


def _argsort(call: Call) -> int:
    first = call.operands[0]
    return first.nbytes + 8 * max(first.layout.shape, default=1)


def _cosine_similarity(call: Call) -> int:
    """Both tensors scaled, and their product, at the broadcast size."""
    shapes = [operand.layout.shape for operand in call.operands]
    width = max(len(shape) for shape in shapes)
    whole = 1
    for place in range(1, width + 1):
        whole *= max(shape[-place] if place <= len(shape) else 1 for shape in shapes)
    item = ITEM_BYTES[call.dtype]
    return item * (3 * whole + 2 * prod(call.shape)) + 64


# -- look-ups ------------------------------------------------------------------------------------


def _take_along_dim(call: Call) -> int:
    """The indices, broadcast and made whole; and what ``gather`` takes."""
    return 8 * prod(call.shape) + _gather(call)


def _gather(call: Call) -> int:
    return 4 * prod(call.shape) if call.dtype in _HALF else 0


def _scatter(call: Call) -> int:
    if call.dtype not in _HALF or len(call.operands) < 2:
        return 0
    return 16 * call.operands[1].layout.numel


def _triangle(call: Call) -> int:
    """A batch whose matrices do not follow each other is copied."""
    layout = call.operands[0].layout
    lead = len(layout.shape) - 2
    regular = all(
        size == 1 or stride == plain
        for size, stride, plain in zip(
            layout.shape[:lead], layout.strides[:lead], contiguous(layout.shape).strides[:lead],
            strict=True,
        )
    )  # fmt: skip
    return 0 if regular else call.operands[0].nbytes


# -- images --------------------------------------------------------------------------------------


def _max_pool(call: Call) -> int:
    """The indices of the largest, which are dropped."""
    return 8 * prod(call.shape) + image_copy_bytes(call.operands[0])


def _adaptive_pool(call: Call) -> int:
    first = call.operands[0]
    if all(size == 1 for size in _ints(call.argument(1, "output_size"))):
        return _cast_up(call) + 64  # a mean
    return image_copy_bytes(first)


def _pad(call: Call) -> int:
    """Only where the rim repeats what is within."""
    constant = call.argument(2, "mode", "constant") == "constant"
    return 0 if constant else image_copy_bytes(call.operands[0])


def _windows(call: Call) -> int:
    first = call.operands[0]
    return first.nbytes + copy_bytes(first)


def _linear_weights(call: Call) -> int:
    """Positions and weights of two neighbours for each position of the output, by dimension."""
    return 24 * sum(call.shape[2:])


_SMALL_IMAGE = 128
"""Height and width together, up to which images are resized with their channels innermost, however
they lie (``_use_vectorized_kernel_cond_2d`` and ``_3d`` in ATen's ``UpSampleKernel.cpp``)."""


def _has_channels_innermost(layout: Layout) -> bool:
    """Whether ``(N, C, positions...)`` is dense so; strides of single positions do not matter."""
    order = (0, *range(2, len(layout.shape)), 1)
    turned = Layout(
        tuple(layout.shape[dim] for dim in order), tuple(layout.strides[dim] for dim in order)
    )
    return is_contiguous(turned)


def _resized(weight_bytes: int) -> Workspace:
    """What resizing takes: copies with the channels innermost, of the input and of the output where
    they lie otherwise, or ``weight_bytes`` for each position along a dimension of the output."""

    def workspace(call: Call) -> int:
        given = call.operands[0]
        inside = _has_channels_innermost(given.layout)
        positions = sum(call.shape[2:])
        if positions > _SMALL_IMAGE and not (inside and call.shape[1] > 3):
            return weight_bytes * positions
        kept = is_channels_last(given.layout) or _has_channels_innermost(contiguous(call.shape))
        written = 0 if kept else prod(call.shape) * ITEM_BYTES[call.dtype]
        return written + (0 if inside else given.nbytes)

    return workspace


def _smooth(call: Call) -> int:
    """The image resized along its last dimension, in between."""
    shape = call.operands[0].layout.shape
    return prod(shape[:-1]) * call.shape[-1] * ITEM_BYTES[call.dtype] + 64 * sum(call.shape[2:])


KERNEL_WORKSPACES: dict[str, Workspace] = {
    **dict.fromkeys(
        ("aten.softmax", "aten.log_softmax", "aten._softmax", "aten._log_softmax"), _softmax
    ),
    "aten.layer_norm": _layer_norm,
    "aten.native_layer_norm": contiguous_first,
    "aten.group_norm": _group_norm,
    "aten.native_group_norm": image_first,
    "aten.instance_norm": _instance_norm,
    "aten.rms_norm": _rms_norm,
    "aten._fused_rms_norm": _rms_norm,
    "aten.mean": _cast_up,
    "aten.sum": _sum,
    "aten.logsumexp": _logsumexp,
    "aten.isinf": _infinite(0),
    "aten.isfinite": _infinite(2),
    "aten.any": _truth,
    "aten.all": _truth,
    "aten.argsort": _argsort,
    "aten.cosine_similarity": _cosine_similarity,
    "aten.take_along_dim": _take_along_dim,
    "aten.gather": _gather,
    "aten.scatter": _scatter,
    "aten.scatter_add": _scatter,
    "aten.index_select": contiguous_first,
    "aten.bucketize": contiguous_first,
    "aten.tril": _triangle,
    "aten.triu": _triangle,
    "aten.avg_pool1d": image_first,
    "aten.avg_pool2d": image_first,
    "aten.avg_pool3d": image_first,
    "aten.max_pool1d": _max_pool,
    "aten.max_pool2d": _max_pool,
    "aten.max_pool3d": _max_pool,
    "aten.max_pool2d_with_indices": image_first,
    "aten.max_pool3d_with_indices": image_first,
    "aten.adaptive_avg_pool1d": _adaptive_pool,
    "aten.adaptive_avg_pool2d": _adaptive_pool,
    "aten.adaptive_avg_pool3d": _adaptive_pool,
    "aten.pixel_shuffle": image_first,
    "aten.pixel_unshuffle": image_first,
    "aten.pad": _pad,
    **{
        f"aten.{name}_pad{n}d": image_first
        for name in ("reflection", "replication") for n in (1, 2, 3)
    },
    "aten.im2col": _windows,
    "aten.upsample_linear1d": _linear_weights,
    "aten.upsample_bilinear2d": _resized(24),
    "aten.upsample_trilinear3d": _resized(24),
    **dict.fromkeys(
        ("aten.upsample_nearest2d", "aten._upsample_nearest_exact2d", "aten.upsample_nearest3d"),
        _resized(12),
    ),
    "aten._upsample_bilinear2d_aa": _smooth,
    "aten._upsample_bicubic2d_aa": _smooth,
}  # fmt: skip
