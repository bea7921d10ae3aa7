"""What elementwise composites, selections, counts and resampling take beside their outputs.

Read off the allocator's events with torch 2.13, by
``tests/search_space/test_workspace_composites.py``.
"""

from __future__ import annotations

from math import prod

from search_space.graph import ITEM_BYTES, Argument
from search_space.kernel_call import (
    Call,
    Operand,
    Workspace,
    contiguous_first,
    copy_bytes,
    image_first,
    on_cpu,
)

_INDEX = 8
"""Bytes of an index."""

_SCALARS = 64
"""Bytes of single numbers."""


def _output(call: Call) -> int:
    return prod(call.shape) * ITEM_BYTES[call.dtype]


def _whole(call: Call) -> int:
    """Numbers of the tensors as broadcast to each other."""
    shapes = [one.layout.shape for one in call.operands]
    sizes = [max(shape[-k] for shape in shapes if len(shape) >= k)
             for k in range(1, max(map(len, shapes)) + 1)]  # fmt: skip
    return prod(sizes)


def _one_more(call: Call) -> int:
    """Another tensor like the output."""
    return _output(call)


def _like_first(call: Call) -> int:
    return call.operands[0].nbytes


# -- elementwise ---------------------------------------------------------------------------------


def _isclose(call: Call) -> int:
    """The allowed difference, the real one and its size, and three answers."""
    item = max(ITEM_BYTES[one.dtype] for one in call.operands)
    return 2 * item * _whole(call) + item * call.operands[-1].layout.numel + 3 * _whole(call)


def _log_sigmoid(call: Call) -> int:
    """A buffer for the gradient, which nobody asks for."""
    return call.operands[0].nbytes + copy_bytes(call.operands[0])


def _float_power(call: Call) -> int:
    """Arguments in double precision."""
    item = ITEM_BYTES[call.dtype]
    return sum(item * one.layout.numel for one in call.operands if one.dtype != call.dtype)


def _ldexp(call: Call) -> int:
    """Two to the second argument's power."""
    return ITEM_BYTES[call.dtype] * call.operands[-1].layout.numel


def _pairwise_distance(call: Call) -> int:
    """The difference, and it shifted."""
    return 2 * ITEM_BYTES[call.dtype] * _whole(call) + _SCALARS


def _whole_terms(call: Call) -> int:
    return ITEM_BYTES[call.dtype] * _whole(call) + _SCALARS


def _multigammaln(call: Call) -> int:
    """The argument shifted, once for each dimension."""
    count = call.argument(1, "p", 1)
    return (count if isinstance(count, int) else 1) * _output(call) + _SCALARS


def _safe_softmax(call: Call) -> int:
    """Which numbers are infinite, or the copy before."""
    first = call.operands[0]
    cast = 0 if first.dtype == call.dtype else _output(call)
    rows = first.layout.numel // max(min(first.layout.shape, default=1), 1)
    return max(copy_bytes(first) + cast, first.layout.numel + rows)


def _roll(call: Call) -> int:
    """Dimensions are rolled one by one, and each result stays; without any, rows are flattened."""
    dims = call.argument(2, "dims", ())
    count = len(dims) if isinstance(dims, tuple) else 1
    first = call.operands[0]
    return (count - 1) * first.nbytes if count else copy_bytes(first)


def _difference(call: Call) -> int:
    """Each order's tensor while the next is made; what is put on before or behind makes a copy."""
    order = call.argument(1, "n", 1)
    first = call.operands[0]
    joined = sum(one.layout.numel for one in call.operands)
    item = ITEM_BYTES[call.dtype]
    taken = joined * item if len(call.operands) > 1 else 0
    if isinstance(order, int) and order > 1 and first.layout.shape:
        dim = call.argument(2, "dim", -1)
        size = call.shape[dim if isinstance(dim, int) else -1]
        rows = prod(call.shape) // max(size, 1)
        taken += rows * (size + 1 if order == 2 else size + 4) * item
    return taken


def _trapezoids(call: Call) -> int:
    """Sums of neighbours and these scaled; with positions, their distances and products."""
    return (4 if len(call.operands) > 1 else 2) * _output(call) + _SCALARS


