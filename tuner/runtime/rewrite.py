"""Code generation: a graph, a length and choices become a module that a person can read.

The whole becomes a ``torch.fx.GraphModule`` in schedule order; each region class becomes one body,
another GraphModule, which all its occurrences share and which a :class:`ChunkLoop` calls. A body
may have loops of its own.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import fx

from search_space.body import entry_key
from search_space.graph import (
    BUFFER,
    CONSTANT,
    INPUT,
    LEAVES,
    PARAMETER,
    Affine,
    Argument,
    Path,
    Ref,
    SizedNode,
    TorchConstant,
)
from search_space.layout import Layout, is_contiguous
from search_space.liveness import Part, Program
from search_space.regions import Loop
from search_space.schedule import schedule
from search_space.torch_ops import torch_op, torch_value
from tuner.runtime.direct_calls import call_directly
from tuner.runtime.loop import ChunkLoop, Output, Sliced
from tuner.runtime.weights import WEIGHTS, Route, Weights, is_weight, read_weights


def rewrite(
    program: Program,
    model: torch.nn.Module,
    constants: Mapping[str, torch.Tensor],
    *,
    in_part: bool = False,
) -> fx.GraphModule:
    """The program as a module that runs its loops.

    It takes the graph's inputs in order and gives the flat outputs as a tuple. Weights are read
    from ``model`` itself at each call: nothing is copied.

    Args:
        constants: tensors of the graph's CONSTANT nodes, by name.
        in_part: whether loops are compiled only where their choices say so.
    """
    graph = program.graph
    made = fx.Graph()
    values: dict[int, fx.Node] = {}
    for node in graph.nodes:
        if node.kind == INPUT:
            values[node.index] = made.placeholder(node.label)
    reader = read_weights(made)
    for node in graph.nodes:
        if node.kind in LEAVES - {INPUT}:
            values[node.index] = _leaf(made, node, reader)

    def call(index: int) -> fx.Node:
        return _call(made, graph.nodes[index], values)

    modules = _emit(made, program, values, call, in_part=in_part)
    made.output(tuple(_argument(value, values) for value in graph.outputs))
    read = {
        values[node.index]: node.op for node in graph.nodes
        if node.kind in (PARAMETER, BUFFER) and values[node.index].users
    }  # fmt: skip
    for place, weight in enumerate(read):
        weight.args = (reader, place)
    _drop_unused_leaves(made)
    root = fx.GraphModule(torch.nn.Module(), fx.Graph(), "Chunked")
    root.add_module(WEIGHTS, Weights(Route.to(tuple(read.values()), model), model))
    root.constants = torch.nn.Module()
    for name, tensor in constants.items():
        root.constants.register_buffer(_constant_name(name), tensor, persistent=False)
    return _finish(root, made, modules)


def _emit(
    made: fx.Graph,
    program: Program,
    values: dict[int, fx.Node],
    call: Callable[[int], fx.Node],
    *,
    in_part: bool = False,
) -> list[ChunkLoop]:
    """Write the program's steps in running order; the modules of its loops, ``region_0`` and on.

    Args:
        values: of the nodes so far; those of the steps are added.
        call: writes the node at an index.
    """
    loops: list[Loop] = []
    modules: list[ChunkLoop] = []
    for part in program.parts:
        size, compiles = part.choice.chunk_size, part.choice.compiled or not in_part
        bodies = _bodies(part)
        for loop in part.loops:
            donated = program.donations[len(loops)]
            loops.append(loop)
            modules.append(chunk_loop(loop, size, *bodies, donated=donated, compiles=compiles))
    for step in schedule(program.graph, loops):
        if step.node is not None:
            values[step.node] = call(step.node)
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
    return modules


def _bodies(part: Part) -> tuple[fx.GraphModule, ...]:
    """The body of a part's loops, and where loops stand inside, one of its own for the ragged last
    pass."""
    first = part.loops[0]
    if not part.bodies:
        return (body_module(first),)
    return tuple(body_module(first, body) for body in part.bodies.values())


def _finish(
    root: fx.GraphModule, made: fx.Graph, modules: Sequence[ChunkLoop]
) -> fx.GraphModule:
    for place, module in enumerate(modules):
        root.add_module(f"region_{place}", module)
    root.graph = made  # (which recompiles)
    call_directly(root)
    return root


def chunk_loop(
    loop: Loop,
    chunk_size: int,
    body: fx.GraphModule,
    tail: fx.GraphModule | None = None,
    *,
    donated: Mapping[int, int] | None = None,
    compiles: bool = True,
) -> ChunkLoop:
    """The module that runs one occurrence of a region.

    Args:
        body, tail: of a pass, and of the ragged last one where that has a body of its own.
        donated: the inputs whose storage outputs take, by output.
        compiles: whether it is compiled where its plan is.
    """
    donated = donated or {}
    entries = [source.node for source in loop.inputs]
    places = {node: place for place, node in enumerate(loop.region.nodes)}
    outputs = []
    for node, layout in zip(loop.outputs, loop.layouts, strict=True):
        place = places[node]
        cut = Sliced(loop.region.dims[place], loop.factors[place])
        donor = entries.index(donated[node]) if node in donated else None
        told = loop.graph.nodes[node].output
        dtype, device = getattr(torch, told.dtype), torch.device(told.device)
        outputs.append(Output(layout.shape, layout.strides, cut, dtype, device, donor))
    inputs = tuple(
        None if source.dim is None else Sliced(source.dim, source.factor) for source in loop.inputs
    )
    return ChunkLoop(body, loop.extent, chunk_size, inputs, tuple(outputs), tail, compiles)


def body_module(loop: Loop, inside: Program | None = None) -> fx.GraphModule:
    """One pass of a loop as a module: inputs in ``loop.inputs``' order, then start and length.

    Args:
        inside: the body with loops of its own (``Part.bodies``); it then serves passes of that one
            length alone.
    """
    graph = loop.graph
    first = len(loop.inputs)
    made = fx.Graph()
    values: dict[int, fx.Node] = {}  # by place in the body's graph, see search_space.body
    entries: dict[tuple[int, int | None, int], fx.Node] = {}
    taken = {"start", "length"}
    for place, source in enumerate(loop.inputs):
        # one tensor may enter twice, sliced and whole
        label = name = graph.nodes[source.node].label
        while name in taken:
            name = f"{label}_{'whole' if source.dim is None else 'sliced'}_{len(taken)}"
        taken.add(name)
        values[place] = made.placeholder(name)
        entries[source.node, source.dim, source.factor] = values[place]
    start, length = made.placeholder("start"), made.placeholder("length")
    members = {node: place for place, node in enumerate(loop.region.nodes)}

    def call(index: int) -> fx.Node:
        place = index - first
        node, found = graph.nodes[loop.region.nodes[place]], loop.flows[place]

        def convert(value: Argument, path: Path) -> fx.node.Argument:
            if isinstance(value, tuple):
                return [convert(item, (*path, k)) for k, item in enumerate(value)]
            if isinstance(value, Affine):
                return _affine(made, value, loop.factors[place], start, length)
            if isinstance(value, Ref):
                if value.index in members:
                    return values[first + members[value.index]]
                return entries[entry_key(loop, place, path, value.index)]
            return _constant(value)

        args = node.args if found.args is None else found.args
        kwargs = node.kwargs if found.kwargs is None else found.kwargs
        converted = [convert(value, (k,)) for k, value in enumerate(args)]
        if (found.op or node.op) == "aten.linear.default" and _copied(loop, place):
            converted[0] = made.call_function(torch_op("aten.contiguous.default"), (converted[0],))
        return made.create_node(
            "call_function",
            torch_op(found.op or node.op),
            tuple(converted),
            {name: convert(value, (name,)) for name, value in kwargs},
            name=node.label,
        )

    modules: list[ChunkLoop] = []
    if inside is None:
        for place in range(len(loop.region.nodes)):
            values[first + place] = call(first + place)
    else:
        modules = _emit(made, inside, values, call)
    made.output(tuple(values[first + members[output]] for output in loop.outputs))
    return _finish(fx.GraphModule(torch.nn.Module(), fx.Graph(), "Body"), made, modules)


def _copied(loop: Loop, place: int) -> bool:
    """Whether a linear layer's input is a slice whose rows its kernel copies, since they have gaps.

    Such a copy is made beforehand: left to itself the kernel adds the bias to a product that is
    rounded already, which in half precision is a tenth more error than the whole layer's.
    """
    ref, wanted = loop.graph.nodes[loop.region.nodes[place]].args[0], dict(loop.flows[place].slices)
    if not isinstance(ref, Ref) or (0,) not in wanted or ref.index in loop.region.nodes:
        return False
    tensor = loop.graph.nodes[ref.index].output
    dense = is_contiguous(Layout(tensor.shape, tensor.strides))
    return dense and prod(tensor.shape[: wanted[0,].dim]) > 1


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


def _leaf(made: fx.Graph, node: SizedNode, reader: fx.Node) -> fx.Node:
    if node.kind == CONSTANT:
        place = f"constants.{_constant_name(node.op)}"
        return made.create_node("get_attr", place, name=node.label)
    return made.create_node("call_function", operator.getitem, (reader, 0), name=node.label)


def _constant_name(name: str) -> str:
    """A constant's name as that of a buffer, which may have no dots."""
    return name.replace(".", "_")


def _drop_unused_leaves(made: fx.Graph) -> None:
    for node in reversed(list(made.nodes)):
        if not node.users and (node.op == "get_attr" or is_weight(node)):
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


def _call(made: fx.Graph, node: SizedNode, values: Mapping[int, fx.Node]) -> fx.Node:
    return made.create_node(
        "call_function",
        torch_op(node.op),
        tuple(_argument(value, values) for value in node.args),
        {name: _argument(value, values) for name, value in node.kwargs},
        name=node.label,
    )
