"""Graphs of one op, and the oracle that holds rules against sliced execution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from search_space.dim_rules import Flow, Query, flow
from search_space.graph import (
    INPUT,
    OP,
    POINTWISE,
    Argument,
    Ref,
    SizedGraph,
    SizedNode,
    Tensor,
    TorchConstant,
    walk_arguments,
)
from search_space.probe import verify
from search_space.torch_ops import torch_op


def op_graph(op: str, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> SizedGraph:
    """A graph of one op; tensors among the arguments become its inputs, equal ones one input."""
    leaves: dict[int, SizedNode] = {}
    places: dict[int, int] = {}

    def plain(value: Any) -> Argument:
        if isinstance(value, torch.Tensor):
            if id(value) not in places:
                place = places[id(value)] = len(leaves)
                leaves[place] = SizedNode(
                    place, f"x{place}", INPUT, f"x{place}", (), (), (_meta(value),), False,
                    frozenset(), "", (),
                )  # fmt: skip
            return Ref(places[id(value)])
        if isinstance(value, (list, tuple)):
            return tuple(plain(item) for item in value)
        if isinstance(value, torch.dtype):
            return TorchConstant("dtype", str(value).removeprefix("torch."))
        assert value is None or isinstance(value, (bool, int, float, str))
        return value

    plain_args = tuple(plain(value) for value in args)
    plain_kwargs = tuple((name, plain(value)) for name, value in (kwargs or {}).items())
    function = torch_op(op)
    with torch.no_grad():
        result = function(*args, **(kwargs or {}))
    parts = [result] if isinstance(result, torch.Tensor) else list(result)
    tags = getattr(function, "tags", ())
    refs = tuple(
        (path, value.index)
        for path, value in walk_arguments(plain_args, plain_kwargs)
        if isinstance(value, Ref)
    )
    node = SizedNode(
        len(leaves), "made", OP, op, plain_args, plain_kwargs,
        tuple(_meta(part) for part in parts), not isinstance(result, torch.Tensor),
        frozenset({POINTWISE} if torch.Tag.pointwise in tags else ()), "", refs,
    )  # fmt: skip
    return SizedGraph((*leaves.values(), node), (Ref(node.index),), ())


def argument_names(op: str) -> list[str]:
    """The names of an op's arguments, by torch's schema."""
    namespace, packet, overload = op.split(".")
    function = getattr(getattr(getattr(torch.ops, namespace), packet), overload)
    return [argument.name for argument in function._schema.arguments]


def _meta(tensor: torch.Tensor) -> Tensor:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Tensor(tuple(tensor.shape), tuple(tensor.stride()), dtype, "cpu")


@dataclass(frozen=True)
class Row:
    """A call of an op, and which dimensions of its output can be sliced."""

    op: str
    dims: tuple[int, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = [tuple(a.shape) if isinstance(a, torch.Tensor) else a for a in self.args]
        return f"{self.op}{shown}{self.kwargs or ''}".replace("torch.", "")


def row(op: str, dims: tuple[int, ...], *args: Any, **kwargs: Any) -> Row:
    """A row of the table."""
    return Row(op, dims, args, kwargs)


def t(*shape: int) -> torch.Tensor:
    """Random floats."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def i(*shape: int) -> torch.Tensor:
    """Whole numbers below 3, as indices."""
    return torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(sum(shape)))


def b(*shape: int) -> torch.Tensor:
    """Random booleans."""
    return t(*shape) > 0


def allowed(graph: SizedGraph) -> dict[int, Flow]:
    """The flows of a graph's last node, by dimension."""
    node = graph.nodes[-1]
    dims = range(max(len(tensor.shape) for tensor in node.outputs))
    found = {dim: flow(graph, node.index, dim) for dim in dims}
    return {dim: answer for dim, answer in found.items() if answer is not None}


def confirm(graph: SizedGraph) -> dict[int, Flow]:
    """The flows of a graph's last node, each confirmed by the oracle."""
    flows = allowed(graph)
    for dim, found in flows.items():
        assert verify(Query(graph, graph.nodes[-1], dim), found), (dim, found)
    return flows
