"""What loops save each other.

A product copies what it cannot read in place, in every pass of a loop that takes it whole. A loop
that gives out a transposition which products alone read stores it row-major (see
:mod:`search_space.relayout`), and those copies are saved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from cost_models.ceilings import Ceilings
from cost_models.times import loop_shares, op_seconds, reordered
from cost_models.work import loop_work
from search_space.classes import RegionClass


def put_in_order(item: RegionClass) -> frozenset[int]:
    """The nodes that lie across their order in the unchunked model, and that the class's loops
    store in it."""
    return frozenset(node for loop in item.loops for node in reordered(loop))


def relief_seconds(item: RegionClass, size: int, ceilings: Ceilings) -> Mapping[int, float]:
    """How much less all occurrences of a class take in chunks where a node from outside lies in
    order instead of across it, by node; of nested classes nothing is told."""
    if item.inner or ceilings.rates is None:
        return {}
    found: dict[int, float] = defaultdict(float)
    for loop in item.loops:
        members = set(loop.region.nodes)
        shares = loop_shares(loop, size)
        for work in loop_work(loop):
            for source in {one.source for one in work.gathered} - members:
                others = tuple(one for one in work.gathered if one.source != source)
                by_matrix = work.by_matrix and bool(others)
                eased = replace(work, gathered=others, by_matrix=by_matrix)
                found[source] += sum(
                    times * (op_seconds(work, share, ceilings) - op_seconds(eased, share, ceilings))
                    for share, times in shares
                )
    return dict(found)
