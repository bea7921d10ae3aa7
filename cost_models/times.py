"""The roofline's times: each op takes as long as its bytes or its operations need, plus a launch.

    seconds(op, chunk) = launch + max(flops * c / F * (1 + h / n), (sliced * c + whole) / B) * idle

with c the chunk's share of the extent, F the device's operations per second, n the smaller side of
a product's matrix and h that at which products run at half rate, and B the device's bytes per
second, which falls from the cache's to the memory's rate with the op's bytes. ``idle`` is 1 but
for products whose output is too small for all of a GPU's multiprocessors, see ``filling_of``. On a
CPU the two add up, and kinds of op have rates of their own, see :mod:`cost_models.rates`. A loop
adds, in each pass, the copy of its results into the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cost_models.ceilings import Ceilings
from cost_models.fused import fused_graph_work, fused_loop_work
from cost_models.work import Work, loop_work, node_work
from search_space.classes import RegionClass
from search_space.graph import LEAVES, SizedGraph
from search_space.layout import is_contiguous
from search_space.regions import Loop


def launch_seconds(work: Work, ceilings: Ceilings) -> float:
    """Starting one op. Views start nothing, but take some Python where that was measured."""
    if ceilings.rates is not None:
        return ceilings.rates.launch_s(work)
    return ceilings.launch_s if work.launches else 0.0


def op_seconds(work: Work, share: float, ceilings: Ceilings) -> float:
    """One op on a share of its extent, by its kind's rates where they were measured."""
    return launch_seconds(work, ceilings) + sum(own_seconds(work, share, ceilings))


def own_seconds(work: Work, share: float, ceilings: Ceilings) -> tuple[float, float]:
    """One op beside its launch: seconds of computing, and of moving bytes. The plain roofline has
    but one of them, whichever takes longer."""
    if not work.launches:
        return 0.0, 0.0
    rates = ceilings.rates
    if rates is not None:
        computing = rates.computing_s(work, share, ceilings.matmul_flops_per_s)
        return computing, rates.moving_s(work, share)
    moved = work.sliced_bytes * share + work.whole_bytes
    moving = moved / bytes_per_s(moved, ceilings)
    computing = work.slowdown * work.flops * share / ceilings.matmul_flops_per_s
    narrowest = work.narrowest(share)
    if narrowest is not None:
        computing *= 1 + ceilings.half_rows / narrowest
    idle = _idle(work, share, ceilings)
    return (0.0, idle * moving) if moving > computing else (idle * computing, 0.0)


def _idle(work: Work, share: float, ceilings: Ceilings) -> float:
    """How much longer an op takes that leaves a part of the device idle: it computes less at a time
    and also loads less. (A device's ``half_rows`` are measured on a product that leaves some idle
    too, so that narrow products of little output are told too slow rather than too fast.)"""
    filled = work.filled(share)
    return max(ceilings.filling / filled, 1.0) if filled else 1.0


FRESH_BYTES = 128 * 2**20
"""An op that moves as much as this has none of it in a cache, and its output on fresh pages; the
bandwidth ceiling is measured at this size."""


def bytes_per_s(moved: float, ceilings: Ceilings) -> float:
    """The rate at which an op moves its bytes: the cache's as far as they fit in it, the memory's
    from ``FRESH_BYTES`` on. Between them lie larger caches and pages that the allocator has kept,
    and the rate falls by a power of the bytes; a step would make models of two lengths, on either
    side of it, look unlike each other."""
    fast, slow = ceilings.cache_bytes, max(FRESH_BYTES, ceilings.cache_bytes + 1)
    if moved <= fast:
        return ceilings.cache_bytes_per_s
    if moved >= slow:
        return ceilings.copy_bytes_per_s
    way = math.log(moved / fast) / math.log(slow / fast)
    return math.exp(
        (1 - way) * math.log(ceilings.cache_bytes_per_s) + way * math.log(ceilings.copy_bytes_per_s)
    )


@dataclass(frozen=True, slots=True)
class Parts:
    """What the roofline's time of a run without loops is made of, in seconds: starting ops, matrix
    products and convolutions, and all else."""

    launch_s: float
    product_s: float
    other_s: float

    @property
    def total_s(self) -> float:
        return self.launch_s + self.product_s + self.other_s


def graph_parts(graph: SizedGraph, ceilings: Ceilings) -> Parts:
    """The whole graph, unchunked."""
    launch = product = other = 0.0
    for node in graph.nodes:
        if node.kind in LEAVES:
            continue
        work = node_work(graph, node)
        own = sum(own_seconds(work, 1.0, ceilings))
        launch += launch_seconds(work, ceilings)
        if work.narrowest(1.0) is not None:
            product += own
        else:
            other += own
    return Parts(launch, product, other)


