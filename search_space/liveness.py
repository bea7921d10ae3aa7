"""The memory model: how many bytes are alive at each step of a plan.

Exact liveness over the schedule: a storage lives from the step that makes it to the last step that
reads it or a view of it; the model's outputs live to the end; inputs and weights belong to the
caller and count nothing (:mod:`search_space.storages`). At a step

    live = storages alive before + the step's outputs + its transient bytes

where the transient of a node is its kernel's workspace, and that of a loop what its body needs. A
loop's outputs are allocated when its first pass has shown their dtype, so that

    transient(loop) = max(body(first) - outputs, results(first), body(second)),

with the second pass smaller where it is the ragged last one, and outputs that are donated an
input's storage not counted among those allocated. Where loops stand inside a loop, its body is a
graph like any other, with a memory model of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from search_space.body import Body, body_graph, body_memory
from search_space.classes import class_key
from search_space.dim_rules import Probe
from search_space.errors import PlanError
from search_space.graph import Ref, SizedGraph
from search_space.plan import Choice, Plan, Region
from search_space.regions import Loop, resolve
from search_space.storages import Arrangement, Profile, Storages


@dataclass(frozen=True)
class Part:
    """A choice as it runs.

    Attributes:
        choice: what was chosen.
        loops: its occurrences.
        bodies: where loops stand inside it, its body as a program, by the length of a pass (the
            ragged last one has its own); else empty.
    """

    choice: Choice
    loops: tuple[Loop, ...]
    bodies: Mapping[int, Program]


@dataclass(frozen=True)
class Program:
    """A graph with loops, resolved and ready to be generated.

    Attributes:
        graph: at one length.
        parts: the choices that do something at this length.
        donations: per loop, in the parts' order, the outputs that take an input's storage.
    """

    graph: SizedGraph
    parts: tuple[Part, ...] = ()
    donations: tuple[Mapping[int, int], ...] = ()


Kinds = Mapping[tuple[frozenset[int], int], list[int]]
"""The loops of one choice, by which inputs do not lie as captured and the bytes that they donate:
those of one kind need the same inside."""

_MOST_ARRANGED = 4


@dataclass(frozen=True)
class _Arranged:
    """Regions put into the graph: all loops, and the kinds of each choice's."""

    whole: Arrangement
    kinds: tuple[Kinds, ...]


