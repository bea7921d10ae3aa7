"""What a tensor's elements are, told from its op's definition alone.

Attention masks are made from sizes: positions (``arange``) are compared, and the answers combined.
Such a tensor's element is a fixed function of its coordinates, and this module works that function
out exactly, for every size at once. It knows three kinds of tensor,

    Linear   constant + sum(weight[d] * coordinate[d])
    Holds    true exactly where a set of linear forms are all >= 0
    Either   one number where a Holds is true, another elsewhere

and per op what it makes of them (:data:`_MEANINGS`). Everything else (a tensor that depends on an
input's data, a size among the numbers, an op that is not in the table) is unknown, and what
depends on it is unknown too. Nothing is sampled, so that a window of 4096 positions is seen however
short the example was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from search_space.graph import CONSTANT, OP, Argument, Node, Ref, TensorMeta, walk_arguments
from search_space.sizes import Size

_INTEGERS = frozenset({"int64", "int32"})
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
            return _truth(self.rank, False)
        if self.is_false:
            return _truth(self.rank, True)
        if len(self.forms) > 1:
            return None
        (form,) = self.forms  # whole numbers: not (form >= 0) is -form - 1 >= 0
        return holds(self.rank, [_shifted(form.negated(), -1)])


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
            return _truth(rank, False)
        kept.add(form)
    return Holds(rank, frozenset(kept))


def _truth(rank: int, value: bool) -> Holds:
    return Holds(rank, frozenset() if value else frozenset({Linear((0,) * rank, -1)}))


def _shifted(form: Linear, by: int) -> Linear:
    return Linear(form.weights, form.constant + by)


Meaning = Callable[["_Step"], "Value | None"]


def mask_values(rows: Sequence[Node], wanted: Iterable[int]) -> dict[int, Value]:
    """The values of the nodes at ``wanted`` and of all that they depend on, as far as known."""
    needed = set(wanted)
    for node in reversed(rows):
        if node.index in needed:
            values = walk_arguments(node.args, node.kwargs)
            needed.update(value.index for _, value in values if isinstance(value, Ref))
    found: dict[int, Value] = {}
    for node in rows:
        if node.index not in needed or node.several:
            continue
        if node.kind == CONSTANT:
            meaning: Meaning | None = _number_told
        elif node.kind == OP:
            meaning = _MEANINGS.get(node.op.rpartition(".")[0])
        else:
            continue
        if meaning is None:
            continue
        value = meaning(_Step(node, rows, found))
        if value is not None:
            found[node.index] = _settled(value, node.outputs[0].shape)
    return found


def _settled(value: Value, shape: Sequence[Size]) -> Value:
    """The value without weights on dimensions of one position."""

    def clean(form: Linear) -> Linear:
        pairs = zip(form.weights, shape, strict=True)
        return Linear(tuple(0 if size == 1 else weight for weight, size in pairs), form.constant)

    return _mapped(value, len(shape), clean)


def _mapped(value: Value, rank: int, change: Callable[[Linear], Linear]) -> Value:
    """The value with each of its forms changed; ``rank`` is that of the changed tensor."""
    if isinstance(value, Linear):
        return change(value)
    if isinstance(value, Holds):
        return holds(rank, [change(form) for form in value.forms])
    where = holds(rank, [change(form) for form in value.where.forms])
    return _either(where, value.inside, value.outside)


def _either(where: Holds, inside: int | float, outside: int | float) -> Value:
    if where.is_true or inside == outside:
        return Linear((0,) * where.rank, inside)
    if where.is_false:
        return Linear((0,) * where.rank, outside)
    return Either(where, inside, outside)


@dataclass(frozen=True, slots=True)
class _Step:
    """A node, with what is known of the nodes before it."""

    node: Node
    rows: Sequence[Node]
    known: Mapping[int, Value]

    @property
    def meta(self) -> TensorMeta:
        return self.node.outputs[0]

    @property
    def rank(self) -> int:
        return len(self.meta.shape)

    def argument(self, position: int, name: str, default: Argument = None) -> Argument:
        if position < len(self.node.args):
            return self.node.args[position]
        return dict(self.node.kwargs).get(name, default)

    def source(self, position: int = 0) -> Value | None:
        """The value of a tensor argument, in its own shape."""
        given = self.argument(position, "")
        return self.known.get(given.index) if isinstance(given, Ref) else None

    def source_meta(self, position: int = 0) -> TensorMeta | None:
        given = self.argument(position, "")
        return self.rows[given.index].outputs[0] if isinstance(given, Ref) else None

    def spread(self, position: int, name: str = "") -> Value | None:
        """An argument, number or tensor, broadcast to the output's shape."""
        return spread(self.known, self.argument(position, name), self.rank)


