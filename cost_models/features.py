"""What a cost model sees of a region at a chunk size."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from cost_models.ceilings import Ceilings
from cost_models.times import class_passes, class_seconds, loop_seconds
from cost_models.work import loop_work
from search_space.classes import RegionClass
from search_space.graph import ALIAS, ITEM_BYTES
from search_space.liveness import MemoryModel, inner_choices
from search_space.regions import Loop


@dataclass(frozen=True, slots=True)
class Features:
    """A region at a chunk size, in plain numbers.

    Attributes:
        chunk_size, extent, passes: units a pass, units in all, passes of the loop.
        nodes, kernels: ops in the body; those of them that are not views.
        flops: floating-point operations over the whole extent.
        moved_bytes: bytes that all passes read and write.
        pass_bytes: bytes alive at the peak of one pass.
        sliced_bytes, whole_bytes: of the inputs that are sliced, and that every pass reads whole.
        output_bytes: written into the loop's outputs.
        stride_bytes: bytes between neighbours of the chunk dimension in the largest sliced tensor;
            small strides make narrow slices of many pieces.
        rows: positions of the chunk dimension in a pass, in the last node.
        item_bytes: of an element of the last node.
        cache_bytes, balance: of the device; balance is operations per byte at which it is equally
            bound by both.
        roofline_whole_s, roofline_chunked_s: the roofline's times.
    """

    chunk_size: int
    extent: int
    passes: int
    nodes: int
    kernels: int
    flops: float
    moved_bytes: float
    pass_bytes: int
    sliced_bytes: int
    whole_bytes: int
    output_bytes: int
    stride_bytes: int
    rows: int
    item_bytes: int
    cache_bytes: int
    balance: float
    roofline_whole_s: float
    roofline_chunked_s: float

    def vector(self) -> list[float]:
        """Dimensionless numbers for regression, in the order of :data:`VECTOR`. Where sizes enter,
        they do so as logarithms, so that other lengths do not lie far outside."""
        flop_share = self.flops / max(self.moved_bytes, 1.0) / self.balance
        return [
            math.log(self.roofline_chunked_s / self.roofline_whole_s),
            math.log2(self.passes),
            math.log2(self.chunk_size),
            math.log2(self.rows),
            (self.passes * self.chunk_size - self.extent) / self.extent,
            math.log2(self.nodes),
            math.log2(max(self.kernels, 1)),
            math.log2(max(flop_share, 1e-6)),
            math.log2(max(self.pass_bytes, 1) / self.cache_bytes),
            math.log2((1 + self.whole_bytes) / (1 + self.sliced_bytes)),
            math.log2((1 + self.output_bytes) / (1 + self.sliced_bytes)),
            math.log2(max(self.stride_bytes, 1)),
            math.log2(self.flops / self.passes / max(self.kernels, 1) + 1),
            math.log2(self.roofline_whole_s * 1e6 + 1),
            float(self.item_bytes),
        ]


VECTOR = (
    "roofline_log_ratio", "log2_passes", "log2_chunk_size", "log2_rows", "ragged_share",
    "log2_nodes", "log2_kernels", "log2_density_over_balance", "log2_pass_bytes_over_cache",
    "log2_whole_over_sliced_bytes", "log2_output_over_sliced_bytes", "log2_stride_bytes",
    "log2_flops_per_kernel", "log2_roofline_whole_us", "item_bytes",
)  # fmt: skip
"""The names of :meth:`Features.vector`."""


def class_features(
    memory: MemoryModel, item: RegionClass, size: int, ceilings: Ceilings
) -> Features:
    """The features of one occurrence of a class at a size. Of a nested class they are the outer
    loop's, with the passes, the memory and the roofline of what runs inside."""
    loop = item.loops[0]
    if not item.inner:
        return loop_features(memory, loop, size, ceilings)
    outer = loop_features(memory, loop, item.outer_size, ceilings)
    inner = inner_choices(loop, item.choice(size))
    rows = min(size, item.extent) * item.inner[0].loops[0].factors[-1]
    return replace(
        outer,
        passes=class_passes(item, size),
        pass_bytes=memory.body(loop, item.outer_size, inner=inner).peak_bytes,
        rows=min(rows, outer.rows),
        roofline_chunked_s=max(class_seconds(item, size, ceilings), 1e-9),
    )


def loop_features(
    memory: MemoryModel, loop: Loop, chunk_size: int, ceilings: Ceilings
) -> Features:
    """The features of one occurrence of a region at a chunk size."""
    graph = loop.graph
    size = min(chunk_size, loop.extent)
    passes = loop.passes(size)
    work = loop_work(loop)
    last = graph.nodes[loop.region.anchor].output
    sliced = [source for source in loop.inputs if source.dim is not None]
    stride = 0
    largest = -1
    for source in sliced:
        tensor = graph.nodes[source.node].output
        if tensor.nbytes > largest and source.dim is not None:
            largest = tensor.nbytes
            stride = tensor.strides[source.dim] * ITEM_BYTES[tensor.dtype] * source.factor
    return Features(
        chunk_size=size,
        extent=loop.extent,
        passes=passes,
        nodes=len(loop.region.nodes),
        kernels=sum(1 for n in loop.region.nodes if ALIAS not in graph.nodes[n].traits),
        flops=sum(one.flops for one in work),
        moved_bytes=float(sum(one.sliced_bytes + passes * one.whole_bytes for one in work)),
        pass_bytes=memory.body(loop, size).peak_bytes,
        sliced_bytes=sum(graph.nodes[source.node].output.nbytes for source in sliced),
        whole_bytes=sum(
            graph.nodes[source.node].output.nbytes for source in loop.inputs if source.dim is None
        ),
        output_bytes=sum(graph.nodes[node].output.nbytes for node in loop.outputs),
        stride_bytes=stride,
        rows=size * loop.factors[-1],
        item_bytes=ITEM_BYTES[last.dtype],
        cache_bytes=ceilings.cache_bytes,
        balance=ceilings.matmul_flops_per_s / ceilings.copy_bytes_per_s,
        roofline_whole_s=max(loop_seconds(loop, loop.extent, ceilings), 1e-9),
        roofline_chunked_s=max(loop_seconds(loop, size, ceilings), 1e-9),
    )
