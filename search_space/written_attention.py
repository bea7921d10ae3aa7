"""Attention that a model writes out as products and a softmax, found in captured rows.

    softmax(cast(scale * (query @ key.T)) + bias + ..., dim=-1) @ value

with casts, copies, evaluation-mode dropout and regroupings of the batch dimensions in between is
what ``scaled_dot_product_attention`` computes without ever storing the scores. :func:`find_written`
names the parts; :mod:`search_space.fuse_attention` puts the fused op in their place. Nothing is
taken for attention that some other reader would miss: the scores and the weights have one user
each, and none of them is an output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from search_space.capture_masks import LOWEST
from search_space.graph import OP, Argument, Node, Ref, TensorMeta, TorchConstant, walk_arguments
from search_space.sizes import Size

Rows = tuple[Node, ...]

VIEWS = frozenset({
    "aten.view", "aten._unsafe_view", "aten.reshape", "aten.unsqueeze", "aten.squeeze",
    "aten.expand",
})  # fmt: skip
"""Ops that keep the elements in row-major order (``expand`` only where it repeats nothing)."""

_COPIES = frozenset({"aten.clone", "aten.contiguous", "aten.alias", "aten.detach"})
_CASTS = frozenset({"aten._to_copy", "aten.to"})
_SOFTMAX = frozenset({"aten.softmax", "aten._softmax", "aten._safe_softmax"})
_PRODUCTS = frozenset({"aten.matmul", "aten.bmm"})


@dataclass(frozen=True, slots=True)
class Bias:
    """What is added to the scores. With ``fill``, the node is a condition: scores where it holds
    (``keep``) or does not hold are replaced by that number instead."""

    node: int
    fill: float | None = None
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """One attention, written out.

    Attributes:
        softmax: the node that makes the weights; its batch dimensions are those of ``batch``.
        query: rows ``(..., queries, features)``.
        key: columns ``(..., features, keys)``: the second argument of the first product.
        value: rows ``(..., keys, width)``.
        scale: the factor of the scores.
        biases: added to the scaled scores, in shapes that broadcast against the softmax's.
        weighted: the last product.
        batch: the softmax's leading sizes.
    """

    softmax: int
    query: int
    key: int
    value: int
    scale: float
    biases: tuple[Bias, ...]
    weighted: int
    batch: tuple[Size, ...]


@dataclass
class _Scores:
    """What the walk up from a softmax has gathered."""

    scale: float = 1.0
    biases: list[Bias] = field(default_factory=list)
    scaled: bool = False
    regrouped: bool = False


def find_written(rows: Rows, outputs: tuple[Argument, ...]) -> list[Written]:
    """All attention written out in these rows, by softmax."""
    readers = Readers(rows, outputs)
    found = []
    for node in rows:
        if _packet(node) in _SOFTMAX and node.kind == OP:
            one = _written(rows, readers, node)
            if one is not None:
                found.append(one)
    return found


class Readers:
    """Who reads each node."""

    def __init__(self, rows: Rows, outputs: tuple[Argument, ...]) -> None:
        self._rows = rows
        self._by: list[list[int]] = [[] for _ in rows]
        for node in rows:
            for _, value in walk_arguments(node.args, node.kwargs):
                if isinstance(value, Ref):
                    self._by[value.index].append(node.index)
        self._given = {ref.index for _, ref in walk_arguments(outputs) if isinstance(ref, Ref)}

    def only(self, node: int) -> Node | None:
        """The one node that reads this one, once; None where others do or the model returns it."""
        if node in self._given or len(self._by[node]) != 1:
            return None
        return self._rows[self._by[node][0]]


def _written(rows: Rows, readers: Readers, softmax: Node) -> Written | None:
    shape = softmax.outputs[0].shape
    dim = softmax.args[1] if len(softmax.args) > 1 else dict(softmax.kwargs).get("dim")
    if dim not in (-1, len(shape) - 1) or len(shape) < 3:
        return None
    weighted = _weighted(rows, readers, softmax)
    if weighted is None:
        return None
    product, value = weighted
    gathered = _Scores()
    scores = _first_product(rows, readers, softmax.args[0], gathered)
    if scores is None:
        return None
    place = 1 if _packet(scores) == "aten.baddbmm" else 0
    query, key = scores.args[place], scores.args[place + 1]
    if not isinstance(query, Ref) or not isinstance(key, Ref) or query == key:
        return None
    made = Written(
        softmax.index, query.index, key.index, value, gathered.scale,
        tuple(reversed(gathered.biases)), product.index, shape[:-2],
    )  # fmt: skip
    return made if _fits(rows, made, scores) else None


def _fits(rows: Rows, one: Written, scores: Node) -> bool:
    """Whether all parts have one dtype and each product's arguments the same batches."""
    query, key, value, out = (rows[i].outputs[0] for i in (one.query, one.key, one.value,
                                                           one.weighted))  # fmt: skip
    weights = rows[one.softmax].outputs[0].shape
    alike = query.dtype == key.dtype == value.dtype == out.dtype
    batches = query.shape[:-2] == key.shape[:-2] == scores.outputs[0].shape[:-2]
    batches = batches and value.shape[:-2] == out.shape[:-2]
    sizes = (query.shape[-2], key.shape[-1]) == weights[-2:]
    sizes = sizes and value.shape[-2] == weights[-1] and out.shape[-2] == weights[-2]
    # every fused kernel of the CPU wants values as wide as keys
    return alike and batches and sizes and value.shape[-1] == query.shape[-1]


