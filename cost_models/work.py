"""How much work an op does: floating-point operations and bytes, from shapes alone.

Multiply-adds count two operations. Within a region every op's work is proportional to its slice,
but for the tensors that it takes whole, so that two numbers a node suffice for any chunk size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from cost_models.kinds import (
    PLAIN,
    VIEW,
    gathered_arguments,
    is_across,
    is_aliased,
    is_by_matrix,
    kind_of,
    row_of,
)
from search_space.graph import ALIAS, LEAVES, Graph, Path, SizedGraph, SizedNode
from search_space.regions import Loop, arguments


@dataclass(frozen=True, slots=True)
class Gathered:
    """A tensor that is read across the order it lies in.

    Attributes:
        source: the node.
        elements, nbytes: read over the whole extent.
        whole: whether every pass reads all of it; else what is read shrinks with the chunk.
        aliased: see :func:`cost_models.kinds.is_aliased`.
    """

    source: int
    elements: int
    nbytes: int
    whole: bool
    aliased: bool


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one node over the whole extent.

    Attributes:
        flops: floating-point operations.
        sliced_bytes: bytes read and written that shrink with the chunk.
        whole_bytes: bytes that every pass reads whole.
        launches: kernels started; 0 for views.
        matrix: rows and columns of a product's output matrix; None for other ops.
        cut: which of the two the chunk dimension cuts: 0, 1, or None for a batch.
        batch: how many such matrices there are.
        slowdown: how much longer its operations take than a large product's.
        kind: see :mod:`cost_models.kinds`.
        elements: of the output, or of the largest argument where that is larger.
        row: elements of a row, in kinds that go row by row; else 0.
        summed: length of a product's summed dimension; 0 for other ops.
        across: whether a product's second matrix lies by columns.
        gathered: what is read across the order it lies in.
        by_matrix: whether the matrices of a batch are copied and multiplied one by one.
        needed: part of the operations that are done, see :func:`_needed`.
        parts: of a kernel that several ops were fused into, their work; bytes are the kernel's own.
    """

    flops: float
    sliced_bytes: int
    whole_bytes: int
    launches: int
    matrix: tuple[int, int] | None = None
    cut: int | None = None
    batch: int = 1
    slowdown: float = 1.0
    kind: str = PLAIN
    elements: int = 0
    row: int = 0
    summed: int = 0
    across: bool = False
    gathered: tuple[Gathered, ...] = ()
    by_matrix: bool = False
    needed: float = 1.0
    parts: tuple[Work, ...] = ()

    def matrices(self, share: float) -> float:
        """How many output matrices a product has on a share of the extent."""
        return self.batch if self.cut is not None else max(self.batch * share, 1.0)

    def sides(self, share: float) -> tuple[float, float]:
        """Rows and columns of a product's output matrix on a share of the extent."""
        sides: list[float] = list(self.matrix or (1, 1))
        if self.cut is not None:
            sides[self.cut] *= share
        return max(sides[0], 1.0), max(sides[1], 1.0)

    def narrowest(self, share: float) -> float | None:
        """The smaller side of the output matrix on a share of the extent; None for other ops."""
        if self.matrix is None:
            return None
        return min(self.sides(share))

    def filled(self, share: float) -> float:
        """Elements that are computed for the output matrices on a share of the extent; 0 for other
        ops. A side of less than a tile is computed as one."""
        if self.matrix is None:
            return 0.0
        sides: list[float] = [*self.matrix, self.batch]
        sides[2 if self.cut is None else self.cut] *= share
        return max(sides[0], _LEAST_SIDE) * max(sides[1], _LEAST_SIDE) * sides[2]


_LEAST_SIDE = 32


def _columns(graph: SizedGraph, node: SizedNode) -> int:
    """The summed dimension of a product: the last of its first matrix argument."""
    place = 1 if node.op.startswith(("aten.addmm", "aten.baddbmm")) else 0
    return graph.nodes[node.refs[place][1]].output.shape[-1]


def _product(graph: SizedGraph, node: SizedNode) -> float:
    return 2.0 * node.output.numel * _columns(graph, node)


def _convolution(graph: SizedGraph, node: SizedNode) -> float:
    weight = graph.nodes[node.refs[1][1]].output.shape
    return 2.0 * node.output.numel * prod(weight[1:])


def _transposed(graph: SizedGraph, node: SizedNode) -> float:
    source, weight = (graph.nodes[node.refs[k][1]].output for k in (0, 1))
    return 2.0 * source.numel * prod(weight.shape[1:])


