"""What matrix products take beside their outputs: copies of arguments that no kernel can read in
place, and on a CPU, in half precision, what oneDNN packs, by the processor's kinds of kernels.

Read off the allocator's events with torch 2.13.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from search_space.dim_rules.matmul import Labels, einsum_labels
from search_space.graph import ITEM_BYTES
from search_space.kernel_call import Call, Operand, Workspace, cpu_threads
from search_space.layout import Layout, contiguous, is_contiguous, reshaped
from search_space.processor import HalfKernels, half_kernels, is_plain

_PACKED = 9 * 1024
"""Bytes of small buffers that each thread has in a packed product."""

_MOST_PACKED = 3 * 2**19
"""Bytes of the largest block that a thread packs for matrix units: what oneDNN fills of a level-2
cache of 2 MiB (``L2_threshold``), which every processor with such units has."""

_SMALL = 2 * 1024
"""Bytes of a thread's lists of blocks."""

_HALF_BYTES = 2

_LEAST = 16**3
"""Products of fewer steps are not given to the library (``use_mkldnn_matmul``)."""


def _is_packed(call: Call) -> bool:
    """Whether the call may go to the library; without kernels of its own for the dtype it does not,
    and no more is taken than in float32."""
    half = call.device.startswith("cpu") and call.dtype in ("bfloat16", "float16")
    return half and not is_plain(call.dtype)


def _folded(layout: Layout, batch: Sequence[int]) -> Layout | None:
    """``(..., n, m)`` broadcast to a batch and folded to one batch dimension; None where only a
    copy can be."""
    lead = len(batch) - (len(layout.shape) - 2)
    shape = (*batch, *layout.shape[-2:])
    strides = (0,) * lead + tuple(
        stride if size == out else 0
        for size, stride, out in zip(layout.shape, layout.strides, shape[lead:], strict=True)
    )
    return reshaped(Layout(shape, strides), (prod(batch), *shape[-2:]))


def _is_plain(folded: Layout, packed: bool) -> bool:
    """Whether a batched product reads the matrices in place: by rows or by columns."""
    rows, columns = folded.strides[-2:]
    n, m = folded.shape[-2:]
    if packed:
        # oneDNN takes matrices without gaps, by rows or by columns, one after the other; by columns
        # with just these strides, a single matrix's too (``is_mkldnn_optimized_format``)
        return is_contiguous(folded) or folded.strides == (n * m, 1, n)
    return (columns == 1 or m == 1) and rows >= m or (rows == 1 or n == 1) and columns >= n


def is_multiplied_in_place(layout: Layout, batch: Sequence[int]) -> bool:
    """Whether a single-precision product of a batch reads this argument where it lies."""
    folded = _folded(layout, batch)
    return folded is not None and _is_plain(folded, False)


def is_copied_by_matrix(layout: Layout, batch: Sequence[int]) -> bool:
    """Whether a single-precision product of a batch on a CPU copies this argument matrix by matrix,
    and multiplies them one by one; see :func:`_folded_copy`."""
    folded = _folded(layout, batch)
    return folded is not None and not _is_plain(folded, False)


def _matrix_copy(call: Call, operand: Operand, batch: Sequence[int]) -> int:
    """Bytes that batched matrix multiplication copies of one argument of rank at least 2."""
    folded = _folded(operand.layout, batch)
    shape = (prod(batch), *operand.layout.shape[-2:])
    return _folded_copy(call, folded, shape) * ITEM_BYTES[operand.dtype]


def _folded_copy(call: Call, folded: Layout | None, shape: Sequence[int]) -> int:
    """Elements that a batched product copies of one argument.

    What cannot be folded is copied whole before the product, and so is what the library cannot
    read; otherwise matrices that lie neither by rows nor by columns are multiplied one by one, and
    copied one by one, on a CPU (``bmm_out_or_baddbmm_``); on CUDA all are copied at once
    (``prepare_batch_matrix_for_cublas``).
    """
    packed = _is_packed(call)
    if folded is not None and _is_plain(folded, packed):
        return 0
    whole = folded is None or packed or not call.device.startswith("cpu")
    return prod(shape) if whole else prod(shape[-2:])