class MemoryModel:
    """Answers what plans of one graph at one length need. Keeps what choices share."""

    def __init__(self, graph: SizedGraph, probe: Probe | None = None) -> None:
        self.graph = graph
        self._probe = probe
        self._loops: dict[Region, Loop] = {}
        self._bodies: dict[tuple[Region, int, frozenset[int], tuple[Choice, ...]], Body] = {}
        self._inside: dict[tuple[Region, int, frozenset[int]], MemoryModel] = {}
        self._profiles: dict[tuple[Choice, ...], Profile] = {}
        self._arranged: dict[tuple[tuple[Region, ...], ...], _Arranged] = {}

    def loop(self, region: Region) -> Loop:
        """The region as a loop; raises :class:`IllegalRegion`."""
        if region not in self._loops:
            self._loops[region] = resolve(self.graph, region, self._probe)
        return self._loops[region]

    def know(self, loops: Iterable[Loop]) -> None:
        """Take loops found by analogy (:func:`search_space.repeats.transplant`) as resolved, for
        questions of memory; :meth:`program` still resolves their regions."""
        for loop in loops:
            self._loops.setdefault(loop.region, loop)

    def program(self, choices: Sequence[Choice]) -> Program:
        """What runs: each region resolved by itself, and what the memory model decided.

        Raises:
            IllegalRegion: a region cannot run in this graph at this length.
            PlanError: the regions of a choice are not of one class, so that one body cannot serve
                them all.
        """
        active = self.active(choices)
        relaid = self._relaid(active)
        parts = []
        for choice, known in active:
            loops = tuple(resolve(self.graph, region, self._probe) for region in choice.regions)
            odd = next((one for one in loops if class_key(one) != class_key(loops[0])), None)
            if odd is not None:
                ends = [self.graph.nodes[one.region.anchor].label for one in (loops[0], odd)]
                raise PlanError(f"the regions that end in {' and '.join(ends)} are not alike")
            first = known[0]
            lengths = pass_lengths(first, choice.chunk_size) if choice.inner else ()
            bodies = {
                length: self.inside(first, length, _row_major(first, first, relaid)).program(
                    inner_choices(first, choice)
                )
                for length in lengths
            }
            parts.append(Part(choice, loops, bodies))
        return Program(self.graph, tuple(parts), self.profile(choices).donations)

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
        self._arranged.clear()
        self._inside.clear()
        self.graph.flows.clear()

    def active(self, choices: Sequence[Choice]) -> list[tuple[Choice, list[Loop]]]:
        """The choices that do something at this length, with their loops."""
        found = []
        for choice in choices:
            loops = [self.loop(region) for region in choice.regions]
            if choice.chunk_size < loops[0].extent:
                found.append((choice, loops))
        return found

    def inside(
        self, loop: Loop, length: int, row_major: frozenset[int] = frozenset()
    ) -> MemoryModel:
        """The memory model of one pass of a loop over ``length`` units."""
        key = (loop.region, length, row_major)
        if key not in self._inside:
            graph = body_graph(loop, length, row_major)
            self._inside[key] = MemoryModel(graph, self._probe)
        return self._inside[key]

    def body(
        self,
        loop: Loop,
        chunk_size: int,
        row_major: frozenset[int] = frozenset(),
        inner: tuple[Choice, ...] = (),
    ) -> Body:
        """The memory of one pass at a chunk size.

        Args:
            row_major: inputs that do not lie as captured, see :mod:`search_space.relayout`.
            inner: choices inside the body, as they stand in the body's graph.
        """
        key = (loop.region, chunk_size, row_major, inner)
        if key not in self._bodies:
            self._bodies[key] = (
                self.inside(loop, chunk_size, row_major).as_body(inner)
                if inner
                else body_memory(loop, chunk_size, row_major)
            )
        return self._bodies[key]

    def as_body(self, choices: tuple[Choice, ...]) -> Body:
        """The memory of this graph where it is a loop's body, with loops of its own."""
        outputs = {value.index for value in self.graph.outputs if isinstance(value, Ref)}
        results = {self.graph.base[node] for node in outputs} - self._leaves
        return Body(
            self.profile(choices).peak_bytes,
            sum(t.nbytes for node in results for t in self.graph.nodes[node].outputs),
        )

    def transient_bytes(
        self,
        loop: Loop,
        chunk_size: int,
        row_major: frozenset[int] = frozenset(),
        donated_bytes: int = 0,
        inner: tuple[Choice, ...] = (),
    ) -> int:
        """The most that a loop needs beside its inputs and whole outputs; see the module.

        Args:
            row_major: inputs that do not lie as captured.
            donated_bytes: of outputs that are written into inputs, and so never allocated.
            inner: choices inside the body, as they stand in the body's graph.
        """
        outputs = sum(loop.graph.nodes[node].output.nbytes for node in loop.outputs)
        first = self.body(loop, chunk_size, row_major, inner)
        rest = min(chunk_size, loop.extent - chunk_size)
        second = self.body(loop, rest, row_major, inner)
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

    @cached_property
    def _leaves(self) -> frozenset[int]:
        return frozenset(node for node, leaf in enumerate(self.graph.is_leaf) if leaf)

    def _relaid(self, active: Iterable[tuple[Choice, Iterable[Loop]]]) -> frozenset[int]:
        return frozenset(node for _, own in active for loop in own for node in loop.relaid)

    def _profile(self, choices: tuple[Choice, ...]) -> Profile:
        active = self.active(choices)
        arranged = self._arrange(active)
        transient = np.zeros(len(arranged.whole.places), np.int64)
        for (choice, own), kinds in zip(active, arranged.kinds, strict=True):
            # one class is the same everywhere, so that one body speaks for all
            inner = inner_choices(own[0], choice)
            for (row_major, donated), places in kinds.items():
                transient[places] = self.transient_bytes(
                    own[0], choice.chunk_size, row_major, donated, inner
                )
        return arranged.whole.profile(transient)

    def _arrange(self, active: Sequence[tuple[Choice, Sequence[Loop]]]) -> _Arranged:
        """The loops in the graph; the last few are kept, since a search tries one set of regions in
        many chunk sizes."""
        key = tuple(choice.regions for choice, _ in active)
        found = self._arranged.pop(key, None)
        if found is None:
            relaid = self._relaid(active)
            whole = self._storages.arrange([loop for _, own in active for loop in own], relaid)
            found = _Arranged(whole, tuple(_kinds(active, relaid, whole.donated_bytes)))
        self._arranged[key] = found
        if len(self._arranged) > _MOST_ARRANGED:
            del self._arranged[next(iter(self._arranged))]
        return found


def _kinds(
    active: Sequence[tuple[Choice, Sequence[Loop]]],
    relaid: frozenset[int],
    donated_bytes: Sequence[int],
) -> Iterator[Kinds]:
    place = 0
    for _, own in active:
        kinds: dict[tuple[frozenset[int], int], list[int]] = {}
        for loop in own:
            kind = _row_major(own[0], loop, relaid), donated_bytes[place]
            kinds.setdefault(kind, []).append(place)
            place += 1
        yield kinds


def inner_choices(loop: Loop, choice: Choice) -> tuple[Choice, ...]:
    """The choices inside a choice, as they stand in the graph of its body."""
    by = len(loop.inputs)
    return tuple(
        replace(one, regions=tuple(region.renumbered(by) for region in one.regions))
        for one in choice.inner
    )


def pass_lengths(loop: Loop, chunk_size: int) -> tuple[int, ...]:
    """The lengths that passes have: full ones, and the ragged last one where there is one."""
    rest = loop.extent % chunk_size
    return (chunk_size, rest) if rest else (chunk_size,)


def _row_major(first: Loop, loop: Loop, relaid: frozenset[int]) -> frozenset[int]:
    """The inputs of an occurrence that do not lie as captured, as the class's first names them."""
    return frozenset(
        entry.node
        for entry, source in zip(first.inputs, loop.inputs, strict=True)
        if source.node in relaid
    )


def plan_profile(graph: SizedGraph, plan: Plan, probe: Probe | None = None) -> Profile:
    """The memory of one plan, from scratch."""
    return MemoryModel(graph, probe).profile(plan.choices)
