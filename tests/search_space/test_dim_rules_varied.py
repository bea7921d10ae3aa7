"""Every rule on random shapes, dtypes and dimensions: the calls of the tables, varied.

Each row's sizes are changed, equal ones alike, together with the arguments that name them; its
floating dtype and the dimension that it is told are drawn. What the op itself refuses is no call.
For each dimension of the output that a rule gives a flow for, running the op slice by slice equals
running it whole, on two draws of data.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from search_space.dim_rules import Query, find_rule
from search_space.graph import SizedGraph
from search_space.probe import verify
from tests.one_op import Row, allowed, argument_names, op_graph
from tests.search_space.test_dim_rules import ROWS
from tests.search_space.test_dim_rules_wide import WIDE

UNVARIED = ("aten.arange", "aten._fft_c2r")
"""``arange`` has random bounds elsewhere; the kernel behind inverse Fourier transforms ends the
process where its arguments contradict each other."""

TABLE = tuple(
    case for case in (*ROWS, *WIDE) if case.dims and not case.op.startswith(UNVARIED)
)

ROUNDS = frozenset({"pointwise", "views", "indexing", "creation"})
"""Families whose ops round each element once at most, so that bfloat16 is held to them as well:
sums of another order would differ by more than what tells a wrong slice from a right one."""

DIMENSIONS = frozenset({"dim", "dim0", "dim1", "dim2", "dims", "source", "destination"})
"""Arguments that name dimensions."""

SIZES = frozenset({"N", "C", "HxW"})
"""Arguments that are sizes though they stand in no list."""

VARIED = settings(
    max_examples=12, derandomize=True, deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def tensors_of(values: Any) -> list[torch.Tensor]:
    """All tensors among arguments."""
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in tensors_of(value)]
    return []


def redrawn(tensor: torch.Tensor, shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of another shape, of the same kind of numbers; indices stay as small."""
    if tensor.dtype.is_complex:
        return torch.randn(shape, dtype=tensor.dtype)
    if tensor.is_floating_point():
        return torch.rand(shape).to(dtype)
    most = 2 if tensor.dtype is torch.bool else int(tensor.max()) + 1 if tensor.numel() else 1
    return torch.randint(0, max(most, 1), shape).to(tensor.dtype)


@st.composite
def varied(draw: st.DrawFn, case: Row) -> SizedGraph:
    """A graph of the row's op at other sizes, of another dtype, told another dimension."""
    given_tensors = tensors_of((*case.args, *case.kwargs.values()))
    lists = [v for value in case.args if isinstance(value, list) for v in value]
    named = {v for v in lists if isinstance(v, int) and not isinstance(v, bool)}
    sizes = sorted(
        {size for tensor in given_tensors for size in tensor.shape if size > 1}
        or {size for size in named if size > 1}
    )
    changed = draw(st.sets(st.sampled_from(sizes), max_size=3))
    new = {s: draw(st.one_of(st.sampled_from((2 * s, 3 * s)), st.integers(2, 9))) for s in changed}
    if draw(st.booleans()):
        # one size several times as large, and the first named one that is a part or a multiple
        size, times = draw(st.sampled_from(sizes)), draw(st.integers(2, 3))
        new = {size: times * size}
        parts = [v for v in lists if v in named and v > 1 and (v % size == 0 or size % v == 0)]
        new |= {v: times * v for v in parts[:1] if v != size}
    family = getattr(find_rule(case.op), "__module__", "").rpartition(".")[2]
    wide = (torch.float32, torch.float64)
    dtype = draw(st.sampled_from((*wide, torch.bfloat16) if family in ROUNDS else wide))
    rank = max((tensor.dim() for tensor in given_tensors), default=1)
    also_named = draw(st.booleans())
    redraw = draw(st.booleans())
    names = argument_names(case.op)

    def change(value: Any, name: str) -> Any:
        if isinstance(value, torch.Tensor):
            shape = [new.get(size, size) for size in value.shape]
            return redrawn(value, shape, dtype)
        if name in DIMENSIONS and isinstance(value, int) and redraw:
            return draw(st.integers(-rank, rank - 1))
        if name in DIMENSIONS and isinstance(value, list) and redraw:
            return draw(st.lists(st.integers(0, rank - 1), unique=True, min_size=len(value),
                                 max_size=len(value))) if len(value) <= rank else value  # fmt: skip
        if isinstance(value, list):
            return [change(item, "" if also_named else "kept") for item in value]
        if name in ("", *SIZES) and isinstance(value, int) and not isinstance(value, bool):
            return new.get(value, value)
        return value

    args = tuple(change(value, name) for value, name in zip(case.args, names, strict=False))
    kwargs = {name: change(value, name) for name, value in case.kwargs.items()}
    try:
        return op_graph(case.op, args, kwargs)
    except (RuntimeError, IndexError, TypeError, ValueError):
        assume(False)
        raise


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_sliced_execution_equals_whole_execution(case: Row) -> None:
    confirmed: set[tuple[int, ...]] = set()

    @VARIED
    @given(varied(case))
    def check(graph: SizedGraph) -> None:
        node = graph.nodes[-1]
        for dim, found in allowed(graph).items():
            query = Query(graph, node, dim)
            for seed in (0, 1):
                assert verify(query, found, seed=seed), (node.op, dim, found)
            confirmed.add(node.output.shape)

    check()
    assert len(confirmed) >= 2, "only the table's own sizes were tried"