def _trapezoid_sums(call: Call) -> int:
    """The sum of all less the half of both ends; with positions, all distances and products."""
    terms = ITEM_BYTES[call.dtype] * call.operands[0].layout.numel
    return (3 * terms if len(call.operands) > 1 else 4 * _output(call)) + _SCALARS


# -- scattered and looked up ---------------------------------------------------------------------


def _reduces_to_mean(call: Call, place: int) -> bool:
    return call.argument(place, "reduce") == "mean"


def _scatter_reduce(call: Call) -> int:
    """For a mean, how many were scattered where, and ones to count or where there were none; in
    half precision a CPU scatters in float32."""
    is_half = call.dtype in ("bfloat16", "float16") and call.device.startswith("cpu")
    widened = 4 * prod(call.shape) if is_half else 0
    if not _reduces_to_mean(call, 4):
        return widened
    return 2 * _output(call) + max(prod(call.shape), widened) + _SCALARS


def _index_reduce(call: Call) -> int:
    """For a mean, how many were put where, and ones to count or where there were none."""
    if not _reduces_to_mean(call, 4):
        return 0
    return _output(call) + max(prod(call.shape), call.operands[-1].nbytes) + _SCALARS


def _searchsorted(call: Call) -> int:
    return sum(map(copy_bytes, call.operands[:2]))


def _repeat_interleave(call: Call) -> int:
    """The places to take, counted from the repeats; the copy that they are taken from."""
    first, repeats = call.operands[0], call.operands[-1]
    dim = call.argument(2, "dim")
    taken = call.shape[dim] if isinstance(dim, int) else prod(call.shape)
    places = _INDEX * (taken + repeats.layout.numel)
    # without a dimension it is a flattened tensor that is taken from
    return places + copy_bytes(first)


def _isin(call: Call) -> int:
    """Many elements are joined and sorted; few are compared one by one (``isin`` in ATen)."""
    if len(call.operands) < 2:
        return 0
    given, tests = (one.layout.numel for one in call.operands[:2])
    if tests < 10 * given**0.145:
        return 0
    item = ITEM_BYTES[call.operands[0].dtype]
    is_unique = call.argument(2, "assume_unique", False)
    # both joined, these sorted, with places, and what sorting takes
    joined = (given + tests) * (2 * item + 2 * _INDEX)
    first = (given if not is_unique else 0) * _INDEX
    # where there are many tests, finding the different ones among them takes most
    return first + joined + _SCALARS


def _offsets(call: Call) -> int:
    """For each index the bag that it is in."""
    return _INDEX * (call.operands[1].layout.numel + 1) if len(call.operands) > 1 else 0


# -- sorted and counted --------------------------------------------------------------------------


def _stride(operand: Operand, dim: Argument) -> int:
    strides = operand.layout.strides
    return strides[dim] if isinstance(dim, int) and strides else 1


def _median(call: Call) -> int:
    """A copy, where the dimension does not lie innermost."""
    first = call.operands[0]
    dim = call.argument(1, "dim")
    return first.nbytes if dim is None or _stride(first, dim) != 1 else 0


def _kth_value(call: Call) -> int:
    first = call.operands[0]
    return first.nbytes + _INDEX * first.layout.numel


def _msort(call: Call) -> int:
    """The places, which are dropped."""
    first = call.operands[0]
    return _INDEX * (first.layout.numel + max(first.layout.shape[:1], default=1))


def _quantile(call: Call) -> int:
    """All sorted, with places; then what lies around each quantile."""
    first = call.operands[0]
    count = first.layout.numel
    dim = call.argument(2, "dim")
    scratch = _INDEX * max(first.layout.shape, default=1)
    if dim is None:  # sorted as one row, which takes as many places again
        scratch = _INDEX * count + copy_bytes(first)
    return first.nbytes + max(_INDEX * count + scratch, 8 * _output(call)) + _SCALARS


