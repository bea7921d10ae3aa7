"""One pass of a loop: its members at a chunk's sizes, what they need, and as a graph of its own.

As a graph (:func:`body_graph`), a body can be analysed like any other, so that loops may stand
inside loops: over the heads, say, and for each head over the queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from search_space.graph import (
    ALIAS,
    INPUT,
    ITEM_BYTES,
    LEAVES,
    OPAQUE,
    PARAMETER,
    POINTWISE,
    Affine,
    Argument,
    Path,
    Ref,
    SizedGraph,
    SizedNode,
    Tensor,
    map_arguments,
    walk_arguments,
)
from search_space.layout import Layout, contiguous, dense_like, view_layout
from search_space.regions import Loop, arguments
from search_space.workspace import Call, Operand, workspace_bytes


@dataclass(frozen=True, slots=True)
class Body:
    """One pass of a loop: its peak, and what its results keep alive until they are copied."""

    peak_bytes: int
    result_bytes: int


@dataclass(frozen=True, slots=True)
class _Member:
    """One member in one pass.

    Attributes:
        op, args, kwargs: the call, with sizes filled in and references to the whole graph's nodes.
        layout: of its (first) output.
        is_view: whether that is a view of its first argument.
        operands: its tensor arguments.
        sources: the members among them.
    """

    op: str
    args: tuple[Argument, ...]
    kwargs: tuple[tuple[str, Argument], ...]
    layout: Layout
    is_view: bool
    operands: tuple[Operand, ...]
    sources: tuple[int, ...]


def chunk_arguments(loop: Loop, member: int, start: int, length: int) -> tuple[Argument, ...]:
    """The positional arguments of a member's op in a pass over ``[start, start + length)`` units,
    with sizes filled in and references kept."""
    found = loop.flows[member].args
    if found is None:  # the node's own, in which no size depends on the chunk
        return loop.graph.nodes[loop.region.nodes[member]].args
    return _filled(loop, member, found, start, length)


def _filled(
    loop: Loop, member: int, values: tuple[Argument, ...], start: int, length: int
) -> tuple[Argument, ...]:
    factor = loop.factors[member]

    def fill(value: Argument) -> Argument:
        if isinstance(value, Affine):
            return value.value(factor * start, factor * length)
        return value

    return tuple(map_arguments(value, fill) for value in values)


def body_memory(loop: Loop, chunk_size: int, row_major: frozenset[int] = frozenset()) -> Body:
    """The memory of one pass: liveness over the members at the chunk's sizes.

    Results stay alive to the end of the pass, when they are copied into the outputs.

    Args:
        row_major: inputs that do not lie as captured, see :mod:`search_space.relayout`.
    """
    graph = loop.graph
    members = _members(loop, chunk_size, row_major)
    owner: dict[int, int] = {}
    size: dict[int, int] = {}
    last: dict[int, int] = {}
    for place, (index, member) in enumerate(members.items()):
        if member.is_view:
            owner[index] = owner[member.sources[0]] if member.sources else _OUTSIDE
        else:
            owner[index] = index
            size[index] = sum(
                prod(loop.chunk_shape(place, k, chunk_size)) * ITEM_BYTES[t.dtype]
                for k, t in enumerate(graph.nodes[index].outputs)
            )
        for ref in (index, *member.sources):
            last[owner[ref]] = place
    workspaces = [_workspace(graph.nodes[index], member) for index, member in members.items()]
    return _peak(loop, owner, size, last, workspaces)


def whole_memory(loop: Loop, workspace_bytes: Sequence[int]) -> Body:
    """The memory of the members run whole, each as it stands in the graph.

    Args:
        workspace_bytes: per node of the graph, what its kernel allocates beside its output.
    """
    graph = loop.graph
    members = set(loop.region.nodes)
    owner: dict[int, int] = {}
    size: dict[int, int] = {}
    last: dict[int, int] = {}
    for place, index in enumerate(loop.region.nodes):
        storage = graph.base[index]
        owner[index] = storage if storage in members else _OUTSIDE
        if storage == index:
            size[index] = sum(t.nbytes for t in graph.nodes[index].outputs)
        last[owner[index]] = place
        for _, ref in arguments(graph, index, loop.flows[place]):
            if ref in members:
                last[owner[ref]] = place
    workspaces = [workspace_bytes[index] for index in loop.region.nodes]
    return _peak(loop, owner, size, last, workspaces)


_OUTSIDE = -1
"""Owns what a member only views and no member made."""


def _peak(
    loop: Loop,
    owner: Mapping[int, int],
    size: Mapping[int, int],
    last: dict[int, int],
    workspaces: Sequence[int],
) -> Body:
    """Liveness over members in order.

    Args:
        owner: by node, the member that owns its storage.
        size: bytes of each storage.
        last: the place of each storage's last use inside.
        workspaces: by place.
    """
    for output in loop.outputs:
        last[owner[output]] = len(workspaces)
    ends: list[list[int]] = [[] for _ in range(len(workspaces) + 1)]
    for storage, place in last.items():
        ends[place].append(storage)
    live = peak = 0
    for index, workspace, ended in zip(loop.region.nodes, workspaces, ends, strict=False):
        live += size.get(index, 0)
        peak = max(peak, live + workspace)
        live -= sum(size.get(storage, 0) for storage in ended)
    return Body(peak, sum(size.get(storage, 0) for storage in ends[-1]))


def body_graph(loop: Loop, chunk_size: int, row_major: frozenset[int] = frozenset()) -> SizedGraph:
    """One pass as a graph: ``loop.inputs`` as its leaves, then the members in order, so that member
    ``k`` of the region is node ``len(loop.inputs) + k``.

    Members whose arguments depend on where the pass starts are opaque there: no region of the body
    may hold them, since one graph speaks for all passes of this size.
    """
    nodes = [
        _entry(loop.graph.nodes[source.node], place,
               _entry_layout(loop, place, chunk_size, row_major))
        for place, source in enumerate(loop.inputs)
    ]  # fmt: skip
    first = len(nodes)
    numbers = _Numbers(loop)
    for place, (index, member) in enumerate(_members(loop, chunk_size, row_major).items()):
        args = tuple(numbers.of(value, place, (k,)) for k, value in enumerate(member.args))
        kwargs = tuple((name, numbers.of(value, place, (name,))) for name, value in member.kwargs)
        refs = tuple(
            (path, value.index)
            for path, value in walk_arguments(args, kwargs)
            if isinstance(value, Ref)
        )
        own = loop.graph.nodes[index]
        traits = own.traits if member.is_view else own.traits - {ALIAS}
        if _depends_on_start(loop, place):
            traits = traits | {OPAQUE}
        nodes.append(SizedNode(
            first + place, own.label, own.kind, member.op, args, kwargs,
            _outputs(loop, place, chunk_size, member), own.several, traits, own.module, refs,
        ))  # fmt: skip
    return SizedGraph(tuple(nodes), tuple(Ref(numbers.places[node]) for node in loop.outputs), ())


def _outputs(loop: Loop, place: int, chunk_size: int, member: _Member) -> tuple[Tensor, ...]:
    found = []
    for k, tensor in enumerate(loop.graph.nodes[loop.region.nodes[place]].outputs):
        shape = loop.chunk_shape(place, k, chunk_size)
        layout = dense_like(shape, tensor.strides) if k else member.layout
        found.append(Tensor(shape, layout.strides, tensor.dtype, tensor.device))
    return tuple(found)


class _Numbers:
    """Where a loop's inputs and members stand in the graph of its body."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._entries = {
            (source.node, source.dim, source.factor): place
            for place, source in enumerate(loop.inputs)
        }
        self.places = {
            node: len(self._entries) + place for place, node in enumerate(loop.region.nodes)
        }

    def of(self, value: Argument, place: int, path: Path) -> Argument:
        """An argument of the member at ``place``, with references renumbered."""
        if isinstance(value, tuple):
            return tuple(self.of(item, place, (*path, k)) for k, item in enumerate(value))
        if not isinstance(value, Ref):
            return value
        if value.index in self.places:
            return Ref(self.places[value.index])
        return Ref(self._entries[entry_key(self._loop, place, path, value.index)])


