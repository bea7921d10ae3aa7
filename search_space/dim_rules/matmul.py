"""Matrix products: rows, columns and batches can be sliced, the summed dimension cannot."""

from __future__ import annotations

from search_space.dim_rules.base import Flow, Query, Slice, aligned, rule
from search_space.graph import Path


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


@rule("aten.mv")
def mv(query: Query) -> Flow | None:
    """A matrix times a vector, by rows."""
    return Flow((((0,), Slice(0)),))


@rule("aten.dot")
def dot(query: Query) -> Flow | None:
    """A sum over everything."""
    return None


@rule("aten.linear")
def linear(query: Query) -> Flow | None:
    """Rows slice the input; output features slice weight and bias."""
    if len(query.tensor(query.node.refs[1][1]).shape) != 2:
        return None
    if query.dim < query.rank - 1:
        return Flow((((0,), Slice(query.dim)),))
    paths = [path for path, _ in query.node.refs[1:]]
    return Flow(tuple((path, Slice(0)) for path in paths))


@rule("aten.einsum")
def einsum(query: Query) -> Flow | None:
    """Every label of the output slices each operand that has it."""
    equation = query.node.args[0]
    if not isinstance(equation, str) or "." in equation or "->" not in equation:
        return None
    if query.argument(2, "path") is not None:
        return None
    terms, _, result = equation.replace(" ", "").partition("->")
    operands = terms.split(",")
    label = result[query.dim]
    slices: list[tuple[Path, Slice]] = []
    for (path, _), operand in zip(query.node.refs, operands, strict=True):
        if len(set(operand)) != len(operand):
            return None
        if label in operand:
            slices.append((path, Slice(operand.index(label))))
    return Flow(tuple(slices)) if slices else None