def _nan_quantile(call: Call) -> int:
    """As without NaN; they are counted, beside what is sorted."""
    count = call.operands[0].layout.numel
    rows = prod(call.shape)
    counted = call.operands[0].nbytes + count + _INDEX * count + 2 * _INDEX * rows
    return max(_quantile(call), counted) + _SCALARS


def _nan_mean(call: Call) -> int:
    """Which are numbers, counted as integers."""
    count = call.operands[0].layout.numel
    cast = _INDEX * count if call.device.startswith("cpu") else 0
    return count + cast + _INDEX * prod(call.shape)


def _count_nonzero(call: Call) -> int:
    """Which are not zero, counted as integers; of all without a dimension none are kept."""
    first = call.operands[0]
    if call.argument(1, "dim") in (None, ()):
        return 0
    truth = 0 if first.dtype == "bool" else first.layout.numel
    return truth + _INDEX * first.layout.numel


def _cumulated(call: Call) -> int:
    """The argument cast to the output's dtype."""
    return 0 if call.operands[0].dtype == call.dtype else _output(call)


def _smallest_and_largest(call: Call) -> int:
    return copy_bytes(call.operands[0]) if dict(call.kwargs).get("dim") is None else 0


def _histogram(call: Call) -> int:
    return 2 * copy_bytes(call.operands[0]) + 3 * _output(call) + _SCALARS


# -- images --------------------------------------------------------------------------------------


def _columns_to_image(call: Call) -> int:
    """The output is made as large as the input, then cut; a copy of what is not row-major."""
    first = call.operands[0]
    return max(first.nbytes - _output(call), 0) + copy_bytes(first)


def _affine_grid(call: Call) -> int:
    """The grid in homogeneous coordinates."""
    width = max(call.shape[-1:] or (1,))
    return _output(call) // width * (width + 1) + 4 * _INDEX * max(call.shape, default=1)


def _cubic_weights(call: Call) -> int:
    """Positions and weights of four neighbours for each position of the output, by dimension."""
    return 4 * (_INDEX + ITEM_BYTES[call.dtype]) * sum(call.shape[2:])


COMPOSITE_WORKSPACES: dict[str, Workspace] = {
    "aten.isclose": _isclose,
    "aten.log_sigmoid": on_cpu(_log_sigmoid),
    "aten.float_power": _float_power,
    "aten.ldexp": _ldexp,
    "aten.pairwise_distance": _pairwise_distance,
    "aten.dist": _whole_terms,
    "aten.rrelu": _like_first,
    "aten.special_multigammaln": _multigammaln,
    "aten.mvlgamma": _multigammaln,
    "aten._safe_softmax": _safe_softmax,
    "aten.roll": _roll,
    "aten.diff": _difference,
    "aten.cumulative_trapezoid": _trapezoids,
    "aten.trapezoid": _trapezoid_sums,
    "aten.vander": _one_more,
    "aten.linalg_vander": _one_more,
    "aten.channel_shuffle": contiguous_first,
    "aten.scatter_reduce": _scatter_reduce,
    "aten.index_reduce": _index_reduce,
    "aten.searchsorted": _searchsorted,
    "aten.repeat_interleave.self_Tensor": _repeat_interleave,
    "aten.isin": _isin,
    "aten.embedding_bag": on_cpu(_offsets),
    **dict.fromkeys(("aten.median", "aten.nanmedian"), on_cpu(_median)),
    "aten.kthvalue": on_cpu(_kth_value),
    "aten.msort": _msort,
    "aten.quantile": _quantile,
    "aten.nanquantile": _nan_quantile,
    "aten.nanmean": _nan_mean,
    "aten.count_nonzero": on_cpu(_count_nonzero),
    **dict.fromkeys(("aten.cumsum", "aten.cumprod"), _cumulated),
    "aten.aminmax": on_cpu(_smallest_and_largest),
    "aten.histc": on_cpu(_histogram),
    "aten.pdist": on_cpu(contiguous_first),
    "aten.col2im": _columns_to_image,
    "aten.affine_grid_generator": _affine_grid,
    "aten.upsample_bicubic2d": on_cpu(_cubic_weights),
    **{f"aten.adaptive_max_pool{n}d": on_cpu(image_first) for n in (2, 3)},
}
