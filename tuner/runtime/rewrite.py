"""Code generation: a graph, a length and choices become a module that a person can read.

The whole becomes a ``torch.fx.GraphModule`` in schedule order; each region class becomes one body,
another GraphModule, which all its occurrences share and which a :class:`ChunkLoop` calls.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from search_space.dim_rules import Slice
from search_space.graph import (
    CONSTANT,
    INPUT,
    LEAVES,
    Affine,
    Argument,
    Path,
    Ref,
    SizedGraph,
    SizedNode,
    TorchConstant,
)
from search_space.plan import Choice
from search_space.regions import Loop
from search_space.schedule import schedule
from search_space.torch_ops import torch_op, torch_value
from tuner.runtime.loop import ChunkLoop, Output, Sliced


def rewrite(
    graph: SizedGraph,
    active: Sequence[tuple[Choice, Sequence[Loop]]],
    model: torch.nn.Module,
    constants: Mapping[str, torch.Tensor],
    donations: Sequence[Mapping[int, int]] = (),
) -> fx.GraphModule:
    """The graph as a module that runs these loops.

    It takes the graph's inputs in order and gives the flat outputs as a tuple. Weights are read
    from ``model`` itself at each call: nothing is copied.

    Args:
        active: choices with their loops at this length (``MemoryModel.active``).
        constants: tensors of the graph's CONSTANT nodes, by name.
        donations: per loop, outputs that take an input's storage (``Profile.donations``).
    """
    loops: list[Loop] = []
    modules: list[ChunkLoop] = []
    for choice, own in active:
        body = body_module(own[0])
        for loop in own:
            donated = donations[len(loops)] if donations else {}
            loops.append(loop)
            modules.append(chunk_loop(loop, choice.chunk_size, body, donated))
    made = fx.Graph()
    values: dict[int, fx.Node] = {}
    for node in graph.nodes:
        if node.kind in LEAVES:
            values[node.index] = _leaf(made, node)
    for step in schedule(graph, loops):
        if step.node is not None:
            node = graph.nodes[step.node]
            values[step.node] = _call(made, node, node.op, node.args, node.kwargs, values)
            continue
        assert step.loop is not None
        loop = loops[step.loop]
        given = made.call_module(
            f"region_{step.loop}", tuple(values[source.node] for source in loop.inputs)
        )
        if len(loop.outputs) == 1:
            values[loop.outputs[0]] = given
        else:
            for place, output in enumerate(loop.outputs):
                values[output] = made.call_function(operator.getitem, (given, place))
    made.output(tuple(_argument(value, values) for value in graph.outputs))
    _drop_unused_leaves(made)
    root = fx.GraphModule(torch.nn.Module(), fx.Graph(), "Chunked")
    root.model = model
    root.constants = torch.nn.Module()
    for name, tensor in constants.items():
        root.constants.register_buffer(_constant_name(name), tensor, persistent=False)
    for place, module in enumerate(modules):
        root.add_module(f"region_{place}", module)
    root.graph = made
    root.recompile()
    return root


def chunk_loop(
    loop: Loop, chunk_size: int, body: fx.GraphModule, donated: Mapping[int, int] | None = None
) -> ChunkLoop:
    """The module that runs one occurrence of a region; ``donated`` names the inputs whose storage
    outputs take."""
    donated = donated or {}
    entries = [source.node for source in loop.inputs]
    places = {node: place for place, node in enumerate(loop.region.nodes)}
    outputs = []
    for node, layout in zip(loop.outputs, loop.layouts, strict=True):
        place = places[node]
        cut = Sliced(loop.region.dims[place], loop.factors[place])
        donor = entries.index(donated[node]) if node in donated else None
        outputs.append(Output(layout.shape, layout.strides, cut, donor))
    inputs = tuple(
        None if source.dim is None else Sliced(source.dim, source.factor) for source in loop.inputs
    )
    return ChunkLoop(body, loop.extent, chunk_size, inputs, tuple(outputs))


def body_module(loop: Loop) -> fx.GraphModule:
    """One pass of a loop as a module: inputs in ``loop.inputs``' order, then start and length."""
    graph = loop.graph
    made = fx.Graph()
    entries: dict[tuple[int, int | None, int], fx.Node] = {}
    taken = {"start", "length"}
    for source in loop.inputs:
        # one tensor may enter twice, sliced and whole
        label = name = graph.nodes[source.node].label
        while name in taken:
            name = f"{label}_{'whole' if source.dim is None else 'sliced'}_{len(taken)}"
        taken.add(name)
        entries[source.node, source.dim, source.factor] = made.placeholder(name)
    start, length = made.placeholder("start"), made.placeholder("length")
    values: dict[int, fx.Node] = {}
    for place, index in enumerate(loop.region.nodes):
        node, found, factor = graph.nodes[index], loop.flows[place], loop.factors[place]
        slices = dict(found.slices)

        def convert(
            value: Argument,
            path: Path,
            factor: int = factor,
            slices: Mapping[Path, Slice] = slices,
        ) -> fx.node.Argument:
            if isinstance(value, tuple):
                return [convert(item, (*path, k)) for k, item in enumerate(value)]
            if isinstance(value, Affine):
                return _affine(made, value, factor, start, length)
            if isinstance(value, Ref):
                if value.index in values:
                    return values[value.index]
                wanted = slices.get(path)
                if wanted is None:
                    return entries[value.index, None, 0]
                return entries[value.index, wanted.dim, int(factor * wanted.ratio)]
            return _constant(value)

        args = node.args if found.args is None else found.args
        kwargs = node.kwargs if found.kwargs is None else found.kwargs
        values[index] = made.create_node(
            "call_function",
            torch_op(found.op or node.op),
            tuple(convert(value, (k,)) for k, value in enumerate(args)),
            {name: convert(value, (name,)) for name, value in kwargs},
            name=node.label,
        )
    made.output(tuple(values[output] for output in loop.outputs))
    return fx.GraphModule(torch.nn.Module(), made, "Body")