def spread(known: Mapping[int, Value], given: Argument, rank: int) -> Value | None:
    """A number or tensor, broadcast from the right to ``rank`` dimensions."""
    if isinstance(given, bool):
        return _truth(rank, given)
    if isinstance(given, (int, float)):
        return Linear((0,) * rank, given)
    value = known.get(given.index) if isinstance(given, Ref) else None
    if value is None:
        return None

    def widen(form: Linear) -> Linear:
        return Linear((0,) * (rank - len(form.weights)) + form.weights, form.constant)

    return _mapped(value, rank, widen)


def _number(value: Value | None) -> int | float | None:
    """The number that a tensor holds everywhere; None where it holds several, or booleans."""
    return value.constant if isinstance(value, Linear) and value.is_constant else None


def _as_number(value: Value | None) -> Value | None:
    """Booleans as 1 and 0; numbers as they are."""
    return _either(value, 1, 0) if isinstance(value, Holds) else value


def _as_truth(value: Value | None) -> Holds | None:
    """Numbers as booleans; booleans as they are."""
    if value is None or isinstance(value, Holds):
        return value
    if isinstance(value, Linear):
        return _truth(len(value.weights), bool(value.constant)) if value.is_constant else None
    if bool(value.inside) == bool(value.outside):
        return _truth(value.where.rank, bool(value.inside))
    return value.where if value.inside else value.where.negated()


# -- made from sizes -----------------------------------------------------------------------------


def _arange(step: _Step) -> Value | None:
    args = step.node.args
    first, stride = (args[0] if len(args) > 1 else 0), (args[2] if len(args) > 2 else 1)
    whole = type(first) is int and type(stride) is int
    if not whole or step.meta.dtype not in _INTEGERS:
        return None
    assert isinstance(first, int) and isinstance(stride, int)
    return Linear((stride,), first)


def _filled(number: int | float) -> Callable[[_Step], Value | None]:
    return lambda step: _of_dtype(Linear((0,) * step.rank, number), step.meta.dtype)


def _full(step: _Step) -> Value | None:
    fill = step.argument(1, "fill_value")
    if not isinstance(fill, (bool, int, float)):
        return None
    return _of_dtype(Linear((0,) * step.rank, fill), step.meta.dtype)


def _number_told(step: _Step) -> Value | None:
    """Of a constant without dimensions."""
    number = step.argument(0, "")
    if isinstance(number, bool):
        return _truth(0, number)
    if not isinstance(number, (int, float)):
        return None
    return _of_dtype(Linear((), number), step.meta.dtype)


def _scalar(step: _Step) -> Value | None:
    fill = step.argument(0, "s")
    return _of_dtype(Linear((), fill), step.meta.dtype) if isinstance(fill, (int, float)) else None


def _of_dtype(value: Value | None, dtype: str) -> Value | None:
    """A value converted to a dtype; None where its elements may be rounded."""
    if value is None or dtype == "bool":
        return _as_truth(value)
    numbers = _as_number(value)
    if isinstance(numbers, Either):
        inside, outside = (_kept(number, dtype) for number in (numbers.inside, numbers.outside))
        if inside is None or outside is None:
            return None
        return _either(numbers.where, inside, outside)
    assert isinstance(numbers, Linear)
    if numbers.is_constant:
        number = _kept(numbers.constant, dtype)
        return None if number is None else Linear(numbers.weights, number)
    return numbers if dtype in _INTEGERS else None  # positions above 2**24 are no floats


def _kept(number: int | float, dtype: str) -> int | float | None:
    """A number as a dtype holds it: small whole numbers exactly, and large negative ones, whose
    rounding nobody asks for; None for all others."""
    small = abs(number) <= 256 and float(number).is_integer()
    if dtype in _INTEGERS:
        whole = isinstance(number, int) and abs(number) < 2**31
        return number if whole else int(number) if small else None
    return float(number) if dtype in _FLOATS and (small or number <= -1e4) else None


# -- arithmetic and comparison -------------------------------------------------------------------


def _sum(step: _Step, sign: int) -> Value | None:
    a, b = _as_number(step.spread(0)), _as_number(step.spread(1, "other"))
    alpha = step.argument(2, "alpha", 1)
    if a is None or b is None or not isinstance(alpha, (int, float)):
        return None
    scaled = _scaled(b, sign * alpha)
    return None if scaled is None else _exact(_added(a, scaled), step)


