"""Attention as the model asked for it, restored after tracing.

Traced models spell out what eager models leave to the kernel: a causal mask of L x S booleans, a
mask that hides nothing, keys and values copied once per group of query heads. Each costs memory
that the eager model never takes, and the masks cost time. The passes here put the short form back
where the long one is proven to be the same for all sizes (:mod:`search_space.mask_values`), and
leave everything else alone: windows, padding, offsets, prefixes, biases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from search_space.graph import Argument, Node, Ref, TensorMeta
from search_space.mask_forms import Either, Holds, Linear, Value
from search_space.mask_values import mask_values

Rows = tuple[Node, ...]

SDPA = "aten.scaled_dot_product_attention.default"

LOWEST = {
    "float64": -1.7976931348623157e308, "float32": -3.4028234663852886e38,
    "bfloat16": -3.3895313892515355e38, "float16": -65504.0,
}  # fmt: skip
"""Per dtype the lowest finite number: added to a score, it leaves no weight beside others."""


def restore_mask_flags(
    rows: Rows, outputs: tuple[Argument, ...]
) -> tuple[Rows, tuple[Argument, ...]]:
    """Give attention ``is_causal`` instead of a causal mask, and nothing for a mask that hides
    nothing.

    A causal mask is only replaced where queries and keys are equally many, for all sizes. In each
    of its rows a key remains, so that large negative numbers and minus infinity mean the same.
    """
    masks = {
        node.index: mask.index
        for node in rows
        if node.op == SDPA and isinstance(mask := _argument(node, 3, "attn_mask"), Ref)
    }
    values = mask_values(rows, masks.values()) if masks else {}
    changed = []
    for node in rows:
        mask = masks.get(node.index)
        value = None if mask is None else values.get(mask)
        flag = None
        if mask is not None and value is not None:
            flag = _flag_instead(node, rows, rows[mask].outputs[0], value)
        changed.append(node if flag is None else _with_flag(node, flag))
    return tuple(changed), outputs


def _flag_instead(node: Node, rows: Rows, mask: TensorMeta, value: Value) -> bool | None:
    """The causal flag that says what the mask says; None where none does."""
    if _argument(node, 5, "is_causal", False) is not False:
        return None
    query, key = (_tensor(node, place, rows) for place in (0, 1))
    if query is None or key is None or node.outputs[0].shape[:-1] != query.shape[:-1]:
        return None  # the mask adds batches
    if len(query.shape) == 4 and len(mask.shape) not in (2, 4):
        return None  # no fused kernel takes this mask: without it, the output's layout would change
    hidden = _visible(value, mask.dtype)
    if hidden is None:
        return None
    if hidden.is_true:
        return False
    if len(mask.shape) < 2 or query.shape[-2] != key.shape[-2]:
        return None
    if tuple(mask.shape[-2:]) != (query.shape[-2], key.shape[-2]):
        return None
    row_after_column = Linear((*(0,) * (len(mask.shape) - 2), 1, -1), 0)
    return True if hidden.forms == {row_after_column} else None


def _visible(value: Value, dtype: str) -> Holds | None:
    """Which keys a mask leaves visible; None where it does more than hide."""
    if isinstance(value, Holds):
        return value if dtype == "bool" else None
    if dtype not in LOWEST:
        return None
    if isinstance(value, Linear):
        nothing = value.is_constant and value.constant == 0
        return Holds(len(value.weights), frozenset()) if nothing else None
    assert isinstance(value, Either)
    if value.inside == 0 and value.outside <= LOWEST[dtype]:
        return value.where
    if value.outside == 0 and value.inside <= LOWEST[dtype]:
        return value.where.negated()
    return None


def is_visible_everywhere(value: Value, dtype: str) -> bool:
    """Whether a mask of this value and dtype hides nothing."""
    visible = _visible(value, dtype)
    return visible is not None and visible.is_true


def _with_flag(node: Node, causal: bool) -> Node:
    """The node without its mask, with this causal flag."""
    dropout = _argument(node, 4, "dropout_p", 0.0)
    named = {"attn_mask", "dropout_p", "is_causal"}
    kwargs = tuple((name, value) for name, value in node.kwargs if name not in named)
    return dataclasses.replace(node, args=(*node.args[:3], None, dropout, causal), kwargs=kwargs)


def restore_grouped_heads(
    rows: Rows, outputs: tuple[Argument, ...]
) -> tuple[Rows, tuple[Argument, ...]]:
    """Let CPU attention read grouped keys and values in place, instead of copies per query head.

    Keys ``(B, G, S, E)`` are repeated by ``unsqueeze(2)``, ``expand`` and a ``reshape`` to
    ``(B, G * n, S, E)``, which is what ``enable_gqa`` means. The fused kernel on CPU computes the
    same numbers from either; on other devices it depends on the dtype whether any fused kernel
    knows groups, so that copies stay there. A single group is repeated without a copy.
    """
    changed = list(rows)
    for place, node in enumerate(rows):
        if node.op != SDPA or len(node.args) < 3:
            continue
        if _argument(node, 7, "enable_gqa", False) is not False:
            continue
        query, *sources = (_tensor(node, k, rows) for k in range(3))
        found = [_grouped(node.args[k], rows) for k in (1, 2)]
        key, value = found
        if query is None or key is None or value is None:
            continue
        heads, groups = query.shape[1], rows[key].outputs[0].shape[1]
        if not isinstance(heads, int) or groups != rows[value].outputs[0].shape[1]:
            continue
        metas = [query, rows[key].outputs[0], rows[value].outputs[0]]
        if not _fused_on_cpu(metas, _mask(node, rows)) or groups in (1, heads):
            continue
        if any(source is None or source.shape[1] != heads for source in sources):
            continue
        args = (node.args[0], Ref(key), Ref(value), *node.args[3:])
        kwargs = tuple((name, v) for name, v in node.kwargs if name != "enable_gqa")
        changed[place] = dataclasses.replace(
            node, args=args, kwargs=(*kwargs, ("enable_gqa", True))
        )
    return tuple(changed), outputs


def _grouped(value: Argument, rows: Sequence[Node]) -> int | None:
    """The node that holds each group's keys once, where ``value`` repeats them per head."""
    if not isinstance(value, Ref):
        return None
    folded = rows[value.index]
    copied = _source(folded, rows, "aten.reshape.default", "aten.view.default",
                     "aten._unsafe_view.default")  # fmt: skip
    while copied is not None and copied.op in ("aten.clone.default", "aten.contiguous.default"):
        copied = _source(copied, rows, copied.op)
    added = None if copied is None else _source(copied, rows, "aten.expand.default")
    base = None if added is None else _unfolded(added, rows)
    if copied is None or added is None or base is None:
        return None
    source, many, out = base.outputs[0], copied.outputs[0].shape, folded.outputs[0].shape
    if len(source.shape) != 4 or len(many) != 5 or len(out) != 4:
        return None
    batch, groups, length, features = source.shape
    times = many[2]
    if not isinstance(groups, int) or not isinstance(times, int):
        return None
    alike = added.outputs[0].shape == (batch, groups, 1, length, features)
    alike = alike and many == (batch, groups, times, length, features)
    return base.index if alike and out == (batch, groups * times, length, features) else None


