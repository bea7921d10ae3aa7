"""A peak below which no plan of some regions comes, told without trying any.

What runs before a node in captured order runs before it in every plan, unless a region spans both.
So what is made before a node that no region spans, and read after it, is alive there whatever is
chosen: a storage as a whole; or where a loop may give out a part of it, which then needs no more,
the largest part that is read. Kernels' own buffers are left out, since a loop may lay its outputs
out so that none is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import numpy as np

from search_space.graph import SizedGraph, Tensor
from search_space.plan import Region


def floor_bytes(graph: SizedGraph, regions: Iterable[Region]) -> int:
    """No plan of these regions, at whatever chunk sizes, has a lower peak."""
    count = len(graph.nodes)
    spans = np.zeros(count + 1, np.int64)
    members: set[int] = set()
    for region in regions:
        spans[region.nodes[0]] += 1
        spans[region.anchor + 1] -= 1
        members.update(region.nodes)
    spanned = np.cumsum(spans[:-1]) > 0
    change = np.zeros(count + 2, np.int64)
    for storage, reads in _reads(graph).items():
        whole = members.isdisjoint(reads)
        for last, nbytes in _alive(graph, storage, reads, whole=whole):
            change[storage] += nbytes
            change[last + 1] -= nbytes
    alive = np.cumsum(change[:count])
    at = ~spanned & ~graph.is_leaf
    return int(alive[at].max(initial=0))


def _reads(graph: SizedGraph) -> dict[int, dict[int, int]]:
    """Per storage that a node makes, the last reader of the node and of each view of it."""
    count = len(graph.nodes)
    found: dict[int, dict[int, int]] = {}
    for node in graph.nodes:
        storage = graph.base[node.index]
        if graph.is_leaf[storage]:
            continue
        last = max(graph.users[node.index], default=node.index)
        if node.index in graph.output_nodes:
            last = count
        found.setdefault(storage, {})[node.index] = last
    return found


def _alive(
    graph: SizedGraph, storage: int, reads: dict[int, int], *, whole: bool
) -> list[tuple[int, int]]:
    """Bytes of a storage that are alive up to a place, each on top of those that are alive up to a
    later one."""
    if whole:
        return [(max(reads.values()), sum(t.nbytes for t in graph.nodes[storage].outputs))]
    found: list[tuple[int, int]] = []
    most = 0
    for node, last in sorted(reads.items(), key=lambda pair: -pair[1]):
        nbytes = max(map(_distinct_bytes, graph.nodes[node].outputs), default=0)
        if nbytes > most:
            found.append((last, nbytes - most))
            most = nbytes
    return found


def _distinct_bytes(tensor: Tensor) -> int:
    """At most what a tensor whose elements may share places takes."""
    pairs = [(n, step) for n, step in zip(tensor.shape, tensor.strides, strict=True) if step]
    reach = 1 + sum((n - 1) * step for n, step in pairs)
    numbers = min(prod(n for n, _ in pairs), reach) if tensor.numel else 0
    return numbers * (tensor.nbytes // max(tensor.numel, 1))