def _exact(value: Value | None, step: _Step) -> Value | None:
    return _of_dtype(value, step.meta.dtype)


def _added(a: Value, b: Value) -> Value | None:
    if isinstance(a, Linear) and isinstance(b, Linear):
        return a.plus(b)
    if isinstance(a, Either) and isinstance(b, Linear):
        a, b = b, a
    number = _number(a)
    if number is None or not isinstance(b, Either):
        return None
    return _either(b.where, b.inside + number, b.outside + number)


def _scaled(value: Value, factor: int | float) -> Value | None:
    if isinstance(value, Linear):
        return value.times(factor)
    if isinstance(value, Either):
        return _either(value.where, value.inside * factor, value.outside * factor)
    return None


def _subtracted_from(step: _Step) -> Value | None:
    a, b = _as_number(step.spread(0)), _as_number(step.spread(1, "other"))
    alpha = step.argument(2, "alpha", 1)
    if a is None or b is None or alpha != 1:
        return None
    minus = _scaled(a, -1)
    return None if minus is None else _exact(_added(b, minus), step)


def _product(step: _Step) -> Value | None:
    a, b = _as_number(step.spread(0)), _as_number(step.spread(1, "other"))
    for one, other in ((a, b), (b, a)):
        factor = _number(other)
        if one is not None and factor is not None:
            return _exact(_scaled(one, factor), step)
    return None


def _negative(step: _Step) -> Value | None:
    value = step.spread(0)
    return None if value is None or isinstance(value, Holds) else _exact(_scaled(value, -1), step)


def _compared(*signs: tuple[int, int]) -> Callable[[_Step], Value | None]:
    """A comparison as forms ``sign * (a - b) + shift >= 0``, for whole numbers."""

    def compare(step: _Step) -> Value | None:
        a, b = _as_number(step.spread(0)), _as_number(step.spread(1, "other"))
        if not isinstance(a, Linear) or not isinstance(b, Linear):
            return None
        if not isinstance(a.constant, int) or not isinstance(b.constant, int):
            return None
        apart = a.plus(b.negated())
        forms = [
            _shifted(apart if sign > 0 else apart.negated(), shift) for sign, shift in signs
        ]
        return holds(step.rank, forms)

    return compare


def _equal(step: _Step) -> Value | None:
    return _compared((1, 0), (-1, 0))(step)


def _unequal(step: _Step) -> Value | None:
    same = _equal(step)
    return same.negated() if isinstance(same, Holds) else None


# -- logic ---------------------------------------------------------------------------------------


def _both(step: _Step) -> Value | None:
    a, b = _truths(step)
    if a is not None and b is not None:
        return holds(step.rank, a.forms | b.forms)
    # what is false with anything is false; what is unknown otherwise stays so
    return next((one for one in (a, b) if one is not None and one.is_false), None)


def _one_of(step: _Step) -> Value | None:
    a, b = _truths(step)
    for one, other in ((a, b), (b, a)):
        if one is not None and one.is_true:
            return one
        if one is not None and other is not None and (one.is_false or one.forms >= other.forms):
            return other  # the one implies the other
    return None


def _truths(step: _Step) -> tuple[Holds | None, Holds | None]:
    a, b = step.spread(0), step.spread(1, "other")
    return (a if isinstance(a, Holds) else None, b if isinstance(b, Holds) else None)


def _no(step: _Step) -> Value | None:
    value = step.spread(0)
    return value.negated() if isinstance(value, Holds) else None


# -- choices -------------------------------------------------------------------------------------


def _where(step: _Step) -> Value | None:
    return _chosen(step, step.spread(0), step.spread(1, "self"), step.spread(2, "other"))


def _masked_fill(step: _Step) -> Value | None:
    return _chosen(step, step.spread(1, "mask"), step.spread(2, "value"), step.spread(0))


def _chosen(
    step: _Step, where: Value | None, inside: Value | None, outside: Value | None
) -> Value | None:
    if not isinstance(where, Holds):
        return None
    if where.is_true or where.is_false:
        return _exact(inside if where.is_true else outside, step)
    yes, no = _number_where(inside, where, True), _number_where(outside, where, False)
    return None if yes is None or no is None else _exact(_either(where, yes, no), step)


def _number_where(value: Value | None, where: Holds, holding: bool) -> int | float | None:
    """The one number that a tensor holds wherever a condition is (or is not) met."""
    numbers = _as_number(value)
    if isinstance(numbers, Either) and numbers.where in (where, where.negated()):
        return numbers.inside if (numbers.where == where) == holding else numbers.outside
    return _number(numbers)