def _unfolded(node: Node, rows: Sequence[Node]) -> Node | None:
    """What a chain of ``unsqueeze`` and slices that take everything starts from."""
    while (source := _source(node, rows, "aten.slice.Tensor")) is not None:
        whole = source.outputs[0].shape == node.outputs[0].shape
        if not whole or _argument(node, 4, "step", 1) != 1:
            return None
        node = source
    base = _source(node, rows, "aten.unsqueeze.default")
    dim = _argument(node, 1, "dim")
    while base is not None and (source := _source(base, rows, "aten.slice.Tensor")) is not None:
        if source.outputs[0].shape != base.outputs[0].shape or _argument(base, 4, "step", 1) != 1:
            break
        base = source
    return base if dim in (2, -3) else None


def _source(node: Node, rows: Sequence[Node], *ops: str) -> Node | None:
    """What the node's first argument is, where the node is one of these ops."""
    first = node.args[0] if node.args else None
    return rows[first.index] if node.op in ops and isinstance(first, Ref) else None


def _fused_on_cpu(tensors: Sequence[TensorMeta], mask: TensorMeta | None) -> bool:
    """Whether CPU attention takes these query, key and value in one fused kernel."""
    if any(len(t.shape) != 4 or t.strides[-1] != 1 or t.device != "cpu" for t in tensors):
        return False
    if mask is not None and len(mask.shape) not in (2, 4):
        return False
    query, key, value = tensors
    alike = query.shape[0] == key.shape[0] == value.shape[0]
    return alike and query.shape[-1] == key.shape[-1] == value.shape[-1]


def _argument(node: Node, position: int, name: str, default: Argument = None) -> Argument:
    if position < len(node.args):
        return node.args[position]
    return dict(node.kwargs).get(name, default)


def _tensor(node: Node, position: int, rows: Sequence[Node]) -> TensorMeta | None:
    value = node.args[position] if position < len(node.args) else None
    return rows[value.index].outputs[0] if isinstance(value, Ref) else None


def _mask(node: Node, rows: Sequence[Node]) -> TensorMeta | None:
    mask = _argument(node, 3, "attn_mask")
    return rows[mask.index].outputs[0] if isinstance(mask, Ref) else None
