"""What ops that rearrange a tensor, or go along one of its dimensions, give; see
:mod:`search_space.mask_values`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search_space.graph import Argument, Ref
from search_space.mask_forms import INTEGERS, Linear, Value, as_number, mapped, number_of
from search_space.mask_step import Meaning, Step, exact, spread

# -- views ---------------------------------------------------------------------------------------


def _rearranged(step: Step, order: Sequence[int | None]) -> Value | None:
    """The source with dimensions in this order; None stands for a new one."""
    value = step.source()
    if value is None:
        return None

    def move(form: Linear) -> Linear:
        return Linear(tuple(0 if d is None else form.weights[d] for d in order), form.constant)

    return mapped(value, len(order), move)


def _same(step: Step) -> Value | None:
    return step.source()


def _cast(step: Step) -> Value | None:
    return exact(step.source(), step)


def _expand(step: Step) -> Value | None:
    return step.spread(0)


def _fold(step: Step) -> Value | None:
    """A view that only adds or drops dimensions of one position."""
    source = step.source_meta()
    if source is None or source.dtype != step.meta.dtype:
        return None
    old = [dim for dim, size in enumerate(source.shape) if size != 1]
    if [source.shape[dim] for dim in old] != [size for size in step.meta.shape if size != 1]:
        return None
    places = iter(old)
    return _rearranged(step, [None if size == 1 else next(places) for size in step.meta.shape])


def _transpose(step: Step) -> Value | None:
    dims = [step.argument(place, name) for place, name in ((1, "dim0"), (2, "dim1"))]
    order: list[int | None] = list(range(step.rank))
    a, b = (_dim(dim, step.rank) for dim in dims)
    if a is None or b is None:
        return None
    order[a], order[b] = order[b], order[a]
    return _rearranged(step, order)


def _permute(step: Step) -> Value | None:
    dims = step.argument(1, "dims")
    if not isinstance(dims, tuple):
        return None
    order = [_dim(dim, step.rank) for dim in dims]
    return None if None in order else _rearranged(step, order)


def _dim(dim: Argument, rank: int) -> int | None:
    if not isinstance(dim, int):
        return None
    return dim + rank if dim < 0 else dim


def _slice(step: Step) -> Value | None:
    dim = _dim(step.argument(1, "dim", 0), step.rank)
    first, stride = step.argument(2, "start"), step.argument(4, "step", 1)
    start = 0 if first is None else first
    if dim is None or type(start) is not int or start < 0 or type(stride) is not int:
        return None
    return _walked(step, dim, start, stride, keep=True)


def _select(step: Step) -> Value | None:
    meta = step.source_meta()
    dim = None if meta is None else _dim(step.argument(1, "dim"), len(meta.shape))
    index = step.argument(2, "index")
    if dim is None or type(index) is not int or index < 0:
        return None
    return _walked(step, dim, index, 0, keep=False)


def _walked(step: Step, dim: int, start: int, stride: int, *, keep: bool) -> Value | None:
    """The source with position p of ``dim`` taken from ``start + stride * p``."""
    value = step.source()
    if value is None:
        return None

    def move(form: Linear) -> Linear:
        weight = form.weights[dim]
        middle = (weight * stride,) if keep else ()
        weights = (*form.weights[:dim], *middle, *form.weights[dim + 1 :])
        return Linear(weights, form.constant + weight * start)

    return mapped(value, step.rank, move)


def _index(step: Step) -> Value | None:
    """Every dimension looked up with positions that are known and not negative."""
    value, meta = step.source(), step.source_meta()
    given = step.argument(1, "indices")
    if value is None or meta is None or not isinstance(given, tuple):
        return None
    if len(given) != len(meta.shape):
        return None
    places = [spread(step.known, index, step.rank) for index in given]
    found: list[Linear] = []
    for place in places:
        if not isinstance(place, Linear) or place.constant < 0 or min(place.weights, default=0) < 0:
            return None
        found.append(place)

    def look_up(form: Linear) -> Linear:
        total = Linear((0,) * step.rank, form.constant)
        for weight, place in zip(form.weights, found, strict=True):
            moved = place.times(weight)
            assert moved is not None
            total = total.plus(moved)
        return total

    return mapped(value, step.rank, look_up)


# -- along a dimension ---------------------------------------------------------------------------


def _diff(step: Step) -> Value | None:
    """First differences: constant along the dimension, where what is put before it continues it."""
    value, dim = step.source(), _dim(step.argument(2, "dim", -1), step.rank)
    if not isinstance(value, Linear) or dim is None or step.argument(1, "n", 1) != 1:
        return None
    if step.argument(4, "append") is not None:
        return None
    rise = value.weights[dim]
    before = step.argument(3, "prepend")
    if before is not None:
        if not isinstance(before, Ref) or step.rows[before.index].outputs[0].shape[dim] != 1:
            return None
        first = step.known.get(before.index)
        start = list(value.weights)
        start[dim] = 0
        if not isinstance(first, Linear):
            return None
        if Linear(tuple(start), value.constant).plus(first.negated()) != Linear(
            (0,) * step.rank, rise
        ):
            return None
    return Linear((0,) * step.rank, rise)


def _cumsum(step: Step) -> Value | None:
    number, dim = number_of(as_number(step.source())), _dim(step.argument(1, "dim"), step.rank)
    if not isinstance(number, int) or dim is None or step.meta.dtype not in INTEGERS:
        return None
    weights = [0] * step.rank
    weights[dim] = number
    return Linear(tuple(weights), number)


VIEWS: Mapping[str, Meaning] = {
    "aten.clone": _same,
    "aten.contiguous": _same,
    "aten.alias": _same,
    "aten.detach": _same,
    "aten._to_copy": _cast,
    "aten.to": _cast,
    "aten.expand": _expand,
    "aten.unsqueeze": _fold,
    "aten.squeeze": _fold,
    "aten.view": _fold,
    "aten.reshape": _fold,
    "aten._unsafe_view": _fold,
    "aten.transpose": _transpose,
    "aten.permute": _permute,
    "aten.slice": _slice,
    "aten.select": _select,
    "aten.index": _index,
    "aten.diff": _diff,
    "aten.cumsum": _cumsum,
}
