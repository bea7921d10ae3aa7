"""The memory model: how many bytes are alive at each step of a plan.

Exact liveness over the schedule: a storage lives from the step that makes it to the last step that
reads it or a view of it; the model's outputs live to the end; inputs and weights belong to the
caller and count nothing. At a step

    live = storages alive before + the step's outputs + its transient bytes

where the transient of a node is its kernel's workspace, and that of a loop what its body needs. A
loop's outputs are allocated when its first pass has shown their dtype, so that

    transient(loop) = max(body(first) - outputs, results(first), body(second)),

with the second pass smaller where it is the ragged last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from search_space.dim_rules import Flow, Probe
from search_space.errors import PlanError
from search_space.graph import (
    ALIAS,
    ITEM_BYTES,
    LEAVES,
    Affine,
    Argument,
    SizedGraph,
    Tensor,
    map_arguments,
)
from search_space.layout import Layout, contiguous, dense_like, is_dense, view_layout
from search_space.plan import Choice, Plan, Region
from search_space.regions import Loop, arguments, resolve
from search_space.schedule import Step, schedule
from search_space.workspace import Call, Operand, workspace_bytes


@dataclass(frozen=True, slots=True)
class Profile:
    """The memory of a plan.

    Attributes:
        peak_bytes: the largest of ``live_bytes``.
        live_bytes: per step, the most bytes alive while it runs.
        steps: what runs, in order.
    """

    peak_bytes: int
    live_bytes: tuple[int, ...]
    steps: tuple[Step, ...]

    def excess(self, budget_bytes: int) -> int:
        """Bytes above the budget, summed over the steps; 0 where the budget is met."""
        return sum(live - budget_bytes for live in self.live_bytes if live > budget_bytes)


@dataclass(frozen=True, slots=True)
class Body:
    """One pass of a loop: its peak, and what its results keep alive until they are copied."""

    peak_bytes: int
    result_bytes: int


class MemoryModel:
    """Answers what plans of one graph at one length need. Keeps what choices share."""

    def __init__(self, graph: SizedGraph, probe: Probe | None = None) -> None:
        self.graph = graph
        self._probe = probe
        self._loops: dict[Region, Loop] = {}
        self._bodies: dict[tuple[Region, int], Body] = {}
        self._profiles: dict[tuple[Choice, ...], Profile] = {}

    def loop(self, region: Region) -> Loop:
        """The region as a loop; raises :class:`IllegalRegion`."""
        if region not in self._loops:
            self._loops[region] = resolve(self.graph, region, self._probe)
        return self._loops[region]

    def profile(self, choices: Sequence[Choice] = ()) -> Profile:
        """The memory of a plan with these choices; those of chunk sizes that cover a whole extent
        change nothing.

        Raises:
            IllegalRegion: a region cannot run in this graph at this length.
            CyclicPlan: the choices cannot be scheduled together.
        """
        key = tuple(choices)
        if key not in self._profiles:
            self._profiles[key] = self._profile(key)
        return self._profiles[key]

    def forget(self) -> None:
        """Drop the profiles kept so far; what a search asked for once is seldom asked again."""
        self._profiles.clear()

    def active(self, choices: Sequence[Choice]) -> list[tuple[Choice, list[Loop]]]:
        """The choices that do something at this length, with their loops."""
        found = []
        for choice in choices:
            if choice.inner is not None or any(place >= 0 for place in choice.donated):
                raise PlanError("nested and donated choices are not known to this version")
            loops = [self.loop(region) for region in choice.regions]
            if choice.chunk_size < loops[0].extent:
                found.append((choice, loops))
        return found

    def body(self, loop: Loop, chunk_size: int) -> Body:
        """The memory of one pass at a chunk size."""
        key = (loop.region, chunk_size)
        if key not in self._bodies:
            self._bodies[key] = body_memory(loop, chunk_size)
        return self._bodies[key]

    def transient_bytes(self, loop: Loop, chunk_size: int) -> int:
        """The most that a loop needs beside its inputs and whole outputs; see the module."""
        outputs = sum(loop.graph.nodes[node].output.nbytes for node in loop.outputs)
        first = self.body(loop, chunk_size)
        second = self.body(loop, min(chunk_size, loop.extent - chunk_size))
        return max(first.peak_bytes - outputs, first.result_bytes, second.peak_bytes)

    @cached_property
    def _node_transient(self) -> tuple[int, ...]:
        """Workspace of each node when it runs whole."""
        graph = self.graph
        found = []
        for node in graph.nodes:
            if node.kind in LEAVES or not node.refs:
                found.append(0)
                continue
            operands = tuple(
                Operand(
                    place,
                    Layout(graph.nodes[ref].output.shape, graph.nodes[ref].output.strides),
                    graph.nodes[ref].output.dtype,
                )
                for place, (_, ref) in enumerate(node.refs)
            )
            out = node.output
            call = Call(operands, node.args, out.shape, out.dtype, out.device)
            found.append(workspace_bytes(node.op, call))
        return tuple(found)

    @cached_property
    def _node_bytes(self) -> tuple[int, ...]:
        """Bytes of the storage that each node makes; 0 for views and for what callers own."""
        return tuple(
            0 if node.kind in LEAVES or self.graph.base[node.index] != node.index
            else sum(t.nbytes for t in node.outputs)
            for node in self.graph.nodes
        )  # fmt: skip

    def _profile(self, choices: tuple[Choice, ...]) -> Profile:
        graph = self.graph
        loops: list[Loop] = []
        transients: list[int] = []
        for choice, own in self.active(choices):
            # one class is the same everywhere, so that one body speaks for all
            transient = self.transient_bytes(own[0], choice.chunk_size)
            loops.extend(own)
            transients.extend([transient] * len(own))
        steps = schedule(graph, loops)
        owner = self._owners(loops)
        last: dict[int, int] = {}
        for place, step in enumerate(steps):
            if step.node is not None:
                last[owner[step.node]] = place  # what nobody reads dies where it is made
                for _, ref in graph.nodes[step.node].refs:
                    last[owner[ref]] = place
            else:
                assert step.loop is not None
                for output in loops[step.loop].outputs:
                    last[owner[output]] = place
                for source in loops[step.loop].inputs:
                    last[owner[source.node]] = place
        for output in graph.output_nodes:
            last[owner[output]] = len(steps)
        dying: list[list[int]] = [[] for _ in range(len(steps) + 1)]
        for storage, place in last.items():
            dying[place].append(storage)
        live = 0
        size: dict[int, int] = {}
        found: list[int] = []
        for place, step in enumerate(steps):
            if step.node is not None:
                made = self._node_bytes[step.node] if owner[step.node] == step.node else 0
                if made:
                    size[step.node] = made
                live += made
                found.append(live + self._node_transient[step.node])
            else:
                assert step.loop is not None
                made = 0
                for output in loops[step.loop].outputs:
                    size[output] = graph.nodes[output].output.nbytes
                    made += size[output]
                live += made
                found.append(live + transients[step.loop])
            for storage in dying[place]:
                live -= size.pop(storage, 0)
        return Profile(max(found, default=0), tuple(found), steps)

    def _owners(self, loops: Sequence[Loop]) -> list[int]:
        base = self.graph.base
        if not loops:
            return list(base)
        # a loop's output is a storage of its own, even where the member was a view
        fresh = {output for loop in loops for output in loop.outputs}
        owner: list[int] = []
        for node in self.graph.nodes:
            if node.index in fresh or base[node.index] == node.index:
                owner.append(node.index)
            else:
                owner.append(owner[node.refs[0][1]])
        return owner


def chunk_arguments(loop: Loop, member: int, start: int, length: int) -> tuple[Argument, ...]:
    """The positional arguments of a member's op in a pass over ``[start, start + length)`` units,
    with sizes filled in and references kept."""
    node = loop.graph.nodes[loop.region.nodes[member]]
    found: Flow = loop.flows[member]
    factor = loop.factors[member]

    def fill(value: Argument) -> Argument:
        if isinstance(value, Affine):
            return value.constant + factor * (value.start * start + value.length * length)
        return value

    return tuple(
        map_arguments(value, fill) for value in (node.args if found.args is None else found.args)
    )


def output_layout(tensor: Tensor) -> Layout:
    """How a loop's output is laid out: as the captured tensor where that is dense, else
    row-major."""
    layout = Layout(tensor.shape, tensor.strides)
    return layout if is_dense(layout) else contiguous(tensor.shape)


@dataclass(frozen=True, slots=True)
class _BodyStep:
    """One member in one pass.

    Attributes:
        storage: the member that owns the output's storage; -1 where it is a view from outside.
        nbytes: what the storage takes, where the member makes it; else 0.
        transient: its kernel's workspace.
        reads: the members that it reads.
    """

    storage: int
    nbytes: int
    transient: int
    reads: tuple[int, ...]


def body_memory(loop: Loop, chunk_size: int) -> Body:
    """The memory of one pass: liveness over the members at the chunk's sizes.

    Results stay alive to the end of the pass, when they are copied into the outputs.
    """
    steps = _body_steps(loop, chunk_size)
    last: dict[int, int] = {}
    for place, (index, step) in enumerate(steps.items()):
        for ref in (index, *step.reads):
            last[steps[ref].storage] = place
    for output in loop.outputs:
        last[steps[output].storage] = len(steps)
    size = {index: step.nbytes for index, step in steps.items() if step.nbytes}
    results = sum(size.get(storage, 0) for storage, end in last.items() if end == len(steps))
    live = peak = 0
    for place, step in enumerate(steps.values()):
        live += step.nbytes
        peak = max(peak, live + step.transient)
        for storage in [s for s, end in last.items() if end == place]:
            live -= size.get(storage, 0)
            del last[storage]
    return Body(peak, results)


def _body_steps(loop: Loop, chunk_size: int) -> dict[int, _BodyStep]:
    """What each member takes in one pass, by node in order."""
    graph = loop.graph
    layouts: dict[int, Layout] = {}
    steps: dict[int, _BodyStep] = {}
    for place, index in enumerate(loop.region.nodes):
        node = graph.nodes[index]
        operands = _body_operands(loop, place, chunk_size, layouts)
        sources = tuple(
            ref for _, ref in arguments(graph, index, loop.flows[place]) if ref in layouts
        )
        shape = loop.chunk_shape(place, 0, chunk_size)
        args = chunk_arguments(loop, place, 0, chunk_size)
        op = loop.flows[place].op or node.op
        view = None
        if operands and (ALIAS in node.traits or (node.op == "getitem" and sources)):
            view = view_layout(op, operands[0].layout, args, shape)
        if view is not None:
            layouts[index] = view
            # views of outside tensors cost nothing here
            steps[index] = _BodyStep(steps[sources[0]].storage if sources else -1, 0, 0, sources)
            continue
        layouts[index] = dense_like(shape, node.output.strides)
        nbytes = sum(
            prod(loop.chunk_shape(place, k, chunk_size)) * ITEM_BYTES[t.dtype]
            for k, t in enumerate(node.outputs)
        )
        call = Call(operands, args, shape, node.output.dtype, node.output.device)
        steps[index] = _BodyStep(index, nbytes, workspace_bytes(op, call), sources)
    return steps


def _body_operands(
    loop: Loop, place: int, chunk_size: int, layouts: dict[int, Layout]
) -> tuple[Operand, ...]:
    """A member's tensor arguments in one pass: other members, slices of outside tensors, or outside
    tensors whole."""
    graph, found = loop.graph, loop.flows[place]
    slices = dict(found.slices)
    operands: list[Operand] = []
    for path, ref in arguments(graph, loop.region.nodes[place], found):
        tensor = graph.nodes[ref].output
        layout = layouts.get(ref, Layout(tensor.shape, tensor.strides))
        wanted = slices.get(path)
        if ref not in layouts and wanted is not None:
            shape = list(tensor.shape)
            shape[wanted.dim] = int(loop.factors[place] * wanted.ratio) * chunk_size
            layout = Layout(tuple(shape), tensor.strides)
        operands.append(Operand(len(operands), layout, tensor.dtype))
    return tuple(operands)


def plan_profile(graph: SizedGraph, plan: Plan, probe: Probe | None = None) -> Profile:
    """The memory of one plan, from scratch."""
    return MemoryModel(graph, probe).profile(plan.choices)
