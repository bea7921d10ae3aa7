"""Candidates: the region classes that are legal and can lower memory.

Seeds are grouped by likeness first; one of a group is grown and the regions found are tried,
shifted, at the others. Each class keeps the memory that it can save, and classes that others
dominate are dropped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search_space.body import whole_memory
from search_space.classes import RegionClass, class_key, seed_groups
from search_space.dim_rules import Probe
from search_space.errors import IllegalRegion
from search_space.graph import ALIAS, LEAVES, SizedGraph
from search_space.grow import Growth, grow, regenerable
from search_space.liveness import MemoryModel
from search_space.plan import Region
from search_space.regions import Loop
from search_space.relayout import is_relaid
from search_space.repeats import Repeats, transplant


@dataclass(frozen=True, slots=True)
class Limits:
    """How far the enumeration goes.

    Attributes:
        min_saving: a class must save this share of the unchunked peak...
        min_level: ...or this one of the median level, where that is less: once what towers above
            all else is chunked, the rest decides.
        span: places before a seed that a region may reach.
        cuts: prefixes kept per growth.
        at_one_end: classes kept of those that end at one node, by what is alive in small chunks.
        classes: classes kept in all, by saving.
    """

    min_saving: float = 0.01
    min_level: float = 0.1
    span: int = 160
    cuts: int = 10
    at_one_end: int = 8
    classes: int = 600


def find_classes(
    memory: MemoryModel, limits: Limits = Limits(), probe: Probe | None = None
) -> tuple[RegionClass, ...]:
    """All candidate classes of a graph at one length, by first node."""
    graph = memory.graph
    threshold = _threshold(memory, limits)
    again = _again(graph)
    repeats = Repeats(graph)
    found: dict[str, _Found] = {}
    for seeds in seed_groups(graph):
        if not _is_seed(graph, seeds[0]):
            continue
        # the first of a group is grown; where its regions occur at the others, those need not be
        left = list(seeds)
        while left:
            seed = left.pop(0)
            fitted = set(left)
            for region in _regions(memory, seed, again, threshold, limits, probe):
                one = _judge(memory, region, threshold)
                if one is None:
                    continue
                region, copies = repeats.occurrences(one.loop, left)
                loop = replace(one.loop, region=region)
                known = found.setdefault(class_key(loop), _Found(loop, one.levels, set()))
                known.anchors.update((region.anchor, *copies))
                fitted &= set(copies)
            left = [other for other in left if other not in fitted]
    kept = _lowest_at_each_end(_undominated(found), limits.at_one_end)
    kept.sort(key=lambda pair: (-pair[1].saves_bytes, pair[1].loop.region.nodes))
    classes = [item.as_class(key) for key, item in kept[: limits.classes]]
    for made in classes:
        memory.know(made.loops)
    return tuple(sorted(classes, key=lambda made: made.regions[0].nodes))


def same_classes(
    memory: MemoryModel, known: Sequence[RegionClass], limits: Limits = Limits()
) -> tuple[RegionClass, ...]:
    """Those of another size's classes that are classes of this graph too, node for node. What is
    alike at one size need not be at another, where a dimension may have one position."""
    threshold = _threshold(memory, limits)
    found = []
    for item in known:
        one = _judge(memory, item.regions[0], threshold)
        if one is None:
            continue
        key = class_key(one.loop)
        loops = [loop for loop in _legal(memory, item.regions) if class_key(loop) == key]
        found.append(RegionClass(key, tuple(loops), *one.levels))
    return tuple(found)


def _legal(memory: MemoryModel, regions: Sequence[Region]) -> Iterator[Loop]:
    for region in regions:
        try:
            yield memory.loop(region)
        except IllegalRegion:
            continue


def _threshold(memory: MemoryModel, limits: Limits) -> int:
    """Bytes that a class must save."""
    unchunked = memory.profile()
    level = float(np.median(unchunked.live_bytes)) if len(unchunked.live_bytes) else 0.0
    least = min(unchunked.peak_bytes * limits.min_saving, level * limits.min_level)
    return max(1, int(least))


@dataclass(frozen=True)
class _Judged:
    """A region that is legal and saves something: high and low levels, see :func:`levels`."""

    loop: Loop
    levels: tuple[int, int]


def _judge(memory: MemoryModel, region: Region, threshold: int) -> _Judged | None:
    try:
        loop = memory.loop(region)
    except IllegalRegion:
        return None
    high, low = levels(memory, loop)
    return _Judged(loop, (high, low)) if high - low >= threshold else None


@dataclass(frozen=True)
class _Found:
    """A class in the making: its first loop, and where its regions end."""

    loop: Loop
    levels: tuple[int, int]
    anchors: set[int]

    @cached_property
    def disjoint(self) -> list[int]:
        """The anchors of occurrences that have no node of their own in common, earlier first."""
        region = self.loop.region
        own = set(region.nodes) - set(region.recomputed)
        kept: list[int] = []
        span = region.anchor - min(own)
        for anchor in sorted(self.anchors):
            near = kept[bisect_left(kept, anchor - span) :]
            if not any({node + anchor - before for node in own} & own for before in near):
                kept.append(anchor)
        return kept

    @property
    def saves_bytes(self) -> int:
        return (self.levels[0] - self.levels[1]) * len(self.disjoint)

    def owned(self, views: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which nodes all occurrences own. Views cost nothing, so that it does not matter on which
        side of a boundary they are."""
        found = np.zeros(len(views), bool)
        moves = np.array(self.disjoint) - self.loop.region.anchor
        found[(self.loop.owned[None, :] + moves[:, None]).ravel()] = True
        return found & ~views

    def as_class(self, key: str) -> RegionClass:
        region = self.loop.region
        regions = [region.shifted(anchor - region.anchor) for anchor in self.disjoint]
        loops = tuple(transplant(self.loop, copy) for copy in regions)
        return RegionClass(key, loops, *self.levels)


