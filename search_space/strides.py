"""The strides that tensors have when a graph runs, where the trace tells others.

The exporter works strides out from sizes. Where a batch of one is viewed anew, the framework gives
its single position another stride than the trace says, and a convolution that reads the view takes
it for row-major, not for channels-last: its output lies otherwise, and so does what follows. By its
trace, a SegFormer took 22 % more than predicted, and an image decoder 18 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from search_space.graph import ALIAS, POINTWISE, Graph, SizedGraph, SizedNode, Tensor
from search_space.layout import (
    Layout,
    contiguous,
    dense_like,
    elementwise_layout,
    is_channels_last,
    is_dense,
    view_layout,
)

_FORMAT_KEPT = frozenset({
    "aten.conv2d", "aten.conv3d", "aten.conv_transpose2d", "aten.conv_transpose3d",
    "aten.group_norm", "aten.batch_norm", "aten.instance_norm",
    "aten.upsample_nearest2d", "aten.upsample_nearest3d", "aten.upsample_bilinear2d",
    "aten.upsample_bicubic2d", "aten._upsample_nearest_exact2d",
    "aten.avg_pool2d", "aten.avg_pool3d", "aten.max_pool2d", "aten.max_pool3d",
    "aten.adaptive_avg_pool2d", "aten.cat", "aten.pixel_shuffle", "aten.pixel_unshuffle",
})  # fmt: skip
"""Ops that give channels-last tensors where they are given such, and row-major ones elsewhere
(``suggest_memory_format``)."""


_COPIES = frozenset({"aten.clone", "aten._to_copy", "aten.to"})
"""Ops that keep the strides of a dense argument as they are, also those of single positions."""

_TWO_OPERANDS = frozenset({
    "aten.add", "aten.sub", "aten.rsub", "aten.mul", "aten.div", "aten.remainder", "aten.fmod",
    "aten.floor_divide", "aten.eq", "aten.ne", "aten.lt", "aten.le", "aten.gt", "aten.ge",
    "aten.bitwise_and", "aten.bitwise_or", "aten.bitwise_xor", "aten.maximum", "aten.minimum",
})  # fmt: skip
"""Ops that take a number for a second tensor, one without dimensions."""

_DENSE = frozenset({
    "aten.copy", "aten.slice_scatter", "aten.select_scatter", "aten.diagonal_scatter",
})  # fmt: skip
"""Ops that give dense tensors, where torch's own leave gaps as in their first argument
(:mod:`search_space.scatters`)."""


def sized_graph(graph: Graph, bindings: Mapping[str, int]) -> SizedGraph:
    """The graph with every symbol replaced by its value, and with the strides that come of it.

    Raises:
        UnsupportedSizes: a size cannot be told from these symbols.
    """
    return with_real_strides(graph.at(bindings))


def with_real_strides(graph: SizedGraph) -> SizedGraph:
    """The graph with the strides of single positions, and what depends on them, as at run time."""
    real: dict[int, Layout] = {}
    for node in graph.nodes:
        if not node.refs or node.several:
            continue
        traced = _layout(node.output)
        found = _real(graph, node, traced, real)
        if found is not None and found != traced:
            real[node.index] = found
    if not real:
        return graph
    nodes = tuple(
        replace(node, outputs=(replace(node.output, strides=real[node.index].strides),))
        if node.index in real
        else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


def _real(
    graph: SizedGraph, node: SizedNode, traced: Layout, real: Mapping[int, Layout]
) -> Layout | None:
    """How a node's tensor lies, given how those before it do; None where the trace is right."""
    given = [real.get(ref, _layout(graph.nodes[ref].output)) for _, ref in node.refs]
    if ALIAS in node.traits:
        return view_layout(node.op, given[0], node.args, traced.shape)
    if _is_plain_copy(node) and is_dense(given[0]):
        return given[0]  # of single positions too, which the trace gives other strides
    op = node.op.rpartition(".")[0]
    if op in _DENSE:
        return dense_like(traced.shape, given[0].strides)
    if not any(ref in real for _, ref in node.refs):
        return None
    if POINTWISE in node.traits:
        seen = [_layout(graph.nodes[ref].output) for _, ref in node.refs]
        if not _alike(_elementwise(node, seen), traced):
            return None  # a kernel with an order of its own, which does not hang on its arguments'
        return _elementwise(node, given)
    if op in _FORMAT_KEPT and is_channels_last(traced):
        # one such argument (an image or its weight) is enough, but where several are joined
        enough = all if op == "aten.cat" else any
        return None if enough(map(is_channels_last, given)) else contiguous(traced.shape)
    return None


def _is_plain_copy(node: SizedNode) -> bool:
    """Whether a copy, or a cast, lies as its argument does."""
    asked = any(name == "memory_format" for name, _ in node.kwargs)
    return node.op.rpartition(".")[0] in _COPIES and not asked


def _elementwise(node: SizedNode, given: Sequence[Layout]) -> Layout | None:
    """How the output of an elementwise op lies; None where that does not hang on its arguments."""
    op = node.op.rpartition(".")[0]
    if any(name == "memory_format" for name, _ in node.kwargs):
        return None  # lies as it is asked to
    if op in _TWO_OPERANDS and len(given) == 1:
        given = (*given, Layout((), ()))
    return elementwise_layout(given)


def _alike(one: Layout | None, other: Layout) -> bool:
    """Whether two layouts of a shape are the same but for strides of single positions."""
    if one is None:
        return False
    steps = zip(other.shape, one.strides, other.strides, strict=True)
    return all(size == 1 or mine == theirs for size, mine, theirs in steps)


def _layout(tensor: Tensor) -> Layout:
    return Layout(tensor.shape, tensor.strides)
