"""Loops whose bodies write the slices of the outputs themselves.

A plain loop copies what a pass gives into the outputs. Where bodies are compiled, that copy is
handed to the compiler with the rest: the kernel that computes a result then writes it straight into
the output, and the result itself never exists. An output that takes the storage of an input is
written over that very slice, and the compiler knows both as one tensor, so that it reads first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any, cast

import torch
from torch import fx
from torch._ops import OpOverload

from search_space.capture_traits import makes_new
from search_space.causal_attention import causal_attention
from tuner.runtime.graph_modules import with_graph
from tuner.runtime.loop import ChunkLoop, Output

STORE = torch.ops.aten.copy_.default


class StoringLoop(ChunkLoop):
    """A loop that leaves writing to its body, see :func:`storing_body`; made of a plain one.

    Args:
        loop: the plain loop.
        body, tail: of a pass, and of a ragged last one; both write all outputs.
    """

    def __init__(
        self, loop: ChunkLoop, body: fx.GraphModule, tail: fx.GraphModule | None
    ) -> None:
        super().__init__(body, loop.extent, loop.chunk_size, loop.inputs, loop.outputs, tail)
        for output in loop.outputs:
            assert output.donor is None or loop.inputs[output.donor] == output.cut

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The outputs, whole; a lone one without a tuple."""
        size, extent = self.chunk_size, self.extent
        filled = [
            _empty(output) if output.donor is None else tensors[output.donor]
            for output in self.outputs
        ]
        fresh = [
            (whole, output.cut) for whole, output in zip(filled, self.outputs, strict=True)
            if output.donor is None
        ]  # fmt: skip
        columns = [
            repeat(tensor) if cut is None else torch.split(tensor, size * cut.factor, cut.dim)
            for tensor, cut in (*zip(tensors, self.inputs, strict=True), *fresh)
        ]
        run = self.body.forward
        for start, *given in zip(range(0, extent, size), *columns, strict=False):
            length = min(size, extent - start)
            if length < size and self.tail is not None:
                run = self.tail.forward
            run(*given, start, length)
        made = tuple(map(_laid_out, filled, self.outputs))
        return made[0] if len(made) == 1 else made


_ALIGNMENT = 16


def may_store(loop: ChunkLoop) -> bool:
    """Whether every pass's slices of the outputs begin at addresses that compiled code of a GPU
    takes: what begins elsewhere than in the first pass it copies, writes, and copies back, with all
    that lies between the first element and the last."""
    steps = (
        loop.chunk_size * one.cut.factor * one.strides[one.cut.dim] * one.dtype.itemsize
        for one in loop.outputs if one.device.type != "cpu"
    )  # fmt: skip
    return all(step % _ALIGNMENT == 0 for step in steps)


def storing_body(body: fx.GraphModule, donors: Sequence[int | None]) -> fx.GraphModule:
    """A body that writes its outputs and gives nothing.

    Between its inputs and ``start`` it takes the slice of each output that has no donor. Such an
    output is written as soon as it is known; one with a donor, over that input's slice, when that
    is read no more.

    Args:
        donors: per output the place of the input whose slice it is written over, or None.
    """
    old = list(body.graph.nodes)
    placeholders = [node for node in old if node.op == "placeholder"]
    values: tuple[Any, ...] = tuple(cast("Sequence[Any]", old[-1].args[0]))
    places = {node: place for place, node in enumerate(old)}
    *inputs, _, length = placeholders
    stores: dict[int, list[int]] = {}
    # (those with donors last: an output without one may be another name of a donor)
    for output in sorted(range(len(donors)), key=lambda output: donors[output] is not None):
        donor = donors[output]
        read = 0 if donor is None else _last_read(old, placeholders[donor])
        after = max(read, places[values[output]], places[length])
        stores.setdefault(after, []).append(output)

    made = fx.Graph()
    copies = {node: made.node_copy(node) for node in inputs}
    taken = {node.target for node in placeholders}
    rooms = [
        made.placeholder(_unused(f"output_{place}", taken))
        if donor is None else copies[inputs[donor]]
        for place, donor in enumerate(donors)
    ]  # fmt: skip
    for place, node in enumerate(old[:-1]):
        if node not in copies:
            copies[node] = made.node_copy(node, lambda one: copies[one])
        for output in stores.get(place, ()):
            made.call_function(STORE, (rooms[output], copies[values[output]]))
    made.output(())
    return with_graph(body, made)


def _last_read(nodes: Sequence[fx.Node], donor: fx.Node) -> int:
    """The place of the last node that may read a tensor, under whatever name, in the order of the
    graph."""
    names = names_of(donor, nodes)
    reading = (names.intersection(node.all_input_nodes) for node in nodes[:-1])
    return max((place for place, found in enumerate(reading) if found), default=0)


def names_of(tensor: fx.Node, nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes, in the order of the graph, that may give a tensor or a part of it."""
    names = {tensor}
    for node in nodes:
        if not names.isdisjoint(node.all_input_nodes) and not _is_new(node):
            names.add(node)
    return names


def _is_new(node: fx.Node) -> bool:
    """Whether a node's tensors certainly share no storage with its inputs."""
    if node.op != "call_function":
        return False
    if node.target is causal_attention:
        return True
    return isinstance(node.target, OpOverload) and makes_new(node.target)


def _empty(output: Output) -> torch.Tensor:
    return torch.empty_strided(
        output.shape, output.strides, dtype=output.dtype, device=output.device
    )


def _laid_out(whole: torch.Tensor, output: Output) -> torch.Tensor:
    """What passes have filled; a copy, where a donor lay otherwise than the capture had told."""
    if whole.stride() == output.strides:
        return whole
    return _empty(output).copy_(whole)


def _unused(name: str, taken: set[Any]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