def _triangle(sign: int) -> Callable[[_Step], Value | None]:
    """``tril`` (sign 1) keeps elements with row - column + diagonal >= 0, ``triu`` (sign -1) those
    with column - row - diagonal >= 0; the rest becomes 0."""

    def cut(step: _Step) -> Value | None:
        value, diagonal = step.source(), step.argument(1, "diagonal", 0)
        if value is None or not isinstance(diagonal, int) or step.rank < 2:
            return None
        edge = (*(0,) * (step.rank - 2), sign, -sign)
        kept = holds(step.rank, [Linear(edge, sign * diagonal)])
        if isinstance(value, Holds):
            return holds(step.rank, value.forms | kept.forms)
        number = _number(value)
        return None if number is None else _either(kept, number, 0)

    return cut


# -- views ---------------------------------------------------------------------------------------


def _rearranged(step: _Step, order: Sequence[int | None]) -> Value | None:
    """The source with dimensions in this order; None stands for a new one."""
    value = step.source()
    if value is None:
        return None

    def move(form: Linear) -> Linear:
        return Linear(tuple(0 if d is None else form.weights[d] for d in order), form.constant)

    return _mapped(value, len(order), move)


def _same(step: _Step) -> Value | None:
    return step.source()


def _cast(step: _Step) -> Value | None:
    return _exact(step.source(), step)


def _expand(step: _Step) -> Value | None:
    return step.spread(0)


def _fold(step: _Step) -> Value | None:
    """A view that only adds or drops dimensions of one position."""
    source = step.source_meta()
    if source is None or source.dtype != step.meta.dtype:
        return None
    old = [dim for dim, size in enumerate(source.shape) if size != 1]
    if [source.shape[dim] for dim in old] != [size for size in step.meta.shape if size != 1]:
        return None
    places = iter(old)
    return _rearranged(step, [None if size == 1 else next(places) for size in step.meta.shape])


def _transpose(step: _Step) -> Value | None:
    dims = [step.argument(place, name) for place, name in ((1, "dim0"), (2, "dim1"))]
    order: list[int | None] = list(range(step.rank))
    a, b = (_dim(dim, step.rank) for dim in dims)
    if a is None or b is None:
        return None
    order[a], order[b] = order[b], order[a]
    return _rearranged(step, order)


def _permute(step: _Step) -> Value | None:
    dims = step.argument(1, "dims")
    if not isinstance(dims, tuple):
        return None
    order = [_dim(dim, step.rank) for dim in dims]
    return None if None in order else _rearranged(step, order)


def _dim(dim: Argument, rank: int) -> int | None:
    if not isinstance(dim, int):
        return None
    return dim + rank if dim < 0 else dim


def _slice(step: _Step) -> Value | None:
    dim = _dim(step.argument(1, "dim", 0), step.rank)
    first, stride = step.argument(2, "start"), step.argument(4, "step", 1)
    start = 0 if first is None else first
    if dim is None or type(start) is not int or start < 0 or type(stride) is not int:
        return None
    return _walked(step, dim, start, stride, keep=True)


def _select(step: _Step) -> Value | None:
    meta = step.source_meta()
    dim = None if meta is None else _dim(step.argument(1, "dim"), len(meta.shape))
    index = step.argument(2, "index")
    if dim is None or type(index) is not int or index < 0:
        return None
    return _walked(step, dim, index, 0, keep=False)


def _walked(step: _Step, dim: int, start: int, stride: int, *, keep: bool) -> Value | None:
    """The source with position p of ``dim`` taken from ``start + stride * p``."""
    value = step.source()
    if value is None:
        return None

    def move(form: Linear) -> Linear:
        weight = form.weights[dim]
        middle = (weight * stride,) if keep else ()
        weights = (*form.weights[:dim], *middle, *form.weights[dim + 1 :])
        return Linear(weights, form.constant + weight * start)

    return _mapped(value, step.rank, move)


def _index(step: _Step) -> Value | None:
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

    return _mapped(value, step.rank, look_up)


# -- along a dimension ---------------------------------------------------------------------------


def _diff(step: _Step) -> Value | None:
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


def _cumsum(step: _Step) -> Value | None:
    number, dim = _number(_as_number(step.source())), _dim(step.argument(1, "dim"), step.rank)
    if not isinstance(number, int) or dim is None or step.meta.dtype not in _INTEGERS:
        return None
    weights = [0] * step.rank
    weights[dim] = number
    return Linear(tuple(weights), number)


_MEANINGS: Mapping[str, Meaning] = {
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
"""Per op, the value that it gives; each function answers None where it cannot tell."""