def _weighted(rows: Rows, readers: Readers, softmax: Node) -> tuple[Node, int] | None:
    """The product of the weights with the values, and the values."""
    node = softmax
    while (user := readers.only(node.index)) is not None:
        if _packet(user) in _PRODUCTS and user.args[0] == Ref(node.index):
            value = user.args[1]
            return (user, value.index) if isinstance(value, Ref) else None
        if not (_passes(user, rows) or _keeps_matrix(user, rows)):
            return None
        node = user
    return None


def _passes(node: Node, rows: Rows) -> bool:
    """Whether a node hands its first argument's numbers on, but for their precision."""
    packet = _packet(node)
    if packet == "aten.dropout":
        given = node.args[2] if len(node.args) > 2 else dict(node.kwargs).get("train")
        return given is False
    if packet in _CASTS:
        return all(
            _is_float(meta) for meta in (node.outputs[0], rows[_first(node)].outputs[0])
        )
    return packet in _COPIES


def _is_float(meta: TensorMeta) -> bool:
    return meta.dtype in ("float64", "float32", "bfloat16", "float16")


def _keeps_matrix(node: Node, rows: Rows) -> bool:
    """Whether a view only regroups leading dimensions, so that each matrix stays as it is."""
    if _packet(node) not in VIEWS or not isinstance(node.args[0], Ref):
        return False
    before, after = rows[node.args[0].index].outputs[0].shape, node.outputs[0].shape
    if len(before) < 2 or len(after) < 2 or before[-2:] != after[-2:]:
        return False
    return _packet(node) != "aten.expand" or before == after


def _first_product(
    rows: Rows, readers: Readers, start: Argument, gathered: _Scores
) -> Node | None:
    """The product that a softmax's argument comes from, and what was done to it on the way."""
    while isinstance(start, Ref):
        node = rows[start.index]
        if readers.only(node.index) is None or node.kind != OP:
            return None
        packet = _packet(node)
        if packet in _PRODUCTS:
            return node
        if packet == "aten.baddbmm":
            return node if _take_added(node, gathered) else None
        if _passes(node, rows):
            start = node.args[0]
        elif _keeps_matrix(node, rows):
            gathered.regrouped = True
            start = node.args[0]
        else:
            step = _STEPS.get(packet)
            if step is None:
                return None
            following = step(node, rows, readers, gathered)
            if following is None:
                return None
            start = following
    return None


def _take_added(node: Node, gathered: _Scores) -> bool:
    """``baddbmm(bias, query, key, beta, alpha)``; without beta the bias is never read."""
    options = dict(node.kwargs)
    beta, alpha = options.get("beta", 1), options.get("alpha", 1)
    if not isinstance(alpha, (int, float)):
        return False
    if beta != 0:
        bias = node.args[0]
        if beta != 1 or not isinstance(bias, Ref) or not _may_add(gathered):
            return False
        gathered.biases.append(Bias(bias.index))
    gathered.scale *= alpha
    return True