def compiled_log_ratio(
    graph: SizedGraph,
    nodes: Collection[int],
    works: Mapping[int, Work],
    ceilings: Ceilings,
    pieces: int = 1,
) -> float:
    """log(compiled / as it is) of what a part of a graph takes, run whole; 0 where it takes
    nothing.

    Args:
        works: of the graph's ops, each run whole, by node.
        pieces: how many pieces the part is compiled to, each of which is called.
    """
    before = sum(op_seconds(works[node], 1.0, ceilings) for node in nodes if node in works)
    fused = fused_graph_work(graph, nodes, works)
    after = sum(op_seconds(work, 1.0, ceilings) for work in fused)
    after += pieces * PIECE_LAUNCHES * ceilings.launch_s
    return math.log(after / before) if before and fused else 0.0


def graph_works(graph: SizedGraph) -> dict[int, Work]:
    """The work of each op, by node."""
    return {node.index: node_work(graph, node) for node in graph.nodes if node.kind not in LEAVES}


def graph_seconds(graph: SizedGraph, ceilings: Ceilings) -> float:
    """The whole graph, unchunked."""
    return graph_parts(graph, ceilings).total_s


UNSEEN = 0.02
"""What a doubling of the passes costs on top of the roofline, as a share of the region's time: the
packing of operands and cold caches, which it does not see. From timings of GPT-2 and ViT on CPU."""


def extra_seconds(item: RegionClass, size: int, ceilings: Ceilings) -> float:
    """How much longer one occurrence takes in chunks, for a choice without measurements; negative
    where it is faster so.

    The plain roofline knows little of why chunks are faster or slower: a gain that it promises is
    not counted.
    """
    loop = item.loops[0]
    whole = loop_seconds(loop, loop.extent, ceilings)
    longer = class_seconds(item, size, ceilings) - whole
    if ceilings.rates is None:
        longer = max(longer, 0.0)
    else:
        longer += _storing_seconds(item, size, ceilings)
    return longer + UNSEEN * whole * math.log2(class_passes(item, size))


def _storing_seconds(item: RegionClass, size: int, ceilings: Ceilings) -> float:
    """What storing takes beyond the copies of single passes: an output has its pages filled as a
    whole, however small the parts that are copied into it, and what is stored in another order than
    it was computed in is copied across it."""
    rates, loop = ceilings.rates, item.loops[0]
    assert rates is not None, "only what is known by kinds of op is told so finely"
    copied = _copying(loop)
    told = 0.0
    if not item.inner:  # (of nested loops it is told at the rate of the whole)
        shares = loop_shares(loop, size)
        told = sum(times * rates.moving_s(copied, share) for share, times in shares)
        told = max(rates.moving_s(copied, 1.0) - told, 0.0)
    for node in reordered(loop):
        tensor = loop.graph.nodes[node].output
        share = min(item.outer_size if item.inner else size, loop.extent) / loop.extent
        told += tensor.numel * rates.element_s(share * tensor.nbytes, False)
    return told


def reordered(loop: Loop) -> tuple[int, ...]:
    """The outputs that a loop stores in their order, and that lie across it in the unchunked model;
    see :mod:`search_space.relayout`."""
    nodes = loop.graph.nodes
    return tuple(
        node
        for node, layout in zip(loop.outputs, loop.layouts, strict=True)
        if is_contiguous(layout) and layout.strides != nodes[node].output.strides
    )


def loop_shares(loop: Loop, size: int) -> tuple[tuple[float, int], ...]:
    """Shares of the extent that passes take, and how many take each."""
    size = min(size, loop.extent)
    passes, rest = divmod(loop.extent, size)
    return ((size / loop.extent, passes), (rest / loop.extent, 1 if rest else 0))


def class_passes(item: RegionClass, size: int) -> int:
    """How many passes an occurrence makes; of a nested class, the innermost ones."""
    if not item.inner:
        return item.loops[0].passes(size)
    return item.loops[0].passes(item.outer_size) * item.inner[0].loops[0].passes(size)


