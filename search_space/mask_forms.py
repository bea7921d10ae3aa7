"""Values that tensors made from sizes can have, and what can be made of them.

    Linear   constant + sum(weight[d] * coordinate[d])
    Holds    true exactly where a set of linear forms are all >= 0
    Either   one number where a Holds is true, another elsewhere

All are exact, for every size at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from search_space.sizes import Size

INTEGERS = frozenset({"int64", "int32"})
_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})


@dataclass(frozen=True, slots=True)
class Linear:
    """Elements ``constant + sum(weights[d] * coordinate[d])``; dimensions of one position weigh 0.
    """

    weights: tuple[int, ...]
    constant: int | float

    @property
    def is_constant(self) -> bool:
        return not any(self.weights)

    def negated(self) -> Linear:
        return Linear(tuple(-weight for weight in self.weights), -self.constant)

    def plus(self, other: Linear) -> Linear:
        """The sum of two tensors of one rank."""
        weights = tuple(a + b for a, b in zip(self.weights, other.weights, strict=True))
        return Linear(weights, self.constant + other.constant)

    def times(self, factor: int | float) -> Linear | None:
        if self.is_constant:
            return Linear(self.weights, self.constant * factor)
        if not isinstance(factor, int):
            return None
        return Linear(tuple(w * factor for w in self.weights), self.constant * factor)


@dataclass(frozen=True, slots=True)
class Holds:
    """A tensor of booleans, true where every form is at least 0; true everywhere without forms.

    Made by :func:`holds`, which leaves out forms that are never below 0 and keeps one false form
    where one is never above.
    """

    rank: int
    forms: frozenset[Linear]

    @property
    def is_true(self) -> bool:
        return not self.forms

    @property
    def is_false(self) -> bool:
        return any(form.is_constant for form in self.forms)

    def negated(self) -> Holds | None:
        """Its negation; None where that is no conjunction."""
        if self.is_true:
            return truth(self.rank, False)
        if self.is_false:
            return truth(self.rank, True)
        if len(self.forms) > 1:
            return None
        (form,) = self.forms  # whole numbers: not (form >= 0) is -form - 1 >= 0
        return holds(self.rank, [shifted(form.negated(), -1)])


@dataclass(frozen=True, slots=True)
class Either:
    """The number ``inside`` where ``where`` holds, ``outside`` elsewhere."""

    where: Holds
    inside: int | float
    outside: int | float


Value = Linear | Holds | Either


def holds(rank: int, forms: Iterable[Linear]) -> Holds:
    """Where all forms are at least 0. Coordinates are at least 0, so that signs alone decide some
    forms."""
    kept: set[Linear] = set()
    for form in forms:
        if all(weight >= 0 for weight in form.weights) and form.constant >= 0:
            continue
        if all(weight <= 0 for weight in form.weights) and form.constant < 0:
            return truth(rank, False)
        kept.add(form)
    return Holds(rank, frozenset(kept))


def truth(rank: int, value: bool) -> Holds:
    """True everywhere, or nowhere."""
    return Holds(rank, frozenset() if value else frozenset({Linear((0,) * rank, -1)}))


def shifted(form: Linear, by: int) -> Linear:
    """A form with a number added."""
    return Linear(form.weights, form.constant + by)


def mapped(value: Value, rank: int, change: Callable[[Linear], Linear]) -> Value:
    """The value with each of its forms changed; ``rank`` is that of the changed tensor."""
    if isinstance(value, Linear):
        return change(value)
    if isinstance(value, Holds):
        return holds(rank, [change(form) for form in value.forms])
    where = holds(rank, [change(form) for form in value.where.forms])
    return either(where, value.inside, value.outside)


def settled(value: Value, shape: Sequence[Size]) -> Value:
    """The value without weights on dimensions of one position."""

    def clean(form: Linear) -> Linear:
        pairs = zip(form.weights, shape, strict=True)
        return Linear(tuple(0 if size == 1 else weight for weight, size in pairs), form.constant)

    return mapped(value, len(shape), clean)


def either(where: Holds, inside: int | float, outside: int | float) -> Value:
    if where.is_true or inside == outside:
        return Linear((0,) * where.rank, inside)
    if where.is_false:
        return Linear((0,) * where.rank, outside)
    return Either(where, inside, outside)


def number_of(value: Value | None) -> int | float | None:
    """The number that a tensor holds everywhere; None where it holds several, or booleans."""
    return value.constant if isinstance(value, Linear) and value.is_constant else None


def as_number(value: Value | None) -> Value | None:
    """Booleans as 1 and 0; numbers as they are."""
    return either(value, 1, 0) if isinstance(value, Holds) else value


def as_truth(value: Value | None) -> Holds | None:
    """Numbers as booleans; booleans as they are."""
    if value is None or isinstance(value, Holds):
        return value
    if isinstance(value, Linear):
        return truth(len(value.weights), bool(value.constant)) if value.is_constant else None
    if bool(value.inside) == bool(value.outside):
        return truth(value.where.rank, bool(value.inside))
    return value.where if value.inside else value.where.negated()


def number_where(value: Value | None, where: Holds, holding: bool) -> int | float | None:
    """The one number that a tensor holds wherever a condition is (or is not) met."""
    numbers = as_number(value)
    if isinstance(numbers, Either) and numbers.where in (where, where.negated()):
        return numbers.inside if (numbers.where == where) == holding else numbers.outside
    return number_of(numbers)


def added(a: Value, b: Value) -> Value | None:
    if isinstance(a, Linear) and isinstance(b, Linear):
        return a.plus(b)
    if isinstance(a, Either) and isinstance(b, Linear):
        a, b = b, a
    number = number_of(a)
    if number is None or not isinstance(b, Either):
        return None
    return either(b.where, b.inside + number, b.outside + number)


def scaled(value: Value, factor: int | float) -> Value | None:
    if isinstance(value, Linear):
        return value.times(factor)
    if isinstance(value, Either):
        return either(value.where, value.inside * factor, value.outside * factor)
    return None


def of_dtype(value: Value | None, dtype: str) -> Value | None:
    """A value converted to a dtype; None where its elements may be rounded."""
    if value is None or dtype == "bool":
        return as_truth(value)
    numbers = as_number(value)
    if isinstance(numbers, Either):
        inside, outside = (_kept(number, dtype) for number in (numbers.inside, numbers.outside))
        if inside is None or outside is None:
            return None
        return either(numbers.where, inside, outside)
    assert isinstance(numbers, Linear)
    if numbers.is_constant:
        number = _kept(numbers.constant, dtype)
        return None if number is None else Linear(numbers.weights, number)
    return numbers if dtype in INTEGERS else None  # positions above 2**24 are no floats


def _kept(number: int | float, dtype: str) -> int | float | None:
    """A number as a dtype holds it: small whole numbers exactly, and large negative ones, whose
    rounding nobody asks for; None for all others."""
    small = abs(number) <= 256 and float(number).is_integer()
    if dtype in INTEGERS:
        whole = isinstance(number, int) and abs(number) < 2**31
        return number if whole else int(number) if small else None
    return float(number) if dtype in _FLOATS and (small or number <= -1e4) else None
