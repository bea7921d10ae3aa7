"""Truth values enter compiled pieces as whole numbers, on a CPU.

Inductor's vector code reads them one by one, and again in each of the passes that it makes over a
row: a softmax of 4 x 128 x 256 scores with such a mask took 310 us, with the mask as whole numbers
that are compared with 0 inside 87 us, and 112 us uncompiled (torch 2.13, one core with AVX-512).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from tuner.runtime.pieces import Piece

_Run = Callable[[list[torch.Tensor]], Any]

_SHARE = 0.5
"""A mask is copied that has at most this share of the elements of the piece's largest tensor: it is
broadcast, and its copy, four times as large, is small beside the rest."""


def truths(piece: Piece, tensors: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """The places of a piece's inputs that are to be handed over as whole numbers."""
    masks = [
        place
        for place, tensor in enumerate(tensors)
        if tensor.dtype == torch.bool
        and tensor.device.type == "cpu"
        and place not in piece.written
    ]
    if not masks:
        return ()
    most = _SHARE * _most_elements(piece.module, tensors)
    return tuple(place for place in masks if tensors[place].numel() <= most)


def _most_elements(module: fx.GraphModule, tensors: Sequence[torch.Tensor]) -> int:
    """Elements of the largest tensor that enters a piece or is made in it."""
    sizes = _Sizes(module)
    sizes.run([
        torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device="meta")
        for one in tensors
    ])  # fmt: skip
    return max([sizes.most, *(one.numel() for one in tensors)])


class _Sizes(fx.Interpreter):
    """Goes through a module on tensors without data."""

    most = 0

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        if isinstance(made, torch.Tensor):
            self.most = max(self.most, made.numel())
        return made


def with_numbers(module: fx.GraphModule, places: Sequence[int]) -> fx.GraphModule:
    """A piece's module for inputs of which these are whole numbers: they are compared with 0."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in list(graph.nodes):
        if node.target is not operator.getitem or node.args[0].op != "placeholder":
            continue
        if node.args[1] in places:
            with graph.inserting_after(node):
                truth = graph.call_function(torch.ops.aten.ne.Scalar, (node, 0))
            node.replace_all_uses_with(truth)
            truth.args = (node, 0)
    return fx.GraphModule(torch.nn.Module(), graph, "Piece")


def numbered(tensors: list[torch.Tensor], places: Sequence[int]) -> list[torch.Tensor]:
    """The list, with whole numbers in these places."""
    for place in places:
        tensors[place] = tensors[place].to(torch.int32)
    return tensors


def taking_truths(run: _Run, places: Sequence[int]) -> _Run:
    """What runs on whole numbers in these places, for truth values."""
    return lambda tensors: run(numbered(tensors, places))