def class_seconds(
    item: RegionClass, size: int, ceilings: Ceilings, *, compiled: bool = False
) -> float:
    """One occurrence of a class in chunks, loops inside loops included."""
    loop = item.loops[0]
    if not item.inner:
        return loop_seconds(loop, size, ceilings, compiled=compiled)
    body = item.inner[0].loops[0].graph
    again = item.inner_choices(size)
    inner = [(one, choice) for one in item.inner for choice in again
             if choice.regions == one.regions]  # fmt: skip
    inside = {int(node) for one, _ in inner for own in one.loops for node in own.owned}
    between = [
        node.index
        for node in body.nodes
        if node.kind not in LEAVES and node.index not in inside
    ]
    works = {node: node_work(body, body.nodes[node]) for node in between}
    run = fused_graph_work(body, between, works) if compiled else works.values()
    one_pass = sum(op_seconds(work, 1.0, ceilings) for work in run)
    one_pass += sum(
        loop_seconds(own, choice.chunk_size, ceilings, compiled=compiled)
        for one, choice in inner
        for own in one.loops
    )
    one_pass += _calling_seconds(loop, ceilings, compiled)
    copied = 0.0 if compiled else op_seconds(_copying(loop), 1.0, ceilings)
    return loop.extent / item.outer_size * one_pass + copied


def _copying(loop: Loop) -> Work:
    """The copy of all results into the outputs."""
    return Work(0.0, 2 * sum(loop.graph.nodes[node].output.nbytes for node in loop.outputs), 0, 1)


PIECE_LAUNCHES = 5.0
"""Calling a compiled piece takes as long as starting so many ops: what small passes of
``experiments/results/cpu/cost_compiled.jsonl.gz`` call for."""


def _calling_seconds(loop: Loop, ceilings: Ceilings, compiled: bool) -> float:
    """Slicing each input in a pass is a view: some Python, no kernel."""
    slicing = 0.3 * ceilings.launch_s * (len(loop.inputs) + 1)
    return slicing + (PIECE_LAUNCHES * ceilings.launch_s if compiled else 0.0)


@dataclass(frozen=True, slots=True)
class LoopTimes:
    """Where the roofline sees a region's time go, in seconds over all passes.

    Attributes:
        launch_s: starting ops, and slicing inputs in Python.
        product_s: of matrix products and convolutions, whichever limit binds them.
        memory_s: of all other ops, on bytes.
        compute_s: of all other ops, on operations.
        store_s: copying results into the loop's outputs.
        cached_bytes, moved_bytes: bytes read and written by ops whose own bytes fit in the cache,
            and by all.
        narrowest: the smallest side of a product's matrix in a full pass; 0 without products.
        largest_bytes: the most bytes that one op reads and writes in a full pass.
        flops: floating-point operations over the whole extent.
    """

    launch_s: float
    product_s: float
    memory_s: float
    compute_s: float
    store_s: float
    cached_bytes: float
    moved_bytes: float
    narrowest: float
    largest_bytes: float
    flops: float

    @property
    def total_s(self) -> float:
        return self.launch_s + self.product_s + self.memory_s + self.compute_s + self.store_s


def loop_times(
    loop: Loop, chunk_size: int, ceilings: Ceilings, *, compiled: bool = False
) -> LoopTimes:
    """One occurrence of a region in chunks; whole where the chunk covers the extent. Compiled
    bodies write their results where they belong, so that nothing is copied."""
    size, parts = min(chunk_size, loop.extent), loop_shares(loop, chunk_size)
    launch = product = memory = compute = cached = moved = largest = flops = 0.0
    narrowest = 0.0
    for work in fused_loop_work(loop) if compiled else loop_work(loop):
        flops += work.flops
        side = work.narrowest(size / loop.extent)
        if side is not None:
            narrowest = side if not narrowest else min(narrowest, side)
        largest = max(largest, work.sliced_bytes * size / loop.extent + work.whole_bytes)
        for share, times in parts:
            computing, moving = own_seconds(work, share, ceilings)
            now = work.sliced_bytes * share + work.whole_bytes
            launch += times * launch_seconds(work, ceilings)
            moved += times * now
            cached += times * now * (now <= ceilings.cache_bytes)
            if side is not None:
                product += times * (computing + moving)
            else:
                memory += times * moving
                compute += times * computing
    store = 0.0
    if compiled or size < loop.extent:
        copied = _copying(loop)
        for share, times in parts:
            launch += times * _calling_seconds(loop, ceilings, compiled)
            if not compiled:
                store += times * op_seconds(copied, share, ceilings)
    return LoopTimes(
        launch, product, memory, compute, store, cached, moved, narrowest, largest, flops
    )


def loop_seconds(
    loop: Loop, chunk_size: int, ceilings: Ceilings, *, compiled: bool = False
) -> float:
    """One occurrence of a region in chunks; whole where the chunk covers the extent."""
    return loop_times(loop, chunk_size, ceilings, compiled=compiled).total_s
