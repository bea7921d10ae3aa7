"""Graphs of plain data: one captured layer repeated to any depth, and graphs of made-up wiring."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.scale import layers, repeated, tall
from search_space.graph import FRESH as NEW
from search_space.graph import INPUT, OP, POINTWISE, Ref, SizedGraph, SizedNode, Tensor
from search_space.layout import contiguous

Wiring = Sequence[tuple[str, tuple[int, ...]]]
"""Per node, its op and the nodes that it reads; node 0 is the graph's input."""

SIDE = 6
_TRAITS = {"aten.matmul.default": frozenset({NEW})}


def wired(wiring: Wiring, outputs: Sequence[int] | None = None) -> SizedGraph:
    """A graph of square matrices, each node an op on those before it.

    Args:
        outputs: what the graph returns; all that nothing reads where it is None.
    """
    square = contiguous((SIDE, SIDE))
    tensor = Tensor(square.shape, square.strides, "float32", "cpu")
    nodes = [
        SizedNode(
            0, "x", INPUT, "x", (), (), (tensor,), False, frozenset(), "", ()
        )
    ]  # fmt: skip
    for index, (op, refs) in enumerate(wiring, 1):
        assert all(ref < index for ref in refs)
        nodes.append(
            SizedNode(
                index, f"n{index}", OP, op, tuple(Ref(ref) for ref in refs), (), (tensor,), False,
                _TRAITS.get(op, frozenset({NEW, POINTWISE})), "",
                tuple(((place,), ref) for place, ref in enumerate(refs)),
            )
        )  # fmt: skip
    if outputs is None:
        read = {ref for _, refs in wiring for ref in refs}
        outputs = [node.index for node in nodes[1:] if node.index not in read]
    return SizedGraph(tuple(nodes), tuple(Ref(index) for index in outputs), ())


__all__ = ["SIDE", "Wiring", "layers", "repeated", "tall", "wired"]