def all_regions(
    graph: SizedGraph, limits: Limits = Limits(), probe: Probe | None = None
) -> Iterator[Loop]:
    """Every legal region that growth finds, whether or not it saves anything; for tests."""
    memory = MemoryModel(graph, probe)
    again = _again(graph)
    for node in graph.nodes:
        if not _is_seed(graph, node.index):
            continue
        for region in _regions(memory, node.index, again, 0, limits, probe):
            try:
                yield memory.loop(region)
            except IllegalRegion:
                continue


def _is_seed(graph: SizedGraph, index: int) -> bool:
    """Regions end at nodes that own storage: what follows a view can as well stay outside, unless
    the loop lays it out better than it would lie."""
    node = graph.nodes[index]
    return (
        node.kind not in LEAVES
        and (ALIAS not in node.traits or is_relaid(graph, index))
        and not node.several
        and node.op != "getitem"
        and any(size > 1 for size in node.output.shape)
    )


def _regions(
    memory: MemoryModel,
    seed: int,
    again: Sequence[frozenset[int]],
    threshold: int,
    limits: Limits,
    probe: Probe | None,
) -> Iterator[Region]:
    graph = memory.graph
    for dim, size in enumerate(graph.nodes[seed].output.shape):
        if size < 2:
            continue
        for allowed in again:
            growth = grow(
                graph, seed, dim, again=allowed, span=limits.span, probe=probe,
                workspace_bytes=memory.workspace_bytes,
            )  # fmt: skip
            if growth is None:
                break
            for count in _cuts(growth, threshold, limits.cuts):
                yield growth.prefix(count)
            if not growth.recomputed:
                break  # a growth that may recompute less would be the same


def _again(graph: SizedGraph) -> tuple[frozenset[int], ...]:
    """What growths may compute again: norms and masks, masks alone, nothing."""
    return regenerable(graph, 1), regenerable(graph, 4), frozenset()


