"""Matrix products: rows, columns and batches can be sliced, the summed dimension cannot."""

from __future__ import annotations

from collections.abc import Sequence

from search_space.dim_rules.base import Flow, Query, Slice, aligned, rule
from search_space.graph import Argument, Path


@rule("aten.matmul")
def matmul(query: Query) -> Flow | None:
    """Rows slice the first argument, columns the second, batches both where they have them."""
    left, right = query.tensor_at(0), query.tensor_at(1)
    if left is None or right is None:
        return None
    a, b = left.shape, right.shape
    # a vector takes its matrix dimension away from the output
    rows = query.rank - 1 - (len(b) > 1) if len(a) > 1 else None
    columns = query.rank - 1 if len(b) > 1 else None
    if query.dim == columns:
        return Flow((((1,), Slice(len(b) - 1)),))
    if query.dim == rows:
        return Flow((((0,), Slice(len(a) - 2)),))
    batch = query.rank - (len(a) > 1) - (len(b) > 1)
    slices: list[tuple[Path, Slice]] = []
    for place, shape in enumerate((a, b)):
        dim = query.dim - (batch - (len(shape) - 2))
        if len(shape) > 2 and dim >= 0 and shape[dim] > 1:
            slices.append(((place,), Slice(dim)))
    return Flow(tuple(slices)) if slices else None


@rule("aten.bmm", "aten.mm")
def products(query: Query) -> Flow | None:
    """Plain matrix products, with or without one batch dimension."""
    return _product(query, 0)


def _product(query: Query, first: int) -> Flow:
    batched = query.rank == 3
    if query.dim == query.rank - 1:
        return Flow((((first + 1,), Slice(query.dim)),))
    if query.dim == query.rank - 2:
        return Flow((((first,), Slice(query.dim)),))
    assert batched
    return Flow((((first,), Slice(0)), ((first + 1,), Slice(0))))


@rule("aten.addmm", "aten.baddbmm")
def added_products(query: Query) -> Flow | None:
    """A product added to a tensor that broadcasts against it."""
    path, index = query.node.refs[0]
    return Flow((*aligned(query, path, index), *_product(query, 1).slices))


@rule("aten.addbmm")
def summed_products(query: Query) -> Flow | None:
    """Products of a batch, summed, added to a tensor that broadcasts against them."""
    path, index = query.node.refs[0]
    place = 1 if query.dim == 0 else 2
    return Flow((*aligned(query, path, index), ((place,), Slice(query.dim + 1))))


@rule("aten.mv")
def mv(query: Query) -> Flow | None:
    """A matrix times a vector, by rows."""
    return Flow((((0,), Slice(0)),))


@rule("aten.addmv")
def addmv(query: Query) -> Flow | None:
    """A matrix times a vector, added to a vector."""
    path, index = query.node.refs[0]
    return Flow((*aligned(query, path, index), ((1,), Slice(0))))


@rule("aten.dot", "aten.vdot")
def dot(query: Query) -> Flow | None:
    """A sum over everything."""
    return None


@rule("aten.outer", "aten.ger")
def outer(query: Query) -> Flow | None:
    """Every element of one vector times every element of another."""
    return Flow((((query.dim,), Slice(0)),))


@rule("aten.addr")
def addr(query: Query) -> Flow | None:
    """An outer product added to a tensor that broadcasts against it."""
    path, index = query.node.refs[0]
    return Flow((*aligned(query, path, index), ((1 + query.dim,), Slice(0))))


_MM, _DIRECT = 1, 2
"""``cdist``'s compute modes: distances by a matrix product, or one by one."""


@rule("aten.cdist")
def cdist(query: Query) -> Flow | None:
    """Distances of rows to rows, ``(..., P, M)`` and ``(..., R, M)`` to ``(..., P, R)``.

    Left to itself the kernel chooses its way by P and R; the chunk takes the way of the whole.
    """
    left, right = query.tensor_at(0), query.tensor_at(1)
    if left is None or right is None:
        return None
    mode = query.argument(3, "compute_mode")
    if mode is None or mode == 0:
        large = left.shape[-2] > 25 or right.shape[-2] > 25
        power = query.argument(2, "p", 2.0)
        args = (*query.node.args[:2], power, _MM if large and power == 2.0 else _DIRECT)
    elif len(query.node.args) == 4:
        args = query.node.args
    else:
        return None
    if query.dim == query.rank - 2:
        slices: tuple[tuple[Path, Slice], ...] = (((0,), Slice(len(left.shape) - 2)),)
    elif query.dim == query.rank - 1:
        slices = (((1,), Slice(len(right.shape) - 2)),)
    else:
        slices = tuple(
            part for place, (_, index) in enumerate(query.node.refs[:2])
            for part in aligned(query, (place,), index)
        )  # fmt: skip
    return Flow(slices, args=args, kwargs=()) if slices else None


@rule("aten.linear")
def linear(query: Query) -> Flow | None:
    """Rows slice the input; output features slice weight and bias. (A bias may be more than one row
    that all share.)"""
    weight = query.tensor_at(1)
    if weight is None or len(weight.shape) != 2:
        return None
    bias = tuple(part for ref in query.node.refs[2:] for part in aligned(query, *ref))
    if query.dim < query.rank - 1:
        return Flow((*aligned(query, *query.node.refs[0]), *bias))
    return Flow((((1,), Slice(0)), *bias))


@rule("aten.einsum")
def einsum(query: Query) -> Flow | None:
    """Every label of the output slices each operand that has it."""
    operands = query.argument(1, "tensors")
    if not isinstance(operands, tuple) or len(operands) != len(query.node.refs):
        return None
    shapes = [query.tensor(index).shape for _, index in query.node.refs]
    found = einsum_labels(query.node.args[0], [len(shape) for shape in shapes])
    if found is None or len(found[1]) != query.rank:
        return None
    terms, result = found
    label = result[query.dim]
    slices: list[tuple[Path, Slice]] = []
    for (path, _), term, shape in zip(query.node.refs, terms, shapes, strict=True):
        if len(set(term)) != len(term):
            return None
        # operands of one position are broadcast against the others
        if label in term and shape[term.index(label)] > 1:
            slices.append((path, Slice(term.index(label))))
    return Flow(tuple(slices)) if slices else None


Labels = tuple[int | str, ...]


def einsum_labels(
    equation: Argument, ranks: Sequence[int]
) -> tuple[tuple[Labels, ...], Labels] | None:
    """The labels of an einsum's operands and result, one a dimension; None where the equation is
    not understood.

    The dimensions of an ellipsis are labelled -1, -2, ... from the right, as they broadcast. Left
    out, the result is the ellipsis, then the labels that appear once, in alphabetical order.
    """
    if not isinstance(equation, str):
        return None
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        return None
    spelled: list[Labels] = []
    for term, rank in zip(terms, ranks, strict=True):
        before, dots, after = term.partition("...")
        hidden = rank - len(before) - len(after)
        if hidden < 0 or (hidden and not dots) or not (before + after + "a").isalpha():
            return None
        spelled.append((*before, *range(-hidden, 0), *after))
    widest = max(sum(isinstance(label, int) for label in term) for term in spelled)
    ellipsis = tuple(range(-widest, 0))
    if arrow:
        before, dots, after = right.partition("...")
        if not (before + after + "a").isalpha() or (widest and not dots):
            return None
        return tuple(spelled), (*before, *(ellipsis if dots else ()), *after)
    letters = left.replace(",", "").replace(".", "")
    once = sorted(letter for letter in set(letters) if letters.count(letter) == 1)
    return tuple(spelled), (*ellipsis, *once)
