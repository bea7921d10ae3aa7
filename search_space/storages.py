"""Who is alive when: exact liveness of a graph's storages under a set of loops.

All nodes are handled at once as arrays, so that another choice in a graph of thousands of nodes is
judged in about a millisecond. A storage is named by the node that makes it.

**Donation.** Where a loop's input dies in it, an output of the same form is written into the
input's storage, slice by slice: ``x + mlp(norm(x))`` then needs one buffer, not two. That is right
only where nobody sees the difference:

1. the storage is an intermediate, made by an op that certainly gives a new one, or by a loop; never
   the caller's, a weight's, or an output's;
2. all its readers, through whatever views, have run before the loop, and none of them may have
   kept an alias that the graph does not show;
3. the loop reads it as one slice alone: never whole, never at another dimension, through no other
   view. The slice is read in the same pass that later writes it, and by no other;
4. the input covers its storage, and the output has its shape, strides, dtype and slicing;
5. no output of the loop is itself a view of an input.

It is decided here, for each plan, and not searched: it costs no time and never takes more memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search_space.graph import ALIAS, FRESH, SizedGraph
from search_space.regions import Loop
from search_space.relayout import node_workspace_bytes
from search_space.schedule import Order, Places, Step, order


@dataclass(frozen=True)
class Profile:
    """The memory of a plan.

    Attributes:
        live_bytes: per step, in running order, the most bytes alive while it runs.
        order: when the steps run.
        donations: per loop, the outputs that are written into an input's storage, and that input.
    """

    live_bytes: NDArray[np.int64]
    order: Order
    donations: tuple[Mapping[int, int], ...] = ()

    @cached_property
    def peak_bytes(self) -> int:
        """The largest of ``live_bytes``."""
        return int(self.live_bytes.max(initial=0))

    @property
    def steps(self) -> tuple[Step, ...]:
        """What runs, in order."""
        return self.order.steps

    def excess(self, budget_bytes: int) -> int:
        """Bytes above the budget, summed over the steps; 0 where the budget is met."""
        return int(np.maximum(self.live_bytes - budget_bytes, 0).sum())

    def above(self, budget_bytes: int) -> NDArray[np.bool_]:
        """For each node of the graph, whether more than the budget is alive while it runs, alone or
        in a loop."""
        count = len(self.order.inside)
        units = self.order.running[self.live_bytes > budget_bytes]
        found = np.isin(self.order.inside, units[units >= count] - count)
        found[units[units < count]] = True
        return found


@dataclass(frozen=True)
class Arrangement:
    """Loops put into a graph, whatever their chunk sizes.

    Attributes:
        order: when the steps run.
        live_bytes: per step, what is alive beside what loops need inside.
        places: per loop, its step.
        donations: per loop, the outputs that are written into an input's storage, and that input.
        donated_bytes: per loop, of those outputs.
    """

    order: Order
    live_bytes: NDArray[np.int64]
    places: Places
    donations: tuple[Mapping[int, int], ...]
    donated_bytes: tuple[int, ...]

    def profile(self, transient_bytes: NDArray[np.int64]) -> Profile:
        """The memory, given what each loop needs beside its inputs and whole outputs."""
        live = self.live_bytes.copy()
        live[self.places] += transient_bytes
        return Profile(live, self.order, self.donations)


@dataclass(frozen=True)
class Storages:
    """What the storages of one graph need, loops or none; see :meth:`arrange`.

    Attributes:
        graph: the graph.
        workspace_bytes: per node, what its kernel allocates beside its output.
        made_bytes: per node, bytes of the storage that it makes; 0 for views and leaves.
        owner: per node, the node that made its storage.
        reads: two rows, a column for each tensor argument: the node read, and its reader.
    """

    graph: SizedGraph
    workspace_bytes: Places
    made_bytes: Places
    owner: Places
    reads: Places

    @staticmethod
    def of(graph: SizedGraph) -> Storages:
        owner = np.array(graph.base, np.int64)
        made = [
            0 if leaf or base != node.index else sum(t.nbytes for t in node.outputs)
            for node, leaf, base in zip(graph.nodes, graph.is_leaf, graph.base, strict=True)
        ]
        pairs = [(ref, node.index) for node in graph.nodes for _, ref in node.refs]
        reads = np.array(pairs, np.int64).reshape(-1, 2).T
        workspace = [node_workspace_bytes(graph, node.index) for node in graph.nodes]
        return Storages(
            graph, np.array(workspace, np.int64), np.array(made, np.int64), owner, reads
        )

    def arrange(
        self, loops: Sequence[Loop], relaid: frozenset[int] = frozenset()
    ) -> Arrangement:
        """The graph with these loops.

        Args:
            relaid: what some loop gives out otherwise laid out than captured.

        Raises:
            CyclicPlan: the loops cannot be scheduled together.
        """
        when = order(self.graph, loops)
        count = len(self.graph.nodes)
        owner = self._owners(loops)
        alone = when.turn[:count] >= 0
        last = np.full(count, -1, np.int64)
        np.maximum.at(last, owner[alone], when.turn[:count][alone])
        reads = self.reads[:, alone[self.reads[1]]]
        np.maximum.at(last, owner[reads[0]], when.turn[reads[1]])
        made = np.where(alone & (owner == np.arange(count)), self.made_bytes, 0)
        born = np.where(alone, when.turn[:count], 0)
        for place, loop in enumerate(loops):
            turn = when.turn[count + place]
            outputs = np.array(loop.outputs, np.int64)
            made[outputs] = [self.graph.nodes[node].output.nbytes for node in loop.outputs]
            born[outputs] = turn
            touched = np.concatenate([owner[list(loop.entering)].astype(np.int64), outputs])
            np.maximum.at(last, touched, turn)
        forever = np.int64(np.iinfo(np.int64).max)
        last[owner[list(self.graph.output_nodes)]] = forever
        donations = self._donations(loops, when, owner, last)
        running = when.running
        turns = when.turn[running]
        change = np.zeros(len(running) + 1, np.int64)
        storages = np.flatnonzero(made)
        births, deaths = made.copy(), made.copy()
        for donated in donations:
            for output, donor in donated.items():
                births[output] = deaths[owner[donor]] = 0
        np.add.at(change, np.searchsorted(turns, born[storages]), births[storages])
        ends = np.minimum(np.searchsorted(turns, last[storages]) + 1, len(running))
        np.subtract.at(change, ends, deaths[storages])
        live = np.cumsum(change)[:-1]
        extra = np.zeros(count + len(loops), np.int64)
        extra[:count] = self.workspace_bytes
        for reader in {user for node in relaid for user in self.graph.users[node]}:
            extra[reader] = node_workspace_bytes(self.graph, reader, relaid)
        places = np.empty(len(loops), np.int64)
        loop_steps = np.flatnonzero(running >= count)
        places[running[loop_steps] - count] = loop_steps
        saved = tuple(
            sum(self.graph.nodes[output].output.nbytes for output in donated)
            for donated in donations
        )
        return Arrangement(when, live + extra[running], places, donations, saved)

    def _owners(self, loops: Sequence[Loop]) -> Places:
        """Who makes each node's storage: a loop's output is one of its own, even where the member
        was a view."""
        views = [node for loop in loops for node in loop.outputs if self.owner[node] != node]
        if not views:
            return self.owner
        owner = self.owner.copy()
        for node in sorted(views):
            owner[self._views_of(node)] = node
        return owner

    def _views_of(self, node: int) -> list[int]:
        """The node and all views of it, through whatever views."""
        found, waiting = [], [node]
        while waiting:
            found.append(waiting.pop())
            waiting.extend(self._viewed_by.get(found[-1], ()))
        return found

    @cached_property
    def _viewed_by(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for node in self.graph.nodes:
            if self.owner[node.index] != node.index:
                found.setdefault(node.refs[0][1], []).append(node.index)
        return found

    @cached_property
    def _kept_elsewhere(self) -> frozenset[int]:
        """Nodes whose storage some op may have taken an alias of that the graph does not show."""
        found: set[int] = set()
        for node in self.graph.nodes:
            if not {FRESH, ALIAS} & node.traits and node.op != "getitem":
                found.update(self.graph.base[ref] for _, ref in node.refs)
        return frozenset(found)

    def _donations(
        self, loops: Sequence[Loop], when: Order, owner: Places, last: Places
    ) -> tuple[Mapping[int, int], ...]:
        """Per loop, which output takes the storage of which input; see the module."""
        count = len(self.graph.nodes)
        given_out = {node for loop in loops for node in loop.outputs}
        found = []
        for place, loop in enumerate(loops):
            turn = when.turn[count + place]
            own: dict[int, int] = {}
            taken: set[int] = set()
            for output, candidates in loop.donors.items():
                for donor in candidates:
                    storage = int(owner[donor])
                    fresh = storage in given_out or FRESH in self.graph.nodes[storage].traits
                    if (
                        fresh
                        and last[storage] == turn
                        and storage not in taken
                        and self.graph.base[storage] not in self._kept_elsewhere
                        and sum(owner[s.node] == storage for s in loop.inputs) == 1
                        and self._made_bytes(storage) == self.graph.nodes[output].output.nbytes
                    ):
                        own[output] = donor
                        taken.add(storage)
                        break
            found.append(own)
        return tuple(found)

    def _made_bytes(self, storage: int) -> int:
        """Bytes of a storage that a node makes, or that a loop makes for it."""
        return int(self.made_bytes[storage]) or self.graph.nodes[storage].output.nbytes