def _packing(
    call: Call, a: Layout, b: Layout, numel: int | None = None, batch: int | None = None
) -> int:
    """An upper bound of what the library takes for a product in half precision, by the kind of its
    kernels (``brgemm_matmul_utils.cpp`` and ``gemm_bf16_matmul.cpp`` of oneDNN).

    Args:
        a, b: the factors.
        numel: of the product; None for that of the call's output.
        batch: matrices that the product is of; None for those of the right-hand factor.
    """
    if not _is_packed(call):
        return 0
    inner, columns = b.shape[-2:] if len(b.shape) > 1 else (b.shape[-1], 1)
    rows = (prod(call.shape) if numel is None else numel) // max(columns, 1)
    if rows * columns * inner <= _LEAST:
        return 0
    flipped = len(a.shape) > 1 and a.strides[-1] != 1
    right = max(prod(b.shape[:-2]), 1)
    single, batch = rows // right, batch or right
    bounds = {
        HalfKernels.TILES: _in_tiles(rows // batch, inner, columns, batch, flipped),
        HalfKernels.VECTORS: _in_float32(single, inner, columns)
        if call.dtype == "float16"
        else _in_blocks(single, inner, columns, flipped),
        HalfKernels.WIDENED: _widened(single, columns, right),
        HalfKernels.PLAIN: 0,
    }
    return max(bounds[kind] for kind in half_kernels(call.dtype))


def _in_tiles(rows: int, inner: int, columns: int, batch: int, flipped: bool) -> int:
    """The product's own buffers, or those of the vectors' kernels, to which narrow products go
    (``is_small_shapes``)."""
    found = _in_blocks(rows, inner, columns, flipped)
    # sums of one term are read either way
    if flipped or inner == 1:
        found = max(found, _tiles_of_columns(rows, inner, columns))
    if not flipped or inner == 1:
        found = max(found, _tiles_of_rows(rows, inner, columns, batch))
    return found


def _tiles_of_columns(rows: int, inner: int, columns: int) -> int:
    """A left-hand matrix that lies in columns (``matmul_amx_blocking_params_micro_t``).

    For each thread up to four blocks of at most 64 of its rows, a block of the right-hand matrix 64
    columns wide, and where sums are cut these blocks' results in float32; all fits the cache.
    """
    high = 256 if rows > 64 else 64
    depth = _up(inner, 32)
    copies = 64 * depth + high * (depth + 32)
    sums = 4 * high * min(_up(columns, 64), 256) if inner > 512 else 2**15
    most = min(_HALF_BYTES * copies + sums, _MOST_PACKED)
    return cpu_threads() * (most + _PACKED + 2 * inner)


def _tiles_of_rows(rows: int, inner: int, columns: int, batch: int) -> int:
    """A left-hand matrix that lies in rows (``matmul_amx_blocking_params_macro_t``).

    For each thread a block of the right-hand matrix, of up to all columns. From some 450 terms on,
    sums are cut for the nearest cache, and results stand in float32: of all rows by 32 columns, or
    of 32 rows by all columns; of all rows by all columns where a block has but a part of each sum.
    Sums of no multiple of 32 end in copies of 32 rows.
    """
    threads = cpu_threads()
    right = min(_HALF_BYTES * _up(inner, 64) * _up(columns, 64), _MOST_PACKED)
    ends = _HALF_BYTES * 32 * (_up(inner, 32) + 32) if inner % 32 else 0
    # short sums: blocks of 64 by 64
    sums = 5 * 2**12 if inner <= 32 else 0
    if inner > 384:
        sums = 4 * 32 * max(min(_up(rows, 32), 512), _up(columns, 64))
    sums *= threads
    if 5 * inner * (columns + 64) > 2 * _MOST_PACKED:  # 0.8 of the cache's share
        sums = max(sums, min(threads, batch) * 4 * _up(rows, 32) * _up(columns, 64))
    return threads * (right + ends + _PACKED + inner // 4) + sums


def _in_blocks(rows: int, inner: int, columns: int, flipped: bool) -> int:
    """For each thread a block of the right-hand matrix, 64 columns wide and at most 1024 deep; the
    results of at most 256 rows in float32; and these rows of a left-hand matrix that must be copied
    (it lies in columns, or its rows are long), by which then up to 16 blocks are multiplied. Of odd
    rows the ends are copied."""
    depth = min(_up(inner, 16), 1024)
    high = min(rows, 256)
    copied = flipped or inner >= 1024
    left = high * (depth + 32 if copied else 64 * (inner % 2))
    results = high * min(_up(columns, 16), 1024 if copied else 64)
    return cpu_threads() * (_HALF_BYTES * (64 * depth + left) + 4 * results + _SMALL)


def _in_float32(rows: int, inner: int, columns: int) -> int:
    """The same blocks where both factors are copied, as numbers of float32: what the library does
    in float16 without matrix units for it (``is_copy_a_required``)."""
    depth = min(_up(inner, 16), 1024)
    high = min(rows, 256)
    results = high * min(_up(columns, 64), 1024)
    return cpu_threads() * (4 * (64 * depth + high * (depth + 32) + results) + _SMALL)


def _widened(rows: int, columns: int, batch: int) -> int:
    """The result in float32; of a batch, one matrix for each thread."""
    return min(cpu_threads(), batch) * (4 * rows * columns + _SMALL)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _rows_copy(operand: Operand) -> int:
    """Bytes copied to read ``(..., K)`` as a matrix of rows."""
    shape = operand.layout.shape
    folded = reshaped(operand.layout, (prod(shape[:-1]), shape[-1]))
    return operand.nbytes if folded is None else 0


def _matmul(call: Call) -> int:
    if len(call.operands) < 2:
        return 0
    a, b = call.operands[:2]
    small, large = sorted((a, b), key=lambda one: len(one.layout.shape))
    vector, single = (len(small.layout.shape) <= rank for rank in (1, 2))
    if vector:
        taken = _by_vector(call, a, b)
    elif single and large is a and len(a.layout.shape) > 2 and _folds(a.layout):
        # one product of all rows; where rows cannot be read in place, a batch of products
        taken = _packing(call, _rows_of(a.layout), b.layout)
    else:
        taken = _batched(call, a, b)
    if single and len(large.layout.shape) > 2 and small.is_parameter:
        # what could take a gradient is never repeated for a batch
        taken = max(taken, _of_all_rows(call, a, b))
    return taken


def _by_vector(call: Call, a: Operand, b: Operand) -> int:
    """One factor or both are vectors."""
    if not _is_packed(call):
        return 0
    gaps = [one for one in (a, b) if not is_contiguous(one.layout)]
    copied = sum(one.nbytes for one in gaps)
    if len(b.layout.shape) > 2:  # the vector, once for each matrix
        copied += prod(b.layout.shape[:-1]) * ITEM_BYTES[a.dtype]
    return _packing(call, a.layout, b.layout) + copied


def _of_all_rows(call: Call, a: Operand, b: Operand) -> int:
    """One product of all rows, copied where they cannot be read in place; where the rows are the
    right-hand factor's columns, both sides are turned, and the result back (``should_fold``)."""
    is_turned = len(a.layout.shape) < len(b.layout.shape)
    rows, other = (_turned(b), _turned(a)) if is_turned else (a, b)
    packing = _packing(call, _rows_of(rows.layout), other.layout)
    turned_back = 0
    if is_turned and len(other.layout.shape) == 2 and min(call.shape[-2:]) > 1:
        turned_back = prod(call.shape) * ITEM_BYTES[call.dtype]
    return _rows_copy(rows) + max(packing, turned_back)


def _turned(operand: Operand) -> Operand:
    """With its last two dimensions exchanged; a vector stays."""
    shape, strides = operand.layout.shape, operand.layout.strides
    if len(shape) < 2:
        return operand
    turned = Layout(
        (*shape[:-2], shape[-1], shape[-2]), (*strides[:-2], strides[-1], strides[-2])
    )
    return replace(operand, layout=turned)


def _batched(call: Call, a: Operand, b: Operand) -> int:
    """A product of matrices, one for each of the output."""
    batch = call.shape[:-2]
    copies = [_matrix_copy(call, one, batch) for one in (a, b)]
    left = contiguous(a.layout.shape) if copies[0] and _is_packed(call) else a.layout
    return sum(copies) + _packing(call, left, b.layout, batch=prod(batch))


def _folds(layout: Layout) -> bool:
    """Whether ``(..., K)`` is multiplied as a matrix of rows; strides of single positions matter
    (``should_fold``)."""
    outer = zip(layout.strides[:-2], layout.strides[1:], layout.shape[1:], strict=False)
    return all(stride == step * size for stride, step, size in outer)


def _rows_of(layout: Layout) -> Layout:
    """``(..., K)`` as a matrix of rows, copied where it must be."""
    shape = (prod(layout.shape[:-1]), layout.shape[-1])
    return reshaped(layout, shape) or contiguous(shape)


def _bmm(call: Call) -> int:
    if len(call.operands) < 2:
        return 0
    a, b = call.operands[-2:]
    copies = [_folded_copy(call, one.layout, one.layout.shape) for one in (a, b)]
    left = contiguous(a.layout.shape) if copies[0] and _is_packed(call) else a.layout
    return sum(copies) * ITEM_BYTES[call.dtype] + _packing(call, left, b.layout)


def _mm(call: Call) -> int:
    if len(call.operands) < 2:
        return 0
    a, b = call.operands[-2:]
    copies = []
    for one in (a, b):
        copies.append(0 if is_multiplied_in_place(one.layout, ()) else one.nbytes)
    left = contiguous(a.layout.shape) if copies[0] else a.layout
    return sum(copies) + _packing(call, left, b.layout)


def _linear(call: Call) -> int:
    # with weights that could take a gradient the framework folds rows, even where it must copy
    x, weight = call.operands[0], call.operands[1] if len(call.operands) > 1 else None
    if weight is None:
        return _rows_copy(x)
    flipped = _turned(weight).layout
    folded = _rows_copy(x) + _packing(call, _rows_of(x.layout), flipped)
    if _folds(x.layout) or not _is_packed(call) or len(flipped.shape) < 2:
        return folded
    # with others it multiplies a batch, for which the library wants as many copies of the weights
    return max(folded, _batched(call, x, replace(weight, layout=flipped)))


def _einsum(call: Call) -> int:
    """Operands are joined one by one, each pair permuted to ``(batch, own, summed)`` and multiplied
    as matrices; what a permutation cannot give as a view is copied."""
    equation = call.args[0] if call.args else None
    ranks = [len(operand.layout.shape) for operand in call.operands]
    found = einsum_labels(equation, ranks)
    if found is None or not call.operands:
        return 0
    terms, result = found
    item = ITEM_BYTES[call.dtype]
    label, layout, most, standing = terms[0], call.operands[0].layout, 0, 0
    for place in range(1, len(terms)):
        later = {one for term in (*terms[place + 1 :], result) for one in term}
        other = call.operands[place].layout
        extra, label, layout = _pair(call, label, layout, terms[place], other, later, result)
        made = layout.numel * item
        last = place == len(terms) - 1
        most = max(most, standing + extra + (0 if last else made))
        standing = made
    return most


def _pair(
    call: Call,
    left: Labels,
    a: Layout,
    right: Labels,
    b: Layout,
    later: set[int | str],
    result: Labels,
) -> tuple[int, Labels, Layout]:
    """What joining two operands takes, and the labels and layout of what they become."""
    sizes_a, sizes_b = dict(zip(left, a.shape, strict=True)), dict(zip(right, b.shape, strict=True))
    item = ITEM_BYTES[call.dtype]
    extra = 0
    # what only one operand has and nobody asks for later is summed first
    for sizes, others in ((sizes_a, sizes_b), (sizes_b, sizes_a)):
        alone = [one for one in sizes if one not in later and others.get(one, 1) == 1]
        gone = [one for one in alone if sizes[one] > 1]
        if gone:
            extra += prod(sizes.values()) // prod(sizes[one] for one in gone) * item
    shared = [one for one in (*left, *right) if sizes_a.get(one, 1) > 1 and sizes_b.get(one, 1) > 1]
    batch = list(dict.fromkeys(one for one in shared if one in later))
    summed = list(dict.fromkeys(one for one in shared if one not in later))
    own_a = [one for one in left if one in later and one not in batch and sizes_a[one] > 1]
    own_b = [one for one in right if one in later and one not in batch and sizes_b[one] > 1]
    if _is_packed(call) and _is_swapped(own_a, later.difference(batch, own_a), result):
        (left, a, own_a), (right, b, own_b) = (right, b, own_b), (left, a, own_a)
    sizes = {**sizes_b, **sizes_a, **{k: v for k, v in sizes_b.items() if v > 1}}
    n, m, k = (prod(sizes[one] for one in group) for group in (own_a, own_b, summed))
    factors = []
    for labels, layout, groups, shape in (
        (left, a, (batch, own_a, summed), (n, k)), (right, b, (batch, summed, own_b), (k, m)),
    ):  # fmt: skip
        strides = dict(zip(labels, layout.strides, strict=True))
        order = [one for group in groups for one in group]
        permuted = Layout(tuple(sizes[one] for one in order), tuple(strides[one] for one in order))
        whole = (prod(sizes[one] for one in batch), *shape)
        folded = reshaped(permuted, whole)
        copied = _folded_copy(call, folded, whole)
        extra += copied * item
        if folded is None or copied:
            folded = contiguous(whole)
        elif _is_packed(call) and not batch and folded.strides[-1] != 1:
            extra += shape[0] * shape[1] * item
        factors.append(folded)
    made = (*batch, *own_a, *own_b)
    product = contiguous([sizes[one] for one in made])
    packing = _packing(call, factors[0], factors[1], product.numel)
    return extra + packing, made, product


def _is_swapped(left: list[int | str], others: set[int | str], result: Labels) -> bool:
    """Whether operands change places, so that the product lies as the result wants it: where its
    last dimension, or one that is asked for later, is the left-hand operand's. Single positions are
    the right-hand one's (``sumproduct_pair``)."""
    order = (*result, *sorted(others.union(left).difference(result), key=str))
    last = [max(map(order.index, group), default=-1) for group in (left, others)]
    return min(last) >= 0 and last[0] > last[1]


def _cdist(call: Call) -> int:
    """By a matrix product, rows are extended by their squared norm and a one; the extended copy is
    made from a scaled one."""
    if len(call.operands) < 2:
        return 0
    a, b = call.operands[:2]
    item = ITEM_BYTES[call.dtype]
    copies = sum(0 if is_contiguous(one.layout) else one.nbytes for one in (a, b))
    mode = call.argument(3, "compute_mode")
    by_product = call.argument(2, "p", 2.0) == 2.0 and mode != 2
    if mode in (None, 0):
        by_product = by_product and max(a.layout.shape[-2], b.layout.shape[-2]) > 25
    if not by_product:
        return copies
    width = a.layout.shape[-1]
    batch = prod(call.shape[:-2])
    rows = (batch * a.layout.shape[-2], batch * b.layout.shape[-2])
    left, right = (one * (width + 2) * item for one in rows)
    output = prod(call.shape) * item
    norms = 2 * sum(rows) * item
    peak = max(left + rows[0] * width * item + norms, left + right + norms + output)
    taken = copies + max(peak - output, 0)
    if not _is_packed(call):
        return taken
    # the product of the extended rows, of which the library copies a single matrix's
    extended = contiguous((*call.shape[:-1], width + 2))
    lines = contiguous((*call.shape[:-2], call.shape[-1], width + 2)).strides
    flipped = Layout((*call.shape[:-2], width + 2, call.shape[-1]), (*lines[:-2], 1, lines[-2]))
    product = _packing(call, extended, flipped) + (right if batch == 1 else 0)
    return taken + max(product, width * call.shape[-1] * item + 2 * _PACKED)


PRODUCT_WORKSPACES: dict[str, Workspace] = {
    "aten.matmul": _matmul,
    "aten.bmm": _bmm,
    "aten.baddbmm": _bmm,
    "aten.mm": _mm,
    "aten.addmm": _mm,
    "aten.linear": _linear,
    "aten.einsum": _einsum,
    "aten.cdist": _cdist,
}
