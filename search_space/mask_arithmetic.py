"""What ops that make, compute, compare and choose numbers give; see
:mod:`search_space.mask_values`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from search_space.mask_forms import (
    INTEGERS,
    Holds,
    Linear,
    Value,
    added,
    as_number,
    either,
    holds,
    number_of,
    number_where,
    of_dtype,
    scaled,
    shifted,
    truth,
)
from search_space.mask_step import Meaning, Step, exact

# -- made from sizes -----------------------------------------------------------------------------


def _arange(step: Step) -> Value | None:
    args = step.node.args
    first, stride = (args[0] if len(args) > 1 else 0), (args[2] if len(args) > 2 else 1)
    whole = type(first) is int and type(stride) is int
    if not whole or step.meta.dtype not in INTEGERS:
        return None
    assert isinstance(first, int) and isinstance(stride, int)
    return Linear((stride,), first)


def _filled(number: int | float) -> Callable[[Step], Value | None]:
    return lambda step: of_dtype(Linear((0,) * step.rank, number), step.meta.dtype)


def _full(step: Step) -> Value | None:
    fill = step.argument(1, "fill_value")
    if not isinstance(fill, (bool, int, float)):
        return None
    return of_dtype(Linear((0,) * step.rank, fill), step.meta.dtype)


def number_told(step: Step) -> Value | None:
    """Of a constant without dimensions."""
    number = step.argument(0, "")
    if isinstance(number, bool):
        return truth(0, number)
    if not isinstance(number, (int, float)):
        return None
    return of_dtype(Linear((), number), step.meta.dtype)


def _scalar(step: Step) -> Value | None:
    fill = step.argument(0, "s")
    return of_dtype(Linear((), fill), step.meta.dtype) if isinstance(fill, (int, float)) else None


# -- arithmetic and comparison -------------------------------------------------------------------


def _sum(step: Step, sign: int) -> Value | None:
    a, b = as_number(step.spread(0)), as_number(step.spread(1, "other"))
    alpha = step.argument(2, "alpha", 1)
    if a is None or b is None or not isinstance(alpha, (int, float)):
        return None
    other = scaled(b, sign * alpha)
    return None if other is None else exact(added(a, other), step)


def _subtracted_from(step: Step) -> Value | None:
    a, b = as_number(step.spread(0)), as_number(step.spread(1, "other"))
    alpha = step.argument(2, "alpha", 1)
    if a is None or b is None or alpha != 1:
        return None
    minus = scaled(a, -1)
    return None if minus is None else exact(added(b, minus), step)


def _product(step: Step) -> Value | None:
    a, b = as_number(step.spread(0)), as_number(step.spread(1, "other"))
    for one, other in ((a, b), (b, a)):
        factor = number_of(other)
        if one is not None and factor is not None:
            return exact(scaled(one, factor), step)
    return None


def _negative(step: Step) -> Value | None:
    value = step.spread(0)
    return None if value is None or isinstance(value, Holds) else exact(scaled(value, -1), step)


def _compared(*signs: tuple[int, int]) -> Callable[[Step], Value | None]:
    """A comparison as forms ``sign * (a - b) + shift >= 0``, for whole numbers."""

    def compare(step: Step) -> Value | None:
        a, b = as_number(step.spread(0)), as_number(step.spread(1, "other"))
        if not isinstance(a, Linear) or not isinstance(b, Linear):
            return None
        if not isinstance(a.constant, int) or not isinstance(b.constant, int):
            return None
        apart = a.plus(b.negated())
        forms = [
            shifted(apart if sign > 0 else apart.negated(), shift) for sign, shift in signs
        ]
        return holds(step.rank, forms)

    return compare


def _equal(step: Step) -> Value | None:
    return _compared((1, 0), (-1, 0))(step)


def _unequal(step: Step) -> Value | None:
    same = _equal(step)
    return same.negated() if isinstance(same, Holds) else None


# -- logic ---------------------------------------------------------------------------------------


def _both(step: Step) -> Value | None:
    a, b = _truths(step)
    if a is not None and b is not None:
        return holds(step.rank, a.forms | b.forms)
    # what is false with anything is false; what is unknown otherwise stays so
    return next((one for one in (a, b) if one is not None and one.is_false), None)


def _one_of(step: Step) -> Value | None:
    a, b = _truths(step)
    for one, other in ((a, b), (b, a)):
        if one is not None and one.is_true:
            return one
        if one is not None and other is not None and (one.is_false or one.forms >= other.forms):
            return other  # the one implies the other
    return None


def _truths(step: Step) -> tuple[Holds | None, Holds | None]:
    a, b = step.spread(0), step.spread(1, "other")
    return (a if isinstance(a, Holds) else None, b if isinstance(b, Holds) else None)


def _no(step: Step) -> Value | None:
    value = step.spread(0)
    return value.negated() if isinstance(value, Holds) else None


# -- choices -------------------------------------------------------------------------------------


def _where(step: Step) -> Value | None:
    return _chosen(step, step.spread(0), step.spread(1, "self"), step.spread(2, "other"))


def _masked_fill(step: Step) -> Value | None:
    return _chosen(step, step.spread(1, "mask"), step.spread(2, "value"), step.spread(0))


def _chosen(
    step: Step, where: Value | None, inside: Value | None, outside: Value | None
) -> Value | None:
    if not isinstance(where, Holds):
        return None
    if where.is_true or where.is_false:
        return exact(inside if where.is_true else outside, step)
    yes, no = number_where(inside, where, True), number_where(outside, where, False)
    return None if yes is None or no is None else exact(either(where, yes, no), step)


def _triangle(sign: int) -> Callable[[Step], Value | None]:
    """``tril`` (sign 1) keeps elements with row - column + diagonal >= 0, ``triu`` (sign -1) those
    with column - row - diagonal >= 0; the rest becomes 0."""

    def cut(step: Step) -> Value | None:
        value, diagonal = step.source(), step.argument(1, "diagonal", 0)
        if value is None or not isinstance(diagonal, int) or step.rank < 2:
            return None
        edge = (*(0,) * (step.rank - 2), sign, -sign)
        kept = holds(step.rank, [Linear(edge, sign * diagonal)])
        if isinstance(value, Holds):
            return holds(step.rank, value.forms | kept.forms)
        number = number_of(value)
        return None if number is None else either(kept, number, 0)

    return cut


ARITHMETIC: Mapping[str, Meaning] = {
    "aten.arange": _arange,
    "aten.zeros": _filled(0),
    "aten.ones": _filled(1),
    "aten.full": _full,
    "aten.scalar_tensor": _scalar,
    "aten.add": lambda step: _sum(step, 1),
    "aten.sub": lambda step: _sum(step, -1),
    "aten.rsub": _subtracted_from,
    "aten.mul": _product,
    "aten.neg": _negative,
    "aten.ge": _compared((1, 0)),
    "aten.gt": _compared((1, -1)),
    "aten.le": _compared((-1, 0)),
    "aten.lt": _compared((-1, -1)),
    "aten.eq": _equal,
    "aten.ne": _unequal,
    "aten.__and__": _both,
    "aten.bitwise_and": _both,
    "aten.logical_and": _both,
    "aten.__or__": _one_of,
    "aten.bitwise_or": _one_of,
    "aten.logical_or": _one_of,
    "aten.bitwise_not": _no,
    "aten.logical_not": _no,
    "aten.where": _where,
    "aten.masked_fill": _masked_fill,
    "aten.tril": _triangle(1),
    "aten.triu": _triangle(-1),
}