def _attention(graph: SizedGraph, node: SizedNode) -> float:
    query, key = (graph.nodes[node.refs[k][1]].output.shape for k in (0, 1))
    return 2.0 * (prod(query) * key[-2] + node.output.numel * key[-2])


def _any_convolution(graph: SizedGraph, node: SizedNode) -> float:
    flip = node.argument(6, "transposed", False)
    return _transposed(graph, node) if flip else _convolution(graph, node)


def _einsum(graph: SizedGraph, node: SizedNode) -> float:
    equation = str(node.args[0]).replace(" ", "")
    terms, _, _ = equation.partition("->")
    sizes: dict[str, int] = {}
    for (_, ref), term in zip(node.refs, terms.split(","), strict=False):
        shape = graph.nodes[ref].output.shape
        before, dots, after = term.partition("...")
        sizes.update(zip(before, shape, strict=False))
        sizes.update(zip(reversed(after), reversed(shape), strict=False))
        # what the dots stand for, counted from the right as broadcasting does
        middle = shape[len(before) : len(shape) - len(after)] if dots else ()
        for place, size in enumerate(reversed(middle)):
            sizes[f".{place}"] = max(size, sizes.get(f".{place}", 1))
    return 2.0 * prod(sizes.values())


_PRODUCTS: dict[str, Callable[[SizedGraph, SizedNode], float]] = {
    "aten.matmul": _product,
    "aten.bmm": _product,
    "aten.mm": _product,
    "aten.linear": _product,
    "aten.addmm": _product,
    "aten.baddbmm": _product,
    "aten.mv": _product,
    "aten.einsum": _einsum,
    "aten.conv1d": _convolution,
    "aten.conv2d": _convolution,
    "aten.conv3d": _convolution,
    "aten.convolution": _any_convolution,
    "aten.conv_transpose1d": _transposed,
    "aten.conv_transpose2d": _transposed,
    "aten.conv_transpose3d": _transposed,
    "aten.scaled_dot_product_attention": _attention,
}

# Operations per output element, where it is not 1.
_PER_ELEMENT = {
    "aten.softmax": 5.0, "aten._softmax": 5.0, "aten.log_softmax": 5.0, "aten.layer_norm": 6.0,
    "aten.native_layer_norm": 6.0, "aten.group_norm": 6.0, "aten.tanh": 10.0, "aten.gelu": 12.0,
    "aten.exp": 8.0, "aten.sigmoid": 10.0, "aten.silu": 10.0, "aten.pow": 4.0,
}  # fmt: skip


def flops(graph: SizedGraph, node: SizedNode) -> float:
    """Floating-point operations of a node on its whole output."""
    packet = node.op.rpartition(".")[0]
    if packet in _PRODUCTS:
        return _PRODUCTS[packet](graph, node)
    if ALIAS in node.traits or node.op == "getitem":
        return 0.0
    return _PER_ELEMENT.get(packet, 1.0) * node.output.numel


def product_dtype(graph: Graph) -> str:
    """The dtype in which most products of a graph are computed; float32 without any."""
    dtypes = Counter(
        node.outputs[0].dtype for node in graph.nodes if node.op.rpartition(".")[0] in _PRODUCTS
    )
    return dtypes.most_common(1)[0][0] if dtypes else "float32"


# Products whose leading dimensions are all rows; the others multiply matrices in batches.
_ROWS = frozenset({"aten.linear", "aten.addmm", "aten.mm"})


def _matrix(node: SizedNode) -> tuple[int, int] | None:
    """Rows and columns of the matrix that a product computes, or of each in its batch."""
    packet, shape = node.op.rpartition(".")[0], node.output.shape
    if packet not in _PRODUCTS or len(shape) < 2:
        return None
    if packet in _ROWS:
        return prod(shape[:-1]), shape[-1]
    if packet.startswith("aten.conv"):
        return prod(shape[2:]), shape[1]
    return shape[-2], shape[-1]


def _cut(node: SizedNode, dim: int) -> int | None:
    """Which side of that matrix a chunk dimension cuts; None where it cuts the batch."""
    packet, rank = node.op.rpartition(".")[0], len(node.output.shape)
    if packet not in _PRODUCTS or rank < 2:
        return None
    if packet in _ROWS:
        return 1 if dim == rank - 1 else 0
    if packet.startswith("aten.conv"):
        return None if dim == 0 else 1 if dim == 1 else 0
    return {rank - 2: 0, rank - 1: 1}.get(dim)


