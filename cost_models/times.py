"""The roofline's times: each op takes as long as its bytes or its operations need, plus a launch.

    seconds(op, chunk) = launch + max(flops * c / F * (1 + h / n), (sliced * c + whole) / B)

with c the chunk's share of the extent, F the device's operations per second, n the smaller side of
a product's matrix and h that at which products run at half rate, and B the device's bytes per
second, which depends on whether the op's bytes fit in the cache. A loop adds, in each pass, the
copy of its results into the outputs.
"""

from __future__ import annotations

import math

from cost_models.ceilings import Ceilings
from cost_models.work import Work, loop_work, node_work
from search_space.graph import LEAVES, SizedGraph
from search_space.regions import Loop


def op_seconds(work: Work, share: float, ceilings: Ceilings) -> float:
    """One op on a share of its extent."""
    if not work.launches:
        return 0.0
    moved = work.sliced_bytes * share + work.whole_bytes
    rate = (
        ceilings.cache_bytes_per_s if moved <= ceilings.cache_bytes else ceilings.copy_bytes_per_s
    )
    computing = work.flops * share / ceilings.matmul_flops_per_s
    narrowest = work.narrowest(share)
    if narrowest is not None:
        computing *= 1 + ceilings.half_rows / narrowest
    return ceilings.launch_s + max(computing, moved / rate)


def graph_seconds(graph: SizedGraph, ceilings: Ceilings) -> float:
    """The whole graph, unchunked."""
    return sum(
        op_seconds(node_work(graph, node), 1.0, ceilings)
        for node in graph.nodes
        if node.kind not in LEAVES
    )


UNSEEN = 0.02
"""What a doubling of the passes costs on top of the roofline, as a share of the region's time: the
packing of operands and cold caches, which it does not see. From timings of GPT-2 and ViT on CPU."""


def prudent_extra_seconds(loop: Loop, chunk_size: int, ceilings: Ceilings) -> float:
    """How much longer one occurrence takes in chunks, for a choice without measurements: a gain
    that the roofline promises is not counted, and passes cost something."""
    whole = loop_seconds(loop, loop.extent, ceilings)
    chunked = loop_seconds(loop, chunk_size, ceilings)
    return max(chunked - whole, 0.0) + UNSEEN * whole * math.log2(loop.passes(chunk_size))


def loop_seconds(loop: Loop, chunk_size: int, ceilings: Ceilings) -> float:
    """One occurrence of a region in chunks; whole where the chunk covers the extent."""
    work = loop_work(loop)
    if chunk_size >= loop.extent:
        return sum(op_seconds(one, 1.0, ceilings) for one in work)
    written = 2 * sum(loop.graph.nodes[node].output.nbytes for node in loop.outputs)
    copied = Work(0.0, written, 0, 1)
    total = 0.0
    whole_passes, rest = divmod(loop.extent, chunk_size)
    for size, times in ((chunk_size, whole_passes), (rest, 1 if rest else 0)):
        share = size / loop.extent
        one_pass = sum(op_seconds(one, share, ceilings) for one in (*work, copied))
        # slicing each input is a view: some Python, no kernel
        one_pass += 0.3 * ceilings.launch_s * (len(loop.inputs) + 1)
        total += times * one_pass
    return total