def entry_key(loop: Loop, place: int, path: Path, node: int) -> tuple[int, int | None, int]:
    """Which of ``loop.inputs`` a member reads at ``path``, as node, dimension and factor."""
    wanted = dict(loop.flows[place].slices).get(path)
    if wanted is None:
        return node, None, 0
    return node, wanted.dim, int(loop.factors[place] * wanted.ratio)


def _entry(source: SizedNode, place: int, layout: Layout) -> SizedNode:
    kind = source.kind if source.kind in LEAVES else INPUT
    tensor = source.output
    made = Tensor(layout.shape, layout.strides, tensor.dtype, tensor.device)
    return SizedNode(
        place, source.label, kind, source.op, (), (), (made,), False, frozenset(), "", ()
    )


def _entry_layout(
    loop: Loop, place: int, chunk_size: int, row_major: frozenset[int]
) -> Layout:
    """How a loop's input lies in one pass."""
    source = loop.inputs[place]
    tensor = loop.graph.nodes[source.node].output
    whole = Layout(tensor.shape, tensor.strides)
    if source.node in row_major:
        whole = contiguous(tensor.shape)
    if source.dim is None:
        return whole
    shape = list(tensor.shape)
    shape[source.dim] = source.factor * chunk_size
    return Layout(tuple(shape), whole.strides)


