"""Strides of tensors whose sizes are expressions.

Two expressions are compared at values of their symbols that no two sizes are likely to share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from search_space import layout
from search_space.layout import Layout, reshaped
from search_space.sizes import Expr, Size, evaluate, symbols_of

Sizes = tuple[Size, ...]


def times(a: Size, b: Size) -> Size:
    """The product of two sizes."""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if a == 1 or b == 1:
        return b if a == 1 else a
    return Expr(f"({a})*({b})")


def row_major(shape: Sizes) -> Sizes:
    """The strides of a row-major tensor."""
    strides: list[Size] = []
    step: Size = 1
    for size in reversed(shape):
        strides.append(step)
        step = times(step, size)
    return tuple(reversed(strides))


def awkward_values(sizes: Iterable[Size]) -> Mapping[str, int]:
    """A value for each symbol."""
    symbols = sorted(set().union(*(symbols_of(size) for size in sizes)))
    return {symbol: 997 + 10 * place for place, symbol in enumerate(symbols)}


def is_contiguous(shape: Sizes, strides: Sizes) -> bool:
    """Whether strides are those of a row-major tensor; those of single positions do not matter."""
    values = awkward_values((*shape, *strides))
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and evaluate(stride, values) != step:
            return False
        step *= int(evaluate(size, values))
    return True


def dense_like(shape: Sizes, strides: Sizes) -> Sizes:
    """The strides of a dense tensor whose dimensions lie in the order that ``strides`` give; see
    :func:`search_space.layout.dense_like`."""
    values = awkward_values((*shape, *strides))
    sizes = [int(evaluate(size, values)) for size in shape]
    steps = layout.dense_like(sizes, [int(evaluate(stride, values)) for stride in strides]).strides
    found: list[Size] = [1] * len(shape)
    step: Size = 1
    for dim in sorted(range(len(shape)), key=lambda d: (steps[d], sizes[d])):
        found[dim] = step
        step = times(step, shape[dim])
    return tuple(found)


def regrouped(shape: Sizes, strides: Sizes, wanted: Sizes) -> Sizes | None:
    """The strides of a view with another grouping of the dimensions; None where only a copy can
    give it. See :func:`search_space.layout.reshaped`."""
    values = awkward_values((*shape, *strides, *wanted))

    def numbers(sizes: Sizes) -> tuple[int, ...]:
        return tuple(int(evaluate(size, values)) for size in sizes)

    made = reshaped(Layout(numbers(shape), numbers(strides)), numbers(wanted))
    if made is None:
        return None
    # what the numbers say, as expressions: the innermost new dimension of each run has the stride
    # of the old one that it starts at, those before it that times the sizes in between
    known = dict(zip(reversed(numbers(strides)), reversed(strides), strict=True))
    known[1] = 1
    found: list[Size] = []
    inner: Size = 1
    for place in range(len(wanted) - 1, -1, -1):
        number = made.strides[place]
        step = known.get(number)
        if step is None:
            step = inner
        if int(evaluate(step, values)) != number:
            return None
        found.append(step)
        inner = times(step, wanted[place])
    return tuple(reversed(found))
