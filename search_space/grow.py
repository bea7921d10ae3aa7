"""Grow legal regions backward from a seed.

From a seed (a node and one of its dimensions) the dimension rules say which slices of which
arguments are wanted. Nodes are visited from the seed back; a node joins where it is wanted at one
dimension and one rate, its rule allows it, and the region stays convex. A node that is wanted
whole, or in two ways, stays outside and thereby keeps its ancestors outside.

Every prefix of the growth is convex too, so that one growth gives a family of regions; those kept
end where little is alive, since what enters and leaves a loop exists whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from search_space.dim_rules import Probe, flow
from search_space.graph import ALIAS, LEAVES, POINTWISE, SizedGraph
from search_space.plan import Region
from search_space.regions import arguments

_CHEAP = frozenset({
    "aten.expand", "aten.arange", "aten.full", "aten.ones", "aten.zeros", "aten.empty",
    "aten.index", "aten.where", "aten.__and__", "aten.__or__", "aten.embedding",
    "aten.layer_norm", "aten.rms_norm", "aten.mean",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Growth:
    """A seed's largest region, from which prefixes are cut.

    Attributes:
        nodes, dims: in order of joining, so descending.
        recomputed: members whose originals stay outside.
        standing_bytes: after each join, bytes of intermediates that enter or leave the region.
        hidden_bytes: after each join, the largest storage or workspace that would exist in slices
            alone.
        part_of: for a part of an op with several outputs, that op; else None.
    """

    nodes: tuple[int, ...]
    dims: tuple[int, ...]
    recomputed: frozenset[int]
    standing_bytes: tuple[int, ...]
    hidden_bytes: tuple[int, ...]
    part_of: tuple[int | None, ...]

    def prefix(self, count: int) -> Region:
        """The region of the first ``count`` joins.

        Parts of an op that is not in the prefix stay outside with it.
        """
        inside = set(self.nodes[:count])
        pairs = sorted(
            (node, dim)
            for node, dim, whole in zip(
                self.nodes[:count], self.dims[:count], self.part_of[:count], strict=True
            )
            if whole is None or whole in inside
        )
        nodes = tuple(node for node, _ in pairs)
        return Region(
            nodes,
            tuple(dim for _, dim in pairs),
            tuple(node for node in nodes if node in self.recomputed),
        )


def regenerable(graph: SizedGraph, ratio: int) -> frozenset[int]:
    """Nodes that cheap ops can make again from tensors ``ratio`` times smaller.

    With a ratio of 4, masks; with 1, also norms and gates of one tensor.
    """
    roots: list[int] = []
    found: set[int] = set()
    for node in graph.nodes:
        own = node.output.nbytes
        if node.kind in LEAVES or not _is_cheap(node.op, node.traits):
            roots.append(own)
            continue
        total = sum(roots[ref] for ref in dict.fromkeys(r for _, r in node.refs))
        if total * ratio <= own:
            found.add(node.index)
        roots.append(min(own, total))
    return frozenset(found)


def _is_cheap(op: str, traits: frozenset[str]) -> bool:
    return bool({POINTWISE, ALIAS} & traits) or op.rpartition(".")[0] in _CHEAP


def grow(
    graph: SizedGraph,
    seed: int,
    dim: int,
    *,
    again: frozenset[int] = frozenset(),
    span: int = 400,
    probe: Probe | None = None,
    workspace_bytes: Sequence[int] | None = None,
) -> Growth | None:
    """Grow from ``seed``'s output sliced at ``dim``; None where the seed itself cannot be sliced.

    Args:
        again: nodes that may be computed again inside (see :func:`regenerable`).
        span: how many places before the seed are looked at.
        workspace_bytes: per node, what its kernel allocates beside its output.
    """
    grower = _Grower(graph, seed, dim, again, probe, workspace_bytes)
    first = max(0, seed - span)
    for index in range(seed, first - 1, -1):
        if graph.nodes[index].kind in LEAVES or not grower.pending(index):
            break
        grower.visit(index)
    if not grower.nodes:
        return None
    return Growth(
        tuple(grower.nodes),
        tuple(grower.dims),
        frozenset(grower.recomputed),
        tuple(grower.standing),
        tuple(grower.hidden),
        tuple(
            graph.nodes[node].refs[0][1] if graph.nodes[node].op == "getitem" else None
            for node in grower.nodes
        ),
    )


_CONFLICT = (-1, Fraction(0))


class _Grower:
    """The state of one growth, visited from the seed back."""

    def __init__(
        self,
        graph: SizedGraph,
        seed: int,
        dim: int,
        again: frozenset[int],
        probe: Probe | None,
        workspace_bytes: Sequence[int] | None,
    ) -> None:
        self.graph = graph
        self.again = again - {seed}
        self.probe = probe
        self.workspace_bytes = workspace_bytes
        self.wanted: dict[int, tuple[int, Fraction]] = {seed: (dim, Fraction(1))}
        self.lowest_wanted = seed
        self.seed_size = graph.nodes[seed].output.shape[dim]
        self.members: set[int] = set()
        self.recomputed: set[int] = set()
        self.leads_back: set[int] = set()  # outside nodes with a path into the region
        self.nodes: list[int] = []
        self.dims: list[int] = []
        self.standing: list[int] = []
        self.hidden: list[int] = []
        self._edges: dict[int, int] = {}  # storage -> edges that bring it in
        self._standing = 0
        self._hidden = 0

    def pending(self, index: int) -> bool:
        """Whether some node at or before ``index`` may still join."""
        return any(node <= index for node in self.wanted)

    def visit(self, index: int) -> None:
        users = self.graph.users[index]
        blocked = any(u in self.leads_back and u not in self.members for u in users) or any(
            u in self.recomputed and u in self.leads_back for u in users
        )
        want = self.wanted.pop(index, None)
        joined = False
        # what is cheap to make again is never owned while others use it, so that all layers that
        # share a mask have regions of one form
        again = index in self.again and (
            blocked or any(u not in self.members or u in self.recomputed for u in users)
        )
        if want is not None and want != _CONFLICT and (not blocked or again):
            joined = self._join(index, *want, recompute=again)
        if blocked or (not joined and any(u in self.members for u in users)):
            self.leads_back.add(index)  # (as an original outside, where it is recomputed)

    def _join(self, index: int, dim: int, scale: Fraction, *, recompute: bool) -> bool:
        graph = self.graph
        node = graph.nodes[index]
        size = self.seed_size * scale
        if any(dim >= len(t.shape) or t.shape[dim] != size for t in node.outputs):
            return False
        found = flow(graph, index, dim, self.probe)
        if found is None:
            return False
        slices = dict(found.slices)
        refs = arguments(graph, index, found)
        self.members.add(index)
        self.nodes.append(index)
        self.dims.append(dim)
        if recompute:
            self.recomputed.add(index)
        for path, ref in refs:
            wanted = slices.get(path)
            if graph.nodes[ref].kind in LEAVES:
                continue
            want = _CONFLICT if wanted is None else (wanted.dim, scale * wanted.ratio)
            if self.wanted.setdefault(ref, want) != want:
                self.wanted[ref] = _CONFLICT
        self._account(index, [ref for _, ref in refs], recompute)
        return True

    def _account(self, index: int, refs: Sequence[int], recompute: bool) -> None:
        graph = self.graph
        base = graph.base
        own = base[index]
        uses = sum(1 for u in graph.users[index] if u in self.members)
        if own in self._edges:
            self._edges[own] -= uses
            if self._edges[own] <= 0:
                del self._edges[own]
                self._standing -= self._bytes(own)
        for ref in dict.fromkeys(refs):
            storage = base[ref]
            if graph.nodes[storage].kind in LEAVES:
                continue
            if storage not in self._edges:
                self._standing += self._bytes(storage)
            self._edges[storage] = self._edges.get(storage, 0) + 1
        outside = index in graph.output_nodes or any(
            u not in self.members for u in graph.users[index]
        )
        size = graph.nodes[index].output.nbytes
        if outside and not recompute:
            self._standing += size
        elif own == index:
            self._hidden = max(self._hidden, size)
        if self.workspace_bytes is not None:
            self._hidden = max(self._hidden, int(self.workspace_bytes[index]))
        self.standing.append(self._standing)
        self.hidden.append(self._hidden)

    def _bytes(self, storage: int) -> int:
        return sum(t.nbytes for t in self.graph.nodes[storage].outputs)
