"""What a cost model sees of a region at a chunk size, in plain numbers with units.

Raw numbers are kept as they are, so that ledgers and model files can be read by later versions;
:meth:`Features.vector` makes dimensionless ones of them for regression. The roofline's times are
features too: they carry the device's ceilings, so that a model can serve devices it has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from cost_models.ceilings import Ceilings
from cost_models.times import Parts, class_passes, class_seconds, loop_times
from search_space.classes import RegionClass
from search_space.graph import ALIAS, ITEM_BYTES
from search_space.liveness import MemoryModel, inner_choices
from search_space.regions import Loop

FEATURES_VERSION = 3
"""Raised when the meaning of a feature changes; samples of another version are not mixed."""


@dataclass(frozen=True, slots=True)
class Features:
    """A region at a chunk size. Counts and bytes are of one occurrence, times in seconds.

    Attributes:
        chunk_size, extent, passes: units a pass, units in all, passes of the loop.
        nodes, kernels: ops in the body; those of them that are not views.
        flops: floating-point operations over the whole extent.
        moved_bytes: bytes that all passes read and write.
        pass_bytes, body_bytes: bytes alive at the peak of one pass, and of the body run whole.
        sliced_bytes, whole_bytes: of the inputs that are sliced, and that every pass reads whole.
        output_bytes: written into the loop's outputs.
        stride_bytes: bytes between neighbours of the chunk dimension in the largest sliced tensor.
        run_bytes: of one piece of contiguous memory in a slice of that tensor; slices of many
            short pieces are slow to read.
        rows: positions of the chunk dimension in a pass, in the last node.
        item_bytes: of an element of the last node.
        cache_bytes, balance: of the device; balance is operations per byte at which it is equally
            bound by both.
        narrowest: smallest side of a product's matrix in a pass; 0 where there is no product.
        largest_bytes, largest_whole_bytes: the most that one op reads and writes in a pass, and in
            a run of the whole.
        cached_share, cached_whole_share: of ``moved_bytes``, by ops whose bytes fit in the cache.
        launch_s, product_s, memory_s, compute_s, store_s: the roofline's times in chunks, see
            :class:`cost_models.times.LoopTimes`; they add up to ``roofline_chunked_s``.
        launch_whole_s, product_whole_s: the same, run whole.
        roofline_whole_s, roofline_chunked_s: the roofline's times in all.
        compiled: 1 where the passes run compiled code, whole the region as it is; else 0.
    """

    chunk_size: int
    extent: int
    passes: int
    nodes: int
    kernels: int
    flops: float
    moved_bytes: float
    pass_bytes: int
    body_bytes: int
    sliced_bytes: int
    whole_bytes: int
    output_bytes: int
    stride_bytes: int
    run_bytes: int
    rows: int
    item_bytes: int
    cache_bytes: int
    balance: float
    narrowest: float
    largest_bytes: float
    largest_whole_bytes: float
    cached_share: float
    cached_whole_share: float
    launch_s: float
    product_s: float
    memory_s: float
    compute_s: float
    store_s: float
    launch_whole_s: float
    product_whole_s: float
    roofline_whole_s: float
    roofline_chunked_s: float
    compiled: int = 0

    @property
    def whole_parts(self) -> Parts:
        """What the roofline's time of the region run whole is made of."""
        other_s = self.roofline_whole_s - self.launch_whole_s - self.product_whole_s
        return Parts(self.launch_whole_s, self.product_whole_s, max(other_s, 0.0))

    @property
    def roofline_log_ratio(self) -> float:
        """log(chunked / whole) as the roofline has it."""
        return math.log(self.roofline_chunked_s / self.roofline_whole_s)

    def vector(self) -> list[float]:
        """Dimensionless numbers for regression, in the order of :data:`VECTOR`. Where sizes enter,
        they do so as logarithms, so that other lengths do not lie far outside."""
        whole = self.roofline_whole_s
        density = self.flops / max(self.moved_bytes, 1.0) / self.balance
        cache = self.cache_bytes
        return [
            self.roofline_log_ratio,
            math.log2(self.passes),
            math.log2(self.chunk_size),
            math.log2(self.rows),
            (self.passes * self.chunk_size - self.extent) / self.extent,
            math.log2(self.nodes),
            math.log2(max(self.kernels, 1)),
            math.log2(max(density, 1e-6)),
            _log2(self.pass_bytes / cache),
            _log2(self.body_bytes / cache),
            _log2(self.largest_bytes / cache),
            _log2(self.largest_whole_bytes / cache),
            math.log2((1 + self.whole_bytes) / (1 + self.sliced_bytes)),
            math.log2((1 + self.output_bytes) / (1 + self.sliced_bytes)),
            _log2(self.stride_bytes),
            _log2(self.run_bytes),
            _log2(self.narrowest),
            math.log2(self.flops / self.passes / max(self.kernels, 1) + 1),
            math.log2(whole * 1e6 + 1),
            self.cached_share,
            self.cached_whole_share,
            math.log2(1 + self.launch_s / whole),
            self.product_s / self.roofline_chunked_s,
            self.product_whole_s / whole,
            math.log2(1 + self.store_s / whole),
            self.launch_whole_s / whole,
            float(self.item_bytes),
            float(self.compiled),
        ]

    def plain(self) -> dict[str, float]:
        """As plain values, to six significant digits."""
        return {name: _short(value) for name, value in asdict(self).items()}


