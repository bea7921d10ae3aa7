"""What convolutions take beside their outputs.

On a CPU ATen gives a convolution to oneDNN or to its own kernels; which, is decided as in
``ConvParams::use_mkldnn`` (``aten/src/ATen/native/Convolution.cpp``). oneDNN copies input, weight
and output into layouts of its own, blocks of 16 channels, so that at one time there exist

    max(input' + output' + weight' , output' + output),

primes marking blocked copies; ATen's own kernels unfold every window (``im2col``). The terms were
read off the allocator's events on an AVX-512 machine with torch 2.13; narrower vectors have
smaller blocks, for which this is an upper bound, as it is for half precision, where the kernels
depend on the processor (:mod:`search_space.processor`).
"""

from __future__ import annotations

from math import prod

from search_space.graph import ITEM_BYTES, Argument
from search_space.kernel_call import Call, Operand, Workspace, cpu_threads
from search_space.layout import (
    Layout,
    is_channels_last,
    is_contiguous,
    is_taken_for_channels_last,
)
from search_space.processor import HalfKernels, half_kernels, is_plain

_BLOCK = 16
_SCRATCH = 16 * 1024
"""Bytes of small buffers that come with reordered weights."""


def _blocked(channels: int) -> int:
    return -(-channels // _BLOCK) * _BLOCK


def _numbers(value: Argument, count: int, default: int) -> tuple[int, ...]:
    if isinstance(value, tuple) and value and all(isinstance(v, int) for v in value):
        found = tuple(v for v in value if isinstance(v, int))
        return found * count if len(found) == 1 else found
    return (value if isinstance(value, int) else default,) * count


def _copy(operand: Operand) -> int:
    """Bytes of the copy that a kernel makes of an input that it cannot read in place."""
    plain = is_contiguous(operand.layout) or (
        is_channels_last(operand.layout) and operand.layout.strides[0] == prod(
            operand.layout.shape[1:]
        )
    )  # fmt: skip
    return 0 if plain else operand.nbytes


def _with_batch(layout: Layout, rank: int) -> tuple[int, ...]:
    return layout.shape if len(layout.shape) == rank else (1, *layout.shape)


def convolution(call: Call) -> int:
    """Of ``convNd`` and ``convolution`` (transposed or not)."""
    if len(call.operands) < 2:
        return 0
    op_transposed = len(call.args) > 6 and call.args[6] is True
    groups = call.argument(8 if len(call.args) == 9 else 6, "groups", 1)
    stride = call.argument(3, "stride", 1)
    if op_transposed:
        return _transposed(call, stride, groups)
    return _forward(call, stride, call.argument(5, "dilation", 1), groups)


def transposed_convolution(call: Call) -> int:
    """Of ``conv_transposeNd``."""
    if len(call.operands) < 2:
        return 0
    return _transposed(call, call.argument(3, "stride", 1), call.argument(6, "groups", 1))


def _forward(call: Call, stride: Argument, dilation: Argument, groups: Argument) -> int:
    x, weight = call.operands[:2]
    kernel = weight.layout.shape[2:]
    rank = len(kernel) + 2
    source = _with_batch(x.layout, rank)
    made = call.shape if len(call.shape) == rank else (1, *call.shape)
    if not call.device.startswith("cpu"):
        return _cudnn(call, kernel)
    count = groups if isinstance(groups, int) else 1
    strides = _numbers(stride, len(kernel), 1)
    dilated = any(d != 1 for d in _numbers(dilation, len(kernel), 1))
    strided = any(s != 1 for s in strides)
    copied = _copy(x)
    own = is_plain(call.dtype) or (
        call.dtype == "float32" and not _uses_onednn(source, kernel, strided, dilated, count)
    )
    if own:
        # all groups of a volume are unfolded at once
        item = ITEM_BYTES[call.dtype]
        single = prod(kernel) == 1 and not strided and source[2:] == made[2:]
        windows = 0 if single else source[0] * source[1] // count * prod(kernel) * prod(made[2:])
        if len(kernel) == 3:
            windows *= count
        if len(kernel) == 3 and not is_contiguous(x.layout):
            copied = x.nbytes
        if is_channels_last(x.layout):
            copied += weight.nbytes  # weights follow the input's layout
        if count > 1:  # group by group, then joined
            whole = source[0] == 1 and not is_channels_last(x.layout)
            part = 0 if whole else 2 * x.nbytes // count
            if len(kernel) == 3:
                part = x.nbytes
            return copied + windows * item + part + prod(made) * item
        return copied + windows * item
    steps = zip(made[2:], strides, _numbers(dilation, len(kernel), 1), kernel, strict=True)
    reach = prod((m - 1) * s + d * (k - 1) + 1 for m, s, d, k in steps)
    return copied + _onednn(call, source, made, kernel, strided, count, reach)


def _cudnn(call: Call, kernel: tuple[int, ...]) -> int:
    """A bound for cuDNN: input, weight and output with their channels innermost, as its kernels for
    matrix units want them; of single positions the output (they were seen to take nothing). Read
    off the allocator on an H200 with torch 2.11."""
    output = prod(call.shape) * ITEM_BYTES[call.dtype]
    if prod(kernel) == 1:
        return output
    return call.operands[0].nbytes + call.operands[1].nbytes + output


def _uses_onednn(
    source: tuple[int, ...], kernel: tuple[int, ...], strided: bool, dilated: bool, groups: int
) -> bool:
    """Whether float32 goes to oneDNN. One-dimensional convolutions are run as flat planes."""
    last = kernel[-2:] if len(kernel) > 1 else (1, *kernel)
    several = strided or dilated or source[0] >= 16 or last != (1, 1) or cpu_threads() > 1
    large = groups > 1 or min(last) > 3 or source[0] > 1 or prod(source[:4]) > 20480
    return several and large


def _onednn(
    call: Call,
    source: tuple[int, ...],
    made: tuple[int, ...],
    kernel: tuple[int, ...],
    strided: bool,
    groups: int,
    reach: int,
) -> int:
    item = ITEM_BYTES[call.dtype]
    batch, channels, features = source[0], source[1], made[1]
    positions, results = prod(source[2:]), prod(made[2:])
    output = batch * features * results * item
    depthwise = groups > 1 and groups == channels == features
    inner = 1 if depthwise else _blocked(channels // groups)
    if groups == 1 and channels < _BLOCK and prod(kernel) > 1:
        inner, given = channels, 0  # few channels are read in place
    elif groups > 1 and not depthwise and channels // groups < _BLOCK:
        given = batch * channels * positions * item if prod(kernel) == 1 else 0
    else:
        given = batch * _blocked(channels) * positions * item
    weights = _blocked(features) * inner * prod(kernel) * item
    results_bytes = batch * _blocked(features) * results * item
    bias = 4 * _blocked(features)
    # a kernel of one position with a stride gathers the positions that it reads, per thread
    gathered = 0
    if strided and prod(kernel) == 1:
        gathered = cpu_threads() * _blocked(channels) * results * item
    if is_channels_last(call.operands[0].layout) and item == 4 and groups == 1:
        return 2 * weights + _SCRATCH + gathered
    if is_channels_last(call.operands[0].layout) and item == 4 and depthwise:
        return weights  # nothing else is reordered
    if channels == 1 and is_taken_for_channels_last(call.operands[0].layout):
        return _one_channel_inside(source, kernel) + gathered
    windows = 0
    if groups > 1 and not depthwise and (prod(kernel) > 1 or strided):
        # groups that fill no blocks are products of unfolded windows, one group a thread
        windows = cpu_threads() * channels // groups * prod(kernel) * results * item + 256
        if item < 4:  # and the group's results in float32
            windows += cpu_threads() * (features // groups * results * 4 + 256)
    if item == 4:
        together = given + results_bytes + weights + bias + gathered - output
        if groups > 1 and len(kernel) == 3:
            together += max(output, call.operands[0].nbytes)  # planes of groups: an upper bound
        return max(together, results_bytes, windows)
    if HalfKernels.TILES not in half_kernels(call.dtype):
        gathered += _rows_per_thread(channels, positions, kernel, groups)
        together = given + 2 * results_bytes + 2 * weights + bias + gathered + _SCRATCH - output
        if call.dtype == "float16" and groups > 1 and not depthwise:
            found = _groups_in_float16(call.operands[0], kernel, made, groups)
            together = max(together, found)
        return max(together, 2 * output, windows)
    # half precision: results and weights exist in float32 as well; channels too few for the matrix
    # units are computed from unfolded windows
    if min(features, channels) < _BLOCK or len(kernel) == 1:
        windows += -(-channels // 32) * 32 * prod(kernel) * results * item
    if groups > 1 and not depthwise:
        given = batch * groups * _blocked(channels // groups) * positions * item
        results_bytes = batch * groups * _blocked(features // groups) * results * item
        weights = groups * _blocked(features // groups) * inner * prod(kernel) * item
    given = max(given, batch * _blocked(channels) * positions * item)
    copies = given + 2 * results_bytes + 6 * weights
    scratch = (copies + windows + gathered) // 4 + 4 * _SCRATCH
    if groups == 1:
        scratch = max(scratch, _input_in_tiles(channels, reach, strided) + 4 * _SCRATCH)
    elif not depthwise and prod(kernel) > 1:
        wide = source[-1] * (2 if strided else 1) + kernel[-1] - 1
        inside = _groups_in_tiles(channels // groups, kernel, reach, wide, strided)
        scratch = max(scratch, groups * inside + 4 * _SCRATCH)
    return max(copies + windows + gathered + scratch - output, 2 * output)


def _input_in_tiles(channels: int, reach: int, strided: bool) -> int:
    """What each thread copies of the positions that windows reach, in rows as matrix units read
    them (``inp_buffer`` in ``jit_brgemm_conv_utils.cpp``): bounded by measurements, without strides
    by what the cache holds too."""
    copied = 3 * 2 * -(-channels // 32) * 32 * reach
    return cpu_threads() * (copied if strided else min(copied, 5 * 2**18))


def _groups_in_tiles(
    channels: int, kernel: tuple[int, ...], reach: int, wide: int, strided: bool
) -> int:
    """The same for a group, bounded by measurements: of 8 channels and wide kernels the windows
    of a block of rows are unfolded (``relo_type``).

    Args:
        channels: of one group.
        wide: positions of a row, before strides.
    """
    copied = 0
    if strided and (channels >= _BLOCK or len(kernel) == 1):
        copied = (7 if len(kernel) == 1 else 4) * 2 * -(-channels // 32) * 32 * reach
    if 4 < channels < _BLOCK and len(kernel) == 2 and kernel[-1] > 3:
        unfolded = 2 * -(-channels * kernel[-1] // 32) * 32 * wide
        copied = prod(kernel) * kernel[-1] * unfolded // 2
    return cpu_threads() * copied


def _groups_in_float16(
    given: Operand, kernel: tuple[int, ...], made: tuple[int, ...], groups: int
) -> int:
    """Groups of a convolution in float16, which vector instructions compute in place
    (``brgconv``): input, weights and output are copied, and each thread sums in float32."""
    channels = given.layout.shape[-len(kernel) - 1]
    weights = 2 * groups * _blocked(made[1] // groups) * channels // groups * prod(kernel)
    sums = cpu_threads() * 4 * prod(made[2:]) * _BLOCK
    return given.nbytes + weights + 2 * prod(made) + sums + 2 * _SCRATCH


def _one_channel_inside(source: tuple[int, ...], kernel: tuple[int, ...]) -> int:
    """An upper bound where one channel is laid out channels-last, as happens to one that is cut out
    of such an image: each thread gathers windows of rows in blocks of 16 channels."""
    high, wide = prod(kernel[:-1]), kernel[-1]
    rows = 4 * _BLOCK * high**2 * (source[-1] + wide - 1 + _BLOCK)
    return cpu_threads() * (rows + 2 * _SCRATCH)


def _rows_per_thread(channels: int, positions: int, kernel: tuple[int, ...], groups: int) -> int:
    """What each thread copies of one image in half precision, where every position is multiplied by
    itself: all of its channels."""
    if prod(kernel) > 1 or groups > 1:
        return 0
    return cpu_threads() * -(-channels // 32) * 32 * positions * 2


def _transposed(call: Call, stride: Argument, groups: Argument) -> int:
    """An upper bound: oneDNN's copies beside the output, or two more outputs; without oneDNN the
    unfolded windows."""
    x, weight = call.operands[:2]
    kernel = weight.layout.shape[2:]
    rank = len(kernel) + 2
    source = _with_batch(x.layout, rank)
    made = call.shape if len(call.shape) == rank else (1, *call.shape)
    item = ITEM_BYTES[call.dtype]
    if not call.device.startswith("cpu"):
        return prod(made) * item
    count = groups if isinstance(groups, int) else 1
    strided = any(s != 1 for s in _numbers(stride, len(kernel), 1))
    windows = made[1] // count * prod(kernel) * prod(source[2:]) * item
    own = item == 4 and not _uses_onednn(source, kernel, strided, False, count)
    if own or is_plain(call.dtype):
        return _copy(x) + x.nbytes + source[0] * count * windows + prod(made) // source[0] * item
    blocked = prod(made) // made[1] * count * _blocked(made[1] // count) * item
    given = prod(source) // source[1] * count * _blocked(source[1] // count) * item
    weights = _blocked(source[1]) * _blocked(made[1] // count) * prod(kernel) * item
    if item < 4:
        weights *= 8
    if strided:
        given += cpu_threads() * _blocked(source[1]) * prod(source[2:]) * kernel[-1] * item
    if is_channels_last(x.layout):
        weights *= 2
    together = given + 2 * blocked + weights + _SCRATCH - prod(made) * item
    if item < 4:
        together += 2 * _SCRATCH
        together += _rows_per_thread(source[1], prod(source[2:]), kernel, count)
    if item < 4 and len(call.operands) > 2:  # the bias is added to results in float32
        together += 2 * blocked + (given + 4 * blocked) // 12
    if item < 4 and len(kernel) == 1:
        together += source[1] * prod(kernel) * max(source[2], made[2]) * item
    if item < 4 and count == 1 and not strided and HalfKernels.TILES in half_kernels(call.dtype):
        reach = prod(m + k - 1 for m, k in zip(made[2:], kernel, strict=True))
        together += _input_in_tiles(source[1], reach, strided)
    grouped = cpu_threads() * windows + _SCRATCH if count > 1 else 0
    if count > 1 and item < 4 and HalfKernels.TILES not in half_kernels(call.dtype):
        # groups one by one, unfolded and summed in float32
        output = prod(made) * item
        apart = 2 * windows + 2 * output // count + 2 * _SCRATCH + (2 * output if strided else 0)
        apart *= cpu_threads()
        found = (given if strided else 0) + 3 * (output + _SCRATCH) + apart
        if call.dtype == "float16":
            found = max(found, _groups_in_float16(x, kernel, made, count))
        return _copy(x) + found
    return _copy(x) + max(together, 2 * blocked, grouped)


CONVOLUTION_WORKSPACES: dict[str, Workspace] = {
    **{f"aten.conv{n}d": convolution for n in (1, 2, 3)},
    "aten.convolution": convolution,
    **{f"aten.conv_transpose{n}d": transposed_convolution for n in (1, 2, 3)},
}
