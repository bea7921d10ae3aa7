"""Ops that make tensors from sizes: made again inside the loop, at the chunk's size."""

from __future__ import annotations

from search_space.dim_rules.base import Flow, Query, rule, with_item
from search_space.graph import Affine


@rule("aten.zeros", "aten.ones", "aten.empty", "aten.full")
def filled(query: Query) -> Flow | None:
    """The size entry of the chunk dimension becomes the chunk's length."""
    sizes = query.node.args[0] if query.node.args else None
    if not isinstance(sizes, tuple) or len(sizes) != query.rank:
        return None
    return Flow(args=(with_item(sizes, query.dim, Affine(length=1)), *query.node.args[1:]))


_WHOLE = {"float16": 2**11, "bfloat16": 2**8, "float32": 2**24, "float64": 2**53}
"""Up to which number a dtype has all whole ones; whole-number dtypes have them all."""


@rule("aten.arange")
def arange(query: Query) -> Flow | None:
    """``arange`` starts where the chunk starts. Whole numbers only, as far as the dtype has them
    all: rounded ones depend on where the range starts."""
    bounds = query.node.args
    if any(name in ("start", "end", "step") for name, _ in query.node.kwargs):
        return None
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in bounds):
        return None
    numbers = [value for value in bounds if isinstance(value, int)]
    first = 0 if len(numbers) == 1 else numbers[0]
    step = numbers[2] if len(numbers) > 2 else 1
    furthest = max(abs(first), abs(first + step * query.shape[0]))
    dtype = query.node.output.dtype
    if dtype in _WHOLE and furthest > _WHOLE[dtype]:
        return None
    return Flow(
        op="aten.arange.start_step",
        args=(
            Affine(constant=first, start=step),
            # the last chunk's end may pass the captured end, by less than a step
            Affine(constant=first, start=step, length=step),
            step,
        ),
    )


@rule("aten.scalar_tensor")
def scalar_tensor(query: Query) -> Flow | None:
    """One number, which has no dimension."""
    return None