def _affine(
    made: fx.Graph, value: Affine, factor: int, start: fx.Node, length: fx.Node
) -> fx.node.Argument:
    """``(constant + factor * (a * start + b * length)) // divisor`` as readable arithmetic."""
    terms: list[fx.node.Argument] = []
    for weight, symbol in ((value.start * factor, start), (value.length * factor, length)):
        if weight:
            terms.append(
                symbol if weight == 1 else made.call_function(operator.mul, (symbol, weight))
            )
    if value.constant or not terms:
        terms.append(value.constant)
    total = terms[0]
    for term in terms[1:]:
        total = made.call_function(operator.add, (total, term))
    if value.divisor > 1:
        # the rule's step sees to it that nothing is left over
        total = made.call_function(operator.floordiv, (total, value.divisor))
    return total


def _leaf(made: fx.Graph, node: SizedNode) -> fx.Node:
    if node.kind == INPUT:
        return made.placeholder(node.label)
    place = f"constants.{_constant_name(node.op)}" if node.kind == CONSTANT else f"model.{node.op}"
    return made.create_node("get_attr", place, name=node.label)


def _constant_name(name: str) -> str:
    """A constant's name as that of a buffer, which may have no dots."""
    return name.replace(".", "_")


def _drop_unused_leaves(made: fx.Graph) -> None:
    for node in list(made.nodes):
        if node.op == "get_attr" and not node.users:
            made.erase_node(node)


def _argument(value: Argument, values: Mapping[int, fx.Node]) -> fx.node.Argument:
    if isinstance(value, tuple):
        return [_argument(item, values) for item in value]
    if isinstance(value, Ref):
        return values[value.index]
    return _constant(value)


def _constant(value: Argument) -> fx.node.Argument:
    """A plain argument as torch wants it."""
    plain: Any = torch_value(value) if isinstance(value, TorchConstant) else value
    made: fx.node.Argument = plain
    return made


def _call(
    made: fx.Graph,
    node: SizedNode,
    op: str,
    args: tuple[Argument, ...],
    kwargs: tuple[tuple[str, Argument], ...],
    values: Mapping[int, fx.Node],
) -> fx.Node:
    return made.create_node(
        "call_function",
        torch_op(op),
        tuple(_argument(value, values) for value in args),
        {name: _argument(value, values) for name, value in kwargs},
        name=node.label,
    )