def _may_add(gathered: _Scores) -> bool:
    """A bias that is scaled afterwards, or added in another grouping, is left alone."""
    return not gathered.scaled and not gathered.regrouped


Step = Callable[[Node, Rows, Readers, _Scores], Argument]


def _scaled(node: Node, rows: Rows, readers: Readers, gathered: _Scores) -> Argument:
    factor = node.args[1]
    if node.op.rpartition(".")[2] not in ("Tensor", "Scalar"):
        return None
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or factor == 0:
        return None
    gathered.scale *= 1 / factor if _packet(node) == "aten.div" else factor
    gathered.scaled = True
    return node.args[0]


def _added(node: Node, rows: Rows, readers: Readers, gathered: _Scores) -> Argument:
    left, right = node.args[:2]
    if dict(node.kwargs).get("alpha", 1) != 1 or not _may_add(gathered):
        return None
    if not isinstance(left, Ref) or not isinstance(right, Ref) or left == right:
        return None
    for scores, bias in ((left, right), (right, left)):
        if rows[scores.index].outputs[0].shape != node.outputs[0].shape:
            continue
        if _leads_to_product(rows, readers, scores):
            gathered.biases.append(Bias(bias.index))
            return scores
    return None


def _leads_to_product(rows: Rows, readers: Readers, start: Ref) -> bool:
    return _first_product(rows, readers, start, _Scores()) is not None


def _filled(node: Node, rows: Rows, readers: Readers, gathered: _Scores) -> Argument:
    """``masked_fill(scores, condition, number)``."""
    condition, fill = node.args[1:3]
    return _fill(node, node.args[0], condition, _number(fill, rows), False, gathered)


def _chosen(node: Node, rows: Rows, readers: Readers, gathered: _Scores) -> Argument:
    """``where(condition, scores, number)``, or the other way round."""
    condition, inside, outside = node.args[:3]
    for scores, fill, keep in ((inside, outside, True), (outside, inside, False)):
        number = _number(fill, rows)
        if number is not None and isinstance(scores, Ref):
            return _fill(node, scores, condition, number, keep, gathered)
    return None


def _fill(
    node: Node,
    scores: Argument,
    condition: Argument,
    fill: float | None,
    keep: bool,
    gathered: _Scores,
) -> Argument:
    # only numbers so low that no score counts beside them: adding is then the same as replacing
    lowest = LOWEST.get(node.outputs[0].dtype)
    if fill is None or lowest is None or fill > lowest or not isinstance(condition, Ref):
        return None
    if not _may_add(gathered):
        return None
    gathered.biases.append(Bias(condition.index, fill, keep))
    return scores


def _number(value: Argument, rows: Rows) -> float | None:
    """A plain number, or what a tensor of one constant element holds."""
    if isinstance(value, Ref):
        node = rows[value.index]
        packet = _packet(node)
        if node.outputs[0].shape not in ((), (1,)):
            return None
        if packet == "aten.scalar_tensor":
            value = node.args[0]
        elif packet == "aten.full":
            value = node.args[1]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return None


_STEPS: Mapping[str, Step] = {
    "aten.mul": _scaled,
    "aten.div": _scaled,
    "aten.add": _added,
    "aten.masked_fill": _filled,
    "aten.where": _chosen,
}
"""What may happen to scores before the softmax: each gives the scores that it was done to."""


def _packet(node: Node) -> str:
    return node.op.rpartition(".")[0]


def _first(node: Node) -> int:
    first = node.args[0]
    assert isinstance(first, Ref)
    return first.index


def matrix_source(rows: Sequence[Node], index: int) -> tuple[int, ...]:
    """A node and what it hands on unchanged but for the grouping of its leading dimensions."""
    found = [index]
    while True:
        node = rows[found[-1]]
        plain = node.kind == OP and bool(node.args) and isinstance(node.args[0], Ref)
        if not plain or not (_packet(node) in _COPIES or _keeps_matrix(node, tuple(rows))):
            return tuple(found)
        found.append(_first(node))


def is_contiguous_copy(node: Node) -> bool:
    """Whether a node copies its argument into row-major order."""
    if _packet(node) == "aten.contiguous":
        return True
    memory_format = dict(node.kwargs).get("memory_format")
    return _packet(node) == "aten.clone" and memory_format == TorchConstant(
        "memory_format", "contiguous_format"
    )