def _cuts(growth: Growth, threshold: int, limit: int) -> Sequence[int]:
    """Where to cut a growth: where what stands outside is a new minimum, or a local one (the first
    and the last place of a plateau), or before and after a stretch that is computed again.

    Only cuts that hide a storage of some size count; of those the ``limit`` with the least
    standing bytes.
    """
    standing = growth.standing_bytes
    end = len(standing)
    places: list[int] = []
    least: int | None = None
    for place in range(end):
        now = standing[place]
        if growth.hidden_bytes[place] >= threshold:
            falls = place == 0 or standing[place - 1] >= now
            rises = place + 1 == end or standing[place + 1] >= now
            turns = place + 1 < end and (
                (growth.nodes[place] in growth.recomputed)
                != (growth.nodes[place + 1] in growth.recomputed)
            )
            if (falls and rises) or turns or least is None or now < least:
                places.append(place + 1)
        least = now if least is None else min(least, now)
    # of a plateau the ends will do
    kept = [
        count for k, count in enumerate(places)
        if not (0 < k < len(places) - 1
                and places[k - 1] == count - 1 and places[k + 1] == count + 1
                and standing[count - 2] == standing[count - 1] == standing[count])
    ]  # fmt: skip
    kept.sort(key=lambda count: (standing[count - 1], count))
    return sorted(kept[:limit])


def levels(memory: MemoryModel, loop: Loop) -> tuple[int, int]:
    """Bytes alive at a region's own peak, run whole and run in small chunks.

    Both count what enters and leaves it; what else the model keeps alive is not counted.
    """
    graph = loop.graph
    entering = {graph.base[source.node] for source in loop.inputs}
    standing = sum(
        sum(t.nbytes for t in graph.nodes[storage].outputs)
        for storage in entering
        if graph.nodes[storage].kind not in LEAVES
    )
    leaving = sum(graph.nodes[output].output.nbytes for output in loop.outputs)
    small = max(1, loop.extent // 16)
    whole = standing + whole_memory(loop, memory.workspace_bytes).peak_bytes
    return whole, standing + leaving + memory.transient_bytes(loop, small)


def _undominated(found: Mapping[str, _Found]) -> list[tuple[str, _Found]]:
    """Without classes that another one over the same extent makes pointless: one that owns all that
    they own, keeps nothing alive that they do not, and comes down to the same level or lower."""
    if not found:
        return []
    nodes = next(iter(found.values())).loop.graph.nodes
    views = np.array([ALIAS in node.traits for node in nodes], bool)
    owned = {key: item.owned(views) for key, item in found.items()}
    counts = {key: int(mask.sum()) for key, mask in owned.items()}
    standing = {key: _standing(item.loop) for key, item in found.items()}
    kept: list[tuple[str, _Found]] = []
    for key, item in sorted(
        found.items(), key=lambda pair: (pair[1].levels[1], -counts[pair[0]], pair[0])
    ):
        low = item.levels[1]
        pointless = any(
            other.loop.extent == item.loop.extent
            and other.levels[1] <= low + low // 50
            and standing[name] <= standing[key]
            and counts[key] <= counts[name]
            and not (owned[key] & ~owned[name]).any()
            for name, other in kept
        )
        if not pointless:
            kept.append((key, item))
    return kept


def _lowest_at_each_end(
    classes: Sequence[tuple[str, _Found]], limit: int
) -> list[tuple[str, _Found]]:
    """Of the classes that end at one node, those that come down lowest."""
    ends: dict[int, int] = {}
    kept = []
    for key, item in sorted(classes, key=lambda pair: (pair[1].levels[1], pair[0])):
        anchor = item.loop.region.anchor
        ends[anchor] = ends.get(anchor, 0) + 1
        if ends[anchor] <= limit:
            kept.append((key, item))
    return kept


def _standing(loop: Loop) -> frozenset[tuple[int, bool]]:
    """The storages that exist whole for a loop's sake, and whether they lie as captured."""
    base = loop.graph.base
    return frozenset(
        [(base[node], True) for node in loop.entering]
        + [(base[node], node not in loop.relaid) for node in loop.outputs]
    )
