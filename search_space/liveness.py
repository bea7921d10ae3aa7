"""The memory model: how many bytes are alive at each step of a plan.

Exact liveness over the schedule: a storage lives from the step that makes it to the last step that
reads it or a view of it; the model's outputs live to the end; inputs and weights belong to the
caller and count nothing (:mod:`search_space.storages`). At a step

    live = storages alive before + the step's outputs + its transient bytes

where the transient of a node is its kernel's workspace, and that of a loop what its body needs. A
loop's outputs are allocated when its first pass has shown their dtype, so that

    transient(loop) = max(body(first) - outputs, results(first), body(second)),

with the second pass smaller where it is the ragged last one, and outputs that are donated an
input's storage not counted among those allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod

from search_space.classes import class_key
from search_space.dim_rules import Flow, Probe
from search_space.errors import PlanError
from search_space.graph import (
    ALIAS,
    ITEM_BYTES,
    Affine,
    Argument,
    SizedGraph,
    map_arguments,
)
from search_space.layout import Layout, contiguous, dense_like, view_layout
from search_space.plan import Choice, Plan, Region
from search_space.regions import Loop, arguments, resolve
from search_space.storages import Profile, Storages
from search_space.workspace import Call, Operand, workspace_bytes


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
        self._bodies: dict[tuple[Region, int, frozenset[int]], Body] = {}
        self._profiles: dict[tuple[Choice, ...], Profile] = {}

    def loop(self, region: Region) -> Loop:
        """The region as a loop; raises :class:`IllegalRegion`."""
        if region not in self._loops:
            self._loops[region] = resolve(self.graph, region, self._probe)
        return self._loops[region]

    def know(self, loops: Iterable[Loop]) -> None:
        """Take loops found by analogy (:func:`search_space.repeats.transplant`) as resolved, for
        questions of memory; :meth:`resolved` still resolves their regions."""
        for loop in loops:
            self._loops.setdefault(loop.region, loop)

    def resolved(self, choices: Sequence[Choice]) -> list[tuple[Choice, list[Loop]]]:
        """As :meth:`active`, for running: each region resolved by itself.

        Raises:
            IllegalRegion: a region cannot run in this graph at this length.
            PlanError: the regions of a choice are not of one class, so that one body cannot serve
                them all.
        """
        found = []
        for choice, _ in self.active(choices):
            loops = [resolve(self.graph, region, self._probe) for region in choice.regions]
            odd = next((one for one in loops if class_key(one) != class_key(loops[0])), None)
            if odd is not None:
                ends = [self.graph.nodes[one.region.anchor].label for one in (loops[0], odd)]
                raise PlanError(f"the regions that end in {' and '.join(ends)} are not alike")
            found.append((choice, loops))
        return found

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
            if choice.inner is not None:
                raise PlanError("nested choices are not known to this version")
            loops = [self.loop(region) for region in choice.regions]
            if choice.chunk_size < loops[0].extent:
                found.append((choice, loops))
        return found

    def body(
        self, loop: Loop, chunk_size: int, row_major: frozenset[int] = frozenset()
    ) -> Body:
        """The memory of one pass at a chunk size.

        Args:
            row_major: inputs that do not lie as captured, see :mod:`search_space.relayout`.
        """
        key = (loop.region, chunk_size, row_major)
        if key not in self._bodies:
            self._bodies[key] = body_memory(loop, chunk_size, row_major)
        return self._bodies[key]

    def transient_bytes(
        self,
        loop: Loop,
        chunk_size: int,
        row_major: frozenset[int] = frozenset(),
        donated_bytes: int = 0,
    ) -> int:
        """The most that a loop needs beside its inputs and whole outputs; see the module.

        Args:
            row_major: inputs that do not lie as captured.
            donated_bytes: of outputs that are written into inputs, and so never allocated.
        """
        outputs = sum(loop.graph.nodes[node].output.nbytes for node in loop.outputs)
        first = self.body(loop, chunk_size, row_major)
        second = self.body(loop, min(chunk_size, loop.extent - chunk_size), row_major)
        allocated = outputs - donated_bytes
        return max(first.peak_bytes - allocated, first.result_bytes, second.peak_bytes)

    @cached_property
    def workspace_bytes(self) -> Sequence[int]:
        """Per node, what its kernel allocates beside its output when it runs whole."""
        found: list[int] = self._storages.workspace_bytes.tolist()
        return found

    @cached_property
    def _storages(self) -> Storages:
        return Storages.of(self.graph)

    def _profile(self, choices: tuple[Choice, ...]) -> Profile:
        active = self.active(choices)
        loops = [loop for _, own in active for loop in own]
        relaid = frozenset(node for loop in loops for node in loop.relaid)
        transients: list[Callable[[int], int]] = []
        for choice, own in active:
            # one class is the same everywhere, so that one body speaks for all
            first = own[0]
            for loop in own:
                row_major = frozenset(
                    entry.node
                    for entry, source in zip(first.inputs, loop.inputs, strict=True)
                    if source.node in relaid
                )
                transients.append(
                    partial(self.transient_bytes, first, choice.chunk_size, row_major)
                )
        return self._storages.profile(loops, transients, relaid)


def chunk_arguments(loop: Loop, member: int, start: int, length: int) -> tuple[Argument, ...]:
    """The positional arguments of a member's op in a pass over ``[start, start + length)`` units,
    with sizes filled in and references kept."""
    node = loop.graph.nodes[loop.region.nodes[member]]
    found: Flow = loop.flows[member]
    factor = loop.factors[member]

    def fill(value: Argument) -> Argument:
        if isinstance(value, Affine):
            return value.value(factor * start, factor * length)
        return value

    return tuple(
        map_arguments(value, fill) for value in (node.args if found.args is None else found.args)
    )


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


def body_memory(loop: Loop, chunk_size: int, row_major: frozenset[int] = frozenset()) -> Body:
    """The memory of one pass: liveness over the members at the chunk's sizes.

    Results stay alive to the end of the pass, when they are copied into the outputs.
    """
    steps = _body_steps(loop, chunk_size, row_major)
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


def _body_steps(
    loop: Loop, chunk_size: int, row_major: frozenset[int]
) -> dict[int, _BodyStep]:
    """What each member takes in one pass, by node in order."""
    graph = loop.graph
    layouts: dict[int, Layout] = {}
    steps: dict[int, _BodyStep] = {}
    for place, index in enumerate(loop.region.nodes):
        node = graph.nodes[index]
        operands = _body_operands(loop, place, chunk_size, layouts, row_major)
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
        kwargs = loop.flows[place].kwargs
        call = Call(
            operands, args, shape, node.output.dtype, node.output.device,
            node.kwargs if kwargs is None else kwargs,
        )  # fmt: skip
        steps[index] = _BodyStep(index, nbytes, workspace_bytes(op, call), sources)
    return steps


def _body_operands(
    loop: Loop,
    place: int,
    chunk_size: int,
    layouts: Mapping[int, Layout],
    row_major: frozenset[int],
) -> tuple[Operand, ...]:
    """A member's tensor arguments in one pass: other members, slices of outside tensors, or outside
    tensors whole."""
    graph, found = loop.graph, loop.flows[place]
    slices = dict(found.slices)
    operands: list[Operand] = []
    for path, ref in arguments(graph, loop.region.nodes[place], found):
        tensor = graph.nodes[ref].output
        whole = Layout(tensor.shape, tensor.strides)
        if ref in row_major:
            whole = contiguous(tensor.shape)
        layout = layouts.get(ref, whole)
        wanted = slices.get(path)
        if ref not in layouts and wanted is not None:
            shape = list(tensor.shape)
            shape[wanted.dim] = int(loop.factors[place] * wanted.ratio) * chunk_size
            layout = Layout(tuple(shape), whole.strides)
        operands.append(Operand(len(operands), layout, tensor.dtype))
    return tuple(operands)


def plan_profile(graph: SizedGraph, plan: Plan, probe: Probe | None = None) -> Profile:
    """The memory of one plan, from scratch."""
    return MemoryModel(graph, probe).profile(plan.choices)
