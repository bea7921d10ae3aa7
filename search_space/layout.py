"""Strides: which views stay views on a slice, and which kernels must copy their arguments first.

A slice of a tensor is not dense, so that a ``reshape`` that was a view of the whole may copy a
slice. The memory of a loop's body depends on that, and the capture's strides cannot tell; they are
worked out here, per chunk, from strides alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from search_space.graph import Argument


@dataclass(frozen=True, slots=True)
class Layout:
    """Shape and strides of a tensor, in elements."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def numel(self) -> int:
        return prod(self.shape)


def contiguous(shape: Sequence[int]) -> Layout:
    """The row-major layout of a shape."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return Layout(tuple(shape), tuple(reversed(strides)))


def is_contiguous(layout: Layout) -> bool:
    """Whether a layout is row-major; strides of single positions do not matter."""
    step = 1
    for size, stride in zip(reversed(layout.shape), reversed(layout.strides), strict=True):
        if size != 1:
            if stride != step:
                return False
            step *= size
    return True


def is_channels_last(layout: Layout) -> bool:
    """Whether ``(N, C, positions...)`` lies with its channels innermost and the positions in order
    after them, which kernels take for the layout to keep."""
    if len(layout.shape) not in (4, 5) or is_contiguous(layout) or layout.shape[1] == 1:
        return False
    step = 1
    for dim in (1, *range(len(layout.shape) - 1, 1, -1)):
        if layout.shape[dim] == 1:
            continue
        if layout.strides[dim] != step:
            return False
        step *= layout.shape[dim]
    return layout.strides[0] >= step


def is_taken_for_channels_last(layout: Layout) -> bool:
    """Whether the framework takes ``(N, C, positions...)`` for channels-last by its strides alone,
    gaps or not, and lays it out so for a kernel (``is_channels_last_strides_2d`` and ``_3d``).

    Other than :func:`is_channels_last`, it also is where one channel is cut out of such a tensor.
    """
    if len(layout.shape) not in (4, 5) or layout.strides[1] == 0 or 0 in layout.shape:
        return False
    least = 0
    for dim in (1, *range(len(layout.shape) - 1, 1, -1), 0):
        stride = layout.strides[dim]
        if stride < least or (dim == 0 and least == layout.strides[1]):
            return False
        least = stride * layout.shape[dim]
    return True


def dense_like(shape: Sequence[int], strides: Sequence[int]) -> Layout:
    """A dense layout of ``shape`` whose dimensions lie in the order that ``strides`` give.

    Elementwise ops keep their arguments' order of dimensions; broadcast strides (0) give row-major.
    """
    if any(stride == 0 and size > 1 for size, stride in zip(shape, strides, strict=True)):
        return contiguous(shape)
    order = sorted(range(len(shape)), key=lambda d: (strides[d], shape[d] > 1, -d))
    found = [0] * len(shape)
    step = 1
    for dim in order:
        found[dim] = step
        step *= max(shape[dim], 1)
    return Layout(tuple(shape), tuple(found))


def elementwise_layout(operands: Sequence[Layout]) -> Layout:
    """How the framework lays out what an elementwise kernel gives for tensors that lie so.

    Tensors of one shape that are all row-major, all channels-last (images alone, and whatever the
    stride of single positions) or all the same and dense give an output like them. Otherwise the
    dimensions are sorted by the first operand that tells two of them apart
    (``TensorIteratorBase::fast_set_up`` and ``reorder_dimensions`` in ATen).
    """
    shape = _broadcast(operands)
    if all(operand.shape == shape for operand in operands):
        if all(map(is_contiguous, operands)):
            return contiguous(shape)
        if len(shape) == 4 and all(map(_is_dense_channels_last, operands)):
            return dense_like(shape, (4, 1, 3, 2))
        first = operands[0]
        if is_dense(first) and all(operand == first for operand in operands):
            return first
    steps = [_expanded(operand, shape) for operand in operands]
    order = list(reversed(range(len(shape))))
    for start in range(1, len(order)):
        place = start
        for other in reversed(range(start)):
            verdict = _order(order[other], order[place], shape, steps)
            if verdict > 0:
                order[other], order[place] = order[place], order[other]
                place = other
            elif verdict < 0:
                break
    strides = [0] * len(shape)
    step = 1
    for dim in order:
        strides[dim] = step
        step *= max(shape[dim], 1)
    return Layout(shape, tuple(strides))


def _broadcast(operands: Sequence[Layout]) -> tuple[int, ...]:
    rank = max(len(operand.shape) for operand in operands)
    padded = [(1,) * (rank - len(operand.shape)) + operand.shape for operand in operands]
    return tuple(next((n for n in sizes if n != 1), 1) for sizes in zip(*padded, strict=True))


def _expanded(operand: Layout, shape: Sequence[int]) -> tuple[int, ...]:
    """Strides as broadcast to a shape: 0 where positions repeat."""
    missing = len(shape) - len(operand.shape)
    own = zip(operand.shape, operand.strides, shape[missing:], strict=True)
    return (0,) * missing + tuple(0 if n == 1 != whole else step for n, step, whole in own)


def _is_dense_channels_last(layout: Layout) -> bool:
    step = 1
    for dim in (1, 3, 2, 0):
        if layout.shape[dim] != 1:
            if layout.strides[dim] != step:
                return False
            step *= layout.shape[dim]
    return True


def _order(one: int, other: int, shape: Sequence[int], steps: Sequence[Sequence[int]]) -> int:
    """1 where dimension ``one`` is to lie outside of ``other``, -1 inside, 0 where nothing says."""
    for strides in steps:
        if strides[one] == 0 or strides[other] == 0:
            continue
        if strides[one] != strides[other]:
            return 1 if strides[one] > strides[other] else -1
        if shape[one] > shape[other]:
            return 1
    return 0


def is_dense(layout: Layout) -> bool:
    """Whether the elements fill their storage without gaps or overlaps, in any order."""
    step = 1
    for stride, size in sorted(zip(layout.strides, layout.shape, strict=True)):
        if size == 1:
            continue
        if stride != step:
            return False
        step *= size
    return True


def reshaped(layout: Layout, shape: Sequence[int]) -> Layout | None:
    """``shape`` as a view of the layout, or None where only a copy can give it.

    The rule is that of ``torch.Tensor.view``: dimensions that are merged must follow each other in
    memory without a gap.
    """
    if layout.numel == 0:
        return contiguous(shape)
    # old dimensions, merged into runs that are contiguous in themselves: (size, innermost stride)
    runs: list[tuple[int, int]] = []
    for size, stride in zip(layout.shape, layout.strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == size * stride:
            runs[-1] = (runs[-1][0] * size, stride)
        else:
            runs.append((size, stride))
    strides = [0] * len(shape)
    place = len(runs) - 1
    left, step = runs[place] if runs else (1, 1)
    for dim in range(len(shape) - 1, -1, -1):
        size = shape[dim]
        if size == 1:
            strides[dim] = step
            continue
        while left == 1 and place > 0:
            place -= 1
            left, step = runs[place]
        if size > left or left % size:
            return None
        strides[dim] = step
        step *= size
        left //= size
    return Layout(tuple(shape), tuple(strides))


def _int(value: Argument, default: int = 0) -> int:
    return value if isinstance(value, int) else default


def _ints(value: Argument) -> tuple[int, ...]:
    return tuple(_int(v) for v in value) if isinstance(value, tuple) else (_int(value),)


def _dim(value: int, rank: int) -> int:
    return value + rank if value < 0 else value


def _transpose(layout: Layout, args: tuple[Argument, ...], shape: tuple[int, ...]) -> Layout:
    rank = len(layout.shape)
    order = list(range(rank))
    a, b = (_dim(_int(v), rank) for v in args[1:3])
    order[a], order[b] = order[b], order[a]
    return _permuted(layout, order)


def _t(layout: Layout, args: tuple[Argument, ...], shape: tuple[int, ...]) -> Layout:
    return _permuted(layout, range(len(layout.shape) - 1, -1, -1))


def _permute(layout: Layout, args: tuple[Argument, ...], shape: tuple[int, ...]) -> Layout:
    return _permuted(layout, [_dim(d, len(layout.shape)) for d in _ints(args[1])])


def _permuted(layout: Layout, order: Sequence[int]) -> Layout:
    return Layout(
        tuple(layout.shape[d] for d in order), tuple(layout.strides[d] for d in order)
    )


def _unsqueeze(layout: Layout, args: tuple[Argument, ...], shape: tuple[int, ...]) -> Layout:
    dim = _dim(_int(args[1]), len(layout.shape) + 1)
    inner = layout.shape[dim] * layout.strides[dim] if dim < len(layout.shape) else 1
    strides = (*layout.strides[:dim], inner, *layout.strides[dim:])
    return Layout((*layout.shape[:dim], 1, *layout.shape[dim:]), strides)


def _squeeze(layout: Layout, args: tuple[Argument, ...], shape: tuple[int, ...]) -> Layout:
    rank = len(layout.shape)
    dims = {_dim(d, rank) for d in _ints(args[1])} if len(args) > 1 else set(range(rank))
    keep = [d for d in range(rank) if d not in dims or layout.shape[d] != 1]
    return _permuted(layout, keep)


def _select(layout: Layout, args: tuple[Argument, ...], shape: tuple[int, ...]) -> Layout:
    dim = _dim(_int(args[1]), len(layout.shape))
    return _permuted(layout, [d for d in range(len(layout.shape)) if d != dim])


def _slice(layout: Layout, args: tuple[Argument, ...], shape: tuple[int, ...]) -> Layout:
    dim = _dim(_int(args[1]) if len(args) > 1 else 0, len(layout.shape))
    step = _int(args[4], 1) if len(args) > 4 else 1
    strides = list(layout.strides)
    strides[dim] *= step
    return Layout(shape, tuple(strides))


def _expand(layout: Layout, args: tuple[Argument, ...], shape: tuple[int, ...]) -> Layout:
    lead = len(shape) - len(layout.shape)
    strides = [0] * lead + [
        stride if size == out else 0
        for size, stride, out in zip(layout.shape, layout.strides, shape[lead:], strict=True)
    ]
    return Layout(shape, tuple(strides))


def _same(layout: Layout, args: tuple[Argument, ...], shape: tuple[int, ...]) -> Layout:
    return Layout(shape, layout.strides)


def _unbind(layout: Layout, args: tuple[Argument, ...], shape: tuple[int, ...]) -> Layout:
    dim = _dim(_int(args[1]) if len(args) > 1 else 0, len(layout.shape))
    return _permuted(layout, [d for d in range(len(layout.shape)) if d != dim])


def _reshape(layout: Layout, args: tuple[Argument, ...], shape: tuple[int, ...]) -> Layout | None:
    return reshaped(layout, shape)


def _view_as_real(layout: Layout, args: tuple[Argument, ...], shape: tuple[int, ...]) -> Layout:
    return Layout(shape, (*(2 * stride for stride in layout.strides), 1))


def _view_as_complex(
    layout: Layout, args: tuple[Argument, ...], shape: tuple[int, ...]
) -> Layout:
    return Layout(shape, tuple(stride // 2 for stride in layout.strides[:-1]))


def _unfold(layout: Layout, args: tuple[Argument, ...], shape: tuple[int, ...]) -> Layout:
    dim = _dim(_int(args[1]), len(layout.shape))
    strides = list(layout.strides)
    strides[dim] *= _int(args[3], 1)
    return Layout(shape, (*strides, layout.strides[dim]))


def _diagonal(layout: Layout, args: tuple[Argument, ...], shape: tuple[int, ...]) -> Layout:
    rank = len(layout.shape)
    a = _dim(_int(args[2]) if len(args) > 2 else 0, rank)
    b = _dim(_int(args[3]) if len(args) > 3 else 1, rank)
    kept = [layout.strides[d] for d in range(rank) if d not in (a, b)]
    return Layout(shape, (*kept, layout.strides[a] + layout.strides[b]))


View = Callable[[Layout, tuple[Argument, ...], tuple[int, ...]], Layout | None]

_VIEWS: dict[str, View] = {
    "aten.transpose": _transpose,
    "aten.t": _t,
    "aten.permute": _permute,
    "aten.unsqueeze": _unsqueeze,
    "aten.squeeze": _squeeze,
    "aten.select": _select,
    "aten.slice": _slice,
    "aten.narrow": _same,
    "aten.expand": _expand,
    "aten.split": _same,
    "aten.split_with_sizes": _same,
    "aten.chunk": _same,
    "aten.unbind": _unbind,
    "aten.detach": _same,
    "aten.alias": _same,
    "getitem": _same,
    "aten.view.default": _reshape,
    "aten.view.dtype": _same,
    "aten._unsafe_view": _reshape,
    "aten.reshape": _reshape,
    "aten.unflatten": _reshape,
    "aten.flatten": _reshape,
    "aten.swapaxes": _transpose,
    "aten.swapdims": _transpose,
    "aten.broadcast_to": _expand,
    "aten.unsafe_split": _same,
    "aten.view_as_real": _view_as_real,
    "aten.view_as_complex": _view_as_complex,
    "aten.unfold": _unfold,
    "aten.diagonal": _diagonal,
}


def view_layout(
    op: str, layout: Layout, args: tuple[Argument, ...], shape: tuple[int, ...]
) -> Layout | None:
    """The layout of a view op's output, of the given shape; None where the op copies, or is not a
    view at all."""
    view = _VIEWS.get(op) or _VIEWS.get(op.rpartition(".")[0])
    return view(layout, args, shape) if view is not None else None