def _batch(node: SizedNode, matrix: tuple[int, int] | None) -> int:
    return 1 if matrix is None else max(node.output.numel // max(prod(matrix), 1), 1)


_HEAD_STEPS = {"float32": (64, 0.65), "bfloat16": (32, 0.5), "float16": (32, 0.5)}
"""Fused attention on a GPU computes heads in steps of so many columns, at this share of a large
product's rate. In float32 from profiles of an H200 with heads of 12 and of 32 columns
(:mod:`experiments.device_kernels`); in half precision the step is the kernel's, the share round."""

_SDPA = "aten.scaled_dot_product_attention."


def _needed(node: SizedNode) -> float:
    """The part of its operations that an op needs: causal attention leaves half of them out."""
    causal = node.op.startswith(_SDPA) and node.argument(5, "is_causal", False)
    return 0.5 if causal else 1.0


def _fused_slowdown(graph: SizedGraph, node: SizedNode) -> float | None:
    """How much longer fused attention's operations take on a GPU; None for all else."""
    if not (node.output.device.startswith("cuda") and node.op.startswith(_SDPA)):
        return None
    head = max(graph.nodes[node.refs[0][1]].output.shape[-1], 1)
    step, rate = _HEAD_STEPS.get(node.output.dtype, (1, 1.0))
    return _needed(node) * math.ceil(head / step) * step / head / rate


def _work(
    graph: SizedGraph,
    node: SizedNode,
    sliced: int,
    whole: int,
    cut: int | None = None,
    is_whole: Callable[[Path], bool] = lambda path: False,
) -> Work:
    """``is_whole`` tells the arguments that every pass takes whole."""
    done, kind = flops(graph, node), kind_of(node)
    gathered = []
    for path in gathered_arguments(graph, node):
        source = dict(node.refs)[path]
        tensor = graph.nodes[source].output
        size, whole_too = tensor.numel, is_whole(path)
        if not (whole_too or _is_product(node)):
            size = max(size, node.output.numel)  # (what is broadcast is read again)
        nbytes = size * tensor.nbytes // max(tensor.numel, 1)
        gathered.append(Gathered(source, size, nbytes, whole_too, is_aliased(node, tensor)))
    slowdown = _fused_slowdown(graph, node)
    matrix = _matrix(node) if slowdown is None else None
    largest = max((graph.nodes[ref].output.numel for _, ref in node.refs), default=0)
    return Work(
        done, sliced, whole, 1, matrix, cut if slowdown is None else None, _batch(node, matrix),
        slowdown=1.0 if slowdown is None else slowdown,
        kind=kind,
        elements=max(node.output.numel, largest),
        row=row_of(node, kind),
        summed=int(done / 2 / max(node.output.numel, 1)) if matrix else 0,
        across=is_across(graph, node),
        gathered=tuple(gathered),
        by_matrix=is_by_matrix(graph, node),
        needed=_needed(node),
    )  # fmt: skip


def _is_product(node: SizedNode) -> bool:
    return node.op.rpartition(".")[0] in _PRODUCTS


_VIEW = Work(0.0, 0, 0, 0, kind=VIEW)


def node_work(graph: SizedGraph, node: SizedNode) -> Work:
    """A node's work when it runs whole."""
    if node.kind in LEAVES or node.op == "getitem":
        return Work(0.0, 0, 0, 0)
    if ALIAS in node.traits:
        return _VIEW
    read = sum(graph.nodes[ref].output.nbytes for _, ref in node.refs)
    written = sum(t.nbytes for t in node.outputs)
    return _work(graph, node, read + written, 0)


def loop_work(loop: Loop) -> tuple[Work, ...]:
    """The work of each of a region's nodes, split by what shrinks with the chunk."""
    found: tuple[Work, ...] | None = loop.kept.get(loop_work)
    if found is None:
        found = loop.kept[loop_work] = _loop_work(loop)
    return found


def _loop_work(loop: Loop) -> tuple[Work, ...]:
    graph = loop.graph
    members = set(loop.region.nodes)
    found = []
    for place, index in enumerate(loop.region.nodes):
        node = graph.nodes[index]
        if ALIAS in node.traits or node.op == "getitem":
            found.append(node_work(graph, node))
            continue
        slices = dict(loop.flows[place].slices)
        sliced = sum(t.nbytes for t in node.outputs)
        whole, kept = 0, set[Path]()
        for path, ref in arguments(graph, index, loop.flows[place]):
            size = graph.nodes[ref].output.nbytes
            if ref in members or path in slices:
                sliced += size
            else:
                whole += size
                kept.add(path)
        cut = _cut(node, loop.region.dims[place])
        found.append(_work(graph, node, sliced, whole, cut, kept.__contains__))
    return tuple(found)