def _depends_on_start(loop: Loop, place: int) -> bool:
    found = loop.flows[place]
    return any(
        isinstance(value, Affine) and value.start
        for _, value in walk_arguments(found.args or (), found.kwargs or ())
    )


def _members(loop: Loop, chunk_size: int, row_major: frozenset[int]) -> dict[int, _Member]:
    """The members in one pass, by node in order."""
    graph = loop.graph
    entries = {
        (source.node, source.dim, source.factor): place for place, source in enumerate(loop.inputs)
    }
    laid: dict[int, _Member] = {}
    for place, index in enumerate(loop.region.nodes):
        node, found = graph.nodes[index], loop.flows[place]
        refs = arguments(graph, index, found)
        operands = tuple(
            Operand(
                k,
                laid[ref].layout if ref in laid else _entry_layout(
                    loop, entries[entry_key(loop, place, path, ref)], chunk_size, row_major
                ),
                graph.nodes[ref].output.dtype,
                graph.nodes[ref].kind == PARAMETER and path not in dict(found.slices),
            )
            for k, (path, ref) in enumerate(refs)
        )  # fmt: skip
        sources = tuple(ref for _, ref in refs if ref in laid)
        shape = loop.chunk_shape(place, 0, chunk_size)
        args = chunk_arguments(loop, place, 0, chunk_size)
        kwargs = node.kwargs
        if found.kwargs is not None:
            names = tuple(name for name, _ in found.kwargs)
            values = tuple(value for _, value in found.kwargs)
            kwargs = tuple(
                zip(names, _filled(loop, place, values, 0, chunk_size), strict=True)
            )
        op = found.op or node.op
        view = None
        if operands and (ALIAS in node.traits or (node.op == "getitem" and sources)):
            view = view_layout(op, operands[0].layout, args, shape)
        laid[index] = _Member(
            op, args, kwargs,
            dense_like(shape, node.output.strides) if view is None else view,
            view is not None, operands, sources,
        )  # fmt: skip
    return laid


def _workspace(node: SizedNode, member: _Member) -> int:
    """What a member's kernel allocates beside its output."""
    if member.is_view:
        return 0
    call = Call(
        member.operands, member.args, member.layout.shape, node.output.dtype, node.output.device,
        member.kwargs,
    )  # fmt: skip
    return workspace_bytes(member.op, call, elementwise=POINTWISE in node.traits)
