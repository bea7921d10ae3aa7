"""Candidates: the region classes that are legal and can lower memory.

Seeds are grouped by likeness first; one of a group is grown and the regions found are tried,
shifted, at the others. Each class keeps the memory that it can save, and classes that others
dominate are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from search_space.classes import RegionClass, class_key, seed_groups
from search_space.dim_rules import Probe
from search_space.errors import IllegalRegion, PlanError
from search_space.graph import ALIAS, LEAVES, SizedGraph
from search_space.grow import Growth, grow, regenerable
from search_space.liveness import MemoryModel
from search_space.plan import Region
from search_space.regions import Loop
from search_space.space import owned


@dataclass(frozen=True, slots=True)
class Limits:
    """How far the enumeration goes.

    Attributes:
        min_saving: a class must save this share of the unchunked peak.
        span: places before a seed that a region may reach.
        cuts: prefixes kept per growth.
        classes: classes kept in all, by saving.
    """

    min_saving: float = 0.02
    span: int = 160
    cuts: int = 6
    classes: int = 24


def find_classes(
    memory: MemoryModel, limits: Limits = Limits(), probe: Probe | None = None
) -> tuple[RegionClass, ...]:
    """All candidate classes of a graph at one length, by first node."""
    graph = memory.graph
    peak = memory.profile().peak_bytes
    threshold = max(1, int(peak * limits.min_saving))
    again = regenerable(graph)
    found: dict[str, dict[Region, Loop]] = {}
    for seeds in seed_groups(graph):
        if not _is_seed(graph, seeds[0]):
            continue
        # the first of a group is grown; where its regions fit at the others, those need not be
        left = list(seeds)
        while left:
            seed = left.pop(0)
            fitted = set(left)
            for region in _regions(graph, seed, again, threshold, limits, probe):
                loops = _occurrences(memory, region, left, threshold)
                if loops:
                    found.setdefault(class_key(loops[0]), {}).update(
                        (loop.region, loop) for loop in loops
                    )
                fitted &= {loop.region.anchor for loop in loops}
            left = [other for other in left if other not in fitted]
    classes = [_make_class(memory, key, loops) for key, loops in found.items()]
    kept = _undominated(classes)
    kept.sort(key=lambda c: (-c.saves_bytes * len(c.loops), c.regions[0].nodes))
    return tuple(sorted(kept[: limits.classes], key=lambda c: c.regions[0].nodes))


def all_regions(
    graph: SizedGraph, limits: Limits = Limits(), probe: Probe | None = None
) -> Iterator[Loop]:
    """Every legal region that growth finds, whether or not it saves anything; for tests."""
    memory = MemoryModel(graph, probe)
    again = regenerable(graph)
    for node in graph.nodes:
        if not _is_seed(graph, node.index):
            continue
        for region in _regions(graph, node.index, again, 0, limits, probe):
            try:
                yield memory.loop(region)
            except IllegalRegion:
                continue


def _is_seed(graph: SizedGraph, index: int) -> bool:
    """Regions end at nodes that own storage: what follows a view can as well stay outside."""
    node = graph.nodes[index]
    return (
        node.kind not in LEAVES
        and ALIAS not in node.traits
        and not node.several
        and node.op != "getitem"
        and any(size > 1 for size in node.output.shape)
    )


def _regions(
    graph: SizedGraph,
    seed: int,
    again: frozenset[int],
    threshold: int,
    limits: Limits,
    probe: Probe | None,
) -> Iterator[Region]:
    for dim, size in enumerate(graph.nodes[seed].output.shape):
        if size < 2:
            continue
        for allowed in (again, frozenset[int]()):
            growth = grow(graph, seed, dim, again=allowed, span=limits.span, probe=probe)
            if growth is None:
                break
            for count in _cuts(growth, threshold, limits.cuts):
                yield growth.prefix(count)
            if not growth.recomputed:
                break  # the second growth would be the same


def _cuts(growth: Growth, threshold: int, limit: int) -> Sequence[int]:
    """Where to cut a growth: where what stands outside is a new minimum, or a local one.

    Only cuts that hide a storage of some size count; of those the ``limit`` with the least
    standing bytes.
    """
    standing = growth.standing_bytes
    end = len(standing)
    places: list[int] = []
    least: int | None = None
    for place in range(end):
        if growth.hidden_bytes[place] < threshold:
            continue
        local = (place + 1 == end or standing[place + 1] > standing[place]) and (
            place == 0 or standing[place - 1] >= standing[place]
        )
        if local or least is None or standing[place] < least:
            places.append(place + 1)
        least = standing[place] if least is None else min(least, standing[place])
    places.sort(key=lambda count: (standing[count - 1], count))
    return sorted(places[:limit])


def _occurrences(
    memory: MemoryModel, region: Region, others: Sequence[int], threshold: int
) -> list[Loop]:
    """The region, and its like ending at other seeds; none where it saves too little."""
    try:
        loop = memory.loop(region)
    except IllegalRegion:
        return []
    high, low = levels(memory, loop)
    if high - low < threshold:
        return []
    key = class_key(loop)
    loops = [loop]
    for seed in others:
        try:
            other = memory.loop(region.shifted(seed - region.anchor))
        except (IllegalRegion, PlanError):
            continue
        if class_key(other) == key:
            loops.append(other)
    return loops


def _make_class(memory: MemoryModel, key: str, found: Mapping[Region, Loop]) -> RegionClass:
    """A class of disjoint occurrences, earlier ones first."""
    loops = [found[region] for region in sorted(found, key=lambda region: region.nodes)]
    disjoint: list[Loop] = []
    taken: set[int] = set()
    for loop in loops:
        own = set(loop.region.nodes) - set(loop.region.recomputed)
        if not own & taken:
            disjoint.append(loop)
            taken |= own
    disjoint.sort(key=lambda loop: loop.region.anchor)
    return RegionClass(key, tuple(disjoint), *levels(memory, loops[0]))


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
    whole = standing + memory.body(loop, loop.extent).peak_bytes
    return whole, standing + leaving + memory.transient_bytes(loop, small)


def _undominated(classes: list[RegionClass]) -> list[RegionClass]:
    """Without classes that another one over the same extent makes pointless.

    A larger class does so when it comes down to the same level or lower; a smaller one when it does
    and nothing higher is hidden by the nodes that it lacks.
    """
    # views cost nothing, so that it does not matter which side of a boundary they are on
    nodes = classes[0].loops[0].graph.nodes if classes else ()
    views = {node.index for node in nodes if ALIAS in node.traits}
    owners = {item.key: owned(item) - views for item in classes}
    kept: list[RegionClass] = []
    for item in sorted(classes, key=lambda c: (c.low_bytes, -len(owners[c.key]), c.key)):
        own = owners[item.key]
        slack = item.low_bytes // 50
        pointless = any(
            other.extent == item.extent
            and other.low_bytes <= item.low_bytes + slack
            and (
                own <= owners[other.key]
                or (owners[other.key] <= own and len(other.loops) >= len(item.loops)
                    and other.high_bytes >= 0.97 * item.high_bytes)
            )
            for other in kept
        )  # fmt: skip
        if not pointless:
            kept.append(item)
    return kept