VECTOR = (
    "roofline_log_ratio", "log2_passes", "log2_chunk_size", "log2_rows", "ragged_share",
    "log2_nodes", "log2_kernels", "log2_density_over_balance", "log2_pass_bytes_over_cache",
    "log2_body_bytes_over_cache", "log2_largest_bytes_over_cache",
    "log2_largest_whole_bytes_over_cache", "log2_whole_over_sliced_bytes",
    "log2_output_over_sliced_bytes", "log2_stride_bytes", "log2_run_bytes", "log2_narrowest",
    "log2_flops_per_kernel", "log2_roofline_whole_us", "cached_share", "cached_whole_share",
    "log2_launch_over_whole", "product_share", "product_whole_share", "log2_store_over_whole",
    "launch_whole_share", "item_bytes", "compiled",
)  # fmt: skip
"""The names of :meth:`Features.vector`."""

WHOLE = tuple(
    VECTOR.index(name)
    for name in (
        "log2_nodes", "log2_kernels", "log2_body_bytes_over_cache",
        "log2_largest_whole_bytes_over_cache", "log2_whole_over_sliced_bytes",
        "log2_output_over_sliced_bytes", "log2_roofline_whole_us", "cached_whole_share",
        "product_whole_share", "launch_whole_share", "item_bytes",
    )
)  # fmt: skip
"""Places in :data:`VECTOR` of what does not depend on the chunk size."""


def features_from_plain(row: Mapping[str, Any]) -> Features:
    """The inverse of :meth:`Features.plain`.

    Raises:
        KeyError: a feature is missing; the row is of another version.
    """
    whole = {"int": int, "float": float}
    row = {"compiled": 0, **row}  # (what was recorded before there were such passes)
    return Features(**{one.name: whole[str(one.type)](row[one.name]) for one in fields(Features)})


def class_features(
    memory: MemoryModel,
    item: RegionClass,
    size: int,
    ceilings: Ceilings,
    *,
    compiled: bool = False,
) -> Features:
    """The features of one occurrence of a class at a size. Of a nested class they are the outer
    loop's, with the passes, the memory and the roofline of what runs inside."""
    loop = item.loops[0]
    if not item.inner:
        return loop_features(memory, loop, size, ceilings, compiled=compiled)
    outer = loop_features(memory, loop, item.outer_size, ceilings, compiled=compiled)
    inner = inner_choices(loop, item.choice(size))
    rows = min(size, item.extent) * item.inner[0].loops[0].factors[-1]
    return replace(
        outer,
        passes=class_passes(item, size),
        pass_bytes=memory.body(loop, item.outer_size, inner=inner).peak_bytes,
        rows=min(rows, outer.rows),
        roofline_chunked_s=max(
            class_seconds(item, size, ceilings, compiled=compiled), 1e-9
        ),
    )


def loop_features(
    memory: MemoryModel,
    loop: Loop,
    chunk_size: int,
    ceilings: Ceilings,
    *,
    compiled: bool = False,
) -> Features:
    """The features of one occurrence of a region at a chunk size; ``compiled`` says whether its
    passes are."""
    graph = loop.graph
    size = min(chunk_size, loop.extent)
    last = graph.nodes[loop.region.anchor].output
    sliced = [source for source in loop.inputs if source.dim is not None]
    stride, run = _slicing(loop, size)
    chunked = loop_times(loop, size, ceilings, compiled=compiled)
    whole = loop_times(loop, loop.extent, ceilings)
    kernels = [node for node in loop.region.nodes if ALIAS not in graph.nodes[node].traits]
    return Features(
        chunk_size=size,
        extent=loop.extent,
        passes=loop.passes(size),
        nodes=len(loop.region.nodes),
        kernels=len(kernels),
        flops=whole.flops,
        moved_bytes=chunked.moved_bytes,
        pass_bytes=memory.body(loop, size).peak_bytes,
        body_bytes=memory.body(loop, loop.extent).peak_bytes,
        sliced_bytes=sum(graph.nodes[source.node].output.nbytes for source in sliced),
        whole_bytes=sum(
            graph.nodes[source.node].output.nbytes for source in loop.inputs if source.dim is None
        ),
        output_bytes=sum(graph.nodes[node].output.nbytes for node in loop.outputs),
        stride_bytes=stride,
        run_bytes=run,
        rows=size * loop.factors[-1],
        item_bytes=ITEM_BYTES[last.dtype],
        cache_bytes=ceilings.cache_bytes,
        balance=ceilings.matmul_flops_per_s / ceilings.copy_bytes_per_s,
        narrowest=chunked.narrowest,
        largest_bytes=chunked.largest_bytes,
        largest_whole_bytes=whole.largest_bytes,
        cached_share=chunked.cached_bytes / max(chunked.moved_bytes, 1.0),
        cached_whole_share=whole.cached_bytes / max(whole.moved_bytes, 1.0),
        launch_s=chunked.launch_s,
        product_s=chunked.product_s,
        memory_s=chunked.memory_s,
        compute_s=chunked.compute_s,
        store_s=chunked.store_s,
        launch_whole_s=whole.launch_s,
        product_whole_s=whole.product_s,
        roofline_whole_s=max(whole.total_s, 1e-9),
        roofline_chunked_s=max(chunked.total_s, 1e-9),
        compiled=int(compiled),
    )


def _slicing(loop: Loop, size: int) -> tuple[int, int]:
    """Of the largest sliced input: bytes between neighbours of the chunk dimension, and bytes of a
    contiguous piece of a slice; zeros where nothing is sliced."""
    stride = run = 0
    largest = -1
    for source in loop.inputs:
        tensor = loop.graph.nodes[source.node].output
        if source.dim is None or tensor.nbytes <= largest:
            continue
        largest = tensor.nbytes
        item = ITEM_BYTES[tensor.dtype]
        stride = tensor.strides[source.dim] * item * source.factor
        run = max(tensor.strides[source.dim] * source.factor * size, 1) * item
    return stride, run


def _log2(value: float) -> float:
    return math.log2(max(value, 2.0**-20))


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")
