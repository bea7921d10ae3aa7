"""Graphs of plain data: one captured layer repeated to any depth, and graphs of made-up wiring."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.scale import layers, repeated, tall
from search_space.graph import (
    FRESH,
    INPUT,
    OP,
    PARAMETER,
    POINTWISE,
    Ref,
    SizedGraph,
    SizedNode,
    Tensor,
)
from search_space.layout import contiguous

Wiring = Sequence[tuple[str, tuple[int, ...]]]
"""Per node, its op and the places that it reads; at 0 is the graph's input."""

SIDE = 6


def wired(
    wiring: Wiring, outputs: Sequence[int] | None = None, weights: int = 0
) -> SizedGraph:
    """A graph of square matrices: an input, weights, and nodes, each an op on those before it.

    Args:
        outputs: what the graph returns; all that nothing reads where it is None.
        weights: how many leaves follow the input.
    """
    square = contiguous((SIDE, SIDE))
    tensor = Tensor(square.shape, square.strides, "float32", "cpu")

    def node(index: int, kind: str, op: str, refs: tuple[int, ...] = ()) -> SizedNode:
        traits = frozenset[str]()
        if kind == OP:
            traits = frozenset({FRESH} if "matmul" in op else {FRESH, POINTWISE})
        return SizedNode(
            index, f"n{index}", kind, op, tuple(Ref(ref) for ref in refs), (), (tensor,), False,
            traits, "", tuple(((place,), ref) for place, ref in enumerate(refs)),
        )  # fmt: skip

    nodes = [node(0, INPUT, "x")]
    nodes += [node(index, PARAMETER, f"w{index}") for index in range(1, weights + 1)]
    for index, (op, refs) in enumerate(wiring, 1 + weights):
        assert all(ref < index for ref in refs)
        nodes.append(node(index, OP, op, refs))
    if outputs is None:
        read = {ref for _, refs in wiring for ref in refs}
        outputs = [one.index for one in nodes[1 + weights :] if one.index not in read]
    return SizedGraph(tuple(nodes), tuple(Ref(index) for index in outputs), ())


__all__ = ["SIDE", "Wiring", "layers", "repeated", "tall", "wired"]
